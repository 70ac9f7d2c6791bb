package workspace

import (
	"cmp"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
)

// conversationsHistory returns a conversation's messages, the newest first: those of
// threads and ephemeral ones are not in it. An app reads only where it is a member.
// Metadata is left out unless all of it is asked for.
// https://docs.slack.dev/reference/methods/conversations.history
func (w *Workspace) conversationsHistory(r *request) (object, *apiError) {
	if r.str("channel") == "" {
		return nil, missing("channel")
	}
	limit, err := strconv.Atoi(cmp.Or(r.str("limit"), "100"))
	if err != nil || limit < 1 || limit > 999 {
		return nil, refuse("invalid_limit")
	}
	oldest, ok := micros(r.str("oldest"))
	if !ok {
		return nil, refuse("invalid_ts_oldest")
	}
	latest, ok := micros(r.str("latest"))
	if !ok {
		return nil, refuse("invalid_ts_latest")
	}
	var before int64 // where the page before ended
	if c := r.str("cursor"); c != "" {
		b, err := base64.StdEncoding.DecodeString(c)
		ts, found := strings.CutPrefix(string(b), "next_ts:")
		if before, ok = micros(ts); err != nil || !found || !ok || before == 0 {
			return nil, refuse("invalid_cursor")
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.channels[r.str("channel")]
	if c == nil || (c.Private || c.IM) && !c.HasApp {
		return nil, refuse("channel_not_found")
	}
	if needed := scopeFor(c, "history"); !r.has(needed) {
		return nil, &apiError{code: "missing_scope", needed: needed}
	}
	if !c.HasApp {
		return nil, refuse("not_in_channel")
	}
	inclusive := r.boolean("inclusive")
	page, next := []object{}, ""
	for _, m := range slices.Backward(w.messages[c.ID]) {
		at, _ := micros(m.TS)
		switch {
		case m.Deleted, m.Ephemeral, m.ThreadTS != "" && !m.Broadcast:
			continue
		case oldest != 0 && (at < oldest || at == oldest && !inclusive):
			continue
		case latest != 0 && (at > latest || at == latest && !inclusive):
			continue
		case before != 0 && at >= before:
			continue
		}
		if len(page) == limit {
			last, _ := page[limit-1]["ts"].(string)
			next = base64.StdEncoding.EncodeToString([]byte("next_ts:" + last))
			break
		}
		o := w.messageJSON(m)
		if m.Metadata != nil && r.boolean("include_all_metadata") {
			o["metadata"] = m.Metadata
		}
		page = append(page, o)
	}
	result := object{"messages": page, "has_more": next != "", "pin_count": 0}
	if next != "" {
		result["response_metadata"] = object{"next_cursor": next}
	}
	return result, nil
}

// micros reads a timestamp in microseconds: 0 for none.
func micros(ts string) (int64, bool) {
	if ts == "" {
		return 0, true
	}
	seconds, fraction, _ := strings.Cut(ts, ".")
	s, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || s < 0 || len(fraction) > 6 {
		return 0, false
	}
	f, err := strconv.ParseInt(fraction+strings.Repeat("0", 6-len(fraction)), 10, 64)
	return s*1e6 + f, err == nil && f >= 0
}

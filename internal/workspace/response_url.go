package workspace

import (
	"encoding/json"
	"net/http"
	"time"
)

// A response URL takes five messages in thirty minutes.
// https://docs.slack.dev/interactivity/handling-user-interaction#message_responses
const (
	responseURLUses = 5
	responseURLLife = 30 * time.Minute
)

// responseURL is where the app answers one command or click.
type responseURL struct {
	user    string
	channel string
	source  *Message // the message that was clicked; nil for a command
	made    time.Time
	uses    int
}

// newResponseURL makes a response URL. Kind is "commands" or "actions". w.mu is
// held.
func (w *Workspace) newResponseURL(kind, user, channel string, source *Message) string {
	p := "/" + kind + "/" + w.opts.TeamID + "/" + w.nextID("1") + "/" + secret()
	w.responseURLs[p] = &responseURL{user: user, channel: channel, source: source, made: w.clock()}
	return w.base + p
}

// reply is what an app sends to a response URL, or as the acknowledgement of a
// command. Other fields are ignored, as client libraries send whole messages.
// https://docs.slack.dev/interactivity/handling-user-interaction#message_responses
type reply struct {
	Text            string          `json:"text"`
	Blocks          json.RawMessage `json:"blocks"`
	Attachments     json.RawMessage `json:"attachments"`
	ResponseType    string          `json:"response_type"` // "ephemeral", the default, or "in_channel"
	ReplaceOriginal flag            `json:"replace_original"`
	DeleteOriginal  flag            `json:"delete_original"`
	ThreadTS        string          `json:"thread_ts"`
}

// flag is a boolean that Slack also takes as a string.
type flag bool

func (f *flag) UnmarshalJSON(b []byte) error {
	s := string(b)
	*f = s == "true" || s == `"true"`
	return nil
}

// serveResponseURL answers a POST to a response URL. A command's answers "ok" and
// plain text errors, a click's JSON. A URL that is used up answers 404 used_url,
// one that is too old 404 expired_url, and invalid content 400 (observed, not
// documented).
func (w *Workspace) serveResponseURL(r *http.Request, body []byte, _ *Call) answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.responseURLs[r.URL.Path]
	refused := func(status int, code string) answer {
		a := textAnswer(status, code)
		if u != nil && u.source != nil {
			a = jsonAnswer(object{"ok": false, "error": code})
			a.status = status
		}
		a.err = code
		return a
	}
	switch {
	case u == nil:
		return refused(http.StatusNotFound, "no_service")
	case w.clock().Sub(u.made) > responseURLLife:
		return refused(http.StatusNotFound, "expired_url")
	case u.uses >= responseURLUses:
		return refused(http.StatusNotFound, "used_url")
	}
	var rep reply
	if err := json.Unmarshal(body, &rep); err != nil {
		return refused(http.StatusBadRequest, "invalid_payload")
	}
	if refusal := w.reply(u, rep); refusal != nil {
		return refused(http.StatusBadRequest, refusal.code)
	}
	u.uses++
	if u.source != nil {
		return jsonAnswer(object{"ok": true})
	}
	return textAnswer(http.StatusOK, "ok")
}

// reply does what an app asked for with a response URL. To replace or delete
// takes a message that was clicked; for a command there is none, and a
// replacement is posted as a new message (not documented). w.mu is held.
func (w *Workspace) reply(u *responseURL, rep reply) *apiError {
	source := u.source
	if bool(rep.DeleteOriginal) && source != nil {
		if !source.Deleted {
			w.remove(source)
		}
		return nil
	}
	if rep.ResponseType != "" && rep.ResponseType != "ephemeral" && rep.ResponseType != "in_channel" {
		return refuse("invalid_response_type")
	}
	body, refusal := w.parseContent(rep.Text, rep.Text != "", rep.Blocks, rep.Attachments)
	if refusal != nil {
		return refusal
	}
	if body.empty() {
		return refuse("no_text")
	}
	if bool(rep.ReplaceOriginal) && source != nil && !source.Deleted {
		// A replacement is whole: blocks that are not sent are gone.
		body.hasText, body.hasAttached = true, true
		w.edit(source, body)
		return nil
	}
	c := w.channels[u.channel]
	if c == nil || c.Archived {
		return refuse("is_archived")
	}
	m := w.appMessage(c, body)
	m.ThreadTS = w.threadOf(c, rep.ThreadTS)
	if rep.ResponseType != "in_channel" {
		m.Ephemeral, m.ForUser = true, u.user
	}
	w.post(m)
	return nil
}

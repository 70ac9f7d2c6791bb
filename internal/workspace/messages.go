package workspace

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// maxText is where Slack truncates the text of a new message, in characters.
// https://docs.slack.dev/reference/methods/chat.postMessage#truncating
const maxText = 40_000

// maxUpdateText is where chat.update refuses a text with msg_too_long. The page
// documents the code and not the number, which is what apps report.
// https://docs.slack.dev/reference/methods/chat.update
const maxUpdateText = 4_000

// maxAttachments is how many attachments a message may have.
const maxAttachments = 100

// Message is a message as it stood when it was read.
type Message struct {
	TS       string // "1700000000.000100": its id in the channel
	Channel  string
	User     string // who posted it; the app's bot user for the app's
	BotID    string // set for the app's messages
	ThreadTS string // the parent, for a reply
	// Text is the message itself, or with blocks what a notification shows.
	Text        string
	Blocks      json.RawMessage // an array; nil without blocks
	Attachments json.RawMessage // an array; nil without
	Files       []File
	Metadata    json.RawMessage // {"event_type":…,"event_payload":{…}}; nil without

	Ephemeral bool   // seen by ForUser alone, and gone after a reload
	ForUser   string // set when Ephemeral
	Broadcast bool   // a reply that is shown in the channel too
	Deleted   bool

	At     time.Time
	Edited int // how often it was edited
	// MarkedEdited tells whether people see "(edited)": Slack marks edited
	// texts, not edited blocks.
	MarkedEdited bool
	Edits        []Version // what it was before each edit, oldest first

	// UnfurlLinks and UnfurlMedia are what the app asked for; nil is Slack's
	// default for a bot: media yes, links no.
	UnfurlLinks, UnfurlMedia *bool

	names *names
}

// Version is a message before an edit.
type Version struct {
	At     time.Time // when it was replaced
	Text   string
	Blocks json.RawMessage
}

// content is what a message says, as sent by the app.
type content struct {
	text        string
	blocks      json.RawMessage
	attachments json.RawMessage
	hasBlocks   bool // sent, if only as []
	hasAttached bool
	hasText     bool
}

// empty reports whether there is nothing to show.
func (c content) empty() bool {
	return strings.TrimSpace(c.text) == "" && c.blocks == nil && c.attachments == nil
}

// parseContent validates what an app wants to say. Blocks that are an empty
// array count as none.
func (w *Workspace) parseContent(text string, hasText bool, blocks, attachments json.RawMessage) (content, *apiError) {
	c := content{text: text, hasText: hasText}
	if len(blocks) > 0 && string(blocks) != "null" {
		c.hasBlocks = true
		b, refusal := w.checkMessageBlocks(blocks)
		if refusal != nil {
			return c, refusal
		}
		c.blocks = b
	}
	if len(attachments) > 0 && string(attachments) != "null" {
		c.hasAttached = true
		var list []map[string]any
		if err := json.Unmarshal(attachments, &list); err != nil {
			return c, refuse("invalid_attachments")
		}
		if len(list) > maxAttachments {
			return c, refuse("too_many_attachments")
		}
		for _, a := range list {
			inner, ok := a["blocks"]
			if !ok {
				continue
			}
			raw, err := encode(inner)
			if err != nil {
				return c, refuse("invalid_attachments")
			}
			named, refusal := w.checkMessageBlocks(raw)
			if refusal != nil {
				return c, refuse("invalid_attachments", refusal.messages...)
			}
			a["blocks"] = named
		}
		if len(list) > 0 {
			encoded, err := encode(list)
			if err != nil {
				return c, refuse("invalid_attachments")
			}
			c.attachments = encoded
		}
	}
	return c, nil
}

// content reads and validates the arguments of a chat method.
func (w *Workspace) content(r *request) (content, *apiError) {
	text := r.str("text")
	blocks := r.raw("blocks")
	if md := r.str("markdown_text"); md != "" {
		if text != "" || blocks != nil {
			return content{}, refuse("markdown_text_conflict")
		}
		if utf8.RuneCountInString(md) > maxMarkdown {
			return content{}, refuse("msg_too_long")
		}
		text = md
	}
	return w.parseContent(text, r.given("text") || text != "", blocks, r.raw("attachments"))
}

// truncate cuts s to n characters.
func truncate(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n])
}

// postable finds the channel an app wants to post to and checks that it may.
// Slack takes a channel's id or name, or a user's id for a direct message. w.mu
// is held.
func (w *Workspace) postable(r *request, ref string) (*Channel, *apiError) {
	if ref == "" {
		return nil, missing("channel")
	}
	c := w.findChannel(ref, true)
	if u := w.users[ref]; c == nil && u != nil && !u.IsBot && !u.Deleted {
		c = w.openIM(u.ID)
	}
	switch {
	case c == nil, c.Private && !c.HasApp: // a private channel does not exist for those not in it
		return nil, refuse("channel_not_found")
	case c.Archived:
		return nil, refuse("is_archived")
	case !c.HasApp && !r.has("chat:write.public"):
		return nil, refuse("not_in_channel")
	}
	if wait := w.limits.post(c.ID, r.now); wait > 0 {
		return nil, &apiError{code: "ratelimited", wait: wait}
	}
	return c, nil
}

// https://docs.slack.dev/reference/methods/chat.postMessage
func (w *Workspace) chatPostMessage(r *request) (object, *apiError) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, refusal := w.postable(r, r.str("channel"))
	if refusal != nil {
		return nil, refusal
	}
	body, refusal := w.content(r)
	if refusal != nil {
		return nil, refusal
	}
	if body.empty() {
		return nil, refuse("no_text")
	}
	m := w.appMessage(c, body)
	m.ThreadTS = w.threadOf(c, r.str("thread_ts"))
	m.Broadcast = m.ThreadTS != "" && r.boolean("reply_broadcast")
	m.UnfurlLinks, m.UnfurlMedia = r.optional("unfurl_links"), r.optional("unfurl_media")
	if m.Metadata, refusal = metadata(r); refusal != nil {
		return nil, refusal
	}
	w.post(m)
	return object{"channel": c.ID, "ts": m.TS, "message": w.messageJSON(m)}, nil
}

// metadata reads the argument of that name, which apps alone see. It is nil when it was
// not sent, or sent as {}.
// https://docs.slack.dev/messaging/message-metadata
func metadata(r *request) (json.RawMessage, *apiError) {
	raw := r.raw("metadata")
	if raw == nil {
		return nil, nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, refuse("invalid_metadata_format")
	}
	if len(all) == 0 {
		return nil, nil
	}
	var m struct {
		EventType    string         `json:"event_type"`
		EventPayload map[string]any `json:"event_payload"`
	}
	if err := json.Unmarshal(raw, &m); err != nil || m.EventType == "" || m.EventPayload == nil {
		return nil, refuse("invalid_metadata_schema")
	}
	kept, err := encode(m)
	if err != nil {
		return nil, refuse("invalid_metadata_format")
	}
	return kept, nil
}

// optional returns a boolean argument, or nil when it was not sent.
func (r *request) optional(name string) *bool {
	if !r.given(name) {
		return nil
	}
	v := r.boolean(name)
	return &v
}

// https://docs.slack.dev/reference/methods/chat.postEphemeral
func (w *Workspace) chatPostEphemeral(r *request) (object, *apiError) {
	if r.str("user") == "" {
		return nil, missing("user")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c, refusal := w.postable(r, r.str("channel"))
	if refusal != nil {
		return nil, refusal
	}
	if !slices.Contains(c.Members, r.str("user")) {
		return nil, refuse("user_not_in_channel")
	}
	body, refusal := w.content(r)
	if refusal != nil {
		return nil, refusal
	}
	if body.empty() {
		return nil, refuse("no_text")
	}
	m := w.appMessage(c, body)
	m.Ephemeral, m.ForUser = true, r.str("user")
	m.ThreadTS = w.threadOf(c, r.str("thread_ts"))
	w.post(m)
	return object{"message_ts": m.TS}, nil
}

// editable finds the message an app wants to change. The channel must be an id.
// Ephemeral messages are not stored, so Slack does not find them. w.mu is held.
func (w *Workspace) editable(r *request, refusal string) (*Message, *apiError) {
	switch {
	case r.str("channel") == "" && r.str("ts") == "":
		return nil, missing("channel", "ts")
	case r.str("channel") == "":
		return nil, missing("channel")
	case r.str("ts") == "":
		return nil, missing("ts")
	}
	c := w.channels[r.str("channel")]
	if c == nil || (c.Private || c.IM) && !c.HasApp {
		return nil, refuse("channel_not_found")
	}
	m := w.find(c.ID, r.str("ts"))
	switch {
	case m == nil, m.Ephemeral:
		return nil, refuse("message_not_found")
	case m.BotID != w.opts.App.BotID:
		return nil, refuse(refusal)
	case c.Archived:
		return nil, refuse("is_inactive")
	}
	return m, nil
}

// chatUpdate edits a message of the app. Blocks that are not sent stay if no
// text was sent either; a text alone replaces them. Attachments that are not
// sent stay, and so does metadata. Blocks alone leave no text (not documented).
// https://docs.slack.dev/reference/methods/chat.update
func (w *Workspace) chatUpdate(r *request) (object, *apiError) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, refusal := w.editable(r, "cant_update_message")
	if refusal != nil {
		return nil, refusal
	}
	body, refusal := w.content(r)
	if refusal != nil {
		return nil, refusal
	}
	if utf8.RuneCountInString(body.text) > maxUpdateText {
		return nil, refuse("msg_too_long")
	}
	if body.empty() {
		return nil, refuse("no_text")
	}
	meta, refusal := metadata(r)
	if refusal != nil {
		return nil, refusal
	}
	if r.given("metadata") {
		m.Metadata = meta
	}
	w.edit(m, body)
	return object{"channel": m.Channel, "ts": m.TS, "text": m.Text, "message": w.messageJSON(m)}, nil
}

// edit replaces what m says. w.mu is held.
func (w *Workspace) edit(m *Message, body content) {
	now := w.clock()
	m.Edits = append(m.Edits, Version{At: now, Text: m.Text, Blocks: m.Blocks})
	m.Edited++
	if body.hasBlocks || body.hasText {
		m.Blocks = body.blocks
		m.Text = truncate(body.text, maxText)
	}
	if body.hasAttached {
		m.Attachments = body.attachments
	}
	m.MarkedEdited = m.MarkedEdited || m.Blocks == nil
	w.publish(Edited, m)
}

// https://docs.slack.dev/reference/methods/chat.delete
func (w *Workspace) chatDelete(r *request) (object, *apiError) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, refusal := w.editable(r, "cant_delete_message")
	if refusal != nil {
		return nil, refusal
	}
	w.remove(m)
	return object{"channel": m.Channel, "ts": m.TS}, nil
}

// remove deletes m. w.mu is held.
func (w *Workspace) remove(m *Message) {
	m.Deleted = true
	w.publish(Deleted, m)
}

// https://docs.slack.dev/reference/methods/chat.getPermalink
func (w *Workspace) chatGetPermalink(r *request) (object, *apiError) {
	if r.str("channel") == "" || r.str("message_ts") == "" {
		return nil, missing("channel", "message_ts")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.channels[r.str("channel")]
	if c == nil || (c.Private || c.IM) && !c.HasApp {
		return nil, refuse("channel_not_found")
	}
	m := w.find(c.ID, r.str("message_ts"))
	if m == nil || m.Ephemeral {
		return nil, refuse("message_not_found")
	}
	return object{"channel": c.ID, "permalink": w.permalink(m)}, nil
}

// permalink is the address of m on the web.
func (w *Workspace) permalink(m *Message) string {
	link := "https://" + w.opts.TeamDomain + ".slack.com/archives/" + m.Channel + "/p" + strings.Replace(m.TS, ".", "", 1)
	if m.ThreadTS != "" {
		link += "?thread_ts=" + m.ThreadTS + "&cid=" + m.Channel
	}
	return link
}

// appMessage makes a message of the app. w.mu is held.
func (w *Workspace) appMessage(c *Channel, body content) *Message {
	return &Message{
		Channel:     c.ID,
		User:        w.opts.App.BotUserID,
		BotID:       w.opts.App.BotID,
		Text:        truncate(body.text, maxText),
		Blocks:      body.blocks,
		Attachments: body.attachments,
	}
}

// post stores m with a new timestamp. w.mu is held.
func (w *Workspace) post(m *Message) {
	m.TS = w.nextTS()
	m.At = w.clock()
	w.messages[m.Channel] = append(w.messages[m.Channel], m)
	w.publish(Posted, m)
}

// threadOf returns the parent for a reply to ts: the parent of the message when
// that is a reply itself, and none when there is no such message, in which case
// Slack posts in the channel. w.mu is held.
func (w *Workspace) threadOf(c *Channel, ts string) string {
	if ts == "" {
		return ""
	}
	m := w.find(c.ID, ts)
	switch {
	case m == nil || m.Ephemeral:
		return ""
	case m.ThreadTS != "":
		return m.ThreadTS
	}
	return m.TS
}

// find returns a message that is not deleted, or nil. w.mu is held.
func (w *Workspace) find(channel, ts string) *Message {
	for _, m := range w.messages[channel] {
		if m.TS == ts && !m.Deleted {
			return m
		}
	}
	return nil
}

// messageJSON is Slack's message object. w.mu is held.
// https://docs.slack.dev/reference/events/message
func (w *Workspace) messageJSON(m *Message) object {
	o := object{"type": "message", "ts": m.TS, "text": m.Text, "user": m.User, "team": w.opts.TeamID}
	if m.BotID != "" {
		o["bot_id"] = m.BotID
		o["app_id"] = w.opts.App.ID
		o["bot_profile"] = object{"id": m.BotID, "app_id": w.opts.App.ID, "name": w.opts.App.Name, "deleted": false, "updated": 0, "team_id": w.opts.TeamID}
	}
	if m.ThreadTS != "" {
		o["thread_ts"] = m.ThreadTS
	}
	if m.Blocks != nil {
		o["blocks"] = m.Blocks
	}
	if m.Attachments != nil {
		o["attachments"] = m.Attachments
	}
	if m.Edited > 0 {
		o["edited"] = object{"user": m.User, "ts": w.lastEditTS(m)}
	}
	if len(m.Files) > 0 {
		files := make([]object, len(m.Files))
		for i, f := range m.Files {
			files[i] = w.fileJSON(&f)
		}
		o["files"] = files
	}
	if m.Ephemeral {
		o["is_ephemeral"] = true
	}
	return o
}

func (w *Workspace) lastEditTS(m *Message) string {
	return timestamp(m.Edits[len(m.Edits)-1].At)
}

// Say posts a message of a person, in the thread threadTS unless that is empty.
// It returns the message.
func (w *Workspace) Say(user, channel, threadTS, text string) (Message, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, err := w.openFor(user, channel)
	if err != nil {
		return Message{}, err
	}
	if strings.TrimSpace(text) == "" {
		return Message{}, actError("there is nothing to send")
	}
	m := &Message{Channel: c.ID, User: user, Text: escape(text), ThreadTS: w.threadOf(c, threadTS)}
	w.post(m)
	return w.snapshot(m), nil
}

// openFor returns the channel for somebody who acts in it. w.mu is held.
func (w *Workspace) openFor(user, channel string) (*Channel, error) {
	u := w.users[user]
	c := w.findChannel(channel, true)
	switch {
	case u == nil:
		return nil, actError("no user %q", user)
	case u.Deleted:
		return nil, actError("%s is deactivated", u.Name)
	case c == nil || !w.canRead(c, user):
		return nil, actError("%s sees no channel %q", u.Name, channel)
	case c.Archived:
		return nil, actError("#%s is archived", c.Name)
	}
	return c, nil
}

// Messages returns what user sees in a channel, oldest first: not what was
// deleted, and of the ephemeral messages only their own. Replies are among
// them, with a ThreadTS. The channel is an id or a name.
func (w *Workspace) Messages(channel, user string) []Message {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.visible(channel, user)
}

// visible is Messages. w.mu is held.
func (w *Workspace) visible(channel, user string) []Message {
	c := w.findChannel(channel, true)
	if !w.canRead(c, user) {
		return nil
	}
	var out []Message
	for _, m := range w.messages[c.ID] {
		if !m.Deleted && (!m.Ephemeral || m.ForUser == user) {
			out = append(out, w.snapshot(m))
		}
	}
	return out
}

// History returns every message a channel ever had, oldest first: the deleted
// and everybody's ephemeral ones too.
func (w *Workspace) History(channel string) []Message {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.findChannel(channel, true)
	if c == nil {
		return nil
	}
	out := make([]Message, 0, len(w.messages[c.ID]))
	for _, m := range w.messages[c.ID] {
		out = append(out, w.snapshot(m))
	}
	return out
}

// Message returns a message as it stands now, and false if it is gone or user
// cannot see it.
func (w *Workspace) Message(user, channel, ts string) (Message, bool) {
	for _, m := range w.Messages(channel, user) {
		if m.TS == ts {
			return m, true
		}
	}
	return Message{}, false
}

// snapshot copies m for somebody outside. w.mu is held.
func (w *Workspace) snapshot(m *Message) Message {
	out := *m
	out.Edits = slices.Clone(m.Edits)
	out.Files = slices.Clone(m.Files)
	out.names = w.names()
	return out
}

package workspace

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Errors of what a person cannot do: the window does not offer it.
var (
	ErrNoElement = errors.New("workspace: no such button or menu in the message as it is now")
	ErrNoMessage = errors.New("workspace: no such message")
	ErrNoView    = errors.New("workspace: the view is not open")
)

// Ack is how the app acknowledged a request, and what the person was told.
type Ack struct {
	Status int           // HTTP; 200 for an acknowledgement over Socket Mode; 0 when there was none
	Body   string        // what the app answered
	Took   time.Duration // real time
	// Error is how Slack names a failure: "operation_timeout" when the app did
	// not answer in time, "dispatch_failed" when it could not be reached or
	// answered with another status than 200, "trouble_connecting" for an answer
	// to a view that Slack cannot use. It is empty when all went well.
	Error string

	TriggerID   string // sent with the request
	ResponseURL string // sent with the request
	EventID     string // of an event
}

// OK reports whether the app acknowledged in time.
func (a Ack) OK() bool { return a.Error == "" }

// delivery is one request to the app.
type delivery struct {
	kind    string     // the Socket Mode type: "slash_commands", "interactive" or "events_api"
	form    url.Values // the body over HTTP, unless nil
	payload any        // the payload over Socket Mode; the body over HTTP when form is nil
	header  http.Header
	answers bool // whether the acknowledgement may carry a payload
	retry   int  // events_api: how often it was sent before
	reason  string
}

// deliver sends d to the app, over Socket Mode when the app has connected and
// else to the events URL, and waits for its acknowledgement. The error is that of
// ctx only: the app's failures are in the Ack.
// https://docs.slack.dev/interactivity/implementing-slash-commands#responding_to_commands
func (w *Workspace) deliver(ctx context.Context, d delivery) (Ack, error) {
	start := time.Now()
	limited, cancel := context.WithTimeout(ctx, w.opts.AckTimeout)
	defer cancel()

	var ack Ack
	var err error
	if s := w.pickSocket(); s != nil && d.kind != "url_verification" {
		ack, err = w.deliverSocket(limited, s, d)
	} else {
		ack, err = w.deliverHTTP(limited, d)
	}
	ack.Took = time.Since(start)
	switch {
	case ctx.Err() != nil:
		return ack, fmt.Errorf("workspace: %s: %w", d.kind, context.Cause(ctx))
	case limited.Err() != nil:
		ack.Status, ack.Body, ack.Error = 0, "", "operation_timeout"
	case err != nil, ack.Status != http.StatusOK:
		ack.Error = "dispatch_failed"
	}
	return ack, nil
}

func (w *Workspace) deliverHTTP(ctx context.Context, d delivery) (Ack, error) {
	w.mu.Lock()
	target := w.eventsURL
	w.mu.Unlock()
	if target == "" {
		return Ack{}, errors.New("no events URL")
	}
	contentType, body := "application/x-www-form-urlencoded", []byte(d.form.Encode())
	if d.form == nil {
		b, err := encode(d.payload)
		if err != nil {
			return Ack{}, err
		}
		contentType, body = "application/json", b
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return Ack{}, err
	}
	for k, v := range d.header {
		req.Header[k] = v
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "Slackbot 1.0 (+https://api.slack.com/robots)")
	w.sign(req.Header, body)

	client := *w.client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		return Ack{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return Ack{}, err
	}
	return Ack{Status: resp.StatusCode, Body: string(answer)}, nil
}

// sign adds the signature headers for body.
// https://docs.slack.dev/authentication/verifying-requests-from-slack
func (w *Workspace) sign(h http.Header, body []byte) {
	ts := strconv.FormatInt(w.clock().Unix(), 10)
	mac := hmac.New(sha256.New, []byte(w.opts.SigningSecret))
	fmt.Fprintf(mac, "v0:%s:%s", ts, body)
	h.Set("X-Slack-Request-Timestamp", ts)
	h.Set("X-Slack-Signature", "v0="+hex.EncodeToString(mac.Sum(nil)))
}

// CommandInput is a slash command as somebody types it.
type CommandInput struct {
	User     string // id
	Channel  string // id or name
	Command  string // "/scale"
	Text     string // what follows it
	ThreadTS string // typed in a thread, where Slack has no slash commands
}

// Command types a slash command and waits for the app to acknowledge it. What
// the app answers is posted: as an ephemeral message, or with the command in the
// channel for response_type in_channel. If the app fails, the person is told so,
// and the Ack says how. The error is for what cannot be typed.
// https://docs.slack.dev/interactivity/implementing-slash-commands
func (w *Workspace) Command(ctx context.Context, in CommandInput) (Ack, error) {
	w.mu.Lock()
	c, err := w.openFor(in.User, in.Channel)
	if err != nil {
		w.mu.Unlock()
		return Ack{}, err
	}
	app := w.opts.App
	if in.ThreadTS != "" {
		w.tell(in.User, c.ID, in.Command+" is not supported in threads. Sorry!")
		w.mu.Unlock()
		return Ack{}, fmt.Errorf("workspace: %s is not supported in threads", in.Command)
	}
	if app.Commands != nil && !slices.Contains(app.Commands, in.Command) {
		w.tell(in.User, c.ID, in.Command+` is not a valid command. In Slack, all messages that start with the "/" character are interpreted as commands.`)
		w.mu.Unlock()
		return Ack{}, fmt.Errorf("workspace: %s is not a valid command", in.Command)
	}
	text := strings.TrimSpace(in.Text)
	trigger := w.newTrigger(in.User)
	response := w.newResponseURL("commands", in.User, c.ID, nil)
	form := url.Values{
		"token":                 {app.VerificationToken},
		"team_id":               {w.opts.TeamID},
		"team_domain":           {w.opts.TeamDomain},
		"channel_id":            {c.ID},
		"channel_name":          {channelName(c)},
		"user_id":               {in.User},
		"user_name":             {w.users[in.User].Name},
		"command":               {in.Command},
		"text":                  {w.sentText(text)},
		"api_app_id":            {app.ID},
		"is_enterprise_install": {"false"},
		"response_url":          {response},
		"trigger_id":            {trigger},
	}
	w.mu.Unlock()

	payload := make(map[string]string, len(form))
	for k := range form {
		payload[k] = form.Get(k)
	}
	ack, err := w.deliver(ctx, delivery{kind: "slash_commands", form: form, payload: payload, answers: true})
	ack.TriggerID, ack.ResponseURL = trigger, response
	if err != nil {
		return ack, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if ack.Error == "" {
		ack.Error = w.showAnswer(in, c, text, ack.Body)
	}
	if ack.Error != "" {
		w.tell(in.User, c.ID, fmt.Sprintf(`%s failed with the error "%s"`, in.Command, ack.Error))
	}
	return ack, nil
}

// Type types a line and presses return: a slash command when it starts with a
// slash, and a message otherwise. Ack is that of the command.
func (w *Workspace) Type(ctx context.Context, user, channel, line string) (Ack, error) {
	line = strings.TrimSpace(line)
	if !strings.HasPrefix(line, "/") {
		_, err := w.Say(user, channel, "", line)
		return Ack{}, err
	}
	command, rest, _ := strings.Cut(line, " ")
	return w.Command(ctx, CommandInput{User: user, Channel: channel, Command: command, Text: rest})
}

// showAnswer posts what the app answered to a command. It returns an error code
// if that cannot be shown. w.mu is held.
func (w *Workspace) showAnswer(in CommandInput, c *Channel, typed, body string) string {
	if strings.TrimSpace(body) == "" {
		return ""
	}
	rep := reply{}
	if err := json.Unmarshal([]byte(body), &rep); err != nil {
		rep = reply{Text: body}
	}
	if rep.ResponseType == "in_channel" {
		w.post(&Message{Channel: c.ID, User: in.User, Text: escape(strings.TrimSpace(in.Command + " " + typed))})
	}
	if rep.Text == "" && rep.Blocks == nil && rep.Attachments == nil {
		return ""
	}
	rep.ThreadTS = ""
	if w.reply(&responseURL{user: in.User, channel: c.ID}, rep) != nil {
		return "invalid_command_response" // not documented
	}
	return ""
}

// tell shows user an ephemeral message of Slackbot. w.mu is held.
func (w *Workspace) tell(user, channel, text string) {
	w.post(&Message{Channel: channel, User: SlackbotID, Text: text, Ephemeral: true, ForUser: user})
}

// channelName is a channel's name in a payload: private ones are not named.
func channelName(c *Channel) string {
	switch {
	case c.IM:
		return "directmessage"
	case c.Private:
		return "privategroup"
	}
	return c.Name
}

var (
	typedName = regexp.MustCompile(`(^|[\s(,])([@#])([\p{L}\p{N}._-]*[\p{L}\p{N}])`)
	typedURL  = regexp.MustCompile(`(^|[\s(])(https?://[^\s<>|]+)`)
	typedHost = regexp.MustCompile(`(^|\s)((?:[a-z0-9-]+\.)+(?:com|org|net|io|dev|app)(?::\d+)?(?:/[^\s<>|]*)?)`)
)

// sentText is what Slack makes of a command's text. &, < and > are escaped
// always; with the app's setting also mentions and links. Quotes stay as typed,
// which on a phone or a Mac are often “smart” ones. w.mu is held.
// https://docs.slack.dev/interactivity/implementing-slash-commands#app_command_handling
func (w *Workspace) sentText(s string) string {
	s = escape(s)
	if !w.opts.App.EscapeEntities {
		return s
	}
	s = typedURL.ReplaceAllString(s, "$1<$2>")
	s = typedHost.ReplaceAllString(s, "$1<http://$2|$2>")
	return typedName.ReplaceAllStringFunc(s, func(match string) string {
		p := typedName.FindStringSubmatch(match)
		if p[2] == "#" {
			if c := w.findChannel(p[3], true); c != nil {
				return p[1] + "<#" + c.ID + "|" + c.Name + ">"
			}
			return match
		}
		for _, u := range w.users {
			if u.Name == p[3] {
				return p[1] + "<@" + u.ID + "|" + u.Name + ">"
			}
		}
		for _, g := range w.groups {
			if g.Handle == p[3] {
				return p[1] + "<!subteam^" + g.ID + "|@" + g.Handle + ">"
			}
		}
		return match
	})
}

// Control is a button or a menu that a person can use.
type Control struct {
	ActionID string
	BlockID  string
	Type     string // "button", "overflow", "static_select", …
	Text     string // the label, or a menu's placeholder
	Value    string
	URL      string // opened when clicked
	Style    string // "primary" or "danger"
	Options  []Option
	Confirm  *Confirm // asked before it is sent
}

// Option is an entry of a menu.
type Option struct{ Text, Value string }

// Confirm is the question before a click.
type Confirm struct{ Title, Text, Confirm, Deny string }

// Controls are the buttons and menus of the message, in order.
func (m Message) Controls() []Control {
	var out []Control
	for _, b := range m.allBlocks() {
		for _, e := range elementsOf(b) {
			t, _ := e["type"].(string)
			if !interactive[t] {
				continue
			}
			c := Control{Type: t, Text: m.names.text(e["text"])}
			c.ActionID, _ = e["action_id"].(string)
			c.BlockID, _ = b["block_id"].(string)
			c.Value, _ = e["value"].(string)
			c.URL, _ = e["url"].(string)
			c.Style, _ = e["style"].(string)
			if c.Text == "" {
				c.Text = m.names.text(e["placeholder"])
			}
			for _, o := range optionsOf(e) {
				v, _ := o["value"].(string)
				c.Options = append(c.Options, Option{Text: m.names.text(o["text"]), Value: v})
			}
			if q, ok := e["confirm"].(map[string]any); ok {
				c.Confirm = &Confirm{
					Title: m.names.text(q["title"]), Text: m.names.text(q["text"]),
					Confirm: m.names.text(q["confirm"]), Deny: m.names.text(q["deny"]),
				}
			}
			out = append(out, c)
		}
	}
	return out
}

// Click clicks a button of m, having confirmed it where it asks. The button must
// be in the message as it is now, not only in m. The Ack's Error is what the
// person sees as a warning sign beside the button.
// https://docs.slack.dev/reference/interaction-payloads/block_actions-payload
func (w *Workspace) Click(ctx context.Context, user string, m Message, actionID string) (Ack, error) {
	return w.act(ctx, user, m, actionID, nil)
}

// Choose picks the option with a value from a menu of m.
func (w *Workspace) Choose(ctx context.Context, user string, m Message, actionID, value string) (Ack, error) {
	return w.act(ctx, user, m, actionID, &value)
}

func (w *Workspace) act(ctx context.Context, user string, m Message, actionID string, value *string) (Ack, error) {
	w.mu.Lock()
	c, err := w.openFor(user, m.Channel)
	if err != nil {
		w.mu.Unlock()
		return Ack{}, err
	}
	now := w.find(c.ID, m.TS)
	if now == nil || now.Ephemeral && now.ForUser != user {
		w.mu.Unlock()
		return Ack{}, ErrNoMessage
	}
	action := findAction(now.allBlocks(), actionID, value)
	if action == nil {
		w.mu.Unlock()
		return Ack{}, fmt.Errorf("%w: %s", ErrNoElement, actionID)
	}
	action["action_ts"] = w.nextTS()
	trigger := w.newTrigger(user)
	response := w.newResponseURL("actions", user, c.ID, now)
	container := object{"type": "message", "message_ts": now.TS, "channel_id": c.ID, "is_ephemeral": now.Ephemeral}
	if now.ThreadTS != "" {
		container["thread_ts"] = now.ThreadTS
	}
	payload := w.interaction("block_actions", user, trigger)
	payload["container"] = container
	payload["channel"] = object{"id": c.ID, "name": channelName(c)}
	payload["message"] = w.messageJSON(now)
	payload["state"] = object{"values": object{}}
	payload["response_url"] = response
	payload["actions"] = []object{action}
	w.mu.Unlock()

	ack, err := w.interact(ctx, payload, false)
	ack.TriggerID, ack.ResponseURL = trigger, response
	return ack, err
}

// findAction builds the entry of "actions" for a button, or for a menu's option,
// or returns nil if there is none.
func findAction(blocks []map[string]any, actionID string, value *string) object {
	for _, b := range blocks {
		for _, e := range elementsOf(b) {
			t, _ := e["type"].(string)
			if e["action_id"] != actionID || !interactive[t] || (t == "button") != (value == nil) {
				continue
			}
			a := object{"type": t, "action_id": actionID, "block_id": b["block_id"]}
			if value == nil {
				for _, k := range []string{"text", "value", "style", "url"} {
					if e[k] != nil {
						a[k] = e[k]
					}
				}
				return a
			}
			for _, o := range optionsOf(e) {
				if o["value"] == *value {
					a["selected_option"] = o
					if t == "checkboxes" || strings.HasPrefix(t, "multi_") {
						delete(a, "selected_option")
						a["selected_options"] = []any{o}
					}
					return a
				}
			}
			switch t {
			case "users_select":
				a["selected_user"] = *value
				return a
			case "channels_select":
				a["selected_channel"] = *value
				return a
			}
		}
	}
	return nil
}

// interaction is what all interaction payloads have in common. w.mu is held.
func (w *Workspace) interaction(kind, user, trigger string) object {
	u := w.users[user]
	return object{
		"type":                  kind,
		"user":                  object{"id": u.ID, "username": u.Name, "name": u.Name, "team_id": u.TeamID},
		"api_app_id":            w.opts.App.ID,
		"token":                 w.opts.App.VerificationToken,
		"trigger_id":            trigger,
		"team":                  object{"id": w.opts.TeamID, "domain": w.opts.TeamDomain},
		"enterprise":            nil,
		"is_enterprise_install": false,
	}
}

// interact sends an interaction payload.
func (w *Workspace) interact(ctx context.Context, payload object, answers bool) (Ack, error) {
	raw, err := encode(payload)
	if err != nil {
		return Ack{}, err
	}
	return w.deliver(ctx, delivery{
		kind: "interactive", form: url.Values{"payload": {string(raw)}}, payload: raw, answers: answers,
	})
}

// EventInput is an event of the Events API.
type EventInput struct {
	ID     string          // "Ev…"; a new one when empty, the same one for a retry
	Event  json.RawMessage // the inner event, such as {"type":"app_mention",…}
	Retry  int             // 1 to 3 when Slack sends it again
	Reason string          // why: "http_timeout", "http_error", …
}

// Event sends an event once. Slack sends it again, up to three times, when the
// app does not acknowledge; a test does so with Retry.
// https://docs.slack.dev/apis/events-api
func (w *Workspace) Event(ctx context.Context, in EventInput) (Ack, error) {
	w.mu.Lock()
	if in.ID == "" {
		in.ID = w.nextID("Ev")
	}
	payload := object{
		"token": w.opts.App.VerificationToken, "team_id": w.opts.TeamID, "api_app_id": w.opts.App.ID,
		"event": in.Event, "type": "event_callback", "event_id": in.ID, "event_time": w.clock().Unix(),
		"authorizations": []object{{
			"enterprise_id": nil, "team_id": w.opts.TeamID, "user_id": w.opts.App.BotUserID, "is_bot": true, "is_enterprise_install": false,
		}},
		"is_ext_shared_channel": false,
	}
	w.mu.Unlock()
	h := make(http.Header)
	if in.Retry > 0 {
		h.Set("X-Slack-Retry-Num", strconv.Itoa(in.Retry))
		h.Set("X-Slack-Retry-Reason", in.Reason)
	}
	ack, err := w.deliver(ctx, delivery{kind: "events_api", payload: payload, header: h, retry: in.Retry, reason: in.Reason})
	ack.EventID = in.ID
	return ack, err
}

// VerifyURL sends the challenge that Slack sends when an events URL is entered,
// and fails unless the app answers with it, as text or as JSON.
// https://docs.slack.dev/reference/events/url_verification
func (w *Workspace) VerifyURL(ctx context.Context) error {
	challenge := secret()
	ack, err := w.deliver(ctx, delivery{kind: "url_verification", payload: object{
		"token": w.opts.App.VerificationToken, "challenge": challenge, "type": "url_verification",
	}})
	if err != nil {
		return err
	}
	var body struct {
		Challenge string `json:"challenge"`
	}
	_ = json.Unmarshal([]byte(ack.Body), &body)
	if ack.Error != "" || strings.TrimSpace(ack.Body) != challenge && body.Challenge != challenge {
		return errors.New("workspace: your URL didn't respond with the value of the challenge parameter")
	}
	return nil
}

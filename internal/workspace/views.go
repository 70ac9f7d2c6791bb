package workspace

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of modals. https://docs.slack.dev/reference/views/modal-views
const (
	triggerLife  = 3 * time.Second // https://docs.slack.dev/surfaces/modals#opening
	maxViewStack = 3
	maxViewBytes = 250_000
)

// trigger is a trigger id: the permission to open one modal for a user.
type trigger struct {
	user string
	made time.Time
	used bool
}

// newTrigger makes a trigger id. w.mu is held.
func (w *Workspace) newTrigger(user string) string {
	id := fmt.Sprintf("%d.%s.%s", w.clock().UnixMilli(), strings.TrimLeft(w.nextID("7"), "0"), secret())
	w.triggers[id] = &trigger{user: user, made: w.clock()}
	return id
}

// View is a modal as its user sees it.
type View struct {
	ID              string // "V…"
	User            string // who sees it
	Hash            string // changes with each update
	CallbackID      string
	ExternalID      string
	PrivateMetadata string
	Title           string
	SubmitText      string // empty when it cannot be submitted
	CloseText       string // "Close" unless the app says otherwise
	Blocks          json.RawMessage
	Errors          map[string]string // by block id, after a refused submission
	ClearOnClose    bool
	NotifyOnClose   bool
	RootID          string
	PreviousID      string

	names *names
}

func (v *View) snapshot() View {
	out := *v
	out.Errors = maps.Clone(v.Errors)
	return out
}

// viewRule is a modal.
// https://docs.slack.dev/reference/views/modal-views
var viewRule = obj("type title blocks", map[string]rule{
	"type": oneOf("modal"), "title": plain(24), "submit": plain(24), "close": plain(24),
	"blocks": anything, "private_metadata": str(0, 3000), "callback_id": str(0, 255), "external_id": str(0, 255),
	"clear_on_close": boolean, "notify_on_close": boolean,
})

// parseView validates a view and reads it. w.mu is held.
func (w *Workspace) parseView(raw json.RawMessage) (*View, *apiError) {
	if len(raw) > maxViewBytes {
		return nil, refuse("view_too_large")
	}
	decoded, err := decode(raw)
	m, ok := decoded.(map[string]any)
	if err != nil || !ok {
		return nil, refuse("invalid_arguments", "must provide an object [json-pointer:/view]")
	}
	c := &checker{view: true}
	viewRule(c, "/view", m)
	blocks, _ := m["blocks"].([]any)
	if m["blocks"] != nil && blocks == nil {
		c.fail("/view/blocks", "must provide an array")
	}
	checkBlocks(c, "/view/blocks", blocks, maxViewBlocks)
	hasInput := slices.ContainsFunc(blocks, func(b any) bool {
		m, ok := b.(map[string]any)
		return ok && m["type"] == "input"
	})
	if hasInput && m["submit"] == nil {
		c.fail("/view", "missing required field: submit") // required with an input; wording not documented
	}
	if len(c.errors) > 0 {
		return nil, refuse("invalid_arguments", c.errors...)
	}
	w.nameBlocks(blocks)
	encoded, err := encode(blocks)
	if err != nil || blocks == nil {
		encoded = json.RawMessage("[]")
	}
	n := w.names()
	v := &View{
		Title: n.text(m["title"]), SubmitText: n.text(m["submit"]), CloseText: n.text(m["close"]),
		Blocks: encoded, names: n,
	}
	if v.CloseText == "" {
		v.CloseText = "Close"
	}
	v.CallbackID, _ = m["callback_id"].(string)
	v.ExternalID, _ = m["external_id"].(string)
	v.PrivateMetadata, _ = m["private_metadata"].(string)
	v.ClearOnClose, _ = m["clear_on_close"].(bool)
	v.NotifyOnClose, _ = m["notify_on_close"].(bool)
	return v, nil
}

// useTrigger exchanges a trigger id. w.mu is held.
func (w *Workspace) useTrigger(id string) (string, *apiError) {
	t := w.triggers[id]
	switch {
	case t == nil:
		return "", refuse("invalid_trigger_id")
	case t.used:
		return "", refuse("exchanged_trigger_id")
	case w.clock().Sub(t.made) > triggerLife:
		return "", refuse("expired_trigger_id")
	}
	t.used = true
	return t.user, nil
}

// https://docs.slack.dev/reference/methods/views.open
func (w *Workspace) viewsOpen(r *request) (object, *apiError) { return w.showView(r, false) }

// https://docs.slack.dev/reference/methods/views.push
func (w *Workspace) viewsPush(r *request) (object, *apiError) { return w.showView(r, true) }

func (w *Workspace) showView(r *request, push bool) (object, *apiError) {
	var absent []string
	for _, f := range []string{"trigger_id", "view"} {
		if !r.given(f) || r.raw(f) == nil {
			absent = append(absent, f)
		}
	}
	if len(absent) > 0 {
		return nil, missing(absent...)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// The view is checked first: a view that Slack refuses leaves the trigger
	// usable (not documented).
	v, refusal := w.parseView(r.raw("view"))
	if refusal != nil {
		return nil, refusal
	}
	if v.ExternalID != "" {
		for _, o := range w.views {
			if o.ExternalID == v.ExternalID {
				return nil, refuse("duplicate_external_id")
			}
		}
	}
	if t := w.triggers[r.str("trigger_id")]; push && t != nil {
		switch n := len(w.stacks[t.user]); {
		case n == 0:
			return nil, refuse("not_found")
		case n >= maxViewStack:
			return nil, refuse("push_limit_reached")
		}
	}
	user, refusal := w.useTrigger(r.str("trigger_id"))
	if refusal != nil {
		return nil, refusal
	}
	if !push {
		w.closeViews(user)
	}
	w.pushView(user, v)
	return object{"view": w.viewJSON(v, nil)}, nil
}

// pushView puts v on top of what user sees. w.mu is held.
func (w *Workspace) pushView(user string, v *View) {
	v.ID, v.User, v.Hash = w.nextID("V"), user, w.nextTS()
	v.RootID = v.ID
	if stack := w.stacks[user]; len(stack) > 0 {
		v.RootID, v.PreviousID = w.views[stack[0]].ID, stack[len(stack)-1]
	}
	w.views[v.ID] = v
	w.stacks[user] = append(w.stacks[user], v.ID)
	w.send(Change{Kind: ViewOpened, At: w.clock(), View: v.snapshot()})
}

// https://docs.slack.dev/reference/methods/views.update
func (w *Workspace) viewsUpdate(r *request) (object, *apiError) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id, external := r.str("view_id"), r.str("external_id")
	switch {
	case id == "" && external == "":
		return nil, refuse("invalid_arguments", "Must provide either `view_id` or `external_id`")
	case id != "" && external != "":
		return nil, refuse("invalid_arguments", "Cannot provide both `view_id` and `external_id`")
	case r.raw("view") == nil:
		return nil, missing("view")
	}
	old := w.views[id]
	for _, v := range w.views {
		if external != "" && v.ExternalID == external {
			old = v
		}
	}
	if old == nil {
		return nil, refuse("not_found")
	}
	if h := r.str("hash"); h != "" && h != old.Hash {
		return nil, refuse("hash_conflict")
	}
	v, refusal := w.parseView(r.raw("view"))
	if refusal != nil {
		return nil, refusal
	}
	w.replaceView(old, v)
	return object{"view": w.viewJSON(old, nil)}, nil
}

// replaceView shows v in the place of old. w.mu is held.
func (w *Workspace) replaceView(old, v *View) {
	v.ID, v.User, v.RootID, v.PreviousID, v.Hash = old.ID, old.User, old.RootID, old.PreviousID, w.nextTS()
	*old = *v
	w.send(Change{Kind: ViewOpened, At: w.clock(), View: old.snapshot()})
}

// popView closes the topmost view of user. w.mu is held.
func (w *Workspace) popView(user string) {
	stack := w.stacks[user]
	v := w.views[stack[len(stack)-1]]
	delete(w.views, v.ID)
	w.stacks[user] = stack[:len(stack)-1]
	w.send(Change{Kind: ViewClosed, At: w.clock(), View: v.snapshot()})
}

// closeViews closes all of them. w.mu is held.
func (w *Workspace) closeViews(user string) {
	for len(w.stacks[user]) > 0 {
		w.popView(user)
	}
}

// topView returns the topmost view of user, or nil. w.mu is held.
func (w *Workspace) topView(user string) *View {
	stack := w.stacks[user]
	if len(stack) == 0 {
		return nil
	}
	return w.views[stack[len(stack)-1]]
}

// View returns the modal user sees, the topmost one, and false without any.
func (w *Workspace) View(user string) (View, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := w.topView(user)
	if v == nil {
		return View{}, false
	}
	return v.snapshot(), true
}

// viewJSON is Slack's view object.
// https://docs.slack.dev/reference/interaction-payloads/view-interactions-payload
func (w *Workspace) viewJSON(v *View, state object) object {
	plainText := func(s string) any {
		if s == "" {
			return nil
		}
		return object{"type": "plain_text", "text": s, "emoji": true}
	}
	if state == nil {
		state = object{}
	}
	var previous any
	if v.PreviousID != "" {
		previous = v.PreviousID
	}
	return object{
		"id": v.ID, "team_id": w.opts.TeamID, "type": "modal", "blocks": v.Blocks,
		"private_metadata": v.PrivateMetadata, "callback_id": v.CallbackID, "external_id": v.ExternalID,
		"state": object{"values": state}, "hash": v.Hash,
		"title": plainText(v.Title), "submit": plainText(v.SubmitText), "close": plainText(v.CloseText),
		"clear_on_close": v.ClearOnClose, "notify_on_close": v.NotifyOnClose, "submit_disabled": false,
		"root_view_id": v.RootID, "previous_view_id": previous,
		"app_id": w.opts.App.ID, "bot_id": w.opts.App.BotID, "app_installed_team_id": w.opts.TeamID,
	}
}

// Submit fills in a modal and submits it. Values are by block id or action id:
// what was typed, or an option's value, or several separated by commas. Inputs
// without one have their initial value. It fails like the window when a required
// input is empty or an option does not exist. What the app answers happens: the
// view closes, or shows errors, or changes.
// https://docs.slack.dev/surfaces/modals#handling_submissions
func (w *Workspace) Submit(ctx context.Context, user string, v View, values map[string]string) (Ack, error) {
	w.mu.Lock()
	now := w.topView(user)
	if now == nil || now.ID != v.ID {
		w.mu.Unlock()
		return Ack{}, ErrNoView
	}
	if now.SubmitText == "" {
		w.mu.Unlock()
		return Ack{}, actError("the view %q has no submit button", now.Title)
	}
	state, err := viewState(now, values)
	if err != nil {
		w.mu.Unlock()
		return Ack{}, err
	}
	now.Errors = nil
	trigger := w.newTrigger(user)
	payload := w.interaction("view_submission", user, trigger)
	payload["view"] = w.viewJSON(now, state)
	payload["response_urls"] = []any{}
	w.mu.Unlock()

	ack, err := w.interact(ctx, payload, true)
	ack.TriggerID = trigger
	if err != nil || ack.Error != "" {
		return ack, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now = w.topView(user)
	if now == nil || now.ID != v.ID {
		return ack, nil // the app closed or covered it meanwhile
	}
	ack.Error = w.answerView(now, ack.Body)
	return ack, nil
}

// answerView does what the app answered to a submission. It returns an error
// code for what Slack cannot use. w.mu is held.
func (w *Workspace) answerView(v *View, body string) string {
	const trouble = "trouble_connecting" // "We had some trouble connecting. Try again?"
	if strings.TrimSpace(body) == "" {
		w.popView(v.User)
		return ""
	}
	var answer struct {
		Action string            `json:"response_action"`
		View   json.RawMessage   `json:"view"`
		Errors map[string]string `json:"errors"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return trouble
	}
	switch answer.Action {
	case "":
		if strings.TrimSpace(body) != "{}" && strings.TrimSpace(body) != "null" {
			return trouble
		}
		w.popView(v.User)
	case "clear":
		w.closeViews(v.User)
	case "errors":
		if len(answer.Errors) == 0 {
			return trouble
		}
		for id := range answer.Errors {
			if !isInput(v, id) {
				return trouble
			}
		}
		v.Errors = answer.Errors
		w.send(Change{Kind: ViewOpened, At: w.clock(), View: v.snapshot()})
	case "update", "push":
		next, refusal := w.parseView(answer.View)
		if refusal != nil || answer.Action == "push" && len(w.stacks[v.User]) >= maxViewStack {
			return trouble
		}
		if answer.Action == "push" {
			w.pushView(v.User, next)
		} else {
			w.replaceView(v, next)
		}
	default:
		return trouble
	}
	return ""
}

func isInput(v *View, blockID string) bool {
	for _, b := range parseBlocks(v.Blocks) {
		if b["block_id"] == blockID && b["type"] == "input" {
			return true
		}
	}
	return false
}

// viewState builds state.values from what was filled in.
func viewState(v *View, values map[string]string) (object, error) {
	left := maps.Clone(values)
	state := object{}
	for _, b := range parseBlocks(v.Blocks) {
		blockID, _ := b["block_id"].(string)
		for _, e := range elementsOf(b) {
			t, _ := e["type"].(string)
			actionID, _ := e["action_id"].(string)
			if !interactive[t] || t == "button" || t == "overflow" {
				continue
			}
			value, filled := left[actionID]
			if !filled {
				value, filled = left[blockID]
			}
			delete(left, actionID)
			delete(left, blockID)
			entry, empty, err := stateEntry(t, e, value, filled)
			if err != nil {
				return nil, actError("%s: %v", actionID, err)
			}
			if optional, _ := b["optional"].(bool); b["type"] == "input" && empty && !optional {
				return nil, actError("%s: please complete this required field", actionID)
			}
			state[blockID] = object{actionID: entry}
		}
	}
	for k := range left {
		return nil, actError("the view %q has no input %q", v.Title, k)
	}
	return state, nil
}

// stateEntry is the state of one element.
func stateEntry(t string, e map[string]any, value string, filled bool) (entry object, empty bool, err error) {
	entry = object{"type": t}
	option := func(value string) (any, error) {
		for _, o := range optionsOf(e) {
			if o["value"] == value {
				return o, nil
			}
		}
		return nil, fmt.Errorf("no option %q", value)
	}
	single := func(key, initial string) {
		entry[key] = nil
		if filled && value != "" {
			entry[key] = value
		} else if s, _ := e[initial].(string); !filled && s != "" {
			entry[key] = s
		}
		empty = entry[key] == nil
	}
	switch t {
	case "static_select", "radio_buttons", "external_select":
		entry["selected_option"] = e["initial_option"]
		if filled {
			entry["selected_option"] = nil
			if value != "" {
				if entry["selected_option"], err = option(value); err != nil {
					return nil, false, err
				}
			}
		}
		return entry, entry["selected_option"] == nil, nil
	case "checkboxes", "multi_static_select", "multi_external_select":
		selected, _ := e["initial_options"].([]any)
		if filled {
			selected = nil
			for _, s := range strings.FieldsFunc(value, func(c rune) bool { return c == ',' }) {
				o, err := option(s)
				if err != nil {
					return nil, false, err
				}
				selected = append(selected, o)
			}
		}
		entry["selected_options"] = append([]any{}, selected...)
		return entry, len(selected) == 0, nil
	case "users_select":
		single("selected_user", "initial_user")
	case "channels_select":
		single("selected_channel", "initial_channel")
	case "conversations_select":
		single("selected_conversation", "initial_conversation")
	case "datepicker":
		single("selected_date", "initial_date")
	case "timepicker":
		single("selected_time", "initial_time")
	default:
		single("value", "initial_value")
		if s, _ := entry["value"].(string); s != "" {
			n := float64(utf8.RuneCountInString(s))
			if least, ok := e["min_length"].(float64); ok && n < least {
				return nil, false, fmt.Errorf("at least %v characters", least)
			}
			if most, ok := e["max_length"].(float64); ok && n > most {
				return nil, false, fmt.Errorf("at most %v characters", most)
			}
		}
	}
	return entry, empty, nil
}

// CloseView closes a modal without submitting it. The app hears of it only if
// the view asks for that.
// https://docs.slack.dev/reference/interaction-payloads/view-interactions-payload#view_closed
func (w *Workspace) CloseView(ctx context.Context, user string, v View) (Ack, error) {
	w.mu.Lock()
	now := w.topView(user)
	if now == nil || now.ID != v.ID {
		w.mu.Unlock()
		return Ack{}, ErrNoView
	}
	payload := w.interaction("view_closed", user, "")
	delete(payload, "trigger_id")
	payload["view"] = w.viewJSON(now, nil)
	payload["is_cleared"] = now.ClearOnClose
	tell := now.NotifyOnClose
	if now.ClearOnClose {
		w.closeViews(user)
	} else {
		w.popView(user)
	}
	w.mu.Unlock()
	if !tell {
		return Ack{}, nil
	}
	return w.interact(ctx, payload, false)
}

package workspace

import (
	"encoding/json"
	"fmt"
	"html"
	"regexp"
	"strings"
)

// names are what ids are shown as. They do not change once made.
type names struct {
	users, channels, groups map[string]string
}

// names returns the names as they are now. w.mu is held.
func (w *Workspace) names() *names {
	if w.named != nil {
		return w.named
	}
	n := &names{users: make(map[string]string), channels: make(map[string]string), groups: make(map[string]string)}
	for id, u := range w.users {
		n.users[id] = u.Name
	}
	for id, c := range w.channels {
		n.channels[id] = c.Name
	}
	for id, g := range w.groups {
		n.groups[id] = g.Handle
	}
	w.named = n
	return n
}

func (n *names) user(id string) string {
	if n != nil && n.users[id] != "" {
		return n.users[id]
	}
	return id
}

// Plain is what a person reads on the screen, as plain text: one line for each
// line, buttons and menus in square brackets. Mrkdwn is left as typed, except
// that mentions and links are written out. It has no newline at the end.
func (m Message) Plain() string {
	var parts []string
	if len(m.Blocks) > 0 {
		parts = append(parts, m.names.blocks(m.Blocks)...)
	} else if m.Text != "" {
		parts = append(parts, m.names.mrkdwn(m.Text))
	}
	if len(m.Attachments) > 0 {
		parts = append(parts, m.names.attachments(m.Attachments)...)
	}
	for _, f := range m.Files {
		parts = append(parts, fmt.Sprintf("[file: %s, %d bytes]", f.Title, len(f.Content)))
	}
	return strings.Join(parts, "\n")
}

// Notification is what a phone's notification or a screen reader says: the text,
// and for a message of blocks alone the sentence Slack puts there.
func (m Message) Notification() string {
	if strings.TrimSpace(m.Text) == "" && len(m.Blocks) > 0 {
		return "This content can't be displayed."
	}
	return m.names.mrkdwn(m.Text)
}

// Plain is the modal as plain text, with what was typed and the errors shown.
func (v View) Plain() string {
	parts := []string{"== " + v.Title + " =="}
	for _, b := range parseBlocks(v.Blocks) {
		parts = append(parts, v.names.block(b))
		if id, _ := b["block_id"].(string); v.Errors[id] != "" {
			parts = append(parts, "! "+v.Errors[id])
		}
	}
	var buttons []string
	for _, label := range []string{v.CloseText, v.SubmitText} {
		if label != "" {
			buttons = append(buttons, "["+label+"]")
		}
	}
	return strings.Join(append(parts, strings.Join(buttons, " ")), "\n")
}

func parseBlocks(raw json.RawMessage) []map[string]any {
	if len(raw) == 0 {
		return nil
	}
	var blocks []map[string]any
	if err := json.Unmarshal(raw, &blocks); err != nil {
		return nil // blocks were validated when they came
	}
	return blocks
}

// allBlocks returns the blocks of the message and then those of its attachments.
func (m *Message) allBlocks() []map[string]any {
	out := parseBlocks(m.Blocks)
	if len(m.Attachments) == 0 {
		return out
	}
	var list []struct {
		Blocks json.RawMessage `json:"blocks"`
	}
	if err := json.Unmarshal(m.Attachments, &list); err != nil {
		return out // they were validated when they came
	}
	for _, a := range list {
		out = append(out, parseBlocks(a.Blocks)...)
	}
	return out
}

func (n *names) blocks(raw json.RawMessage) []string {
	var out []string
	for _, b := range parseBlocks(raw) {
		if s := n.block(b); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// block writes one block.
func (n *names) block(b map[string]any) string {
	switch b["type"] {
	case "divider":
		return "----------"
	case "section":
		var lines []string
		if t := n.text(b["text"]); t != "" {
			lines = append(lines, t)
		}
		fields, _ := b["fields"].([]any)
		for _, f := range fields {
			lines = append(lines, n.text(f))
		}
		if e := n.element(b["accessory"]); e != "" {
			if len(lines) == 0 {
				lines = append(lines, "")
			}
			lines[len(lines)-1] = strings.TrimSpace(lines[len(lines)-1] + " " + e)
		}
		return strings.Join(lines, "\n")
	case "header":
		return n.text(b["text"])
	case "context", "actions", "context_actions":
		var items []string
		elements, _ := b["elements"].([]any)
		for _, e := range elements {
			if s := n.element(e); s != "" {
				items = append(items, s)
			}
		}
		return strings.Join(items, " ")
	case "image":
		alt, _ := b["alt_text"].(string)
		if t := n.text(b["title"]); t != "" {
			alt = t + ": " + alt
		}
		return "[image: " + alt + "]"
	case "input":
		label := n.text(b["label"])
		if optional, _ := b["optional"].(bool); optional {
			label += " (optional)"
		}
		s := label + ": " + n.element(b["element"])
		if h := n.text(b["hint"]); h != "" {
			s += "\n" + h
		}
		return s
	case "markdown":
		s, _ := b["text"].(string)
		return s
	case "rich_text":
		return n.richText(b)
	}
	t, _ := b["type"].(string)
	return "[" + t + "]"
}

// text writes a text object.
func (n *names) text(v any) string {
	m, ok := v.(map[string]any)
	if !ok {
		return ""
	}
	s, _ := m["text"].(string)
	if m["type"] == "mrkdwn" {
		return n.mrkdwn(s)
	}
	return html.UnescapeString(s)
}

// element writes an element of a block.
func (n *names) element(v any) string {
	m, ok := v.(map[string]any)
	if !ok {
		return ""
	}
	t, _ := m["type"].(string)
	switch {
	case t == "mrkdwn" || t == "plain_text":
		return n.text(m)
	case t == "button":
		return "[" + n.text(m["text"]) + "]"
	case t == "image":
		alt, _ := m["alt_text"].(string)
		return "[image: " + alt + "]"
	case t == "overflow":
		return "[...]"
	case t == "checkboxes", t == "radio_buttons":
		return n.choices(m, t == "radio_buttons")
	case strings.HasSuffix(t, "_select"):
		label := n.text(m["placeholder"])
		if o, ok := m["initial_option"].(map[string]any); ok {
			label = n.text(o["text"])
		}
		return "[" + strings.TrimSpace(label+" ▾") + "]"
	}
	if s, _ := m["initial_value"].(string); s != "" {
		return "[" + s + "]"
	}
	return "[" + n.text(m["placeholder"]) + "]"
}

// choices writes checkboxes or radio buttons with their marks.
func (n *names) choices(element map[string]any, radio bool) string {
	chosen := make(map[any]bool)
	initial, _ := element["initial_options"].([]any)
	for _, o := range append(initial, element["initial_option"]) {
		if m, ok := o.(map[string]any); ok {
			chosen[m["value"]] = true
		}
	}
	var out []string
	for _, o := range optionsOf(element) {
		mark := "[ ] "
		switch {
		case radio && chosen[o["value"]]:
			mark = "(o) "
		case radio:
			mark = "( ) "
		case chosen[o["value"]]:
			mark = "[x] "
		}
		out = append(out, mark+n.text(o["text"]))
	}
	return strings.Join(out, " ")
}

// optionsOf returns the options of a menu, those in groups too.
func optionsOf(element map[string]any) []map[string]any {
	var out []map[string]any
	add := func(v any) {
		list, _ := v.([]any)
		for _, o := range list {
			if m, ok := o.(map[string]any); ok {
				out = append(out, m)
			}
		}
	}
	add(element["options"])
	groups, _ := element["option_groups"].([]any)
	for _, g := range groups {
		if m, ok := g.(map[string]any); ok {
			add(m["options"])
		}
	}
	return out
}

// richText writes the texts of a rich_text block, one line for each section.
func (n *names) richText(b map[string]any) string {
	var lines []string
	var walk func(v any, into *strings.Builder)
	walk = func(v any, into *strings.Builder) {
		m, ok := v.(map[string]any)
		if !ok {
			return
		}
		switch m["type"] {
		case "user":
			id, _ := m["user_id"].(string)
			into.WriteString("@" + n.user(id))
		case "link":
			s, _ := m["text"].(string)
			if s == "" {
				s, _ = m["url"].(string)
			}
			into.WriteString(s)
		default:
			if s, ok := m["text"].(string); ok {
				into.WriteString(s)
			}
		}
		elements, _ := m["elements"].([]any)
		for _, e := range elements {
			walk(e, into)
		}
	}
	elements, _ := b["elements"].([]any)
	for _, e := range elements {
		var line strings.Builder
		walk(e, &line)
		lines = append(lines, strings.TrimRight(line.String(), "\n"))
	}
	return strings.Join(lines, "\n")
}

// attachments writes legacy attachments.
func (n *names) attachments(raw json.RawMessage) []string {
	var list []struct {
		Pretext string          `json:"pretext"`
		Title   string          `json:"title"`
		Text    string          `json:"text"`
		Blocks  json.RawMessage `json:"blocks"`
		Fields  []struct {
			Title string `json:"title"`
			Value string `json:"value"`
		} `json:"fields"`
		Fallback string `json:"fallback"`
		Footer   string `json:"footer"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil
	}
	var out []string
	add := func(s string) {
		if s != "" {
			out = append(out, "| "+strings.ReplaceAll(s, "\n", "\n| "))
		}
	}
	for _, a := range list {
		before := len(out)
		add(n.mrkdwn(a.Pretext))
		add(n.mrkdwn(a.Title))
		add(n.mrkdwn(a.Text))
		for _, f := range a.Fields {
			add(n.mrkdwn(f.Title + ": " + f.Value))
		}
		add(strings.Join(n.blocks(a.Blocks), "\n"))
		add(n.mrkdwn(a.Footer))
		if len(out) == before {
			add(n.mrkdwn(a.Fallback))
		}
	}
	return out
}

var angle = regexp.MustCompile(`<([^<>\n]+)>`)

// mrkdwn writes out what Slack writes in angle brackets, and the escapes.
// https://docs.slack.dev/messaging/formatting-message-text
func (n *names) mrkdwn(s string) string {
	s = angle.ReplaceAllStringFunc(s, func(match string) string {
		body, label, labelled := strings.Cut(match[1:len(match)-1], "|")
		named := func(prefix string, table map[string]string) string {
			switch name := table[body[len(prefix):]]; {
			case name != "":
				return prefix[:1] + name
			case labelled:
				return prefix[:1] + label
			}
			return body
		}
		if n == nil {
			n = &names{}
		}
		switch {
		case strings.HasPrefix(body, "@"):
			return named("@", n.users)
		case strings.HasPrefix(body, "#"):
			return named("#", n.channels)
		case strings.HasPrefix(body, "!subteam^"):
			if h := n.groups[strings.TrimPrefix(body, "!subteam^")]; h != "" {
				return "@" + h
			}
			return label
		case strings.HasPrefix(body, "!date^"):
			return label
		case strings.HasPrefix(body, "!"):
			return "@" + strings.TrimPrefix(body, "!")
		case labelled:
			return label + " (" + body + ")"
		}
		return body
	})
	return html.UnescapeString(s)
}

// escape writes text typed by a person as Slack stores it.
func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

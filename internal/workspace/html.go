package workspace

import (
	"fmt"
	"html"
	"html/template"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// HTML is what a person sees in the window, as a fragment of HTML in which nothing
// of the app's is markup. Buttons and menus have their action id in data-action, and
// what is asked before a click in data-confirm.
func (m Message) HTML() template.HTML {
	var b strings.Builder
	if len(m.Blocks) > 0 {
		for _, block := range parseBlocks(m.Blocks) {
			b.WriteString(m.names.htmlBlock(block, ""))
		}
	} else if m.Text != "" {
		b.WriteString(`<div class="text">` + m.names.html(m.Text) + `</div>`)
	}
	if len(m.Attachments) > 0 {
		for _, line := range m.names.attachments(m.Attachments) {
			b.WriteString(`<div class="attachment">` + html.EscapeString(line) + `</div>`)
		}
	}
	for _, f := range m.Files {
		fmt.Fprintf(&b, `<details class="file"><summary>%s <small>%d bytes</small></summary><pre>%s</pre></details>`,
			html.EscapeString(f.Title), len(f.Content), html.EscapeString(strings.ToValidUTF8(string(f.Content), "�")))
	}
	return template.HTML(b.String())
}

// HTML is the modal as a form: an input's name is its block id, and what was wrong
// with a submission stands below it.
func (v View) HTML() template.HTML {
	var b strings.Builder
	fmt.Fprintf(&b, `<form data-view="%s" aria-label="%s"><h2>%[2]s</h2><div class="inputs">`, html.EscapeString(v.ID), html.EscapeString(v.Title))
	for _, block := range parseBlocks(v.Blocks) {
		id, _ := block["block_id"].(string)
		b.WriteString(v.names.htmlBlock(block, v.Errors[id]))
	}
	fmt.Fprintf(&b, `</div><footer><button type="button" data-close>%s</button>`, html.EscapeString(v.CloseText))
	if v.SubmitText != "" {
		fmt.Fprintf(&b, `<button type="submit" class="primary">%s</button>`, html.EscapeString(v.SubmitText))
	}
	b.WriteString(`</footer></form>`)
	return template.HTML(b.String())
}

// htmlBlock writes one block; wrong is what the app said of an input.
func (n *names) htmlBlock(b map[string]any, wrong string) string {
	id, _ := b["block_id"].(string)
	var inner strings.Builder
	kind, _ := b["type"].(string)
	switch kind {
	case "divider":
		return "<hr>"
	case "header":
		return "<h3>" + n.htmlText(b["text"]) + "</h3>"
	case "section":
		inner.WriteString(`<div class="text">` + n.htmlText(b["text"]) + `</div>`)
		fields, _ := b["fields"].([]any)
		for _, f := range fields {
			inner.WriteString(`<div class="field">` + n.htmlText(f) + `</div>`)
		}
		inner.WriteString(n.htmlElement(b["accessory"], id))
	case "context", "actions", "context_actions":
		elements, _ := b["elements"].([]any)
		for _, e := range elements {
			inner.WriteString(n.htmlElement(e, id))
		}
	case "input":
		fmt.Fprintf(&inner, `<label for="%s">%s`, html.EscapeString("in-"+id), n.htmlText(b["label"]))
		if optional, _ := b["optional"].(bool); optional {
			inner.WriteString(` <small>(optional)</small>`)
		}
		inner.WriteString(`</label>` + n.htmlElement(b["element"], id))
		if wrong != "" {
			inner.WriteString(`<p class="wrong" role="alert">` + html.EscapeString(wrong) + `</p>`)
		}
		if hint := n.htmlText(b["hint"]); hint != "" {
			inner.WriteString(`<p class="hint">` + hint + `</p>`)
		}
	default:
		inner.WriteString(`<div class="text">` + html.EscapeString(n.block(b)) + `</div>`)
	}
	return `<div class="` + html.EscapeString(kind) + `">` + inner.String() + `</div>`
}

// htmlText writes a text object.
func (n *names) htmlText(v any) string {
	m, _ := v.(map[string]any)
	s, _ := m["text"].(string)
	if m["type"] == "mrkdwn" {
		return n.html(s)
	}
	return breaks(html.EscapeString(html.UnescapeString(s)))
}

// htmlElement writes an element of a block.
func (n *names) htmlElement(v any, block string) string {
	e, ok := v.(map[string]any)
	if !ok {
		return ""
	}
	attr := func(key string) string { s, _ := e[key].(string); return html.EscapeString(s) }
	name := html.EscapeString(block)
	switch t := attr("type"); t {
	case "mrkdwn", "plain_text":
		return "<span>" + n.htmlText(e) + "</span>"
	case "button":
		return fmt.Sprintf(`<button type="button" class="%s" data-action="%s" data-url="%s"%s>%s</button>`,
			attr("style"), attr("action_id"), attr("url"), n.confirm(e["confirm"]), n.htmlText(e["text"]))
	case "static_select":
		var b strings.Builder
		fmt.Fprintf(&b, `<select name="%s" id="in-%[1]s" data-action="%s"><option value="">%s</option>`, name, attr("action_id"), n.htmlText(e["placeholder"]))
		initial, _ := e["initial_option"].(map[string]any)
		for _, o := range optionsOf(e) {
			value, _ := o["value"].(string)
			chosen := ""
			if initial != nil && initial["value"] == o["value"] {
				chosen = " selected"
			}
			fmt.Fprintf(&b, `<option value="%s"%s>%s</option>`, html.EscapeString(value), chosen, n.htmlText(o["text"]))
		}
		return b.String() + `</select>`
	case "checkboxes", "radio_buttons":
		var b strings.Builder
		kind := map[string]string{"checkboxes": "checkbox", "radio_buttons": "radio"}[t]
		chosen, _ := e["initial_options"].([]any)
		chosen = append(chosen, e["initial_option"])
		for _, o := range optionsOf(e) {
			value, _ := o["value"].(string)
			on := ""
			if slices.ContainsFunc(chosen, func(c any) bool { m, _ := c.(map[string]any); return m["value"] == o["value"] }) {
				on = " checked"
			}
			fmt.Fprintf(&b, `<label class="choice"><input type="%s" name="%s" value="%s"%s> %s</label>`, kind, name, html.EscapeString(value), on, n.htmlText(o["text"]))
		}
		return b.String()
	case "plain_text_input":
		if multi, _ := e["multiline"].(bool); multi {
			return fmt.Sprintf(`<textarea rows="3" name="%s" id="in-%[1]s" placeholder="%s">%s</textarea>`, name, n.htmlText(e["placeholder"]), "\n"+attr("initial_value"))
		}
		fallthrough
	case "number_input", "email_text_input", "url_text_input":
		return fmt.Sprintf(`<input type="text" autocomplete="off" name="%s" id="in-%[1]s" placeholder="%s" value="%s">`, name, n.htmlText(e["placeholder"]), attr("initial_value"))
	}
	return "<span>" + html.EscapeString(n.element(v)) + "</span>"
}

// confirm is the question before a click, as an attribute.
func (n *names) confirm(v any) string {
	q, ok := v.(map[string]any)
	if !ok {
		return ""
	}
	return fmt.Sprintf(` data-confirm="%s"`, html.EscapeString(n.text(q["title"])+"\n\n"+n.text(q["text"])))
}

func breaks(s string) string { return strings.ReplaceAll(s, "\n", "<br>") }

// placeholder stands for a piece of markup that is made already, while the rest is: a
// number between two characters of private use.
func placeholder(i int) string { return fmt.Sprintf("\uE000%d\uE001", i) }

// html writes mrkdwn.
// https://docs.slack.dev/messaging/formatting-message-text
func (n *names) html(s string) string {
	var done []string
	hold := func(markup string) string {
		done = append(done, markup)
		return placeholder(len(done) - 1)
	}
	literal := func(s string) string {
		return html.EscapeString(html.UnescapeString(angle.ReplaceAllStringFunc(s, n.mrkdwn)))
	}
	s = strings.NewReplacer("\uE000", "", "\uE001", "").Replace(s)
	s = codeBlock.ReplaceAllStringFunc(s, func(m string) string {
		return hold("<pre>" + literal(strings.Trim(strings.Trim(m, "`"), "\n")) + "</pre>")
	})
	s = codeWord.ReplaceAllStringFunc(s, func(m string) string { return hold("<code>" + literal(m[1:len(m)-1]) + "</code>") })
	s = angle.ReplaceAllStringFunc(s, func(m string) string {
		url, label, _ := strings.Cut(m[1:len(m)-1], "|")
		url = html.UnescapeString(url)
		if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
			return hold(`<span class="mention">` + html.EscapeString(n.mrkdwn(m)) + `</span>`)
		}
		if label == "" {
			label = html.EscapeString(url)
		}
		return hold(fmt.Sprintf(`<a href="%s" target="_blank" rel="noopener noreferrer">%s</a>`, html.EscapeString(url), html.EscapeString(html.UnescapeString(label))))
	})
	s = html.EscapeString(html.UnescapeString(s))
	for _, mark := range []struct{ char, tag string }{{"*", "b"}, {"_", "i"}, {"~", "s"}} {
		s = emphasise(s, mark.char, mark.tag)
	}
	s = breaks(s)
	for i, markup := range slices.Backward(done) { // a link's may have that of a word before it in it
		s = strings.Replace(s, placeholder(i), markup, 1)
	}
	return s
}

var (
	codeBlock = regexp.MustCompile("(?s)```.+?```")
	codeWord  = regexp.MustCompile("`[^`\n]+`")
)

// emphasise puts what stands between two marks on one line into a tag. A mark within
// a word is none.
func emphasise(s, mark, tag string) string {
	var out strings.Builder
	for {
		from := strings.Index(s, mark)
		if from < 0 {
			break
		}
		inner, rest, closed := strings.Cut(s[from+1:], mark)
		before, _ := utf8.DecodeLastRuneInString(s[:from])
		after, _ := utf8.DecodeRuneInString(rest)
		if !closed || inner == "" || strings.Contains(inner, "\n") || strings.TrimSpace(inner) != inner || wordy(before) || wordy(after) {
			out.WriteString(s[:from+1])
			s = s[from+1:]
			continue
		}
		out.WriteString(s[:from] + "<" + tag + ">" + inner + "</" + tag + ">")
		s = rest
	}
	return out.String() + s
}

func wordy(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }

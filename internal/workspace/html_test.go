package workspace

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

func TestMrkdwnAsHTML(t *testing.T) {
	n := &names{users: map[string]string{"U1": "ada"}, channels: map[string]string{"C1": "deploys"}}
	for in, want := range map[string]string{
		"*pizza runs 6 of 6* (was 1)":                   "<b>pizza runs 6 of 6</b> (was 1)",
		"_a_, ~b~ and *_both_*":                         "<i>a</i>, <s>b</s> and <b><i>both</i></b>",
		"snake_case_name 2*3*4 * no * a*b":              "snake_case_name 2*3*4 * no * a*b",
		"*not\nover lines*":                             "*not<br>over lines*",
		"`/scale pizza 6` and `a *b* <c>`":              "<code>/scale pizza 6</code> and <code>a *b* c</code>",
		"see ```\nline &lt;1&gt;\n_two_\n``` ok":        "see <pre>line &lt;1&gt;\n_two_</pre> ok",
		"<@U1> in <#C1>, <!here>":                       `<span class="mention">@ada</span> in <span class="mention">#deploys</span>, <span class="mention">@here</span>`,
		"<https://a.example/x_y_z?a=1&amp;b=2|`x` *y*>": `<a href="https://a.example/x_y_z?a=1&amp;b=2" target="_blank" rel="noopener noreferrer"><code>x</code> *y*</a>`,
		"*<https://a.example|a>*":                       `<b><a href="https://a.example" target="_blank" rel="noopener noreferrer">a</a></b>`,
		"<javascript:alert(1)|click>":                   `<span class="mention">click (javascript:alert(1))</span>`,
		`<https://x" onmouseover="alert(1)|y>`:          `<a href="https://x&#34; onmouseover=&#34;alert(1)" target="_blank" rel="noopener noreferrer">y</a>`,
		"&lt;script&gt;alert(1)&lt;/script&gt;":         "&lt;script&gt;alert(1)&lt;/script&gt;",
		"a &amp; b \"c\" 'd'":                           "a &amp; b &#34;c&#34; &#39;d&#39;",
		"``` unclosed *b*":                              "``` unclosed <b>b</b>",
		"\uE0000\uE001 `x`":                             "0 <code>x</code>",
	} {
		if got := n.html(in); got != want {
			t.Errorf("%q:\n got %s\nwant %s", in, got, want)
		}
	}
}

var (
	elements = strings.Fields("html head body b i s br hr a code pre small span div p h2 h3 details summary " +
		"form footer button input label select option textarea")
	attributes = strings.Fields("class href target rel role data-action data-url data-confirm data-view data-close aria-label " +
		"type for id name value placeholder rows autocomplete")
)

func TestMessageAsHTML(t *testing.T) {
	hostile := `"><script>alert(1)</script>`
	text := func(kind string) object { return object{"type": kind, "text": hostile} }
	blocks, err := encode([]object{
		{"type": "header", "block_id": hostile, "text": text("plain_text")},
		{"type": "section", "block_id": "s", "text": text("mrkdwn"), "fields": []object{text("mrkdwn")},
			"accessory": object{"type": "button", "action_id": hostile, "value": hostile, "url": hostile, "style": hostile, "text": text("plain_text"),
				"confirm": object{"title": text("plain_text"), "text": text("mrkdwn")}}},
		{"type": "context", "elements": []object{text("mrkdwn"), {"type": "image", "alt_text": hostile, "image_url": hostile}}},
		{"type": "input", "block_id": hostile, "label": text("plain_text"), "hint": text("plain_text"),
			"element": object{"type": "plain_text_input", "action_id": hostile, "initial_value": hostile, "placeholder": text("plain_text")}},
		{"type": "input", "block_id": "m", "label": text("plain_text"),
			"element": object{"type": "plain_text_input", "multiline": true, "action_id": "m", "initial_value": "</textarea>" + hostile}},
		{"type": "input", "block_id": "o", "label": text("plain_text"),
			"element": object{"type": "static_select", "action_id": "o", "options": []object{{"text": text("plain_text"), "value": hostile}}}},
		{"type": "input", "block_id": "c", "label": text("plain_text"),
			"element": object{"type": "checkboxes", "action_id": "c", "options": []object{{"text": text("plain_text"), "value": hostile}}}},
		{"type": hostile},
	})
	if err != nil {
		t.Fatal(err)
	}
	m := Message{Blocks: blocks, Files: []File{{Title: hostile, Content: []byte("</pre>" + hostile)}},
		Attachments: json.RawMessage(`[{"text":` + string(mustEncode(t, hostile)) + `}]`)}
	v := View{ID: hostile, Title: hostile, SubmitText: hostile, CloseText: hostile, Blocks: blocks, Errors: map[string]string{hostile: hostile}}
	for what, got := range map[string]string{"message": string(m.HTML()), "bare text": string(Message{Text: hostile}.HTML()), "view": string(v.HTML())} {
		if !strings.Contains(got, "alert(1)") {
			t.Errorf("%s does not show the text: %s", what, got)
		}
		root, err := html.Parse(strings.NewReader(got))
		if err != nil {
			t.Fatal(err)
		}
		for e := range root.Descendants() {
			if e.Type == html.ElementNode && !slices.Contains(elements, e.Data) {
				t.Errorf("%s has an element <%s>: %s", what, e.Data, got)
			}
			for _, a := range e.Attr {
				if !slices.Contains(attributes, a.Key) {
					t.Errorf("%s has an attribute %s: %s", what, a.Key, got)
				}
			}
		}
	}
	if got := string(v.HTML()); !strings.Contains(got, `<p class="wrong" role="alert">`) {
		t.Errorf("the view does not say what is wrong: %s", got)
	}
}

func mustEncode(t *testing.T, v any) json.RawMessage {
	t.Helper()
	b, err := encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

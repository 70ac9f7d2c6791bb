package workspace_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/slack-go/slack"

	"waggle/internal/workspace"
)

// rep is a JSON array of n items, each made from the pattern with its number for
// every #.
func rep(n int, pattern string) string {
	items := make([]string, n)
	for i := range items {
		items[i] = strings.ReplaceAll(pattern, "#", fmt.Sprint(i))
	}
	return "[" + strings.Join(items, ",") + "]"
}

func long(n int) string { return strings.Repeat("é", n) }

func TestCheckBlocks(t *testing.T) {
	mrkdwn := func(n int) string { return `{"type":"mrkdwn","text":"` + long(n) + `"}` }
	plain := func(n int) string { return `{"type":"plain_text","text":"` + long(n) + `"}` }
	actions := func(elements string) string { return `[{"type":"actions","elements":[` + elements + `]}]` }
	button := func(extra string) string {
		return actions(`{"type":"button","text":` + plain(5) + extra + `}`)
	}
	confirm := func(title, text, yes int) string {
		return button(`,"confirm":{"title":` + plain(title) + `,"text":` + plain(text) + `,"confirm":` + plain(yes) + `,"deny":` + plain(3) + `}`)
	}
	sel := func(extra string) string {
		return actions(`{"type":"static_select","placeholder":` + plain(5) + extra + `}`)
	}
	const option = `{"text":{"type":"plain_text","text":"o#"},"value":"v#"}`

	tests := map[string]struct {
		blocks string
		want   string // one of the messages; none when empty
	}{
		"section":                   {`[{"type":"section","text":` + mrkdwn(3000) + `}]`, ""},
		"section too long":          {`[{"type":"section","text":` + mrkdwn(3001) + `}]`, "must be less than 3001 characters [json-pointer:/blocks/0/text/text]"},
		"section empty":             {`[{"type":"section","text":` + mrkdwn(0) + `}]`, "must be more than 0 characters [json-pointer:/blocks/0/text/text]"},
		"section without anything":  {`[{"type":"section"}]`, "must define either `fields` or `text` [json-pointer:/blocks/0]"},
		"ten fields":                {`[{"type":"section","fields":` + rep(10, mrkdwn(2000)) + `}]`, ""},
		"eleven fields":             {`[{"type":"divider"},{"type":"section","fields":` + rep(11, mrkdwn(1)) + `}]`, "no more than 10 items allowed [json-pointer:/blocks/1/fields]"},
		"long field":                {`[{"type":"section","fields":[` + mrkdwn(2001) + `]}]`, "must be less than 2001 characters [json-pointer:/blocks/0/fields/0/text]"},
		"header":                    {`[{"type":"header","text":` + plain(150) + `}]`, ""},
		"header too long":           {`[{"type":"header","text":` + plain(151) + `}]`, "must be less than 151 characters [json-pointer:/blocks/0/text/text]"},
		"header in mrkdwn":          {`[{"type":"header","text":` + mrkdwn(1) + `}]`, "unsupported type: mrkdwn [json-pointer:/blocks/0/text/type]"},
		"fifty blocks":              {rep(50, `{"type":"divider"}`), ""},
		"fifty-one blocks":          {rep(51, `{"type":"divider"}`), "no more than 50 items allowed [json-pointer:/blocks]"},
		"block ids":                 {rep(3, `{"type":"divider","block_id":"b#"}`), ""},
		"block ids repeat":          {rep(2, `{"type":"divider","block_id":"b"}`), "`block_id` already exists: b [json-pointer:/blocks/1/block_id]"},
		"block id too long":         {`[{"type":"divider","block_id":"` + long(256) + `"}]`, "must be less than 256 characters [json-pointer:/blocks/0/block_id]"},
		"unknown block":             {`[{"type":"poem"}]`, "unsupported type: poem [json-pointer:/blocks/0/type]"},
		"no type":                   {`[{}]`, "missing required field: type [json-pointer:/blocks/0]"},
		"no object":                 {`["x"]`, "must provide an object [json-pointer:/blocks/0]"},
		"unknown field":             {`[{"type":"divider","color":"red"}]`, "invalid additional property: color [json-pointer:/blocks/0]"},
		"unknown field in text":     {`[{"type":"section","text":{"type":"mrkdwn","text":"x","emoji":true}}]`, "invalid additional property: emoji [json-pointer:/blocks/0/text]"},
		"block_id on an element":    {button(`,"block_id":"x"`), "invalid additional property: block_id [json-pointer:/blocks/0/elements/0]"},
		"text is a number":          {`[{"type":"section","text":{"type":"mrkdwn","text":1}}]`, "must provide a string [json-pointer:/blocks/0/text/text]"},
		"context":                   {`[{"type":"context","elements":` + rep(10, mrkdwn(9)) + `}]`, ""},
		"context of eleven":         {`[{"type":"context","elements":` + rep(11, mrkdwn(9)) + `}]`, "no more than 10 items allowed [json-pointer:/blocks/0/elements]"},
		"context with a button":     {`[{"type":"context","elements":[{"type":"button"}]}]`, "unsupported type: button [json-pointer:/blocks/0/elements/0/type]"},
		"context of nothing":        {`[{"type":"context","elements":[]}]`, "must provide at least 1 items [json-pointer:/blocks/0/elements]"},
		"25 buttons":                {`[{"type":"actions","elements":` + rep(25, `{"type":"button","text":`+plain(75)+`,"action_id":"a#"}`) + `}]`, ""},
		"26 buttons":                {`[{"type":"actions","elements":` + rep(26, `{"type":"button","text":`+plain(75)+`}`) + `}]`, "no more than 25 items allowed [json-pointer:/blocks/0/elements]"},
		"action ids repeat":         {`[{"type":"actions","elements":` + rep(2, `{"type":"button","text":`+plain(75)+`,"action_id":"a"}`) + `}]`, "`action_id` already exists: a [json-pointer:/blocks/0/elements/1/action_id]"},
		"action id too long":        {button(`,"action_id":"` + long(256) + `"`), "must be less than 256 characters [json-pointer:/blocks/0/elements/0/action_id]"},
		"button":                    {button(`,"value":"` + long(2000) + `","style":"danger","url":"https://x.example"`), ""},
		"button label too long":     {actions(`{"type":"button","text":` + plain(76) + `}`), "must be less than 76 characters [json-pointer:/blocks/0/elements/0/text/text]"},
		"button label in mrkdwn":    {actions(`{"type":"button","text":` + mrkdwn(7) + `}`), "unsupported type: mrkdwn [json-pointer:/blocks/0/elements/0/text/type]"},
		"button without label":      {actions(`{"type":"button"}`), "missing required field: text [json-pointer:/blocks/0/elements/0]"},
		"button value too long":     {button(`,"value":"` + long(2001) + `"`), "must be less than 2001 characters [json-pointer:/blocks/0/elements/0/value]"},
		"button url too long":       {button(`,"url":"https:` + long(3000) + `"`), "must be less than 3001 characters [json-pointer:/blocks/0/elements/0/url]"},
		"button style":              {button(`,"style":"default"`), "must be a valid enum value [json-pointer:/blocks/0/elements/0/style]"},
		"confirm":                   {confirm(100, 300, 30), ""},
		"confirm title":             {confirm(101, 300, 30), "must be less than 101 characters [json-pointer:/blocks/0/elements/0/confirm/title/text]"},
		"confirm text":              {confirm(100, 301, 30), "must be less than 301 characters [json-pointer:/blocks/0/elements/0/confirm/text/text]"},
		"confirm yes":               {confirm(100, 300, 31), "must be less than 31 characters [json-pointer:/blocks/0/elements/0/confirm/confirm/text]"},
		"confirm without deny":      {button(`,"confirm":{"title":` + plain(1) + `,"text":` + plain(1) + `,"confirm":` + plain(1) + `}`), "missing required field: deny [json-pointer:/blocks/0/elements/0/confirm]"},
		"image":                     {`[{"type":"image","image_url":"https://x.example/i.png","alt_text":"a hive"}]`, ""},
		"image without alt text":    {`[{"type":"image","image_url":"https://x.example/i.png"}]`, "missing required field: alt_text [json-pointer:/blocks/0]"},
		"image without image":       {`[{"type":"image","alt_text":"a hive"}]`, "must define either `image_url` or `slack_file` [json-pointer:/blocks/0]"},
		"100 options":               {sel(`,"options":` + rep(100, option)), ""},
		"101 options":               {sel(`,"options":` + rep(101, option)), "no more than 100 items allowed [json-pointer:/blocks/0/elements/0/options]"},
		"no options":                {sel(""), "must define either `options` or `option_groups` [json-pointer:/blocks/0/elements/0]"},
		"option label too long":     {sel(`,"options":[{"text":` + plain(76) + `,"value":"v"}]`), "must be less than 76 characters [json-pointer:/blocks/0/elements/0/options/0/text/text]"},
		"option value too long":     {sel(`,"options":[{"text":` + plain(75) + `,"value":"` + long(151) + `"}]`), "must be less than 151 characters [json-pointer:/blocks/0/elements/0/options/0/value]"},
		"url in a select's option":  {sel(`,"options":[{"text":` + plain(5) + `,"value":"v","url":""}]`), "invalid additional property: url [json-pointer:/blocks/0/elements/0/options/0]"},
		"overflow":                  {actions(`{"type":"overflow","options":` + rep(5, option) + `}`), ""},
		"overflow of six":           {actions(`{"type":"overflow","options":` + rep(6, option) + `}`), "no more than 5 items allowed [json-pointer:/blocks/0/elements/0/options]"},
		"ten checkboxes":            {actions(`{"type":"checkboxes","options":` + rep(10, option) + `}`), ""},
		"eleven radio buttons":      {actions(`{"type":"radio_buttons","options":` + rep(11, option) + `}`), "no more than 10 items allowed [json-pointer:/blocks/0/elements/0/options]"},
		"input":                     {`[{"type":"input","label":` + plain(5) + `,"element":{"type":"plain_text_input"}}]`, ""},
		"input without label":       {`[{"type":"input","element":{"type":"plain_text_input"}}]`, "missing required field: label [json-pointer:/blocks/0]"},
		"button in an input":        {`[{"type":"input","label":` + plain(5) + `,"element":{"type":"button"}}]`, "unsupported type: button [json-pointer:/blocks/0/element/type]"},
		"text input in actions":     {actions(`{"type":"plain_text_input"}`), "unsupported type: plain_text_input [json-pointer:/blocks/0/elements/0/type]"},
		"markdown":                  {`[{"type":"markdown","text":"` + long(12_000) + `"}]`, ""},
		"markdown too long":         {`[{"type":"markdown","text":"` + long(12_001) + `"}]`, "must be less than 12001 characters [json-pointer:/blocks/0/text]"},
		"rich text":                 {`[{"type":"rich_text","elements":[{"type":"rich_text_preformatted","elements":[{"type":"text","text":"x"}]}]}]`, ""},
		"accessory":                 {`[{"type":"section","text":` + mrkdwn(5) + `,"accessory":{"type":"button","text":` + plain(5) + `}}]`, ""},
		"characters, and not bytes": {`[{"type":"header","text":{"type":"plain_text","text":"` + strings.Repeat("🐝", 150) + `"}}]`, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := workspace.CheckBlocks(json.RawMessage(tt.blocks))
			if tt.want == "" && len(got) > 0 || tt.want != "" && !slices.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestInvalidBlocksAnswer is about how an app hears of it.
func TestInvalidBlocksAnswer(t *testing.T) {
	w := start(t, nil)
	_, _, err := client(w).PostMessageContext(t.Context(), "C0DEPLOYS", text("x"), slack.MsgOptionBlocks(section(long(3001))))
	var refused slack.SlackErrorResponse
	if !errors.As(err, &refused) || refused.Err != "invalid_blocks" {
		t.Fatalf("got %v", err)
	}
	want := []string{
		"[ERROR] failed to match all allowed schemas [json-pointer:/blocks/0/text]",
		"[ERROR] must be less than 3001 characters [json-pointer:/blocks/0/text/text]",
	}
	if !slices.Equal(refused.ResponseMetadata.Messages, want) {
		t.Errorf("messages %q", refused.ResponseMetadata.Messages)
	}
	if len(refused.Errors) != 2 {
		t.Errorf("errors %+v", refused.Errors)
	}
	if n := len(w.Messages("deploys", "U0ADA")); n != 0 {
		t.Errorf("%d messages posted", n)
	}

	_, _, err = client(w).PostMessageContext(t.Context(), "C0DEPLOYS", slack.MsgOptionBlocks(
		slack.NewMarkdownBlock("", long(7000)), slack.NewMarkdownBlock("", long(7000)),
	))
	wantCode(t, err, "msg_blocks_too_long")
}

// TestSlackGoElements: everything slack-go builds and Slack takes is taken.
func TestSlackGoElements(t *testing.T) {
	w := start(t, nil)
	p := func(s string) *slack.TextBlockObject {
		return slack.NewTextBlockObject(slack.PlainTextType, s, true, false)
	}
	o := slack.NewOptionBlockObject("v", p("o"), p("d"))
	group := slack.NewOptionGroupBlockElement(p("g"), o)
	confirm := slack.NewConfirmationBlockObject(p("Sure?"), p("really"), p("Yes"), p("No")).WithStyle(slack.StyleDanger)
	blocks := []slack.Block{
		section("s"),
		slack.NewSectionBlock(nil, []*slack.TextBlockObject{p("a"), p("b")}, slack.NewAccessory(slack.NewImageBlockElement("https://x.example/i.png", "i"))),
		slack.NewActionBlock("act",
			button("b", "B", "v").WithConfirm(confirm).WithURL("https://x.example"),
			slack.NewOptionsSelectBlockElement(slack.OptTypeStatic, p("pick"), "s", o).WithInitialOption(o),
			slack.NewOptionsGroupSelectBlockElement(slack.OptTypeStatic, p("pick"), "g", group),
			slack.NewOptionsSelectBlockElement(slack.OptTypeUser, p("who"), "u"),
			slack.NewOverflowBlockElement("o", o),
			slack.NewCheckboxGroupsBlockElement("c", o),
			slack.NewRadioButtonsBlockElement("r", o),
			slack.NewDatePickerBlockElement("d"),
			slack.NewTimePickerBlockElement("t"),
		),
		slack.NewInputBlock("in", p("l"), p("h"), slack.NewPlainTextInputBlockElement(p("p"), "x").WithMaxLength(5)),
		slack.NewDividerBlock(),
		slack.NewImageBlock("https://x.example/i.png", "alt", "", p("t")),
		slack.NewRichTextBlock("", slack.NewRichTextSection(slack.NewRichTextSectionTextElement("t", nil))),
		slack.NewMarkdownBlock("", "**m**"),
	}
	_, ts, err := client(w).PostMessageContext(t.Context(), "C0DEPLOYS", text("x"), slack.MsgOptionBlocks(blocks...))
	if err != nil {
		var refused slack.SlackErrorResponse
		errors.As(err, &refused)
		t.Fatalf("%v %q", err, refused.ResponseMetadata.Messages)
	}
	m, _ := w.Message("U0ADA", "deploys", ts)
	const want = "s\na\nb [image: i]\n[B] [o ▾] [pick ▾] [who ▾] [...] [ ] o ( ) o [] []\nl: [p]\nh\n----------\n[image: t: alt]\nt\n**m**"
	if got := m.Plain(); got != want {
		t.Errorf("plain:\n%s\nwant:\n%s", got, want)
	}
	if c := m.Controls()[0]; c.Confirm == nil || c.Confirm.Deny != "No" || c.URL == "" {
		t.Errorf("control %+v", c)
	}
}

func FuzzCheckBlocks(f *testing.F) {
	f.Add(`[{"type":"section","text":{"type":"mrkdwn","text":"x"},"accessory":{"type":"button"}}]`)
	f.Add(`[{"type":"actions","elements":[{"type":"static_select","option_groups":[{"options":[{}]}]}]}]`)
	f.Add(`[{"type":"rich_text","elements":[1]}]`)
	f.Fuzz(func(t *testing.T, raw string) {
		if len(workspace.CheckBlocks(json.RawMessage(raw))) == 0 && !json.Valid([]byte(raw)) {
			t.Error("accepted what is not JSON")
		}
	})
}

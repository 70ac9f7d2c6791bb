package workspace

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// The limits of Block Kit that hold for a whole message or view.
// https://docs.slack.dev/reference/block-kit/blocks
const (
	maxMessageBlocks = 50
	maxViewBlocks    = 100
	maxMarkdown      = 12_000 // characters of all markdown blocks together
)

// Error texts are those of the JSON schema validator that Slack published and
// answers with: github.com/slackhq/hack-json-schema.

// checker collects what is wrong with a payload.
type checker struct {
	view   bool // a view, not a message
	errors []string
}

// fail notes a fault of the value at ptr, a JSON pointer.
func (c *checker) fail(ptr, format string, args ...any) {
	c.errors = append(c.errors, fmt.Sprintf(format, args...)+" [json-pointer:"+ptr+"]")
}

// rule checks the value at ptr. Values are those of encoding/json with
// UseNumber.
type rule func(c *checker, ptr string, v any)

// checkMessageBlocks validates the blocks of a message and returns them with a
// block_id and action_id wherever the app left them out, as Slack does. The
// result is nil for an empty array. w.mu is held.
func (w *Workspace) checkMessageBlocks(raw json.RawMessage) (json.RawMessage, *apiError) {
	v, err := decode(raw)
	if err != nil {
		return nil, refuse("invalid_blocks_format")
	}
	blocks, ok := v.([]any)
	if !ok {
		return nil, refuse("invalid_blocks_format")
	}
	if len(blocks) == 0 {
		return nil, nil
	}
	c := &checker{}
	checkBlocks(c, "/blocks", blocks, maxMessageBlocks)
	if len(c.errors) > 0 {
		return nil, refuse("invalid_blocks", c.errors...)
	}
	markdown := 0
	for _, b := range blocks {
		if m := b.(map[string]any); m["type"] == "markdown" {
			markdown += utf8.RuneCountInString(m["text"].(string))
		}
	}
	if markdown > maxMarkdown {
		return nil, refuse("msg_blocks_too_long")
	}
	w.nameBlocks(blocks)
	out, err := encode(blocks)
	if err != nil {
		return nil, refuse("invalid_blocks_format")
	}
	return out, nil
}

// CheckBlocks validates the blocks of a message, a JSON array, and returns what
// Slack would answer in response_metadata.messages, without "[ERROR] ". An app
// can use it in tests of what it builds.
func CheckBlocks(raw json.RawMessage) []string {
	v, err := decode(raw)
	blocks, ok := v.([]any)
	if err != nil || !ok {
		return []string{"must provide an array [json-pointer:/blocks]"}
	}
	c := &checker{}
	checkBlocks(c, "/blocks", blocks, maxMessageBlocks)
	return c.errors
}

// decode parses one JSON value, keeping numbers as written.
func decode(raw json.RawMessage) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("more than one JSON value")
	}
	return v, nil
}

// encode writes v without escaping <, > and &.
func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return json.RawMessage(bytes.TrimSpace(b.Bytes())), nil
}

// nameBlocks gives a block_id to each block and an action_id to each interactive
// element that has none. w.mu is held.
func (w *Workspace) nameBlocks(blocks []any) {
	for _, b := range blocks {
		m := b.(map[string]any)
		if id, _ := m["block_id"].(string); id == "" {
			m["block_id"] = w.nextID("b")
		}
		for _, e := range elementsOf(m) {
			if t, _ := e["type"].(string); interactive[t] {
				if id, _ := e["action_id"].(string); id == "" {
					e["action_id"] = w.nextID("a")
				}
			}
		}
	}
}

// elementsOf returns the elements of a block, wherever it keeps them.
func elementsOf(block map[string]any) []map[string]any {
	var out []map[string]any
	for _, key := range []string{"accessory", "element"} {
		if e, ok := block[key].(map[string]any); ok {
			out = append(out, e)
		}
	}
	if list, ok := block["elements"].([]any); ok && block["type"] != "rich_text" {
		for _, e := range list {
			if m, ok := e.(map[string]any); ok {
				out = append(out, m)
			}
		}
	}
	return out
}

// checkBlocks checks an array of blocks and what must be unique among them.
func checkBlocks(c *checker, ptr string, blocks []any, limit int) {
	if len(blocks) > limit {
		c.fail(ptr, "no more than %d items allowed", limit)
	}
	ids := make(map[string]bool)
	tables := 0
	for i, b := range blocks {
		at := fmt.Sprintf("%s/%d", ptr, i)
		blockRule(c, at, b)
		m, ok := b.(map[string]any)
		if !ok {
			continue
		}
		if id, _ := m["block_id"].(string); id != "" {
			if ids[id] {
				c.fail(at+"/block_id", "`block_id` already exists: %s", id) // wording not documented
			}
			ids[id] = true
		}
		if m["type"] == "table" {
			if tables++; tables == 2 {
				c.fail(at, "only one table allowed") // wording not documented
			}
		}
		actions := make(map[string]bool)
		for j, e := range elementsOf(m) {
			if id, _ := e["action_id"].(string); id != "" {
				if actions[id] {
					c.fail(fmt.Sprintf("%s/elements/%d/action_id", at, j), "`action_id` already exists: %s", id) // wording not documented
				}
				actions[id] = true
			}
		}
	}
}

// blockRule checks one block by its type.
func blockRule(c *checker, ptr string, v any) {
	allowed := messageBlocks
	if c.view {
		allowed = viewBlocks
	}
	byType(allowed)(c, ptr, v)
}

// byType picks the rule of the value's "type".
func byType(rules map[string]rule) rule {
	return func(c *checker, ptr string, v any) {
		m, ok := v.(map[string]any)
		if !ok {
			c.fail(ptr, "must provide an object")
			return
		}
		t, ok := m["type"].(string)
		if _, given := m["type"]; !given {
			c.fail(ptr, "missing required field: type")
			return
		}
		r, known := rules[t]
		if !ok || !known {
			c.fail(ptr+"/type", "unsupported type: %v", m["type"])
			return
		}
		r(c, ptr, v)
	}
}

// obj is an object with the given fields and no others. Fields named in
// required, separated by spaces, must be there.
func obj(required string, fields map[string]rule) rule {
	return func(c *checker, ptr string, v any) {
		m, ok := v.(map[string]any)
		if !ok {
			c.fail(ptr, "must provide an object")
			return
		}
		for _, f := range strings.Fields(required) {
			if _, ok := m[f]; !ok {
				c.fail(ptr, "missing required field: %s", f)
			}
		}
		for _, k := range slices.Sorted(maps.Keys(m)) {
			r, ok := fields[k]
			if !ok {
				c.fail(ptr, "invalid additional property: %s", k)
				continue
			}
			r(c, ptr+"/"+k, m[k])
		}
	}
}

// block is obj with a type and an optional block_id.
func block(required string, fields map[string]rule) rule {
	fields["type"] = anything
	fields["block_id"] = str(0, 255)
	return obj(required, fields)
}

// element is obj with a type.
func element(required string, fields map[string]rule) rule {
	fields["type"] = anything
	return obj(required, fields)
}

// action is an interactive element: with an optional action_id.
func action(required string, fields map[string]rule) rule {
	fields["action_id"] = str(0, 255)
	return element(required, fields)
}

// also runs further checks on an object after r.
func also(r rule, more func(c *checker, ptr string, m map[string]any)) rule {
	return func(c *checker, ptr string, v any) {
		r(c, ptr, v)
		if m, ok := v.(map[string]any); ok {
			more(c, ptr, m)
		}
	}
}

func anything(*checker, string, any) {}

// str is a string of lo to hi characters.
func str(lo, hi int) rule {
	return func(c *checker, ptr string, v any) {
		s, ok := v.(string)
		if !ok {
			c.fail(ptr, "must provide a string")
			return
		}
		switch n := utf8.RuneCountInString(s); {
		case n < lo:
			c.fail(ptr, "must be more than %d characters", lo-1)
		case n > hi:
			c.fail(ptr, "must be less than %d characters", hi+1)
		}
	}
}

// oneOf is one of some strings.
func oneOf(values ...string) rule {
	return func(c *checker, ptr string, v any) {
		if s, ok := v.(string); !ok || !slices.Contains(values, s) {
			c.fail(ptr, "must be a valid enum value")
		}
	}
}

// boolean is true or false.
func boolean(c *checker, ptr string, v any) {
	if _, ok := v.(bool); !ok {
		c.fail(ptr, "must provide a boolean")
	}
}

// integer is a whole number of lo to hi.
func integer(lo, hi int64) rule {
	return func(c *checker, ptr string, v any) {
		num, _ := v.(json.Number)
		n, err := num.Int64()
		switch {
		case err != nil:
			c.fail(ptr, "must provide an integer")
		case n < lo:
			c.fail(ptr, "must be greater than or equal to %d", lo)
		case n > hi:
			c.fail(ptr, "must be less than or equal to %d", hi)
		}
	}
}

// list is an array of lo to hi items.
func list(lo, hi int, item rule) rule {
	return func(c *checker, ptr string, v any) {
		a, ok := v.([]any)
		switch {
		case !ok:
			c.fail(ptr, "must provide an array")
			return
		case len(a) < lo:
			c.fail(ptr, "must provide at least %d items", lo)
		case len(a) > hi:
			c.fail(ptr, "no more than %d items allowed", hi)
		}
		for i, e := range a {
			item(c, fmt.Sprintf("%s/%d", ptr, i), e)
		}
	}
}

// plain is a plain_text object of at most hi characters.
// https://docs.slack.dev/reference/block-kit/composition-objects/text-object
func plain(hi int) rule {
	return byType(map[string]rule{
		"plain_text": element("type text", map[string]rule{"text": str(1, hi), "emoji": boolean}),
	})
}

// text is a plain_text or mrkdwn object of at most hi characters. A fault is
// reported for the choice between the two as well, as Slack does.
func text(hi int) rule {
	either := byType(map[string]rule{
		"plain_text": element("type text", map[string]rule{"text": str(1, hi), "emoji": boolean}),
		"mrkdwn":     element("type text", map[string]rule{"text": str(1, hi), "verbatim": boolean}),
	})
	return func(c *checker, ptr string, v any) {
		inner := &checker{view: c.view}
		either(inner, ptr, v)
		if len(inner.errors) > 0 {
			c.fail(ptr, "failed to match all allowed schemas")
			c.errors = append(c.errors, inner.errors...)
		}
	}
}

// link is an http(s), mailto or app URL of at most 3000 characters.
func link(c *checker, ptr string, v any) {
	str(1, 3000)(c, ptr, v)
	if s, ok := v.(string); ok && s != "" && !strings.Contains(s, ":") {
		c.fail(ptr, "must be a valid URL") // wording not documented
	}
}

// The composition objects.
var (
	// https://docs.slack.dev/reference/block-kit/composition-objects/confirmation-dialog-object
	confirm = obj("title text confirm deny", map[string]rule{
		"title": plain(100), "text": text(300), "confirm": plain(30), "deny": plain(30),
		"style": oneOf("primary", "danger"),
	})
	// https://docs.slack.dev/reference/block-kit/composition-objects/option-object
	optionPlain    = option(plain(75), plain(75))
	optionRich     = option(text(75), text(75))
	optionOverflow = obj("text value", map[string]rule{
		"text": plain(75), "value": str(1, 150), "description": plain(75), "url": link,
	})
	// https://docs.slack.dev/reference/block-kit/composition-objects/option-group-object
	optionGroup = obj("label options", map[string]rule{"label": plain(75), "options": list(1, 100, optionPlain)})
	// https://docs.slack.dev/reference/block-kit/composition-objects/dispatch-action-configuration-object
	dispatchConfig = obj("", map[string]rule{
		"trigger_actions_on": list(1, 2, oneOf("on_enter_pressed", "on_character_entered")),
	})
	// https://docs.slack.dev/reference/block-kit/composition-objects/conversation-filter-object
	conversationFilter = obj("", map[string]rule{
		"include":                          list(1, 4, oneOf("im", "mpim", "private", "public")),
		"exclude_external_shared_channels": boolean, "exclude_bot_users": boolean,
	})
	slackFile = obj("", map[string]rule{"id": str(1, 255), "url": link})
)

func option(label, description rule) rule {
	return obj("text value", map[string]rule{"text": label, "value": str(1, 150), "description": description})
}

// The elements. https://docs.slack.dev/reference/block-kit/block-elements
var (
	buttonElement = action("text", map[string]rule{
		"text": plain(75), "value": str(0, 2000), "url": link, "style": oneOf("primary", "danger"),
		"confirm": confirm, "accessibility_label": str(0, 75),
	})
	imageElement = also(element("alt_text", map[string]rule{
		"image_url": link, "alt_text": str(1, 2000), "slack_file": slackFile,
	}), needsImage)
	overflowElement = action("options", map[string]rule{"options": list(1, 5, optionOverflow), "confirm": confirm})
	checkboxes      = action("options", map[string]rule{
		"options": list(1, 10, optionRich), "initial_options": list(1, 10, optionRich), "confirm": confirm, "focus_on_load": boolean,
	})
	radioButtons = action("options", map[string]rule{
		"options": list(1, 10, optionRich), "initial_option": optionRich, "confirm": confirm, "focus_on_load": boolean,
	})
	datepicker = action("", map[string]rule{
		"initial_date": str(10, 10), "confirm": confirm, "focus_on_load": boolean, "placeholder": plain(150),
	})
	timepicker = action("", map[string]rule{
		"initial_time": str(5, 5), "confirm": confirm, "focus_on_load": boolean, "placeholder": plain(150), "timezone": str(1, 255),
	})
	datetimepicker = action("", map[string]rule{
		"initial_date_time": integer(0, math.MaxInt64), "confirm": confirm, "focus_on_load": boolean,
	})
	plainTextInput = action("", map[string]rule{
		"initial_value": str(0, 3000), "multiline": boolean, "min_length": integer(0, 3000), "max_length": integer(1, 3000),
		"dispatch_action_config": dispatchConfig, "focus_on_load": boolean, "placeholder": plain(150),
	})
	textInput = action("", map[string]rule{
		"initial_value": str(0, 3000), "dispatch_action_config": dispatchConfig, "focus_on_load": boolean, "placeholder": plain(150),
	})
	numberInput = action("is_decimal_allowed", map[string]rule{
		"is_decimal_allowed": boolean, "initial_value": str(0, 255), "min_value": str(0, 255), "max_value": str(0, 255),
		"dispatch_action_config": dispatchConfig, "focus_on_load": boolean, "placeholder": plain(150),
	})
	richTextInput = action("", map[string]rule{
		"initial_value": anything, "dispatch_action_config": dispatchConfig, "focus_on_load": boolean, "placeholder": plain(150),
		"min_lines": integer(1, 100), "max_lines": integer(1, 100),
	})
	fileInput = action("", map[string]rule{"filetypes": list(1, 100, str(1, 255)), "max_files": integer(1, 10)})

	staticSelect = also(action("", map[string]rule{
		"options": list(1, 100, optionPlain), "option_groups": list(1, 100, optionGroup), "initial_option": optionPlain,
		"confirm": confirm, "focus_on_load": boolean, "placeholder": plain(150),
	}), needsOptions)
	multiStaticSelect = also(action("", map[string]rule{
		"options": list(1, 100, optionPlain), "option_groups": list(1, 100, optionGroup), "initial_options": list(1, 100, optionPlain),
		"max_selected_items": integer(1, 100), "confirm": confirm, "focus_on_load": boolean, "placeholder": plain(150),
	}), needsOptions)
)

// picker is a select menu whose options come from Slack or from the app.
func picker(extra map[string]rule) rule {
	fields := map[string]rule{"confirm": confirm, "focus_on_load": boolean, "placeholder": plain(150)}
	maps.Copy(fields, extra)
	return action("", fields)
}

var selects = map[string]rule{
	"static_select":        staticSelect,
	"multi_static_select":  multiStaticSelect,
	"external_select":      picker(map[string]rule{"initial_option": optionPlain, "min_query_length": integer(0, 255)}),
	"users_select":         picker(map[string]rule{"initial_user": str(1, 255)}),
	"channels_select":      picker(map[string]rule{"initial_channel": str(1, 255), "response_url_enabled": boolean}),
	"conversations_select": picker(map[string]rule{"initial_conversation": str(1, 255), "response_url_enabled": boolean, "default_to_current_conversation": boolean, "filter": conversationFilter}),
	"multi_external_select": picker(map[string]rule{
		"initial_options": list(1, 100, optionPlain), "min_query_length": integer(0, 255), "max_selected_items": integer(1, 100),
	}),
	"multi_users_select":    picker(map[string]rule{"initial_users": list(1, 100, str(1, 255)), "max_selected_items": integer(1, 100)}),
	"multi_channels_select": picker(map[string]rule{"initial_channels": list(1, 100, str(1, 255)), "max_selected_items": integer(1, 100)}),
	"multi_conversations_select": picker(map[string]rule{
		"initial_conversations": list(1, 100, str(1, 255)), "max_selected_items": integer(1, 100), "default_to_current_conversation": boolean, "filter": conversationFilter,
	}),
}

// interactive are the types of elements that have an action_id.
var interactive = func() map[string]bool {
	out := make(map[string]bool)
	for t := range union(selects, inputElements, actionElements) {
		out[t] = true
	}
	return out
}()

// union joins maps of rules.
func union(ms ...map[string]rule) map[string]rule {
	out := make(map[string]rule)
	for _, m := range ms {
		maps.Copy(out, m)
	}
	return out
}

var (
	pickers = map[string]rule{
		"checkboxes": checkboxes, "radio_buttons": radioButtons,
		"datepicker": datepicker, "timepicker": timepicker, "datetimepicker": datetimepicker,
	}
	// Which elements a block takes is on each element's page, under "Works with
	// block types".
	accessoryElements = union(selects, pickers, map[string]rule{"button": buttonElement, "image": imageElement, "overflow": overflowElement})
	actionElements    = union(selects, pickers, map[string]rule{"button": buttonElement, "overflow": overflowElement})
	inputElements     = union(selects, pickers, map[string]rule{
		"plain_text_input": plainTextInput, "email_text_input": textInput, "url_text_input": textInput,
		"number_input": numberInput, "rich_text_input": richTextInput, "file_input": fileInput,
	})
)

// The blocks. https://docs.slack.dev/reference/block-kit/blocks
var (
	section = also(block("", map[string]rule{
		"text": text(3000), "fields": list(1, 10, text(2000)), "accessory": byType(accessoryElements), "expand": boolean,
	}), func(c *checker, ptr string, m map[string]any) {
		if m["text"] == nil && m["fields"] == nil {
			c.fail(ptr, "must define either `fields` or `text`")
		}
	})
	header       = block("text", map[string]rule{"text": plain(150), "level": integer(1, 4)})
	divider      = block("", map[string]rule{})
	contextBlock = block("elements", map[string]rule{"elements": list(1, 10, contextElement)})
	actions      = block("elements", map[string]rule{"elements": list(1, 25, byType(actionElements))})
	image        = also(block("alt_text", map[string]rule{
		"image_url": link, "slack_file": slackFile, "alt_text": str(1, 2000), "title": plain(2000),
	}), needsImage)
	input = block("label element", map[string]rule{
		"label": plain(2000), "element": byType(inputElements), "hint": plain(2000), "optional": boolean, "dispatch_action": boolean,
	})
	markdown = block("text", map[string]rule{"text": str(1, maxMarkdown)})
	video    = block("alt_text title thumbnail_url video_url", map[string]rule{
		"alt_text": str(1, 2000), "title": plain(200), "thumbnail_url": link, "video_url": link, "title_url": link,
		"author_name": str(0, 50), "provider_name": str(0, 50), "provider_icon_url": link, "description": plain(200),
	})
	// Loosely: rich text is what clients write, tables and feedback buttons are
	// not used here.
	richText = block("elements", map[string]rule{
		"elements": list(0, math.MaxInt, byType(map[string]rule{
			"rich_text_section": anything, "rich_text_list": anything, "rich_text_preformatted": anything, "rich_text_quote": anything,
		})),
	})
	table          = block("rows", map[string]rule{"rows": list(1, 100, list(1, 20, anything)), "column_settings": list(0, 20, anything)})
	contextActions = block("elements", map[string]rule{"elements": list(1, 5, anything)})

	everywhere = map[string]rule{
		"section": section, "header": header, "divider": divider, "context": contextBlock, "actions": actions,
		"image": image, "input": input, "video": video, "rich_text": richText,
	}
	messageBlocks = union(everywhere, map[string]rule{"markdown": markdown, "table": table, "context_actions": contextActions})
	viewBlocks    = everywhere
)

// contextElement is an image or a text.
func contextElement(c *checker, ptr string, v any) {
	if m, ok := v.(map[string]any); ok && m["type"] == "image" {
		imageElement(c, ptr, v)
		return
	}
	text(2000)(c, ptr, v)
}

// needsImage: an image has a URL or a Slack file, and not both.
func needsImage(c *checker, ptr string, m map[string]any) {
	if (m["image_url"] == nil) == (m["slack_file"] == nil) {
		c.fail(ptr, "must define either `image_url` or `slack_file`") // wording not documented
	}
}

// needsOptions: a static select has options or groups of them, and not both.
func needsOptions(c *checker, ptr string, m map[string]any) {
	if (m["options"] == nil) == (m["option_groups"] == nil) {
		c.fail(ptr, "must define either `options` or `option_groups`") // wording not documented
	}
}

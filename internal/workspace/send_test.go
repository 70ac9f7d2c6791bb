package workspace_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slack-go/slack"

	"waggle/internal/workspace"
)

func TestCommand(t *testing.T) {
	w := start(t, nil)
	got := make(chan slack.SlashCommand, 1)
	serve(t, w, &app{command: func(_ http.ResponseWriter, c slack.SlashCommand) { got <- c }})
	ack, err := w.Command(t.Context(), workspace.CommandInput{
		User: "U0LINUS", Channel: "deploys", Command: "/scale", Text: ` pizza “6” & <more> @ada `,
	})
	if err != nil || !ack.OK() || ack.Status != http.StatusOK || ack.Took <= 0 {
		t.Fatalf("ack %+v, %v", ack, err)
	}
	c := <-got
	want := slack.SlashCommand{
		Token: w.App().VerificationToken, TeamID: w.TeamID(), TeamDomain: "waggle", ChannelID: "C0DEPLOYS", ChannelName: "deploys",
		UserID: "U0LINUS", UserName: "linus", Command: "/scale", Text: "pizza “6” &amp; &lt;more&gt; @ada",
		APIAppID: w.App().ID, ResponseURL: ack.ResponseURL, TriggerID: ack.TriggerID,
	}
	if c != want {
		t.Errorf("command\n%+v, want\n%+v", c, want)
	}
	if n := len(w.Messages("deploys", "U0LINUS")); n != 0 {
		t.Errorf("an empty acknowledgement showed %d messages", n)
	}
}

func TestCommandEscapesEntities(t *testing.T) {
	w := start(t, func(o *workspace.Options) { o.App.EscapeEntities = true })
	var got string
	serve(t, w, &app{command: func(_ http.ResponseWriter, c slack.SlashCommand) { got = c.Text }})
	_, err := w.Command(t.Context(), workspace.CommandInput{
		User: "U0ADA", Channel: "ops", Command: "/app",
		Text: "link @ada @operators @nobody #deploys a@ada https://x.example/a?b=1&c registry.example.com:5000/pizza 10.0.0.1",
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = "link <@U0ADA|ada> <!subteam^S0OPERATORS|@operators> @nobody <#C0DEPLOYS|deploys> a@ada <https://x.example/a?b=1&amp;c> " +
		"<http://registry.example.com:5000/pizza|registry.example.com:5000/pizza> 10.0.0.1"
	if got != want {
		t.Errorf("text\n%s, want\n%s", got, want)
	}
}

func TestCommandAnswers(t *testing.T) {
	tests := map[string]struct {
		answer       func(http.ResponseWriter)
		linus, grace string // what they see
		code         string
	}{
		"text": {
			func(rw http.ResponseWriter) { _, _ = io.WriteString(rw, "on it") },
			"waggle (only visible to you):\n  on it\n", "(nothing to see)\n", "",
		},
		"ephemeral": {
			func(rw http.ResponseWriter) { _, _ = io.WriteString(rw, `{"text":"on it"}`) },
			"waggle (only visible to you):\n  on it\n", "(nothing to see)\n", "",
		},
		"in the channel": {
			func(rw http.ResponseWriter) {
				_, _ = io.WriteString(rw, `{"response_type":"in_channel","text":"on it"}`)
			},
			"linus:\n  /scale pizza 6\nwaggle:\n  on it\n", "linus:\n  /scale pizza 6\nwaggle:\n  on it\n", "",
		},
		"invalid blocks": {
			func(rw http.ResponseWriter) { _, _ = io.WriteString(rw, `{"blocks":[{"type":"poem"}]}`) },
			"slackbot (only visible to you):\n  /scale failed with the error \"invalid_command_response\"\n", "(nothing to see)\n", "invalid_command_response",
		},
		"server error": {
			func(rw http.ResponseWriter) { http.Error(rw, "oops", http.StatusInternalServerError) },
			"slackbot (only visible to you):\n  /scale failed with the error \"dispatch_failed\"\n", "(nothing to see)\n", "dispatch_failed",
		},
		"redirect": {
			func(rw http.ResponseWriter) { rw.Header().Set("Location", "/x"); rw.WriteHeader(http.StatusFound) },
			"slackbot (only visible to you):\n  /scale failed with the error \"dispatch_failed\"\n", "(nothing to see)\n", "dispatch_failed",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := start(t, nil)
			serve(t, w, &app{command: func(rw http.ResponseWriter, _ slack.SlashCommand) { tt.answer(rw) }})
			ack, err := w.Command(t.Context(), workspace.CommandInput{User: "U0LINUS", Channel: "deploys", Command: "/scale", Text: "pizza 6"})
			if err != nil || ack.Error != tt.code {
				t.Errorf("ack %+v, %v", ack, err)
			}
			if got := w.Screen("deploys", "U0LINUS"); got != tt.linus {
				t.Errorf("linus sees\n%s, want\n%s", got, tt.linus)
			}
			if got := w.Screen("deploys", "U0GRACE"); got != tt.grace {
				t.Errorf("grace sees\n%s, want\n%s", got, tt.grace)
			}
		})
	}
}

func TestCommandTimeout(t *testing.T) {
	w := start(t, func(o *workspace.Options) { o.AckTimeout = 20 * time.Millisecond })
	hang := make(chan struct{})
	serve(t, w, &app{command: func(http.ResponseWriter, slack.SlashCommand) { <-hang }})
	defer close(hang)
	ack, err := w.Command(t.Context(), workspace.CommandInput{User: "U0LINUS", Channel: "deploys", Command: "/scale"})
	if err != nil || ack.Error != "operation_timeout" {
		t.Errorf("ack %+v, %v", ack, err)
	}
	if got := w.Screen("deploys", "U0LINUS"); !strings.Contains(got, `/scale failed with the error "operation_timeout"`) {
		t.Errorf("screen\n%s", got)
	}
}

func TestCommandsThatCannotBeTyped(t *testing.T) {
	w := start(t, func(o *workspace.Options) { o.App.Commands = []string{"/scale"} })
	tests := map[string]workspace.CommandInput{
		"not registered":     {User: "U0ADA", Channel: "deploys", Command: "/status"},
		"in a thread":        {User: "U0ADA", Channel: "deploys", Command: "/scale", ThreadTS: "1.1"},
		"in a private":       {User: "U0LINUS", Channel: "ops", Command: "/scale"},
		"guest elsewhere":    {User: "U0GIL", Channel: "general", Command: "/scale"},
		"in an archived one": {User: "U0ADA", Channel: "old", Command: "/scale"},
		"by nobody":          {User: "U0NONE", Channel: "deploys", Command: "/scale"},
		"by a deactivated":   {User: "U0MALLORY", Channel: "deploys", Command: "/scale"},
	}
	for name, in := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := w.Command(t.Context(), in); err == nil {
				t.Error("it could")
			}
		})
	}
	ack, err := w.Command(t.Context(), workspace.CommandInput{User: "U0ADA", Channel: "deploys", Command: "/scale"})
	if err != nil || ack.Error != "dispatch_failed" {
		t.Errorf("no events URL: %+v, %v", ack, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Command(ctx, workspace.CommandInput{User: "U0ADA", Channel: "deploys", Command: "/scale"}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestStaleSignature(t *testing.T) {
	clock := workspace.NewManualClock(time.Now().Add(-6 * time.Minute))
	w := start(t, func(o *workspace.Options) { o.Clock = clock.Now })
	serve(t, w, &app{command: func(http.ResponseWriter, slack.SlashCommand) {}})
	in := workspace.CommandInput{User: "U0ADA", Channel: "deploys", Command: "/scale"}
	if ack, _ := w.Command(t.Context(), in); ack.Status != http.StatusUnauthorized {
		t.Errorf("ack %+v", ack)
	}
	clock.Advance(6 * time.Minute)
	if ack, _ := w.Command(t.Context(), in); ack.Status != http.StatusOK {
		t.Errorf("ack %+v", ack)
	}
}

func TestClick(t *testing.T) {
	w := start(t, nil)
	api := client(w)
	ctx := t.Context()
	got := make(chan slack.InteractionCallback, 1)
	serve(t, w, &app{interact: func(_ http.ResponseWriter, c slack.InteractionCallback) { got <- c }})
	option := slack.NewOptionBlockObject("two", slack.NewTextBlockObject(slack.PlainTextType, "2", false, false), nil)
	_, ts, err := api.PostMessageContext(ctx, "C0OPS", text("t"), slack.MsgOptionBlocks(slack.NewActionBlock("blk",
		button("approve", "Approve", "op-1").WithStyle(slack.StylePrimary),
		slack.NewOptionsSelectBlockElement(slack.OptTypeStatic, nil, "pick", option),
	)))
	if err != nil {
		t.Fatal(err)
	}
	m, _ := w.Message("U0GRACE", "ops", ts)
	ack, err := w.Click(ctx, "U0GRACE", m, "approve")
	if err != nil || !ack.OK() {
		t.Fatalf("ack %+v, %v", ack, err)
	}
	c := <-got
	if c.Type != slack.InteractionTypeBlockActions || c.User.ID != "U0GRACE" || c.User.Name != "grace" || c.User.TeamID != w.TeamID() ||
		c.Team.ID != w.TeamID() || c.Channel.ID != "C0OPS" || c.Channel.Name != "privategroup" || c.Message.Timestamp != ts ||
		c.Container.MessageTs != ts || c.Container.ChannelID != "C0OPS" || c.ResponseURL != ack.ResponseURL || c.TriggerID != ack.TriggerID {
		t.Errorf("callback %+v", c)
	}
	a := c.ActionCallback.BlockActions[0]
	if a.ActionID != "approve" || a.BlockID != "blk" || a.Value != "op-1" || a.Text.Text != "Approve" || a.ActionTs == "" {
		t.Errorf("action %+v", a)
	}
	if _, err := w.Choose(ctx, "U0ADA", m, "pick", "two"); err != nil {
		t.Error(err)
	}
	if a := (<-got).ActionCallback.BlockActions[0]; a.SelectedOption.Value != "two" {
		t.Errorf("action %+v", a)
	}
	if _, err := w.Choose(ctx, "U0ADA", m, "pick", "three"); !errors.Is(err, workspace.ErrNoElement) {
		t.Errorf("no option: %v", err)
	}
	if _, err := w.Click(ctx, "U0LINUS", m, "approve"); err == nil {
		t.Error("linus is not in the channel")
	}
	if _, _, _, err := api.UpdateMessageContext(ctx, "C0OPS", ts, text("approved")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Click(ctx, "U0GRACE", m, "approve"); !errors.Is(err, workspace.ErrNoElement) {
		t.Errorf("gone: %v", err)
	}
	eph, err := api.PostEphemeralContext(ctx, "C0OPS", "U0ADA", slack.MsgOptionBlocks(slack.NewActionBlock("", button("x", "X", ""))))
	if err != nil {
		t.Fatal(err)
	}
	m, _ = w.Message("U0ADA", "ops", eph)
	if _, err := w.Click(ctx, "U0GRACE", m, "x"); !errors.Is(err, workspace.ErrNoMessage) {
		t.Errorf("somebody else's: %v", err)
	}
	if _, err := w.Click(ctx, "U0ADA", m, "x"); err != nil || !(<-got).Container.IsEphemeral {
		t.Errorf("ephemeral: %v", err)
	}
}

func TestClickInAnAttachment(t *testing.T) {
	w := start(t, nil)
	got := make(chan slack.InteractionCallback, 1)
	serve(t, w, &app{interact: func(_ http.ResponseWriter, c slack.InteractionCallback) { got <- c }})
	_, ts, err := client(w).PostMessageContext(t.Context(), "C0DEPLOYS", slack.MsgOptionAttachments(slack.Attachment{
		Color: "#2eb67d", Fallback: "f",
		Blocks: slack.Blocks{BlockSet: []slack.Block{section("in a bar"), slack.NewActionBlock("", button("x", "X", "v"))}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	m, _ := w.Message("U0ADA", "deploys", ts)
	if m.Plain() != "| in a bar\n| [X]" {
		t.Errorf("plain %q", m.Plain())
	}
	if c := m.Controls(); len(c) != 1 || c[0].ActionID != "x" || c[0].BlockID == "" {
		t.Fatalf("controls %+v", c)
	}
	if _, err := w.Click(t.Context(), "U0ADA", m, "x"); err != nil {
		t.Fatal(err)
	}
	if a := (<-got).ActionCallback.BlockActions[0]; a.Value != "v" {
		t.Errorf("action %+v", a)
	}
}

func TestType(t *testing.T) {
	w := start(t, nil)
	var got string
	serve(t, w, &app{command: func(_ http.ResponseWriter, c slack.SlashCommand) { got = c.Command + "|" + c.Text }})
	if ack, err := w.Type(t.Context(), "U0ADA", "deploys", " /scale pizza +1 "); err != nil || !ack.OK() || got != "/scale|pizza +1" {
		t.Errorf("%q, %+v, %v", got, ack, err)
	}
	if _, err := w.Type(t.Context(), "U0ADA", "deploys", "hello"); err != nil {
		t.Error(err)
	}
	if got := w.Screen("deploys", "U0LINUS"); got != "ada:\n  hello\n" {
		t.Errorf("screen\n%s", got)
	}
}

func TestResponseURLOfACommand(t *testing.T) {
	clock := workspace.NewManualClock(time.Now())
	w := start(t, func(o *workspace.Options) { o.Clock = clock.Now })
	api := client(w)
	ctx := t.Context()
	serve(t, w, &app{command: func(http.ResponseWriter, slack.SlashCommand) {}})
	ack, err := w.Command(ctx, workspace.CommandInput{User: "U0LINUS", Channel: "deploys", Command: "/apps"})
	if err != nil {
		t.Fatal(err)
	}
	respond := func(kind string, opts ...slack.MsgOption) error {
		_, _, err := api.PostMessageContext(ctx, "", append(opts, slack.MsgOptionResponseURL(ack.ResponseURL, kind))...)
		return err
	}
	status := func(err error) int {
		var e slack.StatusCodeError
		errors.As(err, &e)
		return e.Code
	}
	if err := respond("", text("for you")); err != nil {
		t.Fatal(err)
	}
	if err := respond(slack.ResponseTypeInChannel, text("for all")); err != nil {
		t.Fatal(err)
	}
	if got := w.Screen("deploys", "U0GRACE"); got != "waggle:\n  for all\n" {
		t.Errorf("grace sees\n%s", got)
	}
	if err := respond("", slack.MsgOptionBlocks(section(long(3001)))); status(err) != http.StatusBadRequest {
		t.Errorf("invalid blocks: %v", err)
	}
	if err := respond(""); status(err) != http.StatusBadRequest {
		t.Errorf("nothing: %v", err)
	}
	for range 3 {
		if err := respond("", text("more")); err != nil {
			t.Fatal(err)
		}
	}
	if err := respond("", text("sixth")); status(err) != http.StatusNotFound {
		t.Errorf("sixth use: %v", err)
	}
	ack, err = w.Command(ctx, workspace.CommandInput{User: "U0LINUS", Channel: "deploys", Command: "/apps"})
	if err != nil {
		t.Fatal(err)
	}
	clock.Advance(30*time.Minute + time.Second)
	if err := respond("", text("late")); status(err) != http.StatusNotFound {
		t.Errorf("late: %v", err)
	}
	var codes []string
	for _, c := range w.Calls("response_url") {
		codes = append(codes, c.Error)
	}
	if got := fmt.Sprint(codes); got != "[  invalid_blocks no_text    used_url expired_url]" {
		t.Errorf("codes %s", got)
	}
}

func TestResponseURLOfAClick(t *testing.T) {
	w := start(t, nil)
	api := client(w)
	ctx := t.Context()
	serve(t, w, &app{interact: ok})
	eph, err := api.PostEphemeralContext(ctx, "C0DEPLOYS", "U0ADA", slack.MsgOptionBlocks(slack.NewActionBlock("", button("x", "X", ""))))
	if err != nil {
		t.Fatal(err)
	}
	m, _ := w.Message("U0ADA", "deploys", eph)
	ack, err := w.Click(ctx, "U0ADA", m, "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := slack.PostWebhookContext(ctx, ack.ResponseURL, &slack.WebhookMessage{ReplaceOriginal: true, Text: "replaced"}); err != nil {
		t.Fatal(err)
	}
	if m, _ := w.Message("U0ADA", "deploys", eph); m.Plain() != "replaced" || !m.Ephemeral {
		t.Errorf("message %+v", m)
	}
	if err := slack.PostWebhookContext(ctx, ack.ResponseURL, &slack.WebhookMessage{Text: "and more", ThreadTimestamp: ""}); err != nil {
		t.Fatal(err)
	}
	if n := len(w.Messages("deploys", "U0LINUS")); n != 0 {
		t.Errorf("linus sees %d", n)
	}
	if err := slack.PostWebhookContext(ctx, ack.ResponseURL, &slack.WebhookMessage{DeleteOriginal: true}); err != nil {
		t.Fatal(err)
	}
	if got := w.Screen("deploys", "U0ADA"); got != "waggle (only visible to you):\n  and more\n" {
		t.Errorf("screen\n%s", got)
	}
}

func TestModal(t *testing.T) {
	clock := workspace.NewManualClock(time.Now())
	w := start(t, func(o *workspace.Options) { o.Clock = clock.Now })
	api := client(w)
	ctx := t.Context()
	answer := ""
	var got slack.InteractionCallback
	serve(t, w, &app{
		command: func(http.ResponseWriter, slack.SlashCommand) {},
		interact: func(rw http.ResponseWriter, c slack.InteractionCallback) {
			got = c
			_, _ = io.WriteString(rw, answer)
		},
	})
	label := slack.NewTextBlockObject(slack.PlainTextType, "Address", false, false)
	option := func(v string) *slack.OptionBlockObject {
		return slack.NewOptionBlockObject(v, slack.NewTextBlockObject(slack.PlainTextType, v, false, false), nil)
	}
	role := slack.NewInputBlock("role", label, nil, slack.NewOptionsSelectBlockElement(slack.OptTypeStatic, nil, "r", option("worker"), option("manager")).WithInitialOption(option("worker")))
	form := modal(slack.NewInputBlock("addr", label, nil, slack.NewPlainTextInputBlockElement(nil, "a")), role)
	form.NotifyOnClose = true

	open := func() (slack.ViewResponse, error) {
		ack, err := w.Command(ctx, workspace.CommandInput{User: "U0ADA", Channel: "deploys", Command: "/join-node"})
		if err != nil {
			t.Fatal(err)
		}
		v, err := api.OpenViewContext(ctx, ack.TriggerID, form)
		if err == nil {
			_, again := api.OpenViewContext(ctx, ack.TriggerID, form)
			wantCode(t, again, "exchanged_trigger_id")
			return *v, nil
		}
		return slack.ViewResponse{}, err
	}
	if _, err := open(); err != nil {
		t.Fatal(err)
	}
	v, found := w.View("U0ADA")
	if !found || v.Title != "Join" || v.PrivateMetadata != "meta" {
		t.Fatalf("view %+v", v)
	}
	if got, want := v.Plain(), "== Join ==\nAddress: []\nAddress: [worker ▾]\n[Close] [Go]"; got != want {
		t.Errorf("view\n%s\nwant\n%s", got, want)
	}
	if _, err := w.Submit(ctx, "U0ADA", v, nil); err == nil {
		t.Error("submitted without the address")
	}
	if _, err := w.Submit(ctx, "U0ADA", v, map[string]string{"a": "x", "nope": "y"}); err == nil {
		t.Error("filled in what is not there")
	}
	if _, err := w.Submit(ctx, "U0ADA", v, map[string]string{"a": "x", "r": "chief"}); err == nil {
		t.Error("chose what is not there")
	}

	answer = `{"response_action":"errors","errors":{"addr":"unreachable"}}`
	if ack, err := w.Submit(ctx, "U0ADA", v, map[string]string{"a": "10.0.0.1", "role": "manager"}); err != nil || !ack.OK() {
		t.Fatalf("ack %+v, %v", ack, err)
	}
	values := got.View.State.Values
	if got.Type != slack.InteractionTypeViewSubmission || got.View.CallbackID != "cb" || got.User.ID != "U0ADA" ||
		values["addr"]["a"].Value != "10.0.0.1" || values["role"]["r"].SelectedOption.Value != "manager" {
		t.Errorf("submission %+v", got)
	}
	if v, _ := w.View("U0ADA"); v.Errors["addr"] != "unreachable" || !strings.Contains(v.Plain(), "! unreachable") {
		t.Errorf("view %+v", v)
	}
	answer = `{"response_action":"errors","errors":{"nope":"x"}}`
	if ack, _ := w.Submit(ctx, "U0ADA", v, map[string]string{"a": "x"}); ack.Error != "trouble_connecting" {
		t.Errorf("ack %+v", ack)
	}
	next := modal()
	next.Title.Text = "Sure?"
	b, err := json.Marshal(slack.NewUpdateViewSubmissionResponse(&next))
	if err != nil {
		t.Fatal(err)
	}
	answer = string(b)
	if ack, err := w.Submit(ctx, "U0ADA", v, map[string]string{"a": "x"}); err != nil || !ack.OK() {
		t.Fatalf("ack %+v, %v", ack, err)
	}
	v, err = w.WaitView(ctx, "U0ADA", func(v workspace.View) bool { return v.Title == "Sure?" })
	if err != nil {
		t.Fatal(err)
	}
	_, err = api.UpdateViewContext(ctx, form, "", "stale", v.ID)
	wantCode(t, err, "hash_conflict")
	if _, err := api.UpdateViewContext(ctx, form, "", v.Hash, v.ID); err != nil {
		t.Fatal(err)
	}
	answer = ""
	if ack, err := w.Submit(ctx, "U0ADA", v, map[string]string{"a": "x"}); err != nil || !ack.OK() {
		t.Fatalf("ack %+v, %v", ack, err)
	}
	if _, found := w.View("U0ADA"); found {
		t.Error("still open")
	}

	if _, err := open(); err != nil {
		t.Fatal(err)
	}
	v, _ = w.View("U0ADA")
	if _, err := w.CloseView(ctx, "U0ADA", v); err != nil || got.Type != slack.InteractionTypeViewClosed {
		t.Errorf("close: %v, %s", err, got.Type)
	}
	if _, err := w.Submit(ctx, "U0ADA", v, nil); !errors.Is(err, workspace.ErrNoView) {
		t.Errorf("submitted a closed view: %v", err)
	}

	ack, err := w.Command(ctx, workspace.CommandInput{User: "U0ADA", Channel: "deploys", Command: "/join-node"})
	if err != nil {
		t.Fatal(err)
	}
	clock.Advance(3*time.Second + time.Millisecond)
	_, err = api.OpenViewContext(ctx, ack.TriggerID, form)
	wantCode(t, err, "expired_trigger_id")
}

func TestInvalidViews(t *testing.T) {
	w := start(t, nil)
	p := func(n int) *slack.TextBlockObject {
		return slack.NewTextBlockObject(slack.PlainTextType, long(n), false, false)
	}
	tests := map[string]struct {
		change func(*slack.ModalViewRequest)
		want   string
	}{
		"title":    {func(v *slack.ModalViewRequest) { v.Title = p(25) }, "[ERROR] must be less than 25 characters [json-pointer:/view/title/text]"},
		"no title": {func(v *slack.ModalViewRequest) { v.Title = nil }, "[ERROR] missing required field: title [json-pointer:/view]"},
		"submit":   {func(v *slack.ModalViewRequest) { v.Submit = p(25) }, "[ERROR] must be less than 25 characters [json-pointer:/view/submit/text]"},
		"close":    {func(v *slack.ModalViewRequest) { v.Close = p(25) }, "[ERROR] must be less than 25 characters [json-pointer:/view/close/text]"},
		"metadata": {func(v *slack.ModalViewRequest) { v.PrivateMetadata = long(3001) }, "[ERROR] must be less than 3001 characters [json-pointer:/view/private_metadata]"},
		"callback": {func(v *slack.ModalViewRequest) { v.CallbackID = long(256) }, "[ERROR] must be less than 256 characters [json-pointer:/view/callback_id]"},
		"blocks": {func(v *slack.ModalViewRequest) {
			v.Blocks.BlockSet = nil
			for range 101 {
				v.Blocks.BlockSet = append(v.Blocks.BlockSet, slack.NewDividerBlock())
			}
		}, "[ERROR] no more than 100 items allowed [json-pointer:/view/blocks]"},
		"block": {func(v *slack.ModalViewRequest) { v.Blocks.BlockSet = []slack.Block{section(long(3001))} }, "[ERROR] must be less than 3001 characters [json-pointer:/view/blocks/0/text/text]"},
		"markdown": {func(v *slack.ModalViewRequest) {
			v.Blocks.BlockSet = []slack.Block{slack.NewMarkdownBlock("", "x")}
		}, "[ERROR] unsupported type: markdown [json-pointer:/view/blocks/0/type]"},
		"input without submit": {func(v *slack.ModalViewRequest) {
			v.Submit = nil
			v.Blocks.BlockSet = []slack.Block{slack.NewInputBlock("i", p(3), nil, slack.NewPlainTextInputBlockElement(nil, "a"))}
		}, "[ERROR] missing required field: submit [json-pointer:/view]"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			v := modal()
			tt.change(&v)
			_, err := client(w).OpenViewContext(t.Context(), "1.2.3", v)
			var refused slack.SlackErrorResponse
			if !errors.As(err, &refused) || refused.Err != "invalid_arguments" || !slices.Contains(refused.ResponseMetadata.Messages, tt.want) {
				t.Errorf("got %v %q", err, refused.ResponseMetadata.Messages)
			}
		})
	}
}

func TestEvents(t *testing.T) {
	w := start(t, nil)
	a := &app{other: func(rw http.ResponseWriter, body []byte) {
		var e struct {
			Type, Challenge string
			EventID         string `json:"event_id"`
		}
		if err := json.Unmarshal(body, &e); err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(rw, e.Challenge+e.EventID)
	}}
	serve(t, w, a)
	if err := w.VerifyURL(t.Context()); err != nil {
		t.Error(err)
	}
	ack, err := w.Event(t.Context(), workspace.EventInput{Event: json.RawMessage(`{"type":"app_mention"}`), Retry: 1, Reason: "http_timeout"})
	if err != nil || ack.EventID == "" || ack.Body != ack.EventID {
		t.Errorf("ack %+v, %v", ack, err)
	}
	if h := a.seen[len(a.seen)-1]; h.Get("X-Slack-Retry-Num") != "1" || h.Get("X-Slack-Retry-Reason") != "http_timeout" {
		t.Errorf("headers %v", h)
	}
	a.other = func(http.ResponseWriter, []byte) {}
	if err := w.VerifyURL(t.Context()); err == nil {
		t.Error("accepted an app that does not answer the challenge")
	}
}

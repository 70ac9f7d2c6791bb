package workspace_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slack-go/slack"

	"waggle/internal/workspace"
)

// start runs a workspace until the test ends.
func start(t *testing.T, change func(*workspace.Options)) *workspace.Workspace {
	t.Helper()
	o := workspace.Example()
	o.Limits = workspace.NoLimits()
	if change != nil {
		change(&o)
	}
	w, err := workspace.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return w
}

func client(w *workspace.Workspace) *slack.Client {
	return slack.New(w.BotToken(), slack.OptionAPIURL(w.APIURL()), slack.OptionAppLevelToken(w.AppToken()))
}

// app is a tiny Slack app: it verifies each request and hands it to a function.
type app struct {
	command  func(http.ResponseWriter, slack.SlashCommand)
	interact func(http.ResponseWriter, slack.InteractionCallback)
	other    func(http.ResponseWriter, []byte)

	mu   sync.Mutex
	seen []http.Header
}

func serve(t *testing.T, w *workspace.Workspace, a *app) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		a.mu.Lock()
		a.seen = append(a.seen, r.Header.Clone())
		a.mu.Unlock()
		v, err := slack.NewSecretsVerifier(r.Header, w.SigningSecret())
		if err == nil {
			_, _ = v.Write(body)
			err = v.Ensure()
		}
		if err != nil {
			http.Error(rw, err.Error(), http.StatusUnauthorized)
			return
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		switch {
		case r.Header.Get("Content-Type") == "application/json":
			a.other(rw, body)
		case strings.HasPrefix(string(body), "payload="):
			c, err := slack.InteractionCallbackParse(r)
			if err != nil {
				http.Error(rw, err.Error(), http.StatusBadRequest)
				return
			}
			a.interact(rw, c)
		default:
			c, err := slack.SlashCommandParse(r)
			if err != nil {
				http.Error(rw, err.Error(), http.StatusBadRequest)
				return
			}
			a.command(rw, c)
		}
	}))
	t.Cleanup(s.Close)
	w.SetEventsURL(s.URL + "/slack/events")
}

func ok(http.ResponseWriter, slack.InteractionCallback) {}

// text is a message's option, as an app should send it.
func text(s string) slack.MsgOption { return slack.MsgOptionText(s, false) }

func section(s string) slack.Block {
	return slack.NewSectionBlock(slack.NewTextBlockObject(slack.MarkdownType, s, false, false), nil, nil)
}

func button(id, label, value string) *slack.ButtonBlockElement {
	return slack.NewButtonBlockElement(id, value, slack.NewTextBlockObject(slack.PlainTextType, label, false, false))
}

// wantCode fails unless err is Slack's error code; "" is no error.
func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	var limited *slack.RateLimitedError
	if errors.As(err, &limited) {
		got = "ratelimited"
	}
	if got != code {
		t.Errorf("error %q, want %q", got, code)
	}
}

func TestPostEditDelete(t *testing.T) {
	w := start(t, nil)
	api := client(w)
	ctx := t.Context()

	channel, ts, err := api.PostMessageContext(ctx, "#deploys", text("fallback"), slack.MsgOptionBlocks(
		slack.NewHeaderBlock(slack.NewTextBlockObject(slack.PlainTextType, "Scale pizza", false, false)),
		section("*pizza* 3 → 6, asked by <@U0ADA> in <#C0DEPLOYS>"),
		slack.NewContextBlock("", slack.NewTextBlockObject(slack.MarkdownType, "<https://example.com/x|plan> &amp; more", false, false)),
		slack.NewActionBlock("", button("approve", "Approve", "1").WithStyle(slack.StylePrimary), button("reject", "Reject", "1")),
	))
	if err != nil {
		t.Fatal(err)
	}
	if channel != "C0DEPLOYS" {
		t.Errorf("posted in %s", channel)
	}
	m, found := w.Message("U0LINUS", "deploys", ts)
	if !found {
		t.Fatal("linus does not see it")
	}
	const want = "Scale pizza\n*pizza* 3 → 6, asked by @ada in #deploys\nplan (https://example.com/x) & more\n[Approve] [Reject]"
	if got := m.Plain(); got != want {
		t.Errorf("plain:\n%s\nwant:\n%s", got, want)
	}
	if m.Notification() != "fallback" || m.BotID == "" {
		t.Errorf("message: %+v", m)
	}
	controls := m.Controls()
	if len(controls) != 2 || controls[0].ActionID != "approve" || controls[0].Style != "primary" || controls[1].BlockID == "" {
		t.Errorf("controls: %+v", controls)
	}

	t.Run("a text alone removes the blocks", func(t *testing.T) {
		if _, _, _, err := api.UpdateMessageContext(ctx, channel, ts, text("done")); err != nil {
			t.Fatal(err)
		}
		m, _ := w.Message("U0LINUS", channel, ts)
		if m.Plain() != "done" || m.Edited != 1 || !m.MarkedEdited || len(m.Edits) != 1 || m.Edits[0].Text != "fallback" || m.Edits[0].Blocks == nil {
			t.Errorf("message: %+v", m)
		}
	})
	t.Run("blocks", func(t *testing.T) {
		if _, _, _, err := api.UpdateMessageContext(ctx, channel, ts, text("t"), slack.MsgOptionBlocks(section("s"))); err != nil {
			t.Fatal(err)
		}
		if m, _ := w.Message("U0LINUS", channel, ts); m.Plain() != "s" || m.Edited != 2 {
			t.Errorf("message: %+v", m)
		}
	})
	t.Run("delete", func(t *testing.T) {
		if _, _, err := api.DeleteMessageContext(ctx, channel, ts); err != nil {
			t.Fatal(err)
		}
		if n := len(w.Messages(channel, "U0LINUS")); n != 0 {
			t.Errorf("%d messages left", n)
		}
		if h := w.History(channel); len(h) != 1 || !h[0].Deleted {
			t.Errorf("history: %+v", h)
		}
		_, _, err := api.DeleteMessageContext(ctx, channel, ts)
		wantCode(t, err, "message_not_found")
	})
}

func TestReadMethods(t *testing.T) {
	w := start(t, nil)
	api := client(w)
	ctx := t.Context()

	auth, err := api.AuthTestContext(ctx)
	if err != nil || auth.UserID != w.App().BotUserID || auth.BotID != w.App().BotID || auth.TeamID != w.TeamID() {
		t.Errorf("auth.test: %+v, %v", auth, err)
	}
	if auth.Header.Get("X-OAuth-Scopes") == "" {
		t.Error("no scopes header")
	}
	u, err := api.GetUserInfoContext(ctx, "U0ADA")
	if err != nil || u.Name != "ada" || !u.IsPrimaryOwner || !u.IsAdmin || u.TeamID != w.TeamID() {
		t.Errorf("users.info: %+v, %v", u, err)
	}
	if u, err := api.GetUserInfoContext(ctx, "U0MALLORY"); err != nil || !u.Deleted {
		t.Errorf("deactivated: %+v, %v", u, err)
	}
	if u, err := api.GetUserInfoContext(ctx, "U0GIL"); err != nil || !u.IsRestricted {
		t.Errorf("guest: %+v, %v", u, err)
	}
	users, err := api.GetUsersContext(ctx, slack.GetUsersOptionLimit(3))
	if err != nil || len(users) != len(w.Users()) {
		t.Errorf("users.list: %d users, %v", len(users), err)
	}
	if n := len(w.Calls("users.list")); n != 3 {
		t.Errorf("%d pages, want 3", n)
	}
	groups, err := api.GetUserGroupsContext(ctx, slack.GetUserGroupsOptionIncludeUsers(true))
	if err != nil || len(groups) != 1 || groups[0].Handle != "operators" || len(groups[0].Users) != 2 {
		t.Errorf("usergroups.list: %+v, %v", groups, err)
	}
	members, err := api.GetUserGroupMembersContext(ctx, "S0OPERATORS")
	if err != nil || !slices.Equal(members, []string{"U0LINUS", "U0GRACE"}) {
		t.Errorf("usergroups.users.list: %v, %v", members, err)
	}
	c, err := api.GetConversationInfoContext(ctx, &slack.GetConversationInfoInput{ChannelID: "C0OPS"})
	if err != nil || !c.IsPrivate || !c.IsMember {
		t.Errorf("conversations.info: %+v, %v", c, err)
	}
	im, _, _, err := api.OpenConversationContext(ctx, &slack.OpenConversationParameters{Users: []string{"U0LINUS"}})
	if err != nil || !strings.HasPrefix(im.ID, "D") {
		t.Fatalf("conversations.open: %+v, %v", im, err)
	}
	if _, _, err := api.PostMessageContext(ctx, im.ID, text("psst")); err != nil {
		t.Errorf("direct message: %v", err)
	}
	if ch, _, err := api.PostMessageContext(ctx, "U0LINUS", text("again")); err != nil || ch != im.ID {
		t.Errorf("to a user: %s, %v", ch, err)
	}
	if n := len(w.Messages(im.ID, "U0LINUS")); n != 2 {
		t.Errorf("linus sees %d", n)
	}
	if n := len(w.Messages(im.ID, "U0ADA")); n != 0 {
		t.Errorf("ada sees %d", n)
	}
	team, err := api.GetTeamInfoContext(ctx)
	if err != nil || team.Domain != "waggle" {
		t.Errorf("team.info: %+v, %v", team, err)
	}
	if b, err := api.GetBotInfoContext(ctx, slack.GetBotInfoParameters{Bot: w.App().BotID}); err != nil || b.UserID != w.App().BotUserID {
		t.Errorf("bots.info: %+v, %v", b, err)
	}
	_, ts, err := api.PostMessageContext(ctx, "C0DEPLOYS", text("hi"))
	if err != nil {
		t.Fatal(err)
	}
	link, err := api.GetPermalinkContext(ctx, &slack.PermalinkParameters{Channel: "C0DEPLOYS", Ts: ts})
	if err != nil || !strings.HasPrefix(link, "https://waggle.slack.com/archives/C0DEPLOYS/p") {
		t.Errorf("permalink: %s, %v", link, err)
	}
}

func TestRefusals(t *testing.T) {
	w := start(t, nil)
	ctx := t.Context()
	said, err := w.Say("U0ADA", "deploys", "", "mine")
	if err != nil {
		t.Fatal(err)
	}
	api := client(w)
	eph, err := api.PostEphemeralContext(ctx, "C0DEPLOYS", "U0ADA", text("for you"))
	if err != nil {
		t.Fatal(err)
	}
	_, posted, err := api.PostMessageContext(ctx, "C0DEPLOYS", text("ours"))
	if err != nil {
		t.Fatal(err)
	}
	post := func(channel string, opts ...slack.MsgOption) error {
		_, _, err := api.PostMessageContext(ctx, channel, opts...)
		return err
	}
	update := func(channel, ts string, opts ...slack.MsgOption) error {
		_, _, _, err := api.UpdateMessageContext(ctx, channel, ts, opts...)
		return err
	}
	ephemeral := func(channel, user string, opts ...slack.MsgOption) error {
		_, err := api.PostEphemeralContext(ctx, channel, user, opts...)
		return err
	}
	remove := func(channel, ts string) error {
		_, _, err := api.DeleteMessageContext(ctx, channel, ts)
		return err
	}
	second := func(_ any, err error) error { return err }
	tests := map[string]struct {
		err  error
		code string
	}{
		"post to nowhere":                   {post("C0NONE", text("x")), "channel_not_found"},
		"post to no name":                   {post("#none", text("x")), "channel_not_found"},
		"post without channel":              {post("", text("x")), "invalid_arguments"},
		"post where the app is not":         {post("C0GENERAL", text("x")), "not_in_channel"},
		"post to archived":                  {post("C0OLD", text("x")), "is_archived"},
		"post nothing":                      {post("C0DEPLOYS", text("")), "no_text"},
		"post spaces":                       {post("C0DEPLOYS", text("  \n")), "no_text"},
		"post empty blocks":                 {post("C0DEPLOYS", slack.MsgOptionBlocks([]slack.Block{}...)), "no_text"},
		"post to deactivated":               {post("U0MALLORY", text("x")), "channel_not_found"},
		"ephemeral to outsider":             {ephemeral("C0OPS", "U0LINUS", text("x")), "user_not_in_channel"},
		"ephemeral to nobody":               {ephemeral("C0OPS", "", text("x")), "invalid_arguments"},
		"ephemeral nothing":                 {ephemeral("C0OPS", "U0ADA"), "no_text"},
		"update of a person's":              {update("C0DEPLOYS", said.TS, text("x")), "cant_update_message"},
		"update of an ephemeral":            {update("C0DEPLOYS", eph, text("x")), "message_not_found"},
		"update of none":                    {update("C0DEPLOYS", "1.000001", text("x")), "message_not_found"},
		"update in nowhere":                 {update("C0NONE", posted, text("x")), "channel_not_found"},
		"update by name":                    {update("deploys", posted, text("x")), "channel_not_found"},
		"update to nothing":                 {update("C0DEPLOYS", posted), "no_text"},
		"update too long":                   {update("C0DEPLOYS", posted, text(strings.Repeat("é", 4001))), "msg_too_long"},
		"update long":                       {update("C0DEPLOYS", posted, text(strings.Repeat("é", 4000))), ""},
		"delete a person's":                 {remove("C0DEPLOYS", said.TS), "cant_delete_message"},
		"delete an ephemeral":               {remove("C0DEPLOYS", eph), "message_not_found"},
		"no such user":                      {second(api.GetUserInfoContext(ctx, "U0NONE")), "user_not_found"},
		"no such group":                     {second(api.GetUserGroupMembersContext(ctx, "S0NONE")), "no_such_subteam"},
		"no such channel":                   {second(api.GetConversationInfoContext(ctx, &slack.GetConversationInfoInput{ChannelID: "C0NONE"})), "channel_not_found"},
		"permalink of none":                 {second(api.GetPermalinkContext(ctx, &slack.PermalinkParameters{Channel: "C0DEPLOYS", Ts: "1.1"})), "message_not_found"},
		"view without trigger":              {second(api.OpenViewContext(ctx, "nope", modal())), "invalid_trigger_id"},
		"update of no view":                 {second(api.UpdateViewContext(ctx, modal(), "", "", "V0NONE")), "not_found"},
		"too many attachments":              {post("C0DEPLOYS", slack.MsgOptionAttachments(make([]slack.Attachment, 101)...)), "too_many_attachments"},
		"wrong token":                       {second(slack.New("xoxb-wrong", slack.OptionAPIURL(w.APIURL())).AuthTestContext(ctx)), "invalid_auth"},
		"no token":                          {second(slack.New("", slack.OptionAPIURL(w.APIURL())).AuthTestContext(ctx)), "not_authed"},
		"app token":                         {second(slack.New(w.AppToken(), slack.OptionAPIURL(w.APIURL())).AuthTestContext(ctx)), "not_allowed_token_type"},
		"scheduled messages are not served": {second3(api.ScheduleMessageContext(ctx, "C0DEPLOYS", "1", text("x"))), "unknown_method"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) { wantCode(t, tt.err, tt.code) })
	}
}

func second3(_, _ string, err error) error { return err }

func modal(blocks ...slack.Block) slack.ModalViewRequest {
	if blocks == nil {
		blocks = []slack.Block{section("hello")}
	}
	return slack.ModalViewRequest{
		Type: slack.VTModal, CallbackID: "cb", PrivateMetadata: "meta",
		Title:  slack.NewTextBlockObject(slack.PlainTextType, "Join", false, false),
		Submit: slack.NewTextBlockObject(slack.PlainTextType, "Go", false, false),
		Blocks: slack.Blocks{BlockSet: blocks},
	}
}

func TestMissingScope(t *testing.T) {
	w := start(t, func(o *workspace.Options) { o.App.Scopes = []string{"commands", "users:read", "im:read"} })
	api := client(w)
	_, _, err := api.PostMessageContext(t.Context(), "C0DEPLOYS", text("x"))
	var refused slack.SlackErrorResponse
	if !errors.As(err, &refused) || refused.Err != "missing_scope" || refused.Needed != "chat:write" || refused.Provided != "commands,users:read,im:read" {
		t.Errorf("got %+v", err)
	}
	_, err = api.GetConversationInfoContext(t.Context(), &slack.GetConversationInfoInput{ChannelID: "C0DEPLOYS"})
	if !errors.As(err, &refused) || refused.Needed != "channels:read" {
		t.Errorf("got %+v", err)
	}
}

func TestPublicScopePostsAnywherePublic(t *testing.T) {
	w := start(t, func(o *workspace.Options) {
		o.App.Scopes = append(workspace.DefaultScopes(), "chat:write.public")
		o.Channels = append(o.Channels, workspace.Channel{ID: "C0HR", Name: "hr", Private: true})
	})
	api := client(w)
	_, _, err := api.PostMessageContext(t.Context(), "C0GENERAL", text("x"))
	wantCode(t, err, "")
	_, _, err = api.PostMessageContext(t.Context(), "C0HR", text("x"))
	wantCode(t, err, "channel_not_found")
}

func TestTextIsTruncated(t *testing.T) {
	w := start(t, nil)
	_, ts, err := client(w).PostMessageContext(t.Context(), "C0DEPLOYS", text(strings.Repeat("é", 40_001)))
	if err != nil {
		t.Fatal(err)
	}
	if m, _ := w.Message("U0ADA", "deploys", ts); len([]rune(m.Text)) != 40_000 {
		t.Errorf("%d characters", len([]rune(m.Text)))
	}
}

// TestRawRequests is about what slack-go never sends.
func TestRawRequests(t *testing.T) {
	w := start(t, nil)
	tests := map[string]struct {
		path, contentType, auth, body string
		code                          string
	}{
		"json":                {"chat.postMessage", "application/json; charset=utf-8", w.BotToken(), `{"channel":"C0DEPLOYS","text":"x","blocks":[{"type":"divider"}]}`, ""},
		"token in json":       {"auth.test", "application/json", "", `{"token":"` + w.BotToken() + `"}`, "not_authed"},
		"token in the query":  {"auth.test?token=" + w.BotToken(), "", "", "", "not_authed"},
		"token in the form":   {"auth.test", "application/x-www-form-urlencoded", "", "token=" + w.BotToken(), ""},
		"not json":            {"chat.postMessage", "application/json", w.BotToken(), `{`, "invalid_json"},
		"json to a form only": {"users.info", "application/json", w.BotToken(), `{"user":"U0ADA"}`, "invalid_arguments"},
		"xml":                 {"chat.postMessage", "application/xml", w.BotToken(), `<x/>`, "invalid_post_type"},
		"no type":             {"chat.postMessage", "", w.BotToken(), `channel=C0DEPLOYS`, "missing_post_type"},
		"odd charset":         {"chat.postMessage", "application/x-www-form-urlencoded; charset=utf-16", w.BotToken(), `channel=C0DEPLOYS`, "invalid_charset"},
		"bad form":            {"chat.postMessage", "application/x-www-form-urlencoded", w.BotToken(), `%zz`, "invalid_form_data"},
		"unknown method":      {"chat.shout", "application/x-www-form-urlencoded", w.BotToken(), `a=b`, "unknown_method"},
		"blocks no json":      {"chat.postMessage", "application/x-www-form-urlencoded", w.BotToken(), url.Values{"channel": {"C0DEPLOYS"}, "blocks": {"{"}}.Encode(), "invalid_blocks_format"},
		"blocks no array":     {"chat.postMessage", "application/x-www-form-urlencoded", w.BotToken(), url.Values{"channel": {"C0DEPLOYS"}, "blocks": {`{"blocks":[]}`}}.Encode(), "invalid_blocks_format"},
		"update both":         {"views.update", "application/json", w.BotToken(), `{"view":{},"view_id":"a","external_id":"b"}`, "invalid_arguments"},
		"update neither":      {"views.update", "application/json", w.BotToken(), `{"view":{}}`, "invalid_arguments"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.APIURL()+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if tt.contentType != "" {
				req.Header.Set("Content-Type", tt.contentType)
			}
			if tt.auth != "" {
				req.Header.Set("Authorization", "Bearer "+tt.auth)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var out struct {
				OK    bool   `json:"ok"`
				Error string `json:"error"`
			}
			if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != http.StatusOK || out.Error != tt.code || out.OK != (tt.code == "") {
				t.Errorf("%d %+v, want %q", resp.StatusCode, out, tt.code)
			}
		})
	}
	for _, c := range w.Calls("") {
		for k, v := range c.Args {
			if k == "token" || strings.Contains(v, "xoxb-") {
				t.Errorf("%s recorded a token", c.Method)
			}
		}
	}
}

func TestEphemeralIsSeenByOne(t *testing.T) {
	w := start(t, nil)
	if _, err := client(w).PostEphemeralContext(t.Context(), "C0DEPLOYS", "U0ADA", text("secret")); err != nil {
		t.Fatal(err)
	}
	if ms := w.Messages("deploys", "U0ADA"); len(ms) != 1 || !ms[0].Ephemeral || ms[0].ForUser != "U0ADA" {
		t.Errorf("ada sees %+v", ms)
	}
	if ms := w.Messages("deploys", "U0LINUS"); len(ms) != 0 {
		t.Errorf("linus sees %+v", ms)
	}
	if got := w.Screen("deploys", "U0ADA"); got != "waggle (only visible to you):\n  secret\n" {
		t.Errorf("screen:\n%s", got)
	}
}

func TestThreads(t *testing.T) {
	w := start(t, nil)
	api := client(w)
	ctx := t.Context()
	parent, err := w.Say("U0ADA", "deploys", "", "build it & <go>")
	if err != nil {
		t.Fatal(err)
	}
	_, reply, err := api.PostMessageContext(ctx, "C0DEPLOYS", text("one"), slack.MsgOptionTS(parent.TS))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := api.PostMessageContext(ctx, "C0DEPLOYS", text("two"), slack.MsgOptionTS(reply)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := api.PostMessageContext(ctx, "C0DEPLOYS", text("lost"), slack.MsgOptionTS("1.000001")); err != nil {
		t.Fatal(err)
	}
	const want = "ada:\n  build it & <go>\n    waggle:\n      one\n    waggle:\n      two\nwaggle:\n  lost\n"
	if got := w.Screen("deploys", "U0LINUS"); got != want {
		t.Errorf("screen:\n%s\nwant:\n%s", got, want)
	}
}

func TestUpload(t *testing.T) {
	w := start(t, nil)
	api := client(w)
	ctx := t.Context()
	parent, err := w.Say("U0ADA", "deploys", "", "log?")
	if err != nil {
		t.Fatal(err)
	}
	const log = "step 1\nstep 2 é\n"
	f, err := api.UploadFileContext(ctx, slack.UploadFileParameters{
		Filename: "build.log", FileSize: len(log), Content: log, Title: "Build log", SnippetType: "text",
		Channel: "C0DEPLOYS", ThreadTimestamp: parent.TS, InitialComment: "the whole log",
	})
	if err != nil {
		t.Fatal(err)
	}
	ms := w.Messages("deploys", "U0ADA")
	if len(ms) != 2 || len(ms[1].Files) != 1 || string(ms[1].Files[0].Content) != log || ms[1].ThreadTS != parent.TS || ms[1].Files[0].ID != f.ID {
		t.Fatalf("messages: %+v", ms)
	}
	if got := ms[1].Plain(); got != "the whole log\n[file: Build log, 17 bytes]" {
		t.Errorf("plain: %q", got)
	}

	_, err = api.UploadFileContext(ctx, slack.UploadFileParameters{Filename: "x", FileSize: 3, Content: "four"})
	if err == nil || !strings.Contains(err.Error(), "UploadToURL") {
		t.Errorf("wrong size: %v", err)
	}
	_, err = api.CompleteUploadExternalContext(ctx, slack.CompleteUploadExternalParameters{Files: []slack.FileSummary{{ID: "F0NONE"}}})
	wantCode(t, err, "file_not_found")
	_, err = api.UploadFileContext(ctx, slack.UploadFileParameters{Filename: "x", FileSize: 1, Content: "x", Channel: "C0GENERAL"})
	if err == nil || !strings.Contains(err.Error(), "not_in_channel") {
		t.Errorf("not in channel: %v", err)
	}
}

func TestWaitAndSubscribe(t *testing.T) {
	w := start(t, nil)
	api := client(w)
	ctx, cancel := context.WithCancel(t.Context())
	changes := w.Subscribe(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := w.Wait(ctx, "deploys", "U0ADA", func(m workspace.Message) bool { return m.Text == "two" })
		done <- err
	}()
	_, ts, err := api.PostMessageContext(ctx, "C0DEPLOYS", text("one"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := api.UpdateMessageContext(ctx, "C0DEPLOYS", ts, text("two")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, want := range []workspace.Kind{workspace.Posted, workspace.Edited} {
		if c := <-changes; c.Kind != want || c.Message.TS != ts {
			t.Errorf("change %+v, want %s", c, want)
		}
	}
	short, stop := context.WithTimeout(ctx, 10*time.Millisecond)
	defer stop()
	_, err = w.Wait(short, "deploys", "U0ADA", func(workspace.Message) bool { return false })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "two (edited)") {
		t.Errorf("wait: %v", err)
	}
	cancel()
	for range changes { // ends because ctx did
	}
}

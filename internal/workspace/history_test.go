package workspace_test

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/slack-go/slack"

	"waggle/internal/workspace"
)

type historyPage = slack.GetConversationHistoryParameters

// meta is the metadata of an operation's message.
func meta(op string) slack.MsgOption {
	return slack.MsgOptionMetadata(slack.SlackMetadata{EventType: "op", EventPayload: map[string]any{"op": op}})
}

func TestHistory(t *testing.T) {
	clock := workspace.NewManualClock(time.Now().Truncate(time.Second))
	w := start(t, func(o *workspace.Options) { o.Clock = clock.Now })
	api, ctx := client(w), t.Context()
	var stamps []string
	for i := range 5 {
		clock.Advance(time.Second)
		_, ts, err := api.PostMessageContext(ctx, "C0DEPLOYS", text(fmt.Sprint(i)), meta(fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		stamps = append(stamps, ts)
	}
	if _, _, err := api.PostMessageContext(ctx, "C0DEPLOYS", text("reply"), slack.MsgOptionTS(stamps[0])); err != nil {
		t.Fatal(err)
	}
	if _, err := api.PostEphemeralContext(ctx, "C0DEPLOYS", "U0ADA", text("for you")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := api.DeleteMessageContext(ctx, "C0DEPLOYS", stamps[3]); err != nil {
		t.Fatal(err)
	}
	// An edit without metadata keeps it, one with {} drops it.
	if _, _, _, err := api.UpdateMessageContext(ctx, "C0DEPLOYS", stamps[1], text("1")); err != nil {
		t.Fatal(err)
	}
	drop := slack.UnsafeMsgOptionEndpoint(w.APIURL()+"chat.update", func(v url.Values) { v.Set("metadata", "{}") })
	if _, _, _, err := api.UpdateMessageContext(ctx, "C0DEPLOYS", stamps[2], text("2"), drop); err != nil {
		t.Fatal(err)
	}
	// read returns "text:op" of each message, over all pages.
	read := func(p historyPage) (out []string, pages int) {
		t.Helper()
		p.ChannelID = "C0DEPLOYS"
		for {
			got, err := api.GetConversationHistoryContext(ctx, &p)
			if err != nil {
				t.Fatal(err)
			}
			pages++
			for _, m := range got.Messages {
				op, _ := m.Metadata.EventPayload["op"].(string)
				out = append(out, m.Text+":"+op)
			}
			p.Cursor = got.ResponseMetaData.NextCursor
			if got.HasMore != (p.Cursor != "") {
				t.Errorf("has_more %v with cursor %q", got.HasMore, p.Cursor)
			}
			if p.Cursor == "" {
				return out, pages
			}
		}
	}
	tests := map[string]struct {
		p     historyPage
		want  []string
		pages int
	}{
		"newest first":      {historyPage{}, []string{"4:", "2:", "1:", "0:"}, 1},
		"with metadata":     {historyPage{IncludeAllMetadata: true}, []string{"4:4", "2:", "1:1", "0:0"}, 1},
		"pages":             {historyPage{Limit: 3}, []string{"4:", "2:", "1:", "0:"}, 2},
		"full pages":        {historyPage{Limit: 2}, []string{"4:", "2:", "1:", "0:"}, 2},
		"after":             {historyPage{Oldest: stamps[1]}, []string{"4:", "2:"}, 1},
		"from":              {historyPage{Oldest: stamps[1], Inclusive: true}, []string{"4:", "2:", "1:"}, 1},
		"between, in pages": {historyPage{Oldest: stamps[0], Latest: stamps[4], Limit: 1}, []string{"2:", "1:"}, 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, pages := read(tt.p)
			if !slices.Equal(got, tt.want) || pages != tt.pages {
				t.Errorf("%q in %d pages, want %q in %d", got, pages, tt.want, tt.pages)
			}
		})
	}
}

func TestHistoryRefusals(t *testing.T) {
	scopes := workspace.DefaultScopes()
	w := start(t, func(o *workspace.Options) {
		o.App.Scopes = slices.DeleteFunc(scopes, func(s string) bool { return s == "groups:history" })
	})
	api := client(w)
	for name, tt := range map[string]struct {
		p    historyPage
		code string
	}{
		"no channel":        {historyPage{}, "invalid_arguments"},
		"unknown channel":   {historyPage{ChannelID: "C0NONE"}, "channel_not_found"},
		"not a member":      {historyPage{ChannelID: "C0GENERAL"}, "not_in_channel"},
		"private, no scope": {historyPage{ChannelID: "C0OPS"}, "missing_scope"},
		"too many":          {historyPage{ChannelID: "C0DEPLOYS", Limit: 1000}, "invalid_limit"},
		"bad oldest":        {historyPage{ChannelID: "C0DEPLOYS", Oldest: "yesterday"}, "invalid_ts_oldest"},
		"bad latest":        {historyPage{ChannelID: "C0DEPLOYS", Latest: "1.x"}, "invalid_ts_latest"},
		"bad cursor":        {historyPage{ChannelID: "C0DEPLOYS", Cursor: "!"}, "invalid_cursor"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := api.GetConversationHistoryContext(t.Context(), &tt.p)
			wantCode(t, err, tt.code)
			refused, _ := errors.AsType[slack.SlackErrorResponse](err)
			if tt.code == "missing_scope" && refused.Needed != "groups:history" {
				t.Errorf("needed: %s", refused.Needed)
			}
		})
	}
	none := start(t, func(o *workspace.Options) { o.App.Scopes = []string{"chat:write"} })
	_, err := client(none).GetConversationHistoryContext(t.Context(), &historyPage{ChannelID: "C0DEPLOYS"})
	wantCode(t, err, "missing_scope")
}

func TestMetadataRefusals(t *testing.T) {
	w := start(t, nil)
	api := client(w)
	for raw, code := range map[string]string{
		`[]`:                   "invalid_metadata_format",
		`{`:                    "invalid_metadata_format",
		`{"event_type":"op"}`:  "invalid_metadata_schema",
		`{"event_payload":{}}`: "invalid_metadata_schema",
		`{"event_type":"op","event_payload":"x"}`: "invalid_metadata_schema",
		`{}`:                                     "",
		`{"event_type":"op","event_payload":{}}`: "",
	} {
		post := w.APIURL() + "chat.postMessage"
		with := slack.UnsafeMsgOptionEndpoint(post, func(v url.Values) { v.Set("metadata", raw) })
		_, _, err := api.PostMessageContext(t.Context(), "C0DEPLOYS", text("x"), with)
		t.Run(raw, func(t *testing.T) { wantCode(t, err, code) })
	}
}

func TestOutage(t *testing.T) {
	clock := workspace.NewManualClock(time.Now())
	w := start(t, func(o *workspace.Options) { o.Clock = clock.Now })
	api, ctx := client(w), t.Context()
	post := func() error {
		_, _, err := api.PostMessageContext(ctx, "C0DEPLOYS", text("x"))
		return err
	}
	code := func(err error) int {
		if status, ok := errors.AsType[slack.StatusCodeError](err); ok {
			return status.Code
		}
		return 0
	}
	w.Outage("chat.postMessage", time.Minute, workspace.Failure{Status: 503})
	for range 3 {
		if err := post(); code(err) != 503 {
			t.Fatalf("got %v", err)
		}
	}
	if _, err := api.AuthTestContext(ctx); err != nil {
		t.Errorf("another method: %v", err)
	}
	end := w.Outage("", 0, workspace.Failure{Status: 429, RetryAfter: 7 * time.Second})
	clock.Advance(time.Hour)
	if limited, ok := errors.AsType[*slack.RateLimitedError](post()); !ok || limited.RetryAfter != 7*time.Second {
		t.Errorf("the newer outage does not hold: %v", limited)
	}
	if _, err := api.AuthTestContext(ctx); err == nil {
		t.Error("an outage of everything leaves out auth.test")
	}
	end()
	end()
	if err := post(); err != nil {
		t.Errorf("after both: %v", err)
	}
	if n := len(w.Messages("deploys", "U0ADA")); n != 1 {
		t.Errorf("%d messages", n)
	}
}

package workspace_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/slack-go/slack"

	"waggle/internal/workspace"
)

func TestPostsPerChannel(t *testing.T) {
	clock := workspace.NewManualClock(time.Now())
	limits := workspace.DefaultLimits()
	w := start(t, func(o *workspace.Options) { o.Clock, o.Limits = clock.Now, &limits })
	api := client(w)
	ctx := t.Context()
	post := func(channel string) error {
		_, _, err := api.PostMessageContext(ctx, channel, text("x"))
		return err
	}
	for range limits.Post.Burst - 1 {
		if err := post("C0DEPLOYS"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := api.PostEphemeralContext(ctx, "C0DEPLOYS", "U0ADA", text("x")); err != nil {
		t.Fatal(err)
	}
	err := post("C0DEPLOYS")
	var limited *slack.RateLimitedError
	if !errors.As(err, &limited) || limited.RetryAfter != time.Second {
		t.Fatalf("got %v", err)
	}
	if err := post("C0OPS"); err != nil {
		t.Errorf("another channel: %v", err)
	}
	clock.Advance(limited.RetryAfter)
	if err := post("C0DEPLOYS"); err != nil {
		t.Errorf("after waiting: %v", err)
	}
	wantCode(t, post("C0DEPLOYS"), "ratelimited")
	calls := w.Calls("chat.postMessage")
	if c := calls[len(calls)-1]; c.Status != http.StatusTooManyRequests || c.Error != "ratelimited" {
		t.Errorf("call %+v", c)
	}
}

func TestUpdatesPerWorkspace(t *testing.T) {
	clock := workspace.NewManualClock(time.Now())
	limits := workspace.DefaultLimits()
	w := start(t, func(o *workspace.Options) { o.Clock, o.Limits = clock.Now, &limits })
	api := client(w)
	_, ts, err := api.PostMessageContext(t.Context(), "C0DEPLOYS", text("x"))
	if err != nil {
		t.Fatal(err)
	}
	update := func() error {
		_, _, _, err := api.UpdateMessageContext(t.Context(), "C0DEPLOYS", ts, text("x"))
		return err
	}
	for range limits.Tiers[3].Burst {
		if err := update(); err != nil {
			t.Fatal(err)
		}
	}
	var limited *slack.RateLimitedError
	if err := update(); !errors.As(err, &limited) || limited.RetryAfter != 2*time.Second {
		t.Errorf("got %v", err)
	}
	clock.Advance(2 * time.Second)
	wantCode(t, update(), "")
}

func TestFailNext(t *testing.T) {
	w := start(t, nil)
	api := client(w)
	post := func(ctx context.Context) error {
		_, _, err := api.PostMessageContext(ctx, "C0DEPLOYS", text("x"))
		return err
	}
	posted := func() int { return len(w.Messages("deploys", "U0ADA")) }
	tests := []struct {
		name   string
		f      workspace.Failure
		check  func(error) bool
		posted int // messages that came of it
	}{
		{"ok false", workspace.Failure{Error: "ratelimited"}, func(err error) bool { return err != nil && err.Error() == "ratelimited" }, 0},
		{"429", workspace.Failure{Status: 429, RetryAfter: 1500 * time.Millisecond}, func(err error) bool {
			var e *slack.RateLimitedError
			return errors.As(err, &e) && e.RetryAfter == 2*time.Second
		}, 0},
		{"500", workspace.Failure{Status: 500}, func(err error) bool {
			var e slack.StatusCodeError
			return errors.As(err, &e) && e.Code == 500
		}, 0},
		{"hang", workspace.Failure{Delay: -1}, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }, 0},
		{"slow", workspace.Failure{Delay: time.Millisecond}, func(err error) bool { return err == nil }, 1},
		{"drop", workspace.Failure{Drop: true}, func(err error) bool { return err != nil }, 0},
		{"answer lost", workspace.Failure{Drop: true, Applied: true}, func(err error) bool { return err != nil }, 1},
		{"answer late", workspace.Failure{Delay: -1, Applied: true}, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }, 1},
		{"answer wrong", workspace.Failure{Status: 503, Applied: true}, func(err error) bool { return err != nil }, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			before := posted()
			w.FailNext("chat.postMessage", 1, tt.f)
			if err := post(ctx); !tt.check(err) {
				t.Errorf("got %v", err)
			}
			if n := posted() - before; n != tt.posted {
				t.Errorf("%d posted, want %d", n, tt.posted)
			}
			if err := post(t.Context()); err != nil {
				t.Errorf("the next one: %v", err)
			}
			calls := w.Calls("chat.postMessage")
			if !calls[len(calls)-2].Injected || calls[len(calls)-1].Injected {
				t.Errorf("calls %+v", calls)
			}
		})
	}
}

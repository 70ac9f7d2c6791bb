package bot

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/internal/secret"
	"waggle/internal/workspace"
)

// listen runs ListenSocket until the returned function is called, which gives
// what it returned.
func (o *office) listen(s *submitter) (stop func() error) {
	o.t.Helper()
	o.work(s)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- o.bot.ListenSocket(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	o.t.Cleanup(func() { _ = stop() })
	if err := o.WaitSockets(o.t.Context(), 1); err != nil {
		o.t.Fatal(err)
	}
	return stop
}

func TestSocketMode(t *testing.T) { // not parallel: it counts goroutines
	o, s := newOffice(t), &submitter{}
	stop := o.listen(s)

	ack := o.typed(linus, deploys, "/scale pizza 6 —dry-run")
	if !ack.OK() || ack.Body != "" {
		t.Errorf("a request that is stored is answered with %+v", ack)
	}
	got := s.taken()
	if len(got) != 1 {
		t.Fatalf("taken: %+v", got)
	}
	r := got[0]
	if r.Actor.ID != linus || r.Actor.Team != o.TeamID() || r.Actor.Via != "slack" || r.Channel != deploys || !r.DryRun || r.Title != "/scale pizza 6 --dry-run" || !strings.Contains(r.Reply, ack.ResponseURL) {
		t.Errorf("taken: %+v", r)
	}

	ack = o.typed(linus, deploys, "/scale pizza six")
	if !ack.OK() || !strings.Contains(ack.Body, "not a number of replicas") {
		t.Errorf("a bad line is answered with %+v", ack)
	}
	if len(o.visible(ada)) != 0 || len(o.visible(linus)) != 1 {
		t.Errorf("the answer is seen by others: %q, %q", o.visible(ada), o.visible(linus))
	}

	if ack, err := o.Event(t.Context(), workspace.EventInput{Event: []byte(`{"type":"app_mention","user":"U0ADA","text":"hi","ts":"1.2","channel":"C0DEPLOYS","event_ts":"1.2"}`)}); err != nil || !ack.OK() {
		t.Errorf("an event is not acknowledged: %+v, %v", ack, err)
	}

	o.Disconnect("refresh_requested")
	if err := o.WaitSockets(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if ack := o.typed(linus, deploys, "/scale pizza 7"); !ack.OK() || len(s.taken()) != 2 {
		t.Errorf("after a reconnection: %+v, %d taken", ack, len(s.taken()))
	}

	noGoroutineLeft(t, func() {
		within(t, time.Second, "stopping", func() {
			if err := stop(); err != nil {
				t.Errorf("it ends with %v", err)
			}
		})
	})
}

// TestSocketModeIsNotHeldUp types more commands than there are workers while
// none of them ends.
func TestSocketModeIsNotHeldUp(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	release := make(chan struct{})
	s := &submitter{do: func(ctx context.Context) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	o.listen(s)
	var typing sync.WaitGroup
	acks := make(chan workspace.Ack, 2*socketWorkers)
	for i := range 2 * socketWorkers {
		typing.Go(func() { acks <- o.typed(linus, deploys, fmt.Sprintf("/scale pizza %d", i)) })
	}
	busy := 0
	for busy < socketWorkers {
		if a := <-acks; !a.OK() || !strings.Contains(a.Body, "too much to do") {
			t.Fatalf("with all workers busy: %+v", a)
		}
		busy++
	}
	close(release)
	typing.Wait()
	close(acks)
	for a := range acks {
		if !a.OK() || a.Body != "" {
			t.Errorf("one of the first: %+v", a)
		}
	}
	if n := len(s.taken()); n != socketWorkers {
		t.Errorf("%d taken, want %d", n, socketWorkers)
	}
}

// TestSocketModeAnswersBeforeItEnds stops while a request is being stored.
func TestSocketModeAnswersBeforeItEnds(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	begun, release := make(chan struct{}), make(chan struct{})
	s := &submitter{do: func(context.Context) error { close(begun); <-release; return nil }}
	stop := o.listen(s)
	acks := make(chan workspace.Ack, 1)
	go func() { acks <- o.typed(linus, deploys, "/scale pizza 6") }()
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	select {
	case err := <-stopped:
		t.Fatalf("it ended before the answer: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if a := <-acks; !a.OK() {
		t.Errorf("the last request: %+v", a)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestSocketModeSurvivesAPanic(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	s := &submitter{do: func(context.Context) error { panic("boom") }}
	o.listen(s)
	if a := o.typed(linus, deploys, "/scale pizza 6"); !a.OK() || !strings.Contains(a.Body, "for a reason that is in its log") || strings.Contains(a.Body, "boom") {
		t.Errorf("it is answered with %+v", a)
	}
}

func TestSocketModeRefused(t *testing.T) { // not parallel: it counts goroutines
	for name, tc := range map[string]struct{ token, refusal, says string }{
		"unknown token":    {"xapp-nobody", "", "invalid_auth"},
		"bot token":        {"bot", "", "not_allowed_token_type"},
		"no scope":         {"", "missing_scope", "connections:write"},
		"revoked":          {"", "token_revoked", "slack.app_token"},
		"app not in state": {"", "access_denied", "access_denied"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t, func(w *workspace.Options, b *Options) { b.AppToken = secret.Text(tc.token) })
			if tc.token == "bot" {
				b := o.bot.opts
				b.AppToken = secret.Text(o.BotToken())
				o.bot = New(b)
			}
			if tc.refusal != "" {
				o.FailNext("apps.connections.open", 100, workspace.Failure{Error: tc.refusal})
			}
			o.work(&submitter{})
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			noGoroutineLeft(t, func() {
				err := o.bot.ListenSocket(ctx)
				if err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "xoxb-") || strings.Contains(err.Error(), "xapp-nobody") {
					t.Errorf("it ends with %v", err)
				}
			})
		})
	}
}

// TestSocketModeConnectsWhenSlackIsBack begins while Slack is away.
func TestSocketModeConnectsWhenSlackIsBack(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.FailNext("apps.connections.open", 1, workspace.Failure{Drop: true})
	o.FailNext("apps.connections.open", 1, workspace.Failure{Status: 503})
	o.FailNext("apps.connections.open", 1, workspace.Failure{Error: "internal_error"})
	o.listen(&submitter{})
	if ack := o.typed(linus, deploys, "/swarm help"); !ack.OK() || !strings.Contains(ack.Body, "/scale") {
		t.Errorf("answered with %+v", ack)
	}
}

func TestRefusedSocketKeepsTheCause(t *testing.T) {
	cause := errors.New("invalid_auth")
	if err := refusedSocket(cause); !errors.Is(err, cause) {
		t.Error(err)
	}
}

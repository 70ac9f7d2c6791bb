package ops_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"waggle/ops"
)

// runOn returns a run that has begun on the swarm, with its statuses.
func runOn(swarm *fakeSwarm) (*ops.Run, *recorder) {
	shown := newRecorder()
	env := ops.Env{Swarm: swarm, BuildTimeout: 20 * time.Minute, DeployTimeout: 10 * time.Minute, JoinTimeout: 2 * time.Minute, Now: time.Now}
	return ops.NewRun(env, recorded{shown, "op1"}), shown
}

func noted(prefix string) func(ops.Status) bool {
	return func(s ops.Status) bool { return strings.HasPrefix(s.Note, prefix) }
}

func TestWhileAway(t *testing.T) {
	refused := ops.Errorf(ops.Failed, "The registry refuses it")
	for name, tc := range map[string]struct {
		away  time.Duration // from the first call on
		then  error
		ctx   func(context.Context) (context.Context, context.CancelFunc)
		want  string // "" for no error
		code  ops.Code
		ended time.Duration // at the latest
	}{
		"answered":       {want: "", ended: 0},
		"back":           {away: 30 * time.Second, ended: 38 * time.Second},
		"back, refused":  {away: 4 * time.Second, then: refused, want: refused.Sentence, code: ops.Failed, ended: 6 * time.Second},
		"refused":        {then: refused, want: refused.Sentence, code: ops.Failed, ended: 0},
		"past deadline":  {away: time.Hour, want: dockerAway.Sentence + " (retried until ", code: ops.Unavailable, ended: time.Minute},
		"ctx's deadline": {away: time.Hour, ctx: limited(20 * time.Second), want: dockerAway.Sentence + " (retried until ", code: ops.Unavailable, ended: 20 * time.Second},
		"cancelled":      {away: time.Hour, ctx: cancelledAfter(3 * time.Second), want: context.Canceled.Error(), code: ops.Internal, ended: 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if tc.ctx != nil {
					ctx, cancel = tc.ctx(ctx)
				}
				defer cancel()
				run, shown := runOn(newFakeSwarm())
				run.Note("as before")
				began := time.Now()
				calls := 0
				err := run.WhileAway(ctx, began.Add(time.Minute), func(context.Context) error {
					if calls++; time.Since(began) < tc.away {
						return dockerAway
					}
					return tc.then
				})
				if text := ""; err != nil {
					if text = err.Error(); !strings.HasPrefix(text, tc.want) || tc.want == "" || ops.CodeOf(err) != tc.code {
						t.Errorf("it returned %s %q", ops.CodeOf(err), text)
					}
				} else if tc.want != "" {
					t.Error("it returned no error")
				}
				if took := time.Since(began); took > tc.ended || took < min(tc.away, tc.ended) {
					t.Errorf("it ended after %s", took)
				}
				if calls > 60 {
					t.Errorf("%d calls", calls)
				}
				told := dockerAway.Sentence + ". Retrying until " + began.Add(time.Minute).UTC().Format("15:04:05 UTC") + "."
				if shown.seen(noted(told)) != (tc.away > 0) {
					t.Errorf("its note never was %q", told)
				}
				if note := run.Shown().Note; note != "as before" && tc.away < time.Minute {
					t.Errorf("afterwards the note is %q", note)
				}
			})
		})
	}
}

func limited(d time.Duration) func(context.Context) (context.Context, context.CancelFunc) {
	return func(ctx context.Context) (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, d) }
}

func cancelledAfter(d time.Duration) func(context.Context) (context.Context, context.CancelFunc) {
	return func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(d, cancel)
		return ctx, cancel
	}
}

// A call whose own ctx has ended is answered Unavailable too, as those to Docker are.
func TestEndedContextIsNotAway(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	run, shown := runOn(newFakeSwarm())
	err := run.WhileAway(ctx, time.Now().Add(time.Hour), func(context.Context) error {
		cancel()
		return dockerAway
	})
	if err != context.Canceled || shown.seen(noted("Docker")) {
		t.Errorf("it returned %v, and the statuses are %+v", err, shown.all)
	}
}

// Polls are quick at first, and few in the long run.
func TestPollsBackOff(t *testing.T) {
	waiting := func(s ops.Service) []ops.Task { return []ops.Task{task(1, "preparing", "", 0)} }
	for name, follow := range map[string]func(context.Context, *ops.Run, *fakeSwarm) error{
		"scale": func(ctx context.Context, run *ops.Run, f *fakeSwarm) error {
			_, err := run.FollowScale(ctx, f.service("pizza"))
			return err
		},
		"update": func(ctx context.Context, run *ops.Run, f *fakeSwarm) error {
			f.services["pizza"].Update.State = "updating"
			_, err := run.FollowUpdate(ctx, "pizza", "")
			return err
		},
		"drain": func(ctx context.Context, run *ops.Run, f *fakeSwarm) error {
			return run.Evacuated(ctx, f.nodes[0], []string{"pizza"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 1})
				swarm.tasks = waiting
				run, _ := runOn(swarm)
				early := make(chan int, 1)
				time.AfterFunc(time.Second, func() { early <- swarm.called("") })
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				if err := follow(ctx, run, swarm); err == nil {
					t.Error("it ended without an error")
				}
				if n := <-early; n < 10 {
					t.Errorf("%d calls in the first second", n)
				}
				if n := swarm.called(""); n > 4*5*60+60 {
					t.Errorf("%d calls in five minutes", n)
				}
			})
		})
	}
}

package ops

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"waggle/ops/queue"
	"waggle/ops/store"
)

// trips counts round trips to Redis; with answer set there is none behind it.
type trips struct {
	n      atomic.Int64
	answer bool
	names  []string
}

func (c *trips) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *trips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if greets(cmd) {
			return next(ctx, cmd)
		}
		c.n.Add(1)
		if c.answer {
			cmd.(*redis.Cmd).SetVal(int64(1))
			return nil
		}
		c.names = append(c.names, cmd.Name())
		return next(ctx, cmd)
	}
}

func (c *trips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !greets(cmds[0]) {
			c.n.Add(1)
		}
		return next(ctx, cmds)
	}
}

// greets says whether a command is only there to make a connection.
func greets(cmd redis.Cmder) bool { return cmd.Name() == "hello" || cmd.Name() == "client" }

// counted is one with how often it was asked.
type counted struct {
	one
	asks *atomic.Int64
}

func (c counted) Services(ctx context.Context) ([]Service, error) {
	c.asks.Add(1)
	return c.one.Services(ctx)
}

// nth is a push to app, each with three commits and the one before it before it.
func nth(n int) Push {
	commit := func(n int) string { return fmt.Sprintf("%040x", n) }
	p := Push{Provider: "github", Branch: "main", Before: commit(n - 1), After: commit(n), PushedAt: time.Unix(int64(1000+n), 0), Pusher: "ada", Name: "acme/pizza",
		RepoURLs: []string{"https://git.example/acme/pizza.git", "git@git.example:acme/pizza.git", "git://git.example/acme/pizza.git", "https://git.example/acme/pizza"}}
	for range 3 {
		p.Commits = append(p.Commits, Commit{ID: p.After, Message: "Bake a pizza", Author: "Ada", URL: "https://git.example/acme/pizza/commit/" + p.After})
	}
	return p
}

// TestTripsOfAPush: what an accepted push costs. One round trip, and one write to
// disk in it, is what a handler needs that only stores it.
func TestTripsOfAPush(t *testing.T) {
	r, _ := taking(t, app(), "")
	var asks atomic.Int64
	r.Env.Swarm = counted{one{svc: app()}, &asks}
	c := new(trips)
	r.Store.Client().AddHook(c)
	push := func(r *Runner, n int, wantTrips, wantAsks int64) {
		t.Helper()
		c.n.Store(0)
		c.names = nil
		asks.Store(0)
		if got := take(t, r, nth(n)); len(got.Jobs) != 1 {
			t.Fatalf("push %d: %+v", n, got)
		}
		if c.n.Load() != wantTrips || asks.Load() != wantAsks {
			t.Errorf("push %d took %d round trips (%s) and %d looks at Docker, want %d and %d", n, c.n.Load(), strings.Join(c.names, " "), asks.Load(), wantTrips, wantAsks)
		}
	}
	// The very first: nothing is known, the queue is made, and the script is told.
	push(r, 1, 4, 1)
	for n := 2; n <= 30; n++ {
		push(r, n, 1, 0)
	}
	r.Env.Now = func() time.Time { return time.Now().Add(time.Hour) }
	push(r, 31, 1, 1) // one now and then
	other := &Runner{Store: r.Store, Log: r.Log, Env: r.Env, Deploys: queue.New(r.Store.Client(), queue.Options{Name: "deploys", Concurrency: 1, Log: r.Log})}
	push(other, 32, 3, 1) // another replica, and its first
	push(other, 33, 1, 0)
	push(r, 34, 3, 0) // in vain by what this one wrote, then by what is there
	push(r, 35, 1, 0)
}

// TestAllocationsOfAPush counts them, without Redis.
func TestAllocationsOfAPush(t *testing.T) {
	r, _ := taking(t, app(), "")
	for n := range pushesMost + 1 {
		take(t, r, nth(n+1))
	}
	r.Store.Client().AddHook(&trips{answer: true})
	n := 100
	got := testing.AllocsPerRun(200, func() {
		n++
		if out, err := r.Deploy(t.Context(), nth(n)); err != nil || len(out.Jobs) != 1 {
			t.Fatalf("%+v, %v", out, err)
		}
	})
	making := testing.AllocsPerRun(200, func() { n++; _ = nth(n) })
	const most = 200 // it was 156 of them, and 183 with the race detector
	if got -= making; got > most {
		t.Errorf("%.0f allocations, want at most %d", got, most)
	}
}

// TestByHandAndPushes: both are numbered in one order, whoever comes first.
func TestByHandAndPushes(t *testing.T) {
	r, _ := taking(t, app(), "")
	hand := func(id string) {
		t.Helper()
		if err := r.Submit(t.Context(), Request{ID: id}, &Deploy{App: "pizza", Hand: true}); err != nil {
			t.Fatal(err)
		}
	}
	newest := func() (n int64) {
		t.Helper()
		if err := r.Store.Get(t.Context(), newestKey("pizza"), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	hand("by hand 1")
	take(t, r, nth(1))
	hand("by hand 2")
	hand("by hand 3")
	got := take(t, r, nth(2))
	if want := "deploy-pizza-0000000-5"; got.Jobs[0].ID != want || newest() != 5 {
		t.Errorf("the fifth is %s, and %d the newest", got.Jobs[0].ID, newest())
	}
	if err := r.Submit(t.Context(), Request{ID: "by hand 3"}, &Deploy{App: "pizza", Hand: true}); err != queue.ErrDuplicate || newest() != 5 {
		t.Errorf("asked twice: %v, and %d the newest", err, newest())
	}
	// What is older by its number than one that exists would give way to it.
	if err := r.submit(t.Context(), Request{ID: "late", Seq: 5}, &Deploy{App: "pizza"}, nil, false); err != store.ErrChanged {
		t.Errorf("a number that is taken: %v", err)
	}
}

package ops_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"waggle/ops"
	"waggle/ops/store"
)

// dieAt has the process of a test end at a step, as `kill -9` does: from then on nothing of it has
// an effect, and its leases run out.
func dieAt(t *testing.T, kept *store.Embedded, step string) (change func(*ops.Runner), died <-chan struct{}) {
	dead := make(chan struct{})
	return func(r *ops.Runner) {
		cut := new(cutOff)
		r.Store.Client().AddHook(cut)
		r.Failpoint = func(at string) {
			if at != step || !cut.CompareAndSwap(false, true) {
				return
			}
			other := store.Open(kept.Options())
			defer other.Close()
			keys, err := other.Client().Keys(t.Context(), "waggle:lock:*").Result()
			if err == nil && len(keys) > 0 {
				err = other.Client().Del(t.Context(), keys...).Err()
			}
			if err != nil {
				t.Error(err)
			}
			close(dead)
			<-t.Context().Done()
		}
	}, dead
}

// cutOff is a Redis connection that ends with its process.
type cutOff struct{ atomic.Bool }

// errDead ends the process's goroutines when the test ends.
var errDead = fmt.Errorf("this process is dead: %w", store.ErrLost)

func (c *cutOff) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *cutOff) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if c.Load() {
			cmd.SetErr(errDead)
			return errDead
		}
		return next(ctx, cmd)
	}
}

func (c *cutOff) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if c.Load() {
			return errDead
		}
		return next(ctx, cmds)
	}
}

var steps = []string{"begun", "prepared", "applying", "applied", "followed", "final"}

// TestDeathAtEachStep: whatever step a process dies at, and whatever comes after, what was asked for
// is done once, and never over what is newer.
func TestDeathAtEachStep(t *testing.T) {
	for _, step := range steps {
		if step == "prepared" {
			continue // a scale has no slow work
		}
		t.Run("scale/"+step, func(t *testing.T) {
			t.Parallel()
			mem, swarm := kept(t), newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3})
			die, died := dieAt(t, mem, step)
			first := startOn(t, mem, swarm, die)
			first.submit(t, asked("op1"), &ops.Scale{App: "pizza", Replicas: 5})
			<-died
			second := startOn(t, mem, swarm)
			second.submit(t, asked("op2"), &ops.Scale{App: "pizza", Replicas: 2})
			second.settled(t, "op1", "op2")
			var got []string
			for _, c := range swarm.changes() {
				got = append(got, fmt.Sprint(*c.Replicas))
			}
			if order := strings.Join(got, " "); order != "5 2" && order != "2" && !(step == "begun" && order == "2 5") {
				t.Errorf("scaled to %s", order)
			}
		})
		t.Run("relative/"+step, func(t *testing.T) {
			t.Parallel()
			mem, swarm := kept(t), newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3})
			die, died := dieAt(t, mem, step)
			first := startOn(t, mem, swarm, die)
			first.submit(t, asked("op1"), &ops.Scale{App: "pizza", Replicas: 2, Relative: true})
			<-died
			second := startOn(t, mem, swarm)
			second.settled(t, "op1")
			if n := swarm.service("pizza").Replicas; n != 5 {
				t.Errorf("3 + 2 are %d", n)
			}
		})
	}
	for _, step := range steps {
		t.Run("deploy/"+step, func(t *testing.T) {
			t.Parallel()
			mem, swarm := kept(t), newFakeSwarm(linked("pizza", 1))
			die, died := dieAt(t, mem, step)
			first := startOn(t, mem, swarm, die)
			one := first.push(t, pushOf(1)).Jobs[0].ID
			<-died
			second := startOn(t, mem, swarm)
			two := second.push(t, pushOf(2)).Jobs[0].ID
			second.settled(t, one, two)
			releases, err := swarm.service("pizza").Releases()
			if err != nil {
				t.Fatal(err)
			}
			var commits []string
			for _, r := range releases {
				commits = append(commits, r.Commit[:1])
			}
			if order := strings.Join(commits, " "); order != "2 1" && order != "2" {
				t.Errorf("releases, newest first, of commits %s", order)
			}
			if n := len(swarm.changes()); n != len(releases) {
				t.Errorf("%d updates made %d releases", n, len(releases))
			}
		})
	}
}

// settled waits until operations have come to their end and everything is told, and checks that each
// has one audit entry, and that no lock and nothing else is left of them.
func (h *house) settled(t *testing.T, ids ...string) {
	t.Helper()
	rdb := h.Store.Client()
	left := func() (out []string) {
		for _, pattern := range []string{"waggle:lock:run:*", "waggle:lock:target:*", "waggle:lock:turn:*", "waggle:lock:tell:*", "waggle:applying:*", "waggle:outbox", "waggle:inflight", "waggle:pending"} {
			keys, err := rdb.Keys(t.Context(), pattern).Result()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, keys...)
		}
		return out
	}
	outcomes := map[string][]string{}
	waitFor(t, "every outcome in the audit", func() bool {
		all, err := h.Audit(t.Context(), "", 100)
		if err != nil {
			t.Fatal(err)
		}
		clear(outcomes)
		for _, e := range all {
			outcomes[e.ID] = append(outcomes[e.ID], string(e.Outcome))
		}
		for _, id := range ids {
			if len(outcomes[id]) == 0 {
				return false
			}
		}
		return len(left()) == 0
	})
	for _, id := range ids {
		if o := outcomes[id]; len(o) != 1 || o[0] != string(ops.Done) && o[0] != string(ops.Superseded) {
			t.Errorf("%s: %v", id, o)
		}
		var rec struct{ State ops.State }
		raw, err := rdb.Get(t.Context(), "waggle:op:"+id).Bytes()
		if err == nil {
			err = json.Unmarshal(raw, &rec)
		}
		if err != nil || string(rec.State) != outcomes[id][0] {
			t.Errorf("%s: the record says %s, %v, and the audit %v", id, rec.State, err, outcomes[id])
		}
	}
}

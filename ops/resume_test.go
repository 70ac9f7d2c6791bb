package ops_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"waggle/ops"
	"waggle/ops/store"
)

// rolling has image updates go on until the test says otherwise.
func rolling(s *ops.Service, _ ops.Change) { s.Update = ops.UpdateStatus{State: "updating"} }

func toApprove(name string) ops.Service {
	svc := linked(name, 1)
	svc.Labels[ops.LabelApprove] = "push"
	return svc
}

// TestStoppedWhileItAsks: Waggle stops while the message that asks is posted.
func TestStoppedWhileItAsks(t *testing.T) {
	t.Parallel()
	redis := kept(t)
	swarm := newFakeSwarm(toApprove("pizza"))
	first := startOn(t, redis, swarm)
	asking, goOn := make(chan struct{}), make(chan struct{})
	var closes atomic.Int32
	first.recorder.mu.Lock()
	first.closing = func(string) {
		if closes.Add(1) == 1 {
			close(asking)
			<-goOn
		}
	}
	first.recorder.mu.Unlock()
	defer close(goOn)
	id := first.push(t, pushOf(1)).Jobs[0].ID
	<-asking
	// As after a kill: nobody is telling it, and it is due.
	second := startOn(t, redis, swarm)
	rdb := second.Store.Client()
	if err := rdb.Del(t.Context(), "waggle:lock:tell:"+id+":message").Err(); err != nil {
		t.Fatal(err)
	}
	due := goredis.Z{Score: 1, Member: id + "|message|1"}
	if n, err := rdb.ZAddXX(t.Context(), "waggle:outbox", due).Result(); err != nil {
		t.Fatal(n, err)
	}
	asks := func(s ops.Status) bool { return s.ID == id && s.State == ops.Pending }
	waitFor(t, "it asks again", func() bool { return closes.Load() > 1 || second.seen(asks) })
	waits := first.wait(t, asks)
	second.decide(t, "click", "bob", waits.Token, ops.Approve, "")
	waitFor(t, "it is done", func() bool {
		done := func(s ops.Status) bool { return s.ID == id && s.State == ops.Done }
		return first.seen(done) || second.seen(done)
	})
}

// slow is an Authoriser that takes until the test says otherwise for one person.
type slow struct {
	who   string
	began chan struct{}
	goOn  chan struct{}
}

func (s slow) Authorise(_ context.Context, a ops.Actor, _ ops.Role) error {
	if a.Name == s.who {
		close(s.began)
		<-s.goOn
	}
	return nil
}

// TestApprovalOfAnEarlierPlan: while Slack is asked about one who clicks, another's click
// counts, and it turns out that the plan has changed.
func TestApprovalOfAnEarlierPlan(t *testing.T) {
	asks := slow{"carl", make(chan struct{}), make(chan struct{})}
	h := startHouse(t, newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3}), func(r *ops.Runner) { r.Authoriser = asks })
	waits := h.ask(t, "op1")
	h.decide(t, "slow", "carl", waits.Token, ops.Approve, "")
	<-asks.began
	h.swarm.with(func() { h.swarm.services["pizza"].Replicas = 5; h.swarm.services["pizza"].Version++ })
	h.decide(t, "fast", "bob", waits.Token, ops.Approve, "")
	again := h.wait(t, func(s ops.Status) bool { return s.ID == "op1" && s.State == ops.Pending && s.Before != nil })
	close(asks.goOn)
	says(t, h.final(t, "slow"), ops.Refused, "Already approved by @bob")
	if len(h.swarm.changes()) > 0 {
		t.Fatal("a plan that nobody has approved was carried out")
	}
	h.decide(t, "again", "bob", again.Token, ops.Approve, "")
	says(t, h.final(t, "op1"), ops.Done)
}

// TestApprovedPushGoesOn: what somebody approved and was begun is not asked again.
func TestApprovedPushGoesOn(t *testing.T) {
	redis := kept(t)
	swarm := newFakeSwarm(toApprove("pizza"))
	swarm.rolled = rolling
	first := startOn(t, redis, swarm)
	id := first.push(t, pushOf(1)).Jobs[0].ID
	waits := first.wait(t, func(s ops.Status) bool { return s.ID == id && s.State == ops.Pending })
	first.decide(t, "click", "bob", waits.Token, ops.Approve, "")
	first.wait(t, func(s ops.Status) bool { return s.ID == id && s.Replicas != nil })
	first.Stop()

	second := startOn(t, redis, swarm)
	second.wait(t, func(s ops.Status) bool { return s.Replicas != nil || s.State == ops.Pending })
	swarm.with(func() { swarm.services["pizza"].Update.State = "completed" })
	says(t, second.final(t, id), ops.Done)
	if n := len(swarm.changes()); n != 1 {
		t.Errorf("%d updates", n)
	}
}

// scaledAndStopped returns a swarm in which a scale of pizza to 5, op1, is written and not
// converged, by a Waggle that has stopped.
func scaledAndStopped(t *testing.T, redis *store.Embedded) *fakeSwarm {
	t.Helper()
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3})
	swarm.tasks = func(s ops.Service) []ops.Task { return swarm.spread(s)[:3] }
	first := startOn(t, redis, swarm)
	first.submit(t, asked("op1"), &ops.Scale{App: "pizza", Replicas: 5})
	first.wait(t, func(s ops.Status) bool { return s.Replicas != nil })
	first.Stop()
	return swarm
}

// TestResumedWhileDockerIsAway: whether it worked is seen later, not denied.
func TestResumedWhileDockerIsAway(t *testing.T) {
	t.Parallel()
	redis := kept(t)
	swarm := scaledAndStopped(t, redis)

	swarm.with(func() { swarm.down = ops.Errorf(ops.Unavailable, "Docker does not answer") })
	second := startOn(t, redis, swarm)
	second.wait(t, func(s ops.Status) bool {
		return s.State.Final() || strings.HasPrefix(s.Note, "Docker does not answer. Retrying until ")
	})
	swarm.with(func() { swarm.down, swarm.tasks = nil, nil })
	says(t, second.final(t, "op1"), ops.Done, "pizza runs 5 of 5")
}

// TestResumedWatchIsInNobodysWay: what is written is only watched, whoever holds the app's lock.
func TestResumedWatchIsInNobodysWay(t *testing.T) {
	t.Parallel()
	redis := kept(t)
	swarm := scaledAndStopped(t, redis)

	other := store.Open(redis.Options())
	defer other.Close()
	lease, err := other.Lock(t.Context(), "target:app/pizza", store.Claim{Owner: "@bob", Reason: "deploy"})
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	second := startOn(t, redis, swarm)
	swarm.with(func() { swarm.tasks = nil })
	says(t, second.final(t, "op1"), ops.Done, "pizza runs 5 of 5")
	if n := len(swarm.changes()); n != 1 {
		t.Errorf("%d updates", n)
	}
}

// TestTypedBeforeAPush: what was asked for first does not take the place of what came
// after it, however long it takes to find out whether it may be done.
func TestTypedBeforeAPush(t *testing.T) {
	asks := slow{"carl", make(chan struct{}), make(chan struct{})}
	h := startHouse(t, newFakeSwarm(linked("pizza", 1)), func(r *ops.Runner) { r.Authoriser = asks })
	h.source.heads = map[string]string{"": pushOf(7).After}
	req := asked("hand")
	req.Actor = person("carl")
	h.submit(t, req, &ops.Deploy{App: "pizza", Hand: true})
	<-asks.began
	says(t, h.final(t, h.push(t, pushOf(1)).Jobs[0].ID), ops.Done)
	close(asks.goOn)
	says(t, h.final(t, "hand"), ops.Superseded)
	if n := len(h.swarm.changes()); n != 1 {
		t.Errorf("%d updates", n)
	}
}

// TestSetGoesOn: of a change that was written nothing tells that it restarts tasks.
func TestSetGoesOn(t *testing.T) {
	redis := kept(t)
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 1, Image: "pizza:1", Settings: ops.Settings{Parallelism: 1}})
	swarm.afterUpdate = func(s *ops.Service) {
		s.Update.State = "updating"
		s.LimitMemory = 1 << 30
	}
	first := startOn(t, redis, swarm, withKey(t))
	first.submit(t, asked("op1"), &ops.AppSet{App: "pizza", Values: map[string]string{"limit-memory": "1g"}})
	first.wait(t, func(s ops.Status) bool { return s.Replicas != nil })
	first.Stop()

	second := startOn(t, redis, swarm, withKey(t))
	second.wait(t, func(s ops.Status) bool { return s.Replicas != nil || s.State.Final() })
	if second.seen(func(s ops.Status) bool { return s.State.Final() }) {
		t.Fatal("it ended while tasks are restarted")
	}
	swarm.with(func() { swarm.services["pizza"].Update.State = "completed" })
	says(t, second.final(t, "op1"), ops.Done, "1 of 1 run with it")
}

// TestPruneGoesOn: an attempt that was cut off has left the registry stopped.
func TestPruneGoesOn(t *testing.T) {
	redis := kept(t)
	swarm := newFakeSwarm()
	first := startOn(t, redis, swarm)
	says(t, first.does(t, "setup", &ops.RegistrySetup{Name: "local"}), ops.Done)
	made := first.images.images
	for i := 1; i <= 3; i++ {
		made[fmt.Sprintf("127.0.0.1:5000/pizza:%d", i)] = ops.Image{Digest: fmt.Sprintf("sha256:%064d", i), Created: time.Unix(int64(i), 0)}
	}
	collected := "running"
	swarm.with(func() {
		swarm.tasks = func(s ops.Service) []ops.Task {
			if s.Name == "waggle-registry-collect" {
				return []ops.Task{{ID: "gc", State: collected, Desired: "complete"}}
			}
			return swarm.spread(s)
		}
	})
	first.submit(t, asked("go"), &ops.RegistryPrune{Keep: 1})
	waitFor(t, "it collects", func() bool {
		found := false
		swarm.with(func() { found = swarm.services["waggle-registry-collect"] != nil })
		return found
	})
	first.Stop()
	swarm.with(func() { swarm.services["waggle-registry"].Replicas, collected = 0, "complete" }) // as a kill leaves it

	first.images.stopped = func() bool { return swarm.service("waggle-registry").Replicas == 0 }
	second := startOn(t, redis, swarm, func(r *ops.Runner) { r.Env.Images = first.images })
	says(t, second.final(t, "go"), ops.Done, "removed from local")
	if n := swarm.service("waggle-registry").Replicas; n != 1 {
		t.Errorf("the registry has %d replicas", n)
	}
}

package ops_test

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"waggle/ops"
)

// TestRedisEmptiedWhileItRuns: the process that runs an operation has all it needs to follow it to
// the end, and keeps what it does in Redis again.
func TestRedisEmptiedWhileItRuns(t *testing.T) {
	t.Parallel()
	swarm := newFakeSwarm(linked("pizza", 1))
	swarm.rolled = rolling
	h := startHouse(t, swarm)
	id := h.push(t, pushOf(1)).Jobs[0].ID
	h.wait(t, func(s ops.Status) bool { return s.ID == id && s.Replicas != nil })
	if err := h.Store.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	swarm.with(func() { swarm.services["pizza"].Update.State = "completed" })
	says(t, h.final(t, id), ops.Done)
	h.settled(t, id)
	if n := len(swarm.changes()); n != 1 {
		t.Errorf("%d updates", n)
	}
}

// TestRedisEmptiedWhileItWaits: what waited for an approval is told to be gone, and its buttons with it.
func TestRedisEmptiedWhileItWaits(t *testing.T) {
	t.Parallel()
	h := pizzaHouse(t)
	h.ask(t, "op1")
	if err := h.Store.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	got := h.final(t, "op1")
	if got.State != ops.Expired || got.Err.Sentence != "Redis lost its data, and this request with it" || !strings.Contains(got.Err.Next, "Run the command again") || got.Token != "" {
		t.Errorf("%s %+v, token %q", got.State, got.Err, got.Token)
	}
	if n := len(h.swarm.changes()); n > 0 {
		t.Errorf("%d updates", n)
	}
	h.recorder.mu.Lock()
	defer h.recorder.mu.Unlock()
	if want := []string{"op1 ", "op1 message-1"}; !slices.Equal(h.opened, want) {
		t.Errorf("opened %q, want %q: the message with the buttons is the one to change", h.opened, want)
	}
}

// TestEndIsDurableBeforeItIsTold: while the message is on its way, nothing of the operation is left
// to be done again, and no lock is held.
func TestEndIsDurableBeforeItIsTold(t *testing.T) {
	t.Parallel()
	h := startHouse(t, newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3}))
	telling, goOn := make(chan struct{}), make(chan struct{})
	h.recorder.mu.Lock()
	h.closing = func(string) {
		select {
		case <-telling:
		default:
			close(telling)
		}
		<-goOn
	}
	h.recorder.mu.Unlock()
	defer close(goOn)
	h.submit(t, asked("op1"), &ops.Scale{App: "pizza", Replicas: 5})
	<-telling
	all, err := h.Audit(t.Context(), "pizza", 5)
	if err != nil || len(all) != 1 || all[0].Outcome != ops.Done {
		t.Errorf("the audit: %+v, %v", all, err)
	}
	keys, err := h.Store.Client().Keys(t.Context(), "waggle:lock:*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if !strings.HasPrefix(key, "waggle:lock:tell:") && !strings.HasPrefix(key, "waggle:lock:run:") {
			t.Errorf("still held: %s", key)
		}
	}
	began := time.Now()
	h.submit(t, asked("op2"), &ops.Scale{App: "pizza", Replicas: 2})
	waitFor(t, "the next one", func() bool { return h.swarm.service("pizza").Replicas == 2 })
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the next one waited %s for Slack", took)
	}
}

// TestRedisEmptiedBeforeTheEndIsTold: the process that could not show the end does not forget it.
func TestRedisEmptiedBeforeTheEndIsTold(t *testing.T) {
	t.Parallel()
	h := startHouse(t, newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3}))
	var tries atomic.Int32
	h.recorder.mu.Lock()
	h.refuses = func(string) error {
		if tries.Add(1) > 1 {
			return nil
		}
		return errors.Join(errors.New("Slack is away"), h.Store.Client().FlushAll(t.Context()).Err())
	}
	h.recorder.mu.Unlock()
	h.submit(t, asked("op1"), &ops.Scale{App: "pizza", Replicas: 5})
	waitFor(t, "the end is shown again", func() bool { return tries.Load() == 2 })
	says(t, h.final(t, "op1"), ops.Done, "pizza runs 5 of 5")
	waitFor(t, "nothing is left to be told", func() bool {
		n, err := h.Store.Client().Exists(t.Context(), "waggle:outbox").Result()
		return err == nil && n == 0
	})
}

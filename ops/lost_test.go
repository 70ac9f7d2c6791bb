package ops_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"waggle/ops"
)

// TestTellLost: when the embedded Redis ends with Waggle, whoever waits for something that
// is in it reads that in its message, whether it waited or had begun; what is done stays so.
func TestTellLost(t *testing.T) {
	swarm := newFakeSwarm(linked("pizza", 1), ops.Service{Name: "pasta", Replicas: 2}, ops.Service{Name: "soup", Replicas: 1})
	building := make(chan struct{}, 1)
	swarm.build = func(ctx context.Context, _ ops.BuildRequest) error {
		building <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	swarm.tasks = func(s ops.Service) []ops.Task {
		if s.Name == "soup" && s.Replicas == 3 {
			return []ops.Task{task(1, "preparing", "", 0), task(2, "running", "", 0)}
		}
		return swarm.spread(s)
	}
	h := startHouse(t, swarm)
	if s := h.scale(t, "done", &ops.Scale{App: "pasta", Replicas: 3}); s.State != ops.Done {
		t.Fatalf("%s %+v", s.State, s.Err)
	}
	h.submit(t, asked("approval"), &ops.Scale{App: "pasta", Replicas: 0})
	h.wait(t, func(s ops.Status) bool { return s.ID == "approval" && s.State == ops.Pending })
	h.submit(t, asked("applying"), &ops.Scale{App: "soup", Replicas: 3})
	h.wait(t, func(s ops.Status) bool { return s.ID == "applying" && s.Replicas != nil })
	first := h.push(t, pushOf(1)).Jobs[0].ID
	<-building
	second := h.push(t, pushOf(2)).Jobs[0].ID
	h.wait(t, func(s ops.Status) bool { return s.ID == second && s.State == ops.Waiting })
	h.Stop()
	swarm.with(func() { swarm.down = dockerAway })
	stored, err := h.Deploy(t.Context(), elsewhere())
	if err != nil || !stored.Waits {
		t.Fatalf("%+v, %v", stored, err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	h.TellLost(ctx)
	const gone = "Waggle restarts with its embedded Redis: this request is lost"
	for id, want := range map[string]struct {
		state ops.State
		says  string
		then  string
	}{
		"approval": {ops.Cancelled, gone, "Run the command again."},
		"applying": {ops.Failure, "Waggle restarts with its embedded Redis and no longer follows this change: the swarm may still carry it out", "Check it before"},
		first:      {ops.Cancelled, gone, "`/deploy pizza` deploys it."},
		second:     {ops.Cancelled, gone, "`/deploy pizza` deploys it."},
	} {
		got := h.final(t, id)
		if got.State != want.state || got.Err == nil || got.Err.Sentence != want.says || !strings.HasPrefix(got.Err.Next, want.then) ||
			!strings.HasSuffix(got.Err.Next, "Set redis.url to keep requests across restarts.") {
			t.Errorf("%s: %s %+v", id, got.State, got.Err)
		}
	}
	if got := h.final(t, "approval"); len(got.Plan.Diffs) == 0 || got.Token != "" {
		t.Errorf("the approval's message has no plan, or still its buttons: %+v", got)
	}
	if got := h.wait(t, func(s ops.Status) bool { return s.Kind == "push" }); got.State != ops.Cancelled || got.Target != "acme/pasta" {
		t.Errorf("the stored push: %s %+v", got.State, got.Err)
	}
	if h.seen(func(s ops.Status) bool { return s.ID == "done" && s.State.Final() && s.State != ops.Done }) {
		t.Error("what was done is told as lost")
	}
}

// elsewhere is a push to a repository that nobody knows yet.
func elsewhere() ops.Push {
	p := pushOf(3)
	p.RepoURLs, p.Name = []string{"https://git.example/acme/pasta"}, "acme/pasta"
	return p
}

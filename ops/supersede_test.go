package ops_test

import (
	"testing"

	"waggle/ops"
)

// TestScaleTwiceAtOnce: the second takes over while the first is only watched.
func TestScaleTwiceAtOnce(t *testing.T) {
	t.Parallel()
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3})
	swarm.tasks = func(s ops.Service) []ops.Task { return swarm.spread(s)[:3] } // none starts
	h := startHouse(t, swarm)
	h.submit(t, asked("op1"), &ops.Scale{App: "pizza", Replicas: 6})
	h.wait(t, func(s ops.Status) bool { return s.ID == "op1" && s.Replicas != nil })
	req := ops.Request{ID: "op2", Actor: person("bob"), Title: "scale pizza 8"}
	h.submit(t, req, &ops.Scale{App: "pizza", Replicas: 8})
	got := h.final(t, "op1")
	if got.State != ops.Superseded || got.Err.Sentence != "Superseded by @bob (scale pizza 8): pizza is set to 8 replicas" {
		t.Errorf("%s: %+v", got.State, got.Err)
	}
	swarm.with(func() { swarm.tasks = nil })
	says(t, h.final(t, "op2"), ops.Done, "pizza runs 8 of 8")
}

// TestActivateWhileDraining: the command that takes a drain back need not wait for its end.
func TestActivateWhileDraining(t *testing.T) {
	t.Parallel()
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3})
	swarm.tasks = func(ops.Service) []ops.Task { // none leaves
		return []ops.Task{task(1, "running", "", 0), task(2, "running", "", 0), task(3, "running", "", 0)}
	}
	h := startHouse(t, swarm)
	h.submit(t, asked("op1"), &ops.NodeAvailability{Node: "n2", To: ops.Drain})
	waitFor(t, "n2 is drained", func() bool {
		nodes, err := swarm.Nodes(t.Context())
		return err == nil && nodes[1].Availability == ops.Drain
	})
	h.submit(t, ops.Request{ID: "op2", Actor: person("bob"), Title: "activate n2"}, &ops.NodeAvailability{Node: "n2", To: ops.Active})
	says(t, h.final(t, "op2"), ops.Done)
	got := h.final(t, "op1")
	if got.State != ops.Superseded || got.Err.Sentence != "Superseded by @bob (activate n2): n2 is set to active" {
		t.Errorf("%s: %+v", got.State, got.Err)
	}
}

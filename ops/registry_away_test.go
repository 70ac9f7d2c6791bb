package ops_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"waggle/ops"
)

// prunable is a swarm with a registry of its own and three images, of which nothing names any.
func prunable(t *testing.T, change ...func(*ops.Runner)) *house {
	t.Helper()
	h := startHouse(t, newFakeSwarm(), change...)
	says(t, h.does(t, "setup", &ops.RegistrySetup{Name: "local"}), ops.Done)
	for i := 1; i <= 3; i++ {
		h.images.images[fmt.Sprintf("127.0.0.1:5000/pizza:%d", i)] = ops.Image{Digest: fmt.Sprintf("sha256:%064d", i), Created: time.Unix(int64(i), 0)}
	}
	h.swarm.with(func() {
		h.swarm.tasks = func(s ops.Service) []ops.Task {
			if s.Name == "waggle-registry-collect" {
				return []ops.Task{{ID: "gc", State: "complete", Desired: "complete"}}
			}
			return h.swarm.spread(s)
		}
	})
	return h
}

// TestPruneStartsTheRegistryAgain: whatever call of a prune is not answered for a moment, or took
// effect without an answer, the registry runs afterwards.
func TestPruneStartsTheRegistryAgain(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"UpdateService", "CreateService", "RemoveService", "Service", "Services", "Tasks"} {
		for _, lost := range []bool{false, true} {
			if read := call == "Service" || call == "Services" || call == "Tasks"; read && lost {
				continue
			}
			t.Run(fmt.Sprintf("%s, lost %t", call, lost), func(t *testing.T) {
				h := prunable(t)
				after := map[string]int{"UpdateService": 1, "Services": 2}[call] // the start; not the plan
				away := awayTimes(call, after, 4)
				h.swarm.fail(away, nil)
				if lost {
					h.swarm.fail(nil, func(c string) error { return away(t.Context(), c) })
				}
				says(t, h.does(t, "go", &ops.RegistryPrune{Keep: 1}), ops.Done, "2 images removed from local")
				if n := h.swarm.service("waggle-registry").Replicas; n != 1 {
					t.Errorf("the registry has %d replicas", n)
				}
				if h.swarm.services["waggle-registry-collect"] != nil {
					t.Error("the collecting service is left")
				}
			})
		}
	}
}

func TestPruneSaysThatTheRegistryIsStopped(t *testing.T) {
	t.Parallel()
	h := prunable(t, func(r *ops.Runner) { r.Env.DeployTimeout = 500 * time.Millisecond })
	h.swarm.fail(awayTimes("UpdateService", 1, 1000), nil)
	got := h.does(t, "go", &ops.RegistryPrune{Keep: 1})
	says(t, got, ops.Failure, "The registry local is stopped and could not be started again: "+dockerAway.Sentence+" (retried until ",
		"Type `/scale waggle-registry 1`.")
}

// TestStoppedPruneAsksForTheStart: when Waggle stops, the start is asked for and not waited for.
func TestStoppedPruneAsksForTheStart(t *testing.T) {
	for name, away := range map[string]time.Duration{"answered": 0, "answered late": 2 * time.Second, "away": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				swarm := newFakeSwarm(ops.Service{Name: "reg", Replicas: 0})
				swarm.tasks = func(ops.Service) []ops.Task { return nil } // it never runs
				swarm.fail(awayFor(away), nil)
				run, _ := runOn(swarm)
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				began := time.Now()
				err := run.StartRegistry(ctx, "reg")
				if took := time.Since(began); took > 5*time.Second || (err == nil) != (away < time.Minute) {
					t.Errorf("after %s: %v", took, err)
				}
				if n := swarm.service("reg").Replicas; (n == 1) != (err == nil) {
					t.Errorf("it has %d replicas, with %v", n, err)
				}
			})
		})
	}
}

// TestPruneKeepsWhatRollbackNeeds: the image that ran before the first release is in no release.
func TestPruneKeepsWhatRollbackNeeds(t *testing.T) {
	at := func(n int) string { return fmt.Sprintf("127.0.0.1:5000/pizza:%d@sha256:%064d", n, n) }
	h := prunable(t)
	label, err := json.Marshal([]ops.Release{{Number: 1, Image: at(3), Before: at(1)}})
	if err != nil {
		t.Fatal(err)
	}
	h.swarm.with(func() {
		h.swarm.services["pizza"] = &ops.Service{ID: "id-pizza", Name: "pizza", Mode: ops.Replicated, Replicas: 1, Image: at(3),
			Labels: map[string]string{ops.LabelReleases: string(label)}}
	})
	says(t, h.does(t, "go", &ops.RegistryPrune{}), ops.Done, "1 image removed from local")
	if got := fmt.Sprint(h.images.deleted); got != fmt.Sprintf("[127.0.0.1:5000/pizza@sha256:%064d]", 2) {
		t.Errorf("deleted %s", got)
	}
}

func TestRegistrySetupWhileDockerIsAway(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"Service", "Tasks", "Nodes"} {
		t.Run(call, func(t *testing.T) {
			swarm := newFakeSwarm()
			after := map[string]int{"Nodes": 1}[call] // the plan
			swarm.fail(awayTimes(call, after, 4), nil)
			says(t, startHouse(t, swarm).does(t, "setup", &ops.RegistrySetup{Name: "local"}), ops.Done, "local runs at 127.0.0.1:5000")
		})
	}
}

// TestRemoveNodeWhileManagersElect: each step of it outlives an election.
func TestRemoveNodeWhileManagersElect(t *testing.T) {
	t.Parallel()
	for call, after := range map[string]int{"RemoveNode": 0, "UpdateNode": 1} {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, lost %t", call, lost), func(t *testing.T) {
				swarm := newFakeSwarm()
				swarm.manager(1)
				swarm.manager(2)
				away := awayTimes(call, after, 3)
				swarm.fail(away, nil)
				if lost {
					swarm.fail(nil, func(c string) error { return away(t.Context(), c) })
				}
				h := startHouse(t, swarm)
				h.servers.member["10.0.0.2"] = ops.Membership{State: "active", NodeID: "id2"}
				says(t, h.approved(t, "op1", &ops.NodeRemove{Node: "n2"}), ops.Done, "n2 is removed")
			})
		}
	}
}

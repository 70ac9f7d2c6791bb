package ops_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"waggle/ops"
)

// TestScaleWhileDockerRestarts: it is followed for as long as the deadline allows.
func TestScaleWhileDockerRestarts(t *testing.T) {
	for name, call := range map[string]string{"Docker": "", "the leader, for tasks": "Tasks", "the leader, for nodes": "Nodes"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3})
				away := awayFor(30 * time.Second)
				swarm.fail(func(ctx context.Context, c string) error {
					if call == "" || c == call {
						return away(ctx, c)
					}
					return nil
				}, nil)
				run, shown := runOn(swarm)
				began := time.Now()
				got, err := run.FollowScale(t.Context(), swarm.service("pizza"))
				if err != nil || got.Running != 3 || time.Since(began) > 40*time.Second {
					t.Errorf("after %s: %s, %v", time.Since(began), got, err)
				}
				if !shown.seen(noted(dockerAway.Sentence + ". Retrying until ")) {
					t.Error("it does not say who is away")
				}
			})
		})
	}
}

func TestScaleWhileDockerStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3})
		swarm.fail(awayFor(time.Hour), nil)
		run, _ := runOn(swarm)
		began := time.Now()
		_, err := run.FollowScale(t.Context(), swarm.service("pizza"))
		if ops.CodeOf(err) != ops.Unavailable || !strings.HasPrefix(err.Error(), dockerAway.Sentence+" (retried until ") || time.Since(began) < 9*time.Minute {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

const sec, minute = time.Second, time.Minute

// history is the tasks of one slot over time: each state with when it began.
type history []struct {
	at    time.Duration
	state string
	err   string
}

// tasks are those of the slot at a time: all that were there, those before the newest failed or
// replaced.
func (h history) tasks(slot int, image string, began time.Time, now time.Duration) (all []ops.Task) {
	for i, e := range h {
		if e.at > now {
			break
		}
		t := task(slot, e.state, e.err, 0)
		t.ID, t.Image, t.Created = fmt.Sprintf("t%d-%d", slot, i), image, began.Add(e.at)
		switch {
		case e.state == "ready":
			t.Desired = "ready"
		case e.state == "pending":
			t.NodeID = ""
		}
		if n := len(all); n > 0 && (all[n-1].State == "pending" || !strings.Contains("failed rejected", all[n-1].State)) {
			all = all[:n-1] // the same task, further on
		}
		all = append(all, t)
	}
	return all
}

const crashed, noNode = "task: non-zero exit (1)", "no suitable node (insufficient resources on 3 nodes)"

func TestScaleGivesUpWhenThereIsNoHope(t *testing.T) {
	for name, tc := range map[string]struct {
		slot history
		says string        // "" when it converges
		by   time.Duration // when it ends, give or take two seconds
	}{
		"no node takes it": {
			history{{0, "pending", noNode}},
			"1 of 2 run and nothing has changed for 20s: " + noNode, 20 * time.Second,
		},
		"a node turns up": {history{{0, "pending", noNode}, {15 * sec, "running", ""}}, "", 15 * time.Second},
		"a slow pull":     {history{{0, "preparing", ""}, {5 * minute, "running", ""}}, "", 5 * time.Minute},
		"a second attempt starts": {
			history{{sec, "failed", crashed}, {6 * sec, "starting", ""}, {2 * minute, "running", ""}},
			"", 2 * time.Minute,
		},
		"a restart delay": {
			history{{sec, "failed", crashed}, {2 * sec, "ready", ""}, {minute, "running", ""}},
			"", time.Minute,
		},
		"two crashes": {
			history{{sec, "failed", crashed}, {7 * sec, "failed", crashed}, {8 * sec, "starting", ""}, {minute, "running", ""}},
			"", time.Minute,
		},
		"three crashes": {history{{sec, "failed", crashed}, {7 * sec, "failed", crashed}, {30 * sec, "failed", crashed}, {31 * sec, "ready", ""}},
			"1 of 2 run and nothing has changed for 20s: n2: non-zero exit (1)", 31 * time.Second},
		"three crashes at once": {history{{1, "failed", crashed}, {2 * sec, "failed", crashed}, {3 * sec, "rejected", crashed}, {4 * sec, "preparing", ""}},
			"1 of 2 run and nothing has changed for 20s: n2: non-zero exit (1)", 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 2})
				began := time.Now()
				swarm.tasks = func(ops.Service) []ops.Task {
					return append(tc.slot.tasks(2, "", began, time.Since(began)), task(1, "running", "", 0))
				}
				run, _ := runOn(swarm)
				_, err := run.FollowScale(t.Context(), swarm.service("pizza"))
				if said := fmt.Sprint(err); err == nil && tc.says != "" || err != nil && said != tc.says {
					t.Errorf("it ended with %q", said)
				}
				if took := time.Since(began); took < tc.by || took > tc.by+2*time.Second {
					t.Errorf("it ended after %s", took)
				}
			})
		})
	}
}

// TestScaleForgivesOldFailures: only what fails after the change counts.
func TestScaleForgivesOldFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 1})
		began := time.Now()
		swarm.tasks = func(ops.Service) []ops.Task {
			now := task(1, "starting", "", 0)
			if time.Since(began) > time.Minute {
				now.State = "running"
			}
			return []ops.Task{now, task(1, "failed", crashed, 1), task(1, "failed", crashed, 2), task(1, "failed", crashed, 3)}
		}
		run, _ := runOn(swarm)
		if got, err := run.FollowScale(t.Context(), swarm.service("pizza")); err != nil {
			t.Errorf("%s: %v", got, err)
		}
	})
}

// TestChangesOutliveAnElection: what an operation reads after its write is read when the managers
// answer again.
func TestChangesOutliveAnElection(t *testing.T) {
	app := ops.Service{Name: "pizza", Replicas: 1, Settings: ops.Settings{Mounts: []ops.Mount{{Type: "volume", Source: "oven", Target: "/data"}}}, Persistent: true}
	for name, tc := range map[string]struct {
		op    ops.Operation
		after string
		says  string
	}{
		"scale":         {&ops.Scale{App: "pizza", Replicas: 2}, "UpdateService", "pizza runs 2 of 2"},
		"app set":       {&ops.AppSet{App: "pizza", Values: map[string]string{"limit-memory": "1g"}}, "UpdateService", "1 of 1 run with it"},
		"app create":    {&ops.AppCreate{App: "pasta", Image: "pasta:1", Replicas: 1}, "CreateService", "pasta runs 1 of 1"},
		"app remove":    {&ops.AppRemove{App: "pizza", Volumes: []string{"oven"}}, "RemoveService", "pizza is removed"},
		"node drain":    {drain("n2"), "UpdateNode", "n2 is drained"},
		"node promote":  {&ops.NodeRole{Node: "n2", Manager: true}, "UpdateNode", "n2 is a manager"},
		"rotate tokens": {&ops.TokenRotation{Role: "worker"}, "RotateTokens", "join token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHouse(t, newFakeSwarm(app), withKey(t))
			h.swarm.awayAfter(tc.after, 500*time.Millisecond)
			h.submit(t, asked("op1"), tc.op)
			if s := h.wait(t, func(s ops.Status) bool { return s.State == ops.Pending || s.State.Final() }); s.State == ops.Pending {
				h.decide(t, "click", "bob", s.Token, ops.Approve, "")
			}
			says(t, h.final(t, "op1"), ops.Done, tc.says)
			if !h.seen(noted(dockerAway.Sentence + ". Retrying until ")) {
				t.Error("it does not say who is away")
			}
		})
	}
}

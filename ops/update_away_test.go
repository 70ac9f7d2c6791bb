package ops_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"waggle/ops"
)

// rollout is a service of two replicas, pizza:1 → pizza:2, as the swarm rolls it out one at a time:
// the first slot's tasks of the new version are those of the history, and the second follows when
// the first runs.
type rollout struct {
	*fakeSwarm
	began time.Time
	slot  history
	calm  time.Duration // when the second slot runs the new version
	state string        // of the update, until that is completed
}

func (r *rollout) tasks(s ops.Service) []ops.Task {
	now := time.Since(r.began)
	if s.Image != "pizza:2" {
		all := r.spread(s)
		for i := range all {
			all[i].Image = s.Image
		}
		return all
	}
	second := task(2, "running", "", 0)
	second.Image = "pizza:1"
	if r.calm > 0 && now >= r.calm {
		second.Image, second.ID = "pizza:2", "t2-new"
	}
	return append(r.slot.tasks(1, "pizza:2", r.began, now), second)
}

// rollOut returns the roll-out, which ends well five seconds after calm, if that is not 0.
func rollOut(slot history, calm time.Duration) *rollout {
	r := &rollout{fakeSwarm: newFakeSwarm(ops.Service{Name: "pizza", Replicas: 2, Image: "pizza:2"}), began: time.Now(), slot: slot, calm: calm, state: "updating"}
	r.previous["pizza"] = ops.Service{Image: "pizza:1"}
	svc := r.services["pizza"]
	svc.Monitor, svc.Update.State = 5*time.Second, r.state
	r.fakeSwarm.tasks = r.tasks
	if calm > 0 {
		time.AfterFunc(calm+5*time.Second, func() {
			r.with(func() {
				if svc.Update.State == "updating" {
					svc.Update.State = "completed"
				}
			})
		})
	}
	return r
}

// TestUpdatePolicyIsTheSwarms: as long as the swarm goes on, so does the update.
func TestUpdatePolicyIsTheSwarms(t *testing.T) {
	for name, tc := range map[string]struct {
		slot history
		calm time.Duration
		says string // "" when it ends well
		by   time.Duration
	}{
		"a second attempt starts": {
			history{{sec, "failed", crashed}, {6 * sec, "starting", ""}, {2 * minute, "running", ""}},
			3 * minute, "", 3 * minute,
		},
		"a large image is pulled": {
			history{{sec, "rejected", crashed}, {6 * sec, "preparing", ""}, {4 * minute, "running", ""}},
			5 * minute, "", 5 * minute,
		},
		"the restart delay": {
			history{{sec, "failed", crashed}, {2 * sec, "ready", ""}, {minute, "running", ""}},
			2 * minute, "", 2 * minute,
		},
		"failures that it goes on for": {
			history{{1, "failed", crashed}, {6 * sec, "failed", crashed}, {12 * sec, "failed", crashed}, {minute, "running", ""}},
			2 * minute, "", 2 * minute,
		},
		"no node for a moment": {
			history{{0, "pending", noNode}, {15 * sec, "running", ""}},
			minute, "", minute,
		},
		"no node": {
			history{{0, "pending", noNode}},
			0, "pizza did not come up: nothing has changed for 20s: " + noNode, 20 * time.Second,
		},
		"it never comes up": {
			history{{sec, "failed", crashed}, {2 * sec, "starting", ""}},
			0, "pizza did not come up: non-zero exit (1)", 10 * minute,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				swarm := rollOut(tc.slot, tc.calm)
				run, _ := runOn(swarm.fakeSwarm)
				got, err := run.FollowUpdate(t.Context(), "pizza", "pizza:2")
				if err == nil && tc.says != "" || err != nil && err.Error() != tc.says {
					t.Errorf("%s: %v", got, err)
				}
				if took := time.Since(swarm.began); took < tc.by || took > tc.by+10*time.Second {
					t.Errorf("it ended after %s", took)
				}
				if back := swarm.called("RollbackService"); back > 1 || back == 1 && tc.says == "" {
					t.Errorf("the way back was asked for %d times", back)
				}
			})
		})
	}
}

// TestUpdateWhileManagersElect: it is followed when they are back, whatever call failed.
func TestUpdateWhileManagersElect(t *testing.T) {
	for _, call := range []string{"", "Service", "Tasks", "Nodes"} {
		t.Run(call, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				swarm := rollOut(history{{0, "running", ""}}, 10*time.Second)
				away := awayFor(40 * time.Second)
				swarm.fail(func(ctx context.Context, c string) error {
					if call == "" || c == call {
						return away(ctx, c)
					}
					return nil
				}, nil)
				run, shown := runOn(swarm.fakeSwarm)
				got, err := run.FollowUpdate(t.Context(), "pizza", "pizza:2")
				if took := time.Since(swarm.began); err != nil || got.Running != 2 || took < 40*time.Second || took > time.Minute {
					t.Errorf("after %s: %s, %v", took, got, err)
				}
				if !shown.seen(noted(dockerAway.Sentence + ". Retrying until ")) {
					t.Error("it does not say who is away")
				}
			})
		})
	}
}

// TestWayBackWhileManagersElect: it is asked for until that is answered, and taken once.
func TestWayBackWhileManagersElect(t *testing.T) {
	for name, took := range map[string]bool{"the answer is lost": true, "nothing happened": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				swarm := rollOut(history{{0, "failed", crashed}}, 0)
				swarm.services["pizza"].Update = ops.UpdateStatus{State: "paused", Message: "update paused due to failure"}
				away := awayFor(15 * time.Second)
				instead := func(ctx context.Context, call string) error {
					if call == "RollbackService" {
						return away(ctx, call)
					}
					return nil
				}
				if took {
					swarm.fail(nil, func(call string) error { return instead(t.Context(), call) })
				} else {
					swarm.fail(instead, nil)
				}
				run, _ := runOn(swarm.fakeSwarm)
				_, err := run.FollowUpdate(t.Context(), "pizza", "pizza:2")
				e, _ := err.(*ops.Error)
				if e == nil || e.Sentence != "pizza did not come up: non-zero exit (1)" || !strings.HasPrefix(e.Next, "The version before serves: 2 of 2.") {
					t.Errorf("it ended with %+v", e)
				}
				if svc := swarm.service("pizza"); svc.Image != "pizza:1" || svc.Version != 11 {
					t.Errorf("it runs %s at version %d", svc.Image, svc.Version)
				}
			})
		})
	}
}

// TestWayBackSaysWhy: why Waggle asked for it is not forgotten when the answer is lost.
func TestWayBackSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		swarm := rollOut(history{{0, "pending", noNode}}, 0)
		swarm.fail(nil, func(call string) error {
			if call == "RollbackService" {
				return dockerAway
			}
			return nil
		})
		run, _ := runOn(swarm.fakeSwarm)
		_, err := run.FollowUpdate(t.Context(), "pizza", "pizza:2")
		if e, _ := err.(*ops.Error); e == nil || e.Sentence != "pizza did not come up: nothing has changed for 20s: "+noNode || !strings.HasPrefix(e.Next, "The version before serves") {
			t.Errorf("it ended with %+v", err)
		}
		if n := swarm.called("RollbackService"); n != 2 {
			t.Errorf("it was asked for %d times", n)
		}
	})
}

// onLostNode is a roll-out whose first new task was on n3 when that was lost; another runs in its
// place, and the swarm's updater waits for the first.
func onLostNode(state string) *rollout {
	swarm := rollOut(history{{0, "running", ""}}, 0)
	swarm.calm = time.Second
	swarm.services["pizza"].Update.State = state
	swarm.nodes[2].State = "down"
	running := swarm.fakeSwarm.tasks
	swarm.fakeSwarm.tasks = func(s ops.Service) []ops.Task {
		lost := task(1, "starting", "", 5)
		lost.Desired, lost.NodeID, lost.Image = "shutdown", "id3", s.Image
		all := append(running(s), lost)
		for i := range all {
			if all[i].ID != lost.ID && all[i].NodeID == "id3" {
				all[i].NodeID = "id1"
			}
		}
		return all
	}
	return swarm
}

func TestNodeLostInAnUpdate(t *testing.T) {
	for _, down := range []string{"down", "unknown", "disconnected"} {
		t.Run(down, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				swarm := onLostNode("updating")
				swarm.nodes[2].State = down
				run, _ := runOn(swarm.fakeSwarm)
				got, err := run.FollowUpdate(t.Context(), "pizza", "pizza:2")
				if took := time.Since(swarm.began); err != nil || got.Running != 2 || took < 5*time.Second || took > 15*time.Second {
					t.Errorf("after %s: %s, %v", took, got, err)
				}
				if w := run.Shown().Plan.Warnings; len(w) != 1 || !strings.HasPrefix(w[0], fmt.Sprintf("n3 (%s) was left out", down)) {
					t.Errorf("its warnings are %q", w)
				}
			})
		})
	}
}

// TestNodeLostOnTheWayBack: what serves is told when that is known, not at the deadline.
func TestNodeLostOnTheWayBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		swarm := onLostNode("rollback_started")
		swarm.services["pizza"].Image = "pizza:1"
		run, _ := runOn(swarm.fakeSwarm)
		_, err := run.FollowUpdate(t.Context(), "pizza", "pizza:2")
		if took := time.Since(swarm.began); took > 15*time.Second {
			t.Errorf("it took %s", took)
		}
		if e, _ := err.(*ops.Error); e == nil || !strings.HasPrefix(e.Next, "The version before serves: 2 of 2.") {
			t.Errorf("it ended with %+v", err)
		}
	})
}

// TestUpdateIsNotDoneWithoutReplicas: a lost node is no excuse for a replica that does not run
// elsewhere, nor for one of the version before.
func TestUpdateIsNotDoneWithoutReplicas(t *testing.T) {
	for name, change := range map[string]func(all []ops.Task) []ops.Task{
		"one is preparing":    func(all []ops.Task) []ops.Task { all[0].State = "preparing"; return all },
		"one has no new task": func(all []ops.Task) []ops.Task { return slices.Delete(all, 0, 1) },
		"one is old":          func(all []ops.Task) []ops.Task { all[0].Image = "pizza:1"; return all },
		"one is on a node that is unknown": func(all []ops.Task) []ops.Task {
			all[0].NodeID = "id2"
			return all
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				swarm := onLostNode("updating")
				swarm.nodes[1].State = "unknown"
				swarm.calm = time.Nanosecond
				lost := swarm.fakeSwarm.tasks
				swarm.fakeSwarm.tasks = func(s ops.Service) []ops.Task {
					all := lost(s)
					for i := range all {
						if all[i].NodeID == "id2" {
							all[i].NodeID = "id1"
						}
					}
					if s.Image == "pizza:2" {
						all = change(all)
					}
					return all
				}
				run, _ := runOn(swarm.fakeSwarm)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if got, err := run.FollowUpdate(ctx, "pizza", "pizza:2"); err == nil {
					t.Errorf("done with %s", got)
				}
			})
		})
	}
}

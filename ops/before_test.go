package ops_test

import (
	"encoding/json"
	"testing"

	"waggle/ops"
)

// TestDeployOfTheVersionBefore: a deploy that the version before had in flight has made its release
// without an id. It is recognised all the same, and not rolled out again, also over a newer one.
func TestDeployOfTheVersionBefore(t *testing.T) {
	t.Parallel()
	const image = "reg:5000/acme/pizza:111111111111@" + digest
	mine := ops.Release{Number: 1, Image: image, Commit: pushOf(1).After, By: "ada"}
	newer := ops.Release{Number: 2, Image: "reg:5000/acme/pizza:2@" + digest, Commit: pushOf(2).After, By: "bob"}
	for name, tc := range map[string]struct {
		releases []ops.Release
		end      ops.State
	}{
		"newest":     {[]ops.Release{mine}, ops.Done},
		"superseded": {[]ops.Release{newer, mine}, ops.Superseded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			label, err := json.Marshal(tc.releases)
			if err != nil {
				t.Fatal(err)
			}
			svc := linked("pizza", 1)
			svc.Image, svc.Labels[ops.LabelReleases] = tc.releases[0].Image, string(label)
			h := startHouse(t, newFakeSwarm(svc))
			op, err := json.Marshal(ops.Deploy{App: "pizza", Push: pushOf(1), Image: image})
			if err != nil {
				t.Fatal(err)
			}
			rec := `{"id":"old","kind":"deploy","op":` + string(op) + `,"actor":{"name":"ada","via":"github"},"title":"1111111","at":"2026-11-27T10:00:00Z","seq":1,"state":"working","begun":1,"applying":true}`
			if err := h.Store.Client().Set(t.Context(), "waggle:op:old", rec, 0).Err(); err != nil {
				t.Fatal(err)
			}
			if err := h.Store.Add(t.Context(), "inflight", "old"); err != nil {
				t.Fatal(err)
			}
			got := h.final(t, "old")
			if n := len(h.swarm.changes()); got.State != tc.end || n > 0 {
				t.Errorf("%s %+v after %d updates", got.State, got.Err, n)
			}
		})
	}
}

// TestAuditAfterAnInterruption: the audit has the change that was made, not what the swarm shows once
// it is made.
func TestAuditAfterAnInterruption(t *testing.T) {
	t.Parallel()
	mem, swarm := kept(t), newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3})
	stays := true
	swarm.tasks = func(s ops.Service) []ops.Task {
		if !stays {
			return swarm.spread(s)
		}
		return []ops.Task{task(1, "running", "", 0), task(2, "running", "", 0), task(3, "running", "", 0)}
	}
	first := startOn(t, mem, swarm)
	first.submit(t, asked("op1"), &ops.NodeAvailability{Node: "n2", To: ops.Drain})
	waitFor(t, "n2 is drained", func() bool {
		nodes, err := swarm.Nodes(t.Context())
		return err == nil && nodes[1].Availability == ops.Drain
	})
	first.Stop()
	swarm.with(func() { stays = false })
	second := startOn(t, mem, swarm)
	second.final(t, "op1")
	all, err := second.Audit(t.Context(), "", 5)
	if err != nil || len(all) != 1 || len(all[0].Diffs) != 1 || all[0].Diffs[0].String() != "availability active → drain" {
		t.Errorf("the audit: %+v, %v", all, err)
	}
}

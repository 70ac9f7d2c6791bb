package ops_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"waggle/ops"
)

// said is what an operation came to, in its own words.
func said(s ops.Status) string {
	if s.Err != nil {
		return s.Err.Sentence + ". " + s.Err.Next
	}
	return s.Result
}

func TestDeployByHand(t *testing.T) {
	commit, other := strings.Repeat("c", 40), strings.Repeat("d", 40)
	for name, tc := range map[string]struct {
		op    ops.Deploy
		app   func(*ops.Service)
		reg   func(string) (string, error)
		state ops.State
		says  string
		image string
	}{
		"its branch":       {op: ops.Deploy{}, state: ops.Done, says: "pizza runs release 1 (ccccccc), 2 of 2", image: "reg:5000/acme/pizza:cccccccccccc@" + digest},
		"another branch":   {op: ops.Deploy{Ref: "v1"}, state: ops.Done, says: "pizza runs release 1 (ddddddd), 2 of 2", image: "reg:5000/acme/pizza:dddddddddddd@" + digest},
		"no such branch":   {op: ops.Deploy{Ref: "v9"}, state: ops.Refused, says: "no branch v9. "},
		"no such commit":   {op: ops.Deploy{Ref: "abcdef1"}, state: ops.Refused, says: "There is no branch or tag abcdef1, and no release of pizza was of that commit. Give the commit's full hash."},
		"not linked":       {op: ops.Deploy{}, app: func(s *ops.Service) { s.Labels = nil }, state: ops.Refused, says: "pizza is not linked to a repository. `/app link pizza <repo>` links it; `/deploy pizza image <ref>` deploys an image."},
		"an image":         {op: ops.Deploy{From: "nginx:1.27"}, app: func(s *ops.Service) { s.Labels = nil }, state: ops.Done, says: "pizza runs release 1 (nginx:1.27), 2 of 2", image: "nginx:1.27@" + digest},
		"an image of ours": {op: ops.Deploy{From: "reg:5000/acme/x"}, state: ops.Done, says: "pizza runs release 1 (reg:5000/acme/x:latest), 2 of 2", image: "reg:5000/acme/x:latest@" + digest},
		"no such image": {op: ops.Deploy{From: "nginx:0"}, reg: func(string) (string, error) {
			return "", ops.Errorf(ops.NotFound, "The registry docker.io has no image nginx:0")
		}, state: ops.Refused, says: "The registry docker.io has no image nginx:0. "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			svc := linked("pizza", 2)
			svc.Labels[ops.LabelBranch] = "main"
			if tc.app != nil {
				tc.app(&svc)
			}
			h := startHouse(t, newFakeSwarm(svc))
			h.swarm.registry = tc.reg
			h.source.heads = map[string]string{"main": commit, "v1": other}
			tc.op.App, tc.op.Hand = "pizza", true
			got := h.does(t, "op1", &tc.op)
			if got.State != tc.state || said(got) != tc.says {
				t.Errorf("it is %s: %s", got.State, said(got))
			}
			if tc.image == "" {
				if len(h.swarm.changes()) > 0 {
					t.Errorf("it was changed: %+v", h.swarm.changes())
				}
				return
			}
			releases, err := h.swarm.service("pizza").Releases()
			if err != nil || len(releases) != 1 || releases[0].Image != tc.image || releases[0].By != "ada" || releases[0].Before != svc.Image {
				t.Errorf("releases %+v, %v", releases, err)
			}
			if strings.HasPrefix(tc.op.From, "reg:5000") && h.swarm.sought[0] != "mia reg:5000/acme/x:latest" || tc.op.From == "nginx:1.27" && h.swarm.sought[0] != " nginx:1.27" {
				t.Errorf("asked for %q, want our registry's login with our image only", h.swarm.sought)
			}
			if tc.op.From != "" && len(h.swarm.built)+len(h.swarm.pushed) > 0 {
				t.Error("it was built or pushed")
			}
		})
	}
}

// TestRollback goes back from the third release, forth, and to the image before
// all of them, with a Redis that has lost everything.
func TestRollback(t *testing.T) {
	h := startHouse(t, newFakeSwarm(linked("pizza", 3)))
	for i, image := range []string{"a:1", "b:2", "c:3"} {
		h.does(t, image, &ops.Deploy{App: "pizza", Hand: true, From: image})
		if got := h.swarm.service("pizza").Image; !strings.HasPrefix(got, image) {
			t.Fatalf("deploy %d left %s", i, got)
		}
	}
	h.Store.Client().FlushAll(context.Background())
	for _, tc := range []struct {
		id    string
		op    ops.Rollback
		says  string
		image string
	}{
		{"back", ops.Rollback{}, "pizza runs release 4 (b:2, back to release 2), 3 of 3", "b:2"},
		{"forth", ops.Rollback{}, "pizza runs release 5 (c:3, back to release 3), 3 of 3", "c:3"},
		{"numbered", ops.Rollback{To: 1}, "pizza runs release 6 (a:1, back to release 1), 3 of 3", "a:1"},
		{"the same", ops.Rollback{To: 1}, "pizza runs the image of release 1 already. `/app history pizza` shows the others.", "a:1"},
		{"unknown", ops.Rollback{To: 77}, "pizza has no release 77, or it is too old to be kept. There is: 6, 5, 4, 3, 2, 1.", "a:1"},
		{"a click on an old message", ops.Rollback{Of: 3}, "pizza runs release 6 by now, and this is about release 3. `/rollback pizza` goes back from release 6.", "a:1"},
	} {
		tc.op.App = "pizza"
		got := h.does(t, tc.id, &tc.op)
		if said(got) != tc.says || !strings.HasPrefix(h.swarm.service("pizza").Image, tc.image+"@") {
			t.Errorf("%s: %s: %s; it runs %s", tc.id, got.State, said(got), h.swarm.service("pizza").Image)
		}
	}
	releases, _ := h.swarm.service("pizza").Releases()
	if len(releases) != 6 || releases[0].From != 1 || releases[0].By != "ada" || releases[0].At.IsZero() {
		t.Errorf("releases %+v", releases)
	}
	before := h.swarm.service("pizza")
	h.swarm.registry = func(image string) (string, error) {
		return "", ops.Errorf(ops.NotFound, "The registry has no image %s", image)
	}
	got := h.does(t, "gone", &ops.Rollback{App: "pizza", To: 2})
	if got.State != ops.Refused || !strings.HasPrefix(said(got), "The image of release 2 of pizza is not in its registry any more: b:2@sha256:") || h.swarm.service("pizza").Version != before.Version {
		t.Errorf("an image that is gone: %s %s", got.State, said(got))
	}

	// A registry that is away keeps nobody from what the nodes have.
	h.swarm.registry = func(string) (string, error) {
		return "", ops.Errorf(ops.Unavailable, "The registry reg:5000 cannot be reached")
	}
	got = h.does(t, "away", &ops.Rollback{App: "pizza", To: 2})
	if want := "[the registry reg:5000 cannot be reached, so only nodes that have the image can run it]"; got.State != ops.Done || fmt.Sprint(got.Plan.Warnings) != want {
		t.Errorf("a registry that is away: %s %s %q", got.State, said(got), got.Plan.Warnings)
	}
}

func TestRollbackOfTheFirstRelease(t *testing.T) {
	svc := linked("pizza", 1)
	svc.Image = "busybox:1"
	h := startHouse(t, newFakeSwarm(svc, ops.Service{Name: "plain", Image: "x:1"}))
	if got := h.does(t, "none", &ops.Rollback{App: "plain"}); got.State != ops.Refused || !strings.HasPrefix(said(got), "plain has no release yet") {
		t.Errorf("without a release: %s %s", got.State, said(got))
	}
	h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
	got := h.does(t, "back", &ops.Rollback{App: "pizza"})
	if got.State != ops.Done || said(got) != "pizza runs release 2 (busybox:1, back to what ran before), 1 of 1" {
		t.Errorf("%s %s", got.State, said(got))
	}
	h.Store.Client().FlushAll(context.Background())
	// The first push, delivered again, is none that the rollback undoes.
	if again := h.push(t, pushOf(1)); len(again.Jobs) > 0 || !again.Duplicate {
		t.Errorf("the first push again: %+v", again)
	}
}

func TestImageIsPushedWhenAsked(t *testing.T) {
	h := startHouse(t, newFakeSwarm(linked("pizza", 1)))
	h.images.images = map[string]ops.Image{"docker.io/library/nginx:1.27@" + digest: {Digest: digest}}
	got := h.does(t, "op1", &ops.Deploy{App: "pizza", Hand: true, From: "nginx:1.27", Copy: true})
	if want := "reg:5000/acme/pizza:1.27@" + digest; got.State != ops.Done || h.swarm.service("pizza").Image != want {
		t.Errorf("%s %s; it runs %s, want %s", got.State, said(got), h.swarm.service("pizza").Image, want)
	}
	if len(h.images.copies) != 1 || len(h.swarm.built) > 0 {
		t.Errorf("copied %v, built %d", h.images.copies, len(h.swarm.built))
	}
	h.swarm.save(ops.Registries{})
	if got := h.does(t, "op2", &ops.Deploy{App: "pizza", Hand: true, From: "nginx:1.27", Copy: true}); got.State != ops.Refused || !strings.HasPrefix(said(got), "There is no default registry to push the image to") {
		t.Errorf("%s %s", got.State, said(got))
	}
}

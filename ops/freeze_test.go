package ops_test

import (
	"context"
	"maps"
	"strings"
	"testing"

	"waggle/ops"
)

func TestFrozenPushWaitsAndTheNewestIsDeployed(t *testing.T) {
	for _, whose := range []string{"pizza", ops.AllApps} {
		t.Run(whose, func(t *testing.T) {
			t.Parallel()
			h := startHouse(t, newFakeSwarm(linked("pizza", 1)))
			h.does(t, "image", &ops.Deploy{App: "pizza", Hand: true, From: "a:1"})
			got := h.does(t, "freeze", &ops.Freeze{App: whose, Reason: "Black  Friday"})
			if got.State != ops.Done || !strings.HasPrefix(got.Plan.Diffs[0].To, "@ada, ") || !strings.HasSuffix(got.Plan.Diffs[0].To, " UTC: Black Friday") {
				t.Fatalf("%s %s %+v", got.State, said(got), got.Plan)
			}
			label := got.Plan.Diffs[0].To

			first := h.push(t, pushOf(1)).Jobs[0].ID
			waits := h.wait(t, func(s ops.Status) bool { return s.ID == first && s.State == ops.Waiting })
			if !strings.Contains(waits.Note, " are frozen by "+label) || !strings.HasSuffix(waits.Note, "`/unfreeze "+whose+"` lets it go on") {
				t.Errorf("it waits: %s", waits.Note)
			}
			by := h.does(t, "hand", &ops.Deploy{App: "pizza", Hand: true, From: "b:2"})
			if by.State != ops.Refused || !strings.Contains(said(by), "are frozen by "+label) || !strings.Contains(said(by), "`/unfreeze "+whose+"`") {
				t.Errorf("by hand: %s %s", by.State, said(by))
			}
			if list, err := h.Ask(t.Context(), person("ada"), ops.AppShow{App: "pizza"}); err != nil || len(list.Concerns) == 0 || !strings.Contains(list.Concerns[len(list.Concerns)-1].What, label) {
				t.Errorf("/app show: %+v, %v", list.Concerns, err)
			}
			second := h.push(t, pushOf(2)).Jobs[0].ID
			if got := h.final(t, first); got.State != ops.Superseded {
				t.Errorf("the older one that waits: %s", got.State)
			}
			h.wait(t, func(s ops.Status) bool { return s.ID == second && s.State == ops.Waiting })
			if got := h.does(t, "back", &ops.Rollback{App: "pizza"}); got.State != ops.Done {
				t.Errorf("a rollback: %s %s", got.State, said(got))
			}
			h.does(t, "unfreeze", &ops.Freeze{App: whose, Lift: true})
			if got := h.final(t, second); got.State != ops.Done {
				t.Errorf("the newest: %s %s", got.State, said(got))
			}
			if n := len(h.swarm.built); n != 1 {
				t.Errorf("%d builds", n)
			}
			if got := h.does(t, "again", &ops.Freeze{App: whose, Lift: true}); got.State != ops.Refused {
				t.Errorf("not frozen: %s %s", got.State, said(got))
			}
		})
	}
}

// TestNobodyGivesWayToWhatIsNotDone: what is refused, or only planned, is in no push's way.
func TestNobodyGivesWayToWhatIsNotDone(t *testing.T) {
	t.Parallel()
	swarm := newFakeSwarm(linked("pizza", 1))
	h := startHouse(t, swarm, func(r *ops.Runner) { r.Authoriser = notEve{} })
	h.source.heads = map[string]string{"": pushOf(7).After}
	h.does(t, "freeze", &ops.Freeze{App: "pizza"})
	id := h.push(t, pushOf(1)).Jobs[0].ID
	h.wait(t, func(s ops.Status) bool { return s.ID == id && s.State == ops.Waiting })
	if got := h.does(t, "frozen", &ops.Deploy{App: "pizza", Hand: true}); got.State != ops.Refused {
		t.Errorf("while it is frozen: %s %s", got.State, said(got))
	}
	// From here on nothing but the turn is in the way.
	goOn := make(chan struct{})
	swarm.with(func() {
		swarm.build = func(ctx context.Context, _ ops.BuildRequest) error {
			var until chan struct{}
			swarm.with(func() { until = goOn })
			select {
			case <-ctx.Done():
			case <-until:
			}
			return ctx.Err()
		}
	})
	freeze := func(by string) {
		swarm.with(func() {
			svc := swarm.services["pizza"]
			svc.Labels = maps.Clone(svc.Labels) // others read the old one
			svc.Labels[ops.LabelFreeze] = by
		})
	}
	freeze("")
	h.wait(t, building(id))
	second := h.push(t, pushOf(2)).Jobs[0].ID
	h.wait(t, func(s ops.Status) bool { return s.ID == second && s.State == ops.Waiting })
	if got := h.does(t, "no such branch", &ops.Deploy{App: "pizza", Hand: true, Ref: "typo"}); got.State != ops.Refused {
		t.Errorf("a branch that is not there: %s %s", got.State, said(got))
	}
	req := asked("dry")
	req.DryRun = true
	h.submit(t, req, &ops.Deploy{App: "pizza", Hand: true})
	if got := h.final(t, "dry"); got.State != ops.DryRun || len(got.Plan.Diffs) == 0 {
		t.Errorf("a dry run: %s %s", got.State, said(got))
	}
	req = asked("eve")
	req.Actor = person("eve")
	h.submit(t, req, &ops.Deploy{App: "pizza", Hand: true})
	if got := h.final(t, "eve"); got.State != ops.Refused || got.Err.Code != ops.Forbidden {
		t.Errorf("a stranger: %s %s", got.State, said(got))
	}
	if h.seen(func(s ops.Status) bool { return s.ID == second && s.State.Final() }) {
		t.Fatal("the push that waits gave way")
	}
	h.submit(t, asked("typed earlier"), &ops.Deploy{App: "pizza", Hand: true})
	h.wait(t, func(s ops.Status) bool { return s.ID == "typed earlier" && s.State == ops.Waiting })
	h.submit(t, asked("hand"), &ops.Deploy{App: "pizza", Hand: true})
	if got := h.final(t, "typed earlier"); got.State != ops.Superseded {
		t.Errorf("the earlier one by hand: %s", got.State)
	}
	if got := h.final(t, second); got.State != ops.Superseded {
		t.Errorf("the push: %s %s", got.State, said(got))
	}
	h.decide(t, "click", "ada", ops.CancelToken(id), ops.Cancel, "")
	h.wait(t, building("hand"))
	// A freeze that comes later does not stop what is on its way.
	freeze("@ada, just now")
	close(goOn)
	if got := h.final(t, "hand"); got.State != ops.Done {
		t.Errorf("frozen while it was built: %s %s", got.State, said(got))
	}

	freeze("")
	swarm.with(func() { goOn = make(chan struct{}) })
	third := h.push(t, pushOf(3)).Jobs[0].ID
	h.wait(t, building(third))
	h.submit(t, asked("waits"), &ops.Deploy{App: "pizza", Hand: true})
	h.wait(t, func(s ops.Status) bool { return s.ID == "waits" && s.State == ops.Waiting })
	freeze("@ada, just now")
	close(goOn)
	if got := h.final(t, "waits"); got.State != ops.Refused || !strings.Contains(said(got), "are frozen by @ada, just now") {
		t.Errorf("frozen before its turn: %s %s", got.State, said(got))
	}
}

func TestFreezeOutlivesRedis(t *testing.T) {
	h := startHouse(t, newFakeSwarm(linked("pizza", 1)))
	h.does(t, "freeze", &ops.Freeze{App: "pizza"})
	h.Store.Client().FlushAll(context.Background())
	id := h.push(t, pushOf(1)).Jobs[0].ID
	h.wait(t, func(s ops.Status) bool { return s.ID == id && s.State == ops.Waiting })
}

package ops_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/ops"
	"waggle/ops/store"
)

// hang makes builds take until they are called off.
func (h *house) hang() {
	h.swarm.with(func() {
		h.swarm.build = func(ctx context.Context, _ ops.BuildRequest) error {
			<-ctx.Done()
			return &ops.Error{Code: ops.Canceled, Sentence: "The build was called off", Err: ctx.Err()}
		}
	})
}

func building(id string) func(ops.Status) bool {
	return func(s ops.Status) bool {
		return s.ID == id && len(s.Steps) > 0 && s.Steps[len(s.Steps)-1].Name == "build"
	}
}

// TestCancel stops a build from another replica than the one that builds.
func TestCancel(t *testing.T) {
	redis := kept(t)
	swarm := newFakeSwarm(linked("pizza", 1))
	h := startOn(t, redis, swarm, func(r *ops.Runner) { r.Authoriser = notEve{} })
	h.hang()
	id := h.push(t, pushOf(1)).Jobs[0].ID
	h.wait(t, building(id))

	other := &ops.Runner{Decisions: h.Decisions, Env: h.Env}
	clicked := func(click, by string) {
		if err := other.Decide(t.Context(), ops.Request{ID: click, Actor: person(by)}, ops.CancelToken(id), ops.Cancel, ""); err != nil {
			t.Fatal(err)
		}
	}
	clicked("click1", "eve")
	if got := h.final(t, "click1"); got.Err.Code != ops.Forbidden {
		t.Errorf("a stranger: %+v", got.Err)
	}
	began := time.Now()
	clicked("click2", "bob")
	got := h.final(t, id)
	if took := time.Since(began); got.State != ops.Cancelled || got.Err.Sentence != "@bob cancelled it" || took > 2*time.Second {
		t.Errorf("%s after %s: %+v", got.State, took, got.Err)
	}
	if len(swarm.changes()) > 0 {
		t.Errorf("changed: %+v", swarm.changes())
	}
	waitFor(t, "the audit", func() bool {
		all, err := h.Audit(t.Context(), "pizza", 5)
		return err == nil && len(all) > 0 && all[0].Outcome == ops.Cancelled && all[0].Decider == "@bob"
	})
	swarm.with(func() { swarm.build = nil })
	if got := h.final(t, h.push(t, pushOf(2)).Jobs[0].ID); got.State != ops.Done {
		t.Errorf("the next push: %s %s", got.State, said(got))
	}
}

func TestCancelOfOneThatWaits(t *testing.T) {
	h := startHouse(t, newFakeSwarm(linked("pizza", 1)))
	h.does(t, "freeze", &ops.Freeze{App: "pizza"})
	id := h.push(t, pushOf(1)).Jobs[0].ID
	h.wait(t, func(s ops.Status) bool { return s.ID == id && s.State == ops.Waiting })
	h.decide(t, "click", "ada", ops.CancelToken(id), ops.Cancel, "")
	if got := h.final(t, id); got.State != ops.Cancelled {
		t.Errorf("%s %s", got.State, said(got))
	}
}

// TestCancelAtOnce: its message says already that it waits, and Redis does not yet.
func TestCancelAtOnce(t *testing.T) {
	h := startHouse(t, newFakeSwarm(linked("pizza", 1)))
	h.does(t, "freeze", &ops.Freeze{App: "pizza"})
	shown, goOn := make(chan struct{}), make(chan struct{})
	hold := sync.OnceFunc(func() { close(shown); <-goOn })
	h.recorder.mu.Lock()
	h.closing = func(id string) {
		if strings.HasPrefix(id, "deploy-") {
			hold()
		}
	}
	h.recorder.mu.Unlock()
	id := h.push(t, pushOf(1)).Jobs[0].ID
	<-shown
	h.decide(t, "click", "ada", ops.CancelToken(id), ops.Cancel, "")
	waitFor(t, "the click is kept", func() bool {
		if h.seen(func(s ops.Status) bool { return s.ID == "click" && s.State == ops.Refused }) {
			t.Fatal("the click was refused")
		}
		var d ops.Decision
		return h.Store.Get(t.Context(), "cancel:"+id, &d) == nil
	})
	close(goOn)
	if got := h.final(t, id); got.State != ops.Cancelled {
		t.Errorf("%s %s", got.State, said(got))
	}
}

// TestCancelWhileAnotherChangesTheApp: it is built, and waits for another's change to end.
func TestCancelWhileAnotherChangesTheApp(t *testing.T) {
	h := startHouse(t, newFakeSwarm(linked("pizza", 1)))
	lease, err := h.Store.Lock(t.Context(), "target:app/pizza", store.Claim{Owner: "@bob", Reason: "scale"})
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	id := h.push(t, pushOf(1)).Jobs[0].ID
	h.wait(t, func(s ops.Status) bool {
		return s.ID == id && s.State == ops.Waiting && strings.HasPrefix(s.Note, "@bob has been changing pizza")
	})
	h.decide(t, "click", "ada", ops.CancelToken(id), ops.Cancel, "")
	if got := h.final(t, id); got.State != ops.Cancelled || len(h.swarm.changes()) > 0 {
		t.Errorf("%s %s", got.State, said(got))
	}
}

func TestNoCancelOnceTheUpdateHasBegun(t *testing.T) {
	swarm := newFakeSwarm(linked("pizza", 1))
	swarm.rolled = func(s *ops.Service, _ ops.Change) { s.Update = ops.UpdateStatus{State: "updating"} }
	h := startHouse(t, swarm)
	id := h.push(t, pushOf(1)).Jobs[0].ID
	h.wait(t, func(s ops.Status) bool { return s.ID == id && s.Replicas != nil })
	h.decide(t, "click", "ada", ops.CancelToken(id), ops.Cancel, "")
	if got := h.final(t, "click"); !strings.HasPrefix(said(got), "The update of pizza has begun") {
		t.Errorf("%s %s", got.State, said(got))
	}
	swarm.with(func() { swarm.services["pizza"].Update.State = "completed" })
	if got := h.final(t, id); got.State != ops.Done {
		t.Errorf("%s %s", got.State, said(got))
	}
}

// TestUnderWay lists what runs and what waits, with the ids of what can be called off.
func TestUnderWay(t *testing.T) {
	pizza, pasta := linked("pizza", 1), linked("pasta", 1)
	pasta.Labels[ops.LabelRepo] = "https://git.example/acme/pasta.git"
	h := startHouse(t, newFakeSwarm(pizza, pasta))
	if work, err := h.UnderWay(t.Context()); err != nil || len(work) > 0 {
		t.Errorf("under way in the beginning: %+v, %v", work, err)
	}
	h.does(t, "freeze", &ops.Freeze{App: "pasta"})
	other := pushOf(1)
	other.Repo, other.RepoURLs, other.Name = "https://git.example/acme/pasta.git", []string{"https://git.example/acme/pasta.git"}, "acme/pasta"
	frozen := h.push(t, other).Jobs[0].ID
	h.wait(t, func(s ops.Status) bool { return s.ID == frozen && s.State == ops.Waiting })
	h.hang()
	runs := h.push(t, pushOf(1)).Jobs[0].ID
	h.wait(t, building(runs))
	second := h.push(t, pushOf(2)).Jobs[0].ID
	h.wait(t, func(s ops.Status) bool { return s.ID == second && s.State == ops.Waiting })
	h.submit(t, asked("op1"), &ops.Scale{App: "pasta", Replicas: 0}) // waits for an approval
	h.wait(t, func(s ops.Status) bool { return s.State == ops.Pending })

	var work []ops.Work
	waitFor(t, "all of them", func() bool { // that it waits is shown before it is kept
		var err error
		if work, err = h.UnderWay(t.Context()); err != nil {
			t.Fatal(err)
		}
		return len(work) == 3 && work[2].Waits != "has not begun yet"
	})
	answer, err := h.Ask(t.Context(), person("ada"), ops.Overview{})
	if err != nil {
		t.Fatal(err)
	}
	shown := fmt.Sprintf("%+v", answer.Parts)
	for i, want := range []struct{ id, target, waits string }{{frozen, "pasta", "are frozen by"}, {runs, "pizza", ""}, {second, "pizza", "waits for the deploy of"}} {
		w := work[i]
		if w.ID != want.id || w.Target != want.target || !strings.Contains(w.Waits, want.waits) || want.waits == "" && w.Waits != "" || !w.Cancels || w.Kind != "deploy" {
			t.Errorf("under way: %+v, want %+v", w, want)
		}
		if !strings.Contains(shown, w.Waits+" · `/swarm cancel "+w.ID+"`") {
			t.Errorf("/swarm does not show %+v: %s", w, shown)
		}
	}
	if !strings.Contains(shown, "pasta scale of @ada waits for an approval") {
		t.Errorf("/swarm shows %s", shown)
	}
}

func TestBuildsWaitInLine(t *testing.T) {
	pizza, pasta := linked("pizza", 1), linked("pasta", 1)
	h := startHouse(t, newFakeSwarm(pizza, pasta), func(r *ops.Runner) { r.Env.Builds = ops.NewSlots(1) })
	h.hang()
	jobs := h.push(t, pushOf(1)).Jobs // both follow the repository
	waits := h.wait(t, func(s ops.Status) bool { return s.State == ops.Waiting })
	if waits.Note != "waits for other builds, as number 1" {
		t.Errorf("it waits: %s", waits.Note)
	}
	first := jobs[slices.IndexFunc(jobs, func(j ops.Job) bool { return j.ID != waits.ID })].ID
	h.decide(t, "click", "ada", ops.CancelToken(first), ops.Cancel, "")
	h.final(t, first)
	h.wait(t, building(waits.ID))
}

func TestSlotsAreGivenInOrder(t *testing.T) {
	s := ops.NewSlots(1)
	release, err := s.Take(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	places := make(chan string, 10)
	got := make(chan string, 10)
	line := func(ctx context.Context, name string) {
		go func() {
			release, err := s.Take(ctx, func(n int) { places <- name + strings.Repeat("|", n) })
			if err != nil {
				got <- name + " left"
				return
			}
			got <- name
			release()
			release() // counts once
		}()
		if p := <-places; !strings.HasPrefix(p, name) {
			t.Errorf("moved %s, want %s to be in line", p, name)
		}
	}
	line(ctx, "a")
	line(t.Context(), "b")
	line(t.Context(), "c")
	cancel()
	if g := <-got; g != "a left" {
		t.Errorf("%s", g)
	}
	for range 2 {
		if p := <-places; p != "b|" && p != "c||" {
			t.Errorf("after the first left: %s", p)
		}
	}
	release()
	if first, second := <-got, <-got; first != "b" || second != "c" {
		t.Errorf("given to %s, then %s", first, second)
	}
	if _, err := s.Take(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

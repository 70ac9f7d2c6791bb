package ops_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/ops"
)

// ask scales pizza to nothing, which waits for an approval.
func (h *house) ask(t *testing.T, id string) ops.Status {
	t.Helper()
	h.submit(t, asked(id), &ops.Scale{App: "pizza", Replicas: 0})
	return h.wait(t, func(s ops.Status) bool { return s.ID == id && s.State == ops.Pending })
}

func (h *house) decide(t *testing.T, click, by, token string, verdict ops.Verdict, reason string) {
	t.Helper()
	if err := h.Decide(t.Context(), ops.Request{ID: click, Actor: person(by)}, token, verdict, reason); err != nil {
		t.Fatal(err)
	}
}

func pizzaHouse(t *testing.T, change ...func(*ops.Runner)) *house {
	return startHouse(t, newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3}), change...)
}

func TestApproved(t *testing.T) {
	h := pizzaHouse(t)
	waits := h.ask(t, "op1")
	if waits.Plan.Approval != "it stops pizza" || waits.Deadline.Before(time.Now()) {
		t.Errorf("asked with %+v until %s", waits.Plan, waits.Deadline)
	}
	if all, err := h.PendingOperations(t.Context()); err != nil || len(all) != 1 || all[0].ID != "op1" || all[0].Plan.Diffs[0].String() != "replicas 3 → 0" {
		t.Errorf("pending: %+v, %v", all, err)
	}
	h.decide(t, "click1", "bob", waits.Token, ops.Approve, "")
	got := h.final(t, "op1")
	if got.State != ops.Done || got.Result != "pizza is stopped" || got.Decision == nil || got.Decision.By.Name != "bob" {
		t.Errorf("got %s %q %+v", got.State, got.Result, got.Decision)
	}
	if all, err := h.PendingOperations(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("still pending: %+v, %v", all, err)
	}
	waitFor(t, "the audit entry", func() bool {
		all, err := h.Audit(t.Context(), "pizza", 5)
		return err == nil && len(all) == 1 && all[0].Decider == "@bob" && all[0].Outcome == ops.Done
	})
}

func TestDecisionsThatDoNotCount(t *testing.T) {
	for name, tc := range map[string]struct {
		by      string
		verdict ops.Verdict
		token   func(string) string
		before  func(*house)
		says    string
	}{
		"the asker's own":      {by: "ada", verdict: ops.Approve, says: "You asked for this yourself, so somebody else has to approve it"},
		"without the role":     {by: "eve", verdict: ops.Approve, says: "eve may not"},
		"a rejection without":  {by: "eve", verdict: ops.Reject, says: "eve may not"},
		"a stranger's cancel":  {by: "eve", verdict: ops.Cancel, says: "eve may not"},
		"of an earlier plan":   {by: "bob", verdict: ops.Approve, token: func(string) string { return "op1.7" }, says: "The plan has changed since"},
		"of nothing":           {by: "bob", verdict: ops.Approve, token: func(string) string { return "op9.1" }, says: "This request has expired"},
		"of nonsense":          {by: "bob", verdict: ops.Approve, token: func(string) string { return "nonsense" }, says: "This request has expired"},
		"after Redis was lost": {by: "bob", verdict: ops.Approve, before: func(h *house) { h.Store.Client().FlushAll(context.Background()) }, says: "xpired"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := pizzaHouse(t, func(r *ops.Runner) { r.Authoriser = notEve{} })
			tok := h.ask(t, "op1").Token
			if tc.token != nil {
				tok = tc.token(tok)
			}
			if tc.before != nil {
				tc.before(h)
			}
			h.decide(t, "click1", tc.by, tok, tc.verdict, "")
			told := h.wait(t, func(s ops.Status) bool { return s.ID == "click1" })
			if told.State != ops.Refused || !strings.Contains(told.Err.Sentence, tc.says) || told.Actor.Name != tc.by {
				t.Errorf("told %+v", told.Err)
			}
			waitFor(t, "the refusal in the audit", func() bool {
				all, err := h.Audit(t.Context(), "pizza", 5)
				forbidden := told.Err.Code == ops.Forbidden
				return err == nil && (!forbidden && (len(all) == 0 || all[0].Outcome == ops.Expired) || forbidden && len(all) == 1 && all[0].Who == "@"+tc.by && all[0].Outcome == ops.Refused)
			})
			if len(h.swarm.changes()) > 0 || h.seen(func(s ops.Status) bool { return s.ID == "op1" && s.State.Final() }) {
				t.Error("it counted")
			}
		})
	}
}

type notEve struct{}

func (notEve) Authorise(_ context.Context, a ops.Actor, _ ops.Role) error {
	if a.Name == "eve" {
		return ops.Errorf(ops.Forbidden, "eve may not")
	}
	return nil
}

func TestDecidedAgainst(t *testing.T) {
	for name, tc := range map[string]struct {
		by      string
		verdict ops.Verdict
		state   ops.State
		says    string
	}{
		"rejected":           {"bob", ops.Reject, ops.Rejected, "@bob rejected it: dinner time"},
		"rejected by asker":  {"ada", ops.Reject, ops.Rejected, "@ada rejected it: dinner time"},
		"cancelled by asker": {"ada", ops.Cancel, ops.Cancelled, "@ada cancelled it: dinner time"},
		"cancelled by admin": {"bob", ops.Cancel, ops.Cancelled, "@bob cancelled it: dinner time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := pizzaHouse(t)
			tok := h.ask(t, "op1").Token
			if tc.verdict == ops.Cancel {
				tok = ops.CancelToken("op1")
			}
			h.decide(t, "click1", tc.by, tok, tc.verdict, "dinner time")
			got := h.final(t, "op1")
			if got.State != tc.state || got.Err.Sentence != tc.says || len(h.swarm.changes()) > 0 {
				t.Errorf("got %s %+v after %d writes", got.State, got.Err, len(h.swarm.changes()))
			}
			h.decide(t, "click2", "bob", tok, ops.Approve, "")
			told := h.wait(t, func(s ops.Status) bool { return s.ID == "click2" })
			// Which words depends on whether the record is written yet: the message is first.
			if !strings.Contains(told.Err.Sentence, "Already ") {
				t.Errorf("an approval afterwards is told %q", told.Err.Sentence)
			}
		})
	}
}

func TestExpires(t *testing.T) {
	t.Parallel()
	h := pizzaHouse(t, func(r *ops.Runner) { r.ApprovalTTL = 50 * time.Millisecond })
	h.ask(t, "op1")
	got := h.final(t, "op1")
	if got.State != ops.Expired || got.Err.Sentence != "nobody approved it within 50ms" || len(h.swarm.changes()) > 0 {
		t.Errorf("got %s %+v", got.State, got.Err)
	}
}

func TestApproveOwn(t *testing.T) {
	h := pizzaHouse(t, func(r *ops.Runner) { r.ApproveOwn = true })
	h.decide(t, "click1", "ada", h.ask(t, "op1").Token, ops.Approve, "")
	if got := h.final(t, "op1"); got.State != ops.Done {
		t.Errorf("got %s %+v", got.State, got.Err)
	}
}

func TestPlanThatChangedAsksAgain(t *testing.T) {
	h := pizzaHouse(t)
	waits := h.ask(t, "op1")
	h.swarm.with(func() { h.swarm.services["pizza"].Replicas = 5; h.swarm.services["pizza"].Version++ })
	h.decide(t, "click1", "bob", waits.Token, ops.Approve, "")
	again := h.wait(t, func(s ops.Status) bool { return s.State == ops.Pending && s.Before != nil })
	if again.Plan.Diffs[0].String() != "replicas 5 → 0" || again.Before.Diffs[0].String() != "replicas 3 → 0" || again.Token == waits.Token {
		t.Errorf("asked again with %+v", again)
	}
	if len(h.swarm.changes()) > 0 {
		t.Error("it was carried out all the same")
	}
	h.decide(t, "click2", "bob", again.Token, ops.Approve, "")
	if got := h.final(t, "op1"); got.State != ops.Done {
		t.Errorf("got %s %+v", got.State, got.Err)
	}
}

// TestOneHundredClicks has many people click on two replicas at once.
func TestOneHundredClicks(t *testing.T) {
	redis := kept(t)
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3})
	houses := []*house{startOn(t, redis, swarm), startOn(t, redis, swarm)}
	houses[0].submit(t, asked("op1"), &ops.Scale{App: "pizza", Replicas: 0})
	var tok string
	waitFor(t, "the asking", func() bool {
		for _, h := range houses {
			h.seen(func(s ops.Status) bool { tok = s.Token; return s.State == ops.Pending })
			if tok != "" {
				return true
			}
		}
		return false
	})
	var clicks sync.WaitGroup
	for i := range 100 {
		clicks.Go(func() {
			houses[i%2].decide(t, fmt.Sprintf("click%d", i), fmt.Sprintf("p%d", i), tok, ops.Approve, "")
		})
	}
	clicks.Wait()
	waitFor(t, "it is done and every other click is told so", func() bool {
		done, told := 0, 0
		for _, h := range houses {
			h.seen(func(s ops.Status) bool {
				if s.ID == "op1" && s.State == ops.Done {
					done++
				}
				if s.State == ops.Refused {
					told++
				}
				return false
			})
		}
		return done == 1 && told == 99
	})
	if n := len(swarm.changes()); n != 1 {
		t.Errorf("%d writes", n)
	}
}

// TestDecisionTakenUpAgain: of a click whose process died after it counted, the
// clicker is not told that it came too late.
func TestDecisionTakenUpAgain(t *testing.T) {
	var mu sync.Mutex
	var stopped time.Time
	h := pizzaHouse(t, func(r *ops.Runner) {
		r.Env.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			if stopped.IsZero() {
				return time.Now()
			}
			return stopped
		}
	})
	waits := h.ask(t, "op1")
	stop := func(at time.Time) { mu.Lock(); defer mu.Unlock(); stopped = at }
	stop(time.Now())
	for _, job := range []string{"click1", "click1.again"} {
		h.decide(t, job, "bob", waits.Token, ops.Approve, "")
	}
	stop(time.Time{})
	if got := h.final(t, "op1"); got.State != ops.Done {
		t.Errorf("got %s %+v", got.State, got.Err)
	}
	waitFor(t, "nothing to wait", func() bool { return h.waitingIn(t, "changes") == 0 })
	if h.seen(func(s ops.Status) bool { return s.ID != "op1" }) {
		t.Errorf("told more: %+v", h.all)
	}
}

func TestApprovedThenCutOff(t *testing.T) {
	redis := kept(t)
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3})
	swarm.tasks = func(s ops.Service) []ops.Task {
		stopping := task(1, "running", "", 0)
		stopping.Desired = "shutdown"
		return []ops.Task{stopping}
	}
	first := startOn(t, redis, swarm)
	first.decide(t, "click1", "bob", first.ask(t, "op1").Token, ops.Approve, "")
	first.wait(t, func(s ops.Status) bool { return s.Replicas != nil })
	first.Stop()
	second := startOn(t, redis, swarm)
	second.wait(t, func(s ops.Status) bool { return s.Replicas != nil })
	swarm.with(func() { swarm.tasks = nil })
	if got := second.final(t, "op1"); got.State != ops.Done || got.Decision.By.Name != "bob" || len(swarm.changes()) != 1 {
		t.Errorf("got %s %+v, decided by %+v", got.State, got.Err, got.Decision)
	}
}

func TestPushWaitsForAnApproval(t *testing.T) {
	svc := linked("pizza", 1)
	svc.Labels[ops.LabelApprove] = "push"
	h := startHouse(t, newFakeSwarm(svc))
	pending := func(id string) ops.Status {
		return h.wait(t, func(s ops.Status) bool { return s.ID == id && s.State == ops.Pending })
	}
	p := pushOf(1)
	p.Compare, p.Commits = "https://git.example/compare", []ops.Commit{{ID: p.After, Message: "Add olives\n\nBlack ones.", URL: "https://git.example/c"}}
	first := h.push(t, p).Jobs[0].ID
	waits := pending(first)
	if waits.Plan.Approval != "pushes to pizza wait for one; ada pushed this" || waits.Plan.Compare == "" || len(waits.Plan.Commits) != 1 || waits.Plan.Commits[0].Message != "Add olives" {
		t.Errorf("plan %+v", waits.Plan)
	}
	if len(h.swarm.built) > 0 {
		t.Error("it was built before somebody approved")
	}
	second := h.push(t, pushOf(2)).Jobs[0].ID
	token := pending(second).Token
	if got := h.final(t, first); got.State != ops.Superseded || said(got) != "A newer push took its place before somebody approved it. " {
		t.Errorf("the older: %s %s", got.State, said(got))
	}
	h.decide(t, "late", "bob", waits.Token, ops.Approve, "")
	if got := h.final(t, "late"); got.State != ops.Refused {
		t.Errorf("a click on the older: %s %s", got.State, said(got))
	}
	h.decide(t, "click", "bob", token, ops.Approve, "")
	if got := h.final(t, second); got.State != ops.Done || got.Decision.By.Name != "bob" {
		t.Errorf("the newer: %s %s", got.State, said(got))
	}
	if got := h.does(t, "hand", &ops.Deploy{App: "pizza", Hand: true, From: "a:1"}); got.State != ops.Done {
		t.Errorf("by hand: %s %s", got.State, said(got))
	}
	if n := len(h.swarm.built); n != 1 {
		t.Errorf("%d builds", n)
	}
}

package ops_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waggle/ops"
	"waggle/ops/queue"
	"waggle/ops/store"
)

// house is a running Runner on a Redis of its own.
type house struct {
	*ops.Runner
	*recorder
	swarm   *fakeSwarm
	source  *fakeSource
	servers *fakeServers
	images  *fakeImages
}

type allow struct{ err error }

func (a allow) Authorise(context.Context, ops.Actor, ops.Role) error { return a.err }

func startHouse(t *testing.T, swarm *fakeSwarm, change ...func(*ops.Runner)) *house {
	t.Helper()
	redis := kept(t)
	return startOn(t, redis, swarm, change...)
}

// kept returns a Redis for several runs of Waggle.
func kept(t *testing.T) *store.Embedded {
	t.Helper()
	redis, err := store.StartEmbedded()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(redis.Close)
	return redis
}

func startOn(t *testing.T, redis *store.Embedded, swarm *fakeSwarm, change ...func(*ops.Runner)) *house {
	t.Helper()
	s := store.Open(redis.Options())
	log := testLog(t)
	h := &house{recorder: newRecorder(), swarm: swarm, source: &fakeSource{}, servers: newFakeServers(swarm), images: &fakeImages{images: map[string]ops.Image{}, failing: map[string]error{}}}
	h.Runner = &ops.Runner{
		Env: ops.Env{Swarm: swarm, Source: h.source, SecretKey: testKey, Images: h.images, RegistryImage: "registry:2",
			ScaleAbove: 20, BuildTimeout: 10 * time.Second, DeployTimeout: 10 * time.Second, JoinTimeout: 2 * time.Second, Now: time.Now,
			Servers: h.servers, SSH: ops.Address{User: "root", Port: 22}},
		Kinds: map[string]func() ops.Operation{
			"scale":         func() ops.Operation { return new(ops.Scale) },
			"deploy":        func() ops.Operation { return new(ops.Deploy) },
			"freeze":        func() ops.Operation { return new(ops.Freeze) },
			"unfreeze":      func() ops.Operation { return &ops.Freeze{Lift: true} },
			"rollback":      func() ops.Operation { return new(ops.Rollback) },
			"join":          func() ops.Operation { return new(ops.NodeJoin) },
			"join-rotate":   func() ops.Operation { return new(ops.TokenRotation) },
			"node-remove":   func() ops.Operation { return new(ops.NodeRemove) },
			"node-clean":    func() ops.Operation { return new(ops.NodeClean) },
			"node-label":    func() ops.Operation { return new(ops.NodeLabel) },
			"node-promote":  func() ops.Operation { return &ops.NodeRole{Manager: true} },
			"node-demote":   func() ops.Operation { return &ops.NodeRole{} },
			"node-drain":    func() ops.Operation { return &ops.NodeAvailability{To: ops.Drain} },
			"node-activate": func() ops.Operation { return &ops.NodeAvailability{To: ops.Active} },
			"node-pause":    func() ops.Operation { return &ops.NodeAvailability{To: ops.Pause} },

			"registry-add":     func() ops.Operation { return new(ops.RegistryAdd) },
			"registry-edit":    func() ops.Operation { return new(ops.RegistryEdit) },
			"registry-default": func() ops.Operation { return new(ops.RegistryDefault) },
			"registry-enable":  func() ops.Operation { return &ops.RegistryPush{On: true} },
			"registry-disable": func() ops.Operation { return &ops.RegistryPush{} },
			"registry-remove":  func() ops.Operation { return new(ops.RegistryRemove) },
			"registry-setup":   func() ops.Operation { return new(ops.RegistrySetup) },
			"registry-migrate": func() ops.Operation { return new(ops.RegistryMigrate) },
			"registry-prune":   func() ops.Operation { return new(ops.RegistryPrune) },
		},
		ApprovalTTL: time.Minute, Metrics: ops.NewMetrics(prometheus.NewRegistry()),
		Store: s, Authoriser: allow{}, Reporter: h.recorder, Log: log,
		Decisions: queue.New(s.Client(), queue.Options{Name: "decisions", Concurrency: 4, Poll: 20 * time.Millisecond, Log: log}),
		Changes:   queue.New(s.Client(), queue.Options{Name: "changes", Concurrency: 4, Poll: 20 * time.Millisecond, Log: log}),
		Deploys:   queue.New(s.Client(), queue.Options{Name: "deploys", Concurrency: 4, Poll: 20 * time.Millisecond, Log: log}),
	}
	for _, c := range change {
		c(h.Runner)
	}
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Stop(); _ = s.Close() })
	return h
}

func (h *house) scale(t *testing.T, id string, op *ops.Scale) ops.Status {
	t.Helper()
	h.submit(t, asked(id), op)
	return h.final(t, id)
}

// does submits an operation and returns its end.
func (h *house) does(t *testing.T, id string, op ops.Operation) ops.Status {
	t.Helper()
	h.submit(t, asked(id), op)
	return h.final(t, id)
}

// asked is a request of ada's.
func asked(id string) ops.Request { return ops.Request{ID: id, Actor: person("ada")} }

func person(name string) ops.Actor { return ops.Actor{ID: "U-" + name, Name: name, Via: "slack"} }

func (h *house) submit(t *testing.T, req ops.Request, op ops.Operation) {
	t.Helper()
	if err := h.Submit(t.Context(), req, op); err != nil {
		t.Fatal(err)
	}
}

func TestScale(t *testing.T) {
	pizza := ops.Service{Name: "pizza", Replicas: 3, Image: "pizza:1"}
	for name, tc := range map[string]struct {
		svc   ops.Service
		op    ops.Scale
		state ops.State
		to    int    // replicas afterwards
		says  string // part of the result or of the error and its next step
	}{
		"up":             {pizza, ops.Scale{App: "pizza", Replicas: 6}, ops.Done, 6, "pizza runs 6 of 6"},
		"more":           {pizza, ops.Scale{App: "pizza", Replicas: 2, Relative: true}, ops.Done, 5, "pizza runs 5 of 5"},
		"fewer":          {pizza, ops.Scale{App: "pizza", Replicas: -1, Relative: true}, ops.Done, 2, "pizza runs 2 of 2"},
		"same":           {pizza, ops.Scale{App: "pizza", Replicas: 3}, ops.Done, 3, "pizza runs 3 of 3"},
		"below zero":     {pizza, ops.Scale{App: "pizza", Replicas: -4, Relative: true}, ops.Refused, 3, "pizza runs 3, so 4 fewer is less than none. Type `/scale pizza 0` to stop it."},
		"huge":           {pizza, ops.Scale{App: "pizza", Replicas: 10001}, ops.Refused, 3, "10001 replicas are more than Waggle sets (5000)"},
		"to zero":        {pizza, ops.Scale{App: "pizza", Replicas: 0}, ops.Pending, 3, "it stops pizza"},
		"many":           {pizza, ops.Scale{App: "pizza", Replicas: 21}, ops.Pending, 3, "21 is above 20 replicas"},
		"unknown, near":  {pizza, ops.Scale{App: "piza", Replicas: 2}, ops.Refused, 3, "There is no app \"piza\" in this swarm. Did you mean `pizza`?"},
		"unknown":        {pizza, ops.Scale{App: "calzone", Replicas: 2}, ops.Refused, 3, "There is: pizza."},
		"global":         {ops.Service{Name: "pizza", Mode: ops.Global}, ops.Scale{App: "pizza", Replicas: 2}, ops.Refused, 0, "global service"},
		"job":            {ops.Service{Name: "pizza", Mode: ops.ReplicatedJob}, ops.Scale{App: "pizza", Replicas: 2}, ops.Refused, 0, "is a job (replicated-job)"},
		"persistent":     {ops.Service{Name: "pizza", Replicas: 1, Persistent: true}, ops.Scale{App: "pizza", Replicas: 2}, ops.Pending, 1, "persistent data"},
		"persistent one": {ops.Service{Name: "pizza", Replicas: 2, Persistent: true}, ops.Scale{App: "pizza", Replicas: 1}, ops.Done, 1, "pizza runs 1 of 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHouse(t, newFakeSwarm(tc.svc))
			h.submit(t, asked("op1"), &tc.op)
			got := h.wait(t, func(s ops.Status) bool { return s.State.Final() || s.State == ops.Pending })
			if got.State != tc.state {
				t.Errorf("state = %s, want %s (%+v)", got.State, tc.state, got.Err)
			}
			said := got.Result + got.Plan.Approval
			if got.Err != nil {
				said = got.Err.Sentence + ". " + got.Err.Next
			}
			if !strings.Contains(said, tc.says) {
				t.Errorf("it says %q, want %q in it", said, tc.says)
			}
			if now := h.swarm.service("pizza").Replicas; now != tc.to {
				t.Errorf("%d replicas afterwards, want %d", now, tc.to)
			}
			if tc.state != ops.Done && len(h.swarm.changes()) > 0 {
				t.Errorf("not done, and yet changed: %+v", h.swarm.changes())
			}
		})
	}
}

func TestScaleIsConvergedOnlyWhenTheClusterShowsIt(t *testing.T) {
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 1})
	running := 1
	swarm.tasks = func(s ops.Service) []ops.Task {
		var out []ops.Task
		for i := range s.Replicas {
			state := "preparing"
			if i < running {
				state = "running"
			}
			out = append(out, task(i+1, state, "", 0))
		}
		return out
	}
	h := startHouse(t, swarm)
	h.submit(t, ops.Request{ID: "op1"}, &ops.Scale{App: "pizza", Replicas: 3})
	h.wait(t, func(s ops.Status) bool { return s.Replicas != nil && s.Replicas.Running == 1 })
	swarm.with(func() { running = 2 })
	h.wait(t, func(s ops.Status) bool { return s.Replicas != nil && s.Replicas.Running == 2 })
	if h.seen(func(s ops.Status) bool { return s.State == ops.Holding || s.State.Final() }) {
		t.Error("called converged with 2 of 3 running")
	}
	swarm.with(func() { running = 3 })
	h.wait(t, func(s ops.Status) bool { return s.State == ops.Holding })
	got := h.final(t, "op1")
	if got.State != ops.Done || got.Replicas.Where() != "n1 1 · n2 1 · n3 1" {
		t.Errorf("got %s, %s", got.State, got.Replicas.Where())
	}
}

func TestScaleThatFindsNoPlaceFails(t *testing.T) {
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 1})
	swarm.tasks = func(s ops.Service) []ops.Task {
		out := []ops.Task{task(1, "running", "", 0)}
		for i := 1; i < s.Replicas; i++ {
			p := task(i+1, "pending", "no suitable node (scheduling constraints not satisfied on 3 nodes)", 0)
			p.NodeID = ""
			out = append(out, p)
		}
		return out
	}
	start := time.Now()
	h := startHouse(t, swarm, func(r *ops.Runner) {
		r.Env.DeployTimeout = time.Hour // of the clock below, which runs fast
		r.Env.Now = func() time.Time { return start.Add(100 * time.Since(start)) }
	})
	got := h.scale(t, "op1", &ops.Scale{App: "pizza", Replicas: 3})
	want := "pizza: 1 of 3 run and nothing has changed for 20s: no suitable node (scheduling constraints not satisfied on 3 nodes)"
	if got.State != ops.Failure || got.Err.Sentence != want {
		t.Errorf("got %s %q, want failed %q", got.State, got.Err.Sentence, want)
	}
	if want := "The swarm goes on trying. `/scale pizza 1` goes back."; got.Err.Next != want {
		t.Errorf("next step %q, want %q", got.Err.Next, want)
	}
}

func TestScaleThatTakesTooLongSaysHowFarItCame(t *testing.T) {
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 1})
	swarm.tasks = func(s ops.Service) []ops.Task {
		return []ops.Task{task(1, "running", "", 0), task(2, "preparing", "", 0)} // pulling, without an error
	}
	h := startHouse(t, swarm, func(r *ops.Runner) { r.Env.DeployTimeout = 300 * time.Millisecond })
	got := h.scale(t, "op1", &ops.Scale{App: "pizza", Replicas: 2})
	if want := "pizza: 1 of 2 run after 300ms"; got.State != ops.Failure || got.Err.Sentence != want {
		t.Errorf("got %s %q, want failed %q", got.State, got.Err.Sentence, want)
	}
}

func TestAnotherHandIsBuiltOnNotOverwritten(t *testing.T) {
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3, Image: "pizza:1"})
	swarm.beforeUpdate = func(f *fakeSwarm) {
		f.services["pizza"].Version++
		f.services["pizza"].Image = "pizza:2"
		f.services["pizza"].Replicas = 4
	}
	h := startHouse(t, swarm)
	got := h.scale(t, "op1", &ops.Scale{App: "pizza", Replicas: 2, Relative: true})
	if got.State != ops.Done {
		t.Fatalf("got %s: %+v", got.State, got.Err)
	}
	if now := swarm.service("pizza"); now.Replicas != 6 || now.Image != "pizza:2" {
		t.Errorf("afterwards %d replicas of %s, want 6 of pizza:2", now.Replicas, now.Image)
	}
	if d := got.Plan.Diffs[0]; d.From != "4" || d.To != "6" {
		t.Errorf("the plan that is reported is %s, want the second one, 4 → 6", d)
	}
}

// TestLabelledAllTheTime: whoever only labels the service does not stop a scale, and
// keeps his labels.
func TestLabelledAllTheTime(t *testing.T) {
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3})
	labels := 0
	var hand func(*fakeSwarm)
	hand = func(f *fakeSwarm) {
		labels++
		f.services["pizza"].Version++
		f.services["pizza"].Labels = map[string]string{"hand": fmt.Sprint(labels)}
		if labels < 9 {
			f.beforeUpdate = hand
		}
	}
	swarm.beforeUpdate = hand
	got := startHouse(t, swarm).scale(t, "op1", &ops.Scale{App: "pizza", Replicas: 5})
	if now := swarm.service("pizza"); got.State != ops.Done || now.Replicas != 5 || now.Labels["hand"] != "9" {
		t.Errorf("%s %+v: %d replicas, labels %v", got.State, got.Err, now.Replicas, now.Labels)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	h := startHouse(t, newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3}))
	h.submit(t, ops.Request{ID: "op1", DryRun: true}, &ops.Scale{App: "pizza", Replicas: 0})
	got := h.final(t, "op1")
	if got.State != ops.DryRun || got.Plan.Diffs[0].String() != "replicas 3 → 0" || got.Plan.Approval == "" {
		t.Errorf("got %+v", got)
	}
	if len(h.swarm.changes()) > 0 {
		t.Errorf("changed: %+v", h.swarm.changes())
	}
	waitFor(t, "its record to be final", func() bool { // else it would be taken up again
		ids, err := h.Store.Members(t.Context(), "inflight")
		return err == nil && len(ids) == 0
	})
	ends := 0
	h.seen(func(s ops.Status) bool {
		if s.State.Final() {
			ends++
		}
		return false
	})
	if ends != 1 {
		t.Errorf("it ended %d times", ends)
	}
}

func TestWhoMayNotIsRefusedBeforeAnything(t *testing.T) {
	h := startHouse(t, newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3}), func(r *ops.Runner) {
		r.Authoriser = allow{ops.Errorf(ops.Forbidden, "You are a viewer")}
	})
	got := h.scale(t, "op1", &ops.Scale{App: "pizza", Replicas: 5})
	if got.State != ops.Refused || len(got.Plan.Diffs) > 0 || len(h.swarm.changes()) > 0 {
		t.Errorf("got %+v after changes %+v", got, h.swarm.changes())
	}
}

// TestLockedByAnother: a quick command waits a moment for its turn, and is refused then.
func TestLockedByAnother(t *testing.T) {
	var ahead atomic.Int64 // of the clock
	h := startHouse(t, newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3}), func(r *ops.Runner) {
		r.Env.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	lease, err := h.Store.Lock(t.Context(), "target:app/pizza", store.Claim{Owner: "@bob", Reason: "scale"})
	if err != nil {
		t.Fatal(err)
	}
	h.submit(t, asked("op1"), &ops.Scale{App: "pizza", Replicas: 5})
	h.wait(t, func(s ops.Status) bool {
		return s.ID == "op1" && s.State == ops.Waiting && strings.HasPrefix(s.Note, "@bob has been changing pizza (scale)")
	})
	ahead.Store(int64(4 * time.Second))
	got := h.final(t, "op1")
	since := time.Now().UTC().Format("15:04")
	if got.State != ops.Refused || !strings.HasPrefix(got.Err.Sentence, "@bob has been changing pizza (scale) since "+since) {
		t.Errorf("got %s %q", got.State, got.Err.Sentence)
	}
	lease.Release()
	if got := h.scale(t, "op2", &ops.Scale{App: "pizza", Replicas: 5}); got.State != ops.Done {
		t.Errorf("after the release: %s %+v", got.State, got.Err)
	}
}

func TestTheSameRequestTwiceIsADuplicate(t *testing.T) {
	h := startHouse(t, newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3}))
	h.scale(t, "op1", &ops.Scale{App: "pizza", Replicas: 1, Relative: true})
	err := h.Submit(t.Context(), ops.Request{ID: "op1"}, &ops.Scale{App: "pizza", Replicas: 1, Relative: true})
	if !errors.Is(err, queue.ErrDuplicate) {
		t.Errorf("err = %v, want ErrDuplicate", err)
	}
}

func TestAuditIsWritten(t *testing.T) {
	h := startHouse(t, newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3}))
	h.scale(t, "op1", &ops.Scale{App: "pizza", Replicas: 5})
	h.scale(t, "op2", &ops.Scale{App: "nope", Replicas: 5})
	var entries []ops.Entry
	waitFor(t, "two audit entries", func() bool {
		entries = nil
		all, err := h.Store.Client().XRange(t.Context(), "waggle:audit", "-", "+").Result()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			var e ops.Entry
			if err := json.Unmarshal([]byte(m.Values["json"].(string)), &e); err != nil {
				t.Fatal(err)
			}
			entries = append(entries, e)
		}
		return len(entries) == 2
	})
	if e := entries[0]; e.Who != "@ada" || e.UserID != "U-ada" || e.Kind != "scale" || e.Target != "pizza" || e.Outcome != ops.Done || e.Diffs[0].String() != "replicas 3 → 5" {
		t.Errorf("entry %+v", e)
	}
	if e := entries[1]; e.Outcome != ops.Refused || !strings.Contains(e.Why, "no app") {
		t.Errorf("entry %+v", e)
	}
}

// TestCutOffInTheMiddle stops a house between its write and its report, and
// lets another go on.
func TestCutOffInTheMiddle(t *testing.T) {
	redis := kept(t)
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3})
	starting := true
	swarm.tasks = func(s ops.Service) []ops.Task {
		all := swarm.spread(s)
		if starting {
			all[len(all)-1].State = "starting"
		}
		return all
	}
	first := startOn(t, redis, swarm)
	first.submit(t, ops.Request{ID: "op1"}, &ops.Scale{App: "pizza", Replicas: 2, Relative: true})
	first.wait(t, func(s ops.Status) bool { return s.Replicas != nil && s.Replicas.Running == 4 })
	first.Stop()
	if first.seen(func(s ops.Status) bool { return s.State.Final() }) {
		t.Fatal("stopping made it final")
	}

	second := startOn(t, redis, swarm)
	second.wait(t, func(s ops.Status) bool { return s.Replicas != nil && s.Replicas.Running == 4 })
	swarm.with(func() { starting = false })
	got := second.final(t, "op1")
	if got.State != ops.Done || swarm.service("pizza").Replicas != 5 || len(swarm.changes()) != 1 {
		t.Errorf("got %s %+v with %d replicas after %d writes; +2 must be added once", got.State, got.Err, swarm.service("pizza").Replicas, len(swarm.changes()))
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("not in time: " + what)
		}
	}
}

func pushOf(n int) ops.Push {
	commit := strings.Repeat(fmt.Sprint(n%10), 40)
	return ops.Push{Provider: "github", Repo: "https://git.example/acme/pizza.git", RepoURLs: []string{"https://git.example/acme/pizza.git"},
		Name: "acme/pizza", Branch: "main", Default: "main", Before: strings.Repeat("0", 40), After: commit, Pusher: "ada",
		PushedAt: time.Unix(int64(1000+n), 0), Commits: []ops.Commit{{ID: commit, Message: fmt.Sprintf("change %d\n\nbody", n)}}}
}

// testLog shows what Waggle logs with the output of a test that fails.
func testLog(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

package ops_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/ops"
	"waggle/ops/store"
)

var dockerAway = ops.Errorf(ops.Unavailable, "Docker does not answer at unix:///var/run/docker.sock")

// waits delivers a push while Docker is away.
func (h *house) waits(t *testing.T, p ops.Push) {
	t.Helper()
	if got := h.push(t, p); !got.Waits || got.Duplicate || len(got.Jobs) > 0 || !strings.Contains(got.Reason, "the swarm does not answer now: the push is stored") {
		t.Errorf("while Docker is away: %+v", got)
	}
}

// waiting is how many jobs the queue of deploys has that are not done.
func (h *house) waiting(t *testing.T) int64 {
	t.Helper()
	return h.waitingIn(t, "deploys")
}

func (h *house) waitingIn(t *testing.T, queue string) int64 {
	t.Helper()
	all := h.Store.Client().TxPipeline() // at one moment: jobs go from one to the other
	key := "waggle:asynq:{" + queue + "}:"
	pending, active, retry := all.LLen(t.Context(), key+"pending"), all.LLen(t.Context(), key+"active"), all.ZCard(t.Context(), key+"retry")
	if _, err := all.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	return pending.Val() + active.Val() + retry.Val()
}

// TestPushWhileDockerIsAway: it is deployed once when Docker answers, by another
// process than the one that took it, however often it came meanwhile.
func TestPushWhileDockerIsAway(t *testing.T) {
	redis := kept(t)
	swarm := newFakeSwarm(linked("pizza", 2))
	swarm.with(func() { swarm.down = dockerAway })
	first := startOn(t, redis, swarm)
	for range 3 {
		first.waits(t, pushOf(1))
	}
	if n := first.waiting(t); n != 1 {
		t.Errorf("%d jobs wait for one push", n)
	}
	first.Stop()

	second := startOn(t, redis, swarm)
	waitFor(t, "a look at Docker", func() bool { return swarm.asked() > 3 })
	if second.seen(func(ops.Status) bool { return true }) {
		t.Error("a message while nothing can be said")
	}
	swarm.with(func() { swarm.down = nil })
	got := second.wait(t, func(s ops.Status) bool { return s.State.Final() })
	if got.State != ops.Done || got.Result != "pizza runs release 1 (1111111), 2 of 2" || got.Actor.Name != "ada" {
		t.Errorf("got %s %q %+v", got.State, got.Result, got.Err)
	}
	waitFor(t, "nothing to wait", func() bool { return second.waiting(t) == 0 })
	if n := len(swarm.changes()); n != 1 {
		t.Errorf("deployed %d times", n)
	}
	if again := second.push(t, pushOf(1)); !again.Duplicate {
		t.Errorf("once more: %+v", again)
	}
}

// TestKeptPushSaysNothingWhenNoAppFollows, and does not come again.
func TestKeptPushSaysNothingWhenNoAppFollows(t *testing.T) {
	swarm := newFakeSwarm(ops.Service{Name: "pizza"})
	swarm.with(func() { swarm.down = dockerAway })
	h := startHouse(t, swarm)
	h.waits(t, pushOf(1))
	swarm.with(func() { swarm.down = nil })
	waitFor(t, "nothing to wait", func() bool { return h.waiting(t) == 0 })
	if h.seen(func(ops.Status) bool { return true }) || len(swarm.changes()) > 0 {
		t.Errorf("it led to something: %+v", h.all)
	}
}

// TestKeptPushKeepsItsPaths: waggle.paths is minded as if Docker had been there.
func TestKeptPushKeepsItsPaths(t *testing.T) {
	docs, code := linked("docs", 1), linked("code", 1)
	docs.Labels[ops.LabelPaths], code.Labels[ops.LabelPaths] = "docs", "src"
	swarm := newFakeSwarm(docs, code)
	swarm.with(func() { swarm.down = dockerAway })
	h := startHouse(t, swarm)
	p := pushOf(1)
	p.Files = []string{"src/oven.go"}
	h.waits(t, p)
	swarm.with(func() { swarm.down = nil })
	got := h.wait(t, func(s ops.Status) bool { return s.State.Final() })
	waitFor(t, "nothing to wait", func() bool { return h.waiting(t) == 0 })
	if got.Target != "code" || len(swarm.changes()) != 1 {
		t.Errorf("%s was deployed, of %d", got.Target, len(swarm.changes()))
	}
}

// TestKeptPushesInAnyOrder has some pushes of a branch come while Docker is away,
// in any order and some twice, and others when it is back: the newest has the last
// word, and none is deployed twice.
func TestKeptPushesInAnyOrder(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 7))
			swarm := newFakeSwarm(linked("pizza", 1))
			h := startHouse(t, swarm)
			const n = 5
			timed := seed%2 == 0
			var made []ops.Push
			for i := range n {
				p := pushOf(i + 1)
				p.Before = strings.Repeat(fmt.Sprint(i), 40)
				if !timed {
					p.PushedAt = time.Time{}
				}
				made = append(made, p)
			}
			h.source.mu.Lock()
			h.source.heads = map[string]string{"main": made[n-1].After}
			h.source.mu.Unlock()
			order := append(rnd.Perm(n), rnd.IntN(n), rnd.IntN(n))
			away := 1 + rnd.IntN(len(order))
			swarm.with(func() { swarm.down = dockerAway })
			for _, i := range order[:away] {
				h.waits(t, made[i])
			}
			swarm.with(func() { swarm.down = nil })
			for _, i := range order[away:] {
				h.push(t, made[i])
			}
			waitFor(t, "nothing to wait", func() bool { return h.waiting(t) == 0 })
			all, err := swarm.service("pizza").Releases()
			if err != nil || len(all) == 0 || all[0].Commit != made[n-1].After {
				t.Fatalf("order %v, %d of them while Docker was away: releases %+v, %v", order, away, all, err)
			}
			seen := map[string]bool{}
			for _, r := range all {
				if seen[r.Commit] {
					t.Errorf("%s was deployed twice", r.Commit)
				}
				seen[r.Commit] = true
			}
		})
	}
}

// TestKeptInVain: a day is enough, and then it is told.
func TestKeptInVain(t *testing.T) {
	swarm := newFakeSwarm(linked("pizza", 1))
	swarm.with(func() { swarm.down = dockerAway })
	var mu sync.Mutex
	ahead := time.Duration(0)
	h := startHouse(t, swarm, func(r *ops.Runner) {
		r.Env.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(ahead) }
	})
	h.waits(t, pushOf(1))
	asked := swarm.asked()
	waitFor(t, "another look", func() bool { return swarm.asked() > asked })
	if h.seen(func(ops.Status) bool { return true }) {
		t.Error("given up at once")
	}
	mu.Lock()
	ahead = 25 * time.Hour
	mu.Unlock()
	got := h.wait(t, func(s ops.Status) bool { return s.State.Final() })
	if got.State != ops.Refused || got.Err.Sentence != "The push of 1111111 to acme/pizza was not deployed: the swarm did not answer for 24 hours" || got.Target != "acme/pizza" || got.Title != "1111111 “change 1”" {
		t.Errorf("got %+v, %+v", got, got.Err)
	}
	waitFor(t, "nothing to wait", func() bool { return h.waiting(t) == 0 })
	entries, err := h.Audit(t.Context(), "acme/pizza", 5)
	if err != nil || len(entries) != 1 || entries[0].Outcome != ops.Refused {
		t.Errorf("audit %+v, %v", entries, err)
	}
}

// TestKeptNowhere: with Redis away too it is the forge's to send it again.
func TestKeptNowhere(t *testing.T) {
	redis, err := store.StartEmbedded()
	if err != nil {
		t.Fatal(err)
	}
	swarm := newFakeSwarm(linked("pizza", 1))
	swarm.with(func() { swarm.down = dockerAway })
	h := startOn(t, redis, swarm)
	h.waits(t, pushOf(1)) // scripts and connections are there
	redis.Close()
	if got, err := h.Deploy(t.Context(), pushOf(2)); err == nil || got.Waits {
		t.Errorf("with no Redis: %+v, %v", got, err)
	}
}

// TestKnownLinksSayOnlyYes: a second push is taken without a look at Docker, but
// nothing is denied by what was known a while ago.
func TestKnownLinksSayOnlyYes(t *testing.T) {
	swarm := newFakeSwarm(linked("pizza", 1))
	h := startHouse(t, swarm, func(r *ops.Runner) { r.Kinds = map[string]func() ops.Operation{} }) // nothing is done
	next := func(n int) ops.Push {
		p := pushOf(n)
		p.Before = strings.Repeat(fmt.Sprint(n-1), 40)
		return p
	}
	h.push(t, next(1))
	asked := swarm.asked()
	swarm.with(func() { swarm.down = errors.New("it is asked all the same") })
	if got := h.push(t, next(2)); len(got.Jobs) != 1 || swarm.asked() != asked {
		t.Errorf("the next: %+v after %d looks", got, swarm.asked()-asked)
	}
	swarm.with(func() { swarm.down = nil })

	// What was linked since, while everything known says no.
	pasta := linked("pasta", 1)
	pasta.Labels = map[string]string{ops.LabelRepo: "https://git.example/acme/pasta"}
	swarm.with(func() { swarm.services["pasta"] = &pasta })
	p := next(3)
	p.RepoURLs, p.Name = []string{"https://git.example/acme/pasta"}, "acme/pasta"
	if got := h.push(t, p); len(got.Jobs) != 1 || got.Jobs[0].App != "pasta" {
		t.Errorf("a repository that was linked since: %+v", got)
	}
	swarm.with(func() {
		swarm.services["pizza"].Labels = map[string]string{ops.LabelRepo: pizzaRepo, ops.LabelBranch: "next"}
	})
	p = next(4)
	p.Branch = "next"
	if got := h.push(t, p); len(got.Jobs) != 1 {
		t.Errorf("a branch that is followed since: %+v", got)
	}
	// The same once more, for an app that was linked since.
	soup := linked("soup", 1)
	soup.Labels[ops.LabelBranch] = "next"
	swarm.with(func() { swarm.services["soup"] = &soup })
	if got := h.push(t, p); len(got.Jobs) != 1 || got.Jobs[0].App != "soup" {
		t.Errorf("delivered again for a new app: %+v", got)
	}
}

const pizzaRepo = "git@git.example:acme/pizza.git"

// TestAppLinkedAMomentAgo to a repository that another app follows too gets the
// push, though only the other one was known.
func TestAppLinkedAMomentAgo(t *testing.T) {
	swarm := newFakeSwarm(linked("pizza", 1))
	h := startHouse(t, swarm)
	h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
	elsewhere := pushOf(9)
	elsewhere.RepoURLs, elsewhere.Name = []string{"https://git.example/acme/none"}, "acme/none"
	h.push(t, elsewhere) // the links are known from here on
	soup, docs := linked("soup", 1), linked("docs", 1)
	docs.Labels[ops.LabelPaths] = "docs"
	for _, s := range []*ops.Service{&soup, &docs} {
		s.Mode, s.ID, s.Version, s.Monitor = ops.Replicated, "id-"+s.Name, 10, 20*time.Millisecond
		swarm.with(func() { swarm.services[s.Name] = s })
	}
	p := pushOf(2)
	p.Files = []string{"src/oven.go"}
	got := h.push(t, p)
	if len(got.Jobs) != 1 || got.Jobs[0].App != "pizza" {
		t.Fatalf("accepted %+v, want what was known of before", got)
	}
	if s := h.wait(t, func(s ops.Status) bool { return s.Target == "soup" && s.State.Final() }); s.State != ops.Done {
		t.Errorf("soup: %s %+v", s.State, s.Err)
	}
	waitFor(t, "nothing to wait", func() bool { return h.waiting(t) == 0 })
	if h.seen(func(s ops.Status) bool { return s.Target == "docs" }) {
		t.Error("docs was deployed, whose paths were not touched")
	}
	h.final(t, got.Jobs[0].ID)
}

// TestAcceptedWhileDockerIsAway: a push that is taken by what was known waits for
// Docker, instead of failing.
func TestAcceptedWhileDockerIsAway(t *testing.T) {
	t.Parallel()
	swarm := newFakeSwarm(linked("pizza", 1))
	h := startHouse(t, swarm)
	h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
	skip := pushOf(2)
	skip.Skip = "the last commit says [skip ci]"
	h.push(t, skip) // the links are known from here on
	swarm.with(func() { swarm.down = dockerAway })
	got := h.push(t, pushOf(3))
	if len(got.Jobs) != 1 {
		t.Fatalf("got %+v", got)
	}
	asked := swarm.asked()
	waitFor(t, "two looks at Docker", func() bool { return swarm.asked() > asked+1 })
	swarm.with(func() { swarm.down = nil })
	if s := h.final(t, got.Jobs[0].ID); s.State != ops.Done {
		t.Errorf("%s %+v", s.State, s.Err)
	}
}

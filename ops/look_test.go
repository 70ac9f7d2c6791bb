package ops_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/ops"
)

// forge is a Source whose looks at a branch hang while it is slow, and counts those that
// run at once.
type forge struct {
	*fakeSource
	mu      sync.Mutex
	slow    bool
	refuses error
	running map[string]int
	most    int // looks at one branch at once
	asked   int
}

func (f *forge) Resolve(ctx context.Context, url, branch string) (string, error) {
	key := url + " " + branch
	f.mu.Lock()
	if f.running == nil {
		f.running = map[string]int{}
	}
	f.running[key]++
	f.asked++
	f.most = max(f.most, f.running[key])
	slow, refuses := f.slow, f.refuses
	f.mu.Unlock()
	defer f.with(func() { f.running[key]-- })
	if slow {
		// A hanging server, shorter than the limit of a look.
		ctx, cancel := context.WithTimeout(ctx, 400*time.Millisecond)
		defer cancel()
		<-ctx.Done()
		return "", &ops.Error{Code: ops.Unavailable, Sentence: "git.example did not answer in time", Err: ctx.Err()}
	}
	if refuses != nil {
		return "", refuses
	}
	return f.fakeSource.Resolve(ctx, url, branch)
}

func (f *forge) with(do func()) { f.mu.Lock(); defer f.mu.Unlock(); do() }

func (f *forge) looks() int { f.mu.Lock(); defer f.mu.Unlock(); return f.asked }

// behind starts Waggle on a forge whose branch main is at a commit.
func behind(t *testing.T, swarm *fakeSwarm, head string, change ...func(*ops.Runner)) (*house, *forge) {
	t.Helper()
	f := new(forge)
	h := startHouse(t, swarm, append([]func(*ops.Runner){func(r *ops.Runner) {
		f.fakeSource = r.Env.Source.(*fakeSource)
		f.heads = map[string]string{"main": head}
		r.Env.Source = f
	}}, change...)...)
	return h, f
}

// commit is the n-th commit of a branch.
func commit(n int) string { return fmt.Sprintf("%040x", n+0xabc000) }

// next is the push from commit n-1 to commit n, of a forge that tells no times.
func next(n int) ops.Push {
	p := pushOf(1)
	p.Before, p.After, p.PushedAt = commit(n-1), commit(n), time.Time{}
	p.Commits = []ops.Commit{{ID: p.After, Message: fmt.Sprint("change ", n)}}
	return p
}

// within is how long a webhook gives Deploy.
func within(t *testing.T, h *house, p ops.Push) (ops.Accepted, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	return h.Deploy(ctx, p)
}

// TestStampede redelivers the same few pushes of a branch 300 times at once, in any order,
// while the forge hangs. None of them can be told apart without it. The newest has the last
// word on every app, and none is deployed twice.
func TestStampede(t *testing.T) {
	apps := []string{"pizza", "pasta", "soup"}
	var services []ops.Service
	for _, name := range apps {
		services = append(services, linked(name, 1))
	}
	swarm := newFakeSwarm(services...)
	h, f := behind(t, swarm, commit(1))
	for _, j := range h.push(t, next(1)).Jobs {
		h.final(t, j.ID)
	}
	f.with(func() { f.slow = true })
	f.fakeSource.mu.Lock()
	f.heads["main"] = commit(30)
	f.fakeSource.mu.Unlock()

	// Pushes 2 to 9 and 11, 13 … never came: of these three nobody can tell the order.
	made := []ops.Push{next(10), next(20), next(30)}
	var all sync.WaitGroup
	var mu sync.Mutex
	took, kept, deadline := map[string]int{}, 0, time.Now().Add(20*time.Second)
	for i := range 300 {
		all.Go(func() {
			p := made[(i+rand.IntN(3))%3]
			got, err := within(t, h, p)
			for err != nil && time.Now().Before(deadline) { // a slow machine: a forge sends it again
				got, err = within(t, h, p)
			}
			if err != nil {
				t.Errorf("not stored: %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, j := range got.Jobs {
				took[j.ID]++
			}
			if got.Waits {
				kept++
			}
			if !got.Waits && len(got.Jobs) == 0 && got.Reason == "" {
				t.Errorf("not accounted for: %+v", got)
			}
		})
	}
	all.Wait()
	if kept == 0 {
		t.Error("no push waited, though the forge hangs")
	}
	if n := len(swarm.changes()); n != len(apps) {
		t.Errorf("%d updates while nobody could tell which push is the newest, want the %d of the first push", n, len(apps))
	}
	if n := h.waiting(t); n > 20 {
		t.Errorf("%d jobs wait for three pushes", n)
	}
	f.with(func() { f.slow = false })
	waitFor(t, "nothing to wait", func() bool { return h.waiting(t) == 0 })
	for _, name := range apps {
		releases, err := swarm.service(name).Releases()
		if err != nil || len(releases) != 2 || releases[0].Commit != commit(30) {
			t.Errorf("%s: %+v, %v; want the newest over the first", name, releases, err)
		}
	}
	for id, n := range took {
		if n > 1 {
			t.Errorf("%s was taken %d times", id, n)
		}
	}
	if f.most != 1 {
		t.Errorf("%d looks at one branch at once", f.most)
	}
	if n := f.looks(); n > 60 {
		t.Errorf("%d looks", n)
	}
}

// TestOldDeliveryWhileTheForgeIsSlow: a delivery without a time, of more pushes ago than
// are remembered, is not deployed because nobody can tell.
func TestOldDeliveryWhileTheForgeIsSlow(t *testing.T) {
	t.Parallel()
	const newest = 30
	swarm := newFakeSwarm(linked("pizza", 1))
	h, f := behind(t, swarm, commit(newest))
	for n := 1; n <= newest; n++ {
		p := next(n)
		if n > 1 && n < newest {
			p.Skip = "the last commit says [skip ci]"
		}
		for _, j := range h.push(t, p).Jobs {
			h.final(t, j.ID)
		}
	}
	before := len(swarm.changes())
	f.with(func() { f.slow = true })
	got, err := within(t, h, next(1))
	if err != nil || !got.Waits || len(got.Jobs) > 0 || got.Duplicate {
		t.Fatalf("while the forge hangs: %+v, %v", got, err)
	}
	if want := "can't see now whether this is the newest push to main for pizza: it is stored, and looked at again"; got.Reason != want {
		t.Errorf("it says %q", got.Reason)
	}
	asked := f.looks()
	waitFor(t, "another look", func() bool { return f.looks() > asked })
	f.with(func() { f.slow = false })
	waitFor(t, "nothing to wait", func() bool { return h.waiting(t) == 0 })
	if n := len(swarm.changes()); n != before {
		t.Errorf("%d updates, want %d: an old push was deployed", n, before)
	}
}

// TestNewerPushNeverWaitsForTheForge: what is plainly newer is taken at once, also beside an
// app for which it is not plain.
func TestNewerPushNeverWaitsForTheForge(t *testing.T) {
	t.Parallel()
	pizza, pasta := linked("pizza", 1), linked("pasta", 1)
	pasta.Labels[ops.LabelReleases] = fmt.Sprintf(`[{"number":1,"image":"i","commit":%q}]`, commit(900))
	swarm := newFakeSwarm(pizza, pasta)
	h, f := behind(t, swarm, commit(2))
	f.with(func() { f.slow = true })
	got, err := within(t, h, next(1))
	if err != nil || len(got.Jobs) != 1 || got.Jobs[0].App != "pizza" || !got.Waits {
		t.Fatalf("first: %+v, %v", got, err)
	}
	h.final(t, got.Jobs[0].ID)
	got, err = within(t, h, next(2)) // by links that are known, so its job looks for other apps
	if err != nil || len(got.Jobs) != 1 || got.Jobs[0].App != "pizza" {
		t.Fatalf("second: %+v, %v", got, err)
	}
	if s := h.final(t, got.Jobs[0].ID); s.State != ops.Done {
		t.Errorf("%s %+v", s.State, s.Err)
	}
	f.with(func() { f.slow = false })
	waitFor(t, "nothing to wait", func() bool { return h.waiting(t) == 0 })
	for _, name := range []string{"pizza", "pasta"} {
		if all, err := swarm.service(name).Releases(); err != nil || all[0].Commit != commit(2) {
			t.Errorf("%s: %+v, %v", name, all, err)
		}
	}
}

// TestBranchThatIsNeverSeen is told after a day, with what the forge says.
func TestBranchThatIsNeverSeen(t *testing.T) {
	for name, tc := range map[string]struct {
		refuses error
		after   time.Duration
		says    string
	}{
		"refused": {ops.Errorf(ops.Failed, "git.example refuses the deploy key"), 25 * time.Hour,
			"for 24 hours Waggle couldn't see whether it is the newest push to main: git.example refuses the deploy key"},
		"deleted": {ops.Errorf(ops.NotFound, "no branch main"), 6 * time.Minute, "its branch main no longer exists"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			swarm := newFakeSwarm(linked("pizza", 1))
			var mu sync.Mutex
			ahead := time.Duration(0)
			h, f := behind(t, swarm, commit(9), func(r *ops.Runner) {
				r.Env.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(ahead) }
			})
			h.final(t, h.push(t, next(1)).Jobs[0].ID)
			f.with(func() { f.refuses = tc.refuses })
			if got := h.push(t, next(5)); !got.Waits {
				t.Fatalf("got %+v", got)
			}
			looked := f.looks()
			waitFor(t, "another look", func() bool { return f.looks() > looked })
			if h.seen(func(s ops.Status) bool { return s.Kind == "push" }) {
				t.Error("given up at once")
			}
			mu.Lock()
			ahead = tc.after
			mu.Unlock()
			got := h.wait(t, func(s ops.Status) bool { return s.Kind == "push" && s.State.Final() })
			if want := "The push of " + commit(5)[:7] + " to acme/pizza was not deployed: " + tc.says; got.State != ops.Refused || !strings.HasPrefix(got.Err.Sentence, want) {
				t.Errorf("got %s %q, want %q", got.State, got.Err.Sentence, want)
			}
			waitFor(t, "nothing to wait", func() bool { return h.waiting(t) == 0 })
		})
	}
}

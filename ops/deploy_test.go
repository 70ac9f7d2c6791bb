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

func linked(name string, replicas int) ops.Service {
	return ops.Service{Name: name, Replicas: replicas, Image: "reg:5000/acme/" + name + ":old@" + digest, Labels: map[string]string{
		ops.LabelRepo: "git@git.example:acme/pizza.git", "other": "kept"}}
}

func (h *house) push(t *testing.T, p ops.Push) ops.Accepted {
	t.Helper()
	got, err := h.Deploy(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestPushDeploys(t *testing.T) {
	h := startHouse(t, newFakeSwarm(linked("pizza", 3), ops.Service{Name: "other"}))
	accepted := h.push(t, pushOf(1))
	if len(accepted.Jobs) != 1 || accepted.Jobs[0].App != "pizza" {
		t.Fatalf("accepted %+v", accepted)
	}
	got := h.final(t, accepted.Jobs[0].ID)
	if got.State != ops.Done || got.Result != "pizza runs release 1 (1111111), 3 of 3" {
		t.Errorf("got %s %q %+v", got.State, got.Result, got.Err)
	}
	var steps []string
	for _, s := range got.Steps {
		steps = append(steps, s.Name+" "+string(s.State))
	}
	if s := strings.Join(steps, ", "); s != "clone done, build done, push done, update done" {
		t.Errorf("steps: %s", s)
	}
	changes := h.swarm.changes()
	if len(changes) != 1 {
		t.Fatalf("%d writes, want image and label in one", len(changes))
	}
	c := changes[0]
	if want := "reg:5000/acme/pizza:111111111111@" + digest; c.Image != want || !c.Rollback || c.Auth == nil || c.Auth.Username != "mia" || c.Auth.Password != "canary-reg" || c.Replicas != nil {
		t.Errorf("change %+v, want image %s, with rollback and credentials, without replicas", c, want)
	}
	releases, err := h.swarm.service("pizza").Releases()
	if err != nil || len(releases) != 1 || releases[0].Number != 1 || releases[0].Image != c.Image || releases[0].By != "ada" || len(releases[0].Commit) != 40 {
		t.Errorf("releases %+v, %v", releases, err)
	}
	// What it ran before is where layers come from, as it is of the same place.
	if b := h.swarm.built[0]; b.Cache != "reg:5000/acme/pizza:old@"+digest || !b.KeepCache {
		t.Errorf("built with the cache %q, kept %v", b.Cache, b.KeepCache)
	}
	if h.source.fetched[0] != "git@git.example:acme/pizza.git@"+pushOf(1).After {
		t.Errorf("fetched %v, want the label's URL at the pushed commit", h.source.fetched)
	}
	waitFor(t, "the checkout to be removed", func() bool { h.source.mu.Lock(); defer h.source.mu.Unlock(); return h.source.removed == 1 })

	h.final(t, h.push(t, pushOf(2)).Jobs[0].ID)
	releases, _ = h.swarm.service("pizza").Releases()
	if len(releases) != 2 || releases[0].Number != 2 || releases[1].Number != 1 || h.swarm.service("pizza").Labels["other"] != "kept" {
		t.Errorf("after the second push: %+v", h.swarm.service("pizza").Labels)
	}
}

func TestPushThatDeploysNothingSaysWhy(t *testing.T) {
	unlinked := linked("pizza", 1)
	unlinked.Labels[ops.LabelBranch] = "production"
	h := startHouse(t, newFakeSwarm(unlinked))
	if got := h.push(t, pushOf(1)); len(got.Jobs) > 0 || got.Reason != "pizza is deployed from production, and the push is to main" {
		t.Errorf("another branch: %+v", got)
	}
	p := pushOf(1)
	p.RepoURLs, p.Name = []string{"https://git.example/acme/pasta"}, "acme/pasta"
	if got := h.push(t, p); len(got.Jobs) > 0 || !strings.HasPrefix(got.Reason, "no app is linked to acme/pasta") {
		t.Errorf("another repository: %+v", got)
	}
}

func TestSamePushDeploysOnce(t *testing.T) {
	h := startHouse(t, newFakeSwarm(linked("pizza", 1)))
	first := h.push(t, pushOf(1))
	if again := h.push(t, pushOf(1)); len(again.Jobs) > 0 || !again.Duplicate {
		t.Errorf("while it runs: %+v", again)
	}
	h.final(t, first.Jobs[0].ID)
	if again := h.push(t, pushOf(1)); len(again.Jobs) > 0 || !again.Duplicate {
		t.Errorf("when it is done: %+v", again)
	}
	h.Store.Client().FlushAll(context.Background())
	if again := h.push(t, pushOf(1)); len(again.Jobs) > 0 || !again.Duplicate || again.Reason != "pizza runs 1111111 already, or did" {
		t.Errorf("after a flush of Redis: %+v", again)
	}
	if n := len(h.swarm.changes()); n != 1 {
		t.Errorf("deployed %d times", n)
	}
}

func TestFailuresKeepTheVersionBefore(t *testing.T) {
	for name, tc := range map[string]struct {
		break_ func(*fakeSwarm, *fakeSource)
		says   string
		next   string
		log    string
		writes int
	}{
		"no such commit": {func(_ *fakeSwarm, s *fakeSource) { s.err = ops.Errorf(ops.Failed, "The commit is gone") }, "The commit is gone", "", "", 0},
		"the Dockerfile fails": {func(f *fakeSwarm, _ *fakeSource) {
			f.build = func(context.Context, ops.BuildRequest) error {
				return &ops.Error{Code: ops.Failed, Sentence: "The build failed: exit code 7", Log: "make: oh no"}
			}
		}, "The build failed: exit code 7", "", "make: oh no", 0},
		"the push fails": {func(f *fakeSwarm, _ *fakeSource) {
			f.push = func() error { return ops.Errorf(ops.Failed, "reg:5000 refused the push") }
		}, "reg:5000 refused the push", "", "", 0},
		"the container exits": {func(f *fakeSwarm, _ *fakeSource) {
			f.log = "panic: no cheese"
			f.rolled = crash(f, "task: non-zero exit (2)")
		}, "pizza did not come up: non-zero exit (2)", "The version before serves: 2 of 2.", "panic: no cheese", 1},
		"the update pauses": {func(f *fakeSwarm, _ *fakeSource) {
			f.rolled = func(s *ops.Service, _ ops.Change) {
				s.Update = ops.UpdateStatus{State: "paused", Message: "update paused due to failure"}
			}
		}, "pizza did not come up: update paused due to failure", "The version before serves: 2 of 2.", "", 1},
		"another hand": {func(f *fakeSwarm, _ *fakeSource) {
			f.rolled = func(s *ops.Service, _ ops.Change) { s.Image, s.Update.State = "pizza:theirs", "updating" }
		}, "pizza was changed to pizza:theirs by somebody else while this was rolling out", "", "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			swarm := newFakeSwarm(linked("pizza", 2))
			before := swarm.service("pizza")
			h := startHouse(t, swarm)
			tc.break_(swarm, h.source)
			got := h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
			if got.State != ops.Failure || got.Err.Sentence != tc.says || !strings.Contains(got.Err.Next, tc.next) || got.Err.Log != tc.log {
				t.Errorf("got %s %+v", got.State, got.Err)
			}
			if n := len(swarm.changes()); n != tc.writes {
				t.Errorf("%d writes, want %d", n, tc.writes)
			}
			if now := swarm.service("pizza"); name != "another hand" && (now.Image != before.Image || now.Labels[ops.LabelReleases] != "") {
				t.Errorf("afterwards it runs %s with releases %q", now.Image, now.Labels[ops.LabelReleases])
			}
		})
	}
}

// crash shows one failed task of the new version, then the swarm's own rollback.
func crash(f *fakeSwarm, err string) func(*ops.Service, ops.Change) {
	return func(s *ops.Service, c ops.Change) {
		s.Update = ops.UpdateStatus{State: "updating"}
		looks := 0
		f.tasks = func(s ops.Service) []ops.Task {
			all := f.spread(s)
			for i := range all {
				all[i].Image = "old"
			}
			if s.Image != c.Image {
				return f.spread(s)
			}
			if looks++; looks == 3 {
				f.rollback(s.Name)
			}
			bad := task(1, "failed", err, -1)
			bad.Image = c.Image
			return append(all, bad)
		}
	}
}

func TestNoRegistry(t *testing.T) {
	none := newFakeSwarm(linked("pizza", 1))
	none.save(ops.Registries{})
	h := startHouse(t, none)
	got := h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
	if got.State != ops.Refused || got.Err.Sentence != "There is no default registry, and the other 2 nodes could not get the image" {
		t.Errorf("three nodes: %s %+v", got.State, got.Err)
	}

	alone := newFakeSwarm(linked("pizza", 1))
	alone.nodes = alone.nodes[:1]
	alone.save(ops.Registries{})
	h = startHouse(t, alone)
	got = h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
	if got.State != ops.Done || alone.service("pizza").Image != "pizza:111111111111" {
		t.Errorf("one node: %s %+v, image %s", got.State, got.Err, alone.service("pizza").Image)
	}
}

func TestNewestPushWaitsInPlaceOfOlderOnes(t *testing.T) {
	t.Parallel()
	swarm := newFakeSwarm(linked("pizza", 1), linked("pasta", 1))
	pasta := swarm.services["pasta"]
	pasta.Labels = map[string]string{ops.LabelRepo: "https://git.example/acme/pasta"}
	open := make(chan struct{})
	var once sync.Once
	release := func() { once.Do(func() { close(open) }) }
	t.Cleanup(release)
	swarm.build = func(ctx context.Context, req ops.BuildRequest) error {
		if req.Tag == "reg:5000/acme/pizza:111111111111" {
			select {
			case <-open:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}
	h := startHouse(t, swarm)
	first := h.push(t, pushOf(1)).Jobs[0].ID
	h.wait(t, func(s ops.Status) bool { return s.ID == first && len(s.Steps) == 2 })
	second := h.push(t, pushOf(2)).Jobs[0].ID
	h.wait(t, func(s ops.Status) bool { return s.ID == second && s.State == ops.Waiting })
	third := h.push(t, pushOf(3)).Jobs[0].ID

	// Another app is not held up.
	other := pushOf(4)
	other.RepoURLs = []string{"https://git.example/acme/pasta.git"}
	if got := h.final(t, h.push(t, other).Jobs[0].ID); got.State != ops.Done {
		t.Errorf("the other app: %s %+v", got.State, got.Err)
	}

	if got := h.final(t, second); got.State != ops.Superseded {
		t.Errorf("the older one that waits: %s %+v", got.State, got.Err)
	}
	release()
	if got := h.final(t, first); got.State != ops.Done {
		t.Errorf("the running one: %s %+v", got.State, got.Err)
	}
	if got := h.final(t, third); got.State != ops.Done || got.Result != "pizza runs release 2 (3333333), 1 of 1" {
		t.Errorf("the newest: %s %q %+v", got.State, got.Result, got.Err)
	}
}

func TestDeployGoesOnAfterARestart(t *testing.T) {
	redis := kept(t)
	swarm := newFakeSwarm(linked("pizza", 2))
	rolling := true
	swarm.rolled = func(s *ops.Service, _ ops.Change) {
		if rolling {
			s.Update = ops.UpdateStatus{State: "updating"}
		}
	}
	first := startOn(t, redis, swarm)
	id := first.push(t, pushOf(1)).Jobs[0].ID
	first.wait(t, func(s ops.Status) bool { return len(s.Steps) == 4 && s.Replicas != nil })
	first.Stop()

	second := startOn(t, redis, swarm)
	second.wait(t, func(s ops.Status) bool { return s.Replicas != nil })
	swarm.with(func() { swarm.services["pizza"].Update.State = "completed" })
	got := second.final(t, id)
	if got.State != ops.Done || got.Result != "pizza runs release 1 (1111111), 2 of 2" {
		t.Errorf("got %s %q %+v", got.State, got.Result, got.Err)
	}
	if len(swarm.built) != 1 || len(swarm.changes()) != 1 {
		t.Errorf("built %d times and written %d times, want once each", len(swarm.built), len(swarm.changes()))
	}
}

func TestUpdateThatHangsIsTakenBack(t *testing.T) {
	swarm := newFakeSwarm(linked("pizza", 1))
	swarm.rolled = func(s *ops.Service, c ops.Change) {
		s.Update = ops.UpdateStatus{State: "updating"}
		swarm.tasks = func(s ops.Service) []ops.Task {
			if s.Image != c.Image {
				return swarm.spread(s)
			}
			return []ops.Task{task(1, "starting", "", 0)}
		}
	}
	start := time.Now()
	h := startHouse(t, swarm, func(r *ops.Runner) {
		r.Env.Now = func() time.Time { return start.Add(20 * time.Since(start)) }
	})
	got := h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
	if got.State != ops.Failure || got.Err.Sentence != "pizza did not come up: it was not running everywhere after 10s" {
		t.Errorf("got %s %+v", got.State, got.Err)
	}
	if swarm.service("pizza").Image != linked("pizza", 1).Image {
		t.Error("the new version is still there")
	}
}

// TestTheWayBackTakesLong: it has a deadline of its own, and what is said then is so.
func TestTheWayBackTakesLong(t *testing.T) {
	old := linked("pizza", 1).Image
	for name, tc := range map[string]struct {
		rolled func(swarm *fakeSwarm, s *ops.Service) // what the swarm does by itself
		next   string
	}{
		"the swarm's own": {func(swarm *fakeSwarm, s *ops.Service) {
			s.Image, s.Update.State, s.Update.Message = old, "rollback_started", "update rolled back due to failure"
			swarm.previous = nil // swarmkit has none any more
		}, "The version before is back, with 0 of 1 running: see `docker service ps pizza`."},
		"to the same image": {func(_ *fakeSwarm, s *ops.Service) {
			s.Update.State = "rollback_completed" // another hand's label is the version before
		}, "Going back did not bring the version before, so see `docker service ps pizza`; `/rollback pizza` goes to the release before."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			swarm := newFakeSwarm(linked("pizza", 1))
			swarm.rolled = func(s *ops.Service, _ ops.Change) {
				tc.rolled(swarm, s)
				swarm.tasks = func(ops.Service) []ops.Task { return []ops.Task{task(1, "failed", "task: non-zero exit (3)", 0)} }
			}
			start := time.Now()
			h := startHouse(t, swarm, func(r *ops.Runner) {
				r.Env.Now = func() time.Time { return start.Add(20 * time.Since(start)) }
			})
			got := h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
			if got.State != ops.Failure || got.Err.Next != tc.next {
				t.Errorf("%s %s", got.State, said(got))
			}
		})
	}
}

func TestCaptainDefinition(t *testing.T) {
	svc := linked("pizza", 1)
	svc.Labels["waggle.build-arg.OVEN"], svc.Labels[ops.LabelTarget], svc.Labels[ops.LabelPlatform] = "hot", "prod", "linux/amd64"
	svc.Env = []ops.EnvVar{{Name: "PASSWORD", Value: "canary"}}
	h := startHouse(t, newFakeSwarm(svc))
	h.source.files = map[string]string{"captain-definition": `{"schemaVersion": 2, "dockerfileLines": ["FROM busybox"]}`}
	if got := h.final(t, h.push(t, pushOf(1)).Jobs[0].ID); got.State != ops.Done {
		t.Fatalf("%s %s", got.State, said(got))
	}
	if b := h.swarm.built[0]; b.Text != "FROM busybox\n" || len(b.Args) != 1 || b.Args["OVEN"] != "hot" || b.Target != "prod" || b.Platform != "linux/amd64" {
		t.Errorf("built %+v", b)
	}
	h.source.files = map[string]string{"captain-definition": `{"schemaVersion": 2, "imageName": "nginx:1.27"}`}
	got := h.final(t, h.push(t, pushOf(2)).Jobs[0].ID)
	if got.State != ops.Done || h.swarm.service("pizza").Image != "nginx:1.27@"+digest || len(h.swarm.built) != 1 {
		t.Errorf("%s %s; it runs %s", got.State, said(got), h.swarm.service("pizza").Image)
	}
	got = h.final(t, h.push(t, pushOf(4)).Jobs[0].ID) // names the same image
	var numbers []int
	svc = h.swarm.service("pizza")
	releases, err := svc.Releases()
	for _, r := range releases {
		numbers = append(numbers, r.Number)
	}
	if got.State != ops.Done || err != nil || fmt.Sprint(numbers) != "[3 2 1]" || got.Plan.Diffs[1].String() != "release 2 → 3" {
		t.Errorf("%s %s; releases %v, %v", got.State, said(got), numbers, err)
	}
	h.source.files = map[string]string{"captain-definition": `{"schemaVersion": 2, "templateId": "php"}`}
	if got := h.final(t, h.push(t, pushOf(5)).Jobs[0].ID); got.State != ops.Failure || !strings.Contains(said(got), "templateId php") {
		t.Errorf("%s %s", got.State, said(got))
	}
}

func TestBuildLogIsKeptAndMasked(t *testing.T) {
	svc := linked("pizza", 1)
	svc.Env = []ops.EnvVar{{Name: "DB_PASSWORD", Value: "canary-env"}}
	h := startHouse(t, newFakeSwarm(svc))
	h.swarm.lineOf = func(log func(string)) {
		log("#1 the first")
		log("#2 mia:canary-reg and canary-env")
	}
	h.swarm.build = func(context.Context, ops.BuildRequest) error {
		return &ops.Error{Code: ops.Failed, Sentence: "The build failed: exit code 7", Log: "the end, canary-env"}
	}
	got := h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
	if want := "#1 the first\n#2 mia:<password of reg:5000> and <DB_PASSWORD>"; got.Err.Whole != want || got.Err.Log != "the end, <DB_PASSWORD>" {
		t.Errorf("the log is %q, its end %q; want %q", got.Err.Whole, got.Err.Log, want)
	}
}

// statuses is a CommitStatuses that refuses everything.
type statuses struct {
	mu  sync.Mutex
	all []string
}

func (s *statuses) Report(_ context.Context, c ops.CommitStatus) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, strings.Join([]string{c.Provider, c.Repo, short(c.Commit), c.App, c.State, c.Text}, " "))
	return ops.Errorf(ops.Forbidden, "403")
}

func short(commit string) string { return commit[:7] }

func TestForgesAreToldHowItGoes(t *testing.T) {
	forge := new(statuses)
	h := startHouse(t, newFakeSwarm(linked("pizza", 1)), func(r *ops.Runner) { r.Statuses = forge })
	p := pushOf(1)
	p.Provider = "gitea"
	h.final(t, h.push(t, p).Jobs[0].ID)
	h.swarm.build = func(context.Context, ops.BuildRequest) error { return ops.Errorf(ops.Failed, "The oven is cold") }
	p = pushOf(2)
	p.Provider = "gitea"
	h.final(t, h.push(t, p).Jobs[0].ID)
	const about = "gitea git@git.example:acme/pizza.git "
	want := []string{about + "1111111 pizza pending Waggle builds and deploys it", about + "1111111 pizza success pizza runs release 1 (1111111), 1 of 1",
		about + "2222222 pizza pending Waggle builds and deploys it", about + "2222222 pizza failure The oven is cold"}
	waitFor(t, "all to be told", func() bool { forge.mu.Lock(); defer forge.mu.Unlock(); return len(forge.all) == 4 })
	for i := range want {
		if forge.all[i] != want[i] {
			t.Errorf("told %q, want %q", forge.all[i], want[i])
		}
	}
}

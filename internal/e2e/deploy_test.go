package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/internal/forge"
	"waggle/internal/workspace"
)

// linked makes a repository and a service that follows it.
func (b *bench) linked(name string, replicas int, args ...string) *forge.Repo {
	b.Helper()
	repo, err := b.forge.Create(b.ctx, "acme/"+name, forge.RepoOptions{})
	b.must(err)
	b.service(name, append([]string{"--replicas", fmt.Sprint(replicas), "--label", "waggle.repo=" + repo.CloneURL()}, args...)...)
	return repo
}

// dockerfile is an app that says its version.
func (b *bench) dockerfile(version string) map[string]string {
	return map[string]string{"Dockerfile": fmt.Sprintf(`FROM %s/busybox:1
COPY version /version
RUN echo "baking $(cat /version)"
CMD ["sh", "-c", "echo serving $(cat /version); exec sleep 100000"]
`, b.lab.Private.Addr), "version": version}
}

func (b *bench) push(repo *forge.Repo, files map[string]string, message string) string {
	b.Helper()
	sha, err := repo.Push(b.ctx, files, message)
	b.must(err)
	return sha
}

type release struct {
	Number int
	Image  string
	Commit string
	By     string
}

func (b *bench) releases(name string) []release {
	b.Helper()
	var out []release
	label := b.docker("service", "inspect", name, "--format", `{{index .Spec.Labels "waggle.releases"}}`)
	if label != "" {
		b.must(json.Unmarshal([]byte(label), &out))
	}
	return out
}

func (b *bench) image(name string) string {
	b.Helper()
	return b.docker("service", "inspect", name, "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}")
}

func TestPushToDeploy(t *testing.T) {
	b := start(t)
	repo := b.linked("pizza", 1)
	sha := b.push(repo, b.dockerfile("1"), "Bake a pizza")
	m := b.sees(ada, "pizza runs release 1 ("+sha[:7]+"), 1 of 1")
	contains(t, "the message", m.Plain(), "✓ clone", "✓ build", "✓ push", "✓ update", "Bake a pizza")
	contains(t, "what it said before", history(m), "Bake a pizza”")

	image := b.image("pizza")
	if !strings.HasPrefix(image, b.lab.Private.Addr+"/acme/pizza:"+sha[:12]+"@sha256:") {
		t.Errorf("it runs %s, want the pushed digest", image)
	}
	if r := b.releases("pizza"); len(r) != 1 || r[0].Number != 1 || r[0].Image != image || r[0].Commit != sha {
		t.Errorf("releases %+v", r)
	}

	b.say(ada, "/scale pizza 6")
	m = b.sees(ada, "pizza runs 6 of 6 (was 1)")
	contains(t, "the nodes", m.Plain(), "node-1 2", "node-2 2", "node-3 2") // they pulled with credentials

	sha = b.push(repo, b.dockerfile("2"), "Add olives")
	b.sees(ada, "pizza runs release 2 ("+sha[:7]+"), 6 of 6")
	if r := b.releases("pizza"); len(r) != 2 || r[0].Number != 2 || r[0].Commit != sha {
		t.Errorf("releases %+v", r)
	}
	out := b.docker("service", "ps", "pizza", "--filter", "desired-state=running", "--format", "{{.Image}}")
	if n := strings.Count(out, sha[:12]); n != 6 {
		t.Errorf("%d tasks of 6 run the new image:\n%s", n, out)
	}
	if r := b.docker("service", "inspect", "pizza", "--format", "{{.Spec.Mode.Replicated.Replicas}}"); r != "6" {
		t.Errorf("a deploy has set the replicas to %s", r)
	}
	if key := b.strayKeys(); key != "" {
		t.Errorf("the Redis key %s is not under waggle:", key)
	}
}

// strayKeys returns a key of Redis that is not under waggle:, or "".
func (b *bench) strayKeys() string {
	b.Helper()
	for _, key := range b.redisKeys() {
		if !strings.HasPrefix(key, "waggle:") {
			return key
		}
	}
	return ""
}

func TestSamePushIsDeployedOnce(t *testing.T) {
	b := start(t)
	repo := b.linked("pizza", 1, brief)
	b.push(repo, b.dockerfile("1"), "Bake a pizza")
	deliveries, err := b.forge.Wait(b.ctx, 1)
	b.must(err)
	if d := deliveries[0]; d.Status != 202 || !strings.Contains(d.Response, `"app":"pizza"`) {
		t.Fatalf("answered %d %s", d.Status, d.Response)
	}
	b.sees(ada, "pizza runs release 1")
	again, err := b.forge.Redeliver(b.ctx, deliveries[0])
	b.must(err)
	forged, err := b.forge.Replay(b.ctx, deliveries[0])
	b.must(err)
	for name, d := range map[string]forge.Delivery{"the same delivery id": again, "another delivery id": forged} {
		if d.Status != 200 || !strings.Contains(d.Response, `"duplicate"`) {
			t.Errorf("under %s: %d %s", name, d.Status, d.Response)
		}
	}
	if r := b.releases("pizza"); len(r) != 1 {
		t.Errorf("%d releases", len(r))
	}
}

func TestFailedDeploysLeaveTheVersionBefore(t *testing.T) {
	b := start(t, map[string]string{"WAGGLE_BUILD_TIMEOUT": "30s"}) // a registry that is away is waited for until then
	repo := b.linked("pizza", 2)
	b.push(repo, b.dockerfile("1"), "Bake a pizza")
	b.sees(ada, "pizza runs release 1")
	good := b.image("pizza")

	with := func(replace ...string) map[string]string {
		files := b.dockerfile("1")
		files["Dockerfile"] = strings.NewReplacer(replace...).Replace(files["Dockerfile"])
		return files
	}
	for _, tc := range []struct {
		name  string
		files map[string]string
		first string
		says  []string
		least int // replicas of the old version that run at any moment
	}{
		{"failing Dockerfile", with("RUN echo", "RUN echo the oven is cold >&2; exit 7; echo"), "The build failed", []string{"the oven is cold", "✗ build"}, 2},
		{"container that exits", with("exec sleep 100000", "echo no cheese >&2; exit 3"), "pizza did not come up: non-zero exit (3)",
			// Without a health check the swarm takes it for good while it runs, so
			// how many of the old ones run in between is the swarm's matter.
			[]string{"no cheese", "The version before serves: 2 of 2"}, 0},
		{"health check that never passes", with("CMD", "HEALTHCHECK --interval=1s --retries=2 --timeout=1s CMD false\nCMD"), "pizza did not come up: non-zero exit",
			[]string{"unhealthy", "The version before serves: 2 of 2"}, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			watch := b.watchTasks("pizza", good)
			sha := b.push(repo, tc.files, tc.name)
			m := b.seesAbout(sha[:7], tc.first)
			contains(t, "the message", m.Plain(), tc.says...)
			if least, shown := watch(); least < tc.least {
				t.Errorf("only %d replicas of the old version ran at some moment, want %d:\n%s", least, tc.least, shown)
			}
			if now := b.image("pizza"); now != good {
				t.Errorf("it runs %s", now)
			}
			if r := b.releases("pizza"); len(r) != 1 {
				t.Errorf("releases %+v", r)
			}
		})
	}

	t.Run("failing push", func(t *testing.T) {
		b.lab.Private.Stop()
		restarted := false
		restart := func() {
			if !restarted {
				restarted = true
				b.must(b.lab.Private.Start(b.ctx))
			}
		}
		t.Cleanup(restart)
		files := b.dockerfile("5")
		files["Dockerfile"] = "FROM scratch\nCOPY version /\n" // needs no registry to build
		b.push(repo, files, "failing push")
		m := b.seesWithin(120*time.Second, ada, b.lab.Private.Addr)
		contains(t, "the message", m.Plain(), "❌", "✗ push")
		restart()
		if now := b.image("pizza"); now != good {
			t.Errorf("it runs %s", now)
		}
	})
	if n := b.running("pizza"); n != 2 {
		t.Errorf("%d tasks run", n)
	}
}

// watchTasks looks at the tasks of a service all the time, until the returned
// function is called: it says how few ran an image at the worst moment, and what
// Docker showed then.
func (b *bench) watchTasks(name, image string) func() (int, string) {
	type moment struct {
		running int
		shown   string
	}
	stop, worst := make(chan struct{}), make(chan moment)
	tag, _, _ := strings.Cut(image, "@")
	go func() {
		low := moment{running: 1 << 30}
		for {
			// Not by desired state: a task that is to stop serves until it does.
			out, err := b.lab.Manager().Docker(b.ctx, "service", "ps", name, "--no-trunc", "--format", "{{.Image}} {{.Name}} {{.DesiredState}} {{.CurrentState}} {{.Error}}")
			if err == nil {
				n := 0
				for line := range strings.Lines(out) {
					if strings.HasPrefix(line, tag) && strings.Contains(line, " Running ") {
						n++
					}
				}
				if n < low.running {
					low = moment{n, out}
				}
			}
			select {
			case <-stop:
				worst <- low
				return
			default:
			}
		}
	}()
	return func() (int, string) { close(stop); w := <-worst; return w.running, w.shown }
}

// slow is an app whose build takes about n seconds.
func (b *bench) slow(version string, n int) map[string]string {
	files := b.dockerfile(version)
	files["Dockerfile"] = strings.Replace(files["Dockerfile"], "RUN echo", fmt.Sprintf("RUN sleep %d; echo", n), 1)
	return files
}

func (b *bench) building(app, title string) workspace.Message {
	b.Helper()
	ctx := b.ctx
	m, err := b.ws.Wait(ctx, channel, ada, func(m workspace.Message) bool {
		return strings.Contains(m.Plain(), title) && strings.Contains(m.Plain(), "▸ build")
	})
	b.must(err)
	return m
}

// TestKilledAtAnyStep ends Waggle like a crash in the middle of each step of a
// deploy. Started again, it finishes the deploy in the same message.
func TestKilledAtAnyStep(t *testing.T) {
	b := start(t)
	repo := b.linked("pizza", 1, brief, "--update-order", "start-first")
	logged := func(line string) func() bool {
		seen := b.waggle.Log()
		return func() bool { return strings.Contains(b.waggle.Log()[len(seen):], line) }
	}
	steps := []struct {
		name  string
		begun func() func() bool
	}{
		{"clone", func() func() bool { return logged("msg=git verb=init") }},
		{"build", func() func() bool { return logged("] RUN sleep") }},
		{"push", func() func() bool { return logged("The push refers to") }},
		{"update", func() func() bool {
			before := b.image("pizza")
			return func() bool { return b.image("pizza") != before }
		}},
	}
	for i, step := range steps {
		title := "Killed in " + step.name
		begun, release := step.begun(), func() {}
		if step.name == "clone" {
			release = b.forge.HoldFetches()
		}
		files := b.dockerfile(fmt.Sprint(i))
		if step.name == "build" {
			files = b.slow(fmt.Sprint(i), 3)
		}
		sha := b.push(repo, files, title)
		m, err := b.ws.Wait(b.ctx, channel, ada, func(m workspace.Message) bool { return strings.Contains(m.Plain(), title) })
		b.must(err)
		// Who dies between Slack's answer and the note of it cannot find the message again.
		b.eventually(step.name+" has begun", 60*time.Second, func() bool { return begun() && strings.Contains(b.redisValues(), m.TS) })
		b.waggle.Kill()
		release()
		b.serve()
		m = b.seesWithin(60*time.Second, ada, fmt.Sprintf("pizza runs release %d (%s)", i+1, sha[:7]))
		if n := len(b.ws.Messages(channel, ada)); n != i+1 {
			t.Errorf("%s: %d messages, want one a deploy:\n%s", step.name, n, b.ws.Screen(channel, ada))
		}
		contains(t, "the message", history(m), title)
		if r := b.releases("pizza"); len(r) != i+1 {
			t.Errorf("%s: releases %+v", step.name, r)
		}
	}
}

func TestAppsSideBySideNewestFirst(t *testing.T) {
	b := start(t)
	pizza, pasta := b.linked("pizza", 1, brief), b.linked("pasta", 1, brief)
	first := b.push(pizza, b.slow("1", 15), "First")
	b.building("pizza", "First")
	second := b.push(pizza, b.dockerfile("2"), "Second")
	b.sees(ada, "pizza "+second[:7])
	third := b.push(pizza, b.dockerfile("3"), "Third")
	fast := b.push(pasta, b.dockerfile("1"), "Pasta")

	m, err := b.ws.Wait(b.ctx, channel, ada, func(m workspace.Message) bool {
		return strings.Contains(m.Plain(), fast[:7]) && strings.Contains(m.Plain(), "✓ build")
	})
	b.must(err)
	for _, other := range b.ws.Messages(channel, ada) {
		if other.TS != m.TS && strings.Contains(other.Plain(), "✓ build") {
			t.Error("pasta waited for pizza")
		}
	}
	b.sees(ada, "pasta runs release 1 ("+fast[:7]+")")
	b.sees(ada, "pizza runs release 1 ("+first[:7]+")")
	b.sees(ada, "pizza runs release 2 ("+third[:7]+")")
	b.sees(ada, "Superseded by a newer push")
	for _, r := range b.releases("pizza") {
		if r.Commit == second {
			t.Error("the push that was replaced was deployed")
		}
	}
}

// TestManyPushesAtOnce pushes ten times to three apps as fast as Git goes. The
// forge delivers side by side, in any order; whatever comes of those in between,
// each app ends where its branch is, and none is deployed twice.
func TestManyPushesAtOnce(t *testing.T) {
	b := start(t)
	apps := []string{"pizza", "pasta", "salad"}
	var pushing sync.WaitGroup
	heads := make([]string, len(apps))
	for i, app := range apps {
		repo := b.linked(app, 1, brief)
		pushing.Go(func() {
			for n := range []int{4, 3, 3}[i] {
				sha, err := repo.Push(b.ctx, b.dockerfile(fmt.Sprint(n)), fmt.Sprintf("%s, number %d", app, n))
				if err != nil {
					t.Error(err)
				}
				heads[i] = sha
			}
		})
	}
	pushing.Wait()
	deliveries, err := b.forge.Wait(b.ctx, 10)
	b.must(err)
	for i, app := range apps {
		b.sees(ada, app+" runs release")
		b.eventually(app+" runs its newest push", 90*time.Second, func() bool {
			all := b.releases(app)
			return len(all) > 0 && all[0].Commit == heads[i]
		})
		seen := map[string]bool{}
		for _, r := range b.releases(app) {
			if seen[r.Commit] {
				t.Errorf("%s was deployed to %s twice", r.Commit, app)
			}
			seen[r.Commit] = true
		}
	}
	for _, d := range deliveries {
		again, err := b.forge.Replay(b.ctx, d)
		b.must(err)
		if again.Status != 200 {
			t.Errorf("delivered again: %d %s", again.Status, again.Response)
		}
	}
}

// TestForgesByTheirRoutes: each has a route of its own as soon as it has a secret,
// and a push that comes by two of them is one.
func TestForgesByTheirRoutes(t *testing.T) {
	secrets := map[string]string{}
	providers := []string{"gitlab", "bitbucket", "bitbucket-server", "gitea", "gogs", "azure"}
	for _, p := range providers {
		secrets["WAGGLE_WEBHOOKS_"+strings.ToUpper(strings.ReplaceAll(p, "-", "_"))+"_SECRET"] = webhookSecret + "\n" + "old-" + webhookSecret
	}
	post := func(b *bench, provider, body string, header map[string]string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(b.ctx, http.MethodPost, b.waggle.URL+"/webhooks/"+provider, strings.NewReader(body))
		b.must(err)
		req.Header.Set("Content-Type", "application/json")
		for k, v := range header {
			req.Header.Set(k, v)
		}
		resp, err := http.DefaultClient.Do(req)
		b.must(err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		b.must(err)
		return resp.StatusCode, string(text)
	}
	b := start(t, secrets)
	for _, p := range providers {
		if code, text := post(b, p, "{}", nil); code != http.StatusUnauthorized {
			t.Errorf("%s without a signature: %d %s", p, code, text)
		}
	}
	repo := b.linked("pizza", 1, brief)
	sha := b.push(repo, b.dockerfile("1"), "Bake a pizza")
	b.sees(ada, "pizza runs release 1 ("+sha[:7]+")")
	push := fmt.Sprintf(`{"object_kind":"push","ref":"refs/heads/main","before":%q,"after":%q,"user_username":"ada","commits":[],"total_commits_count":1,"project":{"git_http_url":%q,"path_with_namespace":"acme/pizza","default_branch":"main"}}`,
		strings.Repeat("0", 40), sha, repo.CloneURL())
	for _, token := range []string{webhookSecret, "old-" + webhookSecret} {
		code, text := post(b, "gitlab", push, map[string]string{"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": token})
		if code != http.StatusOK || !strings.Contains(text, `"duplicate"`) {
			t.Errorf("the same push by another hook: %d %s", code, text)
		}
	}
	if r := b.releases("pizza"); len(r) != 1 {
		t.Errorf("releases %+v", r)
	}
}

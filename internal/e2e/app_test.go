package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"waggle/internal/forge"
)

// chatty is an app that tells of itself and ends when it is told to.
func (b *bench) chatty(version string) map[string]string {
	return map[string]string{"Dockerfile": fmt.Sprintf(`FROM %s/busybox:1
CMD ["sh", "-c", "trap exit TERM; echo serving %s with oven $OVEN and token $API_TOKEN; while :; do sleep 0.2; done"]
`, b.lab.Private.Addr, version)}
}

func (b *bench) inspect(name, format string) string {
	b.Helper()
	return b.docker("service", "inspect", name, "--format", format)
}

// gone removes a service with the test, if it is still there.
func (b *bench) gone(name string) {
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_, _ = b.lab.Manager().Docker(ctx, "service", "rm", name) // the test may have
	})
}

// TestAppLife goes from a repository to a running, scaled, changed and removed app.
func TestAppLife(t *testing.T) {
	b := start(t)
	repo, err := b.forge.Create(b.ctx, "acme/pizza", forge.RepoOptions{})
	b.must(err)
	b.gone("pizza")
	b.say(ada, "/app create pizza "+repo.CloneURL()+" main")
	b.sees(ada, "pizza waits for its first push")
	if got := b.inspect("pizza", "{{.Spec.Mode.Replicated.Replicas}}"); got != "0" {
		t.Errorf("it has %s replicas before its first push", got)
	}
	b.docker("service", "update", "--detach", brief, "pizza")
	b.push(repo, b.chatty("1"), "Bake")
	b.sees(ada, "pizza runs release 1")
	b.say(ada, "/scale pizza=3")
	b.sees(ada, "pizza runs 3 of 3 (was 1)")

	// A label restarts nothing, and touches nothing else.
	before, spec := b.tasks("pizza"), b.inspect("pizza", "{{json .Spec.TaskTemplate}} {{json .Spec.EndpointSpec}} {{json .Spec.UpdateConfig}} {{.Spec.Mode.Replicated.Replicas}}")
	b.say(ada, "/app set pizza channel="+channel+" paths=src")
	b.sees(ada, "channel, paths of pizza are set")
	b.say(ada, "/app set pizza paths=none")
	b.sees(ada, "paths of pizza is set")
	b.say(ada, "/app unlink pizza")
	b.sees(ada, "pizza is not deployed by pushes any more")
	b.say(ada, "/app link pizza "+repo.CloneURL()+" main")
	b.sees(ada, "deploys pizza")
	if now := b.tasks("pizza"); now != before {
		t.Errorf("tasks were restarted: %s, before %s", now, before)
	}
	if now := b.inspect("pizza", "{{json .Spec.TaskTemplate}} {{json .Spec.EndpointSpec}} {{json .Spec.UpdateConfig}} {{.Spec.Mode.Replicated.Replicas}}"); now != spec {
		t.Errorf("more than labels changed:\n%s\nbefore\n%s", now, spec)
	}

	// A limit restarts the tasks, and touches only its field.
	image := b.image("pizza")
	b.say(ada, "/app set pizza limit-memory=64m")
	b.sees(ada, "limit-memory of pizza is set, 3 of 3 run with it")
	if got := b.inspect("pizza", "{{.Spec.TaskTemplate.Resources.Limits.MemoryBytes}} {{.Spec.TaskTemplate.Resources.Limits.NanoCPUs}} {{.Spec.Mode.Replicated.Replicas}}"); got != "67108864 0 3" || b.image("pizza") != image {
		t.Errorf("limits, replicas: %s, image %s", got, b.image("pizza"))
	}

	// Variables are hidden, secrets are the swarm's.
	b.say(ada, "/app env pizza set OVEN=hot API_TOKEN=canary-token-77")
	b.sees(ada, "API_TOKEN, OVEN of pizza changed, 3 of 3 run with it")
	b.fill(ada, b.form(ada, "/app env pizza secret DB_PASSWORD"), map[string]string{"value": "canary-db-5d"})
	b.sees(ada, "DB_PASSWORD of pizza changed, 3 of 3 run with it")
	b.say(ada, "/app env pizza")
	contains(t, "the list", b.ws.Screen(channel, ada), "OVEN", "hidden", "/run/secrets/DB_PASSWORD")
	if env := b.inspect("pizza", "{{.Spec.TaskTemplate.ContainerSpec.Env}}"); !strings.Contains(env, "OVEN=hot") || !strings.Contains(env, "DB_PASSWORD_FILE=/run/secrets/DB_PASSWORD") || strings.Contains(env, "canary-db") {
		t.Errorf("the environment is %s", env)
	}

	// The logs come from all nodes, and tell no secret.
	b.eventually("three lines of log", 20*time.Second, func() bool {
		b.say(linus, "/app logs pizza 20")
		return strings.Contains(b.ws.Screen(channel, linus), "The last 3 lines of pizza") || strings.Contains(b.ws.Screen(channel, linus), "serving 1 with oven hot")
	})
	screen := b.ws.Screen(channel, linus)
	contains(t, "the log", screen, "serving 1 with oven hot and token <API_TOKEN>", "@node-")
	b.say(linus, "/app show pizza")
	b.sees(linus, "pizza runs 3/3, release 1")
	b.say(linus, "/swarm")
	b.sees(linus, "3 of 3 nodes ready, 1 of 1 manager reachable")
	for _, secret := range []string{"canary-token-77", "canary-db-5d"} {
		for where, text := range map[string]string{"messages": b.ws.Screen(channel, ada) + b.ws.Screen(channel, linus), "Redis": b.redisValues(), "the log": b.waggle.Log()} {
			if strings.Contains(text, secret) {
				t.Errorf("%s is in %s", secret, where)
			}
		}
	}

	// With a health check that fails, the change is taken back.
	b.say(ada, `/app set pizza health="exit 1" health-interval=1s health-retries=1`)
	b.sees(ada, "pizza did not come up")
	if got := b.inspect("pizza", "{{json .Spec.TaskTemplate.ContainerSpec.Healthcheck}}"); got != "null" {
		t.Errorf("the health check is %s", got)
	}
	b.eventually("three run again", 30*time.Second, func() bool { return b.running("pizza") == 3 })

	if strings.Contains(b.ws.Screen(channel, ada), "canary-token-77") {
		t.Error("the log of the failed task tells the token")
	}
	b.say(ada, "/app remove pizza")
	m := b.seesAbout("it removes pizza", "waits for an approval")
	contains(t, "the plan", m.Plain(), "its images stay in the registry", "1 secret of its own is removed")
	b.click(grace, m, "approve")
	b.sees(ada, "pizza is removed")
	if out := b.docker("secret", "ls", "--filter", "name=pizza.", "--quiet"); out != "" {
		t.Errorf("its secret is still there: %s", out)
	}
}

// TestPersistentApp is made by the form, stays on its node, and is not scaled
// without an approval.
func TestPersistentApp(t *testing.T) {
	b := start(t)
	b.gone("db")
	b.fill(ada, b.form(ada, "/app create db"), map[string]string{"image": b.lab.BaseImage, "replicas": "1", "volumes": "db-data:/data", "node": "node-2", "memory": "64m", "env": "MODE=test"})
	m := b.sees(ada, "db runs 1 of 1")
	contains(t, "the message", m.Plain(), "node-2 1")
	if got := b.docker("service", "ps", "db", "--filter", "desired-state=running", "--format", "{{.Node}}"); got != "node-2" {
		t.Errorf("it runs on %s", got)
	}
	if got := b.inspect("db", "{{.Spec.UpdateConfig.Order}} {{len .Spec.TaskTemplate.Placement.Constraints}} {{.Spec.TaskTemplate.Resources.Limits.MemoryBytes}}"); got != "stop-first 1 67108864" {
		t.Errorf("order, constraints, memory: %s", got)
	}
	b.say(ada, "/scale db 2")
	waits := b.sees(grace, "db: replicas 1 → 2 waits for an approval")
	contains(t, "the plan", waits.Plain(), "persistent data, which its replicas would share")
	b.say(ada, "/app set db constraints=none")
	b.sees(ada, "constraints cannot be set: its data is on node-2")
	b.say(ada, "/node drain node-2 --dry-run")
	b.seesAbout("db has no other place and stays down", "availability active → drain")

	b.say(ada, "/app remove db --volumes db-data")
	b.approve("volume db-data")
	b.sees(ada, "db is removed; what is left: the volume db-data on node-2 (it was joined by hand")
	b.eventually("the volume is free on its node", 20*time.Second, func() bool {
		_, err := b.lab.Nodes[1].Docker(b.ctx, "volume", "rm", "db-data")
		return err == nil
	})
}

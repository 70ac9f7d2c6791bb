package e2e

import (
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"waggle/internal/lab"
	"waggle/internal/workspace"
)

// spec is all that `docker service inspect` shows of what a service is to be.
func (b *bench) spec(name string) map[string]any {
	b.Helper()
	var out map[string]any
	b.must(json.Unmarshal([]byte(b.inspect(name, "{{json .Spec}}")), &out))
	return out
}

// differ lists where two specs differ: Labels.mine, EndpointSpec.Ports. Lists are
// one value.
func differ(before, after map[string]any, at string) []string {
	var out []string
	keys := map[string]any{}
	maps.Copy(keys, before)
	maps.Copy(keys, after)
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		x, y := before[k], after[k]
		a, _ := x.(map[string]any)
		b, _ := y.(map[string]any)
		switch {
		case (a != nil || x == nil) && (b != nil || y == nil):
			out = append(out, differ(a, b, at+k+".")...)
		case !reflect.DeepEqual(x, y):
			out = append(out, at+k)
		}
	}
	return out
}

// next waits for a message to ada that is newer than all there were at seen.
func (b *bench) next(seen, first string) workspace.Message {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 90*time.Second)
	defer cancel()
	m, err := b.ws.Wait(ctx, channel, ada, func(m workspace.Message) bool {
		line, _, _ := strings.Cut(strings.ReplaceAll(m.Plain(), "*", ""), "\n")
		return m.TS > seen && strings.Contains(line, first)
	})
	b.must(err)
	return m
}

func (b *bench) latest() string {
	if all := b.ws.Messages(channel, ada); len(all) > 0 {
		return all[len(all)-1].TS
	}
	return ""
}

// planned is what a line would do.
func (b *bench) planned(line string) string {
	b.Helper()
	seen := b.latest()
	b.say(ada, line+" --dry-run")
	return b.next(seen, "(nothing was changed)").Plain()
}

// touches types a line, waits for its result, and asserts that the service's spec
// differs in these places only, and in none by the plan, which it returns. Kept says
// that no task may be restarted.
func (b *bench) touches(app, line, result string, kept bool, places ...string) (plan string) {
	b.Helper()
	before, tasks := b.spec(app), b.tasks(app)
	plan = b.planned(line)
	if got := differ(before, b.spec(app), ""); len(got) > 0 {
		b.Errorf("the plan of %s touched %q", line, got)
	}
	seen := b.latest()
	b.say(ada, line)
	if gate := "would deploy without an approval"; strings.Contains(plan, gate) {
		b.approve(gate)
	}
	b.next(seen, result)
	if got := differ(before, b.spec(app), ""); !slices.Equal(got, places) {
		b.Errorf("%s touched %q, want %q", line, got, places)
	}
	if now := b.tasks(app); (now == tasks) != kept {
		b.Errorf("%s: tasks %s, before %s", line, strings.Fields(now), strings.Fields(tasks))
	}
	return plan
}

// TestSettingsTouchOnlyTheirField sets one thing after the other on a service of
// plain docker that has much of its own.
func TestSettingsTouchOnlyTheirField(t *testing.T) {
	b := start(t)
	b.service("other", "--endpoint-mode", "vip", "--publish", "18099:80")
	b.service("plain")
	b.service("pizza", "--replicas", "2", "--endpoint-mode", "vip", brief, "--update-parallelism", "2", "--label", "mine=1",
		"--container-label", "theirs=2", "--env", "MODE=x", "--hostname", "pizza", "--dns", "10.0.0.1", "--ulimit", "nofile=1000:1000", "--restart-delay", "1s",
		"--log-driver", "json-file", "--log-opt", "max-size=1m", "--rollback-parallelism", "3", "--secret", "source="+b.madeSecret("shared-topping")+",target=shared_topping")
	b.eventually("both run", time.Minute, func() bool { return b.running("pizza") == 2 })

	said := b.touches("pizza", "/app set pizza branch=main dockerfile=docker/Dockerfile context=src paths=src,!src/doc channel="+channel+" approve=push",
		"approve, branch, channel, context, dockerfile, paths of pizza are set", true,
		"Labels.waggle.approve", "Labels.waggle.branch", "Labels.waggle.channel", "Labels.waggle.context", "Labels.waggle.dockerfile", "Labels.waggle.paths")
	contains(t, "the plan", said, "no task is restarted", "branch none → main")
	b.touches("pizza", "/app set pizza approve=none paths=none", "approve, paths of pizza are set", true, "Labels.waggle.approve", "Labels.waggle.paths")
	b.touches("pizza", "/app set pizza order=start-first parallelism=1", "order, parallelism of pizza are set", true, "UpdateConfig.Order", "UpdateConfig.Parallelism")
	b.touches("pizza", "/app set pizza order=stop-first parallelism=0", "order, parallelism of pizza are set", true, "UpdateConfig.Order", "UpdateConfig.Parallelism")
	said = b.touches("pizza", "/app set pizza limit-cpu=0.5 limit-memory=64m", "limit-cpu, limit-memory of pizza are set, 2 of 2 run with it", false,
		"TaskTemplate.Resources.Limits.MemoryBytes", "TaskTemplate.Resources.Limits.NanoCPUs")
	contains(t, "the plan", said, "its tasks are restarted, all at once, stop-first", "limit-memory none → 64 MB")
	b.touches("pizza", "/app set pizza reserve-memory=16m", "reserve-memory of pizza is set, 2 of 2 run with it", false, "TaskTemplate.Resources.Reservations.MemoryBytes")
	b.touches("pizza", "/app set pizza health=true health-interval=1s health-timeout=2s", "health, health-interval, health-timeout of pizza are set, 2 of 2 run with it", false,
		"TaskTemplate.ContainerSpec.Healthcheck.Interval", "TaskTemplate.ContainerSpec.Healthcheck.Test", "TaskTemplate.ContainerSpec.Healthcheck.Timeout")
	b.touches("pizza", "/app set pizza health-timeout=default", "health-timeout of pizza is set, 2 of 2 run with it", false, "TaskTemplate.ContainerSpec.Healthcheck.Timeout")

	// Tasks on nodes that fit go on; one that does not fit moves.
	said = b.touches("pizza", "/app set pizza constraints=node.labels.zone!=moon", "constraints of pizza is set, 2 of 2 run with it", true, "TaskTemplate.Placement.Constraints")
	contains(t, "the plan", said, "tasks on nodes that fit go on", "constraints none → node.labels.zone!=moon")
	host := strings.Fields(b.docker("service", "ps", "pizza", "--filter", "desired-state=running", "--format", "{{.Node}}"))[0]
	seen := b.latest()
	b.say(ada, "/app set pizza constraints=node.hostname!="+host)
	b.eventually("none is on "+host, time.Minute, func() bool {
		return b.running("pizza") == 2 && !strings.Contains(b.docker("service", "ps", "pizza", "--filter", "desired-state=running", "--format", "{{.Node}}"), host)
	})
	b.next(seen, "constraints of pizza is set, 2 of 2 run with it")

	said = b.touches("pizza", "/app set pizza ports=18091:80,18092:53/udp", "ports of pizza is set, 2 of 2 run with it", false, "EndpointSpec.Ports")
	contains(t, "the plan", said, "ports none → 18091:80, 18092:53/udp")
	contains(t, "the mesh", b.inspect("pizza", "{{json .Spec.EndpointSpec.Ports}}"), `"PublishedPort":18091`, `"PublishMode":"ingress"`, `"Protocol":"udp"`)

	// Variables and secrets; a swarm secret that Waggle did not make stays.
	said = b.touches("pizza", "/app env pizza set OVEN=hot", "OVEN of pizza changed, 2 of 2 run with it", false, "TaskTemplate.ContainerSpec.Env")
	if strings.Contains(said, "hot") {
		t.Errorf("the value is told:\n%s", said)
	}
	said = b.touches("pizza", "/app env pizza unset OVEN shared_topping", "OVEN, shared_topping of pizza changed, 2 of 2 run with it", false, "TaskTemplate.ContainerSpec.Env", "TaskTemplate.ContainerSpec.Secrets")
	contains(t, "the plan", said, "OVEN set → not set", "secret shared_topping set → not set", "the swarm secret shared-topping stays: Waggle did not make it")
	if env := b.inspect("pizza", "{{.Spec.TaskTemplate.ContainerSpec.Env}}"); env != "[MODE=x]" {
		t.Errorf("the environment is %s", env)
	}
	b.docker("secret", "inspect", "shared-topping")

	// A service without an update config keeps none.
	b.touches("plain", "/app set plain limit-memory=64m", "limit-memory of plain is set, 1 of 1 run with it", false, "TaskTemplate.Resources.Limits.MemoryBytes")

	before := b.spec("pizza")
	for _, tc := range []struct{ line, first, next string }{
		{"/app set pizza ports=18099:80", "ports cannot be set: the port 18099/tcp is published by other already", "Publish another port"},
		{"/app set pizza ports=2377:80", "2377 is the nodes' own, for the swarm's managers", "published:target"},
		{"/app set pizza ports=80:99999", "ports are 1 to 65535", "published:target"},
		{"/app set pizza ports=８０:80", "ports are 1 to 65535", "published:target"},
		{"/app set pizza channel=" + strings.Repeat("x", 5000), "channel cannot be set: it is longer than 4096 bytes", ""},
		{"/app set pizza limit-memory=lots", `"lots" is no amount of memory`, "like 512m"},
		{"/app set pizza reserve-cpu=-1", `"-1" is no number of cores`, "like 0.25"},
		{"/app set pizza branch=mаin", "is not a branch", "like main"},
		{"/app set pizza dockerfile=“../Dockerfile”", "leads out of the repository", ""},
		{"/app set pizza constraints=disk=ssd", `"disk=ssd" is no constraint`, "node.labels.disk==ssd"},
		{"/app set pizza node=node-2", "node cannot be set: the app has no persistent data", "constraints=node.hostname==node-2"},
		{"/app set pizza limit-memry=1g", `An app has no setting "limit-memry"`, "limit-memory"},
		{"/app create other https://git.example.com/acme/other.git", "There is an app other already", "/app link other"},
		{"/app env pizza unset NOPE", "pizza has no variable and no secret NOPE", "/app env pizza"},
		{"/app unlink pizza", "pizza is not linked to a repository", ""},
		{"/app remove pizza --volumes nope", `pizza has no volume "nope"`, ""},
	} {
		b.say(ada, tc.line)
		m := b.sees(ada, tc.first)
		contains(t, tc.line, m.Plain(), tc.next)
		if !m.Ephemeral {
			t.Errorf("%s: all see the refusal", tc.line)
		}
	}
	if got := differ(before, b.spec("pizza"), ""); len(got) > 0 {
		t.Errorf("refusals touched %q", got)
	}
}

// madeSecret makes a swarm secret with plain docker and removes it with the test.
func (b *bench) madeSecret(name string) string {
	b.Helper()
	_, err := b.lab.Manager().DockerInput(b.ctx, "olives", "secret", "create", name, "-")
	b.must(err)
	// It is in use until the services are gone: their removal is registered later.
	b.Cleanup(func() { b.cleanly("secret", "rm", name) })
	return name
}

// TestFormAndPorts makes an app by the form, corrects what the form refuses, and
// publishes its port in each way.
func TestFormAndPorts(t *testing.T) {
	b := start(t)
	b.gone("web")
	image, _, err := b.lab.Registry.Push(b.ctx, "web:1", lab.Image{Cmd: []string{"busybox", "httpd", "-f", "-p", "8080", "-h", "/www"}, Files: map[string]string{"www/index.html": "hello\n"}})
	b.must(err)
	b.service("other", "--publish", "mode=host,published=18081,target=1")

	v := b.form(ada, "/app create web")
	for field, tc := range map[string]struct{ value, fault string }{
		"ports":       {"22:22", "22 is the nodes' own, for SSH"},
		"replicas":    {"10000", "a number of replicas from 0 to 5000"},
		"env":         {"1A=2", "is no variable's name"},
		"volumes":     {"/etc:/data", "is no volume"},
		"constraints": {"disk", "is no constraint"},
		"memory":      {"much", "is no amount of memory"},
		"repo":        {"file:///etc", "file:// cannot be cloned from"},
	} {
		values := map[string]string{"image": image, "replicas": "1"}
		if field == "repo" {
			values = map[string]string{"replicas": "1"}
		}
		values[field] = tc.value
		ack, err := b.ws.Submit(b.ctx, ada, v, values)
		b.must(err)
		contains(t, "the answer to "+field, ack.Body, `"`+field+`"`, tc.fault)
	}
	b.fill(ada, v, map[string]string{"image": image, "replicas": "0", "ports": "18080:8080:host", "env": "MODE=form", "health": "wget -qO- localhost:8080",
		"constraints": "node.hostname!=node-1", "cpu": "0.5", "memory": "64m", "channel": channel, "approve": "yes"})
	b.sees(ada, "web runs 0 of 0")
	b.docker("service", "update", "--detach", "--quiet", brief, "--update-parallelism", "2", "web")
	s := b.inspect("web", "{{json .Spec}}")
	contains(t, "the service", s, `"MODE=form"`, `"NanoCPUs":500000000`, `"MemoryBytes":67108864`, `"node.hostname!=node-1"`, `"wget -qO- localhost:8080"`,
		`"PublishMode":"host"`, `"PublishedPort":18080`, `"Order":"stop-first"`, `"waggle.approve":"push"`, `"waggle.channel":"`+channel+`"`)
	b.touches("web", "/app set web health-interval=1s", "health-interval of web is set, 0 of 0 run with it", true, "TaskTemplate.ContainerSpec.Healthcheck.Interval")
	b.say(ada, "/scale web 2")
	b.sees(ada, "web runs 2 of 2 (was 0)")
	answering := func(port string) (on []string) {
		for _, n := range b.lab.Nodes[:3] {
			if body, err := get(b.ctx, "http://"+n.Addr+":"+port); err == nil && body == "hello" {
				on = append(on, n.Name)
			}
		}
		return on
	}
	if on := answering("18080"); len(on) != 2 {
		t.Errorf("it answers on %v, want node-2 and node-3", on)
	}
	b.say(ada, "/app set web ports=18081:8080:host")
	b.sees(ada, "ports cannot be set: the port 18081/tcp is published by other already")
	contains(t, "the plan", b.planned("/scale web 3"), "replicas 2 → 3", "only 2 of 3 will find a place", "node-1 is not node.hostname!=node-1", "node-2 takes at most 1", "one replica a node, and nothing balances")

	b.touches("web", "/app set web ports=18082:8080", "ports of web is set, 2 of 2 run with it", false, "EndpointSpec.Ports")
	contains(t, "the mesh", b.inspect("web", "{{json .Spec.EndpointSpec.Ports}}"), `"PublishMode":"ingress"`, `"PublishedPort":18082`)
	b.touches("web", "/app set web ports=none", "ports of web is set, 2 of 2 run with it", false, "EndpointSpec.Ports")
	if on := answering("18080"); len(on) != 0 {
		t.Errorf("it answers on %v", on)
	}
}

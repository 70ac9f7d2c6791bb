package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"waggle/internal/lab"
	"waggle/internal/rig"
	"waggle/internal/workspace"
)

// form types a line and returns the form that opens.
func (b *bench) form(user, line string) workspace.View {
	b.Helper()
	b.say(user, line)
	ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
	defer cancel()
	v, err := b.ws.WaitView(ctx, user, func(workspace.View) bool { return true })
	b.must(err)
	return v
}

func (b *bench) fill(user string, v workspace.View, values map[string]string) {
	b.Helper()
	ack, err := b.ws.Submit(b.ctx, user, v, values)
	b.must(err)
	if !ack.OK() || ack.Body != "" {
		b.Fatalf("the form is answered %+v", ack)
	}
}

// noRegistries has the swarm know no registry.
func (b *bench) noRegistries() {
	b.Helper()
	b.must(rig.SetRegistries(b.ctx, b.lab.Manager().Host(), b.settings["WAGGLE_SECRET_KEY"]))
}

// pizza is an app whose base image everybody may pull.
func (b *bench) pizza(version string) map[string]string {
	files := b.dockerfile(version)
	files["Dockerfile"] = strings.Replace(files["Dockerfile"], b.lab.Private.Addr, b.lab.Registry.Addr, 1)
	return files
}

// tasks are the ids of a service's tasks that are to run.
func (b *bench) tasks(name string) string {
	b.Helper()
	return b.docker("service", "ps", "-q", "--no-trunc", "--filter", "desired-state=running", name)
}

// password changes the private registry's password, until the test ends.
func (b *bench) password(to string) {
	b.Helper()
	r, before := b.lab.Private, b.lab.Private.Password
	set := func(ctx context.Context, password string) error {
		r.Stop()
		r.Password = password
		return r.Start(ctx)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := set(ctx, before); err != nil {
			b.Error(err)
		}
	})
	b.must(set(b.ctx, to))
}

// processes looks for a word on the command lines of all processes, until the
// returned function is called.
func (b *bench) processes(word string) func() {
	stop, found := make(chan struct{}), make(chan string)
	go func() {
		seen := ""
		for {
			files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, f := range files {
				if line, err := os.ReadFile(f); err == nil && strings.Contains(string(line), word) {
					seen = strings.ReplaceAll(string(line), "\x00", " ")
				}
			}
			select {
			case <-stop:
				found <- seen
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() {
		close(stop)
		if line := <-found; line != "" {
			b.Errorf("the password is on a command line: %s", line)
		}
	}
}

// TestRegistryLife adds a registry, pushes to it, has other nodes pull from it,
// changes its password, and removes it.
func TestRegistryLife(t *testing.T) {
	b := start(t)
	b.noRegistries()
	const first, second = "canary-first € 'pw'", "canary-second:\"pw\""
	b.password(first)
	done := b.processes("canary-")
	at, nothing := b.lab.Private.Addr+"/acme", b.configs()

	repo := b.linked("pizza", 1, brief)
	b.push(repo, b.pizza("1"), "Bake a pizza")
	m := b.sees(ada, "There is no default registry, and the other 2 nodes could not get the image")
	contains(t, "the refusal", m.Plain(), "/registry add")
	b.say(ada, "/registry list")
	b.sees(ada, "There is no registry yet")
	contains(t, "the list", b.ws.Screen(channel, ada), "no default push registry")
	b.say(ada, "/swarm")
	b.seesAbout("no default push registry", "3 of 3 nodes ready")

	// What does not work is named, and nothing is stored.
	add := func(values map[string]string) { b.Helper(); b.fill(ada, b.form(ada, "/registry add lab"), values) }
	add(map[string]string{"address": "http://" + b.lab.Private.Addr + "/", "prefix": "acme", "username": b.lab.Private.User, "password": "canary-wrong"})
	b.sees(ada, "The registry "+b.lab.Private.Addr+" does not take the user waggle with this password")
	add(map[string]string{"address": b.lab.Manager().Addr + ":5999", "username": "x", "password": "canary-x"})
	b.sees(ada, "The registry "+b.lab.Manager().Addr+":5999 cannot be reached")
	add(map[string]string{"address": strings.TrimPrefix(b.ws.URL(), "http://"), "username": "x", "password": "canary-x"})
	b.sees(ada, "answers, but not as a registry does")
	b.say(linus, "/registry add lab")
	b.sees(linus, "You are a viewer here, and this needs an admin")
	if b.configs() != nothing {
		t.Fatalf("something is stored: %s", b.configs())
	}

	add(map[string]string{"address": "http://" + b.lab.Private.Addr + "/", "prefix": "/acme/", "username": b.lab.Private.User, "password": first})
	b.sees(ada, "lab is added: "+at+" as waggle; built images are pushed there from now on")
	// An image of its own: with the containerd image store a node that has the same digest
	// from an earlier test, under any name, runs it without a pull.
	sha := b.push(repo, b.pizza(rand.Text()), "Add olives")
	b.sees(ada, "pizza runs release 1 ("+sha[:7]+"), 1 of 1")
	if image := b.image("pizza"); !strings.HasPrefix(image, at+"/pizza:"+sha[:12]+"@sha256:") {
		t.Errorf("it runs %s", image)
	}

	// The password changes at the registry: the old one is refused, and nodes
	// without the image cannot start it.
	b.password(second)
	before := b.tasks("pizza")
	b.say(ada, "/scale pizza 3")
	b.seesAbout(at+"/pizza:"+sha[:12], "of 3 run and nothing has changed") // the words differ by engine
	b.say(ada, "/registry check")
	m = b.sees(ada, "0 of 1 registries work")
	contains(t, "the check", m.Plain(), "does not take the user waggle with this password", "could not pull the image of pizza")

	// With the new one they can, and what ran goes on.
	v := b.form(ada, "/registry edit lab")
	b.fill(ada, v, map[string]string{"password": second})
	m = b.sees(ada, "lab is changed: "+at+" as waggle; 1 service has the login, and nothing was restarted")
	contains(t, "the message", m.Plain(), "✓ logins")
	b.eventually("all three run", time.Minute, func() bool { return b.running("pizza") == 3 })
	if now := b.tasks("pizza"); !strings.Contains(now, strings.Fields(before)[0]) {
		t.Errorf("the task %s was restarted; now %s", before, now)
	}
	b.say(ada, "/registry check")
	b.sees(ada, "1 of 1 registries work; 1 of 1 image found")

	// It goes in two steps, each with somebody's approval.
	b.say(ada, "/registry remove lab")
	b.sees(ada, "lab is the default push registry, so it cannot be removed")
	b.say(ada, "/registry disable lab")
	m = b.seesAbout("pushing to lab", "waits for an approval")
	contains(t, "the plan", m.Plain(), "default push registry lab → none", "pushes to the repository of pizza deployed → refused")
	b.click(grace, m, "approve")
	b.sees(ada, "Nothing is pushed to lab any more; there is no default push registry")
	b.say(ada, "/registry remove lab")
	m = b.seesAbout("1 service pulls from it", "waits for an approval")
	contains(t, "the plan", m.Plain(), "pizza pulled with the login of lab → with the same, which nobody renews")
	b.click(grace, m, "approve")
	b.sees(ada, "lab is removed, and its password is forgotten")

	done()
	for what, text := range map[string]string{
		"the service": b.docker("service", "inspect", "pizza"), "the image's history": b.docker("history", "--no-trunc", withoutDigest(b.image("pizza"))),
		"the image": b.docker("image", "inspect", withoutDigest(b.image("pizza"))), "a config": b.configs(), "Waggle's log": b.waggle.Log(),
		"Redis": b.redisValues(), "a message": b.ws.Screen(channel, ada) + b.ws.Screen(channel, grace),
	} {
		for _, canary := range []string{"canary-first", "canary-second", "canary-wrong", "canary-x"} {
			if strings.Contains(text, canary) {
				t.Errorf("%s has the password %s", what, canary)
			}
		}
	}
}

// TestPushOutlivesItsRegistry: a registry that is away for a moment in the middle
// of a deploy is waited for.
func TestPushOutlivesItsRegistry(t *testing.T) {
	b := start(t)
	repo := b.linked("pizza", 1, brief)
	b.lab.Private.Stop()
	restart := func() { b.must(b.lab.Private.Start(b.ctx)) }
	b.Cleanup(restart)
	sha := b.push(repo, b.pizza("1"), "Bake a pizza")
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	_, err := b.ws.Wait(ctx, channel, ada, func(m workspace.Message) bool {
		return strings.Contains(m.Plain(), "The registry "+b.lab.Private.Addr) && strings.Contains(m.Plain(), "Retrying until")
	})
	b.must(err)
	restart()
	b.sees(ada, "pizza runs release 1 ("+sha[:7]+"), 1 of 1")
}

func withoutDigest(image string) string {
	name, _, _ := strings.Cut(image, "@")
	return name
}

// TestTwoEditARegistry: of two who have its form open, one wins, and the other is
// told and loses nothing but the typing.
func TestTwoEditARegistry(t *testing.T) {
	b := start(t)
	adas, graces := b.form(ada, "/registry edit bases"), b.form(grace, "/registry edit bases")
	b.fill(grace, graces, map[string]string{"prefix": "team"})
	b.seesAbout(b.lab.Private.Addr+"/team as waggle, pull only", "bases is changed")
	b.fill(ada, adas, map[string]string{"prefix": "other"})
	b.sees(ada, "bases was changed by somebody else since you were shown it")
	if c := b.configs(); !strings.Contains(c, `"prefix": "team"`) || strings.Contains(c, `"other"`) {
		t.Errorf("configs: %s", c)
	}
}

// TestSecretKeyIsAnother: a Waggle with another secret_key says so, and overwrites
// nothing.
func TestSecretKeyIsAnother(t *testing.T) {
	b := start(t)
	before := b.configs()
	b.stop()
	b.settings["WAGGLE_SECRET_KEY"] = rig.SecretKey()
	b.serve()
	repo := b.linked("pizza", 1, brief)
	b.push(repo, b.pizza("1"), "Bake a pizza")
	b.sees(ada, "The password of the registry lab is sealed with another secret_key")
	b.say(ada, "/registry list")
	m := b.sees(ada, "2 registries")
	contains(t, "the list", m.Plain(), "sealed with another secret_key")
	b.say(ada, "/scale pizza 2") // of the base image, which needs no login
	b.sees(ada, "pizza runs 2 of 2")
	if b.configs() != before {
		t.Errorf("configs: %s, before %s", b.configs(), before)
	}
}

// TestRegistrySetup runs a registry in the swarm, twice, uses it, and prunes it.
func TestRegistrySetup(t *testing.T) {
	l := free(t)
	b := startOn(t, l, map[string]string{"WAGGLE_REGISTRY_IMAGE": registryImage(t, l)})
	node := l.Nodes[1]
	at := node.Addr + ":5004"
	b.Cleanup(func() { b.removeManaged(node) })

	b.say(ada, "/registry setup "+node.Name+" --address "+at)
	m := b.sees(ada, "local runs at "+at+" on "+node.Name)
	contains(t, "the message", m.Plain(), "✓ login")
	secrets, task, before := b.docker("secret", "ls", "-q"), b.tasks("waggle-registry"), b.configs()
	b.say(ada, "/registry setup --address "+at)
	b.eventually("it is set up again", time.Minute, func() bool {
		return strings.Count(b.ws.Screen(channel, ada), "local runs at "+at) == 2
	})
	if b.docker("secret", "ls", "-q") != secrets || b.tasks("waggle-registry") != task || b.configs() != before {
		t.Error("the second setup has changed something")
	}

	b.say(ada, "/registry default local")
	b.sees(ada, "Built images are pushed to local from now on")
	repo := b.linked("pizza", 1, brief)
	sha := b.push(repo, b.pizza("1"), "Bake a pizza")
	b.sees(ada, "pizza runs release 1 ("+sha[:7]+"), 1 of 1")
	b.say(ada, "/scale pizza 3")
	b.sees(ada, "pizza runs 3 of 3")
	if image := b.image("pizza"); !strings.HasPrefix(image, at+"/pizza:") {
		t.Errorf("it runs %s", image)
	}

	// What nothing names goes, and what runs stays.
	other := b.linked("pasta", 1, brief)
	files := b.pizza("1")
	files["big"] = noise(3 << 20)
	files["Dockerfile"] = strings.Replace(files["Dockerfile"], "COPY version", "COPY big /big\nCOPY version", 1)
	sha = b.push(other, files, "Cook pasta")
	b.sees(ada, "pasta runs release 1 ("+sha[:7]+"), 1 of 1")
	// A build that is in the engine's cache is as old as that.
	sha = b.push(other, b.pizza(rand.Text()), "Cook less")
	b.sees(ada, "pasta runs release 2 ("+sha[:7]+"), 1 of 1")
	b.docker("service", "update", "--detach", "--quiet", "--label-rm", "waggle.releases", "pasta")
	b.say(ada, "/registry prune --keep 1")
	m = b.seesWithin(2*time.Minute, ada, "1 image removed from local, 1 MB freed")
	contains(t, "the message", m.Plain(), "✓ remove", "✓ collect")
	b.say(ada, "/registry check")
	b.sees(ada, "3 of 3 registries work; 3 of 3 images found")
	if n := b.running("waggle-registry"); n != 1 {
		t.Errorf("%d registries run", n)
	}
	if out := b.docker("service", "ls", "--filter", "name=waggle-registry-collect", "-q"); out != "" {
		t.Errorf("left: %s", out)
	}
}

// noise is text that does not get smaller.
func noise(bytes int) string {
	b := make([]byte, bytes/2)
	_, _ = rand.Read(b) // never fails
	return fmt.Sprintf("%x", b)
}

// removeManaged takes away what /registry setup makes.
func (b *bench) removeManaged(node *lab.Node) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	m := b.lab.Manager()
	if _, err := m.Docker(ctx, "service", "rm", "waggle-registry"); err != nil {
		b.Error(err)
	}
	out, err := m.Docker(ctx, "secret", "ls", "-q", "--filter", "name=waggle-registry-")
	if err != nil {
		b.Error(err)
	}
	for _, id := range strings.Fields(out) {
		if _, err := m.Docker(ctx, "secret", "rm", id); err != nil {
			b.Error(err)
		}
	}
	for last := error(nil); ; { // until the containers are gone
		_, err := node.Docker(ctx, "volume", "rm", "waggle-registry")
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			b.Errorf("the volume is left: %v", last)
			return
		}
		last = err
		time.Sleep(200 * time.Millisecond)
	}
}

// registryImage makes an image of this machine's docker-registry, laid out as the
// official one, and pushes it where everybody may pull it.
func registryImage(t *testing.T, l *lab.Lab) string {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"entrypoint.sh": "#!/bin/sh\ncase \"$1\" in *.yml) set -- registry serve \"$@\" ;; esac\nexec \"$@\"\n",
		"etc/docker/registry/config.yml": "version: 0.1\nlog: {level: warn}\n" +
			"storage: {filesystem: {rootdirectory: /var/lib/registry}, cache: {blobdescriptor: inmemory}}\nhttp: {addr: \":5000\"}\n",
	}
	read := func(path, name string) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(data)
	}
	read(program, "bin/registry")
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^\t(?:.* => )?(/\S+)`).FindAllStringSubmatch(string(out), -1) {
		read(m[1], strings.TrimPrefix(m[1], "/"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ref, _, err := l.Registry.Push(ctx, "registry:2", lab.Image{Entrypoint: []string{"/entrypoint.sh"}, Cmd: []string{"/etc/docker/registry/config.yml"}, Files: files})
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// TestMigrateToACluster goes from one server with three apps, whose images are
// nowhere else, to a cluster where all of them run on the other nodes.
func TestMigrateToACluster(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Options{Nodes: 3, Spare: 2, Swarm: true})
	b := startOn(t, l, withSSH(l))
	b.noRegistries()
	for _, app := range []struct {
		name     string
		replicas int
		args     []string
	}{{"pizza", 2, nil}, {"pasta", 1, nil}, {"data", 1, []string{"--mount", "type=volume,source=menu,target=/menu"}}} {
		repo := b.linked(app.name, app.replicas, append(app.args, brief)...)
		sha := b.push(repo, b.pizza(app.name), "Cook "+app.name)
		b.sees(ada, fmt.Sprintf("%s runs release 1 (%s), %d of %[3]d", app.name, sha[:7], app.replicas))
		if image := b.image(app.name); image != app.name+":"+sha[:12] {
			t.Errorf("%s runs %s", app.name, image)
		}
	}
	for _, n := range l.Nodes[1:] {
		b.say(ada, "/join-node "+n.Addr)
		b.sees(ada, "There is no default push registry, so the apps that are built here could not run on another node")
		b.say(ada, "/join-node "+n.Addr+" --no-registry")
		b.approve(n.Addr)
		b.sees(ada, n.Addr+" joined as a worker: "+n.Name+" is ready")
	}
	b.fill(ada, b.form(ada, "/registry add lab"), map[string]string{"address": l.Private.Addr, "prefix": "acme", "username": l.Private.User, "password": l.Private.Password})
	b.sees(ada, "lab is added")
	b.say(ada, "/registry default")
	m := b.sees(ada, "Built images are pushed to lab")
	contains(t, "the default", m.Plain(), "data (data:", "pasta (pasta:", "pizza (pizza:")
	b.say(ada, "/registry migrate --dry-run")
	m = b.seesAbout("with persistent data, so last", "(nothing was changed)")
	contains(t, "the plan", m.Plain(), "pasta pasta:")

	// Waggle is killed in the middle, and goes on.
	b.say(ada, "/registry migrate")
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	_, err := b.ws.Wait(ctx, channel, ada, func(m workspace.Message) bool {
		return strings.Contains(m.Plain(), "✓ pasta") && strings.Contains(m.Plain(), "pizza")
	})
	b.must(err)
	b.waggle.Kill()
	b.serve()
	b.seesWithin(2*time.Minute, ada, "3 apps run from lab now")
	for _, app := range []string{"pizza", "pasta", "data"} {
		if image := b.image(app); !strings.HasPrefix(image, l.Private.Addr+"/acme/"+app+":") || !strings.Contains(image, "@sha256:") {
			t.Errorf("%s runs %s", app, image)
		}
		if r := b.releases(app); len(r) != 2 || r[0].Image != b.image(app) || r[0].Commit != r[1].Commit {
			t.Errorf("releases of %s: %+v", app, r)
		}
	}

	b.say(ada, "/node drain "+l.Nodes[0].Name)
	b.seesWithin(2*time.Minute, ada, l.Nodes[0].Name+" is drained")
	for app, n := range map[string]int{"pizza": 2, "pasta": 1, "data": 1} {
		out := b.docker("service", "ps", app, "--filter", "desired-state=running", "--format", "{{.Node}} {{.CurrentState}}")
		if strings.Count(out, "Running ") != n || strings.Contains(out, l.Nodes[0].Name) {
			t.Errorf("%s runs at:\n%s", app, out)
		}
	}
}

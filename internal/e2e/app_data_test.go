package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"waggle/internal/lab"
)

// overSSH lets Waggle reach a node as one that it has joined.
func (b *bench) overSSH(n *lab.Node) {
	b.Helper()
	b.labelled(n, "waggle.ssh=root@"+n.SSHAddr(), fmt.Sprintf("waggle.hostkey=%s %s", n.HostKey().Type(), ssh.FingerprintSHA256(n.HostKey())))
}

func (b *bench) volumes(n *lab.Node) string {
	b.Helper()
	out, err := n.Docker(b.ctx, "volume", "ls", "--quiet")
	b.must(err)
	return out
}

// TestDataStaysWhereItIs: an app with data is kept on its node, is not moved, and
// its node's failure is told; its volumes go by name only, from every node that had
// them.
func TestDataStaysWhereItIs(t *testing.T) {
	l := free(t)
	b := startOn(t, l, withSSH(l))
	b.overSSH(l.Nodes[1])
	b.gone("db")
	b.gone("cache")
	create := func(name string, args ...string) {
		b.docker(append(append([]string{"service", "create", "--detach", "--quiet", "--name", name, "--endpoint-mode", "dnsrr", "--no-resolve-image", "--stop-grace-period", "1s", brief}, args...), l.BaseImage)...)
	}
	create("db", "--mount", "type=volume,source=db-data,target=/data", "--constraint", "node.role==worker")
	create("cache", "--replicas", "3", "--replicas-max-per-node", "1", "--mount", "type=volume,source=cache-data,target=/data")
	b.eventually("all run", time.Minute, func() bool { return b.running("db") == 1 && b.running("cache") == 3 })
	here := b.docker("service", "ps", "db", "--filter", "desired-state=running", "--format", "{{.Node}}")
	home, other := l.Nodes[1], l.Nodes[2]
	if here == other.Name {
		home, other = other, home
	}

	b.say(linus, "/app show db")
	contains(t, "the app", b.sees(linus, "db runs 1/1").Plain(), "may run on any node: a task that moves finds none of it", "/app set db node=", "db-data:/data")
	b.say(ada, "/app set db node="+other.Name)
	m := b.sees(ada, "node cannot be set: its data is on "+here+", and elsewhere it would start without it")
	contains(t, "the refusal", m.Plain(), "`/scale db 0`", "copy its volumes (db-data)", "docker service update")
	said := b.touches("db", "/app set db node="+here, "node of db is set, 1 of 1 run with it", true, "TaskTemplate.Placement.Constraints")
	contains(t, "the plan", said, "node any → "+here, "tasks on nodes that fit go on")
	for _, line := range []string{"/app set db node=" + other.Name, "/app set db constraints=node.hostname==" + other.Name, "/app set db constraints=none", "/app set db node=none"} {
		before := b.spec("db")
		b.say(ada, line)
		setting, _, _ := strings.Cut(strings.Fields(line)[3], "=")
		m := b.seesAbout("--constraint-rm 'node.id == ", setting+" cannot be set: its data is on ")
		if got := differ(before, b.spec("db"), ""); len(got) > 0 || !m.Ephemeral {
			t.Errorf("%s touched %q", line, got)
		}
	}
	b.say(ada, "/scale db 2")
	waits := b.sees(grace, "db: replicas 1 → 2 waits for an approval")
	contains(t, "the plan", waits.Plain(), "which its replicas would share")

	// Its node fails.
	b.must(home.Stop(b.ctx))
	restart := func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		b.revive(ctx, home)
	}
	b.Cleanup(restart)
	b.eventually("the swarm sees that the node is down", time.Minute, func() bool { return strings.HasPrefix(b.nodeState(here), "down") })
	down := "it is pinned to " + here + ", which is down: nothing of it runs until " + here + " is back"
	b.eventually("its task counts no more", 30*time.Second, func() bool {
		b.say(linus, "/app show db")
		return strings.Contains(b.ws.Screen(channel, linus), "db runs 0/1")
	})
	contains(t, "the app", b.sees(linus, "db runs 0/1").Plain(), down, here)
	b.say(linus, "/swarm")
	contains(t, "the overview", b.sees(linus, "2 of 3 nodes ready").Plain(), "db is pinned to "+here+", which is down: it runs nowhere else", here+" is down")
	for _, line := range []string{"/app set db limit-memory=64m", "/app env db set A=b", "/app set db channel=" + channel, "/scale db 0", "/app remove db"} {
		contains(t, line, b.planned(line), down)
	}
	b.say(linus, "/app logs cache")
	contains(t, "the log", b.seesWithin(30*time.Second, linus, "cache").Plain(), "a node does not give its logs, so lines may be missing: "+here)
	restart()
	b.eventually("all run again", time.Minute, func() bool { return b.running("db") == 1 && b.running("cache") == 3 })

	// The volumes go by name: from this manager, over SSH, and by hand where Waggle
	// has not joined the node. One that another app uses does not go.
	b.service("reader", "--mount", "type=volume,source=db-data,target=/data", "--constraint", "node.hostname=="+here)
	b.say(ada, "/app remove db --volumes db-data")
	b.sees(ada, "reader uses the volume db-data as well, so it cannot go with db")
	contains(t, "the plan", b.planned("/app remove cache"), "app cache", "3/3 running now", "the volume cache-data stays on node-1, node-2, node-3; `--volumes cache-data` would remove it too")
	b.say(ada, "/app remove cache --volumes cache-data")
	waits = b.seesAbout("the volume cache-data is on node-1, node-2, node-3", "waits for an approval")
	b.click(grace, waits, "approve")
	m = b.sees(ada, "cache is removed, and with it the volume cache-data on node-1, the volume cache-data on node-2; what is left: the volume cache-data on node-3")
	contains(t, "the message", m.Plain(), "joined by hand", "type `docker volume rm cache-data` there")
	for i, n := range l.Nodes[:3] {
		if has := strings.Contains(b.volumes(n), "cache-data"); has != (i == 2) {
			t.Errorf("%s has the volume: %v", n.Name, has)
		}
	}
	if !strings.Contains(b.volumes(home), "db-data") {
		t.Error("the data of db is gone")
	}
	b.eventually("the volume on node-3 is free", 20*time.Second, func() bool {
		_, err := l.Nodes[2].Docker(b.ctx, "volume", "rm", "cache-data")
		return err == nil
	})
}

// TestCleanNodes removes what no release needs, from each node that Waggle reaches;
// the oldest kept release can be gone back to without the registry.
func TestCleanNodes(t *testing.T) {
	l := free(t)
	b := startOn(t, l, withSSH(l))
	b.overSSH(l.Nodes[1])
	b.docker("swarm", "update", "--task-history-limit", "1")
	b.Cleanup(func() { b.cleanly("swarm", "update", "--task-history-limit", "5") })
	repo := b.linked("calzone", 3, brief, "--update-parallelism", "3", "--replicas-max-per-node", "1")
	var images []string
	for i := range 3 {
		files := b.dockerfile(fmt.Sprint(i + 1))
		files["big"] = noise(1 << 20)
		files["Dockerfile"] = strings.Replace(files["Dockerfile"], "COPY version", "COPY big /big\nCOPY version", 1)
		b.push(repo, files, fmt.Sprintf("Bake %d", i+1))
		b.sees(ada, fmt.Sprintf("calzone runs release %d", i+1))
		images = append(images, b.image("calzone"))
	}
	has := func(n *lab.Node, image string) bool {
		_, err := n.Docker(b.ctx, "image", "inspect", image)
		return err == nil
	}
	// As if the first release were too old to be kept.
	b.docker("service", "update", "--detach", "--quiet", "--label-add", "waggle.releases="+b.releasesButTheLast("calzone"), "calzone")

	b.eventually("the containers of the first release are gone", time.Minute, func() bool {
		for _, n := range l.Nodes[:3] {
			out, err := n.Docker(b.ctx, "ps", "--all", "--no-trunc", "--format", "{{.Image}}")
			if err != nil || strings.Contains(out, images[0]) {
				return false
			}
		}
		return true
	})
	contains(t, "the plan", b.planned("/node clean all"), "node-1: 1 old image", "node-2: 1 old image", "node-3 is left out (it was joined by hand", "docker image prune --all", "images that a release, a service or a container needs stay")
	b.say(ada, "/node clean all")
	m := b.sees(ada, "2 old images, ")
	contains(t, "the message", m.Plain(), "removed from 2 nodes")
	for i, n := range l.Nodes[:3] {
		if has(n, images[0]) != (i == 2) || !has(n, images[1]) || !has(n, images[2]) {
			t.Errorf("%s has the releases: %v %v %v", n.Name, has(n, images[0]), has(n, images[1]), has(n, images[2]))
		}
	}
	if !has(l.Nodes[0], l.BaseImage) {
		t.Error("what is no app's is gone")
	}

	b.lab.Private.Stop()
	b.Cleanup(func() { b.noError(b.lab.Private.Start(b.ctx)) })
	b.say(ada, "/rollback calzone 2")
	b.sees(ada, "calzone runs release 4 (")
	if b.image("calzone") != images[1] || b.running("calzone") != 3 {
		t.Errorf("%d run of %s", b.running("calzone"), b.image("calzone"))
	}
}

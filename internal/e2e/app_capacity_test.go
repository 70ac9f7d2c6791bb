package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"waggle/internal/lab"
)

// cleanly runs plain docker on the manager when the test is over.
func (b *bench) cleanly(args ...string) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err := b.lab.Manager().Docker(ctx, args...)
	b.noError(err)
}

// labelled gives a node labels, until the test ends.
func (b *bench) labelled(n *lab.Node, labels ...string) {
	b.Helper()
	for _, l := range labels {
		key, _, _ := strings.Cut(l, "=")
		b.docker("node", "update", "--label-add", l, n.Name)
		b.Cleanup(func() { b.cleanly("node", "update", "--label-rm", key, n.Name) })
	}
}

// TestScaleAgainstCapacity: what the plan says of places is what the swarm then does.
func TestScaleAgainstCapacity(t *testing.T) {
	b := start(t)
	memory, err := strconv.ParseInt(b.docker("node", "inspect", "node-1", "--format", "{{.Description.Resources.MemoryBytes}}"), 10, 64)
	b.must(err)
	b.Cleanup(func() { b.cleanly("node", "update", "--availability", "active", "node-3") })
	b.say(ada, "/node drain node-3")
	b.sees(ada, "node-3 is drained")
	b.service("pizza", brief, "--reserve-memory", fmt.Sprint(memory*2/5)) // two fit on a node
	b.service("pasta", brief, "--replicas-max-per-node", "1")
	b.say(ada, "/scale pizza=6 pasta=3 --dry-run")
	b.sees(ada, "pizza: replicas 1 → 6 (nothing was changed)")
	b.sees(ada, "pasta: replicas 1 → 3 (nothing was changed)")
	b.say(ada, "/scale pizza=6 pasta=3")
	m := b.seesAbout("only 4 of 6 will find a place: ", "pizza: 4 of 6 run and nothing has changed for 20s: no suitable node")
	contains(t, "the message", m.Plain(), "node-3 is drained", " left", "; each reserves ", "`/scale pizza 1` goes back", "node-1 2 · node-2 2")
	m = b.seesAbout("only 2 of 3 will find a place: ", "pasta: 2 of 3 run and nothing has changed for 20s: no suitable node")
	contains(t, "the message", m.Plain(), "at most 1, node-", "node-3 is drained") // on which of the two it runs is the swarm's matter
	if n, k := b.running("pizza"), b.running("pasta"); n != 4 || k != 2 {
		t.Errorf("%d of pizza and %d of pasta run", n, k)
	}

	// All of it is told by list, show and the overview.
	b.say(ada, "/freeze pasta the oven is broken")
	b.sees(ada, "Deploys of pasta are frozen")
	b.say(ada, "/scale pizza 0")
	b.sees(grace, "pizza: replicas 6 → 0 waits for an approval")
	b.say(linus, "/app list")
	list := b.sees(linus, "2 apps, 2 not at their count").Plain()
	contains(t, "the list", list, "APP", "HEALTH", "4/6", "2/3", "failing", "frozen", "scale waits for an approval", "pizza runs 4 of 6: no suitable node", "`/app show pizza`")
	b.say(linus, "/app show pizza")
	contains(t, "the app", b.sees(linus, "pizza runs 4/6").Plain(), "None more would find a place: ", "node-3 is drained", "2 not running: no suitable node", "pizza.1", "node-1", "node-2", "at a time")
	b.say(linus, "/swarm")
	contains(t, "the overview", b.sees(linus, "3 of 3 nodes ready, 1 of 1 manager reachable, none may fail, 2 of 2 apps not at their count").Plain(),
		"pizza runs 4 of 6", "node-3 takes no tasks: `/node activate node-3`", "deploys are frozen: pasta", "pizza scale of @ada waits for an approval", "Images take")

	// With the third node, all find the place that the plan then says.
	b.say(ada, "/node activate node-3")
	b.sees(ada, "node-3 is active and takes tasks")
	b.eventually("six and three run", time.Minute, func() bool { return b.running("pizza") == 6 && b.running("pasta") == 3 })
	b.say(ada, "/app set pizza reserve-memory="+fmt.Sprint(memory*3/5)+"b --dry-run")
	b.seesAbout("only 3 of 6 will find a place", "(nothing was changed)")
}

// TestScaleWarns of what other nodes cannot get, and of what breaks balancing.
func TestScaleWarns(t *testing.T) {
	b := start(t)
	local := b.lab.Private.Image("acme/local:1")
	_, err := b.lab.Manager().DockerInput(b.ctx, "FROM "+b.lab.BaseImage+"\nLABEL baked=here\n", "build", "--quiet", "--tag", local, "-")
	b.must(err)
	b.serviceOf(local, "pizza", "--constraint", "node.hostname==node-1", "--endpoint-mode", "vip", "--publish", "18093:80")
	b.service("agent", "--publish", "mode=host,published=18094,target=80", "--health-cmd", "true", "--health-interval", "1s")
	b.say(ada, "/scale pizza=3 agent=2 --dry-run")
	m := b.sees(ada, "pizza: replicas 1 → 3 (nothing was changed)")
	contains(t, "the plan", m.Plain(), "its image was built on a manager and is in no registry: other nodes cannot get it", "/registry migrate", "it has no health check of its own")
	m = b.sees(ada, "agent: replicas 1 → 2 (nothing was changed)")
	contains(t, "the plan", m.Plain(), "one replica a node, and nothing balances between them")
	if text := m.Plain(); strings.Contains(text, "registry has the image") || strings.Contains(text, "in no registry") || strings.Contains(text, "health check") {
		t.Errorf("it warns of what is well:\n%s", text)
	}
}

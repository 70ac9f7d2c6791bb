package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"waggle/internal/lab"
	"waggle/internal/workspace"
)

// withSSH lets Waggle log in to the lab's nodes.
func withSSH(l *lab.Lab) map[string]string { return map[string]string{"WAGGLE_SSH_KEY_FILE": l.SSHKey} }

// spares are the nodes outside the swarm. They are outside again when the test
// ends.
func (b *bench) spares() []*lab.Node {
	b.Helper()
	nodes := b.lab.Nodes[3:]
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		for _, n := range nodes {
			b.revive(ctx, n)
			if err := n.StartSSH(ctx); err != nil {
				b.Error(err)
			}
			b.expel(ctx, n)
		}
	})
	return nodes
}

// revive starts a node's engine and waits until it answers: one that was stopped or
// removed tries for a while to be a node again first.
func (b *bench) revive(ctx context.Context, n *lab.Node) {
	b.Helper()
	if n.Start(ctx) == nil {
		return
	}
	b.eventually("the engine of "+n.Name+" answers", time.Minute, func() bool {
		_, err := n.Docker(ctx, "version")
		return err == nil
	})
}

// expel takes a node out of the swarm by the docker command line, if it is in.
func (b *bench) expel(ctx context.Context, n *lab.Node) {
	b.Helper()
	m := b.lab.Manager()
	ids, err := m.Docker(ctx, "node", "ls", "--filter", "name="+n.Name, "--format", "{{.ID}}")
	b.noError(err)
	for _, id := range strings.Fields(ids) {
		_, _ = m.Docker(ctx, "node", "demote", id) // a worker is not
	}
	_, _ = n.Docker(ctx, "swarm", "leave", "--force") // it is in none
	for _, id := range strings.Fields(ids) {
		b.eventually("the node is off the list", 30*time.Second, func() bool {
			_, err := m.Docker(ctx, "node", "rm", "--force", id)
			return err == nil || strings.Contains(err.Error(), "not found")
		})
	}
}

func (b *bench) noError(err error) {
	b.Helper()
	if err != nil {
		b.Error(err)
	}
}

// approve has grace approve what waits about a target, and returns the message.
func (b *bench) approve(about string) workspace.Message {
	b.Helper()
	m := b.seesAbout(about, "waits for an approval")
	b.click(grace, m, "approve")
	return m
}

// nodeState is what the manager's docker command line says of a node: "ready
// active worker", "" when it is not there.
func (b *bench) nodeState(name string) string {
	b.Helper()
	out := b.docker("node", "ls", "--filter", "name="+name, "--format", "{{.Status}} {{.Availability}} {{.ManagerStatus}}")
	return strings.ToLower(strings.TrimSpace(out))
}

// TestNodeLife joins a worker and a manager over real SSH, has them run tasks,
// and takes them out again.
func TestNodeLife(t *testing.T) {
	l := free(t)
	b := startOn(t, l, withSSH(l))
	spare := b.spares()
	worker, manager := spare[0], spare[1]

	b.say(ada, "/join-node "+worker.Addr)
	waits := b.seesAbout(worker.Addr, "waits for an approval")
	contains(t, "the plan", waits.Plain(), "in no swarm → worker", ssh.FingerprintSHA256(worker.HostKey())+" (ssh-ed25519)",
		worker.Name+": Debian GNU/Linux", "cores", "Docker "+worker.EngineVersion+" (API 1.", "Why: a node runs the swarm's tasks", "[Approve]")
	// A port that looks closed is a hint only: the kernel may be slow to forget that
	// an earlier test's overlay listened there.
	if strings.Contains(waits.Plain(), "does not reach") {
		t.Errorf("it warns of ways that are open:\n%s", waits.Plain())
	}
	b.click(grace, waits, "approve")
	done := b.sees(ada, fmt.Sprintf("%s joined as a worker: %s is ready", worker.Addr, worker.Name))
	contains(t, "the message", done.Plain(), "approved by @grace", "✓ join", "✓ ready", "undo: `/node remove "+worker.Name)
	if got := b.nodeState(worker.Name); got != "ready active" {
		t.Errorf("docker says %q", got)
	}

	b.say(ada, "/join-node "+manager.Addr+" manager")
	b.approve(manager.Addr)
	// A second manager makes all changes wait until the two agree, now and then for long.
	b.seesWithin(3*time.Minute, ada, fmt.Sprintf("%s joined as a manager: %s is ready", manager.Addr, manager.Name))
	if got := b.nodeState(manager.Name); got != "ready active reachable" {
		t.Errorf("docker says %q", got)
	}

	// Both run tasks.
	b.service("pizza", brief, "--replicas", "10", "--replicas-max-per-node", "2")
	b.eventually("all ten run, two on each node", time.Minute, func() bool { return b.running("pizza") == 10 })

	b.say(ada, "/node list")
	b.sees(ada, "5 of 5 nodes ready; 2 of 2 managers reachable, none may fail")
	contains(t, "the list", b.ws.Screen(channel, ada), "have an odd number of managers")
	b.say(ada, "/node show "+worker.Name)
	contains(t, "the node", b.ws.Screen(channel, ada), worker.Name+" is ready: worker", "waggle.ssh=root@"+worker.Addr+":22")

	// Drained, it runs none; active again, it takes them.
	b.docker("service", "update", "--detach", "--quiet", "--replicas-max-per-node", "3", "pizza")
	b.eventually("the update is through", time.Minute, func() bool { return b.running("pizza") == 10 })
	b.say(ada, "/node drain "+worker.Name)
	b.sees(ada, worker.Name+" is drained: pizza runs elsewhere")
	if out := b.docker("node", "ps", worker.Name, "--filter", "desired-state=running", "--format", "{{.Name}}"); out != "" {
		t.Errorf("on the drained node runs %s", out)
	}
	b.say(ada, "/node activate "+worker.Name)
	b.sees(ada, worker.Name+" is active and takes tasks")

	b.say(ada, "/node promote "+worker.Name)
	b.approve("role worker → manager")
	b.sees(ada, worker.Name+" is a manager: 3 of 3 managers reachable, 1 more may fail")
	b.say(ada, "/node demote "+worker.Name)
	b.approve("role manager → worker")
	b.sees(ada, worker.Name+" is a worker: 2 of 2 managers reachable")

	// The only other manager goes; its engine leaves by itself.
	b.say(ada, "/node remove "+manager.Name)
	m := b.seesAbout("out of the swarm", "waits for an approval")
	contains(t, "the plan", m.Plain(), "node "+manager.Name+" manager → removed", "then 1 of 1 manager reachable")
	b.click(grace, m, "approve")
	done = b.sees(ada, manager.Name+" is removed; its engine left")
	contains(t, "the message", done.Plain(), "✓ drain", "✓ demote", "✓ leave", "✓ remove")
	if got := b.nodeState(manager.Name); got != "" {
		t.Errorf("docker says %q", got)
	}
	if out, err := manager.Docker(b.ctx, "info", "--format", "{{.Swarm.LocalNodeState}}"); err != nil || strings.TrimSpace(out) != "inactive" {
		t.Errorf("its engine is %q, %v", out, err)
	}

	// One that is dead goes by force only.
	b.must(worker.Kill(b.ctx))
	b.eventually("the swarm sees that it is down", time.Minute, func() bool { return strings.HasPrefix(b.nodeState(worker.Name), "down") })
	b.say(ada, "/node remove "+worker.Name)
	b.sees(ada, worker.Name+" is down, so its tasks cannot be moved in good order")
	b.say(ada, "/node remove "+worker.Name+" --force")
	b.approve(worker.Name + " worker → removed")
	b.sees(ada, worker.Name+" is removed; should it come back")

	b.say(grace, "/swarm audit")
	contains(t, "the audit", b.ws.Screen(channel, grace), "join "+worker.Addr, "node-drain "+worker.Name, "node-promote "+worker.Name, "node-remove "+manager.Name, "(decided by @grace)")
}

// TestJoinOutlivesAKill kills Waggle in the middle of a join: the next takes it up.
func TestJoinOutlivesAKill(t *testing.T) {
	l := free(t)
	b := startOn(t, l, withSSH(l))
	n := b.spares()[0]
	b.say(ada, "/join-node "+n.Addr)
	m := b.seesAbout(n.Addr, "waits for an approval")
	b.click(grace, m, "approve")
	b.eventually("the join has begun", 20*time.Second, func() bool {
		now, _ := b.ws.Message(ada, m.Channel, m.TS)
		return !strings.Contains(now.Plain(), "[Approve]")
	})
	b.waggle.Kill()
	b.serve()
	b.seesWithin(90*time.Second, ada, n.Name)
	b.eventually("it is ready", time.Minute, func() bool { return b.nodeState(n.Name) == "ready active" })
	if nodes := strings.Fields(b.docker("node", "ls", "--filter", "name="+n.Name, "--format", "{{.ID}}")); len(nodes) != 1 {
		t.Errorf("it is in the swarm %d times", len(nodes))
	}
}

// TestJoinByHand joins with the command that Waggle shows to the asker alone.
func TestJoinByHand(t *testing.T) {
	l := free(t)
	b := startOn(t, l, withSSH(l))
	n := b.spares()[0]
	b.say(ada, "/join-node key")
	contains(t, "the key", b.ws.Screen(channel, ada), "ssh-ed25519 ", ">> ~root/.ssh/authorized_keys")
	b.say(linus, "/join-node command")
	b.sees(linus, "You are a viewer here, and this needs an admin")

	b.say(ada, "/join-node command")
	b.sees(ada, "Run this on the server that is to join as a worker")
	var line string
	for text := range strings.Lines(b.ws.Screen(channel, ada)) {
		if _, found, ok := strings.Cut(text, "docker swarm join "); ok {
			line = strings.TrimSpace(found)
		}
	}
	if strings.Contains(b.ws.Screen(channel, grace), "SWMTKN") || strings.Contains(b.waggle.Log(), "SWMTKN") {
		t.Error("somebody else sees the token, or the log has it")
	}
	_, err := n.Docker(b.ctx, append([]string{"swarm", "join"}, strings.Fields(line)...)...)
	b.must(err)
	b.say(ada, "/join-node "+n.Addr)
	b.sees(ada, n.Addr+" is in this swarm already: "+n.Name+", worker, ready")

	// A node that was joined by hand is removed like any other.
	b.say(ada, "/node remove "+n.Name)
	b.approve(n.Name + " worker → removed")
	b.sees(ada, n.Name+" is removed; its engine left")

	b.say(ada, "/join-node rotate worker")
	b.approve("worker token")
	b.sees(ada, "The old join token is good for nothing any more")
	if _, err := n.Docker(b.ctx, append([]string{"swarm", "join"}, strings.Fields(line)...)...); err == nil {
		t.Error("the old token still joins")
	}
	b.say(grace, "/swarm audit")
	contains(t, "the audit", b.ws.Screen(channel, grace), "join-command", "worker token hidden → shown to @ada", "join-rotate")
}

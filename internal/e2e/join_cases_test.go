package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// TestJoinRefused: whatever stands in the way of a join is named, with what to do,
// before anybody is asked to approve it.
func TestJoinRefused(t *testing.T) {
	l := free(t)
	b := startOn(t, l, withSSH(l))
	n := b.spares()[0]
	pem, err := os.ReadFile(b.lab.SSHKey)
	b.must(err)
	signer, err := ssh.ParsePrivateKey(pem)
	b.must(err)
	key := signer.PublicKey()
	outgoing := []string{"OUTPUT", "-p", "tcp", "--dport", "2377", "-j", "REJECT", "--reject-with", "tcp-reset"}
	swarm := func(args ...string) error {
		_, err := n.Docker(b.ctx, append([]string{"swarm"}, args...)...)
		return err
	}
	nothing := func() error { return nil }
	for _, tc := range []struct {
		name     string
		set, end func() error
		line     string
		says     []string // in the first line, and below it
	}{
		{"nobody there", nothing, nothing, "/join-node " + strings.Replace(n.Addr, ".14", ".250", 1), []string{"There is no way from here to", "Check the address"}},
		{"no such name", nothing, nothing, "/join-node nowhere.invalid", []string{"No server is named nowhere.invalid"}},
		{"nothing listens", func() error { return n.StopSSH(b.ctx) }, func() error { return n.StartSSH(b.ctx) }, "/join-node " + n.Addr, []string{"nothing listens on its port 22", "Start sshd there"}},
		{"sshd hangs", func() error { return n.FreezeSSH(b.ctx) }, func() error { return n.ThawSSH(b.ctx) }, "/join-node " + n.Addr, []string{"hangs: SSH got no answer", "restart it"}},
		{"key refused", func() error { return n.Authorize() }, func() error { return n.Authorize(key) }, "/join-node " + n.Addr, []string{"does not let Waggle's key in as user root", "`/join-node key`"}},
		{"user without rights", func() error { return n.AddUser("deploy", false, key) }, func() error { return n.RemoveUser("deploy") }, "/join-node " + n.Addr + " --user deploy", []string{"User deploy may not use Docker", "usermod -aG docker deploy"}},
		{"no Docker", func() error { return n.HideDocker(b.ctx) }, func() error { return n.ShowDocker(b.ctx) }, "/join-node " + n.Addr, []string{"There is no Docker on", "Install Docker Engine"}},
		{"engine stopped", func() error { return n.Stop(b.ctx) }, func() error { return n.Start(b.ctx) }, "/join-node " + n.Addr, []string{"Docker is installed on", "its engine does not run", "systemctl enable --now docker"}},
		{"in another swarm", func() error { return swarm("init", "--advertise-addr", n.Addr) }, func() error { return swarm("leave", "--force") }, "/join-node " + n.Addr,
			[]string{"is in another swarm already", "docker swarm leave --force"}},
		{"2377 blocked", func() error {
			_, err := n.Exec(b.ctx, append([]string{"iptables", "-w", "-I"}, outgoing...)...)
			return err
		},
			func() error {
				_, err := n.Exec(b.ctx, append([]string{"iptables", "-w", "-D"}, outgoing...)...)
				return err
			},
			"/join-node " + n.Addr, []string{"port 2377/tcp is closed", "firewalls"}},
		{"a member already", nothing, nothing, "/join-node " + b.lab.Nodes[1].Addr, []string{"is in this swarm already: node-2, worker, ready"}},
		{"a member in another role", nothing, nothing, "/join-node " + b.lab.Nodes[2].Addr + " manager", []string{"is in this swarm already, as a worker", "/node promote node-3"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := &bench{T: t, ctx: b.ctx, lab: b.lab, ws: b.ws, waggle: b.waggle, settings: b.settings}
			b.must(tc.set())
			defer func() { b.must(tc.end()) }()
			defer func() {
				if t.Failed() {
					t.Log(n.SSHLog())
				}
			}()
			b.say(ada, tc.line)
			m := b.match(30*time.Second, ada, tc.says[0], "`"+tc.line+"`")
			contains(t, "the answer", m.Plain(), tc.says...)
			if strings.Contains(m.Plain(), "[Approve]") || strings.Contains(m.Plain(), "SWMTKN") {
				t.Errorf("it asks all the same, or tells a token:\n%s", m.Plain())
			}
		})
	}
	if got := b.nodeState(n.Name); got != "" {
		t.Errorf("it is in the swarm: %s", got)
	}
}

// TestJoinAfterTheLook: what changes between the look and the click is noticed.
func TestJoinAfterTheLook(t *testing.T) {
	l := free(t)
	b := startOn(t, l, withSSH(l))
	n := b.spares()[0]
	b.say(ada, "/join-node "+n.Addr)
	m := b.seesAbout(n.Addr, "waits for an approval")
	b.must(n.NewHostKeys(b.ctx))
	b.click(grace, m, "approve")
	m = b.sees(ada, "The host key of "+n.Addr+" changed")
	contains(t, "the answer", m.Plain(), ssh.FingerprintSHA256(n.HostKey()))
	if got := b.nodeState(n.Name); got != "" {
		t.Errorf("it is in the swarm: %s", got)
	}

	// The manager is away for a moment in the middle of the join.
	b.say(ada, "/join-node "+n.Addr+" --port 22")
	m = b.seesAbout("--port 22", "waits for an approval")
	b.click(grace, m, "approve")
	b.must(b.lab.Manager().Freeze(b.ctx))
	thaw := time.AfterFunc(3*time.Second, func() { b.noError(b.lab.Manager().Thaw(b.ctx)) })
	defer thaw.Stop()
	b.eventually("it ends, in one way or another", 90*time.Second, func() bool {
		now, _ := b.ws.Message(ada, m.Channel, m.TS)
		return strings.HasPrefix(now.Plain(), "✅") || strings.HasPrefix(now.Plain(), "❌") || strings.HasPrefix(now.Plain(), "⛔")
	})
	now, _ := b.ws.Message(ada, m.Channel, m.TS)
	in := strings.HasPrefix(now.Plain(), "✅")
	b.eventually("the swarm shows what the message says", 30*time.Second, func() bool { return (b.nodeState(n.Name) == "ready active") == in })
}

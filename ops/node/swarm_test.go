package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"waggle/internal/lab"
	"waggle/internal/secret"
	"waggle/ops"
	"waggle/ops/swarm"
)

// These tests need a real swarm; they are skipped unless WAGGLE_LAB=1.
var labs = lab.Pool{Options: lab.Options{Nodes: 2, Swarm: true, Spare: 1}}

func TestMain(m *testing.M) { os.Exit(labs.Run(m)) }

// site is a swarm of one manager, and a server that may join it.
type site struct {
	*testing.T
	lab     *lab.Lab
	manager *lab.Node
	spare   *lab.Node
	servers *Servers
	key     ssh.PublicKey // of servers
}

func onLab(t *testing.T) *site { return on(t, labs.Get(t)) }

func on(t *testing.T, l *lab.Lab) *site {
	s := &site{T: t, lab: l, manager: l.Manager(), spare: l.Nodes[1], servers: New(Options{KeyFile: l.SSHKey})}
	signer, err := s.servers.key.signer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.key = signer.PublicKey()
	return s
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// during makes a fault for the rest of the test.
func (s *site) during(fault, undo func(context.Context) error) {
	s.Helper()
	s.must(fault(s.Context()))
	s.Cleanup(func() {
		if err := undo(context.Background()); err != nil {
			s.Error(err)
		}
	})
}

// sshd gives the spare node's sshd other settings for the rest of the test.
func (s *site) sshd(lines ...string) {
	s.Helper()
	s.during(func(ctx context.Context) error { return s.spare.ConfigureSSH(ctx, lines...) },
		func(ctx context.Context) error { return s.spare.ConfigureSSH(ctx) })
}

func (s *site) address(user string) ops.Address {
	return ops.Address{Host: s.spare.Addr, Port: 22, User: user}
}

// connect connects to the spare node as root.
func (s *site) connect() ops.Server { return s.connectAs("root") }

func (s *site) connectAs(user string) ops.Server {
	s.Helper()
	server, err := s.servers.Connect(s.Context(), s.address(user), ops.HostKey{})
	s.must(err)
	s.Cleanup(func() { server.Close() })
	return server
}

func (s *site) join(role string) ops.Join {
	s.Helper()
	token, err := s.manager.Docker(s.Context(), "swarm", "join-token", "-q", role)
	s.must(err)
	return ops.Join{Token: secret.Text(strings.TrimSpace(token)), Managers: []string{s.manager.Addr + ":2377"}, AdvertiseAddr: s.spare.Addr}
}

// until waits for what the manager says of its nodes besides itself.
func (s *site) until(want string) {
	s.Helper()
	var got string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		out, err := s.manager.Docker(s.Context(), "node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ManagerStatus}}")
		s.must(err)
		got = ""
		for line := range strings.Lines(out) {
			if !strings.HasPrefix(line, s.manager.Name+" ") {
				got += strings.TrimSpace(line)
			}
		}
		if got == want {
			return
		}
	}
	s.Fatalf("the manager has %q, want %q", got, want)
}

// forget removes the spare node, which has left, from the manager's list.
func (s *site) forget() {
	s.Helper()
	_, _ = s.manager.Docker(s.Context(), "node", "demote", s.spare.Name) // a manager that left is still one by name
	_, err := s.manager.Docker(s.Context(), "node", "rm", "--force", s.spare.Name)
	s.must(err)
	s.until("")
}

func TestLook(t *testing.T) {
	s := onLab(t)
	const rounds = 9
	var connects, looks []time.Duration
	for range rounds {
		began := time.Now()
		server := s.connect()
		connects = append(connects, time.Since(began))
		m, err := server.Machine(t.Context())
		looks = append(looks, time.Since(began))
		s.must(err)
		s.must(server.Reaches(t.Context(), s.manager.Addr+":2377"))
		s.must(server.Close())

		if want := (ops.HostKey{Algorithm: "ssh-ed25519", Fingerprint: ssh.FingerprintSHA256(s.spare.HostKey())}); server.HostKey() != want {
			t.Fatalf("host key %v, want %v", server.HostKey(), want)
		}
		if m.Hostname != s.spare.Name || m.OSType != "linux" || m.CPUs == 0 || m.Memory == 0 || m.Arch == "" || m.OS == "" ||
			!strings.Contains(m.EngineVersion, ".") || !strings.HasPrefix(m.APIVersion, "1.") || m.Swarm.State != "inactive" {
			t.Fatalf("machine %+v", m)
		}
		// All nodes of a lab have this machine's clock.
		if m.ClockAhead.Abs() > time.Second {
			t.Errorf("its clock is ahead by %s", m.ClockAhead)
		}
	}
	slices.Sort(connects)
	slices.Sort(looks)
	t.Logf("median of %d: connected after %s, looked after %s", rounds, connects[rounds/2], looks[rounds/2])
	if looks[0] > time.Second {
		t.Errorf("the quickest look took %s", looks[0])
	}
}

func TestJoinAndLeave(t *testing.T) {
	s := onLab(t)
	for role, reachable := range map[string]string{"worker": "", "manager": " Reachable"} {
		t.Run(role, func(t *testing.T) {
			s := *s
			s.T = t
			server := s.connect()
			join := s.join(role)
			// A manager that is down is no reason to fail while another is up.
			join.Managers = append([]string{s.spare.Addr + ":9"}, join.Managers...)
			began := time.Now()
			s.must(server.JoinSwarm(t.Context(), join))
			t.Logf("joined after %s", time.Since(began))
			s.until(s.spare.Name + " Ready" + reachable)
			m, err := server.Machine(t.Context())
			s.must(err)
			if m.Swarm.State != "active" || m.Swarm.NodeID == "" || m.Swarm.Manager != (role == "manager") || !slices.Contains(m.Swarm.Managers, s.manager.Addr+":2377") {
				t.Errorf("membership %+v", m.Swarm)
			}
			e := wantError(t, server.JoinSwarm(t.Context(), join), ops.Failed, "is already part of a swarm", "docker swarm leave")
			if strings.Contains(e.Error(), join.Token.Reveal()) {
				t.Error("the token is told")
			}
			if role == "manager" {
				_, err := s.manager.Docker(t.Context(), "node", "demote", s.spare.Name)
				s.must(err)
				s.until(s.spare.Name + " Ready")
			}
			s.must(server.LeaveSwarm(t.Context(), true))
			s.must(server.LeaveSwarm(t.Context(), false)) // it is in none
			if m, err = server.Machine(t.Context()); err != nil || m.Swarm.State != "inactive" {
				t.Errorf("after it left: %+v, %v", m.Swarm, err)
			}
			s.forget()
		})
	}
}

func TestManagerLeavesOnlyByForce(t *testing.T) {
	s := onLab(t)
	_, err := s.spare.Docker(t.Context(), "swarm", "init", "--advertise-addr", s.spare.Addr)
	s.must(err)
	server := s.connect()
	m, err := server.Machine(t.Context())
	s.must(err)
	if !m.Swarm.Manager || m.Swarm.ClusterID == "" {
		t.Errorf("membership %+v", m.Swarm)
	}
	wantError(t, server.LeaveSwarm(t.Context(), false), ops.Failed, "because it is a manager", "")
	s.must(server.LeaveSwarm(t.Context(), true))
}

func TestPinnedHostKey(t *testing.T) {
	s := onLab(t)
	old := s.connect().HostKey()
	server, err := s.servers.Connect(t.Context(), s.address("root"), old)
	s.must(err)
	s.must(server.Close())
	s.must(s.spare.NewHostKeys(t.Context()))
	_, err = s.servers.Connect(t.Context(), s.address("root"), old)
	wantError(t, err, ops.Failed, fmt.Sprintf("The host key of %s changed: it was %s, and now it is %s", s.spare.Addr, old.Fingerprint, ssh.FingerprintSHA256(s.spare.HostKey())), "ssh-keygen -lf")
	// The other of its keys is as good, when that is the one expected.
	for _, key := range s.spare.HostKeys {
		server, err := s.servers.Connect(t.Context(), s.address("root"), ops.HostKey{Algorithm: key.Type(), Fingerprint: ssh.FingerprintSHA256(key)})
		s.must(err)
		s.must(server.Close())
	}
}

// What stands in the way of a connection, each with its own words.
func TestNoConnection(t *testing.T) {
	s := onLab(t)
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	s.must(err)
	other, err := ssh.NewPublicKey(stranger.Public())
	s.must(err)
	nobody := s.address("root")
	nobody.Host = strings.TrimSuffix(nobody.Host, ".12") + ".250"
	for name, c := range map[string]struct {
		fault, undo    func(context.Context) error
		addr           ops.Address
		code           ops.Code
		sentence, next string
	}{
		"nobody there": {addr: nobody, code: ops.Unavailable, sentence: nobody.Host},
		"sshd stopped": {s.spare.StopSSH, s.spare.StartSSH, s.address("root"), ops.Unavailable, "nothing listens on its port 22", "Start sshd there"},
		"sshd hangs":   {s.spare.FreezeSSH, s.spare.ThawSSH, s.address("root"), ops.Unavailable, "accepts connections on port 22 and then hangs", "restart it"},
		"firewall": {func(ctx context.Context) error { return s.spare.Block(ctx, "tcp", 22) }, func(ctx context.Context) error { return s.spare.Unblock(ctx, "tcp", 22) },
			s.address("root"), ops.Unavailable, s.spare.Addr + " does not answer on port 22", "no firewall drops"},
		"no cable": {s.spare.Partition, s.spare.Heal, s.address("root"), ops.Unavailable, s.spare.Addr, "that the server is up"},
		"key refused": {func(context.Context) error { return s.spare.Authorize(other) }, func(context.Context) error { return s.spare.Authorize(s.key) },
			s.address("root"), ops.Forbidden, s.spare.Addr + " does not let Waggle's key in as user root", "/join-node key"},
		"unknown user": {addr: s.address("nosuch"), code: ops.Forbidden, sentence: "does not let Waggle's key in as user nosuch", next: "--user"},
		"root forbidden": {func(ctx context.Context) error { return s.spare.ConfigureSSH(ctx, "PermitRootLogin no") }, func(ctx context.Context) error { return s.spare.ConfigureSSH(ctx) },
			s.address("root"), ops.Forbidden, "does not let Waggle's key in as user root", "--user"},
		"the registry's port": {addr: ops.Address{Host: s.lab.Gateway, Port: 5000, User: "root"}, code: ops.Failed, sentence: "is not an SSH server", next: "--port"},
	} {
		t.Run(name, func(t *testing.T) {
			s := *s
			s.T = t
			if c.fault != nil {
				s.during(c.fault, c.undo)
			}
			servers := New(Options{KeyFile: s.lab.SSHKey})
			servers.timeouts.tcp, servers.timeouts.handshake = 4*time.Second, 2*time.Second
			_, err := servers.Connect(t.Context(), c.addr, ops.HostKey{})
			e := wantError(t, err, c.code, c.sentence, c.next)
			t.Log(e.Sentence)
		})
	}
}

// What stands in the way of the engine once the connection is there.
func TestNoEngine(t *testing.T) {
	s := onLab(t)
	s.must(s.spare.AddUser("deploy", false, s.key))
	t.Cleanup(func() { s.must(s.spare.RemoveUser("deploy")) })
	for name, c := range map[string]struct {
		fault, undo    func(context.Context) error
		user           string
		sshd           []string
		code           ops.Code
		sentence, next string
	}{
		"no rights":      {user: "deploy", code: ops.Forbidden, sentence: "User deploy may not use Docker on " + s.spare.Addr, next: "usermod -aG docker deploy"},
		"no Docker":      {fault: s.spare.HideDocker, undo: s.spare.ShowDocker, code: ops.Failed, sentence: "There is no Docker on " + s.spare.Addr, next: "docs.docker.com/engine/install"},
		"engine stopped": {fault: s.spare.Stop, undo: s.spare.Start, code: ops.Unavailable, sentence: "Docker is installed on " + s.spare.Addr + ", but its engine does not run", next: "systemctl enable --now docker"},
		"engine killed":  {fault: s.spare.Kill, undo: s.spare.Start, code: ops.Unavailable, sentence: "but its engine does not run", next: ""},
		"engine hangs":   {fault: s.spare.Freeze, undo: s.spare.Thaw, code: ops.Unavailable, sentence: "does not answer: its engine, or the way to it, hangs", next: "docker info"},
		"mail only": {sshd: []string{"AllowStreamLocalForwarding no", "ForceCommand echo This account is for mail only"}, code: ops.Failed,
			sentence: "does not speak as Docker does", next: "AllowStreamLocalForwarding yes"},
		"command hangs": {sshd: []string{"AllowStreamLocalForwarding no", "ForceCommand sleep 30"}, code: ops.Unavailable,
			sentence: "let Waggle in and then hangs", next: "sshd"},
		"no session": {sshd: []string{"AllowStreamLocalForwarding no", "MaxSessions 0"}, code: ops.Failed,
			sentence: "neither open its Docker socket nor run the docker command", next: "AllowStreamLocalForwarding yes"},
	} {
		t.Run(name, func(t *testing.T) {
			s := *s
			s.T = t
			if c.sshd != nil {
				s.sshd(c.sshd...)
			}
			if c.fault != nil {
				s.during(c.fault, c.undo)
			}
			user := c.user
			if user == "" {
				user = "root"
			}
			s.servers = New(Options{KeyFile: s.lab.SSHKey})
			s.servers.timeouts.open = 3 * time.Second
			server := s.connectAs(user)
			ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
			defer cancel()
			_, err := server.Machine(ctx)
			e := wantError(t, err, c.code, c.sentence, c.next)
			t.Log(e.Sentence, "|", e.Log)
		})
	}
}

// All that a server may forbid or add, and yet be good enough to join.
func TestJoinAllTheSame(t *testing.T) {
	s := onLab(t)
	s.must(s.spare.AddUser("keeper", true, s.key))
	t.Cleanup(func() { s.must(s.spare.RemoveUser("keeper")) })
	for name, c := range map[string]struct {
		user string
		sshd []string
		told bool // whether the manager is reached can be told
	}{
		"as a user with rights":       {user: "keeper", told: true},
		"no forwarding":               {user: "root", sshd: []string{"DisableForwarding yes"}},
		"no forwarding, for the user": {user: "keeper", sshd: []string{"AllowStreamLocalForwarding no"}, told: true},
		"noise on stderr": {user: "root", sshd: []string{"AllowStreamLocalForwarding no", "Banner /etc/passwd",
			`ForceCommand echo "WARNING: permission denied, command not found" >&2; exec docker system dial-stdio`}, told: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := *s
			s.T = t
			if c.sshd != nil {
				s.sshd(c.sshd...)
			}
			server := s.connectAs(c.user)
			if err := server.Reaches(t.Context(), s.manager.Addr+":2377"); c.told && err != nil {
				t.Error(err)
			} else if !c.told {
				wantError(t, err, ops.Forbidden, "forbids to try whether it reaches", "AllowTcpForwarding")
			}
			s.must(server.JoinSwarm(t.Context(), s.join("worker")))
			s.until(s.spare.Name + " Ready")
			s.must(server.LeaveSwarm(t.Context(), false))
			s.forget()
		})
	}
}

func TestReachesOnTheLab(t *testing.T) {
	s := onLab(t)
	server := s.connect()
	s.must(server.Reaches(t.Context(), s.manager.Addr+":2377"))
	s.must(server.Reaches(t.Context(), s.lab.Registry.Addr))
	wantError(t, server.Reaches(t.Context(), s.manager.Addr+":9"), ops.Unavailable, "nothing listens on its port 9", "Open TCP 9")
	wantError(t, server.Reaches(t.Context(), "nobody.invalid:2377"), ops.Unavailable, "cannot find the address of nobody.invalid", "")
	s.during(func(ctx context.Context) error { return s.manager.Block(ctx, "tcp", 2377) }, func(ctx context.Context) error { return s.manager.Unblock(ctx, "tcp", 2377) })
	began := time.Now()
	wantError(t, server.Reaches(t.Context(), s.manager.Addr+":2377"), ops.Unavailable, s.spare.Addr+" gets no answer from "+s.manager.Addr+" on port 2377", "Open TCP 2377")
	if took := time.Since(began); took > 7*time.Second {
		t.Errorf("it took %s", took)
	}
	// The engine is not even asked to join, so there is nothing to undo.
	wantError(t, server.JoinSwarm(t.Context(), s.join("worker")), ops.Failed, "gets no answer from", "Open TCP 2377")
	m, err := server.Machine(t.Context())
	if err != nil || m.Swarm.State != "inactive" {
		t.Errorf("membership %+v, %v", m.Swarm, err)
	}
}

// A join that the engine goes on with, on a server where nothing can be told
// beforehand, and how it is undone.
func TestHalfJoin(t *testing.T) {
	s := onLab(t)
	s.sshd("AllowTcpForwarding no")
	s.during(func(ctx context.Context) error { return s.manager.Block(ctx, "tcp", 2377) }, func(ctx context.Context) error { return s.manager.Unblock(ctx, "tcp", 2377) })
	server := s.connect()
	join := s.join("worker")
	err := server.JoinSwarm(t.Context(), join)
	e := wantError(t, err, ops.Unavailable, "has not joined yet, and goes on trying", "")
	if strings.Contains(e.Error()+e.Log, join.Token.Reveal()) {
		t.Error("the token is told")
	}
	m, err := server.Machine(t.Context())
	s.must(err)
	t.Logf("membership %+v", m.Swarm)
	if m.Swarm.State != "pending" {
		t.Errorf("membership %+v", m.Swarm)
	}
	s.must(server.LeaveSwarm(t.Context(), true))
	if m, err = server.Machine(t.Context()); err != nil || m.Swarm.State != "inactive" {
		t.Errorf("after it was undone: %+v, %v", m.Swarm, err)
	}
}

func TestJoinsThatTheSwarmRefuses(t *testing.T) {
	s := onLab(t)
	s.sshd("AllowTcpForwarding no") // so that the engine is asked in any case
	good := s.join("worker")
	digest := strings.Split(good.Token.Reveal(), "-")[2]
	for name, c := range map[string]struct {
		token          string
		managers       []string
		sentence, next string
	}{
		"no token":         {"nonsense-canary", good.Managers, "does not take this join token", "Try again"},
		"rotated token":    {"SWMTKN-1-" + digest + "-canarycanarycanarycanaryc", good.Managers, "does not take this join token", "Try again"},
		"of another swarm": {"SWMTKN-1-" + strings.Repeat("0", 49) + "1-canarycanarycanarycanaryc", good.Managers, "is not of this swarm", ""},
		"nothing listens":  {good.Token.Reveal(), []string{s.manager.Addr + ":9"}, "does not reach a manager at " + s.manager.Addr + ":9", "Open TCP 2377"},
		"something else":   {good.Token.Reveal(), []string{s.lab.Registry.Addr}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := *s
			s.T = t
			server := s.connect()
			began := time.Now()
			err := server.JoinSwarm(t.Context(), ops.Join{Token: secret.Text(c.token), Managers: c.managers})
			if err == nil {
				t.Fatal("it joined")
			}
			e := err.(*ops.Error)
			t.Logf("after %s: %s: %s | %s", time.Since(began), e.Code, e.Sentence, e.Log)
			if strings.Contains(e.Error()+e.Log, "canary") || strings.Contains(e.Error()+e.Log, good.Token.Reveal()) {
				t.Error("the token is told")
			}
			s.must(server.LeaveSwarm(t.Context(), true))
			if c.sentence != "" {
				wantError(t, err, ops.Failed, c.sentence, c.next)
			}
		})
	}
}

// sshd hangs when the connection is there already.
func TestSSHFreezesLater(t *testing.T) {
	s := onLab(t)
	s.servers = New(Options{KeyFile: s.lab.SSHKey})
	s.servers.timeouts.open, s.servers.timeouts.reach = time.Second, time.Second
	server := s.connect()
	s.during(s.spare.FreezeSSH, s.spare.ThawSSH)
	_, err := server.Machine(t.Context())
	wantError(t, err, ops.Unavailable, "let Waggle in and then hangs", "restart its sshd")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	wantError(t, server.JoinSwarm(ctx, ops.Join{Token: "x"}), ops.Unavailable, "", "")
	began := time.Now()
	_ = server.Close()
	if took := time.Since(began); took > time.Second {
		t.Errorf("closing took %s", took)
	}
}

func TestProbeUDPOnTheLab(t *testing.T) {
	// A server that has just left a swarm keeps VXLAN's port open for a while, and has
	// few answers left to give: so one that never was in any.
	s := on(t, lab.New(t, labs.Options))
	for _, port := range []int{7946, 4789} {
		if err := s.servers.ProbeUDP(t.Context(), s.spare.Addr, port); err != nil {
			t.Errorf("nothing is in the way: %v", err)
		}
	}
	s.during(func(ctx context.Context) error { return s.spare.Block(ctx, "udp", 7946) }, func(ctx context.Context) error { return s.spare.Unblock(ctx, "udp", 7946) })
	began := time.Now()
	wantError(t, s.servers.ProbeUDP(t.Context(), s.spare.Addr, 7946), ops.Unavailable, s.spare.Addr+" gives no answer on UDP 7946", "Open UDP 7946")
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	if err := s.servers.ProbeUDP(t.Context(), s.spare.Addr, 4789); err != nil {
		t.Errorf("the other port: %v", err)
	}
}

// A whole swarm behind docker.host: lists, and a build with BuildKit, which
// takes over connections.
func TestTunnelOnTheLab(t *testing.T) {
	s := onLab(t)
	known := filepath.Join(t.TempDir(), "known_hosts")
	s.must(os.WriteFile(known, []byte(knownhosts.Line([]string{s.manager.Addr}, s.manager.HostKey())+"\n"), 0o600))
	host := "ssh://root@" + s.manager.Addr
	for name, lines := range map[string][]string{"by socket": nil, "by command": {"AllowStreamLocalForwarding no"}} {
		t.Run(name, func(t *testing.T) {
			s := *s
			s.T = t
			if lines != nil {
				s.during(func(ctx context.Context) error { return s.manager.ConfigureSSH(ctx, lines...) }, func(ctx context.Context) error { return s.manager.ConfigureSSH(ctx) })
			}
			tunnel, err := New(Options{KeyFile: s.lab.SSHKey, KnownHosts: []string{known}}).Tunnel(host, "root")
			s.must(err)
			docker, err := swarm.Dial(swarm.Options{Host: host, Dial: tunnel.Dial})
			s.must(err)
			t.Cleanup(func() { docker.Close(); s.must(tunnel.Close()) })
			info, err := docker.Info(t.Context())
			s.must(err)
			if info.Hostname != s.manager.Name || info.Problem != "" {
				t.Errorf("info %+v", info)
			}
			dir := t.TempDir()
			s.must(os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM "+s.lab.BaseImage+"\nRUN echo through "+name+"\n"), 0o644))
			_, err = s.manager.Docker(t.Context(), "pull", "-q", s.lab.BaseImage)
			s.must(err)
			ref := s.lab.Registry.Image("tunnel:1")
			var progress []string
			err = docker.Build(t.Context(), ops.BuildRequest{Dir: dir, Tag: ref}, func(l string) { progress = append(progress, l) })
			if err != nil {
				t.Fatalf("build: %v\n%s", err, strings.Join(progress, "\n"))
			}
			if !strings.Contains(strings.Join(progress, "\n"), "through "+name) {
				t.Errorf("the build's progress: %q", progress)
			}
			digest, err := docker.Push(t.Context(), ref, ops.RegistryAuth{}, nil)
			if err != nil || !strings.HasPrefix(digest, "sha256:") {
				t.Errorf("push: %s, %v", digest, err)
			}
			// All sessions are cut off, as when the manager restarts.
			const cut = `for p in /proc/[0-9]*; do case "$(tr '\0' ' ' <$p/cmdline)" in "sshd: root"*) kill -9 ${p#/proc/};; esac; done`
			_, err = s.manager.Exec(t.Context(), "sh", "-c", cut)
			s.must(err)
			if _, err := docker.Nodes(t.Context()); err != nil {
				t.Errorf("after the connection was cut: %v", err)
			}
		})
	}
}

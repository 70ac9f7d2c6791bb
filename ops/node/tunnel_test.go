package node

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"waggle/ops"
	"waggle/ops/swarm"
)

// through is a Docker client through a tunnel to the server, which is started
// before. known are the lines of known_hosts.
func (c *client) through(s *sshd, known ...ssh.PublicKey) (*Tunnel, *swarm.Client) {
	s.Helper()
	s.start(c.public)
	address := net.JoinHostPort(s.addr.Host, strconv.Itoa(s.addr.Port))
	var lines strings.Builder
	for _, key := range known {
		lines.WriteString(knownhosts.Line([]string{address}, key) + "\n")
	}
	c.knownHosts = []string{filepath.Join(s.TempDir(), "known_hosts"), filepath.Join(s.TempDir(), "missing")}
	if err := os.WriteFile(c.knownHosts[0], []byte(lines.String()), 0o600); err != nil {
		s.Fatal(err)
	}
	host := "ssh://" + address
	t, err := c.Tunnel(host, "waggle")
	if err != nil {
		s.Fatal(err)
	}
	docker, err := swarm.Dial(swarm.Options{Host: host, Dial: t.Dial})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		docker.Close()
		if err := t.Close(); err != nil {
			s.Error(err)
		}
	})
	return t, docker
}

// TestTunnelWithoutKnownHosts: no files are the usual files, also as an empty list.
func TestTunnelWithoutKnownHosts(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	for _, none := range [][]string{nil, {}} {
		tunnel, err := New(Options{KnownHosts: none}).Tunnel("ssh://10.0.0.1", "root")
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{filepath.Join(home, ".ssh", "known_hosts"), "/etc/ssh/ssh_known_hosts"}; !slices.Equal(tunnel.known, want) {
			t.Errorf("of %#v: %v", none, tunnel.known)
		}
	}
}

func TestTunnel(t *testing.T) {
	for name, exec := range map[string]func(*session){"by socket": nil, "by command": dialEngine(engineSocket(t, nil))} {
		t.Run(name, func(t *testing.T) {
			noGoroutines(t)
			s := &sshd{T: t, exec: exec, keys: []ssh.Signer{hostKey(t, ssh.KeyAlgoED25519), hostKey(t, ssh.KeyAlgoRSA)}}
			if exec == nil {
				s.socket = engineSocket(t, nil)
			}
			// The one that is known need not be the one that the server likes best.
			_, docker := newClient(t).through(s, s.keys[1].PublicKey())
			for round := range 3 {
				info, err := docker.Info(t.Context())
				if err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				if info.Hostname != "node1" || !strings.HasPrefix(info.Host, "ssh://127.0.0.1:") {
					t.Errorf("info %+v", info)
				}
				if round == 1 {
					s.hangUp() // it is made anew
				} else {
					docker.Close()
				}
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.conns) != 1 {
				t.Errorf("%d connections after one was broken, want one more", len(s.conns))
			}
		})
	}
}

func TestTunnelChecksTheHostKey(t *testing.T) {
	ed, other := hostKey(t, ssh.KeyAlgoED25519), hostKey(t, ssh.KeyAlgoED25519)
	rsa := hostKey(t, ssh.KeyAlgoRSA)
	for name, c := range map[string]struct {
		known          []ssh.PublicKey
		sentence, next string
	}{
		"unknown":      {nil, "The host key of 127.0.0.1, the server in docker.host, is not known: it shows " + identity(ed).Fingerprint, "`ssh-keyscan -p"},
		"changed":      {[]ssh.PublicKey{other.PublicKey()}, "The host key of 127.0.0.1 changed: it was " + identity(other).Fingerprint + ", and now it is " + identity(ed).Fingerprint, "replace line 1 of"},
		"no such kind": {[]ssh.PublicKey{rsa.PublicKey()}, "The host key of 127.0.0.1 changed: it was " + identity(rsa).Fingerprint + ", and now it is " + identity(ed).Fingerprint, "replace line 1 of"},
	} {
		t.Run(name, func(t *testing.T) {
			noGoroutines(t)
			s := &sshd{T: t, keys: []ssh.Signer{ed}, socket: engineSocket(t, nil)}
			tunnel, docker := newClient(t).through(s, c.known...)
			_, err := docker.Info(t.Context())
			e := wantError(t, err, ops.Failed, c.sentence, c.next)
			if !strings.Contains(e.Next, tunnel.known[0]) {
				t.Errorf("it does not say in which file: %s", e.Next)
			}
			// It is read anew, so that nobody has to restart Waggle.
			line := knownhosts.Line([]string{tunnel.to.hostPort()}, ed.PublicKey())
			if err := os.WriteFile(tunnel.known[0], []byte(line+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := docker.Info(t.Context()); err != nil {
				t.Errorf("now that it is known: %v", err)
			}
		})
	}
	t.Run("revoked", func(t *testing.T) {
		s := &sshd{T: t, keys: []ssh.Signer{ed}}
		tunnel, docker := newClient(t).through(s)
		line := "@revoked * " + string(ssh.MarshalAuthorizedKey(ed.PublicKey()))
		if err := os.WriteFile(tunnel.known[0], []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := docker.Info(t.Context())
		wantError(t, err, ops.Failed, "The host key of 127.0.0.1 is refused", "known hosts")
	})
	t.Run("unreadable", func(t *testing.T) {
		s := &sshd{T: t, keys: []ssh.Signer{ed}}
		tunnel, docker := newClient(t).through(s)
		if err := os.WriteFile(tunnel.known[0], []byte("nonsense\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := docker.Info(t.Context())
		wantError(t, err, ops.Failed, "The known SSH hosts cannot be read", "")
	})
}

// Flags belong to commands; who set docker.host is told of docker.host.
func TestTunnelNamesItsSetting(t *testing.T) {
	noGoroutines(t)
	client := newClient(t)
	s := &sshd{T: t, exec: says(1, "permission denied while trying to connect to the docker API at unix:///var/run/docker.sock")}
	s.keys = []ssh.Signer{hostKey(t, ssh.KeyAlgoED25519)}
	_, docker := client.through(s, s.keys[0].PublicKey())
	_, err := docker.Info(t.Context())
	wantError(t, err, ops.Forbidden, "User waggle may not use Docker on 127.0.0.1", "or name another user in docker.host")
}

// mute is a connection on which nothing is said any more while it is on.
type mute struct {
	net.Conn
	on atomic.Bool
}

func (m *mute) Write(p []byte) (int, error) {
	if m.on.Load() {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

// A server that hangs is found out, and the connection is made anew.
func TestTunnelNoticesSilence(t *testing.T) {
	noGoroutines(t)
	client := newClient(t)
	client.timeouts.alive = 50 * time.Millisecond
	s := &sshd{T: t, socket: engineSocket(t, nil), keys: []ssh.Signer{hostKey(t, ssh.KeyAlgoED25519)}}
	var silent *mute // the first connection, on the server's side
	s.before = func(c net.Conn) net.Conn {
		if silent != nil {
			return c
		}
		silent = &mute{Conn: c}
		return silent
	}
	tunnel, docker := client.through(s, s.keys[0].PublicKey())
	if _, err := docker.Info(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := tunnel.link
	silent.on.Store(true)
	select {
	case <-first.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the connection is kept though its server says nothing")
	}
	docker.Close()
	if _, err := docker.Info(t.Context()); err != nil {
		t.Errorf("with a new connection: %v", err)
	}
	if tunnel.link == first {
		t.Error("the connection was not made anew")
	}
	if !strings.Contains(client.logged.String(), "broke") {
		t.Errorf("the log does not tell: %s", client.logged)
	}
}

func TestTunnelIsClosed(t *testing.T) {
	noGoroutines(t)
	entered := make(chan struct{}, 1)
	s := &sshd{T: t, keys: []ssh.Signer{hostKey(t, ssh.KeyAlgoED25519)}, socket: engineSocket(t, map[string]http.HandlerFunc{
		"GET /v1.41/info": func(_ http.ResponseWriter, r *http.Request) {
			entered <- struct{}{}
			<-r.Context().Done()
		},
	})}
	tunnel, docker := newClient(t).through(s, s.keys[0].PublicKey())
	done := make(chan error, 1)
	go func() {
		_, err := docker.Info(t.Context())
		done <- err
	}()
	<-entered
	if err := tunnel.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("a call outlives the tunnel")
	}
	_, err := docker.Info(t.Context())
	wantError(t, err, ops.Canceled, "Called off: Waggle stops", "")
}

func TestTunnelAddresses(t *testing.T) {
	s := New(Options{})
	for host, want := range map[string]string{
		"ssh://ann@manager":          "ann@manager:22",
		"ssh://manager:2222":         "root@manager:2222",
		"ssh://ann@[2001:db8::1]:22": "ann@[2001:db8::1]:22",
		"ssh://10.0.0.11/":           "root@10.0.0.11:22",
	} {
		tunnel, err := s.Tunnel(host, "root")
		if err != nil || tunnel.to.String() != want {
			t.Errorf("%s: %v, %v, want %s", host, tunnel, err, want)
		}
	}
	for _, host := range []string{"ssh://", "unix:///var/run/docker.sock", "ssh://h:0", "ssh://h:70000", "ssh://h:x", "manager"} {
		_, err := s.Tunnel(host, "root")
		wantError(t, err, ops.Invalid, "docker.host", "")
	}
	tunnel, err := s.Tunnel("ssh://manager", "root")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(tunnel.known); n == 0 || tunnel.known[n-1] != "/etc/ssh/ssh_known_hosts" {
		t.Errorf("known hosts are read from %q", tunnel.known)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tunnel.Dial(ctx, "", ""); ops.CodeOf(err) != ops.Canceled {
		t.Errorf("called off: %v", err)
	}
}

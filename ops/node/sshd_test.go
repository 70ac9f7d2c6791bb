package node

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"waggle/ops"
)

// sshd is an SSH server that behaves as a test wants it to. Its functions are
// nil where the server refuses what they do.
type sshd struct {
	*testing.T
	addr ops.Address
	keys []ssh.Signer // host keys

	socket func() (net.Conn, error)                            // opens the engine's socket
	tcp    func(s *sshd, address string) *ssh.OpenChannelError // nil when it is reached
	exec   func(s *session)                                    // runs a command
	before func(net.Conn) net.Conn                             // sees a connection first; nil closes it

	stopped chan struct{} // closed when the test ends

	mu       sync.Mutex
	conns    []net.Conn
	commands []string
	opened   []string // types of channels
}

// session is a command that is run.
type session struct {
	ssh.Channel
	command string
	status  uint32
	killed  bool // ends without a status
}

// start starts the server, which lets user waggle in with the client's key.
func (s *sshd) start(client ssh.PublicKey) {
	s.Helper()
	if s.keys == nil {
		s.keys = []ssh.Signer{hostKey(s.T, ssh.KeyAlgoED25519)}
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if c.User() != "waggle" || !bytes.Equal(key.Marshal(), client.Marshal()) {
			return nil, errors.New("who is that")
		}
		return nil, nil
	}}
	for _, k := range s.keys {
		config.AddHostKey(k)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.Fatal(err)
	}
	s.addr = ops.Address{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, User: "waggle"}
	s.stopped = make(chan struct{})
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			tasks.Go(func() { s.serve(conn, config) })
		}
	})
	s.Cleanup(func() {
		l.Close()
		close(s.stopped)
		s.hangUp()
		tasks.Wait()
	})
}

// hangUp ends all connections.
func (s *sshd) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

func (s *sshd) serve(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	if s.before != nil {
		if conn = s.before(conn); conn == nil {
			return
		}
	}
	c, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	defer c.Close()
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() { ssh.DiscardRequests(requests) })
	for ch := range channels {
		s.mu.Lock()
		s.opened = append(s.opened, ch.ChannelType())
		s.mu.Unlock()
		tasks.Go(func() { s.channel(ch) })
	}
}

// channel answers as OpenSSH does.
func (s *sshd) channel(ch ssh.NewChannel) {
	switch ch.ChannelType() {
	case "direct-streamlocal@openssh.com":
		var to struct {
			Path     string
			Reserved string
			Unused   uint32
		}
		if ssh.Unmarshal(ch.ExtraData(), &to) != nil || to.Path != "/var/run/docker.sock" || s.socket == nil {
			ch.Reject(ssh.ConnectionFailed, "open failed")
			return
		}
		target, err := s.socket()
		if err != nil {
			ch.Reject(ssh.ConnectionFailed, "open failed")
			return
		}
		c, requests, err := ch.Accept()
		if err != nil {
			return
		}
		go ssh.DiscardRequests(requests)
		pipe(c, target)
	case "direct-tcpip":
		var to struct {
			Host string
			Port uint32
			From string
			Fort uint32
		}
		if s.tcp == nil || ssh.Unmarshal(ch.ExtraData(), &to) != nil {
			ch.Reject(ssh.Prohibited, "open failed")
			return
		}
		if refused := s.tcp(s, net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port)))); refused != nil {
			ch.Reject(refused.Reason, refused.Message)
			return
		}
		c, requests, err := ch.Accept()
		if err != nil {
			return
		}
		go ssh.DiscardRequests(requests)
		io.Copy(io.Discard, c)
		c.Close()
	case "session":
		c, requests, err := ch.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for r := range requests {
			var command struct{ Line string }
			if r.Type != "exec" || s.exec == nil || ssh.Unmarshal(r.Payload, &command) != nil {
				r.Reply(false, nil)
				continue
			}
			r.Reply(true, nil)
			s.mu.Lock()
			s.commands = append(s.commands, command.Line)
			s.mu.Unlock()
			run := &session{Channel: c, command: command.Line}
			s.exec(run)
			if !run.killed {
				c.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{run.status}))
			}
			return
		}
	default:
		ch.Reject(ssh.UnknownChannelType, "unknown channel type")
	}
}

// count says how many channels of a type were asked for.
func (s *sshd) count(channel string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, o := range s.opened {
		if o == channel {
			n++
		}
	}
	return n
}

// pipe connects two ends until one of them ends.
func pipe(a ssh.Channel, b net.Conn) {
	defer a.Close()
	defer b.Close()
	done := make(chan struct{}, 2)
	go func() { io.Copy(a, b); done <- struct{}{} }()
	go func() { io.Copy(b, a); done <- struct{}{} }()
	<-done
}

// dialEngine is what a command that works does: it connects to the engine.
func dialEngine(socket func() (net.Conn, error)) func(*session) {
	return func(s *session) {
		conn, err := socket()
		if err != nil {
			io.WriteString(s.Stderr(), "error during connect: "+err.Error())
			s.status = 1
			return
		}
		pipe(s.Channel, conn)
	}
}

// says is a command that prints this to stderr and fails.
func says(status uint32, stderr string) func(*session) {
	return func(s *session) {
		io.WriteString(s.Stderr(), stderr)
		s.status = status
	}
}

func hostKey(t *testing.T, kind string) ssh.Signer {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(privateKey(t, kind))
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// privateKey makes a key of the type that SSH has that name for.
func privateKey(t *testing.T, kind string) crypto.PrivateKey {
	t.Helper()
	var key crypto.PrivateKey
	var err error
	switch kind {
	case ssh.KeyAlgoED25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case ssh.KeyAlgoECDSA256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ssh.KeyAlgoECDSA384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case ssh.KeyAlgoRSA:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		t.Fatal(kind)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func identity(key ssh.Signer) ops.HostKey {
	return ops.HostKey{Algorithm: key.PublicKey().Type(), Fingerprint: ssh.FingerprintSHA256(key.PublicKey())}
}

// client is Servers with a key of their own, in a directory of the test, and
// what they log.
type client struct {
	*Servers
	public ssh.PublicKey
	logged *bytes.Buffer
	secret string // of the private key
}

func newClient(t *testing.T) *client {
	t.Helper()
	key := privateKey(t, ssh.KeyAlgoED25519)
	block, err := ssh.MarshalPrivateKey(key, "test")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	c := &client{public: signer.PublicKey(), logged: &logged, secret: string(pem.EncodeToMemory(block))}
	c.Servers = New(Options{KeyFile: file, Log: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	c.timeouts.tcp, c.timeouts.handshake, c.timeouts.open = 2*time.Second, 2*time.Second, 2*time.Second
	return c
}

// connect connects to the server, which is started before.
func (c *client) connect(s *sshd) ops.Server {
	s.Helper()
	s.start(c.public)
	server, err := c.Connect(s.Context(), s.addr, ops.HostKey{})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { server.Close() })
	return server
}

// engineSocket starts a Docker engine that tells about itself, and what a test
// has it answer besides.
func engineSocket(t *testing.T, answers map[string]http.HandlerFunc) func() (net.Conn, error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "docker.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]http.HandlerFunc{
		"/_ping": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Api-Version", "1.41")
			io.WriteString(w, "OK")
		},
		"GET /v1.41/info": func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"Name":"node1","ServerVersion":"20.10.24","Swarm":{"LocalNodeState":"inactive"}}`)
		},
	}
	maps.Copy(all, answers)
	mux := http.NewServeMux()
	for pattern, answer := range all {
		mux.HandleFunc(pattern, answer)
	}
	server := &http.Server{Handler: mux}
	var task sync.WaitGroup
	task.Go(func() { server.Serve(l) })
	t.Cleanup(func() {
		server.Close()
		task.Wait()
		os.RemoveAll(dir)
	})
	return func() (net.Conn, error) { return net.Dial("unix", path) }
}

// wantError checks an error that people read.
func wantError(t *testing.T, err error, code ops.Code, sentence, next string) *ops.Error {
	t.Helper()
	var e *ops.Error
	if !errors.As(err, &e) {
		t.Fatalf("the error is %v, want one with %q", err, sentence)
	}
	if e.Code != code || !strings.Contains(e.Sentence, sentence) || !strings.Contains(e.Next, next) {
		t.Fatalf("the error is\n%s: %s\n%s\n(%v)\nwant\n%s: %s\n%s", e.Code, e.Sentence, e.Next, e.Err, code, sentence, next)
	}
	if e != err {
		t.Errorf("the error is wrapped: %v", err)
	}
	return e
}

// noGoroutines fails when what a test started goes on after its end.
func noGoroutines(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		deadline := time.Now().Add(5 * time.Second)
		for runtime.NumGoroutine() > before {
			if time.Now().After(deadline) {
				stacks := make([]byte, 64<<10)
				t.Fatalf("%d goroutines, and before there were %d:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
}

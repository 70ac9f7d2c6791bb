package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"waggle/internal/secret"
	"waggle/ops"
)

const (
	streamLocal = "direct-streamlocal@openssh.com"
	tcpForward  = "direct-tcpip"
)

func TestEngineBySocket(t *testing.T) {
	noGoroutines(t)
	client := newClient(t)
	s := &sshd{T: t, socket: engineSocket(t, nil), exec: says(1, "not needed")}
	server := client.connect(s)
	for range 2 {
		m, err := server.Machine(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if m.Hostname != "node1" || m.APIVersion != "1.41" || m.Swarm.State != "inactive" {
			t.Errorf("machine %+v", m)
		}
	}
	if a, b := s.count(streamLocal), s.count("session"); a != 1 || b != 0 {
		t.Errorf("%d connections to the socket and %d commands, want one and none", a, b)
	}
}

// A server that forbids forwarding is spoken to through the docker command, and
// asked for the other way only once. What shells print beside it is no failure.
func TestEngineByCommand(t *testing.T) {
	noGoroutines(t)
	socket := engineSocket(t, nil)
	client := newClient(t)
	s := &sshd{T: t, exec: func(s *session) {
		io.WriteString(s.Stderr(), "bash: warning: setlocale: LC_ALL: cannot change locale\nWARNING: permission denied to be amused\n")
		dialEngine(socket)(s)
		s.status = 1
	}}
	server := client.connect(s)
	for range 2 {
		m, err := server.Machine(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if m.Hostname != "node1" {
			t.Errorf("machine %+v", m)
		}
		// The next call makes another connection.
		server.(*Server).docker.Close()
	}
	if n := s.count(streamLocal); n != 1 {
		t.Errorf("the socket was tried %d times, want once", n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.commands, []string{"docker system dial-stdio", "docker system dial-stdio"}) {
		t.Errorf("commands %q", s.commands)
	}
}

func TestEngineThatIsNotThere(t *testing.T) {
	noGoroutines(t)
	const install = "Install Docker Engine there, https://docs.docker.com/engine/install/"
	socket := engineSocket(t, nil)
	for name, c := range map[string]struct {
		exec           func(*session)
		code           ops.Code
		sentence, next string
	}{
		"no docker, bash":     {says(127, "bash: line 1: docker: command not found\n"), ops.Failed, "There is no Docker on 127.0.0.1 that waggle could use", install},
		"no docker, dash":     {says(127, "sh: 1: docker: not found\n"), ops.Failed, "There is no Docker on 127.0.0.1", install},
		"no docker, busybox":  {says(127, "-sh: docker: not found\n"), ops.Failed, "There is no Docker on 127.0.0.1", install},
		"no docker, fish":     {says(127, "fish: Unknown command: docker\n"), ops.Failed, "There is no Docker on 127.0.0.1", install},
		"no docker, silently": {says(127, ""), ops.Failed, "There is no Docker on 127.0.0.1", install},
		"no rights, 20.10": {says(1, `Got permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get "http://%2Fvar%2Frun%2Fdocker.sock/_ping": dial unix /var/run/docker.sock: connect: permission denied`),
			ops.Forbidden, "User waggle may not use Docker on 127.0.0.1", "usermod -aG docker waggle"},
		"no rights, 28": {says(1, "permission denied while trying to connect to the docker API at unix:///var/run/docker.sock\n"),
			ops.Forbidden, "User waggle may not use Docker on 127.0.0.1", "name another user with `--user`"},
		"no rights, with noise": {says(1, "Welcome!\nfailed to open the raw stream connection: dial unix /var/run/docker.sock: connect: permission denied\n"),
			ops.Forbidden, "User waggle may not use Docker on 127.0.0.1", ""},
		"stopped": {says(1, "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?\n"),
			ops.Unavailable, "Docker is installed on 127.0.0.1, but its engine does not run", "systemctl enable --now docker"},
		"socket gone": {says(1, "failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct and if the daemon is running: dial unix /var/run/docker.sock: connect: no such file or directory\n"),
			ops.Unavailable, "its engine does not run", ""},
		"socket refuses": {says(1, "dial unix /var/run/docker.sock: connect: connection refused"),
			ops.Unavailable, "its engine does not run", ""},
		"old command":   {says(125, "unknown shorthand flag\n\nUsage:\tdocker system COMMAND\n"), ops.Failed, `The docker command on 127.0.0.1 is too old`, "Upgrade Docker there"},
		"other failure": {says(3, "something else\n"), ops.Failed, `"docker system dial-stdio" failed on 127.0.0.1 with exit status 3`, "Run it there as waggle"},
		"killed":        {func(s *session) { s.killed = true }, ops.Failed, "does not speak as Docker does", "prints nothing"},
		"forced command": {func(s *session) { io.WriteString(s, "Hello! This account is for mail only.\n") },
			ops.Failed, "the login of waggle runs or prints something else", "`ssh waggle@127.0.0.1 true` prints nothing"},
		"noise on stdout": {func(s *session) { io.WriteString(s, "Last login: yesterday\n"); dialEngine(socket)(s) },
			ops.Failed, "does not speak as Docker does", "prints nothing"},
		"endless noise": {func(s *session) {
			for err := error(nil); err == nil; {
				_, err = io.WriteString(s, strings.Repeat("y", 1000))
			}
		}, ops.Failed, "does not speak as Docker does", ""},
		"command forbidden too": {nil, ops.Failed, "lets waggle neither open its Docker socket nor run the docker command", "AllowStreamLocalForwarding yes"},
	} {
		t.Run(name, func(t *testing.T) {
			server := newClient(t).connect(&sshd{T: t, exec: c.exec})
			_, err := server.Machine(t.Context())
			wantError(t, err, c.code, c.sentence, c.next)
			wantError(t, server.JoinSwarm(t.Context(), ops.Join{Token: "SWMTKN-1-x-y"}), c.code, c.sentence, c.next)
		})
	}
}

// An engine that is stopped and started while it is looked at.
func TestEngineComesAndGoes(t *testing.T) {
	noGoroutines(t)
	socket := engineSocket(t, nil)
	up := make(chan bool, 1)
	up <- true
	client := newClient(t)
	s := &sshd{T: t, exec: says(1, "Cannot connect to the Docker daemon"), socket: func() (net.Conn, error) {
		is := <-up
		up <- is
		if !is {
			return nil, errors.New("stopped")
		}
		return socket()
	}}
	server := client.connect(s)
	for i, is := range []bool{true, false, true} {
		<-up
		up <- is
		server.(*Server).docker.Close() // as the engine does when it stops
		_, err := server.Machine(t.Context())
		switch {
		case is && err != nil:
			t.Fatalf("%d: %v", i, err)
		case !is:
			wantError(t, err, ops.Unavailable, "its engine does not run", "")
		}
	}
}

// TestConnectionEndsUnderTheDial: who waits for a way to the engine is told at once,
// though the channel that was asked for is never answered.
func TestConnectionEndsUnderTheDial(t *testing.T) {
	noGoroutines(t)
	asked, hang := make(chan struct{}), make(chan struct{})
	defer close(hang)
	s := &sshd{T: t, socket: func() (net.Conn, error) { close(asked); <-hang; return nil, errors.New("late") }}
	server := newClient(t).connect(s).(*Server)
	e := &engine{ssh: server.ssh, to: target{Address: server.addr}, log: slog.New(slog.DiscardHandler), limit: defaultTimeouts(), ended: make(chan struct{})}
	go func() {
		<-asked
		close(e.ended) // as when the connection had, and the channel been forgotten
	}()
	began := time.Now()
	_, err := e.dial(t.Context(), "unix", socket)
	wantError(t, errors.Unwrap(err), ops.Unavailable, "The SSH connection to 127.0.0.1 broke", "Try again")
	if took := time.Since(began); took > e.limit.open/2 || !errors.As(err, new(broken)) {
		t.Errorf("after %s: %#v", took, err)
	}
}

func TestServerThatHangs(t *testing.T) {
	noGoroutines(t)
	for name, c := range map[string]struct {
		server   func(t *testing.T, hang <-chan struct{}) *sshd
		sentence string
	}{
		"opening the socket": {func(t *testing.T, hang <-chan struct{}) *sshd {
			return &sshd{T: t, socket: func() (net.Conn, error) { <-hang; return nil, errors.New("late") }}
		}, "The SSH server of 127.0.0.1 let Waggle in and then hangs"},
		"the command": {func(t *testing.T, hang <-chan struct{}) *sshd {
			return &sshd{T: t, exec: func(*session) { <-hang }}
		}, "The SSH server of 127.0.0.1 let Waggle in and then hangs"},
		"the engine": {func(t *testing.T, hang <-chan struct{}) *sshd {
			return &sshd{T: t, socket: engineSocket(t, map[string]http.HandlerFunc{
				"GET /v1.41/info": func(_ http.ResponseWriter, r *http.Request) {
					select {
					case <-hang:
					case <-r.Context().Done():
					}
				},
			})}
		}, "Docker at 127.0.0.1 does not answer: its engine, or the way to it, hangs"},
	} {
		t.Run(name, func(t *testing.T) {
			hang := make(chan struct{})
			client := newClient(t)
			client.timeouts.open = 200 * time.Millisecond
			server := client.connect(c.server(t, hang))
			t.Cleanup(func() { close(hang) })
			ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
			defer cancel()
			began := time.Now()
			_, err := server.Machine(ctx)
			wantError(t, err, ops.Unavailable, c.sentence, "")
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("it took %s", took)
			}
			// Others on the same connection don't wait for those that hang.
			ctx, cancel = context.WithCancel(t.Context())
			cancel()
			_, err = server.Machine(ctx)
			wantError(t, err, ops.Canceled, "Called off", "")
		})
	}
}

// A server may be anybody's: what it says does not fill the memory.
func TestEngineThatTalksTooMuch(t *testing.T) {
	noGoroutines(t)
	said := 0
	server := newClient(t).connect(&sshd{T: t, socket: engineSocket(t, map[string]http.HandlerFunc{
		"GET /v1.41/info": func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"Name":"`)
			for err := error(nil); err == nil && said < 1<<30; said += 1000 {
				_, err = io.WriteString(w, strings.Repeat("y", 1000))
			}
		},
	})})
	_, err := server.Machine(t.Context())
	if err == nil || said > 64<<20 {
		t.Errorf("after %d bytes: %v", said, err)
	}
}

func TestConnectionBreaks(t *testing.T) {
	noGoroutines(t)
	client := newClient(t)
	s := &sshd{T: t, socket: engineSocket(t, nil)}
	server := client.connect(s)
	if _, err := server.Machine(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.hangUp()
	_, err := server.Machine(t.Context())
	wantError(t, err, ops.Unavailable, "The SSH connection to 127.0.0.1 broke", "Try again")
	wantError(t, server.Reaches(t.Context(), "10.0.0.11:2377"), ops.Failed, "The SSH connection to 127.0.0.1 broke", "Try again")
	for range 2 {
		if err := server.Close(); err != nil {
			t.Errorf("closing what is broken: %v", err)
		}
	}
}

func TestReaches(t *testing.T) {
	noGoroutines(t)
	refuse := func(reason ssh.RejectionReason, message string) func(*sshd, string) *ssh.OpenChannelError {
		return func(*sshd, string) *ssh.OpenChannelError {
			return &ssh.OpenChannelError{Reason: reason, Message: message}
		}
	}
	silent := func(s *sshd, _ string) *ssh.OpenChannelError { <-s.stopped; return nil }
	const address = "10.0.0.11:2377"
	for name, c := range map[string]struct {
		tcp            func(*sshd, string) *ssh.OpenChannelError
		code           ops.Code
		sentence, next string
	}{
		"open":               {func(*sshd, string) *ssh.OpenChannelError { return nil }, "", "", ""},
		"refused":            {refuse(ssh.ConnectionFailed, "Connection refused"), ops.Unavailable, "127.0.0.1 reaches 10.0.0.11, but nothing listens on its port 2377", "Open TCP 2377 there to 127.0.0.1"},
		"timed out":          {refuse(ssh.ConnectionFailed, "Connection timed out"), ops.Unavailable, "127.0.0.1 gets no answer from 10.0.0.11 on port 2377", "Open TCP 2377"},
		"no answer":          {silent, ops.Unavailable, "127.0.0.1 gets no answer from 10.0.0.11 on port 2377", "Open TCP 2377"},
		"no route":           {refuse(ssh.ConnectionFailed, "No route to host"), ops.Unavailable, "There is no way from 127.0.0.1 to 10.0.0.11", ""},
		"no network":         {refuse(ssh.ConnectionFailed, "Network is unreachable"), ops.Unavailable, "There is no way from 127.0.0.1 to 10.0.0.11", ""},
		"no name":            {refuse(ssh.ConnectionFailed, "Name or service not known"), ops.Unavailable, "127.0.0.1 cannot find the address of 10.0.0.11", ""},
		"for no said reason": {refuse(ssh.ConnectionFailed, ""), ops.Unavailable, "127.0.0.1 gets no connection to " + address, ""},
		"forbidden":          {nil, ops.Forbidden, "The SSH server of 127.0.0.1 forbids to try whether it reaches " + address, "AllowTcpForwarding local"},
		"not known":          {refuse(ssh.UnknownChannelType, "unknown"), ops.Forbidden, "forbids to try", ""},
		"no resources":       {refuse(ssh.ResourceShortage, "too many"), ops.Failed, "could not be tried", ""},
	} {
		t.Run(name, func(t *testing.T) {
			client := newClient(t)
			client.timeouts.reach = 200 * time.Millisecond
			server := client.connect(&sshd{T: t, tcp: c.tcp})
			err := server.Reaches(t.Context(), address)
			if c.code == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantError(t, err, c.code, c.sentence, c.next)
		})
	}
	client := newClient(t)
	server := client.connect(&sshd{T: t, tcp: silent})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantError(t, server.Reaches(ctx, address), ops.Failed, "There was no time to see whether 127.0.0.1 reaches "+address, "")
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	wantError(t, server.Reaches(ctx, address), ops.Canceled, "Called off", "")
	for _, bad := range []string{"10.0.0.11", "10.0.0.11:http", "10.0.0.11:99999", ":::"} {
		wantError(t, server.Reaches(t.Context(), bad), ops.Invalid, "", "")
	}
}

// join is what an engine that joins was sent.
func joiner(t *testing.T, sent chan<- string, status int, answer string) func() (net.Conn, error) {
	return engineSocket(t, map[string]http.HandlerFunc{"POST /v1.41/swarm/join": func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		sent <- string(body)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		io.WriteString(w, answer)
	}})
}

// An engine dials the first manager only, so that is one which it reaches.
func TestJoinThroughAManagerThatIsReached(t *testing.T) {
	noGoroutines(t)
	const a, b, c = "10.0.0.1:2377", "10.0.0.2:2377", "10.0.0.3:2377"
	for name, test := range map[string]struct {
		tcp  func(*sshd, string) *ssh.OpenChannelError
		want string // the managers in order, "" for a refusal
	}{
		"all":       {func(*sshd, string) *ssh.OpenChannelError { return nil }, a + " " + b + " " + c},
		"forbidden": {nil, a + " " + b + " " + c},
		"the first is slow to fail": {func(s *sshd, to string) *ssh.OpenChannelError {
			if to == b {
				return nil
			}
			<-s.stopped
			return nil
		}, b + " " + a + " " + c},
		"only the second": {func(_ *sshd, to string) *ssh.OpenChannelError {
			if to == b {
				return nil
			}
			return &ssh.OpenChannelError{Reason: ssh.ConnectionFailed, Message: "Connection refused"}
		}, b + " " + a + " " + c},
		"none": {func(*sshd, string) *ssh.OpenChannelError {
			return &ssh.OpenChannelError{Reason: ssh.ConnectionFailed, Message: "Connection refused"}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			sent := make(chan string, 1)
			client := newClient(t)
			client.timeouts.reach = 200 * time.Millisecond
			server := client.connect(&sshd{T: t, tcp: test.tcp, socket: joiner(t, sent, http.StatusOK, "")})
			managers := []string{a, b, c}
			err := server.JoinSwarm(t.Context(), ops.Join{Token: "SWMTKN-1-x-y", Managers: managers, AdvertiseAddr: "10.0.0.12"})
			if test.want == "" {
				wantError(t, err, ops.Failed, "127.0.0.1 reaches 10.0.0.1, but nothing listens on its port 2377", "Open TCP 2377")
				if len(sent) != 0 {
					t.Error("the engine was asked all the same")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			quoted := `["` + strings.ReplaceAll(test.want, " ", `","`) + `"]`
			if body := <-sent; !strings.Contains(body, `"RemoteAddrs":`+quoted) || !strings.Contains(body, `"AdvertiseAddr":"10.0.0.12"`) ||
				!strings.Contains(body, `"ListenAddr":"0.0.0.0:2377"`) || !strings.Contains(body, `"DataPathAddr":""`) || !strings.Contains(body, `"JoinToken":"SWMTKN-1-x-y"`) {
				t.Errorf("the engine was sent %s", body)
			}
			if !slices.Equal(managers, []string{a, b, c}) {
				t.Errorf("the caller's managers are now %v", managers)
			}
		})
	}
}

// Neither the private key, nor its passphrase, nor a token is in any error or log.
func TestSecretsAreNotTold(t *testing.T) {
	const token = "SWMTKN-1-canarycanarydigest-canarycanarysecret"
	path, _ := keyFile(t, ssh.KeyAlgoED25519, passphrase)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var told bytes.Buffer
	note := func(err error) {
		if err == nil {
			t.Error("no error")
			return
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			told.WriteString(e.Error() + "\n")
			var known *ops.Error
			if errors.As(e, &known) {
				told.WriteString(known.Sentence + "\n" + known.Next + "\n" + known.Log + "\n")
			}
		}
	}
	client := newClient(t)
	client.key.file, client.key.passphrase = path, secret.Text(passphrase)
	signer, err := client.key.signer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client.public = signer.PublicKey()

	sent := make(chan string, 4)
	s := &sshd{T: t, tcp: func(*sshd, string) *ssh.OpenChannelError { return nil }, socket: joiner(t, sent, http.StatusInternalServerError,
		`{"message":"could not join with `+token+`: digest canarycanarydigest, secret canarycanarysecret"}`)}
	server := client.connect(s)
	note(server.JoinSwarm(t.Context(), ops.Join{Token: token, Managers: []string{"10.0.0.1:2377"}}))
	if !strings.Contains(<-sent, token) {
		t.Error("the engine did not get the token")
	}
	_, err = client.Connect(t.Context(), s.addr, identity(hostKey(t, ssh.KeyAlgoED25519)))
	note(err)
	wrong := s.addr
	wrong.User = "root"
	_, err = client.Connect(t.Context(), wrong, ops.HostKey{})
	note(err)
	client.key.passphrase = "canary-wrong"
	client.key.read = nil
	_, err = client.PublicKey(t.Context())
	note(err)

	all := told.String() + client.logged.String()
	for _, word := range append(strings.Fields(string(text))[4:6], "canary") {
		if strings.Contains(all, word) {
			t.Errorf("%q is told:\n%s", word, all)
		}
	}
}

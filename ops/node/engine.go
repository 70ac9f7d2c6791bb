package node

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"waggle/ops"
)

// socket is the engine's, where every installation has it.
const socket = "/var/run/docker.sock"

// dialStdio connects its stdin and stdout to the engine: what the docker CLI
// itself runs for DOCKER_HOST=ssh://. It is the only command that is ever run on
// a server, and nobody's input is part of it.
const dialStdio = "docker system dial-stdio"

// engine makes connections to the Docker engine of a server, over SSH: to its
// socket, or where that cannot be opened, through dialStdio. Which one works is
// found out by the first connection.
type engine struct {
	ssh   *ssh.Client
	to    target
	log   *slog.Logger
	limit timeouts
	ended chan struct{} // closed when the SSH connection has ended

	stdio atomic.Bool // dialStdio works, and the socket does not
}

func newEngine(c *ssh.Client, to target, log *slog.Logger, limit timeouts) *engine {
	e := &engine{ssh: c, to: to, log: log, limit: limit, ended: make(chan struct{})}
	go func() {
		_ = c.Wait()
		close(e.ended)
	}()
	return e
}

// dial is for swarm.Options. Its errors keep an *ops.Error in their chain.
func (e *engine) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, e.limit.open)
	defer cancel()
	// A channel that is asked for in the very moment in which the connection ends is
	// never answered: x/crypto's mux has let go of its channels, and still sends.
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-e.ended:
			stop(errEnded)
		case <-ctx.Done():
		}
	}()
	conn, err := e.connect(ctx)
	if err != nil {
		return nil, noWay{err}
	}
	return conn, nil
}

// noWay hides the text of an error, in which the Docker client would look for
// words that it knows, and then forget the rest.
type noWay struct{ error }

func (noWay) Error() string   { return "there is no way to the engine" }
func (n noWay) Unwrap() error { return n.error }

func (e *engine) connect(ctx context.Context) (net.Conn, error) {
	if !e.stdio.Load() {
		conn, err := e.ssh.DialContext(ctx, "unix", socket)
		if err == nil {
			return conn, nil
		}
		// OpenSSH does not tell whether it may not forward, the user may not use
		// the socket, or nothing listens on it. The command does, and may find
		// another socket too.
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) {
			return nil, e.lost(ctx, err)
		}
		e.log.Debug("the Docker socket cannot be opened over SSH: trying the docker command", "server", e.to.String(), "err", err)
	}
	p, err := e.run(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.ping(ctx); err != nil {
		_ = p.Close() // the error tells more
		return nil, err
	}
	e.stdio.Store(true)
	return p, nil
}

// lost names why the SSH connection is of no use any more.
func (e *engine) lost(ctx context.Context, err error) error {
	host := e.to.Host
	switch {
	case errors.Is(context.Cause(ctx), errEnded):
		err = errEnded
	case errors.Is(ctx.Err(), context.Canceled):
		return &ops.Error{Code: ops.Canceled, Sentence: "Called off: speak with " + host, Err: context.Canceled}
	case ctx.Err() != nil:
		// Not ctx.Err(): the Docker client would try again.
		return (&ops.Error{Code: ops.Unavailable, Sentence: "The SSH server of " + host + " let Waggle in and then hangs", Err: errNoAnswer}).
			Then("See whether that machine is well, and restart its sshd")
	}
	return (&ops.Error{Code: ops.Unavailable, Sentence: "The SSH connection to " + host + " broke", Err: broken{err}}).Then("Try again")
}

var (
	errNoAnswer = errors.New("no answer in time")
	errEnded    = errors.New("the connection has ended")
)

// broken is what a connection that has ended gives.
type broken struct{ error }

// within waits for f, which knows no context, until ctx ends; what f then still
// returns is given to drop. f ends with the SSH connection.
func within[T any](ctx context.Context, f func() (T, error), drop func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				drop(r.value)
			}
		}()
		var zero T
		return zero, ctx.Err()
	}
}

// run starts dialStdio.
func (e *engine) run(ctx context.Context) (*program, error) {
	p, err := within(ctx, e.start, func(p *program) { _ = p.Close() })
	var refused *ssh.OpenChannelError
	switch {
	case err == nil:
		return p, nil
	case errors.As(err, &refused), errors.Is(err, errNotStarted):
		return nil, (&ops.Error{Code: ops.Failed, Sentence: fmt.Sprintf("The SSH server of %s lets %s neither open its Docker socket nor run the docker command", e.to.Host, e.to.User), Err: err}).
			Then("Set `AllowStreamLocalForwarding yes` in its sshd_config, for that user at least, and restart its sshd")
	}
	return nil, e.lost(ctx, err)
}

var errNotStarted = errors.New("the server does not run the command")

func (e *engine) start() (*program, error) {
	session, err := e.ssh.NewSession()
	if err != nil {
		return nil, err
	}
	p := &program{engine: e, session: session, ended: make(chan struct{})}
	session.Stderr = &p.stderr
	in, err := session.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := session.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.in, p.pipe = in, io.LimitedReader{R: out, N: mostGreeting}
	p.out = bufio.NewReader(&p.pipe)
	if err := session.Start(dialStdio); err != nil {
		_ = session.Close()
		if strings.Contains(err.Error(), "command "+dialStdio+" failed") { // x/crypto has no type for it
			return nil, errNotStarted
		}
		return nil, err
	}
	go func() { // ends with the session
		p.exit = session.Wait()
		close(p.ended)
	}()
	return p, nil
}

// program is a dialStdio that runs, as a connection to the engine. Like all
// channels of SSH it knows no deadlines: those who use it close it.
type program struct {
	*engine
	session *ssh.Session
	in      io.WriteCloser
	pipe    io.LimitedReader
	out     *bufio.Reader // of pipe
	stderr  tail

	ended chan struct{}
	exit  error // of the program; read after ended
}

func (p *program) Read(b []byte) (int, error)  { return p.out.Read(b) }
func (p *program) Write(b []byte) (int, error) { return p.in.Write(b) }

// CloseWrite tells the engine that nothing more comes.
func (p *program) CloseWrite() error { return p.in.Close() }

// Close ends the program. One that has ended already is no error.
func (p *program) Close() error {
	if err := p.session.Close(); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (p *program) LocalAddr() net.Addr              { return p.ssh.LocalAddr() }
func (p *program) RemoteAddr() net.Addr             { return p.ssh.RemoteAddr() }
func (p *program) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (p *program) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (p *program) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// mostGreeting is how much a program may say before it is known for an engine.
const mostGreeting = 64 << 10

// ping sees whether an engine is at the other end. Only its answer counts:
// shells and programs write to stderr whatever they like.
func (p *program) ping(ctx context.Context) error {
	answer := func() (struct{}, error) {
		if _, err := io.WriteString(p, "GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"); err != nil {
			return struct{}{}, err
		}
		resp, err := http.ReadResponse(p.out, nil)
		if err != nil {
			return struct{}{}, err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 4096))
		return struct{}{}, err
	}
	_, err := within(ctx, answer, func(struct{}) {})
	switch {
	case err == nil:
		p.pipe.N = math.MaxInt64
		return nil
	case ctx.Err() != nil:
		return p.lost(ctx, err)
	case p.pipe.N <= 0 || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return p.failed(err)
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		return p.lost(ctx, ctx.Err())
	}
	return p.failed(err)
}

// failed names why no engine answered through the program.
func (p *program) failed(err error) error {
	select {
	case <-p.ended:
		if p.exit != nil {
			err = p.exit
		}
	default:
	}
	status := -1 // it runs, or was killed
	var exit *ssh.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitStatus()
	}
	stderr := p.stderr.String()
	host, user := p.to.Host, p.to.User
	said := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(strings.ToLower(stderr), w) {
				return true
			}
		}
		return false
	}
	e := &ops.Error{Code: ops.Failed, Log: stderr, Err: err}
	switch {
	case said("permission denied") && said("docker.sock", "daemon socket", "docker api"):
		e.Code, e.Sentence = ops.Forbidden, fmt.Sprintf("User %s may not use Docker on %s", user, host)
		return e.Then("Run `usermod -aG docker %s` there as root, or name another user %s", user, p.to.where("--user"))
	case said("cannot connect to the docker daemon", "is the docker daemon running", "connection refused") ||
		said("dial unix", "docker api") && said("no such file"):
		e.Code, e.Sentence = ops.Unavailable, fmt.Sprintf("Docker is installed on %s, but its engine does not run", host)
		return e.Then("Start it there with `systemctl enable --now docker`")
	case status == 127, said("command not found", "docker: not found", "unknown command: docker"):
		e.Sentence = fmt.Sprintf("There is no Docker on %s that %s could use: neither %s nor the docker command", host, user, socket)
		return e.Then("Install Docker Engine there, https://docs.docker.com/engine/install/")
	case said("usage:", "unknown shorthand", "unknown flag", "is not a docker command", "unknown docker command"):
		e.Sentence = fmt.Sprintf("The docker command on %s is too old: it has no %q", host, dialStdio)
		return e.Then("Upgrade Docker there, or set `AllowStreamLocalForwarding yes` in its sshd_config")
	case status > 0:
		e.Sentence = fmt.Sprintf("%q failed on %s with exit status %d", dialStdio, host, status)
		return e.Then("Run it there as %s to see why", user)
	}
	e.Sentence = fmt.Sprintf("%q on %s does not speak as Docker does: the login of %s runs or prints something else", dialStdio, host, user)
	return e.Then("See to it that `ssh %s@%s true` prints nothing, or set `AllowStreamLocalForwarding yes` in its sshd_config", user, host)
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - tailSize; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(bytes.TrimSpace(t.text)), "?")
}

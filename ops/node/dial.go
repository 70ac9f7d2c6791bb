package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"waggle/ops"
)

// timeouts bound what is done on the network.
type timeouts struct {
	tcp       time.Duration // until a TCP connection is there, name lookup included
	handshake time.Duration // from there until the key is accepted
	write     time.Duration // a single write that the server does not take
	open      time.Duration // until there is a way to the engine of a server
	reach     time.Duration // for a connection that the server makes
	udp       time.Duration // for what comes back of a datagram
	alive     time.Duration // how often a tunnel's server is asked whether it is there, and how long it may take to say so
}

func defaultTimeouts() timeouts {
	return timeouts{tcp: 5 * time.Second, handshake: 10 * time.Second, write: 15 * time.Second,
		open: 8 * time.Second, reach: 5 * time.Second, udp: 700 * time.Millisecond, alive: 15 * time.Second}
}

// target is where to connect to.
type target struct {
	ops.Address
	setting string // that the address is from; "" when a person typed it
}

func (t target) hostPort() string { return net.JoinHostPort(t.Host, strconv.Itoa(t.Port)) }

// where says where another value of a flag is to be given.
func (t target) where(flag string) string {
	if t.setting != "" {
		return "in " + t.setting
	}
	return "with `" + flag + "`"
}

// dial connects and logs in. Errors are *ops.Error with a sentence for each
// cause; the one of check is kept in the chain.
func (s *Servers) dial(ctx context.Context, to target, algorithms []string, check ssh.HostKeyCallback) (*ssh.Client, error) {
	signer, err := s.key.signer(ctx)
	if err != nil {
		return nil, err
	}
	tcp, err := (&net.Dialer{Timeout: s.timeouts.tcp}).DialContext(ctx, "tcp", to.hostPort())
	if err != nil {
		return nil, unreachable(ctx, to, err)
	}
	conn := &wire{Conn: tcp, limit: s.timeouts.write}
	_ = tcp.SetReadDeadline(time.Now().Add(s.timeouts.handshake)) // fails only if closed, as the reads then do
	stop := context.AfterFunc(ctx, func() { _ = tcp.SetDeadline(time.Unix(1, 0)) })
	c, channels, requests, err := ssh.NewClientConn(conn, to.hostPort(), &ssh.ClientConfig{
		User:              to.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyAlgorithms: algorithms,
		HostKeyCallback:   check,
		ClientVersion:     "SSH-2.0-waggle",
	})
	if !stop() && err == nil { // ctx ended just now
		_ = c.Close()
		err = ctx.Err()
	}
	if err != nil {
		return nil, handshakeFailed(ctx, to, conn.greeting(), err)
	}
	_ = tcp.SetReadDeadline(time.Time{})
	return ssh.NewClient(c, channels, requests), nil
}

// dialKnown is dial to a server whose key is expected in these algorithms. One
// that has no key of theirs any more is asked for another, which check refuses.
func (s *Servers) dialKnown(ctx context.Context, to target, algorithms []string, check ssh.HostKeyCallback) (*ssh.Client, error) {
	client, err := s.dial(ctx, to, algorithms, check)
	var none *ssh.AlgorithmNegotiationError
	if errors.As(err, &none) && slices.Equal(none.SupportedAlgorithms, algorithms) {
		return s.dial(ctx, to, hostKeyAlgorithms(), check)
	}
	return client, err
}

// hangUp ends a connection. One that has ended already is no error.
func hangUp(c *ssh.Client) error {
	if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// unreachable names why there is no TCP connection.
func unreachable(ctx context.Context, to target, err error) error {
	port := strconv.Itoa(to.Port)
	var dns *net.DNSError
	var network net.Error
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return canceled(to)
	case errors.As(err, &dns) && dns.IsNotFound:
		return (&ops.Error{Code: ops.NotFound, Sentence: "No server is named " + to.Host, Err: err}).
			Then("Check the name, or give the server's address")
	case errors.As(err, &dns):
		return (&ops.Error{Code: ops.Unavailable, Sentence: "The name service does not tell the address of " + to.Host, Err: err}).
			Then("Give the server's address instead of its name, or try again later")
	case errors.Is(err, syscall.ECONNREFUSED):
		return (&ops.Error{Code: ops.Unavailable, Sentence: fmt.Sprintf("%s is there, but nothing listens on its port %s: the connection was refused", to.Host, port), Err: err}).
			Then("Start sshd there, or name its port %s", to.where("--port"))
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return (&ops.Error{Code: ops.Unavailable, Sentence: "There is no way from here to " + to.Host, Err: err}).
			Then("Check the address, and that the server is up and in a network that this machine reaches")
	case errors.As(err, &network) && network.Timeout(), ctx.Err() != nil:
		return (&ops.Error{Code: ops.Unavailable, Sentence: fmt.Sprintf("%s does not answer on port %s", to.Host, port), Err: err}).
			Then("Check the address, that the server is up, and that no firewall drops what this machine sends to its port %s", port)
	}
	return (&ops.Error{Code: ops.Unavailable, Sentence: fmt.Sprintf("There is no connection to port %s of %s", port, to.Host), Err: err}).
		Then("Check the address, and that the server is up")
}

// handshakeFailed names why there is no SSH connection on a TCP connection.
// greeting is the beginning of what the server said.
func handshakeFailed(ctx context.Context, to target, greeting string, err error) error {
	port := strconv.Itoa(to.Port)
	isSSH := slices.ContainsFunc(strings.Split(greeting, "\n"), func(line string) bool { return strings.HasPrefix(line, "SSH-") })
	var none *ssh.AlgorithmNegotiationError
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return canceled(to)
	case errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil:
		return (&ops.Error{Code: ops.Unavailable, Sentence: fmt.Sprintf("%s accepts connections on port %s and then hangs: SSH got no answer", to.Host, port), Err: err}).
			Then("See whether sshd is well there, and restart it")
	case greeting != "" && !isSSH:
		return (&ops.Error{Code: ops.Failed, Sentence: fmt.Sprintf("What listens on port %s of %s is not an SSH server", port, to.Host), Err: err}).
			Then("Name the port of its sshd %s", to.where("--port"))
	case strings.Contains(err.Error(), "unable to authenticate"), strings.Contains(err.Error(), "Too many authentication failures"):
		e := &ops.Error{Code: ops.Forbidden, Sentence: fmt.Sprintf("%s does not let Waggle's key in as user %s", to.Host, to.User), Err: err}
		return e.Then("Add the line that `/join-node key` shows to ~/.ssh/authorized_keys of %s there, or name another user %s", to.User, to.where("--user"))
	case errors.As(err, &none):
		return (&ops.Error{Code: ops.Failed, Sentence: fmt.Sprintf("The SSH server of %s has no %s in common with Waggle: it is too old, or set up too narrowly", to.Host, none.What), Err: err}).
			Then("Upgrade sshd there, or allow it a current algorithm")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return (&ops.Error{Code: ops.Unavailable, Sentence: fmt.Sprintf("%s closed the SSH connection before Waggle could log in", to.Host), Err: err}).
			Then("See its sshd's log: it may have too many connections, or ban this machine")
	}
	return (&ops.Error{Code: ops.Failed, Sentence: "The SSH connection to " + to.Host + " could not be set up", Err: err}).
		Then("See the log of sshd there")
}

func canceled(to target) error {
	return &ops.Error{Code: ops.Canceled, Sentence: "Called off: connect to " + to.Host, Err: context.Canceled}
}

// wire is the TCP connection below SSH. No write on it blocks for long, whatever
// the server does: closing a channel is a write too. What comes is acknowledged
// at once: after the login sshd sends two small packets in a row, and by Nagle's
// algorithm keeps the second until then, which would take 40 ms. It remembers how
// the server began.
type wire struct {
	net.Conn
	limit time.Duration

	mu    sync.Mutex
	heard []byte
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if c, ok := w.Conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			// Not kept by the kernel for long; one that fails costs only time.
			_ = raw.Control(func(fd uintptr) {
				_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
			})
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if room := 256 - len(w.heard); room > 0 {
		w.heard = append(w.heard, p[:min(n, room)]...)
	}
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	err := w.SetWriteDeadline(time.Now().Add(w.limit))
	n := 0
	if err == nil {
		n, err = w.Conn.Write(p)
	}
	if err != nil {
		_ = w.Close() // half a packet: nothing can follow it
	}
	return n, err
}

func (w *wire) greeting() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.heard)
}

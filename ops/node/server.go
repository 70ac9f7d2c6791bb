package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"waggle/ops"
	"waggle/ops/swarm"
)

// Server is a machine with an open SSH connection. It is safe for concurrent use.
type Server struct {
	ssh     *ssh.Client
	addr    ops.Address
	hostKey ops.HostKey
	docker  *swarm.Client
	limit   timeouts
}

var _ ops.Server = (*Server)(nil)

func (s *Servers) newServer(c *ssh.Client, addr ops.Address, key ops.HostKey) (*Server, error) {
	e := newEngine(c, target{Address: addr}, s.log, s.timeouts)
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := e.dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &bounded{Conn: conn, left: mostAnswers}, nil
	}
	docker, err := swarm.Dial(swarm.Options{Host: addr.Host, Dial: dial, Log: s.log, Now: s.now})
	if err != nil {
		return nil, err
	}
	return &Server{ssh: c, addr: addr, hostKey: key, docker: docker, limit: s.timeouts}, nil
}

// HostKey is the key that the server showed.
func (s *Server) HostKey() ops.HostKey { return s.hostKey }

// Close ends the connection, and with it every call that is in flight.
func (s *Server) Close() error {
	return errors.Join(s.docker.Close(), hangUp(s.ssh))
}

// Machine reads the server's engine.
func (s *Server) Machine(ctx context.Context) (ops.Machine, error) { return s.docker.Machine(ctx) }

// Images lists the images of the server's engine.
func (s *Server) Images(ctx context.Context) ([]ops.LocalImage, error) { return s.docker.Images(ctx) }

// RemoveVolume removes a volume of the server's engine.
func (s *Server) RemoveVolume(ctx context.Context, name string) error {
	return s.docker.RemoveVolume(ctx, name)
}

// RemoveImage takes one name off an image of the server's engine.
func (s *Server) RemoveImage(ctx context.Context, name string) error {
	return s.docker.RemoveImage(ctx, name)
}

// LeaveSwarm has the engine leave its swarm.
func (s *Server) LeaveSwarm(ctx context.Context, force bool) error {
	return s.docker.LeaveSwarm(ctx, force)
}

// JoinSwarm has the engine join. An engine dials only the first manager that it
// is given, so that is one which the server reaches. When it reaches none, the
// engine is not even asked.
func (s *Server) JoinSwarm(ctx context.Context, j ops.Join) error {
	first, err := s.firstReached(ctx, j.Managers)
	if err != nil {
		return err
	}
	if first > 0 {
		j.Managers = slices.Concat(j.Managers[first:first+1], j.Managers[:first], j.Managers[first+1:])
	}
	return s.docker.JoinSwarm(ctx, j)
}

// firstReached returns the first of the addresses that is not closed to the
// server: one of which that cannot be told is for the engine to try. The error,
// when all are, is Failed with the cause of the first.
func (s *Server) firstReached(ctx context.Context, addresses []string) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the tries that nobody waits for
	tries := make([]chan error, len(addresses))
	for i, address := range addresses {
		tries[i] = make(chan error, 1)
		go func() { tries[i] <- s.Reaches(ctx, address) }()
	}
	var closed *ops.Error
	for i := range tries {
		var e *ops.Error
		if err := <-tries[i]; !errors.As(err, &e) || e.Code != ops.Unavailable {
			return i, nil
		}
		if closed == nil {
			closed = e
		}
	}
	if closed == nil {
		return 0, nil // there are none
	}
	final := *closed
	final.Code = ops.Failed // nothing goes on
	return 0, &final
}

// Reaches opens a connection from the server; see ops.Server.
func (s *Server) Reaches(ctx context.Context, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return &ops.Error{Code: ops.Invalid, Sentence: fmt.Sprintf("%q is not host:port", address), Err: err}
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return &ops.Error{Code: ops.Invalid, Sentence: fmt.Sprintf("%q has a wrong port", address), Err: err}
	}
	limited, cancel := context.WithTimeout(ctx, s.limit.reach)
	defer cancel()
	conn, err := s.ssh.DialContext(limited, "tcp", net.JoinHostPort(host, port))
	if err == nil {
		_ = conn.Close() // it was there
		return nil
	}
	closed := func(format string, args ...any) *ops.Error {
		e := &ops.Error{Code: ops.Unavailable, Sentence: fmt.Sprintf(format, args...), Err: err}
		return e.Then("Open TCP %s there to %s, in every firewall in between", port, s.addr.Host)
	}
	var refused *ssh.OpenChannelError
	if errors.As(err, &refused) {
		why := strings.ToLower(refused.Message)
		switch {
		case refused.Reason == ssh.Prohibited || refused.Reason == ssh.UnknownChannelType:
			return (&ops.Error{Code: ops.Forbidden, Sentence: fmt.Sprintf("The SSH server of %s forbids to try whether it reaches %s", s.addr.Host, address), Err: err}).
				Then("Set `AllowTcpForwarding local` in its sshd_config if that is to be checked")
		case strings.Contains(why, "refused"):
			return closed("%s reaches %s, but nothing listens on its port %s: the connection was refused", s.addr.Host, host, port)
		case strings.Contains(why, "no route"), strings.Contains(why, "unreachable"):
			return closed("There is no way from %s to %s", s.addr.Host, host)
		case strings.Contains(why, "timed out"):
			return closed("%s gets no answer from %s on port %s", s.addr.Host, host, port)
		case strings.Contains(why, "name or service not known"), strings.Contains(why, "name resolution"), strings.Contains(why, "no address"):
			return closed("%s cannot find the address of %s", s.addr.Host, host)
		}
		if refused.Reason == ssh.ConnectionFailed {
			return closed("%s gets no connection to %s", s.addr.Host, address)
		}
		return &ops.Error{Code: ops.Failed, Sentence: fmt.Sprintf("Whether %s reaches %s could not be tried", s.addr.Host, address), Err: err}
	}
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return &ops.Error{Code: ops.Canceled, Sentence: "Called off: see whether " + s.addr.Host + " reaches " + address, Err: context.Canceled}
	case ctx.Err() != nil:
		return &ops.Error{Code: ops.Failed, Sentence: fmt.Sprintf("There was no time to see whether %s reaches %s", s.addr.Host, address), Err: err}
	case limited.Err() != nil:
		return closed("%s gets no answer from %s on port %s", s.addr.Host, host, port)
	}
	return (&ops.Error{Code: ops.Failed, Sentence: "The SSH connection to " + s.addr.Host + " broke", Err: err}).Then("Try again")
}

// mostAnswers is how much an engine may say on one connection. The server may be
// anybody's, and its answers are decoded in memory.
const mostAnswers = 4 << 20

// bounded is a connection of which only so much is read.
type bounded struct {
	net.Conn
	left int64
}

var errTalksTooMuch = errors.New("the engine says more than any engine would")

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTalksTooMuch
	}
	n, err := b.Conn.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

package simulate

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
)

// redisServer is the embedded Redis, reached by function calls: a goroutine that waits for a
// socket stops virtual time.
type redisServer struct {
	*miniredis.Miniredis
	dispatch *server.Server

	mu      sync.Mutex
	waiting map[string]chan struct{} // by key of a list: closed when it gets an entry
}

func newRedisServer() (*redisServer, error) {
	m := miniredis.NewMiniRedis()
	c, err := m.Dial() // starts it without a listener
	if err != nil {
		return nil, err
	}
	return &redisServer{Miniredis: m, dispatch: m.Server(), waiting: map[string]chan struct{}{}}, c.Close()
}

// filled returns a channel that is closed when the list gets an entry, nil if it has one now.
func (s *redisServer) filled(key string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Exists(key) {
		return nil
	}
	c := s.waiting[key]
	if c == nil {
		c = make(chan struct{})
		s.waiting[key] = c
	}
	return c
}

func (s *redisServer) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, c := range s.waiting {
		if s.Exists(key) {
			close(c)
			delete(s.waiting, key)
		}
	}
}

// idlePoll is the length of a long poll: a worker's look at an empty queue is answered when
// there is a job. Real short polls would cost most of the run's time.
const idlePoll = 2 * time.Second

// conn is one connection of a replica. A command is executed while the client writes it.
type conn struct {
	r    *replica
	open bool // not gated, without latency
	peer *server.Peer

	mu       sync.Mutex
	in       bytes.Buffer // the beginning of a command
	out      bytes.Buffer
	deadline time.Time // for reading
	ready    chan struct{}
	closed   bool
	broken   bool // the server went away
}

func (r *replica) dial() (net.Conn, error) {
	if err := r.pass(); err != nil {
		return nil, err
	}
	time.Sleep(r.latency("dial"))
	if r.w.redisAway() {
		time.Sleep(20 * time.Millisecond)
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	return r.conn(false), nil
}

func (r *replica) conn(open bool) *conn {
	c := &conn{r: r, open: open, ready: make(chan struct{}, 1)}
	c.peer = server.NewPeer(bufio.NewWriter((*answers)(c)))
	return c
}

// answers is the server's side of a conn.
type answers conn

func (a *answers) Write(p []byte) (int, error) {
	c := (*conn)(a)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Write(p)
	c.signal()
	return len(p), nil
}

func (c *conn) signal() {
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.in.Write(p)
	c.mu.Unlock()
	for {
		c.mu.Lock()
		args, n := parse(c.in.Bytes())
		if n > 0 {
			c.in.Next(n)
		}
		c.mu.Unlock()
		if n == 0 {
			return len(p), nil
		}
		if err := c.do(args); err != nil {
			return 0, err
		}
	}
}

// do executes one command.
func (c *conn) do(args []string) error {
	w, cmd := c.r.w, strings.ToUpper(args[0])
	keys := keysOf(cmd, args)
	if !c.open {
		if err := c.r.pass(); err != nil {
			return err
		}
	}
	switch {
	case c.open && cmd == "SUBSCRIBE":
		// The only channel is the queue library's for cancelled jobs. Nobody publishes there.
		c.answer(fmt.Sprintf("*3\r\n$9\r\nsubscribe\r\n$%d\r\n%s\r\n:1\r\n", len(args[1]), args[1]))
		return nil
	case c.open:
		w.redis.dispatch.Dispatch(c.peer, args)
		c.peer.Flush()
		return nil
	case isDequeue(keys):
		if filled := w.redis.filled(keys[0]); filled != nil {
			idle := time.NewTimer(idlePoll)
			select {
			case <-filled:
			case <-idle.C:
			case <-w.end:
			}
			idle.Stop()
			if err := c.r.pass(); err != nil {
				return err
			}
		}
	}
	time.Sleep(c.r.latency(cmd + " " + strings.Join(keys, " ")))
	if err := c.r.pass(); err != nil {
		return err
	}
	lost := false
	if w.redisAway() {
		// A command on its way may have been executed.
		lost = w.chance(4, "redis", c.r.name, cmd, w.now())
		if !lost {
			time.Sleep(50 * time.Millisecond)
			c.breakOff()
			return &net.OpError{Op: "write", Net: "tcp", Err: errors.New("connection reset by peer")}
		}
	}
	if reply, ok := w.redis.idle(keys, args); ok {
		c.answer(reply)
		return nil
	}
	counted := c.counts(cmd, keys)
	if counted {
		if err := w.failpoint(c.r, pointRedis, before); err != nil {
			return err
		}
	}
	w.redis.dispatch.Dispatch(c.peer, args)
	if lost {
		c.breakOff()
		return nil
	}
	c.peer.Flush()
	if cmd == "EVAL" || cmd == "EVALSHA" {
		w.redis.wake()
	}
	if counted {
		return w.failpoint(c.r, pointRedis, after)
	}
	return nil
}

// counts reports whether the command is a failpoint: a write of Waggle's own keys, locks
// excepted.
func (c *conn) counts(cmd string, keys []string) bool {
	if len(keys) == 0 || !strings.HasPrefix(keys[0], "waggle:") || strings.HasPrefix(keys[0], "waggle:lock:") ||
		strings.HasPrefix(keys[0], "waggle:asynq:") {
		return false
	}
	return !c.r.w.redis.IsReadOnlyCommand(cmd)
}

func (c *conn) answer(text string) {
	_, _ = (*answers)(c).Write([]byte(text))
}

func (c *conn) breakOff() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = true
	c.signal()
}

// Read waits for answers. Deadlines do not expire while the replica sleeps: a stopped process
// finds the answer when it continues.
func (c *conn) Read(p []byte) (int, error) {
	for {
		if !c.open {
			if err := c.r.pass(); err != nil {
				return 0, err
			}
		}
		c.mu.Lock()
		n, _ := c.out.Read(p)
		closed, broken, deadline := c.closed, c.broken, c.deadline
		c.mu.Unlock()
		switch {
		case n > 0:
			return n, nil
		case closed:
			return 0, net.ErrClosed
		case broken:
			return 0, io.EOF
		}
		var late <-chan time.Time
		if !deadline.IsZero() {
			t := time.NewTimer(time.Until(deadline))
			defer t.Stop()
			late = t.C
		}
		end := c.r.w.end
		if c.open {
			end = nil // it is closed like any other, or it would be made anew for ever
		}
		select {
		case <-c.ready:
		case <-late:
			return 0, os.ErrDeadlineExceeded
		case <-end:
			time.Sleep(time.Millisecond)
			return 0, errEnd
		}
	}
}

func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.signal()
	return nil
}

func (c *conn) SetDeadline(t time.Time) error {
	return c.SetReadDeadline(t)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return nil
}

func (*conn) SetWriteDeadline(time.Time) error { return nil }
func (*conn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*conn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

// parse decodes the RESP command at the beginning of b and returns its arguments and length, 0
// if it is incomplete.
func parse(b []byte) ([]string, int) {
	line := func(from int, kind byte) (n, next int) {
		i := bytes.Index(b[min(from, len(b)):], []byte("\r\n"))
		if i < 1 || b[from] != kind {
			return 0, 0
		}
		n, err := strconv.Atoi(string(b[from+1 : from+i]))
		if err != nil {
			return 0, 0
		}
		return n, from + i + 2
	}
	words, at := line(0, '*')
	if at == 0 {
		return nil, 0
	}
	args := make([]string, 0, words)
	for range words {
		size, next := line(at, '$')
		if next == 0 || len(b) < next+size+2 {
			return nil, 0
		}
		args = append(args, string(b[next:next+size]))
		at = next + size + 2
	}
	return args, at
}

// keysOf returns the keys of a command: all of a script, else the first argument.
func keysOf(cmd string, args []string) []string {
	switch {
	case (cmd == "EVALSHA" || cmd == "EVAL") && len(args) > 2:
		n, err := strconv.Atoi(args[2])
		if err != nil || len(args) < 3+n {
			return nil
		}
		return args[3 : 3+n]
	case len(args) > 1:
		return args[1:2]
	}
	return nil
}

func isDequeue(keys []string) bool {
	return len(keys) == 4 && strings.HasSuffix(keys[0], ":pending") && strings.HasSuffix(keys[1], ":paused")
}

// idle answers the queue library's polls without running their Lua script when nothing is due,
// and its heartbeats, which nobody reads. They are nearly all of the traffic, and a script costs
// a new Lua state.
func (s *redisServer) idle(keys, args []string) (reply string, ok bool) {
	if args[0] != "evalsha" || len(keys) == 0 || !strings.HasPrefix(keys[0], "waggle:asynq:") {
		return "", false
	}
	first := keys[0]
	ends := func(suffix string) bool { return strings.HasSuffix(first, suffix) }
	switch {
	case isDequeue(keys):
		return "_\r\n", !s.Exists(first)
	case len(keys) == 2 && strings.HasPrefix(first, "waggle:asynq:servers:"):
		return "+OK\r\n", true
	case len(keys) == 2 && (ends(":retry") || ends(":scheduled")) && strings.HasSuffix(keys[1], ":pending") &&
		len(args) == 9:
		return ":0\r\n", !s.due(first, args[5])
	case len(keys) == 1 && ends(":completed") && len(args) == 7:
		return ":0\r\n", !s.due(first, args[4])
	case len(keys) == 1 && ends(":lease") && len(args) == 6:
		return "*0\r\n", !s.due(first, args[4])
	case len(keys) == 1 && ends(":active"):
		return "*0\r\n", !s.Exists(first)
	}
	return "", false
}

// due reports whether a sorted set has an entry with a score up to now.
func (s *redisServer) due(key, now string) bool {
	if !s.Exists(key) {
		return false
	}
	var reply bytes.Buffer
	peer := server.NewPeer(bufio.NewWriter(&reply))
	s.dispatch.Dispatch(peer, []string{"ZCOUNT", key, "-inf", now})
	peer.Flush()
	return reply.String() != ":0\r\n"
}

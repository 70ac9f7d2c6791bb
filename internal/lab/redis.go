package lab

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Redis is a real redis-server on a loopback port. It needs no root.
type Redis struct {
	Addr string // host:port
	URL  string // redis://…

	dir  string
	port int
	aof  bool
	proc *proc
}

// RedisOption changes how StartRedis starts its server.
type RedisOption func(*Redis)

// AppendOnly makes the server write each command to disk before it answers, so
// that nothing acknowledged is lost by Kill and Restart.
func AppendOnly() RedisOption { return func(r *Redis) { r.aof = true } }

// StartRedis starts a server that keeps its files in dir. The caller must Stop it.
func StartRedis(ctx context.Context, dir string, opts ...RedisOption) (*Redis, error) {
	if _, err := lookPath("redis-server"); err != nil {
		if err := require(ctx, []tool{{"redis-server", "redis-server"}}, func(string, ...any) {}); err != nil {
			return nil, fmt.Errorf("redis-server is missing: apt-get install --no-install-recommends redis-server: %w", err)
		}
	}
	r := &Redis{dir: dir}
	for _, o := range opts {
		o(r)
	}
	var err error
	for range 5 { // somebody may take the free port before the server does
		if r.port, err = FreePort(); err != nil {
			return nil, fmt.Errorf("starting redis: %w", err)
		}
		r.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port))
		r.URL = "redis://" + r.Addr + "/0"
		if err = r.Start(ctx); err == nil {
			return r, nil
		}
		r.Kill()
	}
	return nil, err
}

// Start starts the server again, on the same port and with the same files.
func (r *Redis) Start(ctx context.Context) error {
	if r.proc != nil && r.proc.running() {
		return nil
	}
	path, err := lookPath("redis-server")
	if err != nil {
		return err
	}
	log := filepath.Join(r.dir, "redis.log")
	if err := os.Remove(log); err != nil && !os.IsNotExist(err) { // an old "Ready" is not this one's
		return fmt.Errorf("starting redis: %w", err)
	}
	args := []string{"--port", strconv.Itoa(r.port), "--bind", "127.0.0.1", "--dir", r.dir, "--save", ""}
	if r.aof {
		args = append(args, "--appendonly", "yes", "--appendfsync", "always")
	}
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Dir = cleanEnv(), r.dir
	if r.proc, err = startProc("redis-server on "+r.Addr, cmd, log); err != nil {
		return err
	}
	return r.proc.until(ctx, 10*time.Second, func(ctx context.Context) error {
		// Not only a PING: on a port taken meanwhile somebody else's server answers.
		if b, err := os.ReadFile(log); err != nil || !strings.Contains(string(b), "Ready to accept connections") {
			return fmt.Errorf("redis has not said that it is ready: %w", err)
		}
		return r.ping(ctx)
	})
}

func (r *Redis) ping(ctx context.Context) error {
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(ctx, "tcp", r.Addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && !strings.HasPrefix(line, "+PONG") {
		err = fmt.Errorf("redis answers %q", strings.TrimSpace(line)) // LOADING, at first
	}
	return err
}

// Stop ends the server in good order.
func (r *Redis) Stop() { r.end(syscall.SIGTERM) }

// Kill ends the server at once.
func (r *Redis) Kill() { r.end(syscall.SIGKILL) }

func (r *Redis) end(sig syscall.Signal) {
	if r.proc != nil {
		r.proc.stop(sig, 5*time.Second)
	}
}

// Freeze stops the server where it is: it takes connections and answers nothing.
func (r *Redis) Freeze() error { return r.proc.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw lets a frozen server go on.
func (r *Redis) Thaw() error { return r.proc.cmd.Process.Signal(syscall.SIGCONT) }

// Restart stops the server and starts it again.
func (r *Redis) Restart(ctx context.Context) error {
	r.Stop()
	return r.Start(ctx)
}

// FreePort returns a loopback port that is free now. It is below the range that the kernel
// takes ports from for connections and for listeners that ask for any: one of those could have
// it before it is listened on, or between a kill and the next start.
func FreePort() (int, error) {
	var last error
	for range 100 {
		port := 20000 + rand.IntN(12000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if last = err; err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("finding a free port: %w", last)
}

// Package rig runs a real Waggle for tests and the demo: the binary itself, as
// its own process, with settings from the environment.
package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"waggle/internal/lab"
)

// Waggle is a running `waggle serve`.
type Waggle struct {
	URL     string // http://127.0.0.1:port
	Cmd     *exec.Cmd
	ReadyIn time.Duration // from the start of the process to ready

	log  *logs
	done chan struct{} // closed when the process has ended
	err  error         // how it ended; set before done is closed
}

// FreeAddr returns a loopback address whose port is free, now and when Waggle is started
// there again.
func FreeAddr() (string, error) {
	port, err := lab.FreePort()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

// Start runs the binary with these settings (WAGGLE_… variables), and waits
// until it is ready, or, if not so asked, until it is alive. Its log is kept, and
// goes to w too unless that is nil. The caller must Stop or Kill it.
func Start(ctx context.Context, binary, addr string, settings map[string]string, w io.Writer, ready bool) (*Waggle, error) {
	g := &Waggle{URL: "http://" + addr, Cmd: exec.Command(binary, "serve"), log: &logs{also: w}, done: make(chan struct{})}
	g.Cmd.Env = append(cleanEnv(), "WAGGLE_LISTEN="+addr)
	for k, v := range settings {
		g.Cmd.Env = append(g.Cmd.Env, k+"="+v)
	}
	g.Cmd.Stdout, g.Cmd.Stderr = g.log, g.log
	begin := time.Now()
	if err := g.Cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	go func() {
		g.err = g.Cmd.Wait()
		close(g.done)
	}()
	page := "/healthz"
	if ready {
		page = "/readyz"
	}
	if err := g.await(ctx, page); err != nil {
		g.Kill()
		return nil, fmt.Errorf("waggle: %w; its log:\n%s", err, g.Log())
	}
	g.ReadyIn = time.Since(begin)
	return g, nil
}

// cleanEnv is this process's environment without Waggle's settings.
func cleanEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "WAGGLE_") && !strings.HasPrefix(kv, "DOCKER_") {
			env = append(env, kv)
		}
	}
	return env
}

func (g *Waggle) await(ctx context.Context, page string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	last := "nothing answers"
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.URL+page, nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			last = string(body)
		}
		select {
		case <-tick.C:
		case <-g.done:
			return fmt.Errorf("it ended: %v", g.err)
		case <-ctx.Done():
			return fmt.Errorf("not ready in time: %s", last)
		}
	}
}

// Log returns all it has logged.
func (g *Waggle) Log() string { return g.log.String() }

// Ended is closed when the process has ended, by whatever.
func (g *Waggle) Ended() <-chan struct{} { return g.done }

// Stop ends it in good order and says how it went.
func (g *Waggle) Stop() error {
	_ = g.Cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-g.done:
		return g.err
	case <-time.After(20 * time.Second):
		g.Kill()
		return errors.New("waggle did not stop within 20 s of SIGTERM")
	}
}

// Kill ends it at once, as a crash would.
func (g *Waggle) Kill() {
	_ = g.Cmd.Process.Kill() // it may have ended
	<-g.done
}

// logs is a log that can be read while it is written.
type logs struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	also io.Writer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.also != nil {
		_, _ = l.also.Write(p)
	}
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

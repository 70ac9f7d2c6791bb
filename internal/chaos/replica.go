package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"waggle/internal/rig"
)

// restartAfter is how long a dead replica stays away, about as long as swarm's restart delay.
const restartAfter = time.Second

// replica is one Waggle of a cell, started again and again at the same address.
type replica struct {
	cell *cell
	name string
	addr string
	host string // its engine

	mu      sync.Mutex
	process *rig.Waggle // nil before the first start
	began   time.Time   // when that was up
	frozen  bool
	keep    bool // start it again when it dies
	log     log
}

// log is what all processes of a replica have logged, one after the other.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// start starts the replica; failpoint is WAGGLE_FAILPOINT, keep has it started again when it dies.
func (r *replica) start(ctx context.Context, failpoint string, keep bool) error {
	settings := maps.Clone(r.cell.settings)
	settings["WAGGLE_DOCKER_HOST"] = r.host
	if failpoint != "" {
		settings["WAGGLE_FAILPOINT"] = failpoint
	}
	fmt.Fprintf(&r.log, "%s -- started, fail point %q\n", time.Now().Format(time.RFC3339Nano), failpoint)
	p, err := rig.Start(ctx, r.cell.binary, r.addr, settings, &r.log, false)
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	r.mu.Lock()
	r.process, r.began, r.frozen, r.keep = p, time.Now(), false, keep
	r.mu.Unlock()
	r.cell.watching.Go(func() { r.watch(ctx, p) })
	return nil
}

func (r *replica) watch(ctx context.Context, p *rig.Waggle) {
	<-p.Ended()
	fmt.Fprintf(&r.log, "%s -- ended: %v\n", time.Now().Format(time.RFC3339Nano), p.Cmd.ProcessState)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(restartAfter):
		}
		r.mu.Lock()
		again := r.keep && r.process == p
		r.mu.Unlock()
		if !again || r.start(ctx, "", true) == nil {
			return
		}
	}
}

// alive says whether the replica may answer.
func (r *replica) alive() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.process != nil && !r.frozen && !ended(r.process)
}

func ended(p *rig.Waggle) bool {
	select {
	case <-p.Ended():
		return true
	default:
		return false
	}
}

func (r *replica) current() *rig.Waggle {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.process
}

func (r *replica) since() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.began
}

// kill ends its process as a crash does.
func (r *replica) kill() { r.current().Kill() }

// terminate ends its process in good order.
func (r *replica) terminate() error { return r.current().Stop() }

func (r *replica) freeze() error {
	r.mu.Lock()
	r.frozen = true
	r.mu.Unlock()
	return r.current().Cmd.Process.Signal(syscall.SIGSTOP)
}

func (r *replica) thaw() error {
	err := r.current().Cmd.Process.Signal(syscall.SIGCONT)
	r.mu.Lock()
	r.frozen = false
	r.mu.Unlock()
	return err
}

// halted waits until the process has ended at its fail point, or has stopped there.
func (r *replica) halted(ctx context.Context, stops bool, within time.Duration) error {
	p := r.current()
	return until(ctx, within, r.name+" reaches its fail point", func() bool {
		if ended(p) {
			return true
		}
		if stops && processState(p.Cmd.Process.Pid) == "T" {
			r.mu.Lock()
			r.frozen = true
			r.mu.Unlock()
			return true
		}
		return false
	})
}

// close ends the replica for good.
func (r *replica) close() {
	r.mu.Lock()
	r.keep = false
	p := r.process
	r.mu.Unlock()
	if p != nil {
		p.Kill()
	}
}

// balancer is the one address of all replicas of a cell, as swarm's routing mesh is.
type balancer struct {
	cell   *cell
	next   atomic.Int64
	client *http.Client
}

func (b *balancer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	first := int(b.next.Add(1))
	for i := range b.cell.replicas {
		r := b.cell.replicas[(first+i)%len(b.cell.replicas)]
		if !r.alive() {
			continue
		}
		out, err := http.NewRequestWithContext(req.Context(), req.Method, "http://"+r.addr+req.URL.RequestURI(), bytes.NewReader(body))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		out.Header = req.Header.Clone()
		resp, err := b.client.Do(out)
		if err != nil && strings.Contains(err.Error(), "connection refused") {
			continue // it took nothing
		} else if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		maps.Copy(w.Header(), resp.Header)
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body) // else the client has gone
		return
	}
	http.Error(w, "no replica is up", http.StatusBadGateway)
}

// Package simulate runs the whole engine in one process on virtual time: two replicas of
// Waggle with their queues, locks and sweeps on an embedded Redis, and a model of a swarm, a
// forge and Slack that fail. A seed decides what is asked for, what fails and when a replica
// dies or sleeps. The checks look at the history alone.
//
// A run is nearly deterministic: the queue library and Go's scheduler use random numbers of
// their own, but every call has a latency that the seed decides, so that two things hardly
// happen at the same time.
package simulate

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// settles is how long the engine may take to settle after the last fault.
const settles = 3 * time.Minute

// result is one run.
type result struct {
	plan       *plan
	history    history
	violations []violation
	took       time.Duration // of virtual time
}

// short returns the plan and the violations.
func (r result) short() string {
	var b strings.Builder
	b.WriteString(r.plan.String())
	for _, v := range r.violations {
		b.WriteString("\n  " + v.String())
	}
	return b.String()
}

// String returns the whole history, too.
func (r result) String() string { return r.short() + "\n" + r.history.String() }

// run runs a plan. It must be called in a bubble of testing/synctest. dir contains the
// repository's files.
func run(p *plan, dir string, handler slog.Handler) (result, error) {
	redis, err := newRedisServer()
	if err != nil {
		return result{}, err
	}
	w := &world{
		plan: p, redis: redis, dir: dir, handler: handler, began: time.Now(), end: make(chan struct{}),
		counts: map[point]int{}, pushed: map[int]time.Duration{}, asked: map[string]bool{}, history: newHistory(),
	}
	w.swarm = newSwarm(w)
	for name, svc := range w.swarm.services {
		w.history.start[name] = svc.spec
	}
	for range 2 {
		w.start()
	}
	w.ask()
	w.people.Go(w.move)
	time.Sleep(p.ends - w.since())
	w.mu.Lock()
	w.quiet = true
	w.log("", "no more faults")
	w.mu.Unlock()
	for limit := w.since() + settles; !w.settled() && w.since() < limit; {
		time.Sleep(time.Second)
	}
	w.stop()
	redis.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	return result{plan: p, history: w.history, violations: w.history.check(), took: w.since()}, nil
}

// move advances the swarm model and expires keys in Redis, in the steps of store.Embedded.
func (w *world) move() {
	const step = 250 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-w.end:
			return
		}
		w.swarm.move()
		w.redis.FastForward(step)
	}
}

// settled reports whether every request has ended and nothing is left over. It is the only
// place that knows the names of Waggle's keys.
func (w *world) settled() bool {
	var left []string
	for _, key := range w.redis.Keys() {
		switch {
		case strings.HasPrefix(key, "waggle:lock:"), strings.HasPrefix(key, "waggle:applying:"),
			key == "waggle:inflight", key == "waggle:pending", key == "waggle:outbox":
			left = append(left, key)
		case strings.HasPrefix(key, "waggle:asynq:"):
			// Unfinished jobs. Other keys of the queue library stay.
			i := strings.LastIndexByte(key, ':')
			if slices.Contains([]string{"pending", "active", "retry", "scheduled", "archived"}, key[i+1:]) {
				left = append(left, key)
			}
		}
	}
	w.mu.Lock()
	w.history.left = left
	ready := w.redis.Exists("waggle:audit") || len(w.history.ops) == 0
	w.mu.Unlock()
	if r := w.pick(0); r != nil && ready {
		entries, err := r.runner.Audit(context.Background(), "", 1000)
		if err != nil {
			return false
		}
		w.mu.Lock()
		w.history.audit = entries
		w.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asking == 0 && len(w.history.pending()) == 0
}

// stop stops the live replicas, then ends the run, so that the calls of dead ones return, and
// stops those.
func (w *world) stop() {
	stopped := map[*replica]bool{}
	stop := func(which func(*replica) bool) {
		w.mu.Lock()
		replicas := slices.Clone(w.replicas)
		w.mu.Unlock()
		var all sync.WaitGroup
		for _, r := range replicas {
			if !stopped[r] && which(r) {
				stopped[r] = true
				all.Go(r.stop)
			}
		}
		all.Wait()
	}
	stop((*replica).alive)
	close(w.end)
	w.people.Wait()
	stop(func(*replica) bool { return true }) // also one that has just replaced a dead one
	time.Sleep(time.Minute)                   // the pools' dialers notice at their next retry that they are closed
}

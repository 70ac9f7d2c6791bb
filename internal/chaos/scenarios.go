package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"waggle/internal/lab"
	"waggle/internal/workspace"
)

// steps are the fail points of the mechanism, in their order; TestSteps holds them against its source.
var steps = []string{"begun", "prepared", "pending", "applying", "applied", "followed", "final", "told"}

// env is what scenarios run with.
type env struct {
	lab    *lab.Lab
	binary string // built with -tags failpoint
	key    string // WAGGLE_SECRET_KEY of all
	seed   uint64

	kills  int           // of the scenario kill
	times  int           // how often each fail point, and each of the other disturbances
	pause  time.Duration // how long a frozen replica sleeps
	away   time.Duration // how long Redis does not answer
	slack  time.Duration // how long Slack is away
	soak   time.Duration
	engine sync.Mutex // held while an engine is away
	serial int        // of cells
	mu     sync.Mutex
}

func (e *env) cellName(prefix string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.serial++
	return fmt.Sprintf("%s%d", prefix, e.serial)
}

func (e *env) random(scenario string) *rand.Rand {
	var salt uint64
	for _, b := range []byte(scenario) {
		salt = salt*31 + uint64(b)
	}
	return rand.New(rand.NewPCG(e.seed, salt))
}

// result is how a scenario went.
type result struct {
	name     string
	done     int // disturbances
	changes  int
	took     time.Duration
	takeUp   time.Duration // the slowest
	slowest  time.Duration // acknowledgement
	longest  time.Duration // from asked to told
	slow     string        // which that was
	unheard  int
	returned time.Duration // until all was shown once Slack was back
	extra    string
	wrong    []string
	report   string
}

func (r *result) String() string {
	worst := map[string]int{}
	for _, w := range r.wrong {
		kind, _, _ := strings.Cut(w, ":")
		worst[kind]++
	}
	verdict := "0 violations"
	if len(r.wrong) > 0 {
		verdict = fmt.Sprintf("%d VIOLATIONS %v", len(r.wrong), worst)
	}
	text := fmt.Sprintf("| %s | %d | %d | %s | %s | %s | %s | %d | %s |", r.name, r.done, r.changes, seconds(r.takeUp), seconds(r.longest), seconds(r.slowest), seconds(r.took), r.unheard, verdict)
	if r.extra != "" {
		text += " " + r.extra
	}
	return text
}

const tableHead = "| scenario | disturbances | operations | slowest take-up | longest operation | slowest acknowledgement | took | not acknowledged | verdict |\n|---|---|---|---|---|---|---|---|---|"

func seconds(d time.Duration) string {
	if d == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

func (r *result) add(o result) {
	r.done += o.done
	r.changes += o.changes
	r.takeUp, r.slowest, r.longest = max(r.takeUp, o.takeUp), max(r.slowest, o.slowest), max(r.longest, o.longest)
	r.unheard += o.unheard
	r.wrong = append(r.wrong, o.wrong...)
	r.report += o.report
}

// end settles a cell and closes it.
func (r *result) end(c *cell, err error, within time.Duration) {
	if err != nil {
		r.wrong = append(r.wrong, c.name+": "+err.Error())
	}
	r.wrong = append(r.wrong, c.settle(within)...)
	for _, p := range c.replicas {
		if strings.Contains(p.log.String(), "DATA RACE") {
			r.wrong = append(r.wrong, p.name+" has a data race")
		}
	}
	c.mu.Lock()
	r.changes, r.slowest, r.unheard, r.takeUp = len(c.changes), c.slowest, c.unheard, max(r.takeUp, c.takeUp)
	r.wrong = append(r.wrong, c.late...)
	for _, ch := range c.changes {
		if ch.Accepted && !ch.Told.IsZero() {
			if took := ch.Told.Sub(ch.Asked); took > r.longest {
				r.longest, r.slow = took, fmt.Sprintf("%s was asked for at %s", ch, ch.Asked.UTC().Format("15:04:05"))
			}
		}
	}
	c.mu.Unlock()
	if r.longest > time.Minute {
		fmt.Fprintf(os.Stderr, "%s: %s and told after %s; what the replicas logged about it:\n", r.name, r.slow, seconds(r.longest))
		for _, p := range c.replicas {
			for line := range strings.Lines(p.log.String()) {
				if _, id, _ := strings.Cut(r.slow, "("); strings.Contains(line, id[:strings.IndexByte(id, ')')]) || strings.Contains(line, " -- ") {
					fmt.Fprintf(os.Stderr, "  %s: %s", p.name, line)
				}
			}
		}
	}
	if len(r.wrong) > 0 {
		r.report = fmt.Sprintf("== %s (cell %s)\n%s", r.name, c.name, c.report(r.wrong))
	}
	c.close()
}

// atFailpoint has a replica die at a step of a deploy, and another one at that step of a scale;
// then two take up what is left, while newer changes are asked for.
func atFailpoint(ctx context.Context, e *env, step string) (r result) {
	r.name = step
	c, err := newCell(ctx, e, e.cellName("f"), 2)
	if err != nil {
		r.wrong = append(r.wrong, err.Error())
		return r
	}
	defer func() { r.end(c, err, 2*time.Minute) }()
	if err = createPair(c, step); err != nil {
		return r
	}
	type died struct {
		change *change
		at     record
		when   time.Time
	}
	var all []died
	if err = c.replicas[0].start(c.ctx, step, false); err != nil {
		return r
	}
	pushed := make(chan *change, 1)
	var pushErr error
	go func() {
		var ch *change
		ch, pushErr = c.push("p")
		pushed <- ch
	}()
	if err = c.replicas[0].halted(c.ctx, false, time.Minute); err != nil {
		return r
	}
	r.done++
	deployDied := time.Now()
	if step != "prepared" { // a scale has no such step
		if err = c.replicas[1].start(c.ctx, step, false); err != nil {
			return r
		}
		scaled := c.scale("s", replicasFor(step), false)
		if err = c.replicas[1].halted(c.ctx, false, time.Minute); err != nil {
			return r
		}
		r.done++
		if at, err := c.record(scaled.ID); err == nil {
			all = append(all, died{scaled, at, time.Now()})
		}
	}
	var atDeath []string
	keys, _ := c.rdb.Keys(c.ctx, "waggle:op:deploy-*").Result()
	for _, k := range keys {
		atDeath = append(atDeath, strings.TrimPrefix(k, "waggle:op:"))
	}
	for _, id := range atDeath {
		if at, err := c.record(id); err == nil {
			all = append(all, died{&change{ID: id, App: c.service("p"), What: "commit 1"}, at, deployDied})
		}
	}
	for _, p := range c.replicas {
		if err = p.start(c.ctx, "", true); err != nil {
			return r
		}
	}
	var takeUps sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, d := range all {
		takeUps.Go(func() {
			took, err := c.takenUp(d.change, d.at, d.when)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
			r.takeUp = max(r.takeUp, took)
		})
	}
	ch := <-pushed
	if pushErr == nil && ch != nil {
		_, pushErr = c.push("p")
	}
	c.scale("s", 2, false)
	takeUps.Wait()
	if err = errors.Join(append(errs, pushErr)...); err != nil {
		return r
	}
	err = lastScale(c)
	return r
}

func replicasFor(step string) int {
	if step == "pending" {
		return scaleAbove + 1
	}
	return scaleAbove
}

// createPair makes one app that is scaled and one that is deployed.
func createPair(c *cell, step string) error {
	var labels []string
	if step == "pending" {
		labels = append(labels, "waggle.approve=push")
	}
	return errors.Join(c.create("s", 1, false), c.create("p", 1, true, labels...))
}

// lastScale is asked when everything else is told, so it has to be done.
func lastScale(c *cell) error {
	c.mu.Lock()
	changes := slices.Clone(c.changes)
	c.mu.Unlock()
	for _, ch := range changes {
		if ch.Accepted && !c.isTold(ch) {
			if err := c.await(ch, 2*time.Minute); err != nil {
				return err
			}
		}
	}
	ch := c.scale("s", 1, false)
	if err := c.await(ch, time.Minute); err != nil {
		return err
	}
	if outcome := c.outcome(ch.ID); outcome != "done" {
		return fmt.Errorf("%s was asked for when nothing else was under way, and ended %s", ch, outcome)
	}
	return nil
}

// stoppedAt has a replica sleep through its lease at a step of a deploy, and another one at that step
// of a scale, while a third takes both up; they wake when newer changes are done.
func stoppedAt(ctx context.Context, e *env, step string) (r result) {
	r.name = "stop at " + step
	c, err := newCell(ctx, e, e.cellName("z"), 3)
	if err != nil {
		r.wrong = append(r.wrong, err.Error())
		return r
	}
	defer func() { r.end(c, err, 2*time.Minute) }()
	if err = createPair(c, step); err != nil {
		return r
	}
	if err = c.replicas[0].start(c.ctx, step+":1:stop", false); err != nil {
		return r
	}
	pushed := make(chan *change, 1)
	var pushErr error
	go func() {
		var ch *change
		ch, pushErr = c.push("p")
		pushed <- ch
	}()
	if err = c.replicas[0].halted(c.ctx, true, time.Minute); err != nil {
		return r
	}
	r.done++
	var scaled *change
	if step != "prepared" {
		if err = c.replicas[1].start(c.ctx, step+":1:stop", false); err != nil {
			return r
		}
		scaled = c.scale("s", replicasFor(step), false)
		if err = c.replicas[1].halted(c.ctx, true, time.Minute); err != nil {
			return r
		}
		r.done++
	}
	slept := time.Now()
	if err = c.replicas[2].start(c.ctx, "", true); err != nil {
		return r
	}
	first := <-pushed
	if err = pushErr; err != nil {
		return r
	}
	for _, ch := range []*change{first, scaled} {
		if ch != nil && ch.Accepted {
			if err = c.await(ch, 2*time.Minute); err != nil {
				return r
			}
		}
	}
	r.takeUp = time.Since(slept)
	second, err := c.push("p")
	if err != nil {
		return r
	}
	if err = errors.Join(c.await(c.scale("s", 2, false), 2*time.Minute), c.await(second, 2*time.Minute)); err != nil {
		return r
	}
	for _, p := range c.replicas[:2] {
		if p.current() != nil {
			err = errors.Join(err, p.thaw())
		}
	}
	// What the woken ones still do, they do at once.
	if err = errors.Join(err, pause(c.ctx, 3*time.Second)); err != nil {
		return r
	}
	err = lastScale(c)
	return r
}

// engineAt kills the engine of a replica while that stands at a step of a deploy, and starts it again.
func engineAt(ctx context.Context, e *env, step string) (r result) {
	r.name = "engine at " + step
	c, err := newCell(ctx, e, e.cellName("e"), 2)
	if err != nil {
		r.wrong = append(r.wrong, err.Error())
		return r
	}
	defer func() { r.end(c, err, 3*time.Minute) }()
	if err = createPair(c, step); err != nil {
		return r
	}
	stopped := c.replicas[0]
	if err = stopped.start(c.ctx, step+":1:stop", true); err != nil {
		return r
	}
	pushed := make(chan error, 1)
	go func() {
		_, err := c.push("p")
		pushed <- err
	}()
	if err = stopped.halted(c.ctx, true, time.Minute); err != nil {
		return r
	}
	r.done++
	e.engine.Lock()
	n := c.lab.Nodes[0]
	err = errors.Join(n.Kill(c.ctx), stopped.thaw(), pause(c.ctx, 3*time.Second), n.Start(c.ctx))
	e.engine.Unlock()
	if err = errors.Join(err, c.replicas[1].start(c.ctx, "", true), <-pushed); err != nil {
		return r
	}
	err = lastScale(c)
	return r
}

// load is what people ask for while something is done to Waggle: absolute and relative scales,
// scales that need an approval, and pushes to two apps.
func (c *cell) load(ctx context.Context, random func() *rand.Rand) func() error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	fail := func(err error) {
		if err != nil && ctx.Err() == nil {
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		}
	}
	each := func(f func(rng *rand.Rand) error) {
		rng := random()
		all.Go(func() {
			for ctx.Err() == nil {
				fail(f(rng))
				_ = pause(ctx, time.Duration(rng.Int64N(int64(1500*time.Millisecond))))
			}
		})
	}
	// A change that nobody acknowledged is given some time, as it may have been taken.
	await := func(ch *change) error {
		if ch.Accepted {
			err := until(ctx, 3*time.Minute, "the audit entry of "+ch.String(), func() bool { return c.outcome(ch.ID) != "" || c.isEmptied() })
			_ = c.await(ch, 5*time.Second) // Slack may be away; settle waits for it
			return err
		}
		_ = c.await(ch, 5*time.Second)
		return pause(ctx, 2*time.Second)
	}
	number := 1
	each(func(rng *rand.Rand) error {
		number = 1 + (number+rng.IntN(2))%3 // another one than the last
		return await(c.scale("abs", number, false))
	})
	each(func(rng *rand.Rand) error {
		delta := []int{1, -1}[rng.IntN(2)]
		if n := c.swarm.replicas(c.service("rel")); n <= 1 {
			delta = 1
		} else if n >= scaleAbove {
			delta = -1
		}
		return await(c.scale("rel", delta, true))
	})
	each(func(*rand.Rand) error {
		if err := await(c.scale("ok", scaleAbove+1, false)); err != nil {
			return err
		}
		return await(c.scale("ok", 1, false))
	})
	for _, p := range []string{"p", "q"} {
		each(func(rng *rand.Rand) error {
			ch, err := c.push(p)
			if err == nil && rng.IntN(3) > 0 {
				err = await(ch)
			}
			return errors.Join(err, pause(ctx, time.Duration(rng.Int64N(int64(4*time.Second)))))
		})
	}
	return func() error {
		cancel()
		all.Wait()
		mu.Lock()
		defer mu.Unlock()
		return errors.Join(errs...)
	}
}

func (w *watcher) replicas(app string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last[app].Replicas
}

// underLoad disturbs a cell of two replicas that has something to do.
func underLoad(ctx context.Context, e *env, name string, disturb func(c *cell, rng *rand.Rand, r *result) error) (r result) {
	r.name = name
	c, err := newCell(ctx, e, e.cellName("l"), 2)
	if err != nil {
		r.wrong = append(r.wrong, err.Error())
		return r
	}
	defer func() { r.end(c, err, 4*time.Minute) }()
	err = errors.Join(c.create("abs", 1, false), c.create("rel", 2, false), c.create("ok", 1, false), c.create("p", 1, true), c.create("q", 1, true))
	if err != nil {
		return r
	}
	for _, p := range c.replicas {
		if err = p.start(c.ctx, "", true); err != nil {
			return r
		}
	}
	rng := e.random(name)
	stop := c.load(c.ctx, func() *rand.Rand { return rand.New(rand.NewPCG(rng.Uint64(), 1)) })
	err = pause(c.ctx, 3*time.Second)
	if err == nil {
		err = disturb(c, rng, &r)
	}
	err = errors.Join(err, stop())
	return r
}

// between waits from least to most.
func between(ctx context.Context, rng *rand.Rand, least, most time.Duration) error {
	return pause(ctx, least+time.Duration(rng.Int64N(int64(most-least))))
}

// scenario is one kind of disturbance.
type scenario struct {
	name, what string
	run        func(ctx context.Context, e *env) result
}

var scenarios = []scenario{
	{"failpoints", "SIGKILL right after each step of a deploy and of a scale", func(ctx context.Context, e *env) result {
		return everyStep(ctx, e, "failpoints", atFailpoint)
	}},
	{"stops", "SIGSTOP right after each step, beyond the lease", func(ctx context.Context, e *env) result {
		return everyStep(ctx, e, "stops", stoppedAt)
	}},
	{"kill", "kill -9 of a replica at random", loaded("kill", func(e *env) func(*cell, *rand.Rand, *result) error {
		return func(c *cell, rng *rand.Rand, r *result) error {
			for range e.kills {
				if err := between(c.ctx, rng, 500*time.Millisecond, 6*time.Second); err != nil {
					return err
				}
				p := c.replicas[rng.IntN(len(c.replicas))]
				if p.alive() {
					c.killed(p, r)
				}
			}
			return nil
		}
	})},
	{"stop", "SIGSTOP of a replica at random, beyond its lease", loaded("stop", func(e *env) func(*cell, *rand.Rand, *result) error {
		return func(c *cell, rng *rand.Rand, r *result) error {
			for range e.times {
				if err := between(c.ctx, rng, 500*time.Millisecond, 4*time.Second); err != nil {
					return err
				}
				p := c.replicas[rng.IntN(len(c.replicas))]
				if err := p.freeze(); err != nil {
					return err
				}
				r.done++
				if err := errors.Join(pause(c.ctx, e.pause), p.thaw()); err != nil {
					return err
				}
			}
			return nil
		}
	})},
	{"rolling", "SIGTERM of one replica after the other", loaded("rolling", func(e *env) func(*cell, *rand.Rand, *result) error {
		return func(c *cell, rng *rand.Rand, r *result) error {
			for i := range e.times {
				if err := between(c.ctx, rng, time.Second, 5*time.Second); err != nil {
					return err
				}
				if err := c.replicas[i%2].terminate(); err != nil {
					return fmt.Errorf("after SIGTERM: %w", err)
				}
				r.done++
			}
			return nil
		}
	})},
	{"redis-away", "Redis answers nothing for a while", loaded("redis-away", func(e *env) func(*cell, *rand.Rand, *result) error {
		return repeat(e, func(c *cell) error {
			return errors.Join(c.redis.Freeze(), pause(c.ctx, e.away), c.redis.Thaw())
		})
	})},
	{"redis-killed", "Redis is killed and comes back with its file", loaded("redis-killed", func(e *env) func(*cell, *rand.Rand, *result) error {
		return repeat(e, func(c *cell) error {
			c.redis.Kill()
			return errors.Join(pause(c.ctx, e.away/4), c.redis.Start(c.ctx))
		})
	})},
	{"redis-full", "Redis refuses writes", loaded("redis-full", func(e *env) func(*cell, *rand.Rand, *result) error {
		return repeat(e, func(c *cell) error {
			return errors.Join(c.rdb.ConfigSet(c.ctx, "maxmemory", "1").Err(), pause(c.ctx, e.away/2), c.rdb.ConfigSet(c.ctx, "maxmemory", "0").Err())
		})
	})},
	{"redis-emptied", "FLUSHALL", loaded("redis-emptied", func(e *env) func(*cell, *rand.Rand, *result) error {
		return repeat(e, func(c *cell) error {
			c.readAudit()
			c.mu.Lock()
			c.emptied = true
			c.mu.Unlock()
			return c.rdb.FlushAll(c.ctx).Err()
		})
	})},
	{"engine", "the engine of a replica is restarted", loaded("engine", func(e *env) func(*cell, *rand.Rand, *result) error {
		turn := 0
		return repeat(e, func(c *cell) error {
			n := c.lab.Nodes[turn%2]
			turn++
			return errors.Join(n.Kill(c.ctx), n.Start(c.ctx))
		})
	})},
	{"engine-steps", "the engine of a replica is killed at each step of a deploy, and comes back", func(ctx context.Context, e *env) result {
		return everyStep(ctx, e, "engine-steps", engineAt)
	}},
	{"redis-older", "Redis comes back with an older file", loaded("redis-older", func(e *env) func(*cell, *rand.Rand, *result) error {
		return repeat(e, func(c *cell) error {
			older := filepath.Join(c.dir, "older")
			if err := errors.Join(os.RemoveAll(older), copyAppendOnly(c.dir, older), pause(c.ctx, e.away/4)); err != nil {
				return err
			}
			c.readAudit()
			c.mu.Lock()
			c.emptied = true
			c.mu.Unlock()
			c.redis.Kill()
			return errors.Join(os.RemoveAll(filepath.Join(c.dir, "appendonlydir")), copyAppendOnly(older, c.dir), c.redis.Start(c.ctx))
		})
	})},
	{"slack-away", "Slack answers 500 to everything", loaded("slack-away", func(e *env) func(*cell, *rand.Rand, *result) error {
		return func(c *cell, _ *rand.Rand, r *result) error {
			return outage(c, r, e.slack, workspace.Failure{Status: 500})
		}
	})},
	{"slack-429", "Slack answers 429 to everything", loaded("slack-429", func(e *env) func(*cell, *rand.Rand, *result) error {
		return func(c *cell, _ *rand.Rand, r *result) error {
			return outage(c, r, e.slack/5, workspace.Failure{Status: 429, RetryAfter: 3 * time.Second})
		}
	})},
	{"slack-hangs", "Slack takes what it is sent and answers nothing", loaded("slack-hangs", func(e *env) func(*cell, *rand.Rand, *result) error {
		return func(c *cell, _ *rand.Rand, r *result) error {
			return outage(c, r, e.slack/5, workspace.Failure{Delay: -1, Applied: true})
		}
	})},
	{"redeliveries", "300 deliveries of old pushes at once", loaded("redeliveries", func(*env) func(*cell, *rand.Rand, *result) error {
		return func(c *cell, _ *rand.Rand, r *result) error {
			if err := pause(c.ctx, 20*time.Second); err != nil {
				return err
			}
			all := c.forge.Deliveries()
			var sent sync.WaitGroup
			for i := range 300 {
				sent.Go(func() { _, _ = c.forge.Redeliver(c.ctx, all[i%len(all)]) })
			}
			sent.Wait()
			r.done += 300
			return nil
		}
	})},
	{"soak", "nothing but load", loaded("soak", func(e *env) func(*cell, *rand.Rand, *result) error {
		return func(c *cell, _ *rand.Rand, r *result) error { return soak(c, r, e.soak) }
	})},
}

func loaded(name string, disturb func(e *env) func(*cell, *rand.Rand, *result) error) func(context.Context, *env) result {
	return func(ctx context.Context, e *env) result { return underLoad(ctx, e, name, disturb(e)) }
}

// copyAppendOnly copies Redis' append-only files from one directory to another.
func copyAppendOnly(from, to string) error {
	const name = "appendonlydir"
	return os.CopyFS(filepath.Join(to, name), os.DirFS(filepath.Join(from, name)))
}

func repeat(e *env, disturb func(c *cell) error) func(*cell, *rand.Rand, *result) error {
	return func(c *cell, rng *rand.Rand, r *result) error {
		for range e.times {
			if err := between(c.ctx, rng, time.Second, 8*time.Second); err != nil {
				return err
			}
			if err := disturb(c); err != nil {
				return err
			}
			r.done++
		}
		return between(c.ctx, rng, time.Second, 5*time.Second)
	}
}

// outage has every call of Slack fail for a while, and takes the time until all that had ended by its
// end is shown.
func outage(c *cell, r *result, d time.Duration, f workspace.Failure) error {
	end := c.ws.Outage("", 0, f)
	if err := pause(c.ctx, d); err != nil {
		end()
		return err
	}
	var over []*change
	c.mu.Lock()
	changes := slices.Clone(c.changes)
	c.mu.Unlock()
	for _, ch := range changes {
		if ch.Accepted && c.outcome(ch.ID) != "" {
			over = append(over, ch)
		}
	}
	end()
	r.done++
	began := time.Now()
	err := until(c.ctx, 2*time.Minute, "the last state of everything that ended is shown", func() bool {
		return !slices.ContainsFunc(over, func(ch *change) bool { return !c.told(ch) })
	})
	r.returned = time.Since(began)
	r.extra = fmt.Sprintf("all shown %s after its return", seconds(r.returned))
	if err == nil && r.returned > 30*time.Second {
		err = fmt.Errorf("slow: the last states of what ended were shown %s after Slack's return", seconds(r.returned))
	}
	return err
}

// trial is what is done at one step, in a cell of its own.
type trial struct {
	step string
	run  func(context.Context, *env, string) result
}

// everyStep runs a trial at each step, several side by side.
func everyStep(ctx context.Context, e *env, name string, run func(context.Context, *env, string) result) result {
	total := result{name: name}
	var each []trial
	for _, step := range steps {
		each = append(each, trial{step, run})
	}
	for range e.times {
		total.add(trials(ctx, e, each...))
		if len(total.wrong) > 0 {
			break
		}
	}
	return total
}

// sideBySide is how many cells two cores take.
const sideBySide = 4

func trials(ctx context.Context, e *env, list ...trial) result {
	var total result
	var mu sync.Mutex
	var all sync.WaitGroup
	free := make(chan struct{}, sideBySide)
	for _, one := range list {
		all.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			r := one.run(ctx, e, one.step)
			mu.Lock()
			defer mu.Unlock()
			for i, w := range r.wrong {
				r.wrong[i] = w + " [" + r.name + "]"
			}
			total.add(r)
		})
	}
	all.Wait()
	return total
}

package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"waggle/ops/queue"
	"waggle/ops/store"
)

// maxPlans is how often an operation is planned again because the cluster changed.
const maxPlans = 5

// execute is the mechanism. It returns queue.ErrInterrupted when ctx or the lock
// ended, and the operation can go on from its fields later.
func (r *Runner) execute(ctx context.Context, run *Run) error {
	err := r.authoriseToApproval(ctx, run)
	if err == nil && !run.DryRun {
		err = r.prepareToConverge(ctx, run)
	}
	if err != nil && ctx.Err() != nil {
		return queue.ErrInterrupted
	}
	return err
}

// awayPause is how long a change that may be under way waits for those who do not answer.
const awayPause = 2 * time.Second

// persevere is execute. When an earlier attempt may have changed something it does not end
// because it cannot see for the moment how that went.
func (r *Runner) persevere(ctx context.Context, run *Run) error {
	for deadline := r.Env.Now().Add(r.Env.DeployTimeout); ; {
		err := r.execute(ctx, run)
		if !run.resumed || CodeOf(err) != Unavailable || run.status.State != Planning || r.Env.Now().After(deadline) {
			return err
		}
		r.Log.Warn("how far an interrupted operation came cannot be seen yet", "op", run.ID, "err", err)
		run.Note("Waggle stopped in the middle of this and cannot see yet how far it came: " + sentenceOf(err) + ".")
		if pause(ctx, awayPause) != nil {
			return queue.ErrInterrupted
		}
	}
}

func (r *Runner) authoriseToApproval(ctx context.Context, run *Run) error {
	if err := r.Authoriser.Authorise(ctx, run.Actor, run.op.Needs()); err != nil {
		return err
	}
	if err := run.plan(ctx); err != nil {
		return err
	}
	return run.needsApproval()
}

func (r *Runner) prepareToConverge(ctx context.Context, run *Run) error {
	prep, slow := run.op.(Preparer)
	if slow {
		run.began = true
		defer r.tellBegin(ctx, run)()
		if err := r.prepare(ctx, run, prep); err != nil {
			return err
		}
	}
	lock, err := r.lock(ctx, run, slow || run.resumed)
	if err != nil {
		return err
	}
	defer lock.Release()
	err = r.applyAndConverge(lock.Context(), run, slow)
	if err != nil && lock.Context().Err() != nil {
		return queue.ErrInterrupted
	}
	return err
}

func (r *Runner) applyAndConverge(ctx context.Context, run *Run, stale bool) error {
	if stale {
		if err := run.plan(ctx); err != nil {
			return err
		}
		if err := r.calledOff(ctx, run); err != nil {
			return err
		}
		if err := run.needsApproval(); err != nil {
			return err
		}
	}
	if err := run.applying(ctx); err != nil {
		return redisAway(err)
	}
	if stale {
		// The last moment: whoever calls it off later is told that it has begun.
		if err := r.calledOff(ctx, run); err != nil {
			return err
		}
	}
	err := run.apply(ctx)
	r.links.forget() // whatever was changed
	if err != nil {
		return err
	}
	result, err := run.op.Converge(ctx, run)
	if err != nil {
		return failed(err)
	}
	run.update(func(s *Status) { s.Result = result })
	return nil
}

// failed marks an error that came after work had begun.
func failed(err error) error {
	if e := new(Error); errors.As(err, &e) {
		return err
	}
	return &Error{Code: Failed, Sentence: "It did not work, for a reason that is in Waggle's log", Err: err}
}

func (r *Run) plan(ctx context.Context) error {
	plan, err := r.op.Plan(ctx, r)
	if err != nil {
		return err
	}
	if down := r.targetDown(ctx); down != "" && !slices.Contains(plan.Warnings, down) {
		plan.Warnings = append(plan.Warnings, down)
	}
	r.update(func(s *Status) { s.Plan = plan })
	return nil
}

// targetDown says that the app that is changed has its only node away, "" when that
// is not so or not known.
func (r *Run) targetDown(ctx context.Context) string {
	if len(r.target.pins()) == 0 {
		return ""
	}
	nodes, err := r.Swarm.Nodes(ctx)
	if err != nil {
		return ""
	}
	return r.target.pinnedDown(nodes)
}

// apply carries the plan out, and plans again when the cluster has changed
// since: another hand's change is built on, never overwritten.
func (r *Run) apply(ctx context.Context) error {
	r.update(func(s *Status) { s.State = Working })
	for range maxPlans {
		err := r.op.Apply(ctx, r)
		if CodeOf(err) != OutOfDate {
			return err
		}
		if err := r.plan(ctx); err != nil {
			return err
		}
		if err := r.needsApproval(); err != nil {
			return err
		}
		r.Note("It was changed by somebody else in the meantime, so it was planned again.")
	}
	return Errorf(OutOfDate, "%s is changed by somebody else all the time: given up after %d plans", r.op.Target(), maxPlans).
		Then("Nothing was changed. Find out who does, then try again.")
}

func targetKey(target string) string { return "target:" + target }

// lock takes the target's lock. Who has no slow work behind it, and has changed nothing
// before, is refused when it is held; else it is waited for.
func (r *Runner) lock(ctx context.Context, run *Run, wait bool) (*store.Lease, error) {
	deadline := time.NewTimer(r.Env.DeployTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	what := run.op.Target()
	if l, ok := run.op.(Locker); ok {
		what = l.Lock()
	}
	for {
		lease, err := r.Store.Lock(ctx, targetKey(what), r.claim(run))
		held := new(store.HeldError)
		switch {
		case err == nil:
			return lease, nil
		case !errors.As(err, &held):
			return nil, redisAway(err)
		}
		who := fmt.Sprintf("%s has been changing %s (%s) since %s", held.Owner, what, held.Reason, held.Since.UTC().Format("15:04:05 UTC"))
		refused := Errorf(Locked, "%s", who).Then("Nothing was changed. Try again when that is done.")
		if !wait {
			return nil, refused
		}
		if err := r.calledOff(ctx, run); err != nil {
			return nil, err
		}
		run.update(func(s *Status) { s.State, s.Note = Waiting, who })
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-deadline.C:
			return nil, refused
		case <-tick.C:
		}
	}
}

package ops

import (
	"context"
	"encoding/json"
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
const awayPause = time.Second

// awayPlans is how often a plan is tried, awayPause apart, before people are told that a part does
// not answer.
const awayPlans = 3

// persevere is execute. Once something may have been changed, a part that does not answer is no
// verdict. It is handled like a crash here: plan again, recognise the change in the swarm, follow it,
// until the deadline.
func (r *Runner) persevere(ctx context.Context, run *Run) error {
	var deadline time.Time // from when it had begun on
	for try := 1; ; try++ {
		err := r.execute(ctx, run)
		begun := run.applying || run.resumed || run.prepared
		if begun && deadline.IsZero() {
			deadline = r.Env.Now().Add(r.Env.DeployTimeout)
		}
		switch {
		case CodeOf(err) != Unavailable, run.DryRun, errors.Is(err, store.ErrLost), errors.Is(err, store.ErrFinal),
			begun && r.Env.Now().After(deadline),
			!begun && (try == awayPlans || !run.onlyPlanned() || !errors.Is(err, errRedis) && !r.engineAway(ctx)):
			return err
		}
		if begun {
			run.resumed = run.resumed || run.applying
			r.Log.Warn("how far an operation came cannot be seen yet", "op", run.ID, "err", err)
			run.awayNote = fmt.Sprintf("%s. Retrying until %s.", sentenceOf(err), clockTime(deadline))
			run.Note(run.awayNote)
		}
		if pause(ctx, awayPause) != nil {
			return queue.ErrInterrupted
		}
		if run.w.refresh(ctx) == nil { // else the next write tries again
			run.applied = run.w.record().Applied
		}
	}
}

// onlyPlanned says whether no work was begun: what work needs is waited for by the work.
func (r *Run) onlyPlanned() bool {
	s := r.snapshot()
	return s.State == Planning || s.State == Waiting
}

func (r *Runner) authoriseToApproval(ctx context.Context, run *Run) error {
	if !run.resumed { // else it was authorised before it changed anything
		if err := r.Authoriser.Authorise(ctx, run.Actor, run.op.Needs()); err != nil {
			return err
		}
	}
	if err := run.plan(ctx); err != nil {
		return err
	}
	return run.needsApproval()
}

func (r *Runner) prepareToConverge(ctx context.Context, run *Run) error {
	prep, slow := run.op.(Preparer)
	if slow {
		if err := run.tooManyCrashes(); err != nil && !run.resumed {
			return err
		}
		run.began = true
		defer r.tellBegin(ctx, run)()
		if err := r.prepare(ctx, run, prep); err != nil {
			return err
		}
		run.prepared = true
		r.failpoint("prepared")
	}
	if _, watches := run.op.(Watcher); watches && run.applied {
		if _, err := run.recognise(); err != nil {
			return err
		}
		return run.follow(ctx)
	}
	lock, err := r.lock(ctx, run, slow || run.resumed)
	if err != nil {
		return err
	}
	defer lock.Release()
	err = r.applyAndConverge(lock.Context(), run, slow || run.resumed)
	if err == errWatch {
		lock.Release()
		return run.follow(ctx)
	}
	if err != nil && lock.Context().Err() != nil {
		return queue.ErrInterrupted
	}
	return err
}

// errWatch says that a change is written and only watched from here on, without its lock.
var errWatch = errors.New("the change is written")

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
	if err := r.overtaken(ctx, run); err != nil {
		return err
	}
	if err := r.mayApply(ctx, run); err != nil {
		return err
	}
	err := run.apply(ctx)
	r.links.forget() // whatever was changed
	if err != nil {
		return err
	}
	r.failpoint("applied")
	return r.applied(ctx, run)
}

// mayApply makes it durable that the swarm may be changed from here on. It fails when somebody has
// called the operation off, or another process has taken it up.
func (r *Runner) mayApply(ctx context.Context, run *Run) error {
	var barrier []store.Command
	for _, lock := range run.locks {
		barrier = append(barrier, store.Command{Do: "SET", Name: applyingKey(lock), Args: []any{jsonText(run.ID), "EX", int64(queue.Retention.Seconds())}})
	}
	plan := run.snapshot().Plan
	err := run.w.writeUnless(ctx, cancelKey(run.ID), func(rec *record) {
		rec.Planned = &plan
		rec.Applying, rec.Locks, rec.Away = true, run.locks, time.Time{}
	}, append(barrier, inFlight(run.ID))...)
	switch {
	case errors.Is(err, store.ErrUnless) && run.resumed:
		// Called off before by a click that was told so, and begun all the same: it goes on.
		err = r.Store.Delete(ctx, cancelKey(run.ID))
		if err == nil {
			return r.mayApply(ctx, run)
		}
	case errors.Is(err, store.ErrUnless):
		if err := r.calledOff(ctx, run); err != nil {
			return err
		}
		return redisAway(err)
	case errors.Is(err, store.ErrLost), errors.Is(err, store.ErrFinal):
		return err
	}
	if err != nil {
		return redisAway(err)
	}
	run.applying = true
	r.failpoint("applying")
	return nil
}

// applied makes it durable that the change is written, and follows it.
func (r *Runner) applied(ctx context.Context, run *Run) error {
	_, watches := run.op.(Watcher)
	free := run.lastChanges()
	if watches {
		for _, lock := range run.locks {
			free = append(free, store.Command{Do: "DEL", Name: applyingKey(lock)})
		}
	}
	op, err := json.Marshal(run.op)
	if err != nil {
		return err
	}
	err = run.w.write(ctx, func(rec *record) {
		if rec.Op, rec.Applied, rec.Changed = op, true, run.locks; watches {
			rec.Locks = nil
		}
	}, append(free, inFlight(run.ID))...)
	switch {
	case errors.Is(err, store.ErrLost), errors.Is(err, store.ErrFinal):
		return err
	case err != nil:
		return redisAway(err)
	}
	run.applied = true
	r.failpoint("followed")
	if watches {
		return errWatch
	}
	return run.follow(ctx)
}

// follow follows the swarm to the end of the change.
func (r *Run) follow(ctx context.Context) error {
	result, err := r.op.Converge(ctx, r)
	if err != nil {
		return failed(err)
	}
	r.update(func(s *Status) { s.Result = result })
	return nil
}

// jsonText encodes a value that has no way to fail.
func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// applyingKey is a barrier: it names the operation that may have changed a target and has not ended.
// It outlives the lock, which ends with its process, so nothing is built on a half-known change.
func applyingKey(lock string) string { return "applying:" + lock }

// unsettled returns the operation that may be changing what a lock stands for, other than run; false
// when there is none.
func (r *Runner) unsettled(ctx context.Context, lock string, run *Run) (record, bool, error) {
	var id string
	err := r.Store.Get(ctx, applyingKey(lock), &id)
	if errors.Is(err, store.ErrNotFound) || err == nil && id == run.ID {
		return record{}, false, nil
	} else if err != nil {
		return record{}, false, err
	}
	rec, err := r.read(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, errUndecodable):
		return record{}, false, nil // nobody will take it up here
	case err != nil:
		return record{}, false, err
	}
	return rec, rec.Applying && !rec.State.Final(), nil
}

// failed marks an error that came after work had begun.
func failed(err error) error {
	if e := new(Error); errors.As(err, &e) {
		return err
	}
	if errors.Is(err, store.ErrLost) || errors.Is(err, store.ErrFinal) {
		return err
	}
	return &Error{Code: Failed, Sentence: "Internal error, after the change had begun", Next: "Waggle's log has the cause.", Err: err}
}

func (r *Run) plan(ctx context.Context) error {
	plan, err := r.op.Plan(ctx, r)
	r.nameTarget()
	if err != nil {
		return err
	}
	if down := r.targetDown(ctx); down != "" && !slices.Contains(plan.Warnings, down) {
		plan.Warnings = append(plan.Warnings, down)
	}
	if before := r.w.record().Planned; r.resumed && before != nil && r.written(plan) {
		plan.Diffs, plan.Undo = before.Diffs, before.Undo // the swarm shows what it is now
	}
	r.update(func(s *Status) {
		if s.Plan = plan; s.Note == r.awayNote {
			s.Note = ""
		}
	})
	return nil
}

// written says whether an earlier attempt has written the change, as far as a plan on the swarm of now
// shows it.
func (r *Run) written(plan Plan) bool {
	if rec, ok := r.op.(Recognizer); ok {
		state := rec.Effect().State
		return state == EffectCurrent || state == EffectTakenBack
	}
	changes := func(d Diff) bool { return d.From != d.To }
	return r.applied || len(plan.Diffs) > 0 && !slices.ContainsFunc(plan.Diffs, changes)
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
		done, err := r.recognise()
		if done || err != nil {
			return err
		}
		err = r.op.Apply(ctx, r)
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
		if err := r.Save(ctx); err != nil { // still ours?
			return err
		}
	}
	return Errorf(OutOfDate, "%s kept changing while Waggle tried to update it; gave up after %d attempts", r.op.Target(), maxPlans).
		Then("Nothing was changed. Find out who does, then try again.")
}

// recognise says whether an earlier attempt has written the change already, by what the last plan saw.
func (r *Run) recognise() (done bool, err error) {
	effect := Effect{}
	if rec, ok := r.op.(Recognizer); ok {
		effect = rec.Effect()
	}
	switch effect.State {
	case EffectCurrent, EffectTakenBack:
		return true, nil
	case EffectSuperseded:
		return false, Errorf(Canceled, "Superseded by %s", effect.By)
	}
	return false, r.tooManyCrashes()
}

// tooManyCrashes returns why nothing of the operation is begun any more.
func (r *Run) tooManyCrashes() error {
	if crashes := r.w.record().Crashes; crashes >= maxCrashes {
		return Errorf(Internal, "Waggle crashed %d times during this operation and gave up", crashes).
			Then("Search Waggle's log for op=%s, fix what crashes it, then run the command again.", r.ID)
	}
	return nil
}

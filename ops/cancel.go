package ops

import (
	"context"
	"errors"
	"sync"
	"time"

	"waggle/ops/queue"
	"waggle/ops/store"
)

// cancelPoll is how soon slow work notices that it was called off, on whichever
// replica it runs.
const cancelPoll = 500 * time.Millisecond

func cancelKey(id string) string { return "cancel:" + id }

// interrupt calls an operation off that waits for its turn or does slow work. Its
// own message tells.
func (r *Runner) interrupt(ctx context.Context, rec record, d Decision) error {
	op, err := r.decode(rec.Request)
	if err != nil {
		return err
	}
	if _, slow := op.(Preparer); !slow && rec.State != Waiting {
		return Errorf(Invalid, "Can't cancel: it is already running. Only deploys can be cancelled while they run")
	}
	begun := Errorf(Invalid, "The update of %s has begun, so its deploy cannot be cancelled any more", op.Target()).
		Then("`/rollback %s` goes back once it is done.", op.Target())
	if rec.Applying {
		return begun
	}
	if d.By.ID == "" || d.By.ID != rec.Actor.ID {
		if err := r.Authoriser.Authorise(ctx, d.By, op.Needs()); err != nil {
			return err
		}
	}
	// In one step with the look at the record: whoever begins the update later sees it.
	done, err := r.Store.PutUnless(ctx, recordKey(rec.ID), "applying", finals, cancelKey(rec.ID), d, queue.Retention)
	if err == nil && !done {
		return begun
	}
	return err
}

// cancelled reads who called an operation off; nil when nobody has.
func (r *Runner) cancelled(ctx context.Context, id string) (*Decision, error) {
	var d Decision
	err := r.Store.Get(ctx, cancelKey(id), &d)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return &d, err
}

// prepare does the slow work, and stops it when somebody calls it off.
func (r *Runner) prepare(ctx context.Context, run *Run, prep Preparer) error {
	working, stop := context.WithCancel(ctx)
	defer stop()
	var off *Decision
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(cancelPoll)
		defer tick.Stop()
		for {
			select {
			case <-working.Done():
				return
			case <-tick.C:
			}
			d, err := r.cancelled(working, run.ID)
			if err == nil && d != nil {
				off = d
				stop()
				return
			}
		}
	})
	err := prep.Prepare(working, run)
	stop()
	watching.Wait()
	if off != nil {
		return run.off(off)
	}
	if err != nil {
		return failed(err)
	}
	return nil
}

// off ends an operation by a decision.
func (r *Run) off(d *Decision) error {
	r.update(func(s *Status) { s.Decision = d })
	if against := d.against(0); against != nil {
		return against
	}
	return nil
}

// calledOff ends an operation that somebody has called off.
func (r *Runner) calledOff(ctx context.Context, run *Run) error {
	d, err := r.cancelled(ctx, run.ID)
	switch {
	case err != nil:
		return redisAway(err)
	case d != nil:
		return run.off(d)
	}
	return nil
}

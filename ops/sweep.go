package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"waggle/ops/queue"
	"waggle/ops/store"
)

const (
	sweepEvery = 3 * time.Second
	// workerTTL is how long a process counts as alive after it was last heard of: less than what is
	// left of its leases when it dies, so that it counts as dead when somebody takes them.
	workerTTL, workerEvery = 8 * time.Second, 2 * time.Second
	// stuckSweeps is in how many sweeps nobody may be at an operation in flight that has a job.
	stuckSweeps = 10
)

func workerKey(name string) string { return "worker:" + name }

// sweep takes up operations whose process died: those that have begun, have not
// ended, and are held by nobody, and the jobs that died before anything began. asynq
// would too, but up to two minutes later.
func (r *Runner) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := r.sweepOnce(ctx); err != nil && ctx.Err() == nil && !r.Store.Away() {
			r.Log.Warn("could not look for interrupted operations", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// beat says every few seconds that this process is alive.
func (r *Runner) beat(ctx context.Context) {
	tick := time.NewTicker(workerEvery)
	defer tick.Stop()
	for {
		within, cancel := context.WithTimeout(ctx, workerEvery)
		_ = r.Store.Put(within, workerKey(r.name), r.Env.Now(), workerTTL) // the next beat tries again
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *Runner) sweepOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := r.expire(ctx); err != nil {
		return err
	}
	if err := r.tellGone(ctx); err != nil {
		return err
	}
	for _, q := range r.queues() {
		ids, err := q.TakeUp(ctx)
		if err != nil {
			return err
		}
		if len(ids) > 0 {
			r.Log.Warn("taking up jobs of a process that died", "ids", ids)
		}
	}
	ids, err := r.Store.Members(ctx, inflight)
	if err != nil {
		return err
	}
	before := r.stuck
	r.stuck = map[string]int{}
	for _, id := range ids {
		if _, err := r.Store.Holder(ctx, "run:"+id); !errors.Is(err, store.ErrNotFound) {
			continue // somebody is at it, or it cannot be known
		}
		r.stuck[id] = before[id] + 1
		if err := r.takeUp(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// takeUp adds a job for an operation that nobody is at.
func (r *Runner) takeUp(ctx context.Context, id string) error {
	rec, err := r.read(ctx, id)
	if errors.Is(err, store.ErrNotFound) || err == nil && rec.State.Final() {
		return r.Store.Remove(ctx, inflight, id)
	}
	var op Operation
	if err == nil {
		op, err = r.decode(rec.Request)
	}
	if errors.Is(err, errUndecodable) {
		r.Log.Warn("left an interrupted operation to another version of Waggle", "op", id, "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	payload, err := json.Marshal(rec.Request)
	if err != nil {
		return err
	}
	// The same new id from every replica: one of them adds it.
	again := fmt.Sprintf("%s.%d", id, rec.Begun)
	if n := r.stuck[id]; n > stuckSweeps {
		again = fmt.Sprintf("%s.%d.%d", id, rec.Begun, n/stuckSweeps) // that job has come to nothing
	}
	err = r.queueOf(op).Add(ctx, again, payload)
	if err == nil {
		r.Log.Warn("taking up an interrupted operation", "op", id, "kind", rec.Kind, "attempt", rec.Begun+1)
	} else if errors.Is(err, queue.ErrDuplicate) {
		return nil
	}
	return err
}

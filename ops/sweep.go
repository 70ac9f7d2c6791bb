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

const sweepEvery = 3 * time.Second

// sweep takes up operations whose process died: those that have begun, have not
// ended, and are held by nobody, and the jobs that died before anything began. asynq
// would too, but up to two minutes later.
func (r *Runner) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := r.sweepOnce(ctx); err != nil && ctx.Err() == nil {
			r.Log.Warn("could not look for interrupted operations", "err", err)
		}
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
	for _, q := range []*queue.Queue{r.Changes, r.Deploys} {
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
	for _, id := range ids {
		if _, err := r.Store.Holder(ctx, "run:"+id); !errors.Is(err, store.ErrNotFound) {
			continue // somebody is at it, or it cannot be known
		}
		var rec record
		err := r.Store.Get(ctx, recordKey(id), &rec)
		if errors.Is(err, store.ErrNotFound) || err == nil && rec.State.Final() {
			if err := r.Store.Remove(ctx, inflight, id); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		op, err := r.decode(rec.Request)
		if err != nil {
			return err
		}
		payload, err := json.Marshal(rec.Request)
		if err != nil {
			return err
		}
		// The same new id from every replica: one of them adds it.
		again := fmt.Sprintf("%s.%d", id, rec.Begun)
		if err := r.queueOf(op).Add(ctx, again, payload); err == nil {
			r.Log.Warn("taking up an interrupted operation", "op", id, "kind", rec.Kind, "attempt", rec.Begun+1)
		} else if !errors.Is(err, queue.ErrDuplicate) {
			return err
		}
	}
	return nil
}

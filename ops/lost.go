package ops

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"waggle/ops/queue"
	"waggle/ops/store"
)

// tellAtOnce is how many messages are changed side by side.
const tellAtOnce = 8

// TellLost tells in their messages that requests which are not done are lost, since the
// Redis that has them ends with this process: those that wait for an approval or their
// turn, and those that were interrupted. It is called after Stop, and what it can't tell
// before ctx ends is in the log at least.
func (r *Runner) TellLost(ctx context.Context) {
	lost, err := r.undone(ctx)
	if err != nil {
		r.Log.Error("can't list what is lost with the embedded Redis", "err", err)
	}
	if len(lost) > 0 {
		r.Log.Warn("requests are lost with the embedded Redis; set redis.url to keep them", "ops", slices.Sorted(maps.Keys(lost)))
	}
	var telling errgroup.Group
	telling.SetLimit(tellAtOnce)
	for _, id := range slices.Sorted(maps.Keys(lost)) {
		telling.Go(func() error {
			if err := r.tellLost(ctx, lost[id]); err != nil {
				r.Log.Warn("its message does not tell that it is lost", "op", id, "err", err)
			}
			return nil
		})
	}
	_ = telling.Wait() // each has logged its error
	entries, err := r.Store.Scheduled(ctx, outbox, time.Time{})
	if err != nil {
		r.Log.Error("can't list what is to be told", "err", err)
	}
	for _, entry := range entries {
		telling.Go(func() error {
			if err := r.deliverOne(ctx, entry); err != nil {
				r.Log.Warn("something could not be told", "entry", entry, "err", err)
			}
			return nil
		})
	}
	_ = telling.Wait()
}

// undone returns by id what is queued, waits or has begun, as far as it can be read.
func (r *Runner) undone(ctx context.Context) (map[string]record, error) {
	found := map[string]record{}
	var all []error
	add := func(id string, known record) {
		rec, err := r.read(ctx, id)
		if err == nil {
			known = rec
		}
		switch {
		case err != nil && !errors.Is(err, store.ErrNotFound):
			all = append(all, err)
		case known.ID != "" && !known.State.Final():
			found[id] = known
		}
	}
	begun, err := r.Store.Members(ctx, inflight)
	all = append(all, err)
	tokens, err := r.Store.Scheduled(ctx, pending, time.Time{})
	all = append(all, err)
	for _, t := range tokens {
		id, _, _ := splitToken(t)
		begun = append(begun, id)
	}
	for _, id := range begun {
		add(id, record{})
	}
	for _, q := range []*queue.Queue{r.Changes, r.Deploys} {
		jobs, err := q.Unfinished(ctx)
		all = append(all, err)
		for _, job := range jobs {
			var req Request
			if err := json.Unmarshal(job, &req); err != nil {
				all = append(all, err)
			} else if _, known := found[req.ID]; !known && req.Kind != kindDecision {
				add(req.ID, record{Request: req})
			}
		}
	}
	return found, errors.Join(all...)
}

func (r *Runner) tellLost(ctx context.Context, rec record) error {
	target, again := "", "Run the command again."
	if rec.Kind == kindPush {
		var kept keptPush
		if err := json.Unmarshal(rec.Op, &kept); err != nil {
			return err
		}
		target, again = kept.Name, "Push again, or `/deploy <app>`."
	} else {
		op, err := r.decode(rec.Request)
		if err != nil {
			return err
		}
		target = op.Target()
		if d, ok := op.(*Deploy); ok && !d.Hand {
			again = "`/deploy " + target + "` deploys it."
		}
	}
	state, why := Cancelled, Errorf(Unavailable, "Waggle restarts with its embedded Redis: this request is lost")
	if rec.Applying {
		state, again = Failure, "Check it before you run the command again."
		why.Sentence = "Waggle restarts with its embedded Redis and no longer follows this change: the swarm may still carry it out"
	}
	why = why.Then("%s Set redis.url to keep requests across restarts.", again)
	w, err := r.take(ctx, rec.Request)
	if w == nil || err != nil {
		return err
	}
	defer w.lease.Release()
	run := r.newRun(w, rec.Request)
	run.status = Status{ID: rec.ID, Kind: rec.Kind, Target: target, Title: rec.Title, Actor: rec.Actor, State: rec.State, Began: rec.At}
	run.decide(func(s *Status) {
		if s.State, s.Err = state, why; rec.Plan != nil {
			s.Plan = *rec.Plan
		}
	})
	return r.finish(ctx, run)
}

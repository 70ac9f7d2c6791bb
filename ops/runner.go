package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"waggle/ops/queue"
	"waggle/ops/store"
)

const (
	maxPlans   = 5 // how often an operation is planned again because the cluster changed
	maxCrashes = 3 // how often Waggle may die in the middle of an operation before it is given up

	sweepEvery = 3 * time.Second
	auditMax   = 10000 // entries kept in the audit stream

	inflight = "inflight" // set of the ids of operations that have begun
)

// Request is one operation that somebody asked for, as it is kept in Redis.
type Request struct {
	// ID is the same when the same thing is asked twice: the second is a duplicate.
	ID    string          `json:"id"`
	Kind  string          `json:"kind"`
	Op    json.RawMessage `json:"op"`
	Actor Actor           `json:"actor"`
	Title string          `json:"title"` // what was asked for, in a few words
	// Channel is where to report, "" for the default; Reply, if set, is how to
	// answer the asker, for the Reporter to read.
	Channel string    `json:"channel,omitempty"`
	Reply   string    `json:"reply,omitempty"`
	DryRun  bool      `json:"dry_run,omitempty"`
	At      time.Time `json:"at"`
	Seq     int64     `json:"seq,omitempty"` // order of the Preparers of one target
}

// record is what is known of a request that has begun.
type record struct {
	Request
	State   State  `json:"state"`
	Message string `json:"message,omitempty"` // the Reporter's name of the message
	Begun   int    `json:"begun"`             // how often it was taken up
	Stopped int    `json:"stopped,omitempty"` // how often it was put back in good order
}

func recordKey(id string) string     { return "op:" + id }
func newestKey(target string) string { return "newest:" + target }

// Entry is one line of the audit.
type Entry struct {
	At      time.Time     `json:"at"`
	ID      string        `json:"id"`
	Who     string        `json:"who"`
	UserID  string        `json:"user_id,omitempty"`
	Kind    string        `json:"kind"`
	Target  string        `json:"target"`
	Diffs   []Diff        `json:"diffs,omitempty"`
	Outcome State         `json:"outcome"`
	Why     string        `json:"why,omitempty"`
	Took    time.Duration `json:"took_ns"`
}

// Runner takes operations from where they were asked for to where they are
// done: the one mechanism behind every command and every push.
type Runner struct {
	Env        Env
	Kinds      map[string]func() Operation // every operation there is, by Kind
	Store      *store.Store
	Authoriser Authoriser
	Reporter   Reporter
	Changes    *queue.Queue // quick operations
	Deploys    *queue.Queue // Preparers
	Log        *slog.Logger

	sweeping sync.WaitGroup
	stop     context.CancelFunc
}

// Start takes up what was left over and begins to work.
func (r *Runner) Start() error {
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	for _, q := range []*queue.Queue{r.Changes, r.Deploys} {
		if err := q.Start(r.handle); err != nil {
			cancel()
			return err
		}
	}
	r.sweeping.Go(func() { r.sweep(ctx) })
	return nil
}

// Stop interrupts what runs, at a place where it can be taken up again.
func (r *Runner) Stop() {
	r.stop()
	r.sweeping.Wait()
	var both sync.WaitGroup
	both.Go(r.Changes.Stop)
	both.Go(r.Deploys.Stop)
	both.Wait()
}

func (r *Runner) queueOf(op Operation) *queue.Queue {
	if _, slow := op.(Preparer); slow {
		return r.Deploys
	}
	return r.Changes
}

// Submit makes the request durable; the work begins by itself. It returns
// queue.ErrDuplicate when a request of that ID was made before.
func (r *Runner) Submit(ctx context.Context, req Request, op Operation) error {
	b, err := json.Marshal(op)
	if err != nil {
		return fmt.Errorf("encode %s: %w", op.Kind(), err)
	}
	req.Kind, req.Op, req.At = op.Kind(), b, r.Env.Now()
	_, ordered := op.(Preparer)
	if ordered {
		if req.Seq, err = r.Store.Next(ctx, "seq"); err != nil {
			return err
		}
	}
	payload, err := json.Marshal(req)
	if err != nil {
		return err
	}
	if err := r.queueOf(op).Add(ctx, req.ID, payload); err != nil {
		return err
	}
	if ordered {
		// After the job is durable: an older one may only give way to one that exists.
		if _, err := r.Store.Raise(ctx, newestKey(op.Target()), req.Seq, queue.Retention); err != nil {
			r.Log.Warn("older deploys that wait will run too", "target", op.Target(), "err", err)
		}
	}
	return nil
}

// handle does one job of a queue.
func (r *Runner) handle(ctx context.Context, payload []byte) error {
	var req Request
	if err := json.Unmarshal(payload, &req); err != nil {
		return fmt.Errorf("decode request: %w", err)
	}
	log := r.Log.With("op", req.ID, "kind", req.Kind)
	lease, err := r.Store.Lock(ctx, "run:"+req.ID, store.Claim{Owner: req.ID, Reason: req.Kind})
	if held := new(store.HeldError); errors.As(err, &held) {
		return queue.ErrBusy
	} else if err != nil {
		return err
	}
	defer lease.Release()

	rec := record{Request: req}
	if err := r.Store.Get(ctx, recordKey(req.ID), &rec); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if rec.State.Final() {
		return nil
	}
	op, err := r.decode(rec.Request)
	if err != nil {
		return err
	}

	run := &Run{Env: r.Env, Request: rec.Request, Log: log, op: op}
	run.status = Status{ID: req.ID, Kind: op.Kind(), Target: op.Target(), Title: req.Title, Actor: req.Actor, State: Planning, Began: req.At}
	var saving sync.Mutex
	save := func(ctx context.Context, change func(*record)) error {
		saving.Lock()
		defer saving.Unlock()
		change(&rec)
		return r.Store.Put(ctx, recordKey(req.ID), rec, queue.Retention)
	}
	run.persist = func(ctx context.Context, op json.RawMessage) error {
		return save(ctx, func(rec *record) { rec.Op = op })
	}
	run.message = r.Reporter.Open(req, rec.Message, func(ref string) {
		ctx, cancel := detached(ctx)
		defer cancel()
		if err := save(ctx, func(rec *record) { rec.Message = ref }); err != nil {
			log.Warn("the message will not be found again after a restart", "err", err)
		}
	})

	waited := rec.State == Waiting
	turn, end, err := r.takeTurn(lease.Context(), run, &rec)
	if errors.Is(err, queue.ErrBusy) {
		if waited {
			return err // and its message says so already
		}
		closeMessage(ctx, run, log)
		_ = save(ctx, func(rec *record) { rec.State = Waiting }) // else it is said again
		return err
	}
	if err == nil {
		defer end()
		err = r.begin(ctx, run, &rec, save)
		if err != nil {
			return err
		}
		if crashes := rec.Begun - 1 - rec.Stopped; crashes >= maxCrashes {
			err = Errorf(Internal, "Waggle died %d times while doing this, so it was given up", crashes).
				Then("Waggle's log says why it died; ask for this again when that is mended.")
		} else {
			err = r.execute(turn, run)
		}
	}
	if errors.Is(err, queue.ErrInterrupted) {
		run.Note("Waggle is stopping, or has lost Redis; this goes on as soon as it can.")
		closeMessage(ctx, run, log)
		ctx, cancel := detached(ctx)
		defer cancel()
		_ = save(ctx, func(rec *record) { rec.Stopped++ }) // else it counts as a crash
		return err
	}

	r.conclude(run, err)
	closeMessage(ctx, run, log)
	ctx, cancel := detached(ctx)
	defer cancel()
	r.audit(ctx, run)
	if err := save(ctx, func(rec *record) { rec.State = run.status.State }); err != nil {
		return err
	}
	return r.Store.Remove(ctx, inflight, req.ID)
}

// begin makes it durable that the operation has begun.
func (r *Runner) begin(ctx context.Context, run *Run, rec *record, save func(context.Context, func(*record)) error) error {
	if run.resumed = rec.Begun > 0; run.resumed {
		run.Note("Waggle stopped in the middle of this; taken up again.")
	}
	if err := save(ctx, func(rec *record) { rec.Begun++; rec.State = Working }); err != nil {
		return err
	}
	return r.Store.Add(ctx, inflight, run.ID)
}

// detached gives what has to be written at the end a few seconds, whatever
// happens to ctx.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
}

func closeMessage(ctx context.Context, run *Run, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := run.message.Close(ctx); err != nil {
		log.Warn("the last state could not be shown", "state", run.status.State, "err", err)
	}
}

func (r *Runner) decode(req Request) (Operation, error) {
	make, ok := r.Kinds[req.Kind]
	if !ok {
		return nil, fmt.Errorf("unknown kind of operation %q", req.Kind)
	}
	op := make()
	if err := json.Unmarshal(req.Op, op); err != nil {
		return nil, fmt.Errorf("decode %s: %w", req.Kind, err)
	}
	return op, nil
}

// takeTurn lets the Preparers of a target go one after the other, the newest of
// those that wait in place of the others. The returned context ends with the turn.
func (r *Runner) takeTurn(ctx context.Context, run *Run, rec *record) (context.Context, func(), error) {
	if _, ordered := run.op.(Preparer); !ordered {
		return ctx, func() {}, nil
	}
	target := run.op.Target()
	newest, err := r.Store.Raise(ctx, newestKey(target), run.Seq, queue.Retention)
	if err != nil {
		return ctx, nil, queue.ErrBusy
	}
	if newest > run.Seq && rec.Begun == 0 {
		return ctx, nil, Errorf(Canceled, "A newer push took its place before it began")
	}
	turn, err := r.Store.Lock(ctx, "turn:"+target, r.claim(run))
	if held := new(store.HeldError); errors.As(err, &held) {
		run.update(func(s *Status) {
			s.State, s.Note = Waiting, fmt.Sprintf("waits for the deploy of %s, which began %s", held.Owner, held.Since.UTC().Format("15:04:05 UTC"))
		})
		return ctx, nil, queue.ErrBusy
	} else if err != nil {
		return ctx, nil, queue.ErrBusy
	}
	return turn.Context(), turn.Release, nil
}

func (r *Runner) claim(run *Run) store.Claim {
	return store.Claim{ID: run.ID, Owner: run.Actor.String(), Reason: run.Kind}
}

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

func (r *Runner) authoriseToApproval(ctx context.Context, run *Run) error {
	if err := r.Authoriser.Authorise(ctx, run.Actor, run.op.Needs()); err != nil {
		return err
	}
	if err := run.plan(ctx); err != nil {
		return err
	}
	if why := run.status.Plan.Approval; why != "" && !run.DryRun {
		return Errorf(Forbidden, "This needs an approval: %s", why).
			Then("Approvals are not there yet; do it with the docker command line for now.")
	}
	return nil
}

func (r *Runner) prepareToConverge(ctx context.Context, run *Run) error {
	prep, slow := run.op.(Preparer)
	if slow {
		if err := prep.Prepare(ctx, run); err != nil {
			return failed(err)
		}
	}
	lock, err := r.lock(ctx, run, slow)
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
	}
	if err := run.apply(ctx); err != nil {
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
	r.update(func(s *Status) { s.Plan = plan })
	return nil
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
		r.Note("It was changed by somebody else in the meantime, so it was planned again.")
	}
	return Errorf(OutOfDate, "%s is changed by somebody else all the time: given up after %d plans", r.op.Target(), maxPlans).
		Then("Nothing was changed. Find out who does, then try again.")
}

// lock takes the target's lock. Who has no slow work behind it is refused when
// it is held; else it is waited for.
func (r *Runner) lock(ctx context.Context, run *Run, wait bool) (*store.Lease, error) {
	deadline := time.NewTimer(r.Env.DeployTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		lease, err := r.Store.Lock(ctx, "target:"+run.op.Target(), r.claim(run))
		held := new(store.HeldError)
		switch {
		case err == nil:
			return lease, nil
		case !errors.As(err, &held):
			return nil, &Error{Code: Unavailable, Sentence: "Redis does not answer, so nothing was changed", Next: "Try again in a minute.", Err: err}
		}
		who := fmt.Sprintf("%s has been changing %s (%s) since %s", held.Owner, run.op.Target(), held.Reason, held.Since.UTC().Format("15:04:05 UTC"))
		refused := Errorf(Locked, "%s", who).Then("Nothing was changed. Try again when that is done.")
		if !wait {
			return nil, refused
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

// conclude sets the final state.
func (r *Runner) conclude(run *Run, err error) {
	run.update(func(s *Status) {
		s.Note = ""
		if err == nil {
			s.State = Done
			if run.DryRun {
				s.State = DryRun
			}
			return
		}
		e := new(Error)
		if !errors.As(err, &e) {
			e = &Error{Code: Internal, Sentence: "Waggle could not do it, for a reason that is in its log", Err: err}
		}
		s.Err = e
		switch {
		case e.Code == Canceled:
			s.State = Superseded
		case s.State == Planning || s.State == Waiting || e.Code == OutOfDate:
			s.State = Refused
		default:
			s.State = Failure
		}
	})
}

func (r *Runner) audit(ctx context.Context, run *Run) {
	s := run.status
	entry := Entry{At: r.Env.Now(), ID: s.ID, Who: s.Actor.String(), UserID: s.Actor.ID, Kind: s.Kind,
		Target: s.Target, Diffs: s.Plan.Diffs, Outcome: s.State, Took: r.Env.Now().Sub(s.Began)}
	attrs := []any{"op", entry.ID, "who", entry.Who, "user_id", entry.UserID, "kind", entry.Kind, "target", entry.Target,
		"diffs", entry.Diffs, "outcome", entry.Outcome, "took", entry.Took}
	if s.Err != nil {
		entry.Why = s.Err.Sentence
		attrs = append(attrs, "why", s.Err.Sentence)
		if s.Err.Err != nil {
			attrs = append(attrs, "err", s.Err.Err.Error())
		}
	}
	r.Log.Info("audit", attrs...)
	if err := r.Store.Append(ctx, "audit", entry, auditMax); err != nil {
		r.Log.Error("the audit entry is only in this log", "op", entry.ID, "err", err)
	}
}

// sweep takes up operations whose process died: those that have begun, have not
// ended, and are held by nobody. asynq would too, but up to two minutes later.
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

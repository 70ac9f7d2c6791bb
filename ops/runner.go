package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"waggle/ops/queue"
	"waggle/ops/store"
)

const (
	maxCrashes = 3 // how often Waggle may die in the middle of an operation before it is given up

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
	// Asked is set for a Preparer that somebody asked for until it is known that it is to
	// be done: older ones do not give way to it before.
	Asked bool `json:"asked,omitempty"`
}

// record is what is known of a request that has begun.
type record struct {
	Request
	State   State  `json:"state"`
	Message string `json:"message,omitempty"` // the Reporter's name of the message
	Begun   int    `json:"begun"`             // how often it was taken up
	// Of an operation that has to be approved: the plan that was shown, until
	// when, and how often it was asked.
	Plan     *Plan     `json:"plan,omitempty"`
	Deadline time.Time `json:"deadline,omitzero"`
	Round    int       `json:"round,omitempty"`
	Approved *Decision `json:"approved,omitempty"` // of that plan
	Stopped  int       `json:"stopped,omitempty"`  // how often it was put back in good order
	Applying bool      `json:"applying,omitempty"` // it may have changed something, so it cannot be called off any more
	Note     string    `json:"note,omitempty"`     // of one that waits for its turn: what its message says
}

// saver changes a record and makes the change durable.
type saver func(ctx context.Context, change func(*record)) error

func recordKey(id string) string { return "op:" + id }

// What is changed in one step with the queue of deploys: the braces, which are in
// the names of its keys too, have a Redis cluster keep all of it in one place.
func newestKey(target string) string { return "newest:{deploys}:" + target } // the highest Seq of a target
func countsKey(target string) string { return "counts:{deploys}:" + target } // the highest of what is to be done
func pushesKey(app string) string    { return "pushes:{deploys}:" + app }

// Runner takes operations from where they were asked for to where they are
// done: the one mechanism behind every command and every push.
type Runner struct {
	Env        Env
	Kinds      map[string]func() Operation // every operation there is, by Kind
	Store      *store.Store
	Authoriser Authoriser
	Reporter   Reporter
	Statuses   CommitStatuses // nil tells no forge
	Changes    *queue.Queue   // quick operations
	Deploys    *queue.Queue   // Preparers
	Log        *slog.Logger
	Metrics    *Metrics

	ApprovalTTL time.Duration // how long an operation waits for its approval
	ApproveOwn  bool          // whether the asker may approve

	links    linkReader
	noted    notes
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
// queue.ErrDuplicate when a request of that ID was made before, and an *Error
// when the operation has a secret that cannot be sealed.
func (r *Runner) Submit(ctx context.Context, req Request, op Operation) error {
	if s, ok := op.(Sealer); ok {
		if err := s.Seal(r.Env.SecretKey); err != nil {
			return err
		}
	}
	if _, ordered := op.(Preparer); !ordered {
		payload, err := r.encode(&req, op)
		if err != nil {
			return err
		}
		return r.Changes.Add(ctx, req.ID, payload)
	}
	req.Asked = true
	for {
		var newest int64
		if err := r.Store.Get(ctx, newestKey(op.Target()), &newest); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		req.Seq = newest + 1
		err := r.submit(ctx, req, op, nil, false)
		if !errors.Is(err, store.ErrChanged) {
			return err
		}
		if err := pause(ctx, rand.N(retryWait)); err != nil {
			return err
		}
	}
}

// submit makes the request of a Preparer durable, which has its Seq, in one step
// with the extension, if there is one. It returns store.ErrChanged when the Seq is not
// the highest, unless the request was made before, again.
func (r *Runner) submit(ctx context.Context, req Request, op Operation, extend *store.Extend, again bool) error {
	payload, err := r.encode(&req, op)
	if err != nil {
		return err
	}
	add, err := r.Deploys.Adding(ctx, req.ID, payload)
	if err != nil {
		return err
	}
	// With the job, not before: an older one may only give way to one that exists.
	newest := store.Raise{Name: newestKey(op.Target()), N: req.Seq, TTL: queue.Retention, Above: !again}
	if done, err := r.Store.Do(ctx, store.Step{Extend: extend, Raise: &newest, Then: add}); err != nil || done {
		return err
	}
	return queue.ErrDuplicate
}

// encode returns a request as it is kept.
func (r *Runner) encode(req *Request, op Operation) ([]byte, error) {
	req.Kind, req.At = op.Kind(), r.Env.Now()
	b, err := json.Marshal(struct {
		*Request
		Op Operation `json:"op"` // in place of the Request's, which would have to be encoded before
	}{req, op})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", op.Kind(), err)
	}
	return b, nil
}

// handle does one job of a queue.
func (r *Runner) handle(ctx context.Context, payload []byte) error {
	var req Request
	if err := json.Unmarshal(payload, &req); err != nil {
		return fmt.Errorf("decode request: %w", err)
	}
	switch req.Kind {
	case kindDecision:
		return r.decide(ctx, req)
	case kindPush:
		return r.lookAtKept(ctx, req)
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
	if err := r.lookAgain(ctx, rec, op); err != nil {
		return err
	}
	decision := rec.Approved
	if rec.State == Pending {
		if decision, err = r.decided(ctx, &rec); err != nil {
			return err
		}
		if decision == nil && r.Env.Now().After(rec.Deadline) {
			decision = r.byTheClock()
		}
	}

	if _, slow := op.(Preparer); slow && !rec.Applying {
		off, err := r.cancelled(ctx, req.ID)
		if err != nil {
			return err
		}
		if off != nil {
			decision = off
		}
	}

	run := &Run{Env: r.Env, Request: rec.Request, Log: log, op: op}
	run.hold = func(ctx context.Context, app string) (*store.Lease, error) {
		return r.Store.Lock(ctx, targetKey(app), r.claim(run))
	}
	run.status = Status{ID: req.ID, Kind: op.Kind(), Target: op.Target(), Title: req.Title, Actor: req.Actor, State: Planning, Began: req.At}
	var saving sync.Mutex
	var save saver = func(ctx context.Context, change func(*record)) error {
		saving.Lock()
		defer saving.Unlock()
		change(&rec)
		return r.Store.Put(ctx, recordKey(req.ID), rec, queue.Retention)
	}
	run.persist = func(ctx context.Context, op json.RawMessage) error {
		return save(ctx, func(rec *record) { rec.Op = op })
	}
	run.applying = func(ctx context.Context) error {
		return save(ctx, func(rec *record) { rec.Applying = true })
	}
	run.message = r.Reporter.Open(req, rec.Message, func(ref string) {
		ctx, cancel := detached(ctx)
		defer cancel()
		if err := save(ctx, func(rec *record) { rec.Message = ref }); err != nil {
			log.Warn("the message will not be found again after a restart", "err", err)
		}
	})

	if rec.State == Pending && decision == nil {
		return r.showAgain(ctx, run, &rec, save)
	}
	var turn context.Context
	end := func() {}
	if decision != nil {
		run.status.Decision = decision
		run.approved = rec.Plan
	}
	if against := decision.against(r.ApprovalTTL); against != nil {
		if rec.Plan != nil {
			run.status.Plan = *rec.Plan
		}
		turn, err = ctx, against
	} else {
		turn, end, err = r.takeTurn(lease.Context(), run, &rec, save)
	}
	if wait := new(notYet); errors.As(err, &wait) {
		return r.wait(ctx, run, &rec, save, wait.why)
	}
	if err == nil {
		defer end()
		err = r.begin(ctx, run, &rec, save)
		if err != nil {
			closeMessage(ctx, run, log)
			return err
		}
		if crashes := rec.Begun - 1 - rec.Stopped; crashes >= maxCrashes {
			err = Errorf(Internal, "Waggle died %d times while doing this, so it was given up", crashes).
				Then("Waggle's log says why it died; ask for this again when that is mended.")
		} else {
			err = r.persevere(turn, run)
		}
		run.end()
	}
	if errors.Is(err, errPark) {
		return r.park(ctx, run, &rec, save)
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
	auditing, cancel := detached(ctx)
	entry := r.audit(auditing, run)
	cancel()
	closeMessage(ctx, run, log)
	r.tellEnd(ctx, run)
	ctx, cancel = detached(ctx)
	defer cancel()
	if err := r.Reporter.Record(ctx, entry); err != nil {
		log.Warn("the audit entry is not in its channel", "err", err)
	}
	if err := save(ctx, func(rec *record) { rec.State = run.status.State }); err != nil {
		return err
	}
	return r.Store.Remove(ctx, inflight, req.ID)
}

// begin makes it durable that the operation has begun.
func (r *Runner) begin(ctx context.Context, run *Run, rec *record, save saver) error {
	run.resumed, run.began = rec.Applying, rec.Begun > 0
	if rec.State == Working {
		run.Note("Waggle stopped in the middle of this; taken up again.")
	}
	err := save(ctx, func(rec *record) {
		rec.Begun++
		rec.State, rec.Approved = Working, run.status.Decision
	})
	if err != nil {
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

// notYet says that it is not an operation's turn.
type notYet struct{ why string } // "" when that cannot be told

func (e *notYet) Error() string { return "not its turn: " + e.why }

// wait shows what an operation waits for, unless its message says so already, and
// puts it back.
func (r *Runner) wait(ctx context.Context, run *Run, rec *record, save saver, why string) error {
	if why == "" || rec.State == Waiting && rec.Note == why {
		return queue.ErrBusy
	}
	run.update(func(s *Status) { s.State, s.Note = Waiting, why })
	closeMessage(ctx, run, run.Log)
	err := save(ctx, func(rec *record) { rec.State, rec.Note, rec.Approved = Waiting, why, run.status.Decision })
	if err != nil {
		return err
	}
	return queue.ErrBusy
}

// takeTurn lets the Preparers of a target go one after the other, the newest of
// those that wait in place of the others. The returned context ends with the turn;
// a notYet says that it has not come.
func (r *Runner) takeTurn(ctx context.Context, run *Run, rec *record, save saver) (context.Context, func(), error) {
	if _, ordered := run.op.(Preparer); !ordered {
		return ctx, func() {}, nil
	}
	if run.Asked {
		if err := r.admit(ctx, run, save); err != nil || run.DryRun {
			return ctx, func() {}, err
		}
	}
	target := run.op.Target()
	newest, err := r.Store.Raise(ctx, countsKey(target), run.Seq, queue.Retention)
	if err != nil {
		return ctx, nil, &notYet{}
	}
	fresh := !rec.Applying && (rec.Begun == 0 || rec.State == Pending || rec.State == Waiting)
	if newest > run.Seq && fresh {
		return ctx, nil, Errorf(Canceled, "A newer push took its place before it began")
	}
	if h, ok := run.op.(Holder); ok && fresh {
		if why, err := h.Hold(ctx, run); why != "" || err != nil {
			return ctx, nil, &notYet{why}
		}
	}
	if err := r.replaceOlder(ctx, run); err != nil {
		return ctx, nil, &notYet{}
	}
	turn, err := r.Store.Lock(ctx, "turn:"+target, r.claim(run))
	if held := new(store.HeldError); errors.As(err, &held) {
		return ctx, nil, &notYet{fmt.Sprintf("waits for the deploy of %s, which began %s", held.Owner, held.Since.UTC().Format("15:04:05 UTC"))}
	} else if err != nil {
		return ctx, nil, &notYet{}
	}
	return turn.Context(), turn.Release, nil
}

// admit has a Preparer that somebody asked for count, once it is known that it may be done
// and can be: to what is refused, or only planned, nothing older gives way.
func (r *Runner) admit(ctx context.Context, run *Run, save saver) error {
	if err := r.authoriseToApproval(ctx, run); err != nil && !errors.Is(err, errPark) {
		if ctx.Err() != nil {
			return queue.ErrInterrupted
		}
		return err
	}
	if run.DryRun {
		return nil
	}
	op, err := json.Marshal(run.op) // with what it found out
	if err != nil {
		return err
	}
	if err := save(ctx, func(rec *record) { rec.Op, rec.Asked = op, false }); err != nil {
		return &notYet{}
	}
	run.Asked = false
	return nil
}

func (r *Runner) claim(run *Run) store.Claim {
	return store.Claim{ID: run.ID, Owner: run.Actor.String(), Reason: run.Kind}
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
		case s.Decision != nil && s.Decision.Verdict == Reject:
			s.State = Rejected
		case s.Decision != nil && s.Decision.Verdict == Cancel:
			s.State = Cancelled
		case s.Decision != nil && s.Decision.Verdict == Replace:
			s.State = Superseded
		case s.Decision != nil && s.Decision.Verdict == Expire:
			s.State = Expired
		case e.Code == Canceled:
			s.State = Superseded
		case !run.resumed && (s.State == Planning || s.State == Waiting) || e.Code == OutOfDate:
			s.State = Refused
		default:
			s.State = Failure
		}
	})
}

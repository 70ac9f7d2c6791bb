package ops

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"sync"
	"time"

	"waggle/ops/queue"
	"waggle/ops/store"
)

const (
	maxCrashes = 3 // how often Waggle may die in the middle of an operation before it is given up

	inflight = "inflight" // set of the ids of operations that an attempt works on
)

// Request is one operation that somebody asked for, as it is kept in Redis.
type Request struct {
	// Format is the version of this JSON, see recordFormat.
	Format int `json:"format,omitempty"`
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
	// Asked marks a manual deploy that was not admitted yet (authorised and planned): until then
	// it supersedes nothing.
	Asked bool `json:"asked,omitempty"`
}

func recordKey(id string) string { return "op:" + id }

// What is changed in one step with the queue of deploys. {deploys} is a hash tag, as in the queue's
// own keys: a Redis cluster keeps all of it in one slot.
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
	Decisions  *queue.Queue   // approvals and cancels, which never stand in line behind work
	Log        *slog.Logger
	Metrics    *Metrics

	ApprovalTTL time.Duration // how long an operation waits for its approval
	ApproveOwn  bool          // whether the asker may approve

	// Failpoint, unless nil, is called with the name of each step that was just made durable or
	// took effect, for tests that stop a process there.
	Failpoint func(step string)

	links      linkReader
	noted      notes
	name       string // of this process
	parked     parked
	stuck      map[string]int // of interrupted operations: in how many sweeps nobody was at them
	wake       chan struct{}  // holds one token when something is to be delivered
	loops      sync.WaitGroup
	stop       context.CancelFunc
	tells      sync.WaitGroup  // goroutines that talk to Slack
	life       context.Context // ends when those have to give up
	ending     context.CancelFunc
	looks      sharedCalls[string]          // where branches are
	unfinished sharedCalls[map[string]bool] // the ids of deploys that are not done
	keptLooks  keptLooks
}

// stopTelling is how long a stopping process goes on showing last states; the outbox has them.
const stopTelling = 5 * time.Second

// Start takes up what was left over and begins to work.
func (r *Runner) Start() error {
	r.name, r.stuck, r.wake = rand.Text(), map[string]int{}, make(chan struct{}, 3)
	r.life, r.ending = context.WithCancel(context.Background())
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	for _, q := range r.queues() {
		if err := q.Start(r.handle); err != nil {
			cancel()
			return err
		}
	}
	r.loops.Go(func() { r.sweep(ctx) })
	r.loops.Go(func() { r.beat(ctx) })
	for _, what := range []string{"message", "audit", "forge"} {
		r.loops.Go(func() { r.deliver(ctx, what) })
	}
	return nil
}

// Stop interrupts what runs, at a place where it can be taken up again.
func (r *Runner) Stop() {
	r.stop()
	var all sync.WaitGroup
	for _, q := range r.queues() {
		all.Go(q.Stop)
	}
	all.Wait()
	r.loops.Wait()
	late := time.AfterFunc(stopTelling, r.ending)
	r.tells.Wait()
	late.Stop()
	r.ending()
}

func (r *Runner) queues() []*queue.Queue {
	return []*queue.Queue{r.Decisions, r.Changes, r.Deploys}
}

func (r *Runner) failpoint(step string) {
	if r.Failpoint != nil {
		r.Failpoint(step)
	}
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
		if err := pause(ctx, mrand.N(retryWait)); err != nil {
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
	req.Format, req.Kind, req.At = recordFormat, op.Kind(), r.Env.Now()
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
	req, err := decodeRequest(payload)
	if err != nil {
		return err
	}
	switch req.Kind {
	case kindDecision:
		return r.decide(ctx, req)
	case kindPush:
		return r.lookAtKept(ctx, req)
	}
	w, err := r.take(ctx, req)
	if w == nil || err != nil {
		return err
	}
	defer w.lease.Release()
	err = r.attempt(ctx, w)
	switch {
	case errors.Is(err, store.ErrFinal):
		return nil // it was ended meanwhile, by whoever held the lease
	case errors.Is(err, store.ErrLost):
		return queue.ErrInterrupted // whoever has the lease now goes on; else this job does
	}
	return err
}

// take takes an operation's lease and reads its record; nil when there is nothing left to do.
func (r *Runner) take(ctx context.Context, req Request) (*recordWriter, error) {
	lease, err := r.Store.Lock(ctx, "run:"+req.ID, store.Claim{Owner: req.ID, Reason: req.Kind})
	if held := new(store.HeldError); errors.As(err, &held) {
		return nil, queue.ErrBusy
	} else if err != nil {
		return nil, err
	}
	w := &recordWriter{store: r.Store, lease: lease, now: r.Env.Now, read: r.read, rec: record{Request: req}}
	if rec, err := r.read(ctx, req.ID); err == nil {
		w.rec = rec
	} else if !errors.Is(err, store.ErrNotFound) {
		lease.Release()
		return nil, err
	}
	if w.rec.State.Final() {
		lease.Release()
		return nil, r.Store.Remove(ctx, inflight, req.ID)
	}
	return w, nil
}

// attempt takes an operation as far as it gets.
func (r *Runner) attempt(ctx context.Context, w *recordWriter) error {
	rec := w.rec
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
		if decision == nil {
			// Somebody may be deciding just now: then it stays in flight.
			return r.Store.RemoveListed(ctx, pending, token(rec.ID, rec.Round), inflight, rec.ID)
		}
	}
	if !rec.Applying {
		off, err := r.cancelled(ctx, rec.ID)
		if err != nil {
			return err
		}
		if off != nil {
			decision = off
		}
	}

	run := r.newRun(w, rec.Request)
	run.op = op
	run.hold = func(ctx context.Context, app string) (*store.Lease, error) {
		locks, _, err := r.tryLock(ctx, run, []Target{appTarget(app)})
		if err != nil {
			return nil, err
		}
		return locks[0], nil
	}
	run.status = Status{ID: rec.ID, Kind: op.Kind(), Target: op.Target(), Title: rec.Title, Actor: rec.Actor, State: Planning, Began: rec.At}
	run.resumed, run.applied, run.began = rec.Applying, rec.Applied, rec.Begun > 0
	defer run.message.finish("", record{}) // unless it was finished with what is to be told
	if decision != nil {
		run.status.Decision = decision
		run.approved = rec.Plan
	}
	turn, end := w.lease.Context(), func() {}
	against := decision.against(r.ApprovalTTL)
	if against != nil {
		err = against
		if rec.Plan != nil {
			run.status.Plan = *rec.Plan
		}
	} else {
		turn, end, err = r.takeTurn(w.lease.Context(), run)
	}
	wait := new(notYet)
	if errors.As(err, &wait) {
		return r.wait(ctx, run, rec, wait.why, time.Time{})
	}
	if err == nil {
		defer end()
		if err = r.begin(ctx, run); err != nil {
			return err
		}
		err = r.persevere(turn, run)
		run.end()
	}
	switch {
	case errors.Is(err, errPark):
		return r.park(ctx, run)
	case errors.As(err, &wait):
		return r.wait(ctx, run, rec, wait.why, time.Time{})
	case errors.Is(err, errRedis) && !run.DryRun:
		r.interrupted(ctx, run, "Can't reach Redis. Nothing was changed; retrying.")
		return queue.ErrBusy // what Redis does not take is no verdict
	case errors.Is(err, store.ErrLost), errors.Is(err, store.ErrFinal):
		return err
	case errors.Is(err, queue.ErrInterrupted):
		r.interrupted(ctx, run, "Waggle is restarting; this resumes by itself.")
		return queue.ErrInterrupted
	case r.stillAway(ctx, run, err):
		return r.waitForAway(ctx, run, rec, err)
	}
	r.conclude(run, err)
	return r.finish(ctx, run)
}

// newRun returns one attempt at what w is the record of.
func (r *Runner) newRun(w *recordWriter, req Request) *Run {
	rec := w.record()
	run := &Run{Env: r.Env, Request: req, Log: r.Log.With("op", req.ID, "kind", req.Kind), w: w, message: r.teller(rec, rec.Begun > 0 || rec.State != "", w.lease.Valid)}
	run.show = run.message.Show
	return run
}

// begin makes it durable that an attempt has begun.
func (r *Runner) begin(ctx context.Context, run *Run) error {
	rec := run.w.record()
	if rec.State == Working {
		run.Note("Waggle was interrupted; resuming.")
	}
	crashed := rec.Open && rec.Worker != r.name
	if crashed {
		err := r.Store.Get(ctx, workerKey(rec.Worker), new(time.Time))
		crashed = errors.Is(err, store.ErrNotFound) // else it lives, and has lost Redis only
	}
	err := run.w.write(ctx, func(rec *record) {
		rec.Begun++
		rec.State, rec.Approved, rec.Open, rec.Worker = Working, run.status.Decision, true, r.name
		if crashed {
			rec.Crashes++
		}
	}, inFlight(run.ID))
	r.failpoint("begun")
	return err
}

// interrupted ends an attempt cleanly, so that it does not count as a crash.
func (r *Runner) interrupted(ctx context.Context, run *Run, note string) {
	run.Note(note)
	ctx, cancel := detached(ctx)
	defer cancel()
	if err := run.w.write(ctx, func(rec *record) { rec.Open = false }, inFlight(run.ID)); err != nil {
		run.Log.Info("an interrupted attempt may count as a crash", "err", err)
	}
}

// finish stores the final state, its audit entry and the outbox entries in one step. Delivery comes
// after that.
func (r *Runner) finish(ctx context.Context, run *Run) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	for {
		entry, err := run.w.finish(ctx, run, r.auditEntry(run))
		switch {
		case err == nil:
			r.failpoint("final")
			r.ended(run)
			run.message.finish(entry, run.w.record())
			r.deliverSoon()
			return nil
		case errors.Is(err, store.ErrFinal) && r.finished(ctx, run):
			r.ended(run)
			run.message.finish(messageEntry(run.ID, run.w.record().Told), run.w.record())
			r.deliverSoon()
			return nil
		case errors.Is(err, store.ErrLost), errors.Is(err, store.ErrFinal):
			return err
		}
		run.Log.Warn("the outcome could not be stored", "err", err)
		if pause(ctx, retryWait*10) != nil {
			return queue.ErrInterrupted // it is found in the swarm by the next attempt
		}
	}
}

// finished says whether it was this process that has written the final state, without an answer.
func (r *Runner) finished(ctx context.Context, run *Run) bool {
	rec, err := r.read(ctx, run.ID)
	if err != nil || rec.Token != run.w.lease.Token() || !rec.State.Final() {
		return false
	}
	run.w.mu.Lock()
	defer run.w.mu.Unlock()
	run.w.rec = rec
	return true
}

// detached gives what has to be written at the end a few seconds, whatever
// happens to ctx.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
}

func (r *Runner) decode(req Request) (Operation, error) {
	make, ok := r.Kinds[req.Kind]
	if !ok {
		return nil, fmt.Errorf("%w: kind %q", errUndecodable, req.Kind)
	}
	op := make()
	if err := json.Unmarshal(req.Op, op); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errUndecodable, req.Kind, err)
	}
	return op, nil
}

// notYet says that it is not an operation's turn.
type notYet struct{ why string } // "" when that cannot be told

func (e *notYet) Error() string { return "not its turn: " + e.why }

// wait requeues an operation and shows what it waits for, unless its message says so already. before is
// the record as the attempt found it; away is since when a part does not answer, if that is why.
func (r *Runner) wait(ctx context.Context, run *Run, before record, why string, away time.Time) error {
	if now := run.w.record(); now.Begun == before.Begun && (why == "" || now.State == Waiting && now.Note == why) {
		r.parked.touch(run.ID, r.Env.Now())
		return r.keepAlive(ctx, run)
	}
	waits := func(rec *record) {
		rec.State, rec.Note, rec.Away = Waiting, why, away
		rec.Approved, rec.Open = run.status.Decision, false
	}
	// Its job stays in the queue.
	leavesFlight := store.Command{Do: "SREM", Name: inflight, Args: []any{run.ID}}
	if before.State == Waiting && before.Note == why {
		if err := run.w.write(ctx, waits, leavesFlight); err != nil {
			return err
		}
	} else {
		run.update(func(s *Status) { s.State, s.Note = Waiting, why })
		entry, err := run.w.tell(ctx, run.snapshot(), waits, leavesFlight)
		if err != nil {
			return err
		}
		run.message.finish(entry, run.w.record())
	}
	r.parked.add(run)
	return queue.ErrBusy
}

// keepAliveOne in so many looks of about a second at what waits writes its record again.
const keepAliveOne = 3600

// keepAlive has what waits for weeks, such as a push to a frozen app, outlive the time of its keys.
func (r *Runner) keepAlive(ctx context.Context, run *Run) error {
	if run.w.record().State != Waiting || mrand.N(keepAliveOne) > 0 {
		return queue.ErrBusy
	}
	ref, err := r.messageRef(ctx, run.w.record())
	if err == nil && ref != "" {
		err = r.Store.Put(ctx, messageKey(run.ID), ref, queue.Retention)
	}
	if err == nil {
		err = run.w.write(ctx, func(*record) {})
	}
	if err != nil {
		return err
	}
	return queue.ErrBusy
}

// stillAway says whether a part that does not answer may be waited for: it is the engine or the
// swarm's leader, nothing was changed, and the deadline has not passed since that began.
func (r *Runner) stillAway(ctx context.Context, run *Run, err error) bool {
	if CodeOf(err) != Unavailable || run.DryRun || run.applying || run.resumed || !run.onlyPlanned() {
		return false
	}
	since := run.w.record().Away
	if !since.IsZero() && r.Env.Now().Sub(since) >= r.Env.DeployTimeout {
		return false
	}
	return r.engineAway(ctx)
}

// engineAway says whether the engine or the swarm's leader does not answer now.
func (r *Runner) engineAway(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, awayPause)
	defer cancel()
	_, err := r.Env.Swarm.Cluster(ctx)
	return CodeOf(err) == Unavailable || ctx.Err() != nil
}

// waitForAway is wait for an operation whose plan an unavailable part prevents.
func (r *Runner) waitForAway(ctx context.Context, run *Run, before record, err error) error {
	since := before.Away
	if since.IsZero() {
		since = r.Env.Now()
	}
	until := clockTime(since.Add(r.Env.DeployTimeout))
	return r.wait(ctx, run, before, fmt.Sprintf("%s. Nothing was changed. Retrying until %s", sentenceOf(err), until), since)
}

// takeTurn lets the Preparers of a target go one after the other, the newest of
// those that wait in place of the others. The returned context ends with the turn;
// a notYet says that it has not come.
func (r *Runner) takeTurn(ctx context.Context, run *Run) (context.Context, func(), error) {
	rec := run.w.record()
	if _, ordered := run.op.(Preparer); !ordered || rec.Applying {
		return ctx, func() {}, nil // what may have changed the app goes on; its slow work is over
	}
	if run.Asked {
		if err := r.admit(ctx, run); err != nil || run.DryRun {
			return ctx, func() {}, err
		}
	}
	target := run.op.Target()
	newest, err := r.Store.Raise(ctx, countsKey(target), run.Seq, queue.Retention)
	if err != nil {
		return ctx, nil, &notYet{}
	}
	if newest > run.Seq {
		return ctx, nil, Errorf(Canceled, "Superseded by a newer push")
	}
	if h, ok := run.op.(Holder); ok && (rec.Begun == 0 || rec.State == Pending || rec.State == Waiting) {
		why, err := h.Hold(ctx, run)
		switch {
		case why != "", CodeOf(err) == Unavailable:
			return ctx, nil, &notYet{why}
		case err != nil:
			return ctx, nil, err
		}
	}
	if err := r.replaceOlder(ctx, run); err != nil {
		return ctx, nil, &notYet{}
	}
	turn, err := r.Store.Lock(ctx, "turn:"+target, r.claim(run))
	if held := new(store.HeldError); errors.As(err, &held) {
		return ctx, nil, &notYet{fmt.Sprintf("waits for the deploy of %s, which began %s", held.Owner, clockTime(held.Since))}
	} else if err != nil {
		return ctx, nil, &notYet{}
	}
	// Again, now that nobody else can begin: since the first look this process may have slept.
	newest, err = r.Store.Raise(ctx, countsKey(target), run.Seq, queue.Retention)
	if err == nil && newest > run.Seq {
		err = Errorf(Canceled, "Superseded by a newer push")
	} else if err != nil {
		err = &notYet{}
	}
	if err != nil {
		turn.Release()
		return ctx, nil, err
	}
	return turn.Context(), turn.Release, nil
}

// admit marks a deploy that somebody asked for as ready to supersede older ones: only after it was
// authorised and planned, so nothing gives way to what is refused or only planned.
func (r *Runner) admit(ctx context.Context, run *Run) error {
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
	if err := run.w.write(ctx, func(rec *record) { rec.Op, rec.Asked = op, false }); err != nil {
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
	run.decide(func(s *Status) {
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
			e = &Error{Code: Internal, Sentence: fmt.Sprintf("Internal error. Search Waggle's log for op=%s", run.ID), Err: err}
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
		case !run.applying && !run.resumed && (s.State == Planning || s.State == Waiting) || e.Code == OutOfDate:
			s.State = Refused
		default:
			s.State = Failure
		}
	})
}

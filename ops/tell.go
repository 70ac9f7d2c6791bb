package ops

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"waggle/ops/queue"
	"waggle/ops/store"
)

// A transactional outbox: a message is stored in one step with the state that it reports, and sent at
// least once, by any replica, however long Slack or a forge is away. Nothing waits for them.

const (
	outbox = "outbox" // entries by when they are due

	// ownTelling is how long the process that wrote an entry has to tell it before others try.
	ownTelling = 10 * time.Second
	// tellWithin bounds one try to show a state, tellAgain is how long after a failed one it is tried again.
	tellWithin = 20 * time.Second
	tellAgain  = 5 * time.Second
	// deliverEvery is how often the outbox is looked at.
	deliverEvery = 2 * time.Second
	// forgeFor is how long a forge that does not take a commit's status is tried again.
	forgeFor = 24 * time.Hour

	wholeLogKept = 24 * time.Hour

	// jobLost is how long a process that has put an operation back does not see it again.
	jobLost = time.Minute
)

func messageEntry(id string, n int) string { return fmt.Sprintf("%s|message|%d", id, n) }
func auditEntry(id string) string          { return id + "|audit|" }
func forgeEntry(id string) string          { return id + "|forge|" }

func splitEntry(entry string) (id, what string, n int) {
	parts := strings.Split(entry, "|")
	if len(parts) != 3 {
		return entry, "", 0
	}
	n, _ = strconv.Atoi(parts[2])
	return parts[0], parts[1], n
}

func messageKey(id string) string { return "message:" + id } // the Reporter's name of its message
func logKey(id string) string     { return "log:" + id }     // all of a failure's log, until it is told

// messageRef is the Reporter's name of an operation's message, "" when there is none.
func (r *Runner) messageRef(ctx context.Context, rec record) (string, error) {
	ref := rec.Message
	err := r.Store.Get(ctx, messageKey(rec.ID), &ref)
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return ref, err
}

// open opens an operation's message for whoever holds its tell lease. again says that an earlier
// attempt may have posted it and died before it had stored its name.
func (r *Runner) open(ctx context.Context, rec record, again bool, noted func(ref string)) (Message, error) {
	req := rec.Request
	ref, err := r.messageRef(ctx, rec)
	if err != nil {
		return nil, err
	}
	if ref == "" {
		ref = r.parked.name(rec.ID) // Redis may have lost it
	}
	if ref == "" && again {
		ref = MaybePosted
	}
	noted(ref)
	return r.Reporter.Open(req, ref, func(ref string) {
		noted(ref)
		ctx, cancel := detached(ctx)
		defer cancel()
		if err := r.Store.Put(ctx, messageKey(req.ID), ref, queue.Retention); err != nil {
			r.Log.Warn("the message has to be searched for after a restart", "op", req.ID, "err", err)
		}
	}), nil
}

// teller shows the states of one attempt at an operation in its message. A goroutine of its own does
// the talking, from the first Show on; of all tellers of an operation, on all replicas, one at a time
// talks: it holds the tell lease.
type teller struct {
	r     *Runner
	rec   record // before the attempt
	again bool
	mine  func() bool // whether the operation is still this attempt's

	mu      sync.Mutex
	begun   bool
	latest  Status
	entry   string        // that latest is in the outbox as, once finished
	stored  record        // with latest, then
	ref     string        // the Reporter's name of the message
	lost    bool          // somebody else had the operation by then
	changed chan struct{} // holds one token
	end     chan struct{}
	once    sync.Once
}

func (r *Runner) teller(rec record, again bool, mine func() bool) *teller {
	return &teller{r: r, rec: rec, again: again, mine: mine, changed: make(chan struct{}, 1), end: make(chan struct{})}
}

// Show replaces what is shown; it never blocks.
func (t *teller) Show(s Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.latest = s
	if !t.begun && t.rec.State == Waiting && (s.State == Planning || s.State == Waiting && s.Note == t.rec.Note) {
		return // its message says so already
	}
	if !t.begun {
		t.begun = true
		t.r.tells.Go(t.talk)
	}
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// finish says that no more is shown by this attempt, and that the last status is in the outbox as
// entry, unless that is "". Only the first call counts.
func (t *teller) finish(entry string, stored record) {
	t.once.Do(func() {
		t.mu.Lock()
		t.entry, t.stored, t.lost = entry, stored, !t.mine()
		t.mu.Unlock()
		close(t.end)
	})
}

func (t *teller) named(ref string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ref = ref
}

// name is the Reporter's name of the message, as far as this attempt knows it.
func (t *teller) name() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ref == MaybePosted {
		return ""
	}
	return t.ref
}

func (t *teller) talk() {
	lease := t.lock()
	if lease == nil {
		return // the outbox has what counts
	}
	defer lease.Release()
	m, err := t.r.open(lease.Context(), t.rec, t.again, t.named)
	if err != nil {
		t.r.Log.Warn("how an operation goes cannot be shown", "op", t.rec.ID, "err", err)
		return
	}
	for {
		select {
		case <-lease.Context().Done():
			t.abandon(m)
			return
		case <-t.changed:
			t.mu.Lock()
			s := t.latest
			t.mu.Unlock()
			// What is final or asks is shown once it is durable; and a process that slept and lost
			// the operation shows nothing more.
			if !s.State.Final() && s.State != Pending && t.mine() {
				m.Show(s)
			}
		case <-t.end:
			t.last(lease.Context(), m)
			return
		}
	}
}

// last shows the last status of the attempt.
func (t *teller) last(ctx context.Context, m Message) {
	t.mu.Lock()
	s, entry, stored, lost := t.latest, t.entry, t.stored, t.lost
	t.mu.Unlock()
	if entry == "" && (lost || s.State.Final() || s.State == Pending) {
		t.abandon(m) // it did not become durable, or is somebody else's
		return
	}
	if entry != "" {
		if there, err := t.r.Store.IsScheduled(ctx, outbox, entry); err == nil && !there && !t.r.restore(ctx, stored, entry) {
			t.abandon(m) // somebody else has told it
			return
		}
	}
	m.Show(s)
	if t.r.closeMessage(ctx, m, t.rec.ID, entry) != nil && entry != "" && !t.r.restore(ctx, stored, entry) {
		t.tellAgain()
	}
}

// restore puts a record and its outbox entry back that Redis has lost, and says whether it was so:
// only this process still knows what is to be told.
func (r *Runner) restore(ctx context.Context, stored record, entry string) bool {
	ctx, cancel := detached(ctx)
	defer cancel()
	// Every record has a token: where there is one, nothing was lost.
	lost, err := r.Store.PutUnless(ctx, recordKey(stored.ID), "token", finals, recordKey(stored.ID), stored, queue.Retention)
	if err == nil && lost {
		err = r.Store.Schedule(ctx, outbox, entry, r.Env.Now().Add(tellAgain))
	}
	if err != nil {
		r.Log.Warn("a state may never be shown: Redis has lost it", "op", stored.ID, "err", err)
	}
	return err == nil && lost
}

// abandon leaves a message to whoever has the operation now. Something of this process may just have
// been shown over what the other has shown: that is shown once more.
func (t *teller) abandon(m Message) {
	leave(m)
	t.tellAgain()
}

// tellAgain has what the record says shown once more.
func (t *teller) tellAgain() {
	ctx, cancel := detached(t.r.life)
	defer cancel()
	rec, err := t.r.read(ctx, t.rec.ID)
	if err == nil && rec.Status != nil {
		err = t.r.Store.Schedule(ctx, outbox, messageEntry(rec.ID, rec.Told), t.r.Env.Now())
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.r.Log.Warn("a message may show an earlier state", "op", t.rec.ID, "err", err)
	}
}

// closeMessage returns when the last status is shown, and takes it out of the outbox; or it is tried
// again from there.
func (r *Runner) closeMessage(ctx context.Context, m Message, id, entry string) error {
	within, cancel := context.WithTimeout(ctx, tellWithin)
	defer cancel()
	err := m.Close(within)
	if entry == "" {
		return err
	}
	done, cancel := detached(ctx)
	defer cancel()
	if err != nil {
		r.Log.Info("a state could not be shown yet", "op", id, "err", err)
		return errors.Join(err, r.Store.Reschedule(done, outbox, entry, r.Env.Now().Add(tellAgain)))
	}
	r.failpoint("told")
	return r.Store.Unschedule(done, outbox, entry)
}

// leave ends a message without showing anything more.
func leave(m Message) {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	_ = m.Close(over) // nothing is to be shown
}

// lock waits for the tell lease; nil when it is not worth waiting any more.
func (t *teller) lock() *store.Lease {
	var late <-chan time.Time
	end := t.end
	for {
		lease, err := t.r.Store.Lock(t.r.life, tellLock(t.rec.ID, "message"), store.Claim{Owner: t.rec.ID, Reason: "tell"})
		if err == nil {
			return lease
		}
		if end == nil && !errors.As(err, new(*store.HeldError)) {
			return nil
		}
		again := time.NewTimer(200 * time.Millisecond)
		select {
		case <-t.r.life.Done():
		case <-late:
		case <-end:
			late, end = time.After(ownTelling), nil
			again.Stop()
			continue
		case <-again.C:
			continue
		}
		again.Stop()
		return nil
	}
}

func tellLock(id, what string) string { return "tell:" + id + ":" + what }

// deliverSoon has the outbox looked at now.
func (r *Runner) deliverSoon() {
	for range cap(r.wake) { // one for each kind
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// deliver tells what is due of one kind in the outbox, until ctx ends.
func (r *Runner) deliver(ctx context.Context, kind string) {
	tick := time.NewTicker(deliverEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-r.wake:
		}
		entries, err := r.Store.Scheduled(ctx, outbox, r.Env.Now())
		if err != nil {
			continue // the sweep says so
		}
		for _, entry := range entries {
			if _, what, _ := splitEntry(entry); what != kind {
				continue
			}
			err := r.deliverOne(ctx, entry)
			if err != nil && ctx.Err() == nil {
				r.Log.Info("something could not be told yet", "entry", entry, "err", err)
			}
			if err != nil && kind != "forge" {
				break // Slack is likely to be away: the others wait for the next look
			}
		}
	}
}

// deliverOne tells one entry of the outbox, unless somebody else is about to.
func (r *Runner) deliverOne(ctx context.Context, entry string) error {
	id, what, n := splitEntry(entry)
	lease, err := r.Store.Lock(ctx, tellLock(id, what), store.Claim{Owner: id, Reason: "tell"})
	if errors.As(err, new(*store.HeldError)) {
		return nil
	} else if err != nil {
		return err
	}
	defer lease.Release()
	ctx = lease.Context()
	if there, err := r.Store.IsScheduled(ctx, outbox, entry); err != nil || !there {
		return err
	}
	rec, err := r.read(ctx, id)
	if errors.Is(err, errUndecodable) {
		return r.Store.Reschedule(ctx, outbox, entry, r.Env.Now().Add(time.Minute)) // for another version
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	within, cancel := context.WithTimeout(ctx, tellWithin)
	defer cancel()
	switch {
	case errors.Is(err, store.ErrNotFound): // Redis has lost it
	case what == "message" && rec.Status != nil && rec.Told == n && rec.Status.State != rec.State:
		// It goes on by now, and whoever works on it shows that; it may come back to this state.
		return r.Store.Reschedule(ctx, outbox, entry, r.Env.Now().Add(tellAgain))
	case what == "message" && rec.Status != nil && rec.Told == n:
		return r.showStored(ctx, rec, entry)
	case what == "audit" && rec.Audit != nil:
		err = r.Reporter.Record(within, *rec.Audit)
	case what == "forge" && rec.Forge != nil && r.Statuses != nil:
		if err = r.Statuses.Report(within, *rec.Forge); err != nil && r.Env.Now().Sub(rec.Audit.At) > forgeFor {
			r.Log.Warn("the forge does not take the commit's status", "op", id, "repo", rec.Forge.Repo, "err", err)
			err = nil
		}
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		done, cancel := detached(ctx)
		defer cancel()
		again := tellAgain
		if what == "forge" && rec.Audit != nil { // it may never be taken
			again = min(max(again, r.Env.Now().Sub(rec.Audit.At)/4), 10*time.Minute)
		}
		return errors.Join(err, r.Store.Reschedule(done, outbox, entry, r.Env.Now().Add(again)))
	}
	return r.Store.Unschedule(ctx, outbox, entry)
}

// showStored shows what a record says is to be told.
func (r *Runner) showStored(ctx context.Context, rec record, entry string) error {
	s := *rec.Status
	if s.Err != nil {
		e := *s.Err
		if err := r.Store.Get(ctx, logKey(rec.ID), &e.Whole); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		s.Err = &e
	}
	m, err := r.open(ctx, rec, true, func(string) {})
	if err != nil {
		return err
	}
	m.Show(s)
	return r.closeMessage(ctx, m, rec.ID, entry)
}

// parked are the operations that this process has parked or requeued, to report them if Redis loses
// its data: nobody else knows of them.
type parked struct {
	mu sync.Mutex
	by map[string]parkedOperation // by id
}

type parkedOperation struct {
	request Request
	status  Status
	message *teller
	at      time.Time // when this process last had it
}

func (p *parked) add(run *Run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by == nil {
		p.by = map[string]parkedOperation{}
	}
	message := run.message
	if before := p.by[run.ID].message; before != nil && before.name() != "" && message.name() == "" {
		message = before // this attempt had nothing to show
	}
	p.by[run.ID] = parkedOperation{run.Request, run.snapshot(), message, run.Now()}
}

func (p *parked) forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.by, id)
}

func (p *parked) touch(id string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if op, known := p.by[id]; known {
		op.at = now
		p.by[id] = op
	}
}

// name is the Reporter's name of an operation's message, as far as this process knows it.
func (p *parked) name(id string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if op, known := p.by[id]; known {
		return op.message.name()
	}
	return ""
}

func (p *parked) list() map[string]parkedOperation {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.by)
}

// tellGone ends and reports operations whose record Redis has lost.
func (r *Runner) tellGone(ctx context.Context) error {
	for id, op := range r.parked.list() {
		rec, err := r.read(ctx, id)
		switch {
		case err == nil && rec.State != Pending && rec.State != Waiting:
			r.parked.forget(id)
		case err == nil && rec.State == Waiting && r.Env.Now().Sub(op.at) > jobLost:
			// Its job should have come back: Redis may have lost it while the record was written anew.
			r.parked.touch(id, r.Env.Now())
			if err := r.takeUp(ctx, id); err != nil {
				return err
			}
		case errors.Is(err, store.ErrNotFound):
			w, err := r.take(ctx, op.request)
			if w == nil || err != nil {
				continue
			}
			w.rec.Message = r.parked.name(id) // Redis has lost that, too
			run := r.newRun(w, op.request)
			next := "Nothing was changed. Run the command again."
			if lost, err := r.decode(op.request); err == nil {
				if d, ok := lost.(*Deploy); ok && !d.Hand {
					next = fmt.Sprintf("Nothing was changed. `/deploy %s` deploys it.", d.App)
				}
			}
			run.status = op.status
			run.status.Decision, run.status.Token, run.status.Note = nil, "", ""
			run.decide(func(s *Status) {
				s.State, s.Err = Expired, Errorf(Canceled, "Redis lost its data, and this request with it").Then("%s", next)
			})
			err = r.finish(ctx, run)
			w.lease.Release()
			if err != nil {
				return err
			}
			r.parked.forget(id)
		case err != nil && !errors.Is(err, errUndecodable):
			return err
		}
	}
	return nil
}

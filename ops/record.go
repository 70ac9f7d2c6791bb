package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"waggle/ops/queue"
	"waggle/ops/store"
)

// recordFormat is the version of what is stored of requests and records. It grows when an earlier
// Waggle would read a new one wrongly: that one leaves them to a newer process. Fields that may be
// ignored do not change it.
const recordFormat = 1

// record is what is known of a request that has begun. Only the holder of the operation's lease
// writes it, and a final state never changes.
type record struct {
	Request
	Token   int64  `json:"token"` // fencing token of the lease that it was written under
	State   State  `json:"state"`
	Message string `json:"message,omitempty"` // the message's name, of a record of an earlier version
	Begun   int    `json:"begun"`             // how often an attempt has begun
	// Open says that the last attempt, by the process Worker, did not end cleanly.
	Open    bool   `json:"open,omitempty"`
	Worker  string `json:"worker,omitempty"`
	Crashes int    `json:"crashes,omitempty"` // how many attempts ended because the process died
	// Of an operation that has to be approved: the plan that was shown, until
	// when, and how often it was asked.
	Plan     *Plan     `json:"plan,omitempty"`
	Deadline time.Time `json:"deadline,omitzero"`
	Round    int       `json:"round,omitempty"`
	Approved *Decision `json:"approved,omitempty"` // of that plan
	Applying bool      `json:"applying,omitempty"` // it may have changed something, so it cannot be called off any more
	Planned  *Plan     `json:"planned,omitempty"`  // what Applying is about
	Applied  bool      `json:"applied,omitempty"`  // the change is written: it is only followed, never written again
	Locks    []string  `json:"locks,omitempty"`    // what nobody else may change until it has come to its end, see unsettled
	Changed  []string  `json:"changed,omitempty"`  // what it has changed, with Applied
	Note     string    `json:"note,omitempty"`     // of one that waits for its turn: what its message says
	Away     time.Time `json:"away,omitzero"`      // since when a part that it needs does not answer

	// What is told, once it is durable: see the outbox.
	Told   int           `json:"told,omitempty"` // number of the message's outbox entry
	Status *Status       `json:"status,omitempty"`
	Audit  *Entry        `json:"audit,omitempty"`
	Forge  *CommitStatus `json:"forge,omitempty"`
}

// errUndecodable says that something stored is of a newer version, or damaged. It stops nothing
// but itself.
var errUndecodable = errors.New("stored by another version of Waggle, or damaged")

func decodeRequest(payload []byte) (Request, error) {
	var req Request
	if err := json.Unmarshal(payload, &req); err != nil {
		return req, fmt.Errorf("%w: %w", errUndecodable, err)
	}
	if req.Format > recordFormat {
		return req, fmt.Errorf("%w: format %d of %s", errUndecodable, req.Format, req.ID)
	}
	return req, nil
}

// read reads an operation's record. It returns store.ErrNotFound, or errUndecodable.
func (r *Runner) read(ctx context.Context, id string) (record, error) {
	var raw json.RawMessage
	if err := r.Store.Get(ctx, recordKey(id), &raw); err != nil {
		if syntax := new(json.SyntaxError); errors.As(err, &syntax) {
			err = fmt.Errorf("%w: %w", errUndecodable, err)
		}
		return record{}, err
	}
	var rec record
	if err := json.Unmarshal(raw, &rec); err != nil {
		return record{}, fmt.Errorf("%w: record of %s: %w", errUndecodable, id, err)
	}
	if rec.Format > recordFormat {
		return record{}, fmt.Errorf("%w: format %d of %s", errUndecodable, rec.Format, id)
	}
	return rec, nil
}

// finals are the final states, for scripts.
var finals = func() []string {
	var out []string
	for _, s := range []State{Done, DryRun, Failure, Refused, Superseded, Rejected, Expired, Cancelled} {
		out = append(out, string(s))
	}
	return out
}()

// recordWriter writes one operation's record under its lease.
type recordWriter struct {
	store *store.Store
	lease *store.Lease
	now   func() time.Time

	read func(ctx context.Context, id string) (record, error)

	mu    sync.Mutex
	rec   record
	stale bool // a write had no answer: Redis may have it
}

func (w *recordWriter) record() record {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rec
}

func inFlight(id string) store.Command {
	return store.Command{Do: "SADD", Name: inflight, Args: []any{id}}
}

// write changes the record and makes that durable in one step with the commands. It returns
// store.ErrLost or store.ErrFinal when this process may not write it any more.
func (w *recordWriter) write(ctx context.Context, change func(*record), also ...store.Command) error {
	return w.writeUnless(ctx, "", change, also...)
}

func (w *recordWriter) writeUnless(ctx context.Context, unless string, change func(*record), also ...store.Command) error {
	if err := w.refresh(ctx); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	next := w.rec
	change(&next)
	next.Token, next.Format = w.lease.Token(), recordFormat
	ttl := queue.Retention
	if !next.Deadline.IsZero() {
		ttl = max(ttl, next.Deadline.Sub(w.now())+queue.Retention)
	}
	err := w.lease.Write(ctx, store.Write{Name: recordKey(next.ID), Value: next, TTL: ttl, Final: finals, Unless: unless, Also: also})
	switch {
	case err == nil:
		w.rec = next
	case !errors.Is(err, store.ErrLost) && !errors.Is(err, store.ErrFinal) && !errors.Is(err, store.ErrUnless):
		w.stale = true
	}
	return err
}

// refresh reads the record again after a write that had no answer: had it taken effect, the next one
// would move the record backwards.
func (w *recordWriter) refresh(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stale {
		return nil
	}
	rec, err := w.read(ctx, w.rec.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err == nil && rec.Token == w.lease.Token() {
		w.rec = rec
	}
	w.stale = false
	return nil
}

// tell writes the record together with a status for the outbox, and returns the outbox entry.
func (w *recordWriter) tell(ctx context.Context, s Status, change func(*record), also ...store.Command) (string, error) {
	if err := w.refresh(ctx); err != nil {
		return "", err
	}
	before := w.record()
	entry := messageEntry(before.ID, before.Told+1)
	also = append(also, store.Command{Do: "ZREM", Name: outbox, Args: []any{messageEntry(before.ID, before.Told)}}, w.due(entry, ownTelling))
	err := w.write(ctx, func(rec *record) {
		rec.Told, rec.Status = before.Told+1, &s
		change(rec)
	}, also...)
	return entry, err
}

// due is the command that puts an entry into the outbox.
func (w *recordWriter) due(entry string, in time.Duration) store.Command {
	return store.Command{Do: "ZADD", Name: outbox, Args: []any{w.now().Add(in).UnixMilli(), entry}}
}

// finish stores in one step: the final state, the audit entry and the outbox entries.
func (w *recordWriter) finish(ctx context.Context, run *Run, e Entry) (string, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return "", err
	}
	also := []store.Command{
		{Do: "XADD", Name: auditStream, Args: []any{"MAXLEN", "~", auditMax, "*", "json", text}},
		{Do: "SREM", Name: inflight, Args: []any{run.ID}},
		w.due(auditEntry(run.ID), 0),
	}
	for _, lock := range w.record().Locks {
		also = append(also, store.Command{Do: "DEL", Name: applyingKey(lock)})
	}
	forge, tells := run.endStatus()
	if tells {
		also = append(also, w.due(forgeEntry(run.ID), 0))
	}
	s := run.snapshot()
	if s.Err != nil && s.Err.Whole != "" {
		if err := w.store.Put(ctx, logKey(run.ID), s.Err.Whole, wholeLogKept); err != nil {
			run.Log.Warn("the whole log is not kept", "err", err)
		}
	}
	return w.tell(ctx, s, func(rec *record) {
		rec.State, rec.Audit, rec.Open = s.State, &e, false
		if tells {
			rec.Forge = &forge
		}
	}, also...)
}

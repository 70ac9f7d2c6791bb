package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"waggle/ops/queue"
	"waggle/ops/store"
)

// Verdict is what becomes of an operation that waits for an approval.
type Verdict string

const (
	Approve Verdict = "approve"
	Reject  Verdict = "reject"
	Cancel  Verdict = "cancel"
	Expire  Verdict = "expire"  // given by the clock
	Replace Verdict = "replace" // given by a newer one
)

// Decision is a verdict, by whom and why.
type Decision struct {
	Verdict Verdict   `json:"verdict"`
	By      Actor     `json:"by"`
	Reason  string    `json:"reason,omitempty"`
	At      time.Time `json:"at"`
}

// pending lists the tokens of what waits for an approval, by deadline.
const pending = "pending"

func decisionKey(token string) string { return "decision:" + token }

// kindDecision is the kind of a request that decides about another one.
const kindDecision = "decision"

// decisionOp is its operation.
type decisionOp struct {
	Token string `json:"token"`
	Decision
}

// errPark says that the operation has to wait for an approval.
var errPark = errors.New("waits for an approval")

// needsApproval returns errPark unless nobody has to agree to the plan or
// somebody has agreed to exactly this one.
func (r *Run) needsApproval() error {
	plan := r.status.Plan
	if plan.Approval == "" || r.DryRun || r.approved != nil && plan.Same(*r.approved) {
		return nil
	}
	return errPark
}

// token names one asking for an approval: an operation may have to ask again, and
// a click on the earlier plan must not approve the later one.
func token(id string, round int) string { return fmt.Sprintf("%s.%d", id, round) }

func splitToken(t string) (id string, round int, ok bool) {
	i := strings.LastIndexByte(t, '.')
	if i < 0 {
		return "", 0, false
	}
	round, err := strconv.Atoi(t[i+1:])
	return t[:i], round, err == nil
}

// park puts the operation away until somebody decides, and asks for that.
func (r *Runner) park(ctx context.Context, run *Run) error {
	plan, before, round := run.snapshot().Plan, run.approved, run.w.record().Round+1
	deadline := r.Env.Now().Add(r.ApprovalTTL)
	run.decide(func(s *Status) {
		s.State, s.Note, s.Before, s.Deadline, s.Decision = Pending, "", before, deadline, nil
		s.Token = token(run.ID, round)
	})
	// Also when Waggle stops just now.
	saving, cancel := detached(ctx)
	defer cancel()
	also := []store.Command{
		{Do: "ZADD", Name: pending, Args: []any{deadline.UnixMilli(), token(run.ID, round)}},
		{Do: "SREM", Name: inflight, Args: []any{run.ID}},
	}
	for _, lock := range run.w.record().Locks {
		also = append(also, store.Command{Do: "DEL", Name: applyingKey(lock)})
	}
	entry, err := run.w.tell(saving, run.snapshot(), func(rec *record) {
		rec.State, rec.Plan, rec.Deadline, rec.Approved, rec.Round = Pending, &plan, deadline, nil, round
		rec.Applying, rec.Applied, rec.Locks = false, false, nil // what was approved before is not what is asked now
		rec.Open, rec.Away = false, time.Time{}
	}, also...)
	if err != nil {
		return err
	}
	r.failpoint("pending")
	run.message.finish(entry, run.w.record())
	r.parked.add(run)
	return nil
}

// Decide makes a decision durable; the work begins by itself, and whether it
// counts is told to the decider alone. id makes the same click the same.
func (r *Runner) Decide(ctx context.Context, req Request, token string, verdict Verdict, reason string) error {
	op, err := json.Marshal(decisionOp{token, Decision{Verdict: verdict, By: req.Actor, Reason: reason, At: r.Env.Now()}})
	if err != nil {
		return err
	}
	req.Format, req.Kind, req.Op, req.At = recordFormat, kindDecision, op, r.Env.Now()
	payload, err := json.Marshal(req)
	if err != nil {
		return err
	}
	return r.Decisions.Add(ctx, req.ID, payload)
}

// decide carries a decision to its operation, or tells the decider why not.
func (r *Runner) decide(ctx context.Context, req Request) error {
	var d decisionOp
	if err := json.Unmarshal(req.Op, &d); err != nil {
		return fmt.Errorf("decode decision: %w", err)
	}
	won, err := r.settle(ctx, d)
	if err == nil && won.State != Pending {
		return nil // it notices by itself
	}
	if err == nil {
		return r.carryOn(ctx, won)
	}
	if e := new(Error); errors.As(err, &e) {
		if counted, err := r.counted(ctx, d); err != nil || counted {
			return err // its process died after that: the sweep carries on
		}
		r.refusedDecision(ctx, d, won, e)
		r.tells.Go(func() { r.tellDecider(req, e) })
		return nil
	}
	return err
}

// tellDecider tells somebody why a click did not count: to them alone, once, while Slack answers.
func (r *Runner) tellDecider(req Request, why *Error) {
	m := r.Reporter.Open(req, "", func(string) {})
	m.Show(Status{ID: req.ID, Kind: kindDecision, Actor: req.Actor, State: Refused, Began: req.At, Err: why})
	ctx, cancel := context.WithTimeout(r.life, time.Minute)
	defer cancel()
	if err := m.Close(ctx); err != nil {
		r.Log.Info("a decider was not told why a click did not count", "op", req.ID, "who", req.Actor.ID, "why", why.Sentence, "err", err)
	}
}

// counted says whether it is this very decision that an operation was settled by.
func (r *Runner) counted(ctx context.Context, d decisionOp) (bool, error) {
	id, round, _ := splitToken(d.Token)
	if round == anyRound {
		rec, err := r.read(ctx, id)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return false, err
		}
		round = rec.Round
	}
	var made Decision
	err := r.Store.Get(ctx, decisionKey(token(id, round)), &made)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return made.By == d.By && made.At.Equal(d.At), err
}

// refusedDecision puts into the audit who decided without being allowed to. A click
// that came too late is for the log only.
func (r *Runner) refusedDecision(ctx context.Context, d decisionOp, rec record, why *Error) {
	if why.Code != Forbidden || rec.Plan == nil {
		r.Log.Info("decision refused", "op", d.Token, "who", d.By.String(), "user_id", d.By.ID, "verdict", d.Verdict, "why", why.Sentence)
		return
	}
	op, err := r.decode(rec.Request)
	if err != nil {
		r.Log.Error("a refused decision has no operation", "op", d.Token, "err", err)
		return
	}
	entry := Entry{At: r.Env.Now(), ID: rec.ID, Who: d.By.String(), UserID: d.By.ID, Kind: string(d.Verdict) + " " + rec.Kind,
		Target: op.Target(), Diffs: rec.Plan.Diffs, Outcome: Refused, Why: why.Sentence}
	if err := r.record(ctx, entry); err != nil {
		r.Log.Error("the audit entry is only in this log", "op", rec.ID, "err", err)
	}
	r.tells.Go(func() {
		ctx, cancel := context.WithTimeout(r.life, time.Minute)
		defer cancel()
		if err := r.Reporter.Record(ctx, entry); err != nil {
			r.Log.Warn("the audit entry is not in its channel", "op", rec.ID, "err", err)
		}
	})
}

// carryOn puts an operation that was decided about back into its queue. Should it not come to that,
// the sweep does.
func (r *Runner) carryOn(ctx context.Context, rec record) error {
	op, err := r.decode(rec.Request)
	if err != nil {
		return err
	}
	payload, err := json.Marshal(rec.Request)
	if err != nil {
		return err
	}
	err = r.queueOf(op).Add(ctx, fmt.Sprintf("%s.d%d", rec.ID, rec.Round), payload)
	if err != nil && !errors.Is(err, queue.ErrDuplicate) {
		r.Log.Warn("an operation is carried on a little later", "op", rec.ID, "err", err)
	}
	return nil
}

// settle is decide without the telling and the carrying on. Of all who decide, on
// all replicas, the one who takes the operation off the list of what waits is the
// one who counts.
func (r *Runner) settle(ctx context.Context, d decisionOp) (record, error) {
	id, round, ok := splitToken(d.Token)
	var rec record
	err := ErrGone
	if ok {
		rec, err = r.read(ctx, id)
	}
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, ErrGone):
		return rec, Errorf(NotFound, "This request has expired").Then("Nothing was changed. Run the command again.")
	case errors.Is(err, errUndecodable):
		return rec, otherVersion(err)
	case err != nil:
		return rec, err
	case d.Verdict == Cancel && rec.State != Pending && !rec.State.Final():
		return rec, r.interrupt(ctx, rec, d.Decision)
	case rec.State.Final():
		return rec, Errorf(Invalid, "Already %s", rec.State)
	case rec.State != Pending:
		return rec, Errorf(Invalid, "Already approved; it is %s", rec.State)
	case round != rec.Round && round != anyRound:
		return rec, Errorf(Invalid, "The plan has changed since").Then("Look at the message as it is now.")
	}
	if d.Verdict == Approve && r.Env.Now().After(rec.Deadline) {
		return rec, Errorf(Invalid, "The time to approve this is over").Then("Nothing was changed. Ask for it again.")
	}
	op, err := r.decode(rec.Request)
	if err != nil {
		return rec, otherVersion(err)
	}
	own := d.By.ID != "" && d.By.ID == rec.Actor.ID
	switch {
	case d.Verdict == Cancel && own: // everybody may take back what is theirs
	case d.Verdict == Cancel:
		if err := r.Authoriser.Authorise(ctx, d.By, Admin); err != nil {
			return rec, err
		}
	case d.Verdict == Expire, d.Verdict == Replace:
	default:
		if err := r.Authoriser.Authorise(ctx, d.By, op.Needs()); err != nil {
			return rec, err
		}
		if own && d.Verdict == Approve && !r.ApproveOwn {
			return rec, Errorf(Forbidden, "You asked for this yourself, so somebody else has to approve it").
				Then("`/swarm cancel %s` takes it back.", id)
		}
	}
	this := token(id, rec.Round)
	won, err := r.Store.Claim(ctx, pending, this, decisionKey(this), d.Decision, queue.Retention, inflight, id)
	if err != nil {
		return rec, err
	}
	if !won {
		return rec, r.decidedBefore(ctx, rec)
	}
	return rec, nil // from here on the sweep would take it up, too
}

// decidedBefore says who has decided about what an operation waited for.
func (r *Runner) decidedBefore(ctx context.Context, rec record) error {
	d, err := r.decided(ctx, &rec)
	past := map[Verdict]string{Approve: "approved", Reject: "rejected", Cancel: "cancelled"}
	switch {
	case err != nil:
		return err
	case d == nil || d.Verdict == Expire:
		return Errorf(Invalid, "This request has expired").Then("Nothing was changed. Run the command again.")
	case d.Verdict == Replace:
		return Errorf(Invalid, "Superseded by a newer push")
	}
	return Errorf(Invalid, "Already %s by %s", past[d.Verdict], d.By)
}

func otherVersion(err error) *Error {
	return &Error{Code: Invalid, Sentence: "This request was stored by another version of Waggle", Err: err,
		Next: "Run the command again, or wait until all replicas are of one version."}
}

// anyRound decides about an operation whatever its plan is by now.
const anyRound = -1

// ErrGone says that nothing is known of an operation.
var ErrGone = errors.New("not known")

// decided reads the decision about an operation that waited; nil when nobody has
// decided.
func (r *Runner) decided(ctx context.Context, rec *record) (*Decision, error) {
	var d Decision
	err := r.Store.Get(ctx, decisionKey(token(rec.ID, rec.Round)), &d)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return &d, err
}

// against returns why a decision ends an operation, nil when it does not.
func (d *Decision) against(ttl time.Duration) *Error {
	if d == nil {
		return nil
	}
	why := ""
	if d.Reason != "" {
		why = ": " + d.Reason
	}
	switch d.Verdict {
	case Reject:
		return &Error{Code: Canceled, Sentence: fmt.Sprintf("%s rejected it%s", d.By, why)}
	case Cancel:
		return &Error{Code: Canceled, Sentence: fmt.Sprintf("%s cancelled it%s", d.By, why)}
	case Replace:
		return &Error{Code: Canceled, Sentence: "A newer push took its place before somebody approved it"}
	case Expire:
		return (&Error{Code: Canceled, Sentence: fmt.Sprintf("nobody approved it within %s", ttl)}).Then("Nothing was changed. Ask for it again.")
	}
	return nil
}

func (r *Runner) byTheClock() *Decision {
	return &Decision{Verdict: Expire, By: Actor{Name: "the clock", Via: "waggle"}, At: r.Env.Now()}
}

// expire decides about what has waited too long.
func (r *Runner) expire(ctx context.Context) error {
	tokens, err := r.Store.Scheduled(ctx, pending, r.Env.Now())
	if err != nil {
		return err
	}
	for _, t := range tokens {
		_, err := r.settle(ctx, decisionOp{t, *r.byTheClock()})
		if errors.Is(err, errUndecodable) {
			continue // another version's
		}
		if e := new(Error); errors.As(err, &e) {
			// Somebody was faster; or its record is lost, or asks for another approval.
			err = r.Store.Unschedule(ctx, pending, t)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// replaceOlder ends the older operations on a target that wait for an approval.
func (r *Runner) replaceOlder(ctx context.Context, run *Run) error {
	waiting, err := r.PendingOperations(ctx)
	if err != nil {
		return err
	}
	for _, w := range waiting {
		if w.Target != run.op.Target() || w.Kind != run.Kind || w.seq >= run.Seq {
			continue
		}
		rec, err := r.settle(ctx, decisionOp{token(w.ID, anyRound), Decision{Verdict: Replace, By: run.Actor, At: r.Env.Now()}})
		if e := new(Error); errors.As(err, &e) {
			continue // somebody was faster
		}
		if err != nil {
			return err
		}
		if err := r.carryOn(ctx, rec); err != nil {
			return err
		}
	}
	return nil
}

// Waits is one operation that waits for an approval.
type Waits struct {
	ID       string
	Kind     string
	Target   string
	Title    string
	Actor    Actor
	Plan     Plan
	Deadline time.Time
	Message  string // the Reporter's name of its message

	seq int64
}

// PendingOperations lists what waits for an approval, the earliest deadline first.
func (r *Runner) PendingOperations(ctx context.Context) ([]Waits, error) {
	tokens, err := r.Store.Scheduled(ctx, pending, time.Time{})
	if err != nil {
		return nil, err
	}
	var out []Waits
	for _, t := range tokens {
		id, round, _ := splitToken(t)
		rec, err := r.read(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		var op Operation
		if err == nil {
			op, err = r.decode(rec.Request)
		}
		if errors.Is(err, errUndecodable) {
			r.Log.Warn("skipped something that waits for an approval", "op", id, "err", err)
			continue
		}
		if err != nil {
			return nil, err
		}
		if rec.State != Pending || rec.Round != round {
			continue
		}
		ref, err := r.messageRef(ctx, rec)
		if err != nil {
			return nil, err
		}
		w := Waits{ID: id, Kind: rec.Kind, Target: op.Target(), Title: rec.Title, Actor: rec.Actor, Deadline: rec.Deadline, Message: ref, seq: rec.Seq}
		if rec.Plan != nil {
			w.Plan = *rec.Plan
		}
		out = append(out, w)
	}
	return out, nil
}

// CancelToken names an operation for Decide whatever its plan is by now.
func CancelToken(id string) string { return token(id, anyRound) }

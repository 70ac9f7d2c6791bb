package ops

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Every wait of an operation is here: whileAway retries one call that gets no answer, until
// polls for a state, and pace is how long both pause.

const (
	pollFirst = 75 * time.Millisecond
	// pollMost and followMost bound the pause between two polls: of everything in the swarm, and of
	// one service, which is four small calls to a manager.
	pollMost   = 2 * time.Second
	followMost = time.Second
	// retryMost bounds the pause before a call that got no answer is retried.
	retryMost = 5 * time.Second
)

// pace is an exponential backoff: quick at first, then each pause is about a quarter of the time
// that has passed, up to most.
type pace struct{ next, most time.Duration }

// step returns the next pause.
func (p *pace) step() time.Duration {
	d := max(p.next, pollFirst)
	p.next = min(d+d/4, p.most)
	return d
}

// whileAway calls do and retries it while it fails with Unavailable: Docker, the swarm's leader, a
// registry or a forge does not answer. Meanwhile the operation's note names that part and the time
// of the last retry. Any other result is returned at once.
//
// Use it for every call of an operation that has begun: an engine that restarts, or managers that
// elect a leader, are no verdict before the operation's own deadline (DeployTimeout for what
// converges, BuildTimeout for clone, build and push, JoinTimeout for nodes). Do must be safe to
// repeat, because a write may have taken effect although its answer was lost: it reads what there
// is and does what is missing. Don't use it in Plan before anything was changed: a refusal at once
// is better there.
//
// At the deadline it returns the last error, still Unavailable. When ctx has ended, nobody is
// away: it returns the cause of that.
func (r *Run) whileAway(ctx context.Context, deadline time.Time, do func(context.Context) error) error {
	backoff := pace{most: retryMost}
	note, before := "", ""
	var last error // of the attempt before
	for {
		err := do(ctx)
		if CodeOf(err) != Unavailable {
			if note != "" {
				r.replaceNote(note, before)
			}
			return err
		}
		if ctx.Err() != nil {
			return ended(ctx, last, r.Now())
		}
		last = err
		now := r.Now()
		if !now.Before(deadline) {
			return stillAway(err, note != "", now)
		}
		wait := min(backoff.step(), deadline.Sub(now)) // the last try is at the deadline
		next := fmt.Sprintf("%s. Retrying until %s.", sentenceOf(err), clockTime(deadline))
		if note == "" {
			r.Log.Warn("no answer, retrying", "until", deadline, "err", err)
			before = r.replaceNote("", next)
		} else if next != note {
			r.replaceNote(note, next)
		}
		note = next
		if pause(ctx, wait) != nil {
			return ended(ctx, last, r.Now())
		}
	}
}

// ended is the error of a call whose ctx has ended: the last one before, if that was a deadline.
func ended(ctx context.Context, last error, now time.Time) error {
	if last != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return stillAway(last, true, now)
	}
	return context.Cause(ctx)
}

// replaceNote shows another note in place of old, "" for any, and returns the one before. A note
// that something else has shown in the meantime stays.
func (r *Run) replaceNote(old, note string) (before string) {
	r.update(func(s *Status) {
		before = s.Note
		if old == "" || s.Note == old {
			s.Note = note
		}
	})
	return before
}

// stillAway is the error of a call that got no answer until the deadline.
func stillAway(err error, retried bool, now time.Time) error {
	e := new(Error)
	if !retried || !errors.As(err, &e) {
		return err
	}
	last := *e
	last.Sentence += fmt.Sprintf(" (retried until %s)", clockTime(now))
	return &last
}

// until polls until done says so. It returns errDeadline after limit, and any error of done but
// Unavailable, which is retried as whileAway does.
func (r *Run) until(ctx context.Context, limit time.Duration, done func(ctx context.Context) (bool, error)) error {
	deadline := r.Now().Add(limit)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errDeadline)
	defer cancel()
	poll := pace{most: pollMost}
	for {
		ok := false
		err := r.whileAway(ctx, deadline, func(ctx context.Context) (err error) {
			ok, err = done(ctx)
			return err
		})
		switch {
		case ok && err == nil:
			return nil
		case context.Cause(ctx) == errDeadline, CodeOf(err) == Unavailable:
			return errDeadline
		case err != nil:
			return err
		}
		if err := pause(ctx, poll.step()); err != nil && context.Cause(ctx) != errDeadline {
			return err
		}
	}
}

var errDeadline = errors.New("the deadline has passed")

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

package ops

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"waggle/ops/queue"
	"waggle/ops/store"
)

// Job is one deploy that a push led to.
type Job struct {
	App string `json:"app"`
	ID  string `json:"id"`
}

// Accepted is what became of a push.
type Accepted struct {
	Jobs      []Job  // stored, each once; they are durable
	Waits     bool   // it is stored itself, and is looked at when the swarm answers
	Duplicate bool   // no jobs, because this very push was accepted before
	Reason    string // why there are no jobs
}

// retryWait is the longest wait before a write that lost a race is tried again. It is random up to
// that: jitter avoids livelock.
const retryWait = 20 * time.Millisecond

// Deploy stores a deploy for every app that follows the pushed branch, unless
// the pusher wants none, nothing that the app is made of has changed, or it is
// known that the push is not the branch's newest (see judge). When the swarm does
// not say which apps these are, or the repository does not say where its branch is
// and only that can tell, the push itself is stored and looked at again.
//
// Which apps follow which repository is not read for each push. But what was read
// a while ago can only say yes, and the job that it says yes with looks again: at
// its own app by its plan, at all others by lookAgain.
//
// When it returns an error the forge should send the push again: what is stored
// already, which the result has, is a duplicate then.
func (r *Runner) Deploy(ctx context.Context, push Push) (Accepted, error) {
	if known, ok := r.links.known(r.Env.Now()); ok {
		out, err := r.offer(ctx, known.of(push), push, true, time.Time{})
		if err != nil || len(out.Jobs) > 0 {
			return out, err
		}
	}
	now, err := r.readLinks(ctx)
	if err != nil {
		return r.keep(ctx, push, "the swarm does not answer now: the push is stored, and looked at as soon as it does", err)
	}
	out, err := r.offer(ctx, now.of(push), push, false, lookUntil(ctx))
	not := asUnseen(err)
	if not == nil {
		return out, err
	}
	why := fmt.Sprintf("can't see now whether this is the newest push to %s for %s: it is stored, and looked at again", push.Branch, strings.Join(not.apps, ", "))
	kept, err := r.keep(ctx, push, why, not)
	if err != nil {
		return out, err
	}
	out.Waits, out.Duplicate, out.Reason = kept.Waits, false, kept.Reason
	return out, nil
}

// offer has each of the services that are linked to a push's repository deployed,
// unless there is a reason against it. earlier says that they were read a while ago:
// then it does nothing but say yes.
//
// First come those for which it is plain what to do: they never wait for a look at the
// branch. Of the others, which wait for it until the given time (see lookAtBranch), an
// *unseenError tells when that came to nothing; the result has the rest then.
func (r *Runner) offer(ctx context.Context, linked []Service, push Push, earlier bool, until time.Time) (Accepted, error) {
	var others []string // why not, of apps on other branches
	offers := make([]offered, 0, len(linked))
	for _, svc := range linked {
		if reason := svc.onOther(push); reason != "" {
			others = append(others, reason)
			continue
		}
		offers = append(offers, offered{svc: svc})
	}
	var looking sync.WaitGroup
	for i := range offers {
		o := &offers[i]
		o.Accepted, o.err = r.accept(ctx, o.svc, push, earlier, time.Time{})
		if asUnseen(o.err) != nil && !until.IsZero() {
			looking.Go(func() { o.Accepted, o.err = r.accept(ctx, o.svc, push, earlier, until) })
		}
	}
	looking.Wait()
	return sumUp(offers, others, push)
}

// offered is what came of a push for one service.
type offered struct {
	svc Service
	Accepted
	err error
}

// sumUp is what came of a push for all services; others says why it is not for those on
// other branches.
func sumUp(offers []offered, others []string, push Push) (Accepted, error) {
	var out Accepted
	var reasons []string
	var not *unseenError
	var failed error
	duplicates := 0
	for _, o := range offers {
		if e := asUnseen(o.err); e != nil {
			if not == nil {
				not = &unseenError{err: e.err}
			}
			not.apps = append(not.apps, e.apps...)
		} else if o.err != nil && failed == nil {
			failed = o.err
		}
		out.Jobs = append(out.Jobs, o.Jobs...)
		if o.Reason != "" {
			reasons = append(reasons, o.Reason)
		}
		if o.Duplicate {
			duplicates++
		}
	}
	switch {
	case failed != nil:
		return out, failed
	case not != nil:
		return out, not
	case len(out.Jobs) > 0:
	case len(reasons) > 0:
		out.Duplicate, out.Reason = duplicates == len(reasons), strings.Join(slices.Compact(reasons), "; ")
	case len(others) > 0:
		out.Reason = strings.Join(others, "; ")
	default:
		out.Reason = fmt.Sprintf("no app is linked to %s: its service needs the label %s", push.Name, LabelRepo)
	}
	return out, nil
}

// errLook says that what was read a while ago is not enough to say yes.
var errLook = errors.New("the swarm has to be asked")

// accept is offer for one service.
func (r *Runner) accept(ctx context.Context, svc Service, push Push, earlier bool, until time.Time) (Accepted, error) {
	unwanted := push.Skip
	if unwanted == "" {
		var err error
		if unwanted, err = svc.untouched(push); err != nil {
			r.Log.Warn("every push is deployed", "app", svc.Name, "err", err)
		}
	}
	was, now, err := r.place(ctx, svc, push, unwanted, earlier, until)
	known := func() (Accepted, error) {
		return Accepted{Duplicate: true, Reason: fmt.Sprintf("this push was accepted before, as job %s", now.Job)}, nil
	}
	switch {
	case errors.Is(err, errLook):
		return Accepted{}, nil
	case errors.Is(err, queue.ErrDuplicate):
		return known()
	case err != nil:
		return Accepted{}, err
	case unwanted != "":
		return Accepted{Reason: unwanted}, nil
	case was == isNewer:
		return Accepted{Jobs: []Job{{App: svc.Name, ID: now.Job}}}, nil
	case was == isOlder:
		return Accepted{Reason: fmt.Sprintf("%s has had a newer push than this one already; `/deploy %s %s` deploys it all the same", svc.Name, svc.Name, push.After)}, nil
	case now.At.IsZero():
		return Accepted{Duplicate: true, Reason: fmt.Sprintf("%s runs %s already, or did", svc.Name, short(push.After))}, nil
	case r.Env.Now().Sub(now.At) > queue.Retention-time.Hour:
		// The queue does not know its id any more, or will not in a moment.
		return Accepted{Duplicate: true, Reason: "this push was accepted before, on " + now.At.Format("2 January 2006")}, nil
	}
	// Only the queue knows whether its job is there.
	err = r.submit(ctx, pushRequest(svc, push, now), &Deploy{App: svc.Name, Push: push}, nil, true)
	switch {
	case errors.Is(err, queue.ErrDuplicate):
		return known()
	case err != nil:
		return Accepted{}, err
	}
	return Accepted{Jobs: []Job{{App: svc.Name, ID: now.Job}}}, nil
}

func pushRequest(svc Service, push Push, now pushed) Request {
	return Request{ID: now.Job, Actor: Actor{Name: push.Pusher, Via: push.Provider}, Title: push.title(), Channel: svc.Labels[LabelChannel], Seq: now.Seq}
}

// place judges a push and notes it among the app's pushes, with its job when it is
// newer, in one step for all replicas. It returns what it is noted as: of a push
// that is the same as an earlier one, that one.
//
// That a push is newer it may say by what it wrote itself the last time: the step
// is done only if that is still there.
func (r *Runner) place(ctx context.Context, svc Service, push Push, unwanted string, earlier bool, until time.Time) (verdict, pushed, error) {
	var looked verdict // what the look at the branch came to
	d := &Deploy{App: svc.Name, Push: push}
	if earlier {
		d.Look, d.Files = true, keptFiles(push)
	}
	at, own := r.noted.of(svc.Name)
	for ; ; own = false {
		var err error
		if !own {
			if at, err = r.readNoted(ctx, svc.Name); err != nil {
				return "", pushed{}, err
			}
		}
		known := at.all
		if len(known) == 0 {
			known = svc.released()
		}
		now := pushed{Branch: push.Branch, Before: push.Before, After: push.After, PushedAt: push.PushedAt, At: r.Env.Now().UTC()}
		var was verdict
		var which int
		if unwanted == "" {
			was, which = judge(known, now)
		}
		switch {
		case was == isNewer && len(at.all) > 0:
		case own:
			continue
		case earlier:
			return "", pushed{}, errLook
		}
		if was == unclear {
			// That it is older stays true. That it is newer holds only over the pushes that
			// were known before the look: one that came since may be newer still.
			if looked != isOlder {
				if looked, err = r.lookAtBranch(ctx, svc, push, until); err != nil {
					return "", pushed{}, err
				}
			}
			was = looked
		}
		note := now
		switch {
		case was == isNewer:
			now.Seq = max(at.newest, known.last()) + 1
			now.Job = fmt.Sprintf("deploy-%s-%s-%d", svc.Name, short(push.After), now.Seq)
			note = now
		case was == isSame:
			now = known[which]
			if now.alike(note) || now.At.IsZero() {
				return was, now, nil
			}
			// Another push to the same commit: what is older than this is old.
			note.Job, note.Seq, note.At = now.Job, now.Seq, now.At
		case known.has(now): // older, or unwanted
			return was, now, nil
		}
		next := noted{all: known.with(note), newest: max(at.newest, note.Seq)}
		more := next.all
		if len(at.all) > 0 {
			more = more[len(more)-1:] // the others are there
		}
		extend := &store.Extend{Name: pushesKey(svc.Name), Last: at.last(), Most: pushesMost, TTL: pushesKept}
		if extend.New, err = more.encode(); err != nil {
			return "", pushed{}, err
		}
		if was == isNewer {
			err = r.submit(ctx, pushRequest(svc, push, now), d, extend, false)
		} else {
			_, err = r.Store.Do(ctx, store.Step{Extend: extend})
		}
		switch {
		case err == nil:
			r.noted.put(svc.Name, next)
			return was, now, nil
		case !errors.Is(err, store.ErrChanged):
			return was, now, err
		}
		if own {
			continue
		}
		if err := pause(ctx, rand.N(retryWait)); err != nil {
			return "", pushed{}, fmt.Errorf("note a push to %s: others were always faster: %w", svc.Name, err)
		}
	}
}

// title says what was pushed: abc1234 “add olives”.
func (p Push) title() string {
	for _, c := range p.Commits {
		if c.ID == p.After {
			subject, _, _ := strings.Cut(c.Message, "\n")
			return fmt.Sprintf("%s “%s”", short(p.After), strings.TrimSpace(subject))
		}
	}
	return short(p.After)
}

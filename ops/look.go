package ops

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

const (
	// resolveTimeout bounds how long somebody waits for a look at a branch.
	resolveTimeout = 4 * time.Second
	// lookLimit bounds the look itself (git ls-remote), whoever still waits for it.
	lookLimit = 15 * time.Second
	// looksAtOnce is how many branches are looked at side by side.
	looksAtOnce = 4
	// keptPatience is how long a kept push waits: for the look that runs and for the next.
	keptPatience = 2 * lookLimit
	// keptWaiting is how many kept pushes wait for a look at once; each takes a worker
	// from the deploys.
	keptWaiting = 2 * looksAtOnce
	// After a failed look the kept pushes of the branch pause: at first keptPause, doubled
	// each time up to keptPauseMost.
	keptPause     = 2 * time.Second
	keptPauseMost = 30 * time.Second
)

// unseenError says that nobody can tell now whether a push is the newest of its branch,
// since the branch can't be looked at. It never means that the push is the newest.
type unseenError struct {
	apps []string // that the push is not judged for
	err  error
}

func (e *unseenError) Error() string {
	return fmt.Sprintf("can't see whether the push is the newest for %s: %v", strings.Join(e.apps, ", "), e.err)
}

func (e *unseenError) Unwrap() error { return e.err }

// asUnseen returns the *unseenError in err, nil when there is none.
func asUnseen(err error) *unseenError {
	if e, ok := errors.AsType[*unseenError](err); ok {
		return e
	}
	return nil
}

// cause is what keeps the branch from being looked at, in a sentence.
func (e *unseenError) cause() string {
	switch {
	case errors.Is(e.err, context.DeadlineExceeded):
		return "the repository did not answer in time"
	case errors.As(e.err, new(*Error)):
		return sentenceOf(e.err)
	}
	return e.err.Error()
}

var errNotLooked = errors.New("the branch was not looked at")

// lookAtBranch decides about a push by where its branch is now: there, it is newer, else
// older. It waits for that until the given time; the zero time says not to look at all.
func (r *Runner) lookAtBranch(ctx context.Context, svc Service, push Push, until time.Time) (verdict, error) {
	if until.IsZero() {
		return "", &unseenError{[]string{svc.Name}, errNotLooked}
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	repo := svc.Labels[LabelRepo]
	head, err := r.looks.do(ctx, repo+" "+push.Branch, lookLimit, func(ctx context.Context) (string, error) {
		return r.Env.Source.Resolve(ctx, repo, push.Branch)
	})
	switch {
	case err != nil:
		return "", &unseenError{[]string{svc.Name}, err}
	case head != push.After:
		return isOlder, nil
	}
	return isNewer, nil
}

// lookUntil is until when whoever takes a push may wait for a look: a forge waits for the
// answer, and the push has still to be stored.
func lookUntil(ctx context.Context) time.Time {
	limit := resolveTimeout
	if end, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(end)/2)
	}
	return time.Now().Add(limit)
}

// keptLooks are the looks that kept pushes wait for.
type keptLooks struct {
	mu     sync.Mutex
	busy   map[string]bool // by branch
	pauses map[string]pausing
}

// pausing is the pause after a failed look.
type pausing struct {
	until time.Time
	took  time.Duration
	why   error
}

// paused returns why the branch could not be looked at a moment ago, nil when it may be
// looked at.
func (k *keptLooks) paused(branch string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.pauses[branch]; time.Now().Before(p.until) {
		return p.why
	}
	return nil
}

// begin says whether the caller may wait for a look at the branch: one for each branch may.
func (k *keptLooks) begin(branch string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy[branch] || len(k.busy) >= keptWaiting {
		return false
	}
	if k.busy == nil {
		k.busy = map[string]bool{}
	}
	k.busy[branch] = true
	return true
}

// end is begin's other end; why is nil when the branch could be looked at.
func (k *keptLooks) end(branch string, why error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.busy, branch)
	if why == nil {
		delete(k.pauses, branch)
		return
	}
	if k.pauses == nil {
		k.pauses = map[string]pausing{}
	}
	wait := min(max(keptPause, 2*k.pauses[branch].took), keptPauseMost)
	k.pauses[branch] = pausing{time.Now().Add(wait), wait, why}
}

// offerKept is offer for a kept push. An *unseenError with errNotLooked means that its turn
// to look has not come.
func (r *Runner) offerKept(ctx context.Context, linked []Service, push Push) (Accepted, error) {
	got, err := r.offer(ctx, linked, push, false, time.Time{})
	not := asUnseen(err)
	if not == nil {
		return got, err
	}
	branch := keptBranch(push)
	if why := r.keptLooks.paused(branch); why != nil {
		return got, &unseenError{not.apps, why}
	}
	if !r.keptLooks.begin(branch) {
		return got, err
	}
	got, err = r.offer(ctx, linked, push, false, time.Now().Add(keptPatience))
	if not = asUnseen(err); not == nil {
		r.keptLooks.end(branch, nil)
	} else {
		r.keptLooks.end(branch, not.err)
	}
	return got, err
}

func keptBranch(p Push) string { return p.Name + " " + p.Branch }

package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	Duplicate bool   // no jobs, because this very push was accepted before
	Reason    string // why there are no jobs
}

// resolveTimeout bounds the look at a branch.
const resolveTimeout = 4 * time.Second

// Deploy stores a deploy for every app that follows the pushed branch, unless
// the pusher wants none, nothing that the app is made of has changed, or it is
// known that the push is not the branch's newest (see judge).
//
// When it returns an error the forge should send the push again: what is stored
// already, which the result has, is a duplicate then.
func (r *Runner) Deploy(ctx context.Context, push Push) (Accepted, error) {
	services, err := r.Env.Swarm.Services(ctx)
	if err != nil {
		return Accepted{}, err
	}
	var out Accepted
	var others, reasons []string // why not: of apps on other branches, and of the others
	duplicates := 0
	for _, svc := range services {
		if svc.Labels[LabelRepo] == "" || !svc.follows(push) {
			continue
		}
		if reason := svc.notFollowing(push); reason != "" {
			others = append(others, reason)
			continue
		}
		one, err := r.accept(ctx, svc, push)
		if err != nil {
			return out, err
		}
		out.Jobs = append(out.Jobs, one.Jobs...)
		if one.Reason != "" {
			reasons = append(reasons, one.Reason)
		}
		if one.Duplicate {
			duplicates++
		}
	}
	switch {
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

// accept is Deploy for one app.
func (r *Runner) accept(ctx context.Context, svc Service, push Push) (Accepted, error) {
	unwanted := push.Skip
	if unwanted == "" {
		var err error
		if unwanted, err = svc.untouched(push); err != nil {
			r.Log.Warn("every push is deployed", "app", svc.Name, "err", err)
		}
	}
	was, now, err := r.place(ctx, svc, push, unwanted)
	switch {
	case err != nil:
		return Accepted{}, err
	case unwanted != "":
		return Accepted{Reason: unwanted}, nil
	case was == isOlder:
		return Accepted{Reason: fmt.Sprintf("%s has had a newer push than this one already; `/deploy %s %s` deploys it all the same", svc.Name, svc.Name, push.After)}, nil
	case was == isSame && now.At.IsZero():
		return Accepted{Duplicate: true, Reason: fmt.Sprintf("%s runs %s already, or did", svc.Name, short(push.After))}, nil
	case was == isSame && r.Env.Now().Sub(now.At) > queue.Retention-time.Hour:
		// The queue does not know its id any more, or will not in a moment.
		return Accepted{Duplicate: true, Reason: "this push was accepted before, on " + now.At.Format("2 January 2006")}, nil
	}
	// Also when the push is known: only the queue knows whether it was stored.
	err = r.Submit(ctx, Request{
		ID:      now.Job,
		Actor:   Actor{Name: push.Pusher, Via: push.Provider},
		Title:   push.title(),
		Channel: svc.Labels[LabelChannel],
		Seq:     now.Seq,
	}, &Deploy{App: svc.Name, Push: push})
	switch {
	case errors.Is(err, queue.ErrDuplicate):
		return Accepted{Duplicate: true, Reason: fmt.Sprintf("this push was accepted before, as job %s", now.Job)}, nil
	case err != nil:
		return Accepted{}, err
	}
	return Accepted{Jobs: []Job{{App: svc.Name, ID: now.Job}}}, nil
}

func pushesKey(app string) string { return "pushes:" + app }

// place judges a push and notes it among the app's pushes, in one step for all
// replicas. It returns what it is noted as: of a push that is the same as an
// earlier one, that one.
func (r *Runner) place(ctx context.Context, svc Service, push Push, unwanted string) (verdict, pushed, error) {
	var was verdict
	var now pushed
	var looked verdict // what the look at the branch came to
	err := store.Update(ctx, r.Store, pushesKey(svc.Name), pushesKept, func(all *pushes) (bool, error) {
		known := *all
		if len(known) == 0 {
			known = svc.released()
		}
		now = pushed{Branch: push.Branch, Before: push.Before, After: push.After, PushedAt: push.PushedAt, At: r.Env.Now().UTC()}
		if unwanted != "" {
			if known.has(now) {
				return false, nil
			}
			*all = known.with(now)
			return true, nil
		}
		var which int
		if was, which = judge(known, now); was == unclear {
			if looked == "" {
				looked = r.lookAtBranch(ctx, svc, push)
			}
			was = looked
		}
		switch was {
		case isSame:
			again := now
			now = known[which]
			if now.alike(again) || now.At.IsZero() {
				return false, nil
			}
			// Another push to the same commit: what is older than this is old.
			again.Job, again.Seq, again.At = now.Job, now.Seq, now.At
			*all = known.with(again)
			return true, nil
		case isOlder:
			if known.has(now) {
				return false, nil
			}
		case isNewer:
			var err error
			// After the list was read: so it is higher than every one in it.
			if now.Seq, err = r.Store.Next(ctx, "seq"); err != nil {
				return false, err
			}
			now.Job = fmt.Sprintf("deploy-%s-%s-%d", svc.Name, short(push.After), now.Seq)
		}
		*all = known.with(now)
		return true, nil
	})
	return was, now, err
}

// lookAtBranch decides about a push by where its branch is now. When that cannot
// be seen it is deployed: then a build will say why.
func (r *Runner) lookAtBranch(ctx context.Context, svc Service, push Push) verdict {
	limit := resolveTimeout
	if end, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(end)/3) // the forge waits, and all has still to be stored
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	head, err := r.Env.Source.Resolve(ctx, svc.Labels[LabelRepo], push.Branch)
	if err != nil {
		r.Log.Warn("a push is taken for the newest, since its branch cannot be looked at", "app", svc.Name, "branch", push.Branch, "commit", push.After, "err", err)
		return isNewer
	}
	if head != push.After {
		return isOlder
	}
	return isNewer
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

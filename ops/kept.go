package ops

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"waggle/ops/queue"
)

// kindPush is the kind of a request that is a push, which nobody could say which
// apps follow.
const kindPush = "push"

const (
	// keptFor is how long a push waits for the swarm or its repository to answer.
	keptFor = 24 * time.Hour
	// keptWithoutBranch is how long a push waits for a branch that its repository does
	// not have: a forge's servers may not all know a new one at once.
	keptWithoutBranch = 5 * time.Minute
	// unfinishedLimit bounds the listing of the jobs that are not done.
	unfinishedLimit = 3 * time.Second
	// keptTries is how many names a kept push and its redeliveries share.
	keptTries = 5
	// maxFiles bounds the paths that are kept with a push, in bytes. When there are
	// more it counts as one of which not all are known.
	maxFiles = 64 << 10
)

// keptPush is what a push is kept as, with its paths.
type keptPush struct {
	Push
	Files []string `json:"files,omitempty"`
}

// keptFiles are the paths that a push is kept with.
func keptFiles(p Push) []string {
	n := 0
	for _, f := range p.Files {
		n += len(f)
	}
	if n > maxFiles {
		return nil
	}
	return p.Files
}

// keep stores a push for when the swarm answers, or its repository does. Its order among
// others does not matter: that is judged when it is looked at. A redelivery of one that
// still waits is that one.
func (r *Runner) keep(ctx context.Context, push Push, reason string, why error) (Accepted, error) {
	op, err := json.Marshal(keptPush{push, keptFiles(push)})
	if err != nil {
		return Accepted{}, err
	}
	id := fmt.Sprintf("push-%x", sha256.Sum256(op))[:21]
	for try := 1; ; try++ {
		err = r.keepAs(ctx, id, push, op, why)
		if !errors.Is(err, queue.ErrDuplicate) {
			break
		}
		if waits, err := r.stillKept(ctx, id); err != nil {
			return Accepted{}, err
		} else if waits {
			break
		}
		// It was looked at meanwhile, and something else may come of it today.
		id = fmt.Sprintf("%s-%d", id[:21], try)
		if try > keptTries {
			id = "push-" + rand.Text()
		}
	}
	if err != nil && !errors.Is(err, queue.ErrDuplicate) {
		return Accepted{}, err
	}
	return Accepted{Waits: true, Reason: reason}, nil
}

func (r *Runner) keepAs(ctx context.Context, id string, push Push, op json.RawMessage, why error) error {
	req := Request{ID: id, Kind: kindPush, Op: op, Actor: Actor{Name: push.Pusher, Via: push.Provider}, Title: push.title(), At: r.Env.Now()}
	payload, err := json.Marshal(req)
	if err != nil {
		return err
	}
	if err := r.Deploys.Add(ctx, req.ID, payload); err != nil {
		return err
	}
	r.Log.Warn("a push is stored and looked at again later", "op", req.ID, "repo", push.Name, "branch", push.Branch, "commit", push.After, "err", why)
	return nil
}

// stillKept says whether the kept push of that id waits. It may miss one.
func (r *Runner) stillKept(ctx context.Context, id string) (bool, error) {
	ids, err := r.unfinished.do(ctx, "", unfinishedLimit, func(ctx context.Context) (map[string]bool, error) {
		payloads, err := r.Deploys.Unfinished(ctx)
		if err != nil {
			return nil, err
		}
		ids := map[string]bool{}
		for _, p := range payloads {
			var req struct {
				ID string `json:"id"`
			}
			if err := json.Unmarshal(p, &req); err == nil {
				ids[req.ID] = true
			}
		}
		return ids, nil
	})
	return ids[id], err
}

// lookAtKept does what Deploy could not do, or puts the push back until the swarm
// answers. It may be done twice: the second time all is known.
func (r *Runner) lookAtKept(ctx context.Context, req Request) error {
	var kept keptPush
	if err := json.Unmarshal(req.Op, &kept); err != nil {
		return fmt.Errorf("decode push: %w", err)
	}
	push := kept.Push
	push.Files = kept.Files
	age := r.Env.Now().Sub(req.At)
	if age <= keptFor && r.keptLooks.paused(keptBranch(push)) != nil {
		return queue.ErrBusy
	}
	now, err := r.readLinks(ctx)
	switch {
	case err != nil && age > keptFor:
		return r.giveUp(ctx, req, push, fmt.Sprintf("the swarm did not answer for %d hours", int(keptFor.Hours())), err)
	case err != nil:
		return queue.ErrBusy
	}
	got, err := r.offerKept(ctx, now.of(push), push)
	if not := asUnseen(err); not != nil {
		switch {
		case ctx.Err() != nil:
			return queue.ErrInterrupted
		case errors.Is(err, errNotLooked):
		case CodeOf(err) == NotFound && age > keptWithoutBranch:
			return r.giveUp(ctx, req, push, "its branch "+push.Branch+" no longer exists", err)
		case age > keptFor:
			return r.giveUp(ctx, req, push, fmt.Sprintf("for %d hours Waggle couldn't see whether it is the newest push to %s: %s",
				int(keptFor.Hours()), push.Branch, not.cause()), err)
		}
		return queue.ErrBusy
	} else if err != nil {
		return err
	}
	r.Log.Info("a stored push was looked at", "op", req.ID, "repo", push.Name, "commit", push.After, "jobs", len(got.Jobs), "reason", got.Reason)
	return nil
}

// giveUp tells that a push was kept in vain.
func (r *Runner) giveUp(ctx context.Context, req Request, push Push, because string, why error) error {
	w, err := r.take(ctx, req)
	if w == nil || err != nil {
		return err
	}
	defer w.lease.Release()
	run := r.newRun(w, req)
	run.status = Status{ID: req.ID, Kind: req.Kind, Target: push.Name, Title: req.Title, Actor: req.Actor, State: Waiting, Began: req.At}
	r.conclude(run, (&Error{Code: Unavailable, Sentence: fmt.Sprintf("The push of %s to %s was not deployed: %s", short(push.After), push.Name, because), Err: why}).
		Then("Push again, or `/deploy <app>`."))
	return r.finish(ctx, run)
}

// lookAgain, before anything of a deploy is done, offers a push of which the job came
// from what was known a while ago to the other apps, and waits for the swarm to answer
// as lookAtKept does. Other operations have nothing to look at.
func (r *Runner) lookAgain(ctx context.Context, rec record, op Operation) error {
	d, ok := op.(*Deploy)
	if !ok || !d.Look || rec.State != "" {
		return nil
	}
	now, err := r.readLinks(ctx)
	switch {
	case err != nil && r.Env.Now().Sub(rec.At) > keptFor:
		return nil // its plan will say so
	case err != nil:
		return queue.ErrBusy
	}
	push := d.Push
	push.Files = d.Files
	var others []Service
	for _, svc := range now.of(push) {
		if svc.Name != d.App {
			others = append(others, svc)
		}
	}
	_, err = r.offer(ctx, others, push, false, time.Time{})
	not := asUnseen(err)
	if not == nil {
		return err
	}
	// This app's deploy does not wait for what is unclear of others. They have one kept push
	// of this job, however often it comes here.
	kept, err := json.Marshal(keptPush{push, d.Files})
	if err != nil {
		return err
	}
	if err := r.keepAs(ctx, "push-"+rec.ID, push, kept, not); err != nil && !errors.Is(err, queue.ErrDuplicate) {
		return err
	}
	return nil
}

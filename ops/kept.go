package ops

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"

	"waggle/ops/queue"
)

// kindPush is the kind of a request that is a push, which nobody could say which
// apps follow.
const kindPush = "push"

const (
	// keptFor is how long a push waits for the swarm to answer.
	keptFor = 24 * time.Hour
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

// keep stores a push for when the swarm answers. Its order among others does not
// matter: that is judged when it is looked at.
func (r *Runner) keep(ctx context.Context, push Push, why error) (Accepted, error) {
	op, err := json.Marshal(keptPush{push, keptFiles(push)})
	if err != nil {
		return Accepted{}, err
	}
	req := Request{ID: "push-" + rand.Text(), Kind: kindPush, Op: op, Actor: Actor{Name: push.Pusher, Via: push.Provider}, Title: push.title(), At: r.Env.Now()}
	payload, err := json.Marshal(req)
	if err != nil {
		return Accepted{}, err
	}
	if err := r.Deploys.Add(ctx, req.ID, payload); err != nil {
		return Accepted{}, err
	}
	r.Log.Warn("a push waits until the swarm answers", "op", req.ID, "repo", push.Name, "branch", push.Branch, "commit", push.After, "err", why)
	return Accepted{Waits: true, Reason: "the swarm does not answer now: the push is stored, and looked at as soon as it does"}, nil
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
	now, err := r.readLinks(ctx)
	switch {
	case err != nil && r.Env.Now().Sub(req.At) > keptFor:
		return r.giveUp(ctx, req, push, err)
	case err != nil:
		return queue.ErrBusy
	}
	got, err := r.offer(ctx, now.of(push), push, false)
	if err != nil {
		return err
	}
	r.Log.Info("a push that waited for the swarm was looked at", "op", req.ID, "repo", push.Name, "commit", push.After, "jobs", len(got.Jobs), "reason", got.Reason)
	return nil
}

// giveUp tells that a push was kept in vain.
func (r *Runner) giveUp(ctx context.Context, req Request, push Push, why error) error {
	w, err := r.take(ctx, req)
	if w == nil || err != nil {
		return err
	}
	defer w.lease.Release()
	run := &Run{Env: r.Env, Request: req, Log: r.Log, w: w, message: r.teller(req, true)}
	run.status = Status{ID: req.ID, Kind: req.Kind, Target: push.Name, Title: req.Title, Actor: req.Actor, State: Waiting, Began: req.At}
	r.conclude(run, (&Error{Code: Unavailable, Sentence: fmt.Sprintf("The push of %s to %s was not deployed: the swarm did not answer for %d hours", short(push.After), push.Name, int(keptFor.Hours())), Err: why}).
		Then("When it does, push again, or `/deploy <app>`."))
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
	_, err = r.offer(ctx, others, push, false)
	return err
}

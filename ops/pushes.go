package ops

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"waggle/ops/queue"
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

// Deploy stores a deploy for every app that follows the pushed branch. When it
// returns an error the forge should send the push again: what is stored already
// is recognised then.
func (r *Runner) Deploy(ctx context.Context, push Push) (Accepted, error) {
	services, err := r.Env.Swarm.Services(ctx)
	if err != nil {
		return Accepted{}, err
	}
	var out Accepted
	out.Reason = fmt.Sprintf("no app is linked to %s: its service needs the label %s", push.Name, LabelRepo)
	for _, svc := range services {
		if svc.Labels[LabelRepo] == "" || !svc.follows(push) {
			continue
		}
		if reason := svc.notFollowing(push); reason != "" {
			out.Reason = reason
			continue
		}
		if all, err := svc.Releases(); err == nil && len(all) > 0 && all[0].Commit == push.After {
			out.Duplicate, out.Reason = true, fmt.Sprintf("%s runs %s already", svc.Name, short(push.After))
			continue
		}
		job := Job{App: svc.Name, ID: push.id(svc.Name)}
		err := r.Submit(ctx, Request{
			ID:      job.ID,
			Actor:   Actor{Name: push.Pusher, Via: push.Provider},
			Title:   push.title(),
			Channel: svc.Labels[LabelChannel],
		}, &Deploy{App: svc.Name, Push: push})
		switch {
		case errors.Is(err, queue.ErrDuplicate):
			out.Duplicate, out.Reason = true, fmt.Sprintf("this push was accepted before, as job %s", job.ID)
		case err != nil:
			return Accepted{}, err
		default:
			out.Jobs = append(out.Jobs, job)
		}
	}
	if len(out.Jobs) > 0 {
		out.Duplicate, out.Reason = false, ""
	}
	return out, nil
}

// id is the same for the same push however often and by whichever hook it is
// delivered. It is made only of what the forge signs, so a forged delivery id
// makes no difference.
func (p Push) id(app string) string {
	h := sha256.New()
	for _, part := range []string{app, p.Branch, p.Before, p.After, fmt.Sprint(p.PushedAt.Unix())} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return fmt.Sprintf("deploy-%s-%s-%x", app, short(p.After), h.Sum(nil)[:6])
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

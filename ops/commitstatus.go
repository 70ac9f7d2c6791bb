package ops

import (
	"context"
	"sync"
)

// States of a CommitStatus.
const (
	StatusPending = "pending"
	StatusSuccess = "success"
	StatusFailure = "failure"
)

// CommitStatus is how the deploy of a commit goes, for its forge.
type CommitStatus struct {
	Provider string // the forge: the route by which the push came
	Repo     string // clone URL, as the app's label has it
	Commit   string // full hash
	App      string
	State    string
	Text     string // one sentence
}

// CommitStatuses tells forges. Report does nothing when it is not allowed to
// speak to the one that is meant.
type CommitStatuses interface {
	Report(ctx context.Context, s CommitStatus) error
}

// commitStatus is what to tell about a pushed commit; false when there is none to
// tell about.
func (r *Run) commitStatus(state, text string) (CommitStatus, bool) {
	d, ok := r.op.(*Deploy)
	if !ok || d.Hand || r.DryRun || d.svc.Labels[LabelRepo] == "" {
		return CommitStatus{}, false
	}
	return CommitStatus{Provider: d.Push.Provider, Repo: d.svc.Labels[LabelRepo], Commit: d.Push.After, App: d.App, State: state, Text: text}, true
}

// tell tells the forge. What keeps it from that is for the log at most.
func (r *Runner) tell(ctx context.Context, run *Run, s CommitStatus) {
	ctx, cancel := detached(ctx)
	defer cancel()
	if err := r.Statuses.Report(ctx, s); err != nil {
		run.Log.Debug("the forge does not take the commit's status", "repo", s.Repo, "err", err)
	}
}

// tellBegin tells that a deploy has begun, beside the work; the returned function
// waits for that.
func (r *Runner) tellBegin(ctx context.Context, run *Run) (wait func()) {
	s, ok := run.commitStatus(StatusPending, "Waggle builds and deploys it")
	var telling sync.WaitGroup
	if !ok || r.Statuses == nil {
		return telling.Wait
	}
	if err := run.w.write(ctx, func(rec *record) { rec.Forge = &s }); err != nil {
		run.Log.Info("the forge is not told that a deploy has begun", "err", err)
		return telling.Wait
	}
	telling.Go(func() {
		r.tell(ctx, run, s)
		if !run.w.lease.Valid() {
			r.tellForgeAgain(ctx, run.ID) // the end may have been told meanwhile
		}
	})
	return telling.Wait
}

// tellForgeAgain has the end of a deploy told once more, if it has come to it.
func (r *Runner) tellForgeAgain(ctx context.Context, id string) {
	ctx, cancel := detached(ctx)
	defer cancel()
	if rec, err := r.read(ctx, id); err == nil && rec.State.Final() && rec.Forge != nil {
		if err := r.Store.Schedule(ctx, outbox, forgeEntry(id), r.Env.Now()); err != nil {
			r.Log.Warn("the forge may show a deploy as pending that has ended", "op", id, "err", err)
		}
	}
}

// endStatus is what a forge is told of how it ended. Of one that a newer push replaced before it
// had begun nothing is told.
func (r *Run) endStatus() (CommitStatus, bool) {
	s := r.snapshot()
	state, text := StatusSuccess, s.Result
	switch {
	case s.State == DryRun, s.State == Superseded && r.w.record().Forge == nil:
		return CommitStatus{}, false
	case s.State != Done:
		state, text = StatusFailure, s.Err.Sentence
	}
	if told := r.w.record().Forge; told != nil { // an earlier attempt may be all that knows the repository
		end := *told
		end.State, end.Text = state, text
		return end, true
	}
	return r.commitStatus(state, text)
}

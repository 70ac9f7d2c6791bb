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
	if ok && r.Statuses != nil {
		telling.Go(func() { r.tell(ctx, run, s) })
	}
	return telling.Wait
}

// endStatus is what a forge is told of how it ended. Of one that a newer push replaced nothing is
// told.
func (r *Run) endStatus() (CommitStatus, bool) {
	s := r.snapshot()
	switch s.State {
	case Superseded, DryRun:
		return CommitStatus{}, false
	case Done:
		return r.commitStatus(StatusSuccess, s.Result)
	}
	return r.commitStatus(StatusFailure, s.Err.Sentence)
}

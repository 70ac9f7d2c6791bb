package ops

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"
)

// followUpdate follows a rolling update, to image unless that is "", until all
// tasks run it and the swarm's own watch over them is over. When that fails the
// service goes back to the version before, by the swarm's own doing or by asking
// for it, and the error says what was wrong with the new one, what serves now, and
// again, what to do then.
func (r *Run) followUpdate(ctx context.Context, name, image, again string) (Replicas, error) {
	deadline := r.Now().Add(r.DeployTimeout)
	u := update{run: r, name: name, image: image, again: again, better: r.Now(), mine: map[string]bool{}}
	for {
		svc, err := r.Swarm.Service(ctx, name)
		if err != nil {
			if CodeOf(err) == Unavailable && ctx.Err() == nil && r.Now().Before(deadline) {
				r.Note("The swarm does not answer; looking again.")
				if err := pause(ctx, time.Second); err != nil {
					return Replicas{}, err
				}
				continue
			}
			return Replicas{}, err
		}
		forward := u.reason == ""
		got, done, err := u.step(ctx, svc)
		if done || err != nil {
			return got, err
		}
		switch late := r.Now().After(deadline); {
		case forward && u.reason != "":
			deadline = r.Now().Add(r.DeployTimeout) // for the way back
		case late && !forward:
			return got, u.failure(u.seen)
		case late:
			if err := u.revert(ctx, svc, fmt.Sprintf("it was not running everywhere after %s", r.DeployTimeout)); err != nil {
				return got, err
			}
			deadline = r.Now().Add(r.DeployTimeout)
		}
		if err := pause(ctx, pollEvery); err != nil {
			return got, err
		}
	}
}

// update is what is known of a rolling update on the way.
type update struct {
	run    *Run
	name   string
	image  string          // "" when it stays as it is
	again  string          // what to do when it failed
	mine   map[string]bool // ids of tasks of the new version
	failed Task            // the newest task of the new version that failed
	log    string          // the end of its output
	reason string          // why the way back was taken; "" while going forward
	asked  bool            // the way back was asked for, not the swarm's own
	back   bool            // the service has the version before
	seen   Replicas        // when it was looked at last
	best   int
	better time.Time // when more of the new version ran than before
	held   time.Time // since when it is converged without the swarm saying so
}

// step looks once and says whether it is over.
func (u *update) step(ctx context.Context, svc Service) (got Replicas, done bool, err error) {
	r := u.run
	u.back = u.image != "" && svc.Image != u.image || u.image == "" && strings.HasPrefix(svc.Update.State, "rollback")
	got, tasks, current, err := r.look(ctx, svc, true)
	if err != nil {
		if CodeOf(err) == Unavailable && ctx.Err() == nil {
			return got, false, nil // the next look will tell
		}
		return got, true, err
	}
	u.seen = got
	for _, t := range current {
		u.mine[t.ID] = u.mine[t.ID] || !u.back
	}
	u.learn(ctx, svc, tasks)
	switch state := svc.Update.State; {
	case u.back && u.reason == "" && state != "rollback_started" && state != "rollback_completed" && state != "rollback_paused":
		return got, true, Errorf(Failed, "%s was changed to %s by somebody else while this was rolling out", u.name, withoutDigest(svc.Image)).
			Then("Find out who did; push again to deploy this.")
	case state == "rollback_completed", u.back && state == "completed":
		u.goingBack(svc.Update.Message)
		if !got.Converged() && got.explained() == 0 {
			return got, false, nil
		}
		return got, true, u.failure(got)
	case state == "rollback_paused":
		u.reason = "the swarm gave up on going back, too: " + svc.Update.Message
		return got, true, u.failure(got)
	case u.back:
		u.goingBack(svc.Update.Message)
	case state == "paused":
		return got, false, u.revert(ctx, svc, svc.Update.Message)
	case state == "completed" && got.Converged():
		return got, true, nil
	case state == "" && got.Converged():
		// Nothing to roll: the spec was the same, or the swarm has not begun.
		now := r.Now()
		if u.held.IsZero() {
			u.held = now
		}
		return got, now.Sub(u.held) >= svc.Monitor, nil
	case got.Running > u.best || got.Converged():
		u.best, u.better, u.held = got.Running, r.Now(), time.Time{}
	case got.explained() > 0 && r.Now().Sub(u.better) >= stall:
		return got, false, u.revert(ctx, svc, fmt.Sprintf("nothing has changed for %s: %s", stall, got.Problems[0]))
	}
	return got, false, nil
}

// learn remembers the newest failure of the new version, and reads its log while
// it is there. The swarm may be on the way back already: that takes no longer
// than a look.
func (u *update) learn(ctx context.Context, svc Service, tasks []Task) {
	for _, t := range tasks {
		bad := (t.Image == u.image || u.image == "" && u.mine[t.ID]) && (t.State == "failed" || t.State == "rejected" || t.State == "complete")
		if !bad || t.ID == u.failed.ID || t.Created.Before(u.failed.Created) {
			continue
		}
		u.failed = t
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		log, err := u.run.Swarm.TaskLogs(ctx, t.ID, logLines)
		cancel()
		if err != nil {
			u.run.Log.Debug("no log of the failed task", "task", t.ID, "err", err)
		}
		if log != "" {
			u.log = svc.masker().Replace(log)
		}
	}
}

func (u *update) goingBack(reason string) {
	if u.reason == "" {
		u.reason = cmp.Or(reason, "the swarm went back")
		u.run.update(func(s *Status) { s.State, s.Note = Reverting, "It failed; going back to the version before." })
	}
}

// revert asks the swarm for the version before.
func (u *update) revert(ctx context.Context, svc Service, reason string) error {
	if u.asked {
		return nil // it takes its time
	}
	err := u.run.Swarm.RollbackService(ctx, svc)
	if CodeOf(err) == OutOfDate {
		return nil // it changed under our hands: look again
	}
	u.goingBack(reason)
	if err != nil {
		return &Error{Code: Failed, Sentence: fmt.Sprintf("%s failed (%s), and going back could not be asked for", u.name, reason),
			Next: fmt.Sprintf("Type `docker service rollback %s` on a manager.", u.name), Log: u.log, Err: err}
	}
	u.asked = true
	return nil
}

// failure says what was wrong with the new version and what serves now.
func (u *update) failure(now Replicas) *Error {
	why := u.reason
	if u.failed.ID != "" {
		why = u.failed.why()
		if why == "" {
			why = fmt.Sprintf("the container ended by itself (exit code %d)", u.failed.ExitCode)
		}
	}
	e := Errorf(Failed, "%s did not come up: %s", u.name, why)
	e.Log = u.log
	switch {
	case !u.back:
		return e.Then("Going back did not bring the version before, so see `docker service ps %s`; `/rollback %s` goes to the release before.", u.name, u.name)
	case now.Converged():
		return e.Then("The version before serves: %d of %d. %s", now.Running, now.Wanted, u.again)
	}
	return e.Then("The version before is back, with %d of %d running: see `docker service ps %s`.", now.Running, now.Wanted, u.name)
}

package ops

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// followUpdate follows a rolling update, to image unless that is "", until all
// tasks run it and the swarm's own watch over them is over. When that fails the
// service goes back to the version before, by the swarm's own doing or by asking
// for it, and the error says what was wrong with the new one, what serves now, and
// again, what to do then.
//
// How many failures an update may have, and what follows, is the service's own update policy, which
// the swarm carries out. The way back is asked for only where the swarm has none: when it pauses,
// when no node takes the new tasks, and at the deadline.
func (r *Run) followUpdate(ctx context.Context, name, image, again string) (Replicas, error) {
	deadline := r.Now().Add(r.DeployTimeout)
	u := update{run: r, name: name, image: image, again: again, mine: map[string]bool{}}
	poll := pace{most: followMost}
	for {
		var svc Service
		err := r.whileAway(ctx, deadline, func(ctx context.Context) (err error) {
			if svc, err = r.Swarm.Service(ctx, name); err != nil {
				return err
			}
			u.seen, err = r.look(ctx, svc, true)
			return err
		})
		if e, ok := err.(*Error); ok && e.Code == Unavailable {
			return u.seen.Replicas, e.Then("The swarm goes on with the update by itself: `/app show %s` shows how it stands.", name)
		}
		if err != nil {
			return u.seen.Replicas, err
		}
		forward := u.reason == ""
		done, err := u.step(ctx, svc)
		if done || err != nil {
			return u.seen.Replicas, err
		}
		switch late := r.Now().After(deadline); {
		case forward && u.reason != "":
			deadline = r.Now().Add(r.DeployTimeout) // for the way back
		case late && !forward:
			return u.seen.Replicas, u.failure()
		case late:
			if err := u.revert(ctx, svc, fmt.Sprintf("it was not running everywhere after %s", r.DeployTimeout)); err != nil {
				return u.seen.Replicas, err
			}
			if u.reason != "" {
				deadline = r.Now().Add(r.DeployTimeout)
			}
		}
		if err := pause(ctx, poll.step()); err != nil {
			return u.seen.Replicas, err
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
	seen   sight           // when it was looked at last
	stuck  time.Time       // since when no node takes the new tasks
	held   time.Time       // since when it is converged without the swarm saying so
}

// step judges the last look and says whether it is over.
func (u *update) step(ctx context.Context, svc Service) (done bool, err error) {
	u.back = u.image != "" && svc.Image != u.image || u.image == "" && strings.HasPrefix(svc.Update.State, "rollback")
	for _, t := range u.seen.current {
		u.mine[t.ID] = u.mine[t.ID] || !u.back
	}
	u.learn(ctx, svc)
	away := u.keptUpBy(svc)
	switch state := svc.Update.State; {
	case u.back && u.reason == "" && state != "rollback_started" && state != "rollback_completed" && state != "rollback_paused":
		return true, Errorf(Failed, "%s was changed to %s by somebody else while this was rolling out", u.name, withoutDigest(svc.Image)).
			Then("Find out who did; push again to deploy this.")
	case state == "rollback_completed", u.back && state == "completed":
		u.goingBack(svc.Update.Message)
		if !u.seen.Converged() && len(u.seen.Problems) == 0 {
			return false, nil
		}
		return true, u.failure()
	case state == "rollback_paused":
		u.reason = "the swarm gave up on going back, too: " + svc.Update.Message
		return true, u.failure()
	case u.back:
		u.goingBack(svc.Update.Message)
		if len(away) > 0 && u.holds(svc.Monitor) {
			return true, u.failure()
		}
	case u.reason != "" && !u.asked: // whether the swarm was asked is not known
		return false, u.revert(ctx, svc, u.reason)
	case state == "paused":
		return false, u.revert(ctx, svc, svc.Update.Message)
	case state == "completed" && u.seen.Converged():
		return true, nil
	case state == "" && u.seen.Converged(): // nothing to roll: the spec was the same, or the swarm has not begun
		return u.holds(svc.Monitor), nil
	case state == "updating" && len(away) > 0:
		if u.holds(svc.Monitor) {
			u.leftOut(away)
			return true, nil
		}
		return false, nil
	case u.unschedulable() != "":
		if u.stuck.IsZero() {
			u.stuck = u.run.Now()
		}
		if u.run.Now().Sub(u.stuck) >= stall {
			return false, u.revert(ctx, svc, fmt.Sprintf("nothing has changed for %s: %s", stall, u.unschedulable()))
		}
		u.held = time.Time{}
		return false, nil
	}
	u.stuck = time.Time{}
	if len(away) == 0 {
		u.held = time.Time{}
	}
	return false, nil
}

// holds reports whether the service has stayed converged for d.
func (u *update) holds(d time.Duration) bool {
	if u.held.IsZero() {
		u.held = u.run.Now()
	}
	return u.run.Now().Sub(u.held) >= d
}

// unschedulable is why no node takes the new tasks, "" unless none of those that don't run yet has
// a node.
func (u *update) unschedulable() (reason string) {
	current := currentTasks(u.seen.current, u.seen.nodes)
	reason = unscheduled(current)
	missing := 0
	for _, t := range current {
		if t.running() {
			continue
		}
		if missing++; !t.unschedulable(reason) {
			return ""
		}
	}
	if missing == 0 {
		return ""
	}
	return strings.TrimPrefix(reason, "task: ")
}

// keptUpBy are the nodes that the swarm's updater waits for in vain, nil when there are none or when
// not everything wanted runs on nodes that are up. The updater waits until each task that it has
// started runs or has ended, for hours if the task's node is lost: the orchestrator starts another
// task in its place, and the updater does not watch that one.
// Source: https://github.com/moby/swarmkit/blob/master/manager/orchestrator/update/updater.go (updateTask)
func (u *update) keptUpBy(svc Service) (nodes []string) {
	node := make(map[string]Node, len(u.seen.nodes))
	for _, n := range u.seen.nodes {
		node[n.ID] = n
	}
	var here []Task
	for _, t := range u.seen.tasks {
		n, known := node[t.NodeID]
		if t.NodeID == "" || n.up() {
			here = append(here, t)
			continue
		}
		text := "a node that was removed"
		if known {
			text = fmt.Sprintf("%s (%s)", cmp.Or(n.Hostname, n.ID), n.State)
		}
		if !t.ended() && !slices.Contains(nodes, text) {
			nodes = append(nodes, text)
		}
	}
	if got := Observe(svc.wantedReplicas(), onlyCurrent(here, u.seen.current), u.seen.nodes); !got.Converged() || got.Running == 0 {
		return nil
	}
	slices.Sort(nodes)
	return nodes
}

// leftOut warns of nodes that are away when the update is done.
func (u *update) leftOut(nodes []string) {
	u.run.update(func(s *Status) {
		s.Plan.Warnings = append(slices.Clone(s.Plan.Warnings), fmt.Sprintf("%s %s left out: all replicas run "+
			"the new version on other nodes. Docker may show the update as running until the node is back or removed",
			strings.Join(nodes, ", "), oneOrMore(len(nodes), "was", "were")))
	})
}

// learn remembers the newest failure of the new version, and reads its log while
// it is there. The swarm may be on the way back already: that takes no longer
// than a look.
func (u *update) learn(ctx context.Context, svc Service) {
	for _, t := range u.seen.tasks {
		bad := (t.Image == u.image || u.image == "" && u.mine[t.ID]) && (t.failed() || t.State == "complete")
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
		u.reason, u.held = cmp.Or(reason, "the swarm went back"), time.Time{}
	}
	u.run.update(func(s *Status) {
		if s.State != Reverting {
			s.State, s.Note = Reverting, "It failed; going back to the version before."
		}
	})
}

// revert asks the swarm for the version before. When the answer is lost, it is asked again: if the
// swarm has gone back, the service has changed by then.
func (u *update) revert(ctx context.Context, svc Service, reason string) error {
	if u.asked {
		return nil // it takes its time
	}
	r := u.run
	lost := false
	err := r.whileAway(ctx, r.Now().Add(r.DeployTimeout), func(ctx context.Context) error {
		err := r.Swarm.RollbackService(ctx, svc)
		lost = lost || CodeOf(err) == Unavailable
		return err
	})
	if CodeOf(err) == OutOfDate {
		if lost {
			u.reason = reason // why, if it was this that changed it
		}
		return nil // it changed under our hands: look again
	}
	if ctx.Err() != nil {
		return err
	}
	u.reason = cmp.Or(u.reason, reason)
	u.goingBack(reason)
	if err != nil {
		return &Error{Code: Failed, Sentence: fmt.Sprintf("%s failed (%s), and going back could not be asked for", u.name, reason),
			Next: fmt.Sprintf("Type `docker service rollback %s` on a manager.", u.name), Log: u.log, Err: err}
	}
	u.asked = true
	return nil
}

// failure says what was wrong with the new version and what serves now.
func (u *update) failure() *Error {
	why, now := u.reason, u.seen.Replicas
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

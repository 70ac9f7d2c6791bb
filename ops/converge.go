package ops

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	pollEvery = 150 * time.Millisecond // while waiting for the cluster to change
	// stall is how long nothing may get better, with a reason shown for every
	// replica that is missing, before following stops. The swarm goes on trying.
	stall = 20 * time.Second
)

// running says whether a task does its work. A task with a health check is
// "starting" until the check passes.
func (t Task) running() bool { return t.State == "running" }

// wanted says whether the swarm means the task to run.
func (t Task) wanted() bool { return t.Desired == "running" || t.Desired == "ready" }

// alive says whether the task may still have a process.
func (t Task) alive() bool { return t.State == "starting" || t.State == "running" }

// everyNode is the number of replicas of a global service.
const everyNode = -1

// wantedReplicas is how many of the service should run, as Observe takes it.
func (s Service) wantedReplicas() int {
	if s.Mode == Global {
		return everyNode
	}
	return s.Replicas
}

// place is what a task fills: a slot, or a node for a global service.
type place struct {
	slot int
	node string
}

func placeOf(t Task) place {
	if t.Slot == 0 {
		return place{node: t.NodeID}
	}
	return place{slot: t.Slot}
}

// Observe tells how many replicas of a service run where, and why the others do
// not. Tasks that the swarm has given up on count only as the reason why a slot
// is empty. Tasks on a node that is down do not run, whatever they say.
//
// A global service has one task a node and no number of its own: pass
// everyNode, and what is wanted is counted from its tasks.
//
// The rules are those of the docker CLI's progress display (docker/cli,
// cli/command/service/progress): one task a slot, the newest that is wanted.
func Observe(wanted int, tasks []Task, nodes []Node) Replicas {
	node := make(map[string]Node, len(nodes))
	for _, n := range nodes {
		node[n.ID] = n
	}
	gone := func(t Task) bool {
		n, known := node[t.NodeID]
		return t.NodeID != "" && (!known || n.State == "down")
	}

	out := Replicas{Wanted: wanted}
	current := map[place]Task{}
	failed := map[place]Task{} // the newest that failed
	for _, t := range tasks {
		switch {
		case t.wanted() && !gone(t):
			if old, ok := current[placeOf(t)]; !ok || t.running() && !old.running() ||
				t.running() == old.running() && t.Created.After(old.Created) {
				current[placeOf(t)] = t
			}
		case t.wanted(): // on a node that is down
		case t.alive() && !gone(t):
			out.Stopping++
		}
		if t.Err != "" && (t.State == "failed" || t.State == "rejected") {
			if old, ok := failed[placeOf(t)]; !ok || t.Created.After(old.Created) {
				failed[placeOf(t)] = t
			}
		}
	}

	if wanted == everyNode {
		out.Wanted = len(current)
	}
	// The scheduler decides on the tasks of one spec together, and may note its reason at some
	// of those that wait for a node only.
	unscheduled := ""
	for _, t := range current {
		if t.NodeID == "" && t.Err != "" {
			unscheduled = max(unscheduled, t.Err)
		}
	}
	counts := map[string]int{}
	problems := map[Problem]int{}
	for slot, t := range current {
		name := cmp.Or(node[t.NodeID].Hostname, t.NodeID)
		if t.running() {
			out.Running++
			counts[name]++
			continue
		}
		reason := t
		if before, ok := failed[slot]; ok && t.Err == "" {
			reason = before
		}
		if reason.Err == "" && t.NodeID == "" {
			reason.Err = unscheduled
		}
		if reason.Err != "" {
			problems[Problem{Node: cmp.Or(node[reason.NodeID].Hostname, reason.NodeID), Reason: reason.why()}]++
		}
	}
	for name, n := range counts {
		out.Nodes = append(out.Nodes, NodeCount{name, n})
	}
	slices.SortFunc(out.Nodes, func(a, b NodeCount) int { return strings.Compare(a.Node, b.Node) })
	for p, n := range problems {
		p.Count = n
		out.Problems = append(out.Problems, p)
	}
	slices.SortFunc(out.Problems, func(a, b Problem) int {
		return cmp.Or(b.Count-a.Count, strings.Compare(a.Node, b.Node), strings.Compare(a.Reason, b.Reason))
	})
	return out
}

// why is the task's own error, without the words that say nothing.
func (t Task) why() string {
	return strings.TrimPrefix(t.Err, "task: ")
}

// explained is how many of the missing replicas have a reason.
func (r Replicas) explained() int {
	n := 0
	for _, p := range r.Problems {
		n += p.Count
	}
	return n
}

// look reads how a service stands and shows it. With upToDate, tasks of an older
// task spec count as on their way out; current are those of the present one.
func (r *Run) look(ctx context.Context, svc Service, upToDate bool) (got Replicas, tasks, current []Task, err error) {
	nodes, err := r.Swarm.Nodes(ctx)
	if err != nil {
		return Replicas{}, nil, nil, err
	}
	tasks, err = r.Swarm.Tasks(ctx, svc.ID, false)
	if err != nil {
		return Replicas{}, nil, nil, err
	}
	counted := tasks
	if upToDate {
		current, err = r.Swarm.Tasks(ctx, svc.ID, true)
		if err != nil {
			return Replicas{}, nil, nil, err
		}
		counted = onlyCurrent(tasks, current)
	}
	got = Observe(svc.wantedReplicas(), counted, nodes)
	r.update(func(s *Status) { s.Replicas = &got })
	return got, tasks, current, nil
}

// onlyCurrent returns all tasks, those that are not current marked as to be stopped.
func onlyCurrent(all, current []Task) []Task {
	is := make(map[string]bool, len(current))
	for _, t := range current {
		is[t.ID] = true
	}
	out := slices.Clone(all)
	for i := range out {
		if !is[out[i].ID] {
			out[i].Desired, out[i].Err = "shutdown", ""
		}
	}
	return out
}

// converge follows a replicated service until exactly the wanted replicas run,
// and go on running for as long as the swarm itself watches new tasks.
func (r *Run) converge(ctx context.Context, svc Service) (Replicas, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.DeployTimeout, errDeadline)
	defer cancel()
	var (
		best     = -1
		better   = r.Now() // when it last got better
		held     time.Time // since when it is converged
		retries  int
		replicas Replicas // as last seen
	)
	for {
		now := r.Now()
		seen, _, _, err := r.look(ctx, svc, false)
		if err == nil {
			replicas = seen
		}
		switch {
		case context.Cause(ctx) == errDeadline:
			return replicas, r.notConverged(replicas, fmt.Sprintf("after %s", r.DeployTimeout))
		case err != nil && CodeOf(err) == Unavailable && retries < 20 && ctx.Err() == nil:
			retries++
			r.Note("The swarm does not answer; looking again.")
		case err != nil:
			return replicas, err
		case replicas.Converged():
			if held.IsZero() {
				held = now
				r.update(func(s *Status) { s.State = Holding })
			}
			if now.Sub(held) >= svc.Monitor {
				return replicas, nil
			}
		default:
			if !held.IsZero() {
				held = time.Time{}
				r.update(func(s *Status) { s.State = Working })
			}
			if score := replicas.Running - replicas.Stopping; score > best {
				best, better = score, now
			}
			if replicas.explained() >= replicas.Wanted-replicas.Running && replicas.Running < replicas.Wanted && now.Sub(better) >= stall {
				return replicas, r.notConverged(replicas, fmt.Sprintf("and nothing has changed for %s", stall))
			}
		}
		if err := pause(ctx, pollEvery); err != nil && context.Cause(ctx) != errDeadline {
			return replicas, err
		}
	}
}

func (r *Run) notConverged(got Replicas, when string) *Error {
	e := Errorf(Failed, "%d of %d run %s", got.Running, got.Wanted, when)
	if len(got.Problems) > 0 {
		e.Sentence += ": " + got.Problems[0].String()
	} else if got.Stopping > 0 {
		e.Sentence += fmt.Sprintf(": %d do not stop", got.Stopping)
	}
	return e
}

var errDeadline = fmt.Errorf("the deadline for converging has passed")

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

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
	// stall is how long nothing may get better, with no hope left for any replica that is missing,
	// before following stops. The swarm goes on trying.
	stall = 20 * time.Second
	// attempts is how often the tasks of a slot must have failed until there is no hope left for it.
	attempts = 3
)

// running says whether a task does its work. A task with a health check is
// "starting" until the check passes.
func (t Task) running() bool { return t.State == "running" }

// wanted says whether the swarm means the task to run.
func (t Task) wanted() bool { return t.Desired == "running" || t.Desired == "ready" }

// failed reports whether the task ended badly, or could not start.
func (t Task) failed() bool { return t.State == "failed" || t.State == "rejected" }

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

// position is what a task fills: a slot, or a node for a global service.
type position struct {
	slot int
	node string
}

func positionOf(t Task) position {
	if t.Slot == 0 {
		return position{node: t.NodeID}
	}
	return position{slot: t.Slot}
}

// onDownNode reports whether a task is on a node that is down, or no longer in the swarm.
func onDownNode(t Task, nodes []Node) bool {
	i := slices.IndexFunc(nodes, func(n Node) bool { return n.ID == t.NodeID })
	return t.NodeID != "" && (i < 0 || nodes[i].State == "down")
}

// currentTasks returns the task of each position: of those that the swarm wants, on nodes that
// are not down, one that runs, else the newest.
func currentTasks(tasks []Task, nodes []Node) map[position]Task {
	current := map[position]Task{}
	for _, t := range tasks {
		if !t.wanted() || onDownNode(t, nodes) {
			continue
		}
		old, ok := current[positionOf(t)]
		if !ok || t.running() && !old.running() || t.running() == old.running() && t.Created.After(old.Created) {
			current[positionOf(t)] = t
		}
	}
	return current
}

// unscheduled is the scheduler's reason why tasks of the service have no node, "" when it has none.
// It decides on the tasks of one spec together, and may note its reason at some of them only.
func unscheduled(current map[position]Task) (reason string) {
	for _, t := range current {
		if t.NodeID == "" {
			reason = max(reason, t.Err)
		}
	}
	return reason
}

// unschedulable reports whether the scheduler has a reason why no node takes the task.
func (t Task) unschedulable(reason string) bool {
	return t.NodeID == "" && t.State == "pending" && reason != ""
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
	current := currentTasks(tasks, nodes)
	failed := map[position]Task{} // the newest that failed
	out := Replicas{Wanted: wanted}
	for _, t := range tasks {
		if !t.wanted() && t.alive() && !onDownNode(t, nodes) {
			out.Stopping++
		}
		if t.Err != "" && t.failed() {
			if old, ok := failed[positionOf(t)]; !ok || t.Created.After(old.Created) {
				failed[positionOf(t)] = t
			}
		}
	}

	if wanted == everyNode {
		out.Wanted = len(current)
	}
	noNode := unscheduled(current)
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
			reason.Err = noNode
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

// sight is what one look at a service has read.
type sight struct {
	Replicas
	nodes   []Node
	tasks   []Task // all that the swarm knows
	current []Task // of those, with upToDate, the ones of the present task spec
}

// look reads how a service stands and shows it. With upToDate, tasks of an older
// task spec count as on their way out.
func (r *Run) look(ctx context.Context, svc Service, upToDate bool) (seen sight, err error) {
	if seen.nodes, err = r.Swarm.Nodes(ctx); err != nil {
		return sight{}, err
	}
	if seen.tasks, err = r.Swarm.Tasks(ctx, svc.ID, false); err != nil {
		return sight{}, err
	}
	counted := seen.tasks
	if upToDate {
		if seen.current, err = r.Swarm.Tasks(ctx, svc.ID, true); err != nil {
			return sight{}, err
		}
		counted = onlyCurrent(seen.tasks, seen.current)
	}
	seen.Replicas = Observe(svc.wantedReplicas(), counted, seen.nodes)
	shown := seen.Replicas
	r.update(func(s *Status) { s.Replicas = &shown })
	return seen, nil
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

// failures counts how often the tasks of each position have failed since the first look. Tasks are
// known by their ids, because clocks differ and the swarm forgets old tasks.
type failures struct {
	seen  map[string]bool
	count map[position]int
}

func (f *failures) look(tasks []Task) {
	first := f.seen == nil
	if first {
		f.seen, f.count = map[string]bool{}, map[position]int{}
	}
	for _, t := range tasks {
		// A task that ends by itself fails too: a service's tasks are not to end.
		if f.seen[t.ID] || !t.failed() && t.State != "complete" {
			continue
		}
		if f.seen[t.ID] = true; !first {
			f.count[positionOf(t)]++
		}
	}
}

// hopeless reports whether no replica that is missing may still come up: it is unschedulable, or has
// failed several times. One that pulls its image, starts or waits for its restart is in progress.
func (f *failures) hopeless(seen sight) bool {
	current := currentTasks(seen.tasks, seen.nodes)
	noNode := unscheduled(current)
	n := 0
	for p, t := range current {
		if !t.running() && (t.unschedulable(noNode) || f.count[p] >= attempts) {
			n++
		}
	}
	return n > 0 && n >= seen.Wanted-seen.Running
}

// converge follows a replicated service until exactly the wanted replicas run,
// and go on running for as long as the swarm itself watches new tasks.
func (r *Run) converge(ctx context.Context, svc Service) (Replicas, error) {
	deadline := r.Now().Add(r.DeployTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, r.DeployTimeout, errDeadline)
	defer cancel()
	var (
		best     = -1
		better   = r.Now() // when it last got better
		held     time.Time // since when it is converged
		failed   failures
		seen     sight // the last time that the swarm answered
		answered bool
		poll     = pace{most: followMost}
	)
	for {
		err := r.whileAway(ctx, deadline, func(ctx context.Context) error {
			now, err := r.look(ctx, svc, false)
			if err == nil {
				seen, answered = now, true
				failed.look(now.tasks)
			}
			return err
		})
		now := r.Now()
		switch {
		case context.Cause(ctx) == errDeadline && CodeOf(err) != Unavailable && answered:
			return seen.Replicas, r.notConverged(seen.Replicas, fmt.Sprintf("after %s", r.DeployTimeout))
		case err == errDeadline:
			return seen.Replicas, Errorf(Unavailable, "The swarm did not answer within %s", r.DeployTimeout)
		case err != nil:
			return seen.Replicas, err
		case seen.Converged():
			if held.IsZero() {
				held = now
				r.update(func(s *Status) { s.State = Holding })
			}
			if now.Sub(held) >= svc.Monitor {
				return seen.Replicas, nil
			}
		default:
			if !held.IsZero() {
				held = time.Time{}
				r.update(func(s *Status) { s.State = Working })
			}
			if score := seen.Running - seen.Stopping; score > best {
				best, better = score, now
			}
			if failed.hopeless(seen) && now.Sub(better) >= stall {
				return seen.Replicas, r.notConverged(seen.Replicas, fmt.Sprintf("and nothing has changed for %s", stall))
			}
		}
		if err := pause(ctx, poll.step()); err != nil && context.Cause(ctx) != errDeadline {
			return seen.Replicas, err
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

package ops

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// evacuation is what becomes of the tasks on a node that is to have none.
type evacuation struct {
	moves  []string // services that find a place elsewhere
	global []string // services with a task on every node
	stuck  []stuck  // services that do not
	tasks  int
}

type stuck struct{ app, why string }

// evacuate plans how the tasks of a node find places on the others.
func evacuate(ctx context.Context, swarm Swarm, node Node) (evacuation, error) {
	w, err := readWorld(ctx, swarm)
	if err != nil {
		return evacuation{}, err
	}
	here := w.used[node.ID].Tasks
	var e evacuation
	for _, s := range w.services {
		if here[s.ID] == 0 {
			continue
		}
		e.tasks += here[s.ID]
		if s.Mode == Global || s.Mode == GlobalJob {
			e.global = append(e.global, s.Name)
			continue
		}
		var reasons []string
		fits := false
		for _, n := range w.nodes {
			if n.ID == node.ID {
				continue
			}
			why := s.unfit(n, w.used[n.ID])
			fits = fits || why == ""
			reasons = append(reasons, why)
		}
		switch {
		case fits:
			e.moves = append(e.moves, s.Name)
		case s.pinned(node):
			e.stuck = append(e.stuck, stuck{s.Name, "it is pinned to " + node.Hostname})
		case len(reasons) == 0:
			e.stuck = append(e.stuck, stuck{s.Name, "there is no other node"})
		default:
			e.stuck = append(e.stuck, stuck{s.Name, strings.Join(reasons[:min(3, len(reasons))], ", ")})
		}
	}
	return e, nil
}

// tell puts what will happen into a plan. Until says until when those without a
// place stay down.
func (e evacuation) tell(p *Plan, until string) {
	if len(e.moves) > 0 {
		p.Facts = append(p.Facts, fmt.Sprintf("%s: %s", oneOrMore(len(e.moves), "moves to other nodes", "move to other nodes"), strings.Join(e.moves, ", ")))
	}
	if len(e.global) > 0 {
		p.Facts = append(p.Facts, fmt.Sprintf("%s on every node and %s here: %s", oneOrMore(len(e.global), "runs", "run"),
			oneOrMore(len(e.global), "ends", "end"), strings.Join(e.global, ", ")))
	}
	for _, s := range e.stuck {
		p.Warnings = append(p.Warnings, fmt.Sprintf("%s has no other place and stays down%s: %s", s.app, until, s.why))
	}
}

func oneOrMore(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

// evacuated waits until the node has no task and the services that move run
// elsewhere, and go on running for as long as the swarm watches new tasks.
func (r *Run) evacuated(ctx context.Context, node Node, moves []string) error {
	var held time.Time
	began, missing := 0, ""
	var left []string
	err := r.until(ctx, r.DeployTimeout, func(ctx context.Context) (bool, error) {
		w, err := readWorld(ctx, r.Swarm)
		if err != nil {
			if ctx.Err() == nil {
				left, missing = nil, sentenceOf(err)
			}
			return false, err
		}
		left = w.left(node.ID)
		began = max(began, len(left))
		missing = ""
		hold := time.Duration(0)
		for _, s := range w.services {
			if !slices.Contains(moves, s.Name) {
				continue
			}
			hold = max(hold, s.Monitor)
			if got := w.observe(s); got.Running < got.Wanted {
				missing = fmt.Sprintf("%s has %s", s.Name, got)
				if len(got.Problems) > 0 {
					missing += ": " + got.Problems[0].String()
				}
			}
		}
		if len(left) > 0 || missing != "" {
			held = time.Time{}
			note := fmt.Sprintf("%d of %s left %s", began-len(left), many(began, "task"), node.Hostname)
			if len(left) > 0 {
				note += ", not yet " + tally(left)
			}
			if missing != "" {
				note += "; " + missing
			}
			r.Note(note + ".")
			return false, nil
		}
		if held.IsZero() {
			held = r.Now()
			r.Note("Nothing runs there any more; watching that the others hold.")
		}
		return r.Now().Sub(held) >= hold, nil
	})
	if err == errDeadline {
		why := missing
		if len(left) > 0 {
			why = fmt.Sprintf("%s still there, %s", many(len(left), "task"), tally(left))
		}
		return Errorf(Failed, "%s is not empty after %s: %s", node.Hostname, r.DeployTimeout, why)
	}
	return err
}

// left names the tasks on a node that have not ended, each with its state.
func (w world) left(nodeID string) []string {
	heard := ""
	for _, n := range w.nodes {
		if n.ID == nodeID && !n.up() {
			heard = " when " + n.Hostname + " was heard last, which is " + n.State
		}
	}
	var left []string
	for _, t := range w.tasks {
		if t.NodeID != nodeID || t.ended() {
			continue
		}
		app := "a service that was removed"
		if i := slices.IndexFunc(w.services, func(s Service) bool { return s.ID == t.ServiceID }); i >= 0 {
			app = w.services[i].Name
		}
		left = append(left, fmt.Sprintf("%s (%s%s)", app, t.State, heard))
	}
	slices.Sort(left)
	return left
}

// tally shortens a sorted list: the same ones are counted, and the first few shown.
func tally(all []string) string {
	const most = 3
	var shown []string
	for i := 0; i < len(all); {
		if len(shown) == most {
			shown = append(shown, fmt.Sprintf("%d more", len(all)-i))
			break
		}
		same := 1
		for i+same < len(all) && all[i+same] == all[i] {
			same++
		}
		if i += same; same > 1 {
			shown = append(shown, fmt.Sprintf("%d of %s", same, all[i-1]))
		} else {
			shown = append(shown, all[i-1])
		}
	}
	return strings.Join(shown, ", ")
}

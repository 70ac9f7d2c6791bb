package ops

import (
	"context"
	"fmt"
	"strings"
)

// NodeAvailability drains, pauses or activates a node.
type NodeAvailability struct {
	Node string `json:"node"`
	To   string `json:"to"` // Active, Pause or Drain

	// Decided is set once the plan is about to be applied: a drained node does not
	// tell any more what ran there.
	Decided *NodeDrained `json:"decided,omitempty"`

	effect Effect
	node   Node
	leave  evacuation
}

// NodeDrained is what becomes of the services on a node that is drained.
type NodeDrained struct {
	Moves []string `json:"moves"`
	Stuck []string `json:"stuck"` // without another place
}

// verb is how an availability is asked for.
func verb(availability string) string {
	if availability == Active {
		return "activate"
	}
	return availability
}

func (a *NodeAvailability) Kind() string   { return "node-" + verb(a.To) }
func (a *NodeAvailability) Target() string { return a.Node }
func (*NodeAvailability) Needs() Role      { return Admin }

// Plan says what becomes of the tasks on the node.
func (a *NodeAvailability) Plan(ctx context.Context, run *Run) (Plan, error) {
	node, _, err := findNode(ctx, run.Swarm, a.Node)
	if err != nil {
		return Plan{}, err
	}
	a.node = node
	a.effect = Effect{}
	switch {
	case run.applied && node.Availability != a.To:
		a.effect = Effect{EffectSuperseded, a.successor(ctx, run, node)}
	case run.applied:
		a.effect.State = EffectCurrent
	}
	plan := Plan{Diffs: []Diff{{What: "availability", From: node.Availability, To: a.To}}}
	if node.Availability != a.To {
		plan.Undo = fmt.Sprintf("/node %s %s", verb(node.Availability), a.Node)
	}
	if !node.up() {
		plan.Warnings = append(plan.Warnings, fmt.Sprintf("%s is %s", node.Hostname, node.State))
	}
	if a.To != Drain || a.Decided != nil {
		return plan, nil
	}
	if a.leave, err = evacuate(ctx, run.Swarm, node); err != nil {
		return Plan{}, err
	}
	a.leave.tell(&plan, fmt.Sprintf(" until `/node activate %s`", a.Node))
	return plan, nil
}

// Effect tells how the availability stands in the swarm.
func (a *NodeAvailability) Effect() Effect { return a.effect }

// OnlyWatches lets a node be activated while it is still being drained.
func (*NodeAvailability) OnlyWatches() {}

// Setting implements Setter.
func (*NodeAvailability) Setting() string { return "availability" }

// Sets implements Setter.
func (*NodeAvailability) Sets() bool { return true }

func (a *NodeAvailability) successor(ctx context.Context, run *Run, node Node) string {
	return fmt.Sprintf("%s: %s is set to %s", run.successor(ctx), node.Hostname, node.Availability)
}

// overtaken returns why the drain is not to be watched any more.
func (a *NodeAvailability) overtaken(ctx context.Context, run *Run) error {
	nodes, err := run.Swarm.Nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.ID == a.node.ID && n.Availability != a.To {
			return Errorf(Canceled, "Superseded by %s", a.successor(ctx, run, n))
		}
	}
	return nil
}

// Apply writes the availability, and nothing else.
func (a *NodeAvailability) Apply(ctx context.Context, run *Run) error {
	if a.To == Drain && a.Decided == nil {
		a.Decided = &NodeDrained{Moves: a.leave.moves}
		for _, s := range a.leave.stuck {
			a.Decided.Stuck = append(a.Decided.Stuck, s.app)
		}
		if err := run.Save(ctx); err != nil {
			return redisAway(err)
		}
	}
	return run.Swarm.UpdateNode(ctx, a.node, NodeChange{Availability: a.To})
}

// Converge waits, for a drain, until the tasks run elsewhere.
func (a *NodeAvailability) Converge(ctx context.Context, run *Run) (string, error) {
	name := a.node.Hostname
	switch a.To {
	case Active:
		return name + " is active and takes tasks", nil
	case Pause:
		return name + " is paused: it keeps its tasks and takes no new ones", nil
	}
	err := run.watch(ctx, func(ctx context.Context) error { return a.overtaken(ctx, run) }, func(ctx context.Context) error {
		return run.evacuated(ctx, a.node, a.Decided.Moves)
	})
	if err != nil {
		if e, ok := err.(*Error); ok && e.Code == Failed {
			e.Then("The swarm goes on trying. `/node activate %s` goes back.", a.Node)
		}
		return "", err
	}
	text := name + " is drained"
	if m := a.Decided.Moves; len(m) > 0 {
		text += fmt.Sprintf(": %s %s elsewhere", strings.Join(m, ", "), oneOrMore(len(m), "runs", "run"))
	}
	if s := a.Decided.Stuck; len(s) > 0 {
		text += fmt.Sprintf("; %s %s down until it is active again", strings.Join(s, ", "), oneOrMore(len(s), "is", "are"))
	}
	return text, nil
}

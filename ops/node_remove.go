package ops

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// leaveWithin is how long a node may take to leave.
const leaveWithin = 20 * time.Second

// NodeRemove takes a node out of the swarm: drain → tasks gone → demote → leave →
// remove.
type NodeRemove struct {
	Node  string `json:"node"`
	Force bool   `json:"force,omitempty"` // it does not answer any more

	// HostKey of a node that was joined by hand, taken when it was first looked at.
	HostKey HostKey `json:"host_key,omitzero"`
	// Decided is set once the plan is about to be applied.
	Decided *NodeRemoval `json:"decided,omitempty"`

	node   Node
	leave  evacuation
	server Server
}

// NodeRemoval is what is removed.
type NodeRemoval struct {
	ID       string   `json:"id"`
	Hostname string   `json:"hostname"`
	Dead     bool     `json:"dead"` // when it was decided
	Moves    []string `json:"moves"`
	Lost     []string `json:"lost"` // services without another place
}

func (*NodeRemove) Kind() string     { return "node-remove" }
func (r *NodeRemove) Target() string { return r.Node }
func (*NodeRemove) Needs() Role      { return Admin }

// Plan says what is lost with the node, and refuses what would lose the quorum.
func (r *NodeRemove) Plan(ctx context.Context, run *Run) (Plan, error) {
	name := r.Node
	if r.Decided != nil {
		name = r.Decided.ID
	}
	node, nodes, err := findNode(ctx, run.Swarm, name)
	if r.Decided != nil && CodeOf(err) == NotFound { // an attempt that was cut off came to the end
		r.node = Node{ID: r.Decided.ID, Hostname: r.Decided.Hostname}
		return Plan{}, nil
	}
	if err != nil {
		return Plan{}, err
	}
	r.node = node
	if r.Decided != nil {
		return Plan{Diffs: []Diff{{What: "node " + node.Hostname, From: node.Role, To: "removed"}}}, nil
	}
	if err := notOurManager(ctx, run, node, "remove"); err != nil {
		return Plan{}, err
	}
	if node.Manager {
		if err := quorumOf(nodes).guard(node); err != nil {
			return Plan{}, err
		}
	}
	if !node.up() && !r.Force {
		return Plan{}, Errorf(Invalid, "%s is %s, so its tasks cannot be moved in good order", node.Hostname, node.State).
			Then("Bring it back, or type `/node remove %s --force` if it is gone for good.", r.Node)
	}
	if r.leave, err = evacuate(ctx, run.Swarm, node); err != nil {
		return Plan{}, err
	}
	plan := Plan{
		Diffs:    []Diff{{What: "node " + node.Hostname, From: node.Role, To: "removed"}},
		Approval: fmt.Sprintf("it takes %s (%s) out of the swarm", node.Hostname, node.Addr),
	}
	services, err := run.Swarm.Services(ctx)
	if err != nil {
		return Plan{}, err
	}
	for _, s := range services {
		if s.pinned(node) {
			plan.Diffs = append(plan.Diffs, Diff{What: s.Name, From: "pinned to " + node.Hostname, To: "no node may run it"})
			if s.Persistent {
				plan.Warnings = append(plan.Warnings, fmt.Sprintf("the data of %s is on %s and is not moved", s.Name, node.Hostname))
			}
		}
		if domain := s.Labels[LabelManagedRegistry]; domain != "" && s.pinned(node) {
			plan.Warnings = append([]string{fmt.Sprintf("the registry %s runs there: no image can be pushed or pulled without it", domain)}, plan.Warnings...)
		}
	}
	r.leave.tell(&plan, "")
	if !node.up() {
		plan.Warnings = append(plan.Warnings, fmt.Sprintf("%s is %s: what it ran is given up, and started elsewhere where there is a place", node.Hostname, node.State))
	}
	if node.Manager {
		after := quorumOf(nodes).without(node)
		plan.Facts = append(plan.Facts, fmt.Sprintf("now %s; then %s", quorumOf(nodes), after))
		if odd := after.odd(); odd != "" {
			plan.Warnings = append(plan.Warnings, odd)
		}
	}
	if node.up() {
		if err := r.look(ctx, run, &plan); err != nil {
			return Plan{}, err
		}
	}
	return plan, nil
}

// look finds out whether the node can be told to leave.
func (r *NodeRemove) look(ctx context.Context, run *Run, plan *Plan) error {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	addr, key := r.reachedAt(run)
	server, err := r.connect(ctx, run, addr, key)
	if err != nil {
		plan.Warnings = append(plan.Warnings, fmt.Sprintf("Waggle cannot log in to %s to have it leave (%s): type `docker swarm leave` there", r.node.Hostname, sentenceOf(err)))
		return nil
	}
	if key == (HostKey{}) {
		r.HostKey = server.HostKey()
		if err := run.Save(ctx); err != nil {
			return redisAway(err)
		}
	}
	m, err := server.Machine(ctx)
	if err != nil {
		plan.Warnings = append(plan.Warnings, fmt.Sprintf("Waggle cannot tell the engine of %s to leave (%s): type `docker swarm leave` there", r.node.Hostname, sentenceOf(err)))
		return nil
	}
	if m.Swarm.NodeID != r.node.ID {
		return Errorf(Invalid, "The server at %s is not %s: its engine is another node", addr, r.node.Hostname).
			Then("Correct the label %s of the node.", LabelSSH)
	}
	return nil
}

// reachedAt says how the node is reached over SSH, and with which host key: that
// of its label, or that of the first look.
func (r *NodeRemove) reachedAt(run *Run) (Address, HostKey) {
	addr, key := r.node.reachedAt(run.SSH)
	if key == (HostKey{}) {
		key = r.HostKey
	}
	return addr, key
}

func (r *NodeRemove) connect(ctx context.Context, run *Run, addr Address, key HostKey) (Server, error) {
	if r.server != nil {
		return r.server, nil
	}
	server, err := run.Servers.Connect(ctx, addr, key)
	if err != nil {
		return nil, err
	}
	r.server = server
	run.Defer(func() { _ = server.Close() }) // nothing is lost with it
	return server, nil
}

// sentenceOf is what a person may read of an error, in the middle of a sentence.
func sentenceOf(err error) string {
	if e := new(Error); errors.As(err, &e) {
		return e.Sentence
	}
	return "the reason is in Waggle's log"
}

// Apply drains the node, which is the first of the steps.
func (r *NodeRemove) Apply(ctx context.Context, run *Run) error {
	if r.Decided == nil {
		d := NodeRemoval{ID: r.node.ID, Hostname: r.node.Hostname, Dead: !r.node.up(), Moves: r.leave.moves}
		for _, s := range r.leave.stuck {
			d.Lost = append(d.Lost, s.app)
		}
		r.Decided = &d
		if err := run.Save(ctx); err != nil {
			return redisAway(err)
		}
	}
	if r.node.State == "" {
		return nil // it is gone already
	}
	return run.Swarm.UpdateNode(ctx, r.node, NodeChange{Availability: Drain})
}

// Converge goes the steps to the end. Each begins with what the swarm shows, so
// that one that was cut off goes on.
func (r *NodeRemove) Converge(ctx context.Context, run *Run) (string, error) {
	d := r.Decided
	left := "its engine left"
	if r.node.State != "" {
		if err := r.empty(ctx, run); err != nil {
			return "", err
		}
		if r.node.Manager || r.node.Role == "manager" {
			err := run.Step("demote", func(func(string)) error { return r.demote(ctx, run) })
			if err != nil {
				return "", err
			}
		}
		if !d.Dead {
			err := run.Step("leave", func(detail func(string)) error {
				if err := r.haveLeave(ctx, run); err != nil {
					run.Log.Warn("a removed node was not told", "node", d.Hostname, "err", err)
					left = fmt.Sprintf("its engine could not be told (%s): type `docker swarm leave` on it", sentenceOf(err))
					detail("it could not be told")
				}
				return nil
			})
			if err != nil {
				return "", err
			}
		} else {
			left = "should it come back, type `docker swarm leave --force` on it"
		}
		err := run.Step("remove", func(func(string)) error {
			return run.whileAway(ctx, run.Now().Add(run.JoinTimeout), func(ctx context.Context) error {
				err := run.Swarm.RemoveNode(ctx, d.ID, true) // by force: the swarm does not see yet that it left
				if CodeOf(err) == NotFound {
					return nil
				}
				return err
			})
		})
		if err != nil {
			return "", err
		}
	}
	text := fmt.Sprintf("%s is removed; %s", d.Hostname, left)
	if len(d.Lost) > 0 {
		text += fmt.Sprintf("; %s %s without a place", strings.Join(d.Lost, ", "), oneOrMore(len(d.Lost), "is", "are"))
	}
	return text, nil
}

func (r *NodeRemove) empty(ctx context.Context, run *Run) error {
	if r.Decided.Dead {
		return nil // its tasks do not end, and its place is given to others by the swarm
	}
	err := run.Step("drain", func(func(string)) error { return run.evacuated(ctx, r.node, r.Decided.Moves) })
	if e, ok := err.(*Error); ok && e.Code == Failed {
		return e.Then("It is drained and still a member: `/node activate %s` goes back, `/node remove %s` tries again.", r.Node, r.Node)
	}
	return err
}

func (r *NodeRemove) demote(ctx context.Context, run *Run) error {
	err := run.whileAway(ctx, run.Now().Add(run.JoinTimeout), func(ctx context.Context) error {
		return run.changeNode(ctx, r.node.ID, NodeChange{Role: "worker"})
	})
	if err != nil {
		return err
	}
	err = run.until(ctx, run.JoinTimeout, func(ctx context.Context) (bool, error) {
		n, err := nodeByID(ctx, run.Swarm, r.node.ID)
		return err == nil && !n.Manager, err
	})
	if err == errDeadline {
		return Errorf(Failed, "%s is still a manager after %s", r.node.Hostname, run.JoinTimeout).
			Then("It is drained: `/node list` shows how it stands, `/node remove %s` tries again.", r.Node)
	}
	return err
}

// haveLeave tells the node's engine to leave. The swarm sees only after some
// heartbeats that it did.
func (r *NodeRemove) haveLeave(ctx context.Context, run *Run) error {
	ctx, cancel := context.WithTimeout(ctx, leaveWithin)
	defer cancel()
	addr, key := r.reachedAt(run)
	if key == (HostKey{}) {
		return Errorf(Unavailable, "it could not be reached over SSH")
	}
	server, err := r.connect(ctx, run, addr, key)
	if err != nil {
		return err
	}
	return server.LeaveSwarm(ctx, false)
}

package ops

import (
	"context"
	"fmt"
)

// NodeRole promotes a node to manager or demotes it to worker.
type NodeRole struct {
	Node    string `json:"node"`
	Manager bool   `json:"manager"`

	node   Node
	quorum quorum
}

func (r *NodeRole) Kind() string {
	if r.Manager {
		return "node-promote"
	}
	return "node-demote"
}
func (r *NodeRole) Target() string { return r.Node }
func (*NodeRole) Needs() Role      { return Admin }

func (r *NodeRole) role() string {
	if r.Manager {
		return "manager"
	}
	return "worker"
}

// Plan refuses what would lose the managers' quorum.
func (r *NodeRole) Plan(ctx context.Context, run *Run) (Plan, error) {
	node, nodes, err := findNode(ctx, run.Swarm, r.Node)
	if err != nil {
		return Plan{}, err
	}
	r.node, r.quorum = node, quorumOf(nodes)
	plan := Plan{Diffs: []Diff{{What: "role", From: node.Role, To: r.role()}}}
	if node.Role == r.role() {
		return plan, nil
	}
	after := r.quorum
	if r.Manager {
		if !node.up() {
			return Plan{}, Errorf(Invalid, "%s is %s, and a manager has to be up", node.Hostname, node.State).
				Then("Bring it back first: `/node show %s`.", r.Node)
		}
		after = after.with()
		plan.Approval = "a manager controls the whole swarm and holds its secrets"
		plan.Undo = "/node demote " + r.Node
	} else {
		if err := r.quorum.guard(node); err != nil {
			return Plan{}, err
		}
		if err := notOurManager(ctx, run, node, "demote"); err != nil {
			return Plan{}, err
		}
		after = after.without(node)
		plan.Approval = "fewer managers may fail then"
		plan.Undo = "/node promote " + r.Node
		if err := onlyOnManagers(ctx, run.Swarm, node, &plan); err != nil {
			return Plan{}, err
		}
	}
	plan.Facts = append(plan.Facts, fmt.Sprintf("now %s; then %s", r.quorum, after))
	if odd := after.odd(); odd != "" {
		plan.Warnings = append(plan.Warnings, odd)
	}
	return plan, nil
}

// notOurManager refuses to take away the manager that Waggle works through.
func notOurManager(ctx context.Context, run *Run, node Node, verb string) error {
	cluster, err := run.Swarm.Cluster(ctx)
	if err != nil {
		return err
	}
	if cluster.Self != node.ID {
		return nil
	}
	return Errorf(Invalid, "Waggle works through %s, and could do nothing more without it", node.Hostname).
		Then("Run Waggle on another manager (or set docker.host to one), then `/node %s %s` there.", verb, node.Hostname)
}

// onlyOnManagers says which services leave a node that is no manager any more.
func onlyOnManagers(ctx context.Context, swarm Swarm, node Node, plan *Plan) error {
	w, err := readWorld(ctx, swarm)
	if err != nil {
		return err
	}
	worker := node
	worker.Role = "worker"
	for _, s := range w.services {
		if w.used[node.ID].Tasks[s.ID] == 0 || s.unfit(node, Reserved{}) != "" || s.unfit(worker, Reserved{}) == "" {
			continue
		}
		place := false
		for _, n := range w.nodes {
			place = place || n.ID != node.ID && s.unfit(n, w.used[n.ID]) == ""
		}
		if place {
			plan.Facts = append(plan.Facts, s.Name+" moves to another manager")
		} else {
			plan.Warnings = append(plan.Warnings, s.Name+" has no other place and stays down: it runs on managers only")
		}
	}
	return nil
}

// Apply writes the role, and nothing else.
func (r *NodeRole) Apply(ctx context.Context, run *Run) error {
	return run.Swarm.UpdateNode(ctx, r.node, NodeChange{Role: r.role()})
}

// Converge waits until the managers count with the node, or without it.
func (r *NodeRole) Converge(ctx context.Context, run *Run) (string, error) {
	var q quorum
	err := run.until(ctx, run.JoinTimeout, func(ctx context.Context) (bool, error) {
		nodes, err := run.Swarm.Nodes(ctx)
		if err != nil {
			return false, err
		}
		q = quorumOf(nodes)
		for _, n := range nodes {
			if n.ID == r.node.ID {
				return n.up() && n.Role == r.role() && n.Manager == r.Manager && (!r.Manager || n.Reachable), nil
			}
		}
		return false, Errorf(Failed, "%s is not in the swarm any more", r.node.Hostname)
	})
	if err == errDeadline {
		return "", Errorf(Failed, "%s is not a %s after %s", r.node.Hostname, r.role(), run.JoinTimeout).
			Then("The swarm goes on trying: `/node list` shows how it stands.")
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is a %s: %s", r.node.Hostname, r.role(), q), nil
}

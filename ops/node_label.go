package ops

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// NodeLabel sets and removes labels of a node.
type NodeLabel struct {
	Node  string            `json:"node"`
	Set   map[string]string `json:"set,omitempty"`
	Unset []string          `json:"unset,omitempty"`

	node Node
}

func (*NodeLabel) Kind() string     { return "node-label" }
func (l *NodeLabel) Target() string { return l.Node }
func (*NodeLabel) Needs() Role      { return Admin }

// Plan says which labels change and which services may not stay because of it.
func (l *NodeLabel) Plan(ctx context.Context, run *Run) (Plan, error) {
	node, _, err := findNode(ctx, run.Swarm, l.Node)
	if err != nil {
		return Plan{}, err
	}
	l.node = node
	var plan Plan
	after := node
	after.Labels = maps.Clone(node.Labels)
	if after.Labels == nil {
		after.Labels = map[string]string{}
	}
	shown := func(labels map[string]string, k string) string {
		if v, ok := labels[k]; ok {
			return fmt.Sprintf("%q", v)
		}
		return "none"
	}
	maps.Copy(after.Labels, l.Set)
	for _, k := range l.Unset {
		delete(after.Labels, k)
	}
	for _, k := range slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(l.Set)), l.Unset...))) {
		if strings.HasPrefix(k, "waggle.") {
			return Plan{}, Errorf(Invalid, "The labels waggle.… are Waggle's own").Then("Choose another name than %s.", k)
		}
		plan.Diffs = append(plan.Diffs, Diff{What: "label " + k, From: shown(node.Labels, k), To: shown(after.Labels, k)})
	}
	services, err := run.Swarm.Services(ctx)
	if err != nil {
		return Plan{}, err
	}
	tasks, err := run.Swarm.NodeTasks(ctx, node.ID)
	if err != nil {
		return Plan{}, err
	}
	here := reservations(services, tasks)[node.ID].Tasks
	for _, s := range services {
		if here[s.ID] > 0 && s.unfit(node, Reserved{}) == "" && s.unfit(after, Reserved{}) != "" {
			plan.Warnings = append(plan.Warnings, fmt.Sprintf("%s may not run on %s then, and leaves it", s.Name, node.Hostname))
		}
	}
	return plan, nil
}

// Apply writes the labels, and nothing else.
func (l *NodeLabel) Apply(ctx context.Context, run *Run) error {
	return run.Swarm.UpdateNode(ctx, l.node, NodeChange{Labels: l.Set, Unset: l.Unset})
}

// Converge has nothing to wait for: labels are written at once.
func (l *NodeLabel) Converge(context.Context, *Run) (string, error) {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(l.Set)) {
		parts = append(parts, k+"="+l.Set[k])
	}
	for _, k := range l.Unset {
		parts = append(parts, "without "+k)
	}
	return fmt.Sprintf("%s is labelled %s", l.node.Hostname, strings.Join(parts, ", ")), nil
}

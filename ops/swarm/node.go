package swarm

import (
	"context"
	"maps"
	"sort"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"

	"waggle/internal/secret"
	"waggle/ops"
)

// Nodes returns all nodes, by hostname.
func (c *Client) Nodes(ctx context.Context) ([]ops.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := c.api.NodeList(ctx, swarm.NodeListOptions{})
	if err != nil {
		return nil, c.failed(err, "list the nodes")
	}
	nodes := make([]ops.Node, 0, len(list))
	for i := range list {
		nodes = append(nodes, node(&list[i]))
	}
	sort.Slice(nodes, func(i, j int) bool {
		if nodes[i].Hostname != nodes[j].Hostname {
			return nodes[i].Hostname < nodes[j].Hostname
		}
		return nodes[i].ID < nodes[j].ID
	})
	return nodes, nil
}

// NodeTasks returns the tasks on a node, of all nodes for "", oldest first.
func (c *Client) NodeTasks(ctx context.Context, nodeID string) ([]ops.Task, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	f := filters.NewArgs()
	if nodeID != "" {
		f.Add("node", nodeID)
	}
	list, err := c.api.TaskList(ctx, swarm.TaskListOptions{Filters: f})
	if err != nil {
		return nil, c.failed(err, "list the tasks")
	}
	tasks := make([]ops.Task, 0, len(list))
	for i := range list {
		tasks = append(tasks, task(&list[i]))
	}
	sort.SliceStable(tasks, func(i, j int) bool { return tasks[i].Created.Before(tasks[j].Created) })
	return tasks, nil
}

// UpdateNode makes the change on the version that n was read at. A change that
// changes nothing is not written.
func (c *Client) UpdateNode(ctx context.Context, n ops.Node, change ops.NodeChange) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	now, _, err := c.api.NodeInspectWithRaw(ctx, n.ID)
	if err != nil {
		return c.failed(err, "read the node %s", n.Hostname)
	}
	spec := now.Spec
	spec.Labels = maps.Clone(spec.Labels)
	if change.Availability != "" {
		spec.Availability = swarm.NodeAvailability(change.Availability)
	}
	if change.Role != "" {
		spec.Role = swarm.NodeRole(change.Role)
	}
	if spec.Labels == nil {
		spec.Labels = map[string]string{}
	}
	maps.Copy(spec.Labels, change.Labels)
	for _, k := range change.Unset {
		delete(spec.Labels, k)
	}
	if spec.Availability == now.Spec.Availability && spec.Role == now.Spec.Role && maps.Equal(spec.Labels, now.Spec.Labels) {
		return nil
	}
	// The engine's own reports about a node move its version, too, and are no other
	// hand's change: the spec is what must be as it was read.
	if read := node(&now); read.Availability != n.Availability || read.Role != n.Role || !maps.Equal(read.Labels, n.Labels) {
		return ops.Errorf(ops.OutOfDate, "%s changed since it was read", n.Hostname)
	}
	if err := c.api.NodeUpdate(ctx, n.ID, now.Version, spec); err != nil {
		return c.failed(err, "change the node %s", n.Hostname)
	}
	return nil
}

// RemoveNode takes a node off the swarm's list.
func (c *Client) RemoveNode(ctx context.Context, id string, force bool) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.failed(c.api.NodeRemove(ctx, id, swarm.NodeRemoveOptions{Force: force}), "remove the node %s", id)
}

// Cluster reads the swarm as a whole.
func (c *Client) Cluster(ctx context.Context) (ops.Cluster, error) {
	info, err := c.Info(ctx)
	if err != nil {
		return ops.Cluster{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := c.api.SwarmInspect(ctx)
	if err != nil {
		return ops.Cluster{}, c.failed(err, "read the swarm")
	}
	return ops.Cluster{ID: s.ID, Version: s.Version.Index, Self: info.NodeID, Labels: s.Spec.Labels,
		WorkerToken: secret.Text(s.JoinTokens.Worker), ManagerToken: secret.Text(s.JoinTokens.Manager)}, nil
}

// RotateTokens makes new join tokens.
func (c *Client) RotateTokens(ctx context.Context, cluster ops.Cluster, worker, manager bool) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := c.api.SwarmInspect(ctx)
	if err != nil {
		return c.failed(err, "read the swarm")
	}
	err = c.api.SwarmUpdate(ctx, swarm.Version{Index: cluster.Version}, s.Spec,
		swarm.UpdateFlags{RotateWorkerToken: worker, RotateManagerToken: manager})
	return c.failed(err, "make new join tokens")
}

// LabelSwarm changes the swarm's own labels.
func (c *Client) LabelSwarm(ctx context.Context, cluster ops.Cluster, set map[string]string, unset []string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := c.api.SwarmInspect(ctx)
	if err != nil {
		return c.failed(err, "read the swarm")
	}
	labels := maps.Clone(s.Spec.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, set)
	for _, k := range unset {
		delete(labels, k)
	}
	s.Spec.Labels = labels
	err = c.api.SwarmUpdate(ctx, swarm.Version{Index: cluster.Version}, s.Spec, swarm.UpdateFlags{})
	return c.failed(err, "label the swarm")
}

// node makes the operations' view of a node.
func node(n *swarm.Node) ops.Node {
	o := ops.Node{
		ID:            n.ID,
		Version:       n.Version.Index,
		Hostname:      n.Description.Hostname,
		Addr:          n.Status.Addr,
		Role:          string(n.Spec.Role),
		Availability:  string(n.Spec.Availability),
		State:         string(n.Status.State),
		Message:       n.Status.Message,
		Labels:        n.Spec.Labels,
		EngineLabels:  n.Description.Engine.Labels,
		EngineVersion: n.Description.Engine.EngineVersion,
		OS:            n.Description.Platform.OS,
		Arch:          n.Description.Platform.Architecture,
		CPUs:          n.Description.Resources.NanoCPUs,
		Memory:        n.Description.Resources.MemoryBytes,
	}
	if m := n.ManagerStatus; m != nil {
		o.Manager, o.Leader, o.ManagerAt = true, m.Leader, m.Addr
		o.Reachable = m.Reachability == swarm.ReachabilityReachable
	}
	return o
}

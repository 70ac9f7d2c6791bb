package swarm

import (
	"context"
	"sort"

	"github.com/docker/docker/api/types/swarm"

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

// SelfNode returns the node that this engine is. Errors are those of
// ops.Swarm; an engine that is no manager is Unavailable.
func (c *Client) SelfNode(ctx context.Context) (ops.Node, error) {
	info, err := c.Info(ctx)
	if err != nil {
		return ops.Node{}, err
	}
	if info.Problem != "" {
		return ops.Node{}, ops.Errorf(ops.Unavailable, "%s", info.Problem)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	n, _, err := c.api.NodeInspectWithRaw(ctx, info.NodeID)
	if err != nil {
		return ops.Node{}, c.failed(err, "read the node %s", info.NodeID)
	}
	return node(&n), nil
}

// node makes the operations' view of a node.
func node(n *swarm.Node) ops.Node {
	o := ops.Node{
		ID:           n.ID,
		Hostname:     n.Description.Hostname,
		Addr:         n.Status.Addr,
		Role:         string(n.Spec.Role),
		Availability: string(n.Spec.Availability),
		State:        string(n.Status.State),
	}
	if m := n.ManagerStatus; m != nil {
		o.Leader = m.Leader
	}
	return o
}

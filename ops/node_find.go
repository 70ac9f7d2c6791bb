package ops

import (
	"context"
	"fmt"
	"net"
	"strings"

	"waggle/internal/nearest"
)

// minIDPrefix is the shortest beginning of a node's id that names it: with fewer
// characters a mistyped hostname could be one.
const minIDPrefix = 4

// findNode returns the node of that name, address or id, or with that beginning of its
// id, and all nodes.
func findNode(ctx context.Context, swarm Nodes, name string) (Node, []Node, error) {
	nodes, err := swarm.Nodes(ctx)
	if err != nil {
		return Node{}, nil, err
	}
	var found, prefixed []Node
	var names []string
	for _, n := range nodes {
		if n.ID == name {
			return n, nodes, nil
		}
		if strings.EqualFold(n.Hostname, name) || n.Addr == name {
			found = append(found, n)
		}
		if len(name) >= minIDPrefix && strings.HasPrefix(n.ID, name) {
			prefixed = append(prefixed, n)
		}
		names = append(names, n.Hostname)
	}
	called := "%d nodes are called %s"
	if len(found) == 0 {
		found, called = prefixed, "The ids of %d nodes begin with %s"
	}
	switch len(found) {
	case 1:
		return found[0], nodes, nil
	case 0:
		e := Errorf(NotFound, "There is no node %q in this swarm", name)
		if near := nearest.Of(name, names); near != "" {
			return Node{}, nil, e.Then("Did you mean `%s`?", near)
		}
		return Node{}, nil, e.Then("There is: %s.", strings.Join(names, ", "))
	}
	var which []string
	for _, n := range found {
		which = append(which, fmt.Sprintf("%s is %s at %s", n.ID, n.State, n.Addr))
	}
	return Node{}, nil, Errorf(Invalid, called, len(found), name).
		Then("Say which by its id: %s.", strings.Join(which, ", "))
}

// nodeByID returns the node of that id, or NotFound.
func nodeByID(ctx context.Context, swarm Nodes, id string) (Node, error) {
	nodes, err := swarm.Nodes(ctx)
	if err != nil {
		return Node{}, err
	}
	for _, n := range nodes {
		if n.ID == id {
			return n, nil
		}
	}
	return Node{}, Errorf(NotFound, "The node %s is not in this swarm any more", id)
}

// ended says whether the task has no process and will have none.
func (t Task) ended() bool {
	switch t.State {
	case "complete", "failed", "rejected", "shutdown", "orphaned", "remove":
		return true
	}
	return false
}

// changeNode makes a change that is not the operation's own plan, on whatever
// version the node is at.
func (r *Run) changeNode(ctx context.Context, id string, change NodeChange) error {
	for range maxPlans {
		n, err := nodeByID(ctx, r.Swarm, id)
		if err != nil {
			return err
		}
		if err = r.Swarm.UpdateNode(ctx, n, change); CodeOf(err) != OutOfDate {
			return err
		}
	}
	return Errorf(OutOfDate, "The node %s is changed by somebody else all the time", id)
}

// reachedAt says how a node is reached over SSH: as it was joined, or else at its
// address in the swarm with the settings' user and port, and with any host key.
func (n Node) reachedAt(d Address) (Address, HostKey) {
	user, at, ok := strings.Cut(n.Labels[LabelSSH], "@")
	host, port, err := net.SplitHostPort(at)
	a := Address{Host: host, User: user}
	if _, scanErr := fmt.Sscan(port, &a.Port); !ok || err != nil || scanErr != nil {
		return Address{Host: n.Addr, User: d.User, Port: d.Port}, HostKey{}
	}
	var key HostKey
	key.Algorithm, key.Fingerprint, _ = strings.Cut(n.Labels[LabelHostKey], " ")
	return a, key
}

// connect reaches a node that was joined by Waggle, with the host key of then.
func (e Env) connect(ctx context.Context, n Node) (Server, error) {
	addr, key := n.reachedAt(e.SSH)
	if key == (HostKey{}) {
		return nil, Errorf(Unavailable, "it was joined by hand, so its host key is not known here")
	}
	return e.Servers.Connect(ctx, addr, key)
}

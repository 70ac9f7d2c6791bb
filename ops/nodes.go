package ops

import (
	"context"

	"waggle/internal/secret"
)

// Node is one engine of the swarm: one reading, at one version.
type Node struct {
	ID           string
	Version      uint64 // Docker's version index; every write carries the one it was planned on
	Hostname     string
	Addr         string // as the managers see it
	Role         string // what it is to be: manager or worker
	Availability string // active, pause or drain
	State        string // ready, down, disconnected or unknown
	Message      string // the swarm's words for what is wrong; "" when nothing is
	Labels       map[string]string
	EngineLabels map[string]string

	Manager   bool // it is a member of the managers' quorum
	Leader    bool
	Reachable bool   // the other managers reach it; only of a manager
	ManagerAt string // host:port where managers and joining nodes dial it; only of a manager

	EngineVersion string
	OS, Arch      string // linux, x86_64
	CPUs          int64  // in 1e-9 cores
	Memory        int64  // bytes
}

// Availabilities of a node, as Docker spells them.
const (
	Active = "active"
	Pause  = "pause"
	Drain  = "drain"
)

// up says whether the node runs tasks and answers.
func (n Node) up() bool { return n.State == "ready" }

// NodeChange is what one update of a node changes; an empty field leaves that
// part as it is.
type NodeChange struct {
	Availability string
	Role         string            // manager or worker
	Labels       map[string]string // set these; others stay
	Unset        []string          // labels to remove
}

// Cluster is the swarm as a whole.
type Cluster struct {
	ID      string
	Version uint64
	Self    string // the node that Waggle speaks to
	Labels  map[string]string
	// Tokens by which workers and managers join. Whoever has one can.
	WorkerToken, ManagerToken secret.Text
}

// Token is what a node of that role joins with.
func (c Cluster) Token(manager bool) secret.Text {
	if manager {
		return c.ManagerToken
	}
	return c.WorkerToken
}

// Nodes is the part of a Swarm that is about its nodes. Errors are those of Swarm.
type Nodes interface {
	// Nodes returns all nodes, by hostname.
	Nodes(ctx context.Context) ([]Node, error)
	// NodeTasks returns the tasks on a node, of all nodes for "": all the swarm
	// still knows.
	NodeTasks(ctx context.Context, nodeID string) ([]Task, error)
	// UpdateNode makes the change on the version that n was read at, in one write.
	UpdateNode(ctx context.Context, n Node, change NodeChange) error
	// RemoveNode takes a node off the list. One that is not down, and a manager,
	// are only removed by force.
	RemoveNode(ctx context.Context, id string, force bool) error
	// Cluster reads the swarm as a whole.
	Cluster(ctx context.Context) (Cluster, error)
	// RotateTokens makes a new token for workers, managers or both, on the version
	// that c was read at. The old ones are good for nothing then.
	RotateTokens(ctx context.Context, c Cluster, worker, manager bool) error
	// LabelSwarm sets and removes labels of the swarm itself, on the version that c
	// was read at.
	LabelSwarm(ctx context.Context, c Cluster, set map[string]string, unset []string) error
}

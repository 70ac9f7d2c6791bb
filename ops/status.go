package ops

import (
	"fmt"
	"strings"
	"time"
)

// State is where an operation stands.
type State string

const (
	Planning   State = "planning"
	Waiting    State = "waiting"    // for its turn or for a lock
	Pending    State = "pending"    // for somebody's approval
	Working    State = "working"    // something is being made or changed
	Holding    State = "holding"    // converged; watched for a while before it is called done
	Reverting  State = "reverting"  // failed, on the way back
	Done       State = "done"       // converged and held
	DryRun     State = "dry-run"    // only planned, as asked
	Failure    State = "failed"     // tried; Err says what the cluster shows
	Refused    State = "refused"    // nothing was changed; Err says why
	Superseded State = "superseded" // a newer operation took its place before it began
	Rejected   State = "rejected"   // somebody said no to it
	Expired    State = "expired"    // nobody said yes to it in time
	Cancelled  State = "cancelled"  // somebody called it off before it changed anything
)

// Final says whether nothing more will happen.
func (s State) Final() bool {
	switch s {
	case Done, DryRun, Failure, Refused, Superseded, Rejected, Expired, Cancelled:
		return true
	}
	return false
}

// Step is one stage of an operation, with its time.
type Step struct {
	Name   string
	Detail string
	State  State // Working, Done or Failure
	Began  time.Time
	Took   time.Duration
}

// Status is all there is to say about an operation at one moment. Each report
// is whole, so a reader who missed some has lost nothing.
type Status struct {
	ID       string
	Kind     string
	Target   string // the app or node it changes
	Title    string // what was asked for, in a few words
	Actor    Actor
	State    State
	Began    time.Time
	Took     time.Duration
	Note     string // what it waits for, or what was noticed on the way
	Plan     Plan
	Before   *Plan     // with Pending: the plan that was approved, when the cluster has changed since
	Token    string    // with Pending: names this asking, for Runner.Decide
	Deadline time.Time // with Pending: until when somebody may approve
	Decision *Decision // who approved, rejected or cancelled, once somebody has
	Steps    []Step
	Replicas *Replicas // nil until the cluster was looked at
	Result   string    // one sentence, set with Done
	Err      *Error    // set with every final state but Done and DryRun
}

// Replicas is what the cluster shows of one service.
type Replicas struct {
	Wanted   int
	Running  int
	Stopping int         // still running, but told to stop
	Nodes    []NodeCount // where they run, by name
	Problems []Problem   // what is wrong with those that do not run, the most frequent first
}

// NodeCount is how many replicas run on a node.
type NodeCount struct {
	Node  string
	Count int
}

// Problem is one reason why replicas do not run, in the swarm's own words.
type Problem struct {
	Count  int
	Node   string // "" when they have no node yet
	Reason string
}

func (p Problem) String() string {
	if p.Node == "" {
		return p.Reason
	}
	return p.Node + ": " + p.Reason
}

// Where says on which nodes the replicas run: "n1 2 · n2 1".
func (r Replicas) Where() string {
	parts := make([]string, len(r.Nodes))
	for i, n := range r.Nodes {
		parts[i] = fmt.Sprintf("%s %d", n.Node, n.Count)
	}
	return strings.Join(parts, " · ")
}

// Converged says whether exactly what is wanted runs.
func (r Replicas) Converged() bool {
	return r.Running == r.Wanted && r.Stopping == 0
}

func (r Replicas) String() string {
	return fmt.Sprintf("%d of %d running", r.Running, r.Wanted)
}

package ops

import "fmt"

// Diff is one thing that a plan changes.
type Diff struct {
	What string `json:"what"`
	From string `json:"from"`
	To   string `json:"to"`
}

func (d Diff) String() string {
	return fmt.Sprintf("%s %s → %s", d.What, d.From, d.To)
}

// Plan says exactly what an operation would change. It is what --dry-run
// prints, what an approver reads, and what is checked again before it is
// applied. A plan that cannot be carried out is an error instead.
type Plan struct {
	// Diffs are what is asked for, and they alone are compared when a plan is checked
	// again. What is only observed (task and node states, where tasks run, free space)
	// is a Fact or a Warning: it changes by itself while somebody is about to approve.
	Diffs    []Diff   `json:"diffs"`
	Facts    []string `json:"facts,omitempty"`    // what to know about it, to decide
	Warnings []string `json:"warnings,omitempty"` // what stands in the way without forbidding it
	Approval string   `json:"approval,omitempty"` // why somebody else has to agree; "" when nobody has to
	Undo     string   `json:"undo,omitempty"`     // the command that takes it back
	// Of a push: its newest commits, oldest first, how many they are in all, and the
	// link to the difference.
	Commits []Commit `json:"commits,omitempty"`
	Count   int      `json:"count,omitempty"`
	Compare string   `json:"compare,omitempty"`
}

// Same says whether two plans change the same.
func (p Plan) Same(q Plan) bool {
	if len(p.Diffs) != len(q.Diffs) {
		return false
	}
	for i := range p.Diffs {
		if p.Diffs[i] != q.Diffs[i] {
			return false
		}
	}
	return true
}

package ops

import "fmt"

// quorum counts the managers of a swarm. More than half of them must be
// reachable, or nothing can be changed any more.
// Source: https://docs.docker.com/engine/swarm/admin_guide/#add-manager-nodes-for-fault-tolerance
type quorum struct {
	managers  int
	reachable int
}

func quorumOf(nodes []Node) quorum {
	var q quorum
	for _, n := range nodes {
		if !n.Manager {
			continue
		}
		q.managers++
		if n.Reachable {
			q.reachable++
		}
	}
	return q
}

// needed is how many managers must be reachable.
func (q quorum) needed() int { return q.managers/2 + 1 }

// spare is how many more managers may fail; below zero there is no quorum.
func (q quorum) spare() int { return q.reachable - q.needed() }

// with is the quorum with one more manager.
func (q quorum) with() quorum { return quorum{q.managers + 1, q.reachable + 1} }

// without is the quorum once a manager is gone.
func (q quorum) without(n Node) quorum {
	q.managers--
	if n.Reachable {
		q.reachable--
	}
	return q
}

// odd says what a number of managers means, "" when it is a good one.
func (q quorum) odd() string {
	if q.managers%2 == 1 {
		return ""
	}
	return fmt.Sprintf("%s tolerate no more failures than %d: have an odd number of managers", many(q.managers, "manager"), q.managers-1)
}

func (q quorum) String() string {
	text := fmt.Sprintf("%d of %s reachable", q.reachable, many(q.managers, "manager"))
	switch spare := q.spare(); {
	case spare < 0:
		return text + ", no quorum"
	case spare == 0:
		return text + ", none may fail"
	default:
		return fmt.Sprintf("%s, %d more may fail", text, spare)
	}
}

// many prints a number of things: 1 manager, 2 managers.
func many(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// guard refuses to lose a manager that the swarm needs.
func (q quorum) guard(n Node) error {
	after := q.without(n)
	switch {
	case after.managers == 0:
		return Errorf(Invalid, "%s is the only manager, and without one there is no swarm", n.Hostname).
			Then("Promote another node first: `/node promote <node>`.")
	case after.spare() < 0:
		return Errorf(Invalid, "Without %s only %d of %s would be reachable, and %d must be", n.Hostname, after.reachable, many(after.managers, "manager"), after.needed()).
			Then("Bring the other managers back first, or promote another node: `/node list` shows them.")
	}
	return nil
}

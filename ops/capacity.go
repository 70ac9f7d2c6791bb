package ops

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// unlimited is more tasks than a node ever gets.
const unlimited = math.MaxInt32

// perNode is how many tasks of the service a node takes at most.
func (s Service) perNode() int {
	for _, p := range s.Ports {
		if p.Host && p.Published > 0 {
			return 1 // the port is taken then
		}
	}
	return cmp.Or(s.MaxPerNode, unlimited)
}

// room is how many more tasks of a service find a place on a node, and what limits
// them.
func (s Service) room(n Node, used Reserved) (more int, why string) {
	if why := s.unfit(n, used); why != "" {
		return 0, why
	}
	more = unlimited
	limit := func(k int, reason string) {
		if k < more {
			more, why = max(0, k), reason
		}
	}
	if per := s.perNode(); per < unlimited {
		limit(per-used.Tasks[s.ID], fmt.Sprintf("%s takes at most %d", n.Hostname, per))
	}
	if s.ReserveCPU > 0 {
		left := n.CPUs - used.CPU
		limit(int(left/s.ReserveCPU), fmt.Sprintf("%s has %s cores left", n.Hostname, cores(left)))
	}
	if s.ReserveMemory > 0 {
		left := n.Memory - used.Memory
		limit(int(left/s.ReserveMemory), fmt.Sprintf("%s has %s left", n.Hostname, bytesText(left)))
	}
	return more, why
}

// places says how many more tasks of a service find a place in the swarm, and why
// not more: the reasons of the nodes that take no more.
func (s Service) places(nodes []Node, used map[string]Reserved) (more int, why []string) {
	for _, n := range nodes {
		k, reason := s.room(n, used[n.ID])
		more = min(unlimited, more+k)
		if k < unlimited && reason != "" {
			why = append(why, reason)
		}
	}
	slices.Sort(why)
	return more, why
}

// shortage warns when fewer than wanted find a place, "" when all do.
func (s Service) shortage(to int, nodes []Node, used map[string]Reserved) string {
	have := 0
	for _, r := range used {
		have += r.Tasks[s.ID]
	}
	more, why := s.places(nodes, used)
	if have+more >= to {
		return ""
	}
	text := fmt.Sprintf("only %d of %d will find a place: %s", have+more, to, strings.Join(why[:min(4, len(why))], ", "))
	var each []string
	if s.ReserveCPU > 0 {
		each = append(each, cores(s.ReserveCPU)+" cores")
	}
	if s.ReserveMemory > 0 {
		each = append(each, bytesText(s.ReserveMemory))
	}
	if len(each) > 0 {
		text += "; each reserves " + strings.Join(each, " and ")
	}
	return text
}

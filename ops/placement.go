package ops

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// pinned says whether the service may run on this node only.
func (s Service) pinned(n Node) bool {
	for _, raw := range s.Constraints {
		c, ok := parseConstraint(raw)
		if ok && c.equal && (c.key == "node.id" && strings.EqualFold(c.value, n.ID) || c.key == "node.hostname" && strings.EqualFold(c.value, n.Hostname)) {
			return true
		}
	}
	return false
}

// unfit is why a service's tasks cannot run on a node, "" when they can. used is
// what the tasks that are there reserve. The rules are the scheduler's filters
// (moby/swarmkit, manager/scheduler/filter.go and manager/constraint).
func (s Service) unfit(n Node, used Reserved) string {
	switch {
	case !n.up():
		return n.Hostname + " is " + n.State
	case n.Availability == Drain:
		return n.Hostname + " is drained"
	case n.Availability == Pause:
		return n.Hostname + " is paused"
	}
	for _, raw := range s.Constraints {
		if c, ok := parseConstraint(raw); ok && !c.holds(n) {
			return fmt.Sprintf("%s is not %s", n.Hostname, raw)
		}
	}
	if len(s.Platforms) > 0 && !slices.ContainsFunc(s.Platforms, func(p string) bool { return platformFits(p, n) }) {
		return fmt.Sprintf("%s is %s/%s, and the image is for %s", n.Hostname, n.OS, n.Arch, strings.Join(s.Platforms, ", "))
	}
	if s.MaxPerNode > 0 && used.Tasks[s.ID] >= s.MaxPerNode {
		return fmt.Sprintf("%s has %d of at most %d", n.Hostname, used.Tasks[s.ID], s.MaxPerNode)
	}
	if left := n.CPUs - used.CPU; s.ReserveCPU > left {
		return fmt.Sprintf("%s has %s cores left", n.Hostname, cores(max(0, left)))
	}
	if left := n.Memory - used.Memory; s.ReserveMemory > left {
		return fmt.Sprintf("%s has %s left", n.Hostname, bytesText(max(0, left)))
	}
	return ""
}

// Reserved is what the tasks on a node reserve together.
type Reserved struct {
	CPU    int64          // in 1e-9 cores
	Memory int64          // bytes
	Tasks  map[string]int // by service id
}

// reservations counts by node what the tasks of these services reserve, those on
// their way out left out.
func reservations(services []Service, tasks []Task) map[string]Reserved {
	of := make(map[string]Service, len(services))
	for _, s := range services {
		of[s.ID] = s
	}
	out := map[string]Reserved{}
	for _, t := range tasks {
		if t.NodeID == "" || !t.wanted() {
			continue
		}
		r := out[t.NodeID]
		if r.Tasks == nil {
			r.Tasks = map[string]int{}
		}
		s := of[t.ServiceID]
		r.CPU += s.ReserveCPU
		r.Memory += s.ReserveMemory
		r.Tasks[t.ServiceID]++
		out[t.NodeID] = r
	}
	return out
}

// platformFits says whether an image's os/arch runs on the node. An empty part
// fits all.
func platformFits(platform string, n Node) bool {
	os, arch, _ := strings.Cut(platform, "/")
	return (os == "" || os == n.OS) && (arch == "" || sameArch(arch, n.Arch))
}

// sameArch compares names of architectures: images say amd64 where engines say
// x86_64.
func sameArch(a, b string) bool {
	name := func(arch string) string {
		switch arch {
		case "x86_64", "x86-64":
			return "amd64"
		case "aarch64":
			return "arm64"
		}
		return arch
	}
	return name(a) == name(b)
}

// constraint is one placement constraint.
type constraint struct {
	key   string
	equal bool
	value string
}

// parseConstraint reads "node.role == manager" or "!=".
func parseConstraint(raw string) (constraint, bool) {
	for _, op := range []string{"==", "!="} {
		if key, value, ok := strings.Cut(raw, op); ok {
			return constraint{strings.TrimSpace(key), op == "==", strings.TrimSpace(value)}, true
		}
	}
	return constraint{}, false
}

// holds says whether the node meets the constraint; one that is unknown here is
// met.
func (c constraint) holds(n Node) bool {
	is := func(value string) bool { return strings.EqualFold(c.value, value) == c.equal }
	switch key := strings.ToLower(c.key); {
	case key == "node.id":
		return is(n.ID)
	case key == "node.hostname":
		return is(n.Hostname)
	case key == "node.role":
		return is(n.Role)
	case key == "node.platform.os":
		return is(n.OS)
	case key == "node.platform.arch":
		return is(n.Arch)
	case key == "node.ip":
		addr, err := netip.ParseAddr(n.Addr)
		if err != nil {
			return true
		}
		if prefix, err := netip.ParsePrefix(c.value); err == nil {
			return prefix.Contains(addr) == c.equal
		}
		return is(n.Addr)
	case strings.HasPrefix(key, "node.labels."):
		return is(n.Labels[c.key[len("node.labels."):]])
	case strings.HasPrefix(key, "engine.labels."):
		return is(n.EngineLabels[c.key[len("engine.labels."):]])
	}
	return true
}

// cores prints 1e-9 cores as cores: 2, 0.5.
func cores(nano int64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", float64(nano)/1e9), "0"), ".")
}

// bytesText prints bytes as people read them: 512 MB, 7.8 GB.
func bytesText(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GB", n>>30)
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%d MB", n>>20)
}

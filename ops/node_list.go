package ops

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// NodeList asks for all nodes and what is wrong with them.
type NodeList struct{}

func (NodeList) Needs() Role { return Viewer }

// Ask lists the nodes, and how many more managers may fail.
func (NodeList) Ask(ctx context.Context, r *Runner, _ Actor) (Answer, error) {
	nodes, err := r.Env.Swarm.Nodes(ctx)
	if err != nil {
		return Answer{}, err
	}
	tasks, err := r.Env.Swarm.NodeTasks(ctx, "")
	if err != nil {
		return Answer{}, err
	}
	running := map[string]int{}
	for _, t := range tasks {
		if t.running() && t.wanted() {
			running[t.NodeID]++
		}
	}
	q := quorumOf(nodes)
	rows := [][]string{{"NODE", "ROLE", "STATE", "ADDRESS", "DOCKER", "CORES", "MEMORY", "TASKS"}}
	a := Answer{}
	names := map[string]int{}
	for _, n := range nodes {
		names[n.Hostname]++
		rows = append(rows, []string{n.Hostname, n.roleText(), n.stateText(), n.Addr, n.EngineVersion, cores(n.CPUs), bytesText(n.Memory), fmt.Sprint(running[n.ID])})
		concerns(&a, n)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if names[name] > 1 {
			a.Concern(fmt.Sprintf("%d nodes are called %s", names[name], name), "use their ids in commands; `/node remove <id> --force` takes a dead one off")
		}
	}
	switch {
	case q.spare() < 0:
		a.Concern("the managers have no quorum: nothing can be changed", "bring managers back")
	case q.managers > 1 && q.spare() == 0:
		a.Concern(fmt.Sprintf("no more manager may fail (%s)", q), "`/node promote <node>`")
	}
	if odd := q.odd(); odd != "" {
		a.Concern(odd, "`/node promote <node>` or `/node demote <node>`")
	}
	up := 0
	for _, n := range nodes {
		if n.up() {
			up++
		}
	}
	a.Head = fmt.Sprintf("%d of %s ready; %s", up, many(len(nodes), "node"), q)
	a.Parts = []Part{{Table: rows}}
	return a, nil
}

func (n Node) roleText() string {
	switch {
	case n.Leader:
		return "leader"
	case n.Role == "manager" && !n.Reachable:
		return "manager (unreachable)"
	}
	return n.Role
}

func (n Node) stateText() string {
	if n.Availability != Active {
		return n.State + ", " + map[string]string{Drain: "drained", Pause: "paused"}[n.Availability]
	}
	return n.State
}

// concerns adds what is wrong with a node.
func concerns(a *Answer, n Node) {
	switch {
	case n.State == "down":
		what := n.Hostname + " is down"
		if n.Message != "" {
			what += ": " + n.Message
		}
		a.Concern(what, fmt.Sprintf("start its engine, or `/node remove %s --force` if it is gone for good", n.Hostname))
	case !n.up():
		a.Concern(fmt.Sprintf("%s is %s", n.Hostname, n.State), "see whether its engine runs and reaches the managers")
	}
	if n.Role == "manager" && n.up() && !n.Reachable {
		a.Concern(fmt.Sprintf("the other managers do not reach %s", n.Hostname), "see that 2377/tcp is open to it")
	}
	if n.Availability == Drain {
		a.Concern(fmt.Sprintf("%s takes no tasks", n.Hostname), fmt.Sprintf("`/node activate %s`", n.Hostname))
	}
}

// NodeShow asks for one node.
type NodeShow struct{ Node string }

func (NodeShow) Needs() Role { return Viewer }

// Ask tells of a node: its tasks by app, its labels, and what is reserved.
func (q NodeShow) Ask(ctx context.Context, r *Runner, _ Actor) (Answer, error) {
	n, _, err := findNode(ctx, r.Env.Swarm, q.Node)
	if err != nil {
		return Answer{}, err
	}
	services, err := r.Env.Swarm.Services(ctx)
	if err != nil {
		return Answer{}, err
	}
	tasks, err := r.Env.Swarm.NodeTasks(ctx, n.ID)
	if err != nil {
		return Answer{}, err
	}
	used := reservations(services, tasks)[n.ID]
	a := Answer{Head: fmt.Sprintf("%s is %s: %s, %s", n.Hostname, n.stateText(), n.roleText(), n.Addr)}
	facts := []string{
		fmt.Sprintf("Docker %s on %s/%s · id %s", n.EngineVersion, n.OS, n.Arch, n.ID),
		fmt.Sprintf("%s of %s cores and %s of %s of memory are reserved", cores(used.CPU), cores(n.CPUs), bytesText(used.Memory), bytesText(n.Memory)),
	}
	var labels []string
	for _, k := range slices.Sorted(maps.Keys(n.Labels)) {
		labels = append(labels, k+"="+n.Labels[k])
	}
	if len(labels) > 0 {
		facts = append(facts, "labels: "+strings.Join(labels, ", "))
	}
	a.Parts = append(a.Parts, Part{Lines: facts})
	rows := [][]string{{"APP", "RUNNING", "OTHERS", "LAST ERROR"}}
	for _, s := range services {
		run, others, last := 0, map[string]int{}, ""
		for _, t := range tasks {
			if t.ServiceID != s.ID {
				continue
			}
			switch {
			case t.running() && t.wanted():
				run++
			case !t.ended():
				others[t.State]++
			}
			if t.Err != "" {
				last = t.why() // the newest is the last one
			}
		}
		if run == 0 && len(others) == 0 && last == "" {
			continue
		}
		var rest []string
		for _, state := range slices.Sorted(maps.Keys(others)) {
			rest = append(rest, fmt.Sprintf("%d %s", others[state], state))
		}
		rows = append(rows, []string{s.Name, fmt.Sprint(run), strings.Join(rest, ", "), last})
		if s.pinned(n) && !n.up() {
			a.Concern(fmt.Sprintf("%s is pinned to %s and cannot run elsewhere", s.Name, n.Hostname), "bring the node back")
		}
	}
	if len(rows) > 1 {
		a.Parts = append(a.Parts, Part{Title: "Tasks", Table: rows})
	} else {
		a.Parts = append(a.Parts, Part{Lines: []string{"No task of any service is here."}})
	}
	concerns(&a, n)
	return a, nil
}

package ops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	lookWithin = 20 * time.Second // looking at a server
	swarmPort  = "2377"
	gossipPort = 7946
	vxlanPort  = 4789

	clockWorry  = 10 * time.Second // a clock that is off by more is mentioned
	clockRefuse = 30 * time.Minute // by more, it does not accept the swarm's certificates
)

// NodeJoin makes a server a node of the swarm. It is reached over SSH, and its
// engine spoken to by its API: no command is run there, and the token is on no
// command line.
type NodeJoin struct {
	Server     Address `json:"server"` // zero fields are those of Env.SSH
	Manager    bool    `json:"manager,omitempty"`
	Advertise  string  `json:"advertise,omitempty"` // the address other nodes reach it at, "" for the engine's choice
	NoRegistry bool    `json:"no_registry,omitempty"`

	// HostKey is taken at the first look and the only one accepted from then on.
	HostKey HostKey `json:"host_key,omitzero"`
	// Decided says that the engine was, or is about to be, told to join.
	Decided bool `json:"decided,omitempty"`

	addr     Address
	server   Server
	machine  Machine
	nodes    []Node
	cluster  Cluster
	member   *Node // it is in this swarm already
	began    time.Time
	registry string // domain of the default push registry
}

func (*NodeJoin) Kind() string     { return "join" }
func (j *NodeJoin) Target() string { return j.Server.Host }
func (*NodeJoin) Needs() Role      { return Admin }

func (j *NodeJoin) role() string {
	if j.Manager {
		return "manager"
	}
	return "worker"
}

// Plan looks at the server before anybody is asked.
func (j *NodeJoin) Plan(ctx context.Context, run *Run) (Plan, error) {
	registries, err := ReadRegistries(ctx, run.Swarm)
	if err != nil {
		return Plan{}, err
	}
	pushed, ok := registries.Pushed()
	if !ok && !j.NoRegistry {
		return Plan{}, Errorf(Invalid, "There is no default push registry, so the apps that are built here could not run on another node").
			Then("`/registry add` or `/registry setup` makes one; or add `--no-registry` if all images come from elsewhere.")
	}
	j.registry = pushed.Domain
	j.addr = j.Server
	if j.addr.User == "" {
		j.addr.User = run.SSH.User
	}
	if j.addr.Port == 0 {
		j.addr.Port = run.SSH.Port
	}
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	var both errgroup.Group // the swarm and the server have nothing to do with each other
	both.Go(func() (err error) {
		if j.nodes, err = run.Swarm.Nodes(ctx); err == nil {
			j.cluster, err = run.Swarm.Cluster(ctx)
		}
		return err
	})
	both.Go(func() error { return j.connect(ctx, run) })
	if err := both.Wait(); err != nil {
		return Plan{}, err
	}
	var ways Plan // only its warnings
	var look errgroup.Group
	var closed error
	look.Go(func() (err error) { j.machine, err = j.server.Machine(ctx); return err })
	if run.approved == nil { // else they were looked at then, and now the join itself tells
		look.Go(func() error { closed = j.reach(ctx, run, managersAt(run, j.nodes, j.cluster), &ways); return nil })
	}
	if err := look.Wait(); err != nil {
		_ = j.server.Close() // whoever looks again connects anew
		j.server = nil
		return Plan{}, err
	}
	if j.HostKey == (HostKey{}) {
		j.HostKey = j.server.HostKey()
		if err := run.Save(ctx); err != nil {
			return Plan{}, redisAway(err)
		}
	}
	plan, err := j.membership(j.nodes)
	if err != nil || j.member != nil {
		return plan, err
	}
	if plan, err = j.plan(run, j.nodes, j.cluster); err != nil {
		return plan, err
	}
	if run.approved != nil {
		plan.Warnings = run.approved.Warnings
	} else {
		plan.Warnings = append(plan.Warnings, ways.Warnings...)
	}
	return plan, closed
}

func (j *NodeJoin) connect(ctx context.Context, run *Run) error {
	if j.server != nil {
		return nil
	}
	server, err := run.Servers.Connect(ctx, j.addr, j.HostKey)
	if err != nil {
		return err
	}
	j.server = server
	run.Defer(func() { _ = server.Close() }) // nothing is lost with it
	return nil
}

// membership says what an engine's present swarm means for its joining.
func (j *NodeJoin) membership(nodes []Node) (Plan, error) {
	m := j.machine.Swarm
	j.member = nil
	if m.State == "" || m.State == "inactive" {
		return Plan{}, nil
	}
	for _, n := range nodes {
		if n.ID != m.NodeID || m.NodeID == "" {
			continue
		}
		n.Hostname = cmp.Or(n.Hostname, j.Server.Host) // it has joined just now
		if n.Role != j.role() {
			verb := "promote"
			if !j.Manager {
				verb = "demote"
			}
			return Plan{}, Errorf(Invalid, "%s is in this swarm already, as a %s called %s", j.Server.Host, n.Role, n.Hostname).
				Then("`/node %s %s` makes it a %s.", verb, n.Hostname, j.role())
		}
		j.member = &n
		return Plan{Diffs: []Diff{{What: "node " + n.Hostname, From: "in this swarm", To: "in this swarm"}}}, nil
	}
	ours := slices.ContainsFunc(nodes, func(n Node) bool { return n.Manager && slices.Contains(m.Managers, n.ManagerAt) })
	switch {
	case j.Decided && (ours || m.State == "pending"):
		return Plan{}, nil // the attempt that was cut off goes on by itself
	case m.State == "locked":
		return Plan{}, Errorf(Invalid, "The engine of %s is in a swarm that is locked", j.Server.Host).
			Then("Type `docker swarm unlock` there to use that swarm, or `docker swarm leave --force` to leave it, then `/join-node` again.")
	case m.State == "pending":
		return Plan{}, Errorf(Invalid, "The engine of %s is trying to join a swarm at this moment", j.Server.Host).
			Then("Wait until it is done, or type `docker swarm leave --force` there, then `/join-node` again.")
	case ours:
		return Plan{}, Errorf(Invalid, "The engine of %s was a node of this swarm and was removed from it", j.Server.Host).
			Then("Type `docker swarm leave --force` there, then `/join-node` again.")
	case m.State == "error":
		return Plan{}, Errorf(Invalid, "The engine of %s is in a swarm that does not work: %s", j.Server.Host, m.Error).
			Then("Type `docker swarm leave --force` there, then `/join-node` again.")
	}
	leave := "docker swarm leave"
	if m.Manager {
		leave += " --force"
	}
	return Plan{}, Errorf(Invalid, "%s is in another swarm already (with managers at %s)", j.Server.Host, strings.Join(m.Managers, ", ")).
		Then("Type `%s` there if it is to leave that one, then `/join-node` again.", leave)
}

// plan says what is known of the server and what stands in the way.
func (j *NodeJoin) plan(run *Run, nodes []Node, cluster Cluster) (Plan, error) {
	m := j.machine
	key := j.HostKey
	plan := Plan{
		Diffs: []Diff{
			{What: "node " + j.Server.Host, From: "in no swarm", To: j.role()},
			{What: "its host key", From: "not known", To: fmt.Sprintf("%s (%s)", key.Fingerprint, key.Algorithm)},
		},
		Approval: "a node runs the swarm's tasks and holds their secrets",
		Undo:     "/node remove " + m.Hostname,
	}
	if j.Manager {
		plan.Approval = "a manager controls the whole swarm and holds its secrets"
	}
	if j.Advertise != "" {
		plan.Diffs = append(plan.Diffs, Diff{What: "its address in the swarm", From: "none", To: j.Advertise})
	}
	plan.Facts = append(plan.Facts, fmt.Sprintf("%s: %s, %s, %s cores, %s of memory, Docker %s (API %s)",
		m.Hostname, m.OS, m.Arch, fmt.Sprint(m.CPUs), bytesText(m.Memory), m.EngineVersion, m.APIVersion))
	warn := func(format string, args ...any) { plan.Warnings = append(plan.Warnings, fmt.Sprintf(format, args...)) }
	if off := m.ClockAhead.Abs(); off > clockWorry {
		way := "ahead"
		if m.ClockAhead < 0 {
			way = "behind"
		}
		if off > clockRefuse {
			return Plan{}, Errorf(Invalid, "The clock of %s is %s %s, so it would not accept the swarm's certificates", j.Server.Host, off.Round(time.Second), way).
				Then("Have it set by NTP (chrony or systemd-timesyncd) there, then `/join-node` again.")
		}
		warn("its clock is %s %s", off.Round(time.Second), way)
	}
	var archs []string
	for _, n := range nodes {
		if n.ID == cluster.Self && older(majorMinor(m.EngineVersion), majorMinor(n.EngineVersion)) {
			warn("its Docker %s is older than %s on %s", m.EngineVersion, n.EngineVersion, n.Hostname)
		}
		if n.Hostname == m.Hostname {
			warn("there is a node called %s already (%s, %s): two of a name are told apart by their ids only", n.Hostname, n.State, n.Addr)
		}
		if !slices.Contains(archs, n.Arch) {
			archs = append(archs, n.Arch)
		}
	}
	if !slices.ContainsFunc(archs, func(a string) bool { return sameArch(a, m.Arch) }) {
		warn("it is %s and the others are %s: images need to be built for both", m.Arch, strings.Join(archs, ", "))
	}
	if j.Manager {
		q := quorumOf(nodes)
		plan.Facts = append(plan.Facts, fmt.Sprintf("now %s; then %s", q, q.with()))
		if odd := q.with().odd(); odd != "" {
			warn("%s", odd)
		}
	}
	return plan, nil
}

// managersAt are the addresses where a new node finds the managers, the one that
// it dials first in front.
func managersAt(run *Run, nodes []Node, cluster Cluster) []string {
	var out []string
	if run.AdvertiseAddr != "" {
		out = append(out, net.JoinHostPort(run.AdvertiseAddr, swarmPort))
	}
	for _, n := range nodes {
		if !n.Manager || n.ManagerAt == "" || !n.Reachable || slices.Contains(out, n.ManagerAt) {
			continue
		}
		if n.ID == cluster.Self && run.AdvertiseAddr == "" {
			out = append([]string{n.ManagerAt}, out...)
			continue
		}
		out = append(out, n.ManagerAt)
	}
	return out
}

// reach finds out whether the server and the managers can speak: all ways at once.
func (j *NodeJoin) reach(ctx context.Context, run *Run, managers []string, plan *Plan) error {
	if len(managers) == 0 {
		return Errorf(Unavailable, "No manager of this swarm is reachable").Then("`/node list` shows how they stand.")
	}
	host, _, err := net.SplitHostPort(managers[0])
	if err != nil {
		return Errorf(Internal, "The manager's address %q is no address", managers[0])
	}
	var mu sync.Mutex
	var refusal error
	var wg sync.WaitGroup
	try := func(reach func(ctx context.Context) error, say func(err error)) {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 6*time.Second)
			defer cancel()
			if err := reach(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				say(err)
			}
		})
	}
	warn := func(format string, args ...any) { plan.Warnings = append(plan.Warnings, fmt.Sprintf(format, args...)) }
	to := func(address string) func(context.Context) error {
		return func(ctx context.Context) error { return j.server.Reaches(ctx, address) }
	}
	try(to(managers[0]), func(err error) {
		if CodeOf(err) != Unavailable {
			warn("whether it reaches the manager at %s cannot be seen: %s", managers[0], sentenceOf(err))
			return
		}
		refusal = &Error{Code: Unavailable, Err: err,
			Sentence: fmt.Sprintf("%s does not reach the manager at %s: port %s/tcp is closed (%s)", j.Server.Host, managers[0], swarmPort, sentenceOf(err)),
			Next:     fmt.Sprintf("Let it through the firewalls between them, with 7946/tcp+udp and 4789/udp; or set swarm.advertise_addr if %s is not the address for it.", host)}
	})
	gossip := net.JoinHostPort(host, fmt.Sprint(gossipPort))
	try(to(gossip), func(err error) {
		if CodeOf(err) == Unavailable {
			warn("it does not reach %s/tcp, which overlay networks need: %s", gossip, sentenceOf(err))
		}
	})
	at := j.Server.Host
	if j.Advertise != "" {
		at = j.Advertise
	}
	for _, port := range []int{gossipPort, vxlanPort} {
		try(func(ctx context.Context) error { return run.Servers.ProbeUDP(ctx, at, port) }, func(error) {
			warn("its port %d/udp looks closed from here, and overlay networks need it", port)
		})
	}
	if registry := j.registry; registry != "" {
		if address, there := dialledAt(registry); there {
			try(to(address), func(err error) {
				if CodeOf(err) == Unavailable {
					warn("it does not reach the registry %s, so it could not run what is built here: %s", registry, sentenceOf(err))
				}
			})
		}
	}
	wg.Wait()
	slices.Sort(plan.Warnings)
	return refusal
}

// dialledAt is where a registry of that domain listens; false when that is this
// very machine, for every machine.
func dialledAt(domain string) (string, bool) {
	host, port, err := net.SplitHostPort(domain)
	if err != nil {
		host, port = domain, "443"
	}
	if ip := net.ParseIP(strings.Trim(host, "[]")); host == "localhost" || ip != nil && ip.IsLoopback() {
		return "", false
	}
	return net.JoinHostPort(host, port), true
}

// older compares versions like 20.10.24 and 28.5.2 number by number. A version without a
// number is never older.
func older(a, b string) bool {
	x, y := versionOf(a), versionOf(b)
	return len(x) > 0 && slices.Compare(x, y) < 0
}

// versionOf returns the numbers at the beginning of a version: 28, 5, 2 of "v28.5.2+dfsg4".
// A build without a release ("dev", "0.0.0-20240101") has none.
func versionOf(text string) (numbers []int) {
	text = strings.TrimPrefix(text, "v")
	if end := strings.IndexFunc(text, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }); end >= 0 {
		text = text[:end]
	}
	for part := range strings.SplitSeq(text, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			break
		}
		numbers = append(numbers, n)
	}
	if len(numbers) > 0 && numbers[0] == 0 {
		return nil
	}
	return numbers
}

// majorMinor is the first two numbers of a version: patch releases count as equal.
func majorMinor(version string) string {
	n := versionOf(version)
	if len(n) < 2 {
		return ""
	}
	return fmt.Sprintf("%d.%d", n[0], n[1])
}

// Apply tells the engine to join.
func (j *NodeJoin) Apply(ctx context.Context, run *Run) error {
	j.began = run.Now()
	if j.member != nil {
		return nil
	}
	j.Decided = true
	if err := run.Save(ctx); err != nil {
		return redisAway(err)
	}
	if state := j.machine.Swarm.State; state == "active" || state == "pending" {
		return nil // told by an attempt that was cut off
	}
	return run.Step("join", func(func(string)) error {
		ctx, cancel := context.WithTimeout(ctx, run.JoinTimeout)
		defer cancel()
		err := j.server.JoinSwarm(ctx, Join{Token: j.cluster.Token(j.Manager), Managers: managersAt(run, j.nodes, j.cluster), AdvertiseAddr: j.Advertise})
		if CodeOf(err) == Unavailable && ctx.Err() == nil {
			// The engine may go on trying: what becomes of it is followed.
			run.Note(sentenceOf(err) + "; its engine may go on trying.")
			return nil
		}
		if err != nil {
			return j.undo(ctx, run, "", err)
		}
		return nil
	})
}

// justJoined is how long a node may be a member of which the managers know neither the
// name nor the state.
const justJoined = 10 * time.Second

// settle waits until more is known of a member that somebody has only just joined.
func (j *NodeJoin) settle(ctx context.Context, run *Run) error {
	known := func() bool { return j.member.State != "unknown" }
	if known() {
		return nil
	}
	err := run.until(ctx, justJoined, func(ctx context.Context) (bool, error) {
		nodes, err := run.Swarm.Nodes(ctx)
		for _, n := range nodes {
			if n.ID == j.member.ID && n.Hostname != "" {
				j.member = &n
			}
		}
		return known(), err
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		run.Log.Info("little is known of a member", "node", j.member.ID, "err", err)
	}
	return nil
}

// Converge waits until the node is Ready in this swarm: that, and nothing that
// was printed anywhere, is the verdict.
func (j *NodeJoin) Converge(ctx context.Context, run *Run) (string, error) {
	if j.member != nil && !j.Decided {
		if err := j.settle(ctx, run); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s is in this swarm already: %s, %s, %s", j.Server.Host, j.member.Hostname, j.member.Role, j.member.State), nil
	}
	var node Node
	why := "it did not appear among the nodes"
	err := run.Step("ready", func(func(string)) error {
		return run.until(ctx, run.JoinTimeout, func(ctx context.Context) (bool, error) {
			if j.machine.Swarm.NodeID == "" || node.ID == "" {
				m, err := j.server.Machine(ctx)
				if err != nil {
					why = sentenceOf(err)
					return false, nil // its engine, or the way there: the deadline tells
				}
				j.machine = m
				switch {
				case m.Swarm.State == "error":
					return false, Errorf(Failed, "The engine of %s could not join: %s", j.Server.Host, m.Swarm.Error).
						Then("Mend that, then `/join-node %s` again.", j.Server.Host)
				case m.Swarm.State == "inactive":
					return false, Errorf(Failed, "The engine of %s gave up joining", j.Server.Host).
						Then("Its log says why (`journalctl -u docker` there). Then `/join-node %s` again.", j.Server.Host)
				case m.Swarm.NodeID == "":
					why = "its engine is still trying to join"
					if m.Swarm.Error != "" {
						why += ": " + m.Swarm.Error
					}
					return false, nil
				}
			}
			nodes, err := run.Swarm.Nodes(ctx)
			if err != nil {
				why = sentenceOf(err)
				return false, err
			}
			for _, n := range nodes {
				if n.ID == j.machine.Swarm.NodeID {
					node = n
					why = fmt.Sprintf("it is %s", n.State)
					if n.Message != "" {
						why += ": " + n.Message
					}
					return n.up() && (!j.Manager || n.Reachable), nil
				}
			}
			return false, nil
		})
	})
	if err == errDeadline {
		err = Errorf(Failed, "%s was not Ready after %s: %s", j.Server.Host, run.JoinTimeout, why).
			Then("See that 2377/tcp, 7946/tcp+udp and 4789/udp are open between the nodes; then `/join-node %s` again.", j.Server.Host)
	}
	if err != nil {
		if ctx.Err() == nil {
			err = j.undo(ctx, run, j.machine.Swarm.NodeID, err)
		}
		return "", err
	}
	joined := fmt.Sprintf("%s joined as a %s: %s is ready", j.Server.Host, j.role(), node.Hostname)
	// A write is also what shows that the managers agree: one that has just joined may
	// count among them before it takes part, and then all changes wait for it.
	labels := map[string]string{LabelSSH: j.addr.String(), LabelHostKey: j.HostKey.Algorithm + " " + j.HostKey.Fingerprint}
	err = run.until(ctx, run.JoinTimeout, func(ctx context.Context) (bool, error) {
		err := run.changeNode(ctx, node.ID, NodeChange{Labels: labels})
		return err == nil, err
	})
	switch {
	case err == nil:
		return joined, nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	}
	run.Log.Warn("the node does not have its labels", "node", node.Hostname, "err", err)
	if err == errDeadline {
		return joined + fmt.Sprintf(", but the managers have taken no change for %s: see `/node list`", run.JoinTimeout), nil
	}
	return joined, nil
}

// undo takes a half join back: the engine leaves, and the node is off the list. It
// returns why, with what is left to do by hand.
func (j *NodeJoin) undo(ctx context.Context, run *Run, nodeID string, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
	defer cancel()
	run.Note("It did not work; taking it back.")
	if err := j.server.LeaveSwarm(ctx, true); err != nil {
		run.Log.Warn("a half join could not be taken back on the server", "server", j.addr.String(), "err", err)
		if e := new(Error); errors.As(why, &e) {
			e.Next = strings.TrimSpace(fmt.Sprintf("Its engine could not be told to leave: type `docker swarm leave --force` on %s. %s", j.Server.Host, e.Next))
		}
	}
	if nodeID == "" {
		return why
	}
	if j.Manager {
		if err := run.changeNode(ctx, nodeID, NodeChange{Role: "worker"}); err != nil && CodeOf(err) != NotFound {
			run.Log.Warn("a half joined manager is still one", "node", nodeID, "err", err)
		}
	}
	err := run.until(ctx, leaveWithin, func(ctx context.Context) (bool, error) {
		err := run.Swarm.RemoveNode(ctx, nodeID, true)
		return err == nil || CodeOf(err) == NotFound, nil
	})
	if err != nil {
		run.Log.Warn("a half joined node is still on the list", "node", nodeID, "err", err)
	}
	return why
}

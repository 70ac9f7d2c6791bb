// Package lab runs a real Docker Swarm of several nodes on one machine, for
// tests and for the demonstration.
//
// A node is a set of namespaces with a Docker engine and an sshd in it; a bridge
// connects the nodes, two registries and this machine. It needs root and
// Debian's packages, which it installs. When a lab is closed nothing of it is
// left, and a lab whose owner was killed is removed by the next Start.
package lab

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"
)

// Options say what lab to start. The zero value is three nodes without a swarm.
type Options struct {
	Nodes    int  // how many nodes; 0 is three
	Swarm    bool // join them into one swarm
	Managers int  // how many of them are managers; 0 is one
	Spare    int  // how many, from the last, stay outside the swarm, to be joined later

	// Engine is the nodes' engines and image stores in order, as "28+containerd" or
	// "20,28+containerd" (see parseEngines); "" means WAGGLE_LAB_ENGINE, and without
	// that the engine that this machine has installed.
	Engine string

	Progress func(step string) // told of each step, if set; never called twice at once
	Keep     bool              // marked as meant to outlive one command; see States
}

// Lab is a running lab.
type Lab struct {
	Nodes     []*Node
	Registry  *Registry // lets everybody in
	Private   *Registry // wants its user and password
	BaseImage string    // a busybox, in Registry; in Private it has the same name
	Gateway   string    // this machine's address, as the nodes see it
	SSHKey    string    // path of the private key that may log in as root
	Dir       string    // everything the lab keeps in files

	slot       *slot
	opts       Options
	engines    []release         // to assign to the nodes in order
	programsOf map[string]string // by a release's name: where its programs are, "" for this machine's own

	progress sync.Mutex

	mu    sync.Mutex // guards state
	state State

	close func() error
}

// Start starts a lab. It installs missing packages, removes what killed labs
// left, and returns when every part answers. The caller must Close it.
func Start(ctx context.Context, opts Options) (*Lab, error) {
	if opts.Nodes == 0 {
		opts.Nodes = 3
	}
	if opts.Managers == 0 {
		opts.Managers = 1
	}
	if opts.Nodes < 1 || opts.Nodes > 200 || opts.Spare < 0 || opts.Managers < 1 ||
		opts.Swarm && opts.Managers > opts.Nodes-opts.Spare {
		return nil, fmt.Errorf("a lab of %d nodes cannot have %d managers and %d spare nodes", opts.Nodes, opts.Managers, opts.Spare)
	}
	engines, err := opts.engines()
	if err != nil {
		return nil, err
	}
	l := &Lab{opts: opts, engines: engines}
	if err := require(ctx, packages, l.step); err != nil {
		return nil, err
	}
	l.programsOf = map[string]string{}
	for _, r := range engines {
		if _, ok := l.programsOf[r.name]; ok {
			continue
		}
		dir, err := l.programs(ctx, r)
		if err != nil {
			return nil, err
		}
		l.programsOf[r.name] = dir
	}
	s, err := takeSlot(ctx)
	if err != nil {
		return nil, err
	}
	l.slot, l.Dir = s, s.dir
	l.close = sync.OnceValue(l.shutdown)
	if err := l.up(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the lab: %w", err), l.Close())
	}
	return l, nil
}

func (l *Lab) step(format string, args ...any) {
	if l.opts.Progress == nil {
		return
	}
	l.progress.Lock()
	defer l.progress.Unlock()
	l.opts.Progress(fmt.Sprintf(format, args...))
}

func (l *Lab) up(ctx context.Context) error {
	owner, err := identify(os.Getpid())
	if err != nil {
		return err
	}
	l.state = State{Owner: owner, Kept: l.opts.Keep}
	l.Gateway = l.slot.ip(1)
	l.SSHKey = filepath.Join(l.Dir, "id_ed25519")
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("making an SSH key: %w", err)
	}
	client, err := writeKey(l.SSHKey, "waggle-lab", key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.SSHKey+".pub", ssh.MarshalAuthorizedKey(client), 0o644); err != nil {
		return fmt.Errorf("making an SSH key: %w", err)
	}
	if err := l.network(ctx); err != nil {
		return err
	}
	l.Registry = l.registry("registry", openPort)
	l.Private = l.registry("private", privatePort)
	l.Private.User, l.Private.Password = "waggle", "honey-"+l.slot.comment()

	l.step("starting %s and 2 registries", l.enginesText())
	g, gctx := errgroup.WithContext(ctx)
	for _, r := range []*Registry{l.Registry, l.Private} {
		g.Go(func() error {
			if err := r.Start(gctx); err != nil {
				return err
			}
			if _, _, err := r.Push(gctx, "busybox:1", Image{}); err != nil {
				return err
			}
			l.step("registry %s is up", r.Addr)
			return nil
		})
	}
	for i := range l.opts.Nodes {
		n := l.node(i + 1)
		l.Nodes = append(l.Nodes, n)
		g.Go(func() error {
			if err := n.up(gctx, client); err != nil {
				return err
			}
			l.step("%s is up at %s: Docker %s", n.Name, n.Addr, n.engineText())
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	l.BaseImage = l.Registry.Image("busybox:1")
	if l.opts.Swarm {
		if err := l.swarm(ctx); err != nil {
			return fmt.Errorf("making the swarm: %w", err)
		}
	}
	return l.describe()
}

// enginesText describes the engines that are started.
func (l *Lab) enginesText() string {
	var names []string
	for _, r := range l.engines[:min(len(l.engines), l.opts.Nodes)] {
		names = append(names, r.String())
	}
	if which := strings.Join(names, ", "); which != systemRelease {
		return fmt.Sprintf("%d Docker engines (%s)", l.opts.Nodes, which)
	}
	return fmt.Sprintf("%d Docker engines", l.opts.Nodes)
}

func (l *Lab) node(i int) *Node {
	name := fmt.Sprintf("node-%d", i)
	dir := filepath.Join(l.Dir, name)
	socket := filepath.Join(dir, "run", "docker.sock")
	r := l.engines[(i-1)%len(l.engines)]
	return &Node{
		release: r, programs: l.programsOf[r.name],
		Name: name, Addr: l.slot.ip(10 + i), Socket: socket,
		slot: l.slot, index: i, dir: dir, sshKey: l.SSHKey, record: l.record, engine: newEngine(socket),
	}
}

// Ports of the registries on the lab's gateway.
const (
	openPort    = 5000
	privatePort = 5001
)

func (l *Lab) registry(name string, port int) *Registry {
	return &Registry{
		Addr: fmt.Sprintf("%s:%d", l.Gateway, port), dir: filepath.Join(l.Dir, name), record: l.record,
		client: &http.Client{Transport: &http.Transport{}},
	}
}

// network makes the bridge, gives this machine its address on it, and lets the
// lab's traffic through this machine's firewall.
func (l *Lab) network(ctx context.Context) error {
	batch := fmt.Sprintf("link add %[1]s type bridge stp_state 0 forward_delay 0\naddr add %[2]s/24 dev %[1]s\nlink set %[1]s up\n",
		l.slot.bridge(), l.Gateway)
	if _, err := command(ctx, batch, "ip", "-batch", "-"); err != nil {
		return fmt.Errorf("making the bridge: %w", err)
	}
	for _, rule := range l.slot.rules() {
		if _, err := command(ctx, "", "iptables", append([]string{"-w", "-I"}, rule...)...); err != nil {
			return fmt.Errorf("opening the firewall for the lab: %w", err)
		}
	}
	return nil
}

// swarm makes a swarm of all nodes but the spare ones, and waits until all are
// ready.
func (l *Lab) swarm(ctx context.Context) error {
	l.step("joining the nodes into a swarm")
	members := l.Nodes[:len(l.Nodes)-l.opts.Spare]
	first := members[0]
	address := func(n *Node) map[string]any {
		return map[string]any{"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": n.Addr, "DataPathAddr": n.Addr}
	}
	init := address(first)
	// A node that fails is "down" after three of these, not after three of 5 s.
	init["Spec"] = map[string]any{"Dispatcher": map[string]any{"HeartbeatPeriod": 2 * time.Second}}
	if err := first.engine.call(ctx, http.MethodPost, "/swarm/init", init, nil); err != nil {
		return err
	}
	var info struct {
		JoinTokens struct{ Worker, Manager string }
	}
	if err := first.engine.call(ctx, http.MethodGet, "/swarm", nil, &info); err != nil {
		return err
	}
	for i, n := range members[1:] {
		join := address(n)
		join["RemoteAddrs"] = []string{first.Addr + ":2377"}
		join["JoinToken"] = info.JoinTokens.Worker
		if i+1 < l.opts.Managers {
			join["JoinToken"] = info.JoinTokens.Manager
		}
		if err := n.engine.call(ctx, http.MethodPost, "/swarm/join", join, nil); err != nil {
			return fmt.Errorf("%s: %w\n%s", n.Name, err, logTail(n.LogFile()))
		}
	}
	return poll(ctx, 20*time.Second, func(ctx context.Context) error {
		var nodes []struct{ Status struct{ State string } }
		if err := first.engine.call(ctx, http.MethodGet, "/nodes", nil, &nodes); err != nil {
			return err
		}
		ready := 0
		for _, n := range nodes {
			if n.Status.State == "ready" {
				ready++
			}
		}
		if ready != len(members) {
			return fmt.Errorf("%d of %d nodes are ready", ready, len(members))
		}
		return nil
	})
}

// Manager is the first node, a manager when there is a swarm.
func (l *Lab) Manager() *Node { return l.Nodes[0] }

// record writes down a process at once, so that the next lab can end it.
func (l *Lab) record(p *proc) error {
	id, err := identify(p.pid())
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", p.name, err, logTail(p.log))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.Processes = append(l.state.Processes, id)
	return l.state.write(l.Dir)
}

// describe writes down how to use the lab.
func (l *Lab) describe() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := &l.state
	st.Registry, st.Private = l.Registry.Addr, l.Private.Addr
	st.User, st.Password = l.Private.User, l.Private.Password
	st.BaseImage, st.SSHKey, st.Ready = l.BaseImage, l.SSHKey, true
	for i, n := range l.Nodes {
		role := "spare"
		switch {
		case !l.opts.Swarm || i >= len(l.Nodes)-l.opts.Spare:
		case i < l.opts.Managers:
			role = "manager"
		default:
			role = "worker"
		}
		st.Nodes = append(st.Nodes, NodeState{
			Name: n.Name, Addr: n.Addr, Host: n.Host(), Role: role, SSH: n.SSHCommand(),
			Enter: strings.Join(n.box.command("bash").Args, " "), Engine: n.engineText(),
		})
	}
	return st.write(l.Dir)
}

// Close ends the lab and removes everything of it. It may be called again.
func (l *Lab) Close() error { return l.close() }

func (l *Lab) shutdown() error {
	// Its own deadline: a lab is also closed after its context has ended.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for _, n := range l.Nodes {
		wg.Go(n.down)
	}
	for _, r := range []*Registry{l.Registry, l.Private} {
		if r != nil {
			wg.Go(r.Stop)
		}
	}
	wg.Wait()
	err := errors.Join(l.slot.sweep(ctx), l.slot.release())
	if err != nil {
		return fmt.Errorf("removing the lab: %w", err)
	}
	return nil
}

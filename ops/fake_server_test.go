package ops_test

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"waggle/ops"
)

var theKey = ops.HostKey{Algorithm: "ssh-ed25519", Fingerprint: "SHA256:abc"}

// fakeServers has one server whose engine joins the fake swarm at once, unless a
// test says otherwise.
type fakeServers struct {
	mu          sync.Mutex
	swarm       *fakeSwarm
	key         ops.HostKey
	machine     ops.Machine
	closed      map[string]bool // addresses that it does not reach
	udp         error
	connect     error
	joinErr     error
	never       bool // the engine never becomes a node
	joins       []ops.Join
	asked       []string // who was connected to, with which key
	left        int
	images      map[string][]ops.LocalImage // by host
	imagesGone  []string
	volumesGone []string
	open        int
	member      map[string]ops.Membership // by host
}

func newFakeServers(swarm *fakeSwarm) *fakeServers {
	return &fakeServers{swarm: swarm, key: theKey, closed: map[string]bool{}, member: map[string]ops.Membership{}, machine: ops.Machine{Hostname: "n4", EngineVersion: "20.10.24", APIVersion: "1.41",
		OS: "Debian GNU/Linux 12 (bookworm)", OSType: "linux", Arch: "x86_64", CPUs: 2, Memory: 4 << 30, Swarm: ops.Membership{State: "inactive"}}}
}

func (f *fakeServers) with(do func()) { f.mu.Lock(); defer f.mu.Unlock(); do() }

func (f *fakeServers) PublicKey(context.Context) (string, error) {
	return "ssh-ed25519 AAAAkey waggle", nil
}

func (f *fakeServers) ProbeUDP(context.Context, string, int) error { return f.udp }

func (f *fakeServers) Connect(_ context.Context, a ops.Address, want ops.HostKey) (ops.Server, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, fmt.Sprintf("%s %s", a, want.Fingerprint))
	if f.connect != nil {
		return nil, f.connect
	}
	if want != (ops.HostKey{}) && want != f.key {
		return nil, ops.Errorf(ops.Failed, "The host key of %s changed", a.Host)
	}
	f.open++
	return &fakeServer{f, a.Host}, nil
}

type fakeServer struct {
	*fakeServers
	host string
}

func (s *fakeServer) HostKey() ops.HostKey { s.mu.Lock(); defer s.mu.Unlock(); return s.key }
func (s *fakeServer) Close() error         { s.with(func() { s.open-- }); return nil }

func (s *fakeServer) Machine(context.Context) (ops.Machine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.machine
	if in, ok := s.member[s.host]; ok {
		m.Swarm = in
	}
	return m, nil
}

func (s *fakeServer) Reaches(_ context.Context, address string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed[address] {
		return ops.Errorf(ops.Unavailable, "connection refused")
	}
	return nil
}

func (s *fakeServer) JoinSwarm(_ context.Context, j ops.Join) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.joins = append(s.joins, j)
	if s.joinErr != nil {
		return s.joinErr
	}
	id := "id-" + s.host
	s.member[s.host] = ops.Membership{State: "active", NodeID: id, Managers: j.Managers, Manager: j.Token == "canary-manager-token"}
	if s.never {
		return nil
	}
	n := ops.Node{ID: id, Hostname: s.machine.Hostname, State: "ready", Availability: "active", Role: "worker", Addr: s.host, OS: "linux", Arch: "x86_64", CPUs: 2e9, Memory: 4 << 30}
	s.swarm.with(func() {
		s.swarm.nodes = append(s.swarm.nodes, n)
		if j.Token == "canary-manager-token" {
			s.swarm.manager(len(s.swarm.nodes) - 1)
		}
	})
	return nil
}

func (s *fakeServer) LeaveSwarm(context.Context, bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left++
	id := s.member[s.host].NodeID
	s.member[s.host] = ops.Membership{State: "inactive"}
	s.swarm.with(func() {
		if i := slices.IndexFunc(s.swarm.nodes, func(n ops.Node) bool { return n.ID == id }); i >= 0 {
			s.swarm.nodes[i].State = "down"
		}
	})
	return nil
}

func (s *fakeServer) Images(context.Context) ([]ops.LocalImage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.images[s.host], nil
}

func (s *fakeServer) RemoveImage(_ context.Context, name string) error {
	s.with(func() { s.imagesGone = append(s.imagesGone, s.host+" "+name) })
	return nil
}

func (s *fakeServer) RemoveVolume(_ context.Context, name string) error {
	s.with(func() { s.volumesGone = append(s.volumesGone, s.host+" "+name) })
	return nil
}

package node

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"waggle/internal/lab"
	"waggle/internal/secret"
	"waggle/ops"
)

// These tests need a real swarm; they are skipped unless WAGGLE_LAB=1.
var shared = lab.Shared{Options: lab.Options{Nodes: 2, Swarm: true, Spare: 1}}

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }

// site is a swarm of one manager, and a server that may join it.
type site struct {
	*testing.T
	lab     *lab.Lab
	manager *lab.Node
	spare   *lab.Node
	servers *Servers
}

func onLab(t *testing.T) *site {
	l := shared.Get(t)
	return &site{T: t, lab: l, manager: l.Manager(), spare: l.Nodes[1], servers: New(Options{KeyFile: l.SSHKey})}
}

func (s *site) address() ops.Address {
	return ops.Address{Host: s.spare.Addr, Port: 22, User: "root"}
}

// connect connects to the spare node as root.
func (s *site) connect() ops.Server {
	s.Helper()
	server, err := s.servers.Connect(s.Context(), s.address(), ops.HostKey{})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { server.Close() })
	return server
}

func (s *site) join(role string) ops.Join {
	s.Helper()
	token, err := s.manager.Docker(s.Context(), "swarm", "join-token", "-q", role)
	if err != nil {
		s.Fatal(err)
	}
	return ops.Join{Token: secret.Text(strings.TrimSpace(token)), Managers: []string{s.manager.Addr + ":2377"}}
}

func TestLookAndJoin(t *testing.T) {
	s := onLab(t)
	for range 3 {
		began := time.Now()
		server := s.connect()
		connected := time.Since(began)
		m, err := server.Machine(t.Context())
		looked := time.Since(began)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", m)
		if err := server.Reaches(t.Context(), s.manager.Addr+":2377"); err != nil {
			t.Fatal(err)
		}
		reached := time.Since(began)
		if err := server.JoinSwarm(t.Context(), s.join("worker")); err != nil {
			t.Fatal(err)
		}
		t.Logf("connected %s looked %s reached %s joined %s", connected, looked, reached, time.Since(began))
		m, err = server.Machine(t.Context())
		t.Logf("%+v %v", m, err)
		if err := server.LeaveSwarm(context.Background(), false); err != nil {
			t.Fatal(err)
		}
	}
}

package lab

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"
)

// Need skips a test that needs the lab unless WAGGLE_LAB=1 asks for it, as
// "make test" does. Once it is asked for, a lab that cannot come up is a failure.
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv("WAGGLE_LAB") != "1" {
		t.Skip("needs a real swarm: run it with make test, or as root with WAGGLE_LAB=1 go test")
	}
}

// New starts a lab for one test, and closes it at its end.
func New(t testing.TB, opts Options) *Lab {
	t.Helper()
	Need(t)
	return start(t, opts, func(l *Lab) {
		t.Cleanup(func() {
			if t.Failed() { // the logs go with the lab
				for _, n := range l.Nodes {
					t.Logf("%s: %s", n.Name, logTail(n.LogFile()))
				}
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	})
}

func start(t testing.TB, opts Options, started func(*Lab)) *Lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute) // packages may have to be installed
	defer cancel()
	if opts.Progress == nil {
		opts.Progress = func(s string) { t.Log("lab: " + s) }
	}
	begin := time.Now()
	l, err := Start(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	started(l)
	t.Logf("lab: up in %s", time.Since(begin).Round(time.Millisecond))
	return l
}

// Shared is one lab for all tests of a package, started by the first that asks.
//
//	var shared = lab.Shared{Options: lab.Options{Swarm: true}}
//
//	func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }
type Shared struct {
	Options Options

	mu     sync.Mutex
	lab    *Lab
	failed bool
}

// Get returns the lab. Tests that use it must leave it as they found it.
func (s *Shared) Get(t testing.TB) *Lab {
	t.Helper()
	Need(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed {
		t.Fatal("the lab did not come up in an earlier test")
	}
	if s.lab == nil {
		s.failed = true
		start(t, s.Options, func(l *Lab) { s.lab, s.failed = l, false })
	}
	return s.lab
}

// Run runs the tests and closes the lab.
func (s *Shared) Run(m *testing.M) int {
	code := m.Run()
	if s.lab != nil {
		if err := s.lab.Close(); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			return max(code, 1)
		}
	}
	return code
}

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

// Pool has the labs of a package's tests, each for one test at a time. Tests that
// run in parallel do so on different labs.
//
//	var labs = lab.Pool{Options: lab.Options{Swarm: true}}
//
//	func TestMain(m *testing.M) { os.Exit(labs.Run(m)) }
type Pool struct {
	Options Options
	Most    int // labs at once; 0 means 1

	once  sync.Once
	slots chan struct{} // one for each lab that a test may have

	mu     sync.Mutex
	idle   []*Lab
	all    []*Lab
	failed bool
}

// Get returns a lab that is the test's own until it ends; it waits for one when all
// are taken. A test leaves it as it found it.
func (p *Pool) Get(t testing.TB) *Lab {
	t.Helper()
	Need(t)
	p.once.Do(func() { p.slots = make(chan struct{}, max(1, p.Most)) })
	p.slots <- struct{}{}
	t.Cleanup(func() { <-p.slots })
	l := p.take(t)
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.idle = append(p.idle, l)
	})
	return l
}

// take returns a lab that no test has, and starts one if need be.
func (p *Pool) take(t testing.TB) *Lab {
	t.Helper()
	p.mu.Lock() // while one starts too: they install packages and choose addresses
	defer p.mu.Unlock()
	if p.failed {
		t.Fatal("a lab did not come up in an earlier test")
	}
	if n := len(p.idle); n > 0 {
		l := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return l
	}
	p.failed = true
	return start(t, p.Options, func(l *Lab) { p.all, p.failed = append(p.all, l), false })
}

// Run runs the tests and closes the labs.
func (p *Pool) Run(m *testing.M) int {
	code := m.Run()
	for _, l := range p.all {
		if err := l.Close(); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			code = max(code, 1)
		}
	}
	return code
}

// NeedProgram installs the Debian package of a program that is not there, where labs may
// run, and skips the test elsewhere.
func NeedProgram(t testing.TB, program, pkg string) {
	t.Helper()
	if _, err := lookPath(program); err == nil {
		return
	}
	Need(t)
	if err := require(t.Context(), []tool{{program, pkg}}, t.Logf); err != nil {
		t.Fatal(err)
	}
}

package simulate

import (
	"errors"
	"net"
	"sync"
	"time"
)

// errEnd is returned by every call of a dead replica when the run ends, so that its goroutines
// exit. It is a network error, so that the Redis client backs off: the queue library retries in
// a busy loop.
var errEnd = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("the simulation is over")}

// gate guards every call of a replica to Redis, Docker, Git and Slack. A goroutine can't be
// stopped from outside, but one whose calls block has no effect.
type gate struct {
	mu    sync.Mutex
	dead  bool
	awake chan struct{} // closed at the end of a sleep; nil when it does not sleep
	end   <-chan struct{}
}

// pass blocks while the replica sleeps, and until the run ends when it is dead. The caller must
// hold no mutex: a goroutine blocked on a mutex stops virtual time.
func (g *gate) pass() error {
	for {
		g.mu.Lock()
		dead, awake := g.dead, g.awake
		g.mu.Unlock()
		switch {
		case dead:
			<-g.end
			time.Sleep(time.Millisecond)
			return errEnd
		case awake == nil:
			return nil
		}
		select {
		case <-awake:
		case <-g.end:
		}
	}
}

func (g *gate) kill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dead = true
	if g.awake != nil {
		close(g.awake)
		g.awake = nil
	}
}

// sleep blocks every call for d, as SIGSTOP does.
func (g *gate) sleep(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.dead || g.awake != nil {
		return
	}
	awake := make(chan struct{})
	g.awake = awake
	time.AfterFunc(d, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.awake == awake {
			g.awake = nil
			close(awake)
		}
	})
}

func (g *gate) alive() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.dead
}

func (g *gate) asleep() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.awake != nil
}

package store

import (
	"fmt"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// Embedded is a Redis inside this process, for trying Waggle out: everything in
// it is gone when the process ends.
type Embedded struct {
	*miniredis.Miniredis
	stop chan struct{}
	done sync.WaitGroup
}

// StartEmbedded starts an embedded Redis on a loopback port.
func StartEmbedded() (*Embedded, error) {
	m, err := miniredis.Run()
	if err != nil {
		return nil, fmt.Errorf("start the embedded Redis: %w", err)
	}
	e := &Embedded{Miniredis: m, stop: make(chan struct{})}
	e.done.Go(e.drive)
	return e, nil
}

// drive moves its clock: times to live do not run down by themselves there.
func (e *Embedded) drive() {
	const step = 250 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	for {
		select {
		case <-e.stop:
			return
		case <-tick.C:
			e.FastForward(step)
		}
	}
}

// Options say how to connect to it.
func (e *Embedded) Options() *redis.UniversalOptions {
	return &redis.UniversalOptions{Addrs: []string{e.Addr()}}
}

// Close ends it.
func (e *Embedded) Close() {
	close(e.stop)
	e.done.Wait()
	e.Miniredis.Close()
}

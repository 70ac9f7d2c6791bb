package ops

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// sharedCalls keeps a stampede away from a slow server: of the calls with one key one
// runs at a time, and its answer goes to all who asked before it began. That is
// singleflight but for one thing: whoever asks while a call runs gets the answer of the
// next one, since the one that runs may have seen a state older than what the asker knows.
type sharedCalls[T any] struct {
	most int // calls of different keys side by side; 0 is no limit

	flights singleflight.Group
	mu      sync.Mutex
	last    map[string]chan struct{} // by key: closed when the call is over
	slots   chan struct{}
}

// do returns the answer of a call that begins after do was called, or ctx's error. The
// call has a deadline of its own: no asker's context ends it for the others.
func (s *sharedCalls[T]) do(ctx context.Context, key string, limit time.Duration,
	call func(context.Context) (T, error)) (T, error) {
	answer := s.flights.DoChan(key, func() (any, error) {
		defer s.take(key)()
		s.flights.Forget(key) // whoever asks from here on asks for the next call
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		return call(ctx)
	})
	var none T
	select {
	case <-ctx.Done():
		return none, ctx.Err()
	case a := <-answer:
		if a.Err != nil {
			return none, a.Err
		}
		return a.Val.(T), nil
	}
}

// take waits until no other call of the key runs and a slot is free. At most one waits for
// each key: the others share its flight.
func (s *sharedCalls[T]) take(key string) (release func()) {
	over := make(chan struct{})
	s.mu.Lock()
	if s.last == nil {
		s.last = map[string]chan struct{}{}
	}
	if s.slots == nil && s.most > 0 {
		s.slots = make(chan struct{}, s.most)
	}
	before, slots := s.last[key], s.slots
	s.last[key] = over
	s.mu.Unlock()
	if before != nil {
		<-before
	}
	if slots != nil {
		slots <- struct{}{}
	}
	return func() {
		if slots != nil {
			<-slots
		}
		s.mu.Lock()
		if s.last[key] == over {
			delete(s.last, key)
		}
		s.mu.Unlock()
		close(over)
	}
}

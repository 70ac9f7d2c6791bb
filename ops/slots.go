package ops

import (
	"context"
	"slices"
	"sync"
)

// Slots lets so many work at once; the others wait in the order in which they
// came. A nil Slots lets all.
type Slots struct {
	mu      sync.Mutex
	free    int
	waiting []*waiter
}

type waiter struct {
	turn  chan struct{} // closed when it is its turn
	moved chan struct{} // holds one token when it moved up
}

// NewSlots returns n slots.
func NewSlots(n int) *Slots { return &Slots{free: n} }

// Take waits for a slot; place is called with the place in the line, from 1,
// whenever that changes. The caller calls release when done.
func (s *Slots) Take(ctx context.Context, place func(n int)) (release func(), err error) {
	if s == nil {
		return func() {}, nil
	}
	s.mu.Lock()
	if s.free > 0 {
		s.free--
		s.mu.Unlock()
		return sync.OnceFunc(s.put), nil
	}
	w := &waiter{turn: make(chan struct{}), moved: make(chan struct{}, 1)}
	w.moved <- struct{}{}
	s.waiting = append(s.waiting, w)
	s.mu.Unlock()
	for {
		select {
		case <-w.turn:
			return sync.OnceFunc(s.put), nil
		case <-w.moved:
			s.mu.Lock()
			n := slices.Index(s.waiting, w) + 1
			s.mu.Unlock()
			if n > 0 {
				place(n)
			}
		case <-ctx.Done():
			if !s.leave(w) {
				s.put() // its turn had come
			}
			return nil, ctx.Err()
		}
	}
}

// put gives a slot to the first of those that wait.
func (s *Slots) put() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		s.free++
		return
	}
	close(s.waiting[0].turn)
	s.waiting = s.waiting[1:]
	s.moveUp()
}

// leave takes one out of the line; false when it is not in it any more.
func (s *Slots) leave(w *waiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.waiting, w)
	if i < 0 {
		return false
	}
	s.waiting = slices.Delete(s.waiting, i, i+1)
	s.moveUp()
	return true
}

func (s *Slots) moveUp() {
	for _, w := range s.waiting {
		select {
		case w.moved <- struct{}{}:
		default:
		}
	}
}

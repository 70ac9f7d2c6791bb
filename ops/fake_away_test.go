package ops_test

import (
	"context"
	"sync"
	"time"
)

// faults are how calls of a fakeSwarm fail, as those of Docker do. Calls are known by the names of
// their methods.
type faults struct {
	calling sync.Mutex
	calls   map[string]int
	// instead, unless nil, is asked before each call: an error is its answer. It may also take its
	// time.
	instead func(ctx context.Context, call string) error
	// lost, unless nil, is asked after each write that took effect: an error is its answer.
	lost func(call string) error
}

// fail sets both.
func (f *faults) fail(instead func(ctx context.Context, call string) error, lost func(call string) error) {
	f.calling.Lock()
	defer f.calling.Unlock()
	f.instead, f.lost = instead, lost
}

// begin counts a call and returns how it fails.
func (f *faults) begin(ctx context.Context, call string) error {
	f.calling.Lock()
	if f.calls == nil {
		f.calls = map[string]int{}
	}
	f.calls[call]++
	instead := f.instead
	f.calling.Unlock()
	if instead == nil {
		return nil
	}
	return instead(ctx, call)
}

// write does a write, which may have no answer.
func (f *faults) write(ctx context.Context, call string, do func() error) error {
	if err := f.begin(ctx, call); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	f.calling.Lock()
	lost := f.lost
	f.calling.Unlock()
	if lost == nil {
		return nil
	}
	return lost(call)
}

// called is how often there was a call of that name, of any for "".
func (f *faults) called(name string) (n int) {
	f.calling.Lock()
	defer f.calling.Unlock()
	for call, times := range f.calls {
		if name == "" || call == name {
			n += times
		}
	}
	return n
}

// awayFor has every call answered Unavailable for d.
func awayFor(d time.Duration) func(context.Context, string) error {
	until := time.Now().Add(d)
	return func(context.Context, string) error {
		if time.Now().Before(until) {
			return dockerAway
		}
		return nil
	}
}

// awayTimes has the calls of one name answered Unavailable n times, after the first so many.
func awayTimes(call string, after, n int) func(context.Context, string) error {
	var mu sync.Mutex
	seen := 0
	return func(_ context.Context, c string) error {
		mu.Lock()
		defer mu.Unlock()
		if c != call {
			return nil
		}
		if seen++; seen > after && seen <= after+n {
			return dockerAway
		}
		return nil
	}
}

// awayAfter has calls answered Unavailable for d once the first write of that name took effect.
func (f *faults) awayAfter(write string, d time.Duration) {
	var once sync.Once
	f.fail(nil, func(call string) error {
		if call == write {
			once.Do(func() { f.fail(awayFor(d), nil) })
		}
		return nil
	})
}

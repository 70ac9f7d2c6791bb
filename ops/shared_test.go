package ops

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestSharedCalls: who asks before a call begins shares it, who asks while it runs gets the
// next one; calls of one key never overlap, and of different keys at most as many as allowed.
func TestSharedCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sharedCalls[int]{most: 2}
		var mu sync.Mutex
		running, most, calls := map[string]int{}, 0, map[string]int{}
		call := func(key string) func(context.Context) (int, error) {
			return func(context.Context) (int, error) {
				mu.Lock()
				calls[key]++
				n := calls[key]
				running[key]++
				if running[key] > 1 {
					t.Errorf("two calls of %s at once", key)
				}
				sum := 0
				for _, n := range running {
					sum += n
				}
				most = max(most, sum)
				mu.Unlock()
				time.Sleep(time.Second) // of the fake clock
				mu.Lock()
				running[key]--
				mu.Unlock()
				return n, nil
			}
		}
		var asking sync.WaitGroup
		ask := func(key string, want int) {
			asking.Go(func() {
				if got, err := s.do(t.Context(), key, time.Minute, call(key)); err != nil || got != want {
					t.Errorf("%s: call %d, %v; want %d", key, got, err, want)
				}
			})
		}
		ask("a", 1)
		synctest.Wait()
		for range 100 { // while the first runs
			ask("a", 2)
		}
		synctest.Wait()
		for i := range 5 {
			ask(fmt.Sprint("other", i), 1)
		}
		asking.Wait()
		if calls["a"] != 2 || most != 2 {
			t.Errorf("%d calls of a, %d side by side; want 2 and 2", calls["a"], most)
		}
		if len(s.last) > 0 {
			t.Errorf("%d keys are remembered", len(s.last))
		}
	})
}

// TestSharedCallOutlivesItsFirstAsker, and ends at its own deadline.
func TestSharedCallOutlivesItsFirstAsker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sharedCalls[int]
		hang := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
		began := time.Now()
		var other sync.WaitGroup
		gone, cancel := context.WithCancel(t.Context())
		defer cancel()
		// The slot is taken, so both share the call that comes next.
		other.Go(func() { _, _ = s.do(t.Context(), "a", 10*time.Second, hang) })
		synctest.Wait()
		other.Go(func() {
			if _, err := s.do(gone, "a", 10*time.Second, hang); !errors.Is(err, context.Canceled) || time.Since(began) > time.Second {
				t.Errorf("whoever left: %v after %s", err, time.Since(began))
			}
		})
		synctest.Wait()
		other.Go(func() {
			_, err := s.do(t.Context(), "a", 10*time.Second, hang)
			if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != 20*time.Second {
				t.Errorf("whoever stayed: %v after %s", err, took)
			}
		})
		synctest.Wait()
		time.Sleep(time.Second)
		cancel()
		other.Wait()
	})
}

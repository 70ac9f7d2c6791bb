package store

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// ended waits for a lease to end and returns why and after how long.
func ended(t *testing.T, l *Lease) (after time.Duration, cause error) {
	t.Helper()
	began := time.Now()
	select {
	case <-l.Context().Done():
		return time.Since(began), context.Cause(l.Context())
	case <-time.After(5 * time.Second):
		t.Fatal("the lease does not end")
		return 0, nil
	}
}

func TestLock(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		s, other, ctx := open(t, o), open(t, o), t.Context()
		began := time.Now()
		l, err := s.Lock(ctx, "target:pizza", Claim{Owner: "@ada", Reason: "scale"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = other.Lock(ctx, "target:pizza", Claim{Owner: "@linus", Reason: "deploy"})
		held := new(HeldError)
		if !errors.As(err, &held) || held.Owner != "@ada" || held.Reason != "scale" || held.Since.Sub(began).Abs() > time.Second || held.Name != "target:pizza" {
			t.Errorf("the second is told %v", err)
		}
		if c, err := other.Holder(ctx, "target:pizza"); err != nil || c.Owner != "@ada" {
			t.Errorf("holder: %+v, %v", c, err)
		}
		free, err := other.Lock(ctx, "target:pasta", Claim{})
		if err != nil {
			t.Errorf("another lock: %v", err)
		} else {
			free.Release()
		}
		l.Release()
		l.Release() // does no harm
		if _, cause := ended(t, l); !errors.Is(cause, context.Canceled) {
			t.Errorf("released, and the cause is %v", cause)
		}
		if _, err := other.Holder(ctx, "target:pizza"); !errors.Is(err, ErrNotFound) {
			t.Errorf("released, and the holder is: %v", err)
		}
		l, err = other.Lock(ctx, "target:pizza", Claim{Owner: "@linus"})
		if err != nil {
			t.Fatal(err)
		}
		l.Release()
	})
}

func TestOneOfManyHasTheLock(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		s := open(t, o)
		var all sync.WaitGroup
		var mu sync.Mutex
		inside, most, turns := 0, 0, 0
		for range 8 {
			all.Go(func() {
				for range 20 {
					l, err := s.Lock(t.Context(), "a", Claim{Owner: "x"})
					if held := new(HeldError); errors.As(err, &held) {
						time.Sleep(time.Millisecond)
						continue
					} else if err != nil {
						// It changed hands three times while we looked: a refusal too.
						continue
					}
					mu.Lock()
					inside, turns = inside+1, turns+1
					most = max(most, inside)
					mu.Unlock()
					time.Sleep(time.Millisecond)
					mu.Lock()
					inside--
					mu.Unlock()
					l.Release()
				}
			})
		}
		all.Wait()
		if most != 1 || turns == 0 {
			t.Errorf("%d at once, %d turns", most, turns)
		}
	})
}

// TestLockOutlivesItsTime holds a lock for several times its time to live.
func TestLockOutlivesItsTime(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		s := open(t, o)
		s.ttl = 3 * short // a busy machine has to refresh it in time
		l, err := s.Lock(t.Context(), "a", Claim{Owner: "@ada"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Release()
		for end := time.Now().Add(2 * s.ttl); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			if _, err := s.Lock(t.Context(), "a", Claim{Owner: "@linus"}); err == nil {
				t.Fatal("somebody else has it")
			}
			if err := l.Context().Err(); err != nil {
				t.Fatal(context.Cause(l.Context()))
			}
		}
	})
}

// TestDeadOwner: the lock of a process that died is free after its time.
func TestDeadOwner(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		dead, s := Open(o), open(t, o)
		dead.ttl = short
		if _, err := dead.Lock(t.Context(), "a", Claim{Owner: "@ada"}); err != nil {
			t.Fatal(err)
		}
		_ = dead.Close() // it cannot refresh any more
		began := time.Now()
		for {
			l, err := s.Lock(t.Context(), "a", Claim{Owner: "@linus"})
			if err == nil {
				l.Release()
				break
			}
			if time.Since(began) > 3*short {
				t.Fatalf("still locked: %v", err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if took := time.Since(began); took < short/2 {
			t.Errorf("free after %s", took)
		}
	})
}

func TestReleaseOnlyOwn(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		s, other, ctx := open(t, o), open(t, o), t.Context()
		mine, err := s.Lock(ctx, "a", Claim{Owner: "@ada"})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.rdb.Del(ctx, prefix+"lock:a").Err(); err != nil { // as FLUSHALL would
			t.Fatal(err)
		}
		theirs, err := other.Lock(ctx, "a", Claim{Owner: "@linus"})
		if err != nil {
			t.Fatal(err)
		}
		mine.Release()
		if c, err := s.Holder(ctx, "a"); err != nil || c.Owner != "@linus" {
			t.Errorf("after a release by somebody else: %+v, %v", c, err)
		}
		theirs.Release()
	})
}

// TestStolen: who loses the lock learns of it.
func TestStolen(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		s, other, ctx := open(t, o), open(t, o), t.Context()
		l, err := s.Lock(ctx, "a", Claim{Owner: "@ada"})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.rdb.Del(ctx, prefix+"lock:a").Err(); err != nil {
			t.Fatal(err)
		}
		if _, err := other.Lock(ctx, "a", Claim{Owner: "@linus"}); err != nil {
			t.Fatal(err)
		}
		if after, cause := ended(t, l); !errors.Is(cause, ErrLost) || after > short/2 {
			t.Errorf("%v after %s", cause, after)
		}
	})
}

// TestLostBeforeItIsFree: when Redis goes away or hangs, the lease ends while the
// lock could still be nobody else's.
func TestLostBeforeItIsFree(t *testing.T) {
	for name, away := range map[string]func(t *testing.T) *Store{
		"embedded ends": func(t *testing.T) *Store {
			e, s := embedded(t)
			time.AfterFunc(short/2, e.Miniredis.Close)
			return s
		},
		"real is killed": func(t *testing.T) *Store {
			r, o := server(t)
			time.AfterFunc(short/2, r.Kill)
			return open(t, o)
		},
		"real hangs": func(t *testing.T) *Store {
			_, o := server(t)
			s := open(t, o)
			time.AfterFunc(short/2, func() { s.rdb.Do(context.Background(), "client", "pause", "20000", "all") })
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := away(t)
			l, err := s.Lock(t.Context(), "a", Claim{})
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			_, cause := ended(t, l)
			// It was refreshed at a third of its time at the earliest.
			if after := time.Since(began); !errors.Is(cause, ErrLost) || after > short*4/3 {
				t.Errorf("%v after %s; it is free %s after the last refresh", cause, after, short)
			}
		})
	}
}

// TestAShortOutageIsNoLoss: one refresh may fail.
func TestAShortOutageIsNoLoss(t *testing.T) {
	t.Parallel()
	e, s := embedded(t)
	l, err := s.Lock(t.Context(), "a", Claim{})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(short / 4)
	e.SetError("LOADING for a moment")
	time.Sleep(short / 5)
	e.SetError("")
	time.Sleep(short)
	if err := l.Context().Err(); err != nil {
		t.Errorf("lost: %v", context.Cause(l.Context()))
	}
	l.Release()
}

// TestSameID: the owner of an ID takes its own lock again after a restart, and
// the lease that it had before ends.
func TestSameID(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		s, again, ctx := open(t, o), open(t, o), t.Context()
		before, err := s.Lock(ctx, "a", Claim{ID: "op1", Owner: "@ada"})
		if err != nil {
			t.Fatal(err)
		}
		held := new(HeldError)
		for _, id := range []string{"", "op2"} {
			if _, err := again.Lock(ctx, "a", Claim{ID: id}); !errors.As(err, &held) {
				t.Errorf("as %q: %v", id, err)
			}
		}
		after, err := again.Lock(ctx, "a", Claim{ID: "op1", Owner: "@ada"})
		if err != nil {
			t.Fatal(err)
		}
		if _, cause := ended(t, before); !errors.Is(cause, ErrLost) {
			t.Errorf("the first lease: %v", cause)
		}
		before.Release()
		if _, err := again.Holder(ctx, "a"); err != nil {
			t.Errorf("the first lease released the second: %v", err)
		}
		after.Release()
		// Without an ID nobody is the same.
		l, err := s.Lock(ctx, "b", Claim{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Lock(ctx, "b", Claim{}); !errors.As(err, &held) {
			t.Errorf("without an ID: %v", err)
		}
		l.Release()
	})
}

// TestLeaseEndsWithItsContext, and the lock is free at once all the same.
func TestLeaseEndsWithItsContext(t *testing.T) {
	t.Parallel()
	_, s := embedded(t)
	ctx, cancel := context.WithCancel(t.Context())
	l, err := s.Lock(ctx, "a", Claim{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, cause := ended(t, l); !errors.Is(cause, context.Canceled) || errors.Is(cause, ErrLost) {
		t.Errorf("cause %v", cause)
	}
	l.Release()
	if _, err := s.Holder(t.Context(), "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("holder: %v", err)
	}
}

func TestHeldError(t *testing.T) {
	since := time.Date(2026, 3, 1, 10, 2, 3, 0, time.UTC)
	err := &HeldError{"target:pizza", Claim{ID: "op1", Owner: "@ada", Reason: "scale", Since: since}}
	if got, want := err.Error(), "target:pizza is locked by @ada (scale) since 10:02:03"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestBrokenLock: a lock that can't be read blocks.
func TestBrokenLock(t *testing.T) {
	t.Parallel()
	e, s := embedded(t)
	if err := e.Set(prefix+"lock:a", "not JSON"); err != nil {
		t.Fatal(err)
	}
	if l, err := s.Lock(t.Context(), "a", Claim{ID: "op1"}); err == nil {
		l.Release()
		t.Error("it was taken")
	}
	if got, err := e.Get(prefix + "lock:a"); err != nil || got != "not JSON" {
		t.Errorf("it is %q now", got)
	}
}

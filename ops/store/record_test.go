package store

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

type note struct {
	Token    int64  `json:"token"`
	State    string `json:"state"`
	Text     string `json:"text"`
	Applying bool   `json:"applying,omitempty"`
}

// TestFencedWrite: a record has one writer at a time, and only moves forward.
func TestFencedWrite(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		s, other, ctx := open(t, o), open(t, o), t.Context()
		put := func(l *Lease, state, text string) error {
			return l.Write(ctx, Write{Name: "op:1", Value: note{l.Token(), state, text, false}, TTL: time.Minute, Final: []string{"done"},
				Unless: "cancel:1", Also: []Command{{"SADD", "seen", []any{text}}, {"INCRBY", "count", []any{2}}}})
		}
		stored := func(want string, count int) {
			t.Helper()
			var n note
			var c int
			if err := s.Get(ctx, "op:1", &n); err != nil || n.Text != want {
				t.Errorf("stored %+v, %v, want %s", n, err, want)
			}
			if err := s.Get(ctx, "count", &c); err != nil || c != count {
				t.Errorf("the other commands were done %d times, %v, want %d", c/2, err, count/2)
			}
		}
		first, err := s.Lock(ctx, "run:1", Claim{Owner: "a"})
		if err != nil {
			t.Fatal(err)
		}
		if err := put(first, "working", "first"); err != nil {
			t.Fatal(err)
		}
		stored("first", 2)

		// Redis is emptied: nobody has taken the lease, so the writer goes on and has its lock again.
		if err := s.rdb.FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		if err := put(first, "working", "again"); err != nil {
			t.Fatal(err)
		}
		stored("again", 2)
		if _, err := other.Lock(ctx, "run:1", Claim{Owner: "b"}); !errors.As(err, new(*HeldError)) {
			t.Errorf("the lock that the write has set again: %v", err)
		}

		// The first sleeps longer than its lease, and a second takes it.
		if err := s.rdb.Del(ctx, first.key).Err(); err != nil {
			t.Fatal(err)
		}
		second, err := other.Lock(ctx, "run:1", Claim{Owner: "b"})
		if err != nil {
			t.Fatal(err)
		}
		if second.Token() <= first.Token() {
			t.Errorf("token %d after %d", second.Token(), first.Token())
		}
		if err := put(first, "done", "late"); !errors.Is(err, ErrLost) {
			t.Errorf("a late write: %v", err)
		}
		if err := put(second, "working", "second"); err != nil {
			t.Fatal(err)
		}
		stored("second", 4)
		second.Release()
		// Nobody holds it now, but somebody else has written since.
		if err := put(first, "done", "later"); !errors.Is(err, ErrLost) {
			t.Errorf("a later write: %v", err)
		}

		third, err := s.Lock(ctx, "run:1", Claim{Owner: "c"})
		if err != nil {
			t.Fatal(err)
		}
		defer third.Release()
		if done, err := s.PutUnless(ctx, "op:1", "applying", []string{"done"}, "cancel:1", 1, time.Minute); !done || err != nil {
			t.Errorf("cancelled: %t, %v", done, err)
		}
		if err := put(third, "working", "cancelled"); !errors.Is(err, ErrUnless) {
			t.Errorf("a write that may not be: %v", err)
		}
		if err := s.Delete(ctx, "cancel:1"); err != nil {
			t.Fatal(err)
		}
		if err := put(third, "done", "done"); err != nil {
			t.Fatal(err)
		}
		if err := put(third, "working", "backwards"); !errors.Is(err, ErrFinal) {
			t.Errorf("after the end: %v", err)
		}
		if done, err := s.PutUnless(ctx, "op:1", "applying", []string{"done"}, "cancel:1", 1, time.Minute); done || err != nil {
			t.Errorf("cancelled after the end: %t, %v", done, err)
		}
		stored("done", 6)
	})
}

// TestLateWriteOfAnExpiredLease: a process that slept writes nothing, also when nobody has taken over.
func TestLateWriteOfAnExpiredLease(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		s := open(t, o)
		l, err := s.Lock(t.Context(), "run:1", Claim{})
		if err != nil {
			t.Fatal(err)
		}
		past := time.Now().Add(-time.Hour)
		l.sure.Store(&past)
		if err := s.rdb.Del(t.Context(), l.key).Err(); err != nil {
			t.Fatal(err)
		}
		if l.Valid() {
			t.Error("a lease of an hour ago is valid")
		}
		err = l.Write(context.WithoutCancel(t.Context()), Write{Name: "op:1", Value: note{}, TTL: time.Minute})
		if !errors.Is(err, ErrLost) {
			t.Errorf("written: %v", err)
		}
	})
}

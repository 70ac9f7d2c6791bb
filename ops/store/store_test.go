package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"waggle/internal/lab"
)

// short is the time to live of locks in tests.
const short = 900 * time.Millisecond

// embedded starts a Redis in this process and opens a store on it.
func embedded(t *testing.T) (*Embedded, *Store) {
	t.Helper()
	e, err := StartEmbedded()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e, open(t, e.Options())
}

// open returns another store, as another process would have it.
func open(t *testing.T, o *redis.UniversalOptions) *Store {
	t.Helper()
	s := Open(o)
	s.ttl = short
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// server starts a redis-server, and skips the test where there is none.
func server(t *testing.T) (*lab.Redis, *redis.UniversalOptions) {
	t.Helper()
	_, err := exec.LookPath("redis-server")
	if err != nil && os.Getenv("WAGGLE_LAB") != "1" {
		t.Skip("no redis-server on this machine; `make test` installs one")
	}
	r, err := lab.StartRedis(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Kill)
	return r, &redis.UniversalOptions{Addrs: []string{r.Addr}}
}

// both runs a test on the embedded Redis and on a real one: they are not the
// same in everything.
func both(t *testing.T, test func(t *testing.T, o *redis.UniversalOptions)) {
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		e, _ := embedded(t)
		test(t, e.Options())
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		_, o := server(t)
		test(t, o)
	})
}

// TestOptions: what the URL says is kept, and the rest is ours.
func TestOptions(t *testing.T) {
	opened := func(o redis.UniversalOptions) *redis.Options {
		o.Addrs = []string{"127.0.0.1:1"}
		return open(t, &o).rdb.(*redis.Client).Options()
	}
	o := opened(redis.UniversalOptions{})
	if o.DialTimeout != 2*time.Second || o.ReadTimeout != 3*time.Second || o.WriteTimeout != 3*time.Second || o.PoolSize != 20 || o.MinIdleConns != 1 || o.DialerRetries != 2 || !o.ContextTimeoutEnabled {
		t.Errorf("unset: %+v", o)
	}
	o = opened(redis.UniversalOptions{DialTimeout: 7 * time.Second, ReadTimeout: 8 * time.Second, WriteTimeout: 9 * time.Second, PoolSize: 5, MinIdleConns: 4, DialerRetries: 3})
	if o.DialTimeout != 7*time.Second || o.ReadTimeout != 8*time.Second || o.WriteTimeout != 9*time.Second || o.PoolSize != 5 || o.MinIdleConns != 4 || o.DialerRetries != 3 {
		t.Errorf("set: %+v", o)
	}
}

func TestPutGet(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		s, ctx := open(t, o), t.Context()
		var got map[string]int
		if err := s.Get(ctx, "a", &got); !errors.Is(err, ErrNotFound) {
			t.Errorf("nothing there: %v", err)
		}
		if err := s.Put(ctx, "a", map[string]int{"x": 1}, 0); err != nil {
			t.Fatal(err)
		}
		if err := s.Get(ctx, "a", &got); err != nil || got["x"] != 1 {
			t.Errorf("%v, %v", got, err)
		}
		if err := s.Get(ctx, "a", new(int)); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("read as something else: %v", err)
		}
		if err := s.Put(ctx, "a", make(chan int), 0); err == nil {
			t.Error("a channel was stored")
		}
		if err := s.Put(ctx, "brief", 1, 300*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		time.Sleep(800 * time.Millisecond)
		if err := s.Get(ctx, "brief", new(int)); !errors.Is(err, ErrNotFound) {
			t.Errorf("after its time: %v", err)
		}
	})
}

func TestSet(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		s, ctx := open(t, o), t.Context()
		for _, m := range []string{"a", "b", "a"} {
			if err := s.Add(ctx, "set", m); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Remove(ctx, "set", "b"); err != nil {
			t.Fatal(err)
		}
		if err := s.Remove(ctx, "set", "nobody"); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Members(ctx, "set"); err != nil || len(got) != 1 || got[0] != "a" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestRaise(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		s, ctx := open(t, o), t.Context()
		for _, tc := range []struct{ n, want int64 }{{3, 3}, {2, 3}, {3, 3}, {10, 10}, {9, 10}, {0, 10}, {-1, 10}} {
			if got, err := s.Raise(ctx, "newest:pizza", tc.n, time.Minute); err != nil || got != tc.want {
				t.Errorf("raised to %d: %d, %v, want %d", tc.n, got, err, tc.want)
			}
		}
		var all sync.WaitGroup
		for i := range int64(30) {
			all.Go(func() {
				if got, err := s.Raise(ctx, "newest:pasta", i, time.Minute); err != nil || got < i {
					t.Errorf("raised to %d: %d, %v", i, got, err)
				}
			})
		}
		all.Wait()
		if got, err := s.Raise(ctx, "newest:pasta", 0, time.Minute); err != nil || got != 29 {
			t.Errorf("the highest: %d, %v", got, err)
		}
	})
}

func TestAppend(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		s, ctx := open(t, o), t.Context()
		const most, added = 200, 1000
		for i := range added {
			if err := s.Append(ctx, "audit", map[string]int{"n": i}, most); err != nil {
				t.Fatal(err)
			}
		}
		// Redis drops whole nodes, of a hundred entries by default.
		if n, err := s.rdb.XLen(ctx, prefix+"audit").Result(); err != nil || n < most || n > most+100 {
			t.Errorf("%d entries, %v", n, err)
		}
		next, last := "", added
		for range 4 {
			got, ids, err := s.Entries(ctx, "audit", next, 30)
			if err != nil || len(got) != 30 || len(ids) != 30 {
				t.Fatalf("%d entries, %v", len(got), err)
			}
			for _, e := range got {
				var v map[string]int
				if err := json.Unmarshal(e, &v); err != nil || v["n"] != last-1 {
					t.Fatalf("%s after %d", e, last)
				}
				last = v["n"]
			}
			next = ids[len(ids)-1]
		}
		if got, _, err := s.Entries(ctx, "nothing", "", 10); err != nil || len(got) != 0 {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestSchedule(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		s, ctx := open(t, o), t.Context()
		now := time.Now()
		for m, at := range map[string]time.Time{"late": now.Add(time.Hour), "early": now.Add(-time.Hour), "now": now} {
			if err := s.Schedule(ctx, "pending", m, at); err != nil {
				t.Fatal(err)
			}
		}
		for want, until := range map[string]time.Time{"[early now]": now, "[early]": now.Add(-time.Minute), "[early now late]": {}, "[]": now.Add(-2 * time.Hour)} {
			if got, err := s.Scheduled(ctx, "pending", until); err != nil || fmt.Sprint(got) != want {
				t.Errorf("%v, %v, want %s", got, err, want)
			}
		}
		// Of a hundred that try, one has it.
		var all sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for i := range 100 {
			all.Go(func() {
				ok, err := s.Claim(ctx, "pending", "now", "decision", i, time.Minute, "inflight", "now")
				if err != nil {
					t.Error(err)
				}
				if ok {
					mu.Lock()
					won++
					mu.Unlock()
				}
			})
		}
		all.Wait()
		members, err := s.Members(ctx, "inflight")
		if left, _ := s.Scheduled(ctx, "pending", time.Time{}); won != 1 || err != nil || fmt.Sprint(members) != "[now]" || fmt.Sprint(left) != "[early late]" {
			t.Errorf("%d won; in flight %v, left %v", won, members, left)
		}

		// What was claimed stays; what still waits goes.
		for _, m := range []string{"now", "early"} {
			if err := errors.Join(s.Add(ctx, "inflight", m), s.RemoveListed(ctx, "pending", m, "inflight", m)); err != nil {
				t.Error(err)
			}
		}
		if members, err := s.Members(ctx, "inflight"); err != nil || fmt.Sprint(members) != "[now]" {
			t.Errorf("in flight %v, %v", members, err)
		}
	})
}

// TestStep has many change one thing at once, each of them with a number and a
// script.
func TestStep(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		s, ctx := open(t, o), t.Context()
		push := &Script{Text: "redis.call('RPUSH', KEYS[1], ARGV[1])\nreturn tonumber(ARGV[2])", Keys: []string{prefix + "done"}}
		step := func(last, next string, n int64, with string, does int) Step {
			return Step{Extend: &Extend{Name: "list", Last: []byte(last), New: [][]byte{[]byte(next)}, Most: 20, TTL: time.Minute}, Raise: &Raise{Name: "newest", N: n, TTL: time.Minute, Above: true},
				Then: &Script{Text: push.Text, Keys: push.Keys, Args: []any{with, does}}}
		}
		end := func(list [][]byte) string {
			if len(list) == 0 {
				return ""
			}
			return string(list[len(list)-1])
		}
		var all sync.WaitGroup
		for i := range 30 {
			all.Go(func() {
				for {
					list, n, err := s.ListAndNumber(ctx, "list", "newest")
					if err != nil {
						t.Error(err)
						return
					}
					done, err := s.Do(ctx, step(end(list), fmt.Sprint("entry ", n+1), n+1, fmt.Sprint(i), 1))
					if errors.Is(err, ErrChanged) {
						continue
					}
					if err != nil || !done {
						t.Errorf("%v, %v", done, err)
					}
					return
				}
			})
		}
		all.Wait()
		has := func(entries int, last string, newest, done int64) {
			t.Helper()
			list, n, err := s.ListAndNumber(ctx, "list", "newest")
			if err != nil || len(list) != entries || end(list) != last || n != newest {
				t.Errorf("%q, %d, %v", list, n, err)
			}
			if n := s.rdb.LLen(ctx, prefix+"done").Val(); n != done {
				t.Errorf("the script ran %d times, want %d", n, done)
			}
		}
		const last = "entry 30"
		has(20, last, 30, 30)
		if ttl := s.rdb.TTL(ctx, prefix+"list").Val(); ttl <= 0 || ttl > time.Minute {
			t.Errorf("it is kept for %s", ttl)
		}
		if list, n, err := s.ListAndNumber(ctx, "nothing", "nowhere"); err != nil || len(list) != 0 || n != 0 {
			t.Errorf("where nothing is: %q, %d, %v", list, n, err)
		}

		for name, st := range map[string]Step{"another end": step("entry 29", "z", 31, "no", 1), "no list": step("", "z", 31, "no", 1), "not above": step(last, "z", 30, "no", 1)} {
			if done, err := s.Do(ctx, st); done || !errors.Is(err, ErrChanged) {
				t.Errorf("%s: %v, %v", name, done, err)
			}
		}
		has(20, last, 30, 30)
		if done, err := s.Do(ctx, step(last, "z", 31, "nothing to do", 0)); done || err != nil {
			t.Errorf("%v, %v", done, err)
		}
		has(20, last, 30, 31) // what the script did itself is its own matter
		more := Extend{Name: "list", Last: []byte(last), New: [][]byte{[]byte("y"), []byte("z")}, Most: 3, TTL: time.Minute}
		for _, st := range []Step{{Raise: &Raise{Name: "newest", N: 7, TTL: time.Minute}}, {Extend: &more}} {
			if done, err := s.Do(ctx, st); !done || err != nil {
				t.Errorf("%v, %v", done, err)
			}
		}
		has(3, "z", 30, 31)
		if got := s.rdb.LRange(ctx, prefix+"list", 0, -1).Val(); fmt.Sprint(got) != "[entry 30 y z]" {
			t.Errorf("%q", got)
		}
	})
}

// TestEveryKeyIsOurs looks at the keys that all of these methods make.
func TestEveryKeyIsOurs(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		s, ctx := open(t, o), t.Context()
		_, err := s.Lock(ctx, "a", Claim{})
		_, err2 := s.Raise(ctx, "b", 1, time.Minute)
		_, err3 := s.Do(ctx, Step{Extend: &Extend{Name: "c", New: [][]byte{[]byte("1")}, Most: 1, TTL: time.Minute}, Raise: &Raise{Name: "h", N: 1, TTL: time.Minute}})
		if err := errors.Join(err, err2, err3, s.Put(ctx, "d", 1, 0), s.Add(ctx, "e", "m"), s.Append(ctx, "f", 1, 10), s.Schedule(ctx, "g", "m", time.Now()), s.Ping(ctx)); err != nil {
			t.Fatal(err)
		}
		keys, err := s.rdb.Keys(ctx, "*").Result()
		if err != nil || len(keys) < 9 {
			t.Fatalf("%q, %v", keys, err)
		}
		for _, k := range keys {
			if !strings.HasPrefix(k, prefix) {
				t.Errorf("key %q", k)
			}
		}
	})
}

// TestPingNeedsWrites: a replica answers, and takes nothing.
func TestPingNeedsWrites(t *testing.T) {
	t.Parallel()
	_, o := server(t)
	s := open(t, o)
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.rdb.Do(t.Context(), "replicaof", "127.0.0.1", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "READONLY") {
		t.Errorf("of a replica: %v", err)
	}
}

func TestRedisIsAway(t *testing.T) {
	t.Parallel()
	e, s := embedded(t)
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.Miniredis.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := s.Lock(ctx, "a", Claim{})
	if held := new(HeldError); err == nil || errors.As(err, &held) {
		t.Errorf("a lock that cannot be read blocks: %v", err)
	}
	for what, err := range map[string]error{"ping": s.Ping(ctx), "get": s.Get(ctx, "a", new(int)), "put": s.Put(ctx, "a", 1, 0)} {
		if err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

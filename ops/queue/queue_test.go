package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"waggle/internal/lab"
	"waggle/ops/store"
)

// worker is a queue with a handler that notes what it is given.
type worker struct {
	*Queue
	rdb redis.UniversalClient

	mu    sync.Mutex
	times []time.Time // of calls
	jobs  []string
	do    func(ctx context.Context, call int, job string) error
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// start starts a worker on a store of its own, as another process would.
func start(t *testing.T, o *redis.UniversalOptions, do func(ctx context.Context, call int, job string) error) *worker {
	t.Helper()
	s := store.Open(o)
	t.Cleanup(func() { _ = s.Close() })
	w := &worker{do: do, rdb: s.Client(), Queue: New(s.Client(), Options{Name: "changes", Concurrency: 4, Poll: 100 * time.Millisecond, Log: discard()})}
	if err := w.Start(w.handle); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return w
}

func (w *worker) handle(ctx context.Context, payload []byte) error {
	w.mu.Lock()
	w.times, w.jobs = append(w.times, time.Now()), append(w.jobs, string(payload))
	call := len(w.times)
	w.mu.Unlock()
	if w.do == nil {
		return nil
	}
	return w.do(ctx, call, string(payload))
}

func (w *worker) calls() []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]time.Time(nil), w.times...)
}

// wait waits until the handler was called n times.
func (w *worker) wait(t *testing.T, n int) []time.Time {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if got := w.calls(); len(got) >= n {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d calls, want %d", len(w.calls()), n)
		}
	}
}

func embedded(t *testing.T) *redis.UniversalOptions {
	t.Helper()
	e, err := store.StartEmbedded()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e.Options()
}

// both runs a test on the embedded Redis and on a real one.
func both(t *testing.T, test func(t *testing.T, o *redis.UniversalOptions)) {
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		test(t, embedded(t))
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		if _, err := exec.LookPath("redis-server"); err != nil && os.Getenv("WAGGLE_LAB") != "1" {
			t.Skip("no redis-server on this machine; `make test` installs one")
		}
		r, err := lab.StartRedis(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Kill)
		test(t, &redis.UniversalOptions{Addrs: []string{r.Addr}})
	})
}

func TestDoneOnce(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		gate := make(chan struct{})
		w := start(t, o, func(context.Context, int, string) error { <-gate; return nil })
		ctx := t.Context()
		if err := w.Add(ctx, "op1", []byte("one")); err != nil {
			t.Fatal(err)
		}
		if err := w.Add(ctx, "op1", []byte("other")); !errors.Is(err, ErrDuplicate) {
			t.Errorf("while it waits or runs: %v", err)
		}
		w.wait(t, 1)
		if err := w.Add(ctx, "op1", nil); !errors.Is(err, ErrDuplicate) {
			t.Errorf("while it runs: %v", err)
		}
		close(gate)
		time.Sleep(200 * time.Millisecond)
		if err := w.Add(ctx, "op1", nil); !errors.Is(err, ErrDuplicate) {
			t.Errorf("when it is done: %v", err)
		}
		if err := w.Add(ctx, "op2", []byte("two")); err != nil {
			t.Fatal(err)
		}
		w.wait(t, 2)
		time.Sleep(300 * time.Millisecond)
		w.mu.Lock()
		defer w.mu.Unlock()
		if got := fmt.Sprint(w.jobs); got != "[one two]" {
			t.Errorf("done: %s", got)
		}
	})
}

// TestAdding: a job that is added as a part of a step is as good as one of Add, and
// as much of a duplicate.
func TestAdding(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		w, ctx := start(t, o, nil), t.Context()
		s := store.Open(o)
		t.Cleanup(func() { _ = s.Close() })
		step := func(id, payload string) (bool, error) {
			t.Helper()
			add, err := w.Adding(ctx, id, []byte(payload))
			if err != nil {
				t.Fatal(err)
			}
			return s.Do(ctx, store.Step{Raise: &store.Raise{Name: "newest", N: 1, TTL: time.Minute}, Then: add})
		}
		if done, err := step("op1", "one"); !done || err != nil {
			t.Fatalf("%v, %v", done, err)
		}
		w.wait(t, 1)
		if done, err := step("op1", "other"); done || err != nil {
			t.Errorf("again: %v, %v", done, err)
		}
		if err := w.Add(ctx, "op1", nil); !errors.Is(err, ErrDuplicate) {
			t.Errorf("by Add: %v", err)
		}
		if err := w.Add(ctx, "op2", []byte("two")); err != nil {
			t.Fatal(err)
		}
		if done, err := step("op2", "other"); done || err != nil {
			t.Errorf("after Add: %v, %v", done, err)
		}
		w.wait(t, 2)
		w.mu.Lock()
		defer w.mu.Unlock()
		if got := fmt.Sprint(w.jobs); got != "[one two]" {
			t.Errorf("done: %s", got)
		}
	})
}

// TestSideBySide: jobs run at once up to the concurrency, and each is taken by
// one of two processes.
func TestSideBySide(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		var mu sync.Mutex
		at, most, done := 0, 0, map[string]int{}
		do := func(_ context.Context, _ int, job string) error {
			mu.Lock()
			at++
			most = max(most, at)
			done[job]++
			mu.Unlock()
			time.Sleep(100 * time.Millisecond)
			mu.Lock()
			at--
			mu.Unlock()
			return nil
		}
		a, b := start(t, o, do), start(t, o, do)
		for i := range 24 {
			if err := a.Add(t.Context(), fmt.Sprint("op", i), []byte(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		for deadline := time.Now().Add(10 * time.Second); len(a.calls())+len(b.calls()) < 24; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("not all are done")
			}
		}
		time.Sleep(200 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		if len(done) != 24 || most > 8 || most < 2 {
			t.Errorf("%d jobs, %d at once", len(done), most)
		}
		for job, n := range done {
			if n != 1 {
				t.Errorf("job %s was done %d times", job, n)
			}
		}
	})
}

// TestEveryKeyIsOurs: asynq's keys are put under "waggle:", in every state of a job.
func TestEveryKeyIsOurs(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		w := start(t, o, func(_ context.Context, _ int, job string) error {
			switch job {
			case "busy":
				return ErrBusy
			case "fails":
				return errors.New("no")
			}
			return nil
		})
		for _, job := range []string{"good", "busy", "fails"} {
			if err := w.Add(t.Context(), job, []byte(job)); err != nil {
				t.Fatal(err)
			}
		}
		w.wait(t, 4)
		plain := redis.NewUniversalClient(o) // without our hook
		defer plain.Close()
		keys, err := plain.Keys(t.Context(), "*").Result()
		if err != nil || len(keys) < 5 {
			t.Fatalf("%q, %v", keys, err)
		}
		for _, k := range keys {
			if !strings.HasPrefix(k, "waggle:") {
				t.Errorf("key %q", k)
			}
		}
	})
}

// TestBusy comes again in about a second, and may as often as it likes.
func TestBusy(t *testing.T) {
	t.Parallel()
	w := start(t, embedded(t), func(_ context.Context, call int, _ string) error {
		if call < 3 {
			return fmt.Errorf("wrapped: %w", ErrBusy)
		}
		return nil
	})
	if err := w.Add(t.Context(), "op1", nil); err != nil {
		t.Fatal(err)
	}
	got := w.wait(t, 3)
	for i := range 2 {
		// asynq keeps whole seconds, so it may be up to one less.
		if again := got[i+1].Sub(got[i]); again < 20*time.Millisecond || again > 3*time.Second {
			t.Errorf("again after %s", again)
		}
	}
}

// manyTries is more often than asynq does a job by default.
const manyTries = 30

// TestInterrupted comes again at once, and is no failure, however often.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	w := start(t, embedded(t), func(_ context.Context, call int, _ string) error {
		if call < manyTries {
			return ErrInterrupted
		}
		return nil
	})
	if err := w.Add(t.Context(), "op1", nil); err != nil {
		t.Fatal(err)
	}
	got := w.wait(t, manyTries)
	if again := got[1].Sub(got[0]); again > time.Second {
		t.Errorf("again after %s", again)
	}
}

// TestHandlerFails: its error is logged, and it is tried again later.
func TestHandlerFails(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	var mu sync.Mutex
	s := store.Open(embedded(t))
	t.Cleanup(func() { _ = s.Close() })
	w := &worker{do: func(_ context.Context, call int, _ string) error {
		switch call {
		case 1:
			return errors.New("Redis is away")
		case 2:
			panic("boom")
		}
		return nil
	}}
	w.Queue = New(s.Client(), Options{Name: "changes", Concurrency: 1, Poll: 100 * time.Millisecond, Log: slog.New(slog.NewTextHandler(locked{&mu, &log}, nil))})
	if err := w.Start(w.handle); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	if err := w.Add(t.Context(), "op1", nil); err != nil {
		t.Fatal(err)
	}
	got := w.wait(t, 3)
	for i, least := range []time.Duration{time.Second, 3 * time.Second} { // asynq keeps whole seconds
		if again := got[i+1].Sub(got[i]); again < least || again > least+3*time.Second {
			t.Errorf("again after %s", again)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if !strings.Contains(log.String(), "Redis is away") || strings.Contains(log.String(), "level=INFO") {
		t.Errorf("the log:\n%s", log.String())
	}
}

type locked struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (l locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func TestRetryDelay(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 2 * time.Second, 1: 4 * time.Second, 9: 20 * time.Second, 50: 30 * time.Second} {
		if got := retryDelay(n, errors.New("x"), nil); got != want {
			t.Errorf("after %d failures: %s, want %s", n, got, want)
		}
	}
}

// TestStop interrupts what runs, waits for it, and leaves it for the next process.
func TestStop(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		ended := make(chan time.Time, 1)
		first := start(t, o, func(ctx context.Context, _ int, _ string) error {
			<-ctx.Done()
			time.Sleep(300 * time.Millisecond) // writes down where it was
			ended <- time.Now()
			return ErrInterrupted
		})
		if err := first.Add(t.Context(), "op1", []byte("one")); err != nil {
			t.Fatal(err)
		}
		first.wait(t, 1)
		began := time.Now()
		first.Stop()
		stopped := time.Now()
		select {
		case at := <-ended:
			if at.After(stopped) {
				t.Error("it did not wait for the job")
			}
		default:
			t.Error("it did not wait for the job")
		}
		if took := stopped.Sub(began); took > 3*time.Second {
			t.Errorf("stopping took %s", took)
		}
		if err := first.Add(t.Context(), "op2", []byte("two")); err != nil {
			t.Errorf("a stopped worker's queue still takes jobs: %v", err)
		}
		second := start(t, o, nil)
		second.wait(t, 2)
		if err := second.Add(t.Context(), "op1", nil); !errors.Is(err, ErrDuplicate) {
			t.Errorf("the interrupted job again: %v", err)
		}
	})
}

// TestKilled: a process that was killed in the middle of a job leaves it to the next,
// which takes it up as soon as the lease has ended, once among all processes.
func TestKilled(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		die(t, o, time.Second)
		first, second := start(t, o, nil), start(t, o, nil)
		taken := 0
		for range 2 {
			for _, w := range []*worker{first, second} {
				ids, err := w.TakeUp(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				taken += len(ids)
			}
		}
		if taken != 1 {
			t.Errorf("taken up %d times", taken)
		}
		for deadline := time.Now().Add(15 * time.Second); len(first.calls())+len(second.calls()) == 0; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("not done again")
			}
		}
		if all := append(first.jobs, second.jobs...); len(all) != 1 || all[0] != "one" {
			t.Errorf("jobs: %q", all)
		}
	})
}

// TestKilledAMinuteAgo: asynq takes it up by itself.
func TestKilledAMinuteAgo(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		die(t, o, time.Minute)
		next := start(t, o, nil)
		next.wait(t, 1)
		next.mu.Lock()
		defer next.mu.Unlock()
		if next.jobs[0] != "one" {
			t.Errorf("jobs: %q", next.jobs)
		}
	})
}

// TestNothingToTakeUp: neither where no job ever was nor a job that somebody does.
func TestNothingToTakeUp(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		goOn := make(chan struct{})
		w := start(t, o, func(context.Context, int, string) error { <-goOn; return nil })
		defer close(goOn)
		for _, when := range []string{"before any job", "during one"} {
			if ids, err := w.TakeUp(t.Context()); err != nil || len(ids) > 0 {
				t.Errorf("%s: %q, %v", when, ids, err)
			}
			if err := w.Add(t.Context(), when, []byte("one")); err != nil {
				t.Fatal(err)
			}
			w.wait(t, 1)
		}
	})
}

// TestUnfinished are the jobs that run, that wait and that were put back.
func TestUnfinished(t *testing.T) {
	both(t, func(t *testing.T, o *redis.UniversalOptions) {
		goOn := make(chan struct{})
		w := start(t, o, func(_ context.Context, _ int, job string) error {
			switch job {
			case "runs":
				<-goOn
			case "waits":
				return ErrBusy
			}
			return nil
		})
		end := sync.OnceFunc(func() { close(goOn) })
		defer end()
		if jobs, err := w.Unfinished(t.Context()); err != nil || len(jobs) > 0 {
			t.Errorf("before any job: %q, %v", jobs, err)
		}
		for _, job := range []string{"done", "waits", "runs"} {
			if err := w.Add(t.Context(), job, []byte(job)); err != nil {
				t.Fatal(err)
			}
		}
		var jobs [][]byte
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			var err error
			if jobs, err = w.Unfinished(t.Context()); err != nil {
				t.Fatal(err)
			}
			if all := string(bytes.Join(jobs, []byte(" "))); strings.Contains(all, "waits") && strings.Contains(all, "runs") && !strings.Contains(all, "done") {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("unfinished: %s", all)
			}
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := w.Unfinished(ended); err == nil {
			t.Error("it goes on when nobody waits for it")
		}
	})
}

// die kills a process in the middle of the job op1, and has its lease end that long
// ago. It would in 30 s: a test does not wait for that.
func die(t *testing.T, o *redis.UniversalOptions, ago time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "WAGGLE_TEST_WORKER="+o.Addrs[0])
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })

	s := store.Open(o)
	t.Cleanup(func() { _ = s.Close() })
	adder := New(s.Client(), Options{Name: "changes", Concurrency: 1, Poll: 100 * time.Millisecond, Log: discard()})
	if err := adder.Add(t.Context(), "op1", []byte("one")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	if _, err := out.Read(buf); err != nil || string(buf) != "begun" {
		t.Fatalf("%q, %v", buf, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed

	plain := redis.NewUniversalClient(o)
	defer plain.Close()
	lease := "waggle:asynq:{changes}:lease"
	held, err := plain.ZRange(t.Context(), lease, 0, -1).Result()
	if err != nil || len(held) != 1 {
		t.Fatalf("leases: %q, %v", held, err)
	}
	if err := plain.ZAdd(t.Context(), lease, redis.Z{Score: float64(time.Now().Add(-ago).Unix()), Member: held[0]}).Err(); err != nil {
		t.Fatal(err)
	}
}

// TestMain is the process that TestKilled kills, when that starts it.
func TestMain(m *testing.M) {
	if addr := os.Getenv("WAGGLE_TEST_WORKER"); addr != "" {
		workerProcess(addr)
	}
	os.Exit(m.Run())
}

// workerProcess begins jobs and never ends them.
func workerProcess(addr string) {
	s := store.Open(&redis.UniversalOptions{Addrs: []string{addr}})
	q := New(s.Client(), Options{Name: "changes", Concurrency: 4, Poll: 100 * time.Millisecond, Log: discard()})
	err := q.Start(func(context.Context, []byte) error {
		fmt.Print("begun")
		select {}
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	select {}
}

// TestRedisIsAway: an Add that is not stored says so, never as a duplicate, and whether
// that is certain.
func TestRedisIsAway(t *testing.T) {
	t.Parallel()
	e, err := store.StartEmbedded()
	if err != nil {
		t.Fatal(err)
	}
	add := func(on *redis.UniversalOptions) func(within time.Duration) error {
		s := store.Open(on)
		t.Cleanup(func() { _ = s.Close() })
		q := New(s.Client(), Options{Name: "changes", Concurrency: 1, Poll: 100 * time.Millisecond, Log: discard()})
		n := 0
		return func(within time.Duration) error {
			n++
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			return q.Add(ctx, fmt.Sprint("op", n), nil)
		}
	}
	gone := add(e.Options())
	if err := gone(time.Second); err != nil {
		t.Fatal(err)
	}
	e.Close()
	for range 2 { // with the connection of before, and without
		if err := gone(1500 * time.Millisecond); err == nil || errors.Is(err, ErrDuplicate) || !store.NotDone(err) {
			t.Errorf("with no Redis: %v, and that it is not stored is %t", err, store.NotDone(err))
		}
	}

	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := add(&redis.UniversalOptions{Addrs: []string{silent.Addr().String()}})(200 * time.Millisecond); err == nil || errors.Is(err, ErrDuplicate) || store.NotDone(err) {
		t.Errorf("with a Redis that hangs: %v, and that it is not stored is %t", err, store.NotDone(err))
	}
}

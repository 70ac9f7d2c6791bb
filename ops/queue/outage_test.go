package queue

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"waggle/ops/store"
)

// lines is a log that a test reads while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// of returns the lines at a level.
func (l *lines) of(levels ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for line := range strings.Lines(l.buf.String()) {
		for _, level := range levels {
			if strings.Contains(line, "level="+level) {
				out = append(out, line)
			}
		}
	}
	return out
}

// TestOutageIsTwoLines: while Redis is away from the start on, two queues log one line, and
// one when it is back, though dozens of their calls fail meanwhile.
func TestOutageIsTwoLines(t *testing.T) {
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := port.Addr().String()
	_ = port.Close() // nobody listens there
	var said lines
	log := slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s := store.Open(&redis.UniversalOptions{Addrs: []string{addr}})
	t.Cleanup(func() { _ = s.Close() })
	s.LogOutages(log)
	t.Cleanup(func() { s.LogOutages(discard()) }) // go-redis has one logger for all tests
	for _, name := range []string{"changes", "deploys"} {
		q := New(s.Client(), Options{Name: name, Concurrency: 4, Poll: 20 * time.Millisecond, Log: log, Away: s.Away})
		if err := q.Start(func(context.Context, []byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(q.Stop)
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not in time: %s\n%s", what, strings.Join(said.of("INFO", "WARN", "ERROR"), ""))
			}
		}
	}
	until("failing calls", func() bool {
		failing := 0
		for _, line := range said.of("DEBUG") {
			if strings.Contains(line, "connection refused") {
				failing++
			}
		}
		return failing >= 30 && s.Away()
	})
	loud := said.of("INFO", "WARN", "ERROR")
	if len(loud) != 1 || !strings.Contains(loud[0], `level=WARN msg="can't reach Redis: dial tcp`) || !strings.Contains(loud[0], "; trying again") {
		t.Errorf("while it is away:\n%s", strings.Join(loud, ""))
	}
	back := miniredis.NewMiniRedis()
	if err := back.StartAddr(addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(back.Close)
	until("the end of the outage", func() bool { return len(said.of("INFO")) > 0 })
	loud = said.of("INFO", "WARN", "ERROR")
	if len(loud) != 2 || !strings.Contains(loud[1], "Redis answers again after") || s.Away() {
		t.Errorf("when it is back:\n%s", strings.Join(loud, ""))
	}
}

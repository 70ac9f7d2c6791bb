package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// TestOutage: what begins one and what ends one.
func TestOutage(t *testing.T) {
	clock := time.Unix(1000, 0)
	var said bytes.Buffer
	o := &outage{now: func() time.Time { return clock }, log: slog.New(slog.NewTextHandler(&said, nil))}
	call := func(began time.Time, err error) {
		clock = clock.Add(time.Second)
		o.note(began, err)
	}
	away := func(want bool, when string) {
		t.Helper()
		if got := !o.began.IsZero(); got != want {
			t.Errorf("%s: away %t", when, got)
		}
	}
	call(clock, nil)
	slow := clock
	call(clock, redis.Nil)
	call(slow, context.DeadlineExceeded)
	away(false, "a slow call, while others are answered")
	for _, err := range []error{context.Canceled, redis.ErrPoolTimeout, redis.ErrClosed} {
		call(clock, err)
		away(false, err.Error())
	}
	call(clock, errors.New("dial tcp: connection refused"))
	away(true, "refused")
	for range 40 {
		call(clock, io.EOF)
	}
	call(clock, redis.Nil)
	away(false, "answered")
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "can't reach Redis: dial tcp: connection refused; trying again") ||
		!strings.Contains(lines[1], "Redis answers again after 41s") {
		t.Errorf("it says %q", lines)
	}
}

package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Script is a Lua program with its keys and arguments. It returns 1 when it did
// what it is for, 0 when there was nothing to do.
type Script struct {
	Text string
	Keys []string
	Args []any
}

// Step is what is done as one step for all who do: all of it or nothing, in one
// round trip and one write to disk. In a Redis cluster its keys have to be in one slot.
type Step struct {
	Swap  *Swap
	Raise *Raise
	Then  *Script // what else; when that returns 0 nothing is done
}

// Swap stores New under Name if Old, nil for nothing, is there.
type Swap struct {
	Name     string
	Old, New []byte
	TTL      time.Duration
}

// Raise stores N under Name unless a higher number is there.
type Raise struct {
	Name  string
	N     int64
	TTL   time.Duration
	Above bool // and nothing is done at all unless N is higher than what is there
}

// ErrChanged says that a Step was not done, since something else is stored by now.
var ErrChanged = errors.New("it was changed since it was read")

// shape is what scripts of steps differ in.
type shape struct {
	swap, raise, above bool
	then               string
}

const stepChanged = -1

// Do does a step, and says whether it was done: false means that Then had nothing
// to do. It returns ErrChanged when Swap or Raise were not to be done.
func (s *Store) Do(ctx context.Context, step Step) (bool, error) {
	var keys []string
	var args []any
	var of shape
	if w := step.Swap; w != nil {
		of.swap = true
		keys, args = append(keys, prefix+w.Name), append(args, w.Old, w.New, int64(w.TTL.Seconds()))
	}
	if r := step.Raise; r != nil {
		of.raise, of.above = true, r.Above
		keys, args = append(keys, prefix+r.Name), append(args, r.N, int64(r.TTL.Seconds()))
	}
	if t := step.Then; t != nil {
		of.then = t.Text
		keys, args = append(keys, t.Keys...), append(args, t.Args...)
	}
	script, known := s.steps.Load(of)
	if !known {
		script, _ = s.steps.LoadOrStore(of, redis.NewScript(of.text()))
	}
	n, err := script.(*redis.Script).Run(ctx, s.rdb, keys, args...).Int()
	switch {
	case err != nil:
		return false, fmt.Errorf("store %s: %w", strings.Join(keys, ", "), err)
	case n == stepChanged:
		return false, ErrChanged
	}
	return n == 1, nil
}

// text is the script: what has to hold, then Then, then what is written.
func (of shape) text() string {
	var holds, writes strings.Builder
	keys, args := 0, 0
	if of.swap {
		fmt.Fprintf(&holds, "if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return %d end\n", stepChanged)
		fmt.Fprint(&writes, "redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])\n")
		keys, args = 1, 3
	}
	if of.raise {
		key, n := keys+1, args+1
		fmt.Fprintf(&holds, "local now = tonumber(redis.call('GET', KEYS[%d]) or '0')\n", key)
		if of.above {
			fmt.Fprintf(&holds, "if tonumber(ARGV[%d]) <= now then return %d end\n", n, stepChanged)
		}
		fmt.Fprintf(&writes, "if tonumber(ARGV[%d]) > now then redis.call('SET', KEYS[%d], ARGV[%d], 'EX', ARGV[%d]) end\n", n, key, n, n+1)
		keys, args = key, n+1
	}
	if of.then != "" {
		fmt.Fprintf(&holds, "local function also(KEYS, ARGV)\n%s\nend\nif also({unpack(KEYS, %d)}, {unpack(ARGV, %d)}) ~= 1 then return 0 end\n", of.then, keys+1, args+1)
	}
	return holds.String() + writes.String() + "return 1"
}

// Values reads what is stored under each of the names, nil where nothing is.
func (s *Store) Values(ctx context.Context, names ...string) ([][]byte, error) {
	keys := make([]string, len(names))
	for i, n := range names {
		keys[i] = prefix + n
	}
	all, err := s.rdb.MGet(ctx, keys...).Result()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", strings.Join(names, ", "), err)
	}
	out := make([][]byte, len(all))
	for i, v := range all {
		if text, ok := v.(string); ok {
			out[i] = []byte(text)
		}
	}
	return out, nil
}

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
	Extend *Extend
	Raise  *Raise
	Then   *Script // what else; when that returns 0 nothing is done
}

// Extend puts New at the end of the list under Name if Last, nil for an empty list,
// is its end. No two entries may be alike.
type Extend struct {
	Name string
	Last []byte
	New  [][]byte
	Most int // how many stay, of the last ones
	TTL  time.Duration
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
	entries      int // that a list gets; 0 for no list
	raise, above bool
	then         string
}

const stepChanged = -1

// Do does a step, and says whether it was done: false means that Then had nothing
// to do. It returns ErrChanged when Extend or Raise were not to be done.
func (s *Store) Do(ctx context.Context, step Step) (bool, error) {
	var keys []string
	var args []any
	var of shape
	if x := step.Extend; x != nil {
		of.entries = len(x.New)
		keys, args = append(keys, prefix+x.Name), append(args, x.Last, -x.Most, int64(x.TTL.Seconds()))
		for _, entry := range x.New {
			args = append(args, entry)
		}
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
	if of.entries > 0 {
		fmt.Fprintf(&holds, "if (redis.call('LINDEX', KEYS[1], -1) or '') ~= ARGV[1] then return %d end\n", stepChanged)
		keys, args = 1, 3+of.entries
		fmt.Fprintf(&writes, "redis.call('RPUSH', KEYS[1], unpack(ARGV, 4, %d))\nredis.call('LTRIM', KEYS[1], ARGV[2], -1)\nredis.call('EXPIRE', KEYS[1], ARGV[3])\n", args)
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

// ListAndNumber reads, at one moment, the list that Extend makes and the number that
// Raise does, 0 where there is none.
func (s *Store) ListAndNumber(ctx context.Context, list, number string) ([][]byte, int64, error) {
	var entries *redis.StringSliceCmd
	var n *redis.StringCmd
	_, err := s.rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
		entries, n = p.LRange(ctx, prefix+list, 0, -1), p.Get(ctx, prefix+number)
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, 0, fmt.Errorf("read %s and %s: %w", list, number, err)
	}
	out := make([][]byte, len(entries.Val()))
	for i, entry := range entries.Val() {
		out[i] = []byte(entry)
	}
	if errors.Is(n.Err(), redis.Nil) {
		return out, 0, entries.Err()
	}
	value, err := n.Int64()
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", number, err)
	}
	return out, value, entries.Err()
}

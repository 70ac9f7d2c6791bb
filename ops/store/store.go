// Package store is what Waggle keeps in Redis: locks, what is in flight, and
// the recent audit stream. Every key is under "waggle:". Nothing here knows what
// an operation is; FLUSHALL loses only what was in flight.
package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const prefix = "waggle:"

// Store is a connection to Redis. It is safe for concurrent use.
type Store struct {
	rdb redis.UniversalClient
	now func() time.Time
	ttl time.Duration // of locks

	outage *outage
	steps  sync.Map // shape to *redis.Script
}

// Open returns a store on the given Redis without connecting yet. Options that are
// set are kept; zero means unset.
func Open(opts *redis.UniversalOptions) *Store {
	o := *opts
	o.DialTimeout = cmp.Or(o.DialTimeout, 2*time.Second)
	o.ReadTimeout = cmp.Or(o.ReadTimeout, 3*time.Second)
	o.WriteTimeout = cmp.Or(o.WriteTimeout, 3*time.Second)
	o.ContextTimeoutEnabled = true
	// With more, whoever waits for an answer gives up before it is known that there is
	// no connection, and cannot tell whether Redis has taken what it was sent.
	o.DialerRetries = cmp.Or(o.DialerRetries, 2)
	// A queue's worker and a dozen operations share the pool; idle ones are closed.
	o.PoolSize = cmp.Or(o.PoolSize, 20)
	o.MinIdleConns = cmp.Or(o.MinIdleConns, 1)
	rdb := redis.NewUniversalClient(&o)
	s := &Store{rdb: rdb, now: time.Now, ttl: leaseTTL, outage: &outage{now: time.Now}}
	rdb.AddHook(namespace{})
	rdb.AddHook(s.outage)
	return s
}

// Client returns the Redis connection for a queue that lives on the same Redis;
// it puts the queue's keys under "waggle:" too.
func (s *Store) Client() redis.UniversalClient { return s.rdb }

// Close closes the connections.
func (s *Store) Close() error { return s.rdb.Close() }

// Ping returns nil when Redis answers and takes writes.
func (s *Store) Ping(ctx context.Context) error {
	// A PING is answered by a replica and by a full Redis too.
	return s.rdb.Set(ctx, prefix+"ping", s.now().Unix(), time.Minute).Err()
}

// NotDone says whether it is certain that Redis did not do what ended with err: no
// connection came about, or Redis says so itself. After a timeout it is not.
func NotDone(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial" || errors.As(err, new(redis.Error))
}

// ErrNotFound says that nothing is stored under a name.
var ErrNotFound = errors.New("not in Redis")

// Put stores v as JSON under name; a ttl of 0 keeps it.
func (s *Store) Put(ctx context.Context, name string, v any, ttl time.Duration) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	if err := s.rdb.Set(ctx, prefix+name, b, ttl).Err(); err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	return nil
}

// Get reads what Put stored into v, or returns ErrNotFound.
func (s *Store) Get(ctx context.Context, name string, v any) error {
	b, err := s.rdb.Get(ctx, prefix+name).Bytes()
	if errors.Is(err, redis.Nil) {
		return ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %s: %w", name, err)
	}
	return nil
}

// Add puts a member into a set.
func (s *Store) Add(ctx context.Context, set, member string) error {
	return s.rdb.SAdd(ctx, prefix+set, member).Err()
}

// Remove takes a member out of a set.
func (s *Store) Remove(ctx context.Context, set, member string) error {
	return s.rdb.SRem(ctx, prefix+set, member).Err()
}

// Members lists a set.
func (s *Store) Members(ctx context.Context, set string) ([]string, error) {
	return s.rdb.SMembers(ctx, prefix+set).Result()
}

var raise = redis.NewScript(`
local now = tonumber(redis.call("GET", KEYS[1]) or "0")
if tonumber(ARGV[1]) > now then redis.call("SET", KEYS[1], ARGV[1], "EX", ARGV[2]); return tonumber(ARGV[1]) end
return now`)

// Raise stores n under name unless a higher number is there, and returns the
// higher of the two.
func (s *Store) Raise(ctx context.Context, name string, n int64, ttl time.Duration) (int64, error) {
	return raise.Run(ctx, s.rdb, []string{prefix + name}, n, int64(ttl.Seconds())).Int64()
}

// Schedule puts a member into a list ordered by time, or moves it there.
func (s *Store) Schedule(ctx context.Context, list, member string, at time.Time) error {
	return s.rdb.ZAdd(ctx, prefix+list, redis.Z{Score: float64(at.UnixMilli()), Member: member}).Err()
}

// Scheduled returns the members whose time is not after until, the earliest
// first; the zero time returns all.
func (s *Store) Scheduled(ctx context.Context, list string, until time.Time) ([]string, error) {
	upTo := "+inf"
	if !until.IsZero() {
		upTo = strconv.FormatInt(until.UnixMilli(), 10)
	}
	return s.rdb.ZRangeByScore(ctx, prefix+list, &redis.ZRangeBy{Min: "-inf", Max: upTo}).Result()
}

// Unschedule takes a member out of a list of Schedule.
func (s *Store) Unschedule(ctx context.Context, list, member string) error {
	return s.rdb.ZRem(ctx, prefix+list, member).Err()
}

// Reschedule moves a member of a list of Schedule, if it is there.
func (s *Store) Reschedule(ctx context.Context, list, member string, at time.Time) error {
	return s.rdb.ZAddXX(ctx, prefix+list, redis.Z{Score: float64(at.UnixMilli()), Member: member}).Err()
}

// IsScheduled reports whether a member is in a list of Schedule.
func (s *Store) IsScheduled(ctx context.Context, list, member string) (bool, error) {
	err := s.rdb.ZScore(ctx, prefix+list, member).Err()
	if errors.Is(err, redis.Nil) {
		return false, nil
	}
	return err == nil, err
}

var claim = redis.NewScript(`
if redis.call("ZREM", KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call("SET", KEYS[2], ARGV[2], "EX", ARGV[3])
redis.call("SADD", KEYS[3], ARGV[4])
return 1`)

// Claim takes a member out of a list of Schedule, stores v under name and adds
// id to a set, all at once. Of several that try, one is told true.
func (s *Store) Claim(ctx context.Context, list, member, name string, v any, ttl time.Duration, set, id string) (bool, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return false, fmt.Errorf("encode %s: %w", name, err)
	}
	return claim.Run(ctx, s.rdb, []string{prefix + list, prefix + name, prefix + set}, member, b, int64(ttl.Seconds()), id).Bool()
}

var removeListed = redis.NewScript(`
if redis.call("ZSCORE", KEYS[1], ARGV[1]) then return redis.call("SREM", KEYS[2], ARGV[2]) end
return 0`)

// RemoveListed takes id out of a set unless Claim has put it there: that is, only while
// member is in the list.
func (s *Store) RemoveListed(ctx context.Context, list, member, set, id string) error {
	return removeListed.Run(ctx, s.rdb, []string{prefix + list, prefix + set}, member, id).Err()
}

// Delete removes what is stored under name.
func (s *Store) Delete(ctx context.Context, name string) error {
	return s.rdb.Del(ctx, prefix+name).Err()
}

// Entries returns the newest entries of a stream as JSON, newest first: those
// before the given id ("" for the end), at most n. ids name them for the next call.
func (s *Store) Entries(ctx context.Context, stream, before string, n int64) (entries []json.RawMessage, ids []string, err error) {
	end := "+"
	if before != "" {
		end = "(" + before
	}
	all, err := s.rdb.XRevRangeN(ctx, prefix+stream, end, "-", n).Result()
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", stream, err)
	}
	for _, m := range all {
		if text, ok := m.Values["json"].(string); ok {
			entries, ids = append(entries, json.RawMessage(text)), append(ids, m.ID)
		}
	}
	return entries, ids, nil
}

// Append adds one entry to a stream that keeps about its last max entries.
func (s *Store) Append(ctx context.Context, stream string, entry any, max int64) error {
	b, err := json.Marshal(entry)
	if err != nil {
		return fmt.Errorf("encode %s entry: %w", stream, err)
	}
	return s.rdb.XAdd(ctx, &redis.XAddArgs{
		Stream: prefix + stream, MaxLen: max, Approx: true, Values: map[string]any{"json": b},
	}).Err()
}

// namespace is a go-redis hook that puts the queue library's keys, which it
// names "asynq:…" without a way to change that, under "waggle:" with all others.
// It rewrites keys and key prefixes in the arguments; the channel names of
// PUBLISH stay, because subscriptions do not pass through hooks.
type namespace struct{}

func (namespace) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (namespace) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		rename(cmd)
		return next(ctx, cmd)
	}
}

func (namespace) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			rename(cmd)
		}
		return next(ctx, cmds)
	}
}

func rename(cmd redis.Cmder) {
	if cmd.Name() == "publish" {
		return
	}
	for i, arg := range cmd.Args() {
		if s, ok := arg.(string); ok && i > 0 && strings.HasPrefix(s, "asynq:") {
			cmd.Args()[i] = prefix + s
		}
	}
}

package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// leaseTTL is how long a lock outlives an owner that died. The owner refreshes
// it three times in that time.
const leaseTTL = 15 * time.Second

// Claim says who holds a lock, why and since when. It is shown to whoever is refused.
type Claim struct {
	// ID, when set, lets the same owner take its own lock again after a restart.
	// Only one process at a time may work under an ID.
	ID     string    `json:"id,omitempty"`
	Owner  string    `json:"owner"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

// HeldError says that a lock is somebody else's.
type HeldError struct {
	Name string
	Claim
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("%s is locked by %s (%s) since %s", e.Name, e.Owner, e.Reason, e.Since.UTC().Format(time.TimeOnly))
}

// ErrLost is the cause of a lease's context when the lock was lost.
var ErrLost = errors.New("the lock was lost: Redis did not answer in time or somebody took it")

// Lease is a held lock. Its context ends when the lock is lost or released.
type Lease struct {
	store  *Store
	key    string
	value  string // what Redis holds under key as long as the lock is ours
	token  int64
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   sync.WaitGroup
	sure   atomic.Pointer[time.Time] // until sure+ttl the lock is certainly ours
}

// held is what Redis holds under a lock's key. Token is the fencing token: Redis' clock in
// microseconds, so it grows with each taking, also after Redis was emptied.
type held struct {
	Claim
	Token int64 `json:"token"`
}

// take sets the lock if it is free or the claim's own ID holds it, and returns 1 and the value
// that was set, or 0 and the holder's.
var take = redis.NewScript(`
local old = redis.call("GET", KEYS[1])
local token = 0
if old then
  local ok, holder = pcall(cjson.decode, old)
  if not ok or ARGV[2] == "" or holder.id ~= ARGV[2] then return {0, old} end
  token = (tonumber(holder.token) or 0) + 1
end
local now = redis.call("TIME")
token = math.max(token, tonumber(now[1]) * 1000000 + tonumber(now[2]))
local value = string.sub(ARGV[1], 1, -2) .. string.format(',"token":%.0f}', token)
redis.call("SET", KEYS[1], value, "PX", ARGV[3])
return {1, value}`)

// Lock takes the named lock, or returns a *HeldError with the holder's claim. The returned
// lease's Context is a child of ctx.
//
// Nothing is safe because the lock is held: a process can sleep through its lease. What is
// written under it is fenced: a service by its version index, a record by the lease's token
// (see Write). Source: https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/
func (s *Store) Lock(ctx context.Context, name string, claim Claim) (*Lease, error) {
	claim.Since = s.now()
	text, err := json.Marshal(claim)
	if err != nil {
		return nil, err
	}
	key := prefix + "lock:" + name
	asked := time.Now() // the lease runs from before Redis was asked, not from its answer
	got, err := take.Run(ctx, s.rdb, []string{key}, text, claim.ID, s.ttl.Milliseconds()).Slice()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	taken, _ := got[0].(int64)
	value, _ := got[1].(string)
	var holder held
	if err := json.Unmarshal([]byte(value), &holder); err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err) // a lock that can't be read blocks
	}
	if taken != 1 {
		return nil, &HeldError{name, holder.Claim}
	}
	return s.newLease(ctx, key, value, holder.Token, asked), nil
}

// Holder returns the claim of whoever holds the lock, or ErrNotFound.
func (s *Store) Holder(ctx context.Context, name string) (Claim, error) {
	var h held
	err := s.Get(ctx, "lock:"+name, &h)
	return h.Claim, err
}

func (s *Store) newLease(ctx context.Context, key, value string, token int64, asked time.Time) *Lease {
	l := &Lease{store: s, key: key, value: value, token: token}
	l.sure.Store(&asked)
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	l.done.Go(l.refresh)
	return l
}

// Context ends with ErrLost as its cause when the lock is lost.
func (l *Lease) Context() context.Context { return l.ctx }

// Valid reports whether the lock is certainly still ours: the process has not slept through
// the lease, and Redis has confirmed it in time.
func (l *Lease) Valid() bool { return l.ctx.Err() == nil && l.age() < l.store.ttl }

func (l *Lease) age() time.Duration { return time.Since(*l.sure.Load()) }

// extend refreshes the lock. One that is gone within its time was not taken by anybody: Redis was
// emptied or restored from an older file, and the lock is set again.
var extend = redis.NewScript(`
local now = redis.call("GET", KEYS[1])
if now and now ~= ARGV[1] then return 0 end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return 1`)
var drop = redis.NewScript(`if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) end return 0`)

// refresh extends the lock until the lease ends, and gives up before the lock
// could be somebody else's.
func (l *Lease) refresh() {
	ttl := l.store.ttl
	tick := time.NewTicker(ttl / 3)
	defer tick.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		if l.age() >= ttl {
			l.cancel(ErrLost)
			return
		}
		asked := time.Now()
		ctx, cancel := context.WithTimeout(l.ctx, ttl/5)
		n, err := extend.Run(ctx, l.store.rdb, []string{l.key}, l.value, ttl.Milliseconds()).Int()
		cancel()
		switch {
		case err == nil && n == 1:
			l.sure.Store(&asked)
		case err == nil, l.age() > ttl*3/5:
			l.cancel(ErrLost)
			return
		}
	}
}

// Release ends the lease and frees the lock if it is still ours.
func (l *Lease) Release() {
	l.cancel(context.Canceled)
	l.done.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), 2*time.Second)
	defer cancel()
	_ = drop.Run(ctx, l.store.rdb, []string{l.key}, l.value).Err() // else it runs out by itself
}

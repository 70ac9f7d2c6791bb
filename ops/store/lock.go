package store

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
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
	value  string
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   sync.WaitGroup
}

type held struct {
	Claim
	Token string `json:"token"`
}

var swap = redis.NewScript(`if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("SET", KEYS[1], ARGV[2], "PX", ARGV[3]) end return false`)

// Lock takes the named lock, or returns a *HeldError with the holder's claim.
// The fence for what is written under it is the swarm's version index: the lock
// only keeps people out of each other's way. The returned lease's Context is
// a child of ctx. Source: https://redis.io/docs/latest/commands/set/#patterns
func (s *Store) Lock(ctx context.Context, name string, claim Claim) (*Lease, error) {
	claim.Since = s.now()
	value, err := json.Marshal(held{claim, rand.Text()})
	if err != nil {
		return nil, err
	}
	key := prefix + "lock:" + name
	// A holder may let go between the two commands; look again a few times.
	for range 3 {
		err = s.rdb.SetArgs(ctx, key, value, redis.SetArgs{Mode: "NX", TTL: s.ttl}).Err()
		if err == nil {
			return s.newLease(ctx, key, string(value)), nil
		}
		if !errors.Is(err, redis.Nil) {
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		old, err := s.rdb.Get(ctx, key).Result()
		if errors.Is(err, redis.Nil) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", name, err) // a lock that can't be read blocks
		}
		var holder held
		if err := json.Unmarshal([]byte(old), &holder); err != nil {
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		if claim.ID == "" || claim.ID != holder.ID {
			return nil, &HeldError{name, holder.Claim}
		}
		err = swap.Run(ctx, s.rdb, []string{key}, old, value, s.ttl.Milliseconds()).Err()
		if err == nil {
			return s.newLease(ctx, key, string(value)), nil
		}
		if !errors.Is(err, redis.Nil) {
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
	}
	return nil, fmt.Errorf("lock %s: it changes hands too fast", name)
}

// Holder returns the claim of whoever holds the lock, or ErrNotFound.
func (s *Store) Holder(ctx context.Context, name string) (Claim, error) {
	var h held
	err := s.Get(ctx, "lock:"+name, &h)
	return h.Claim, err
}

func (s *Store) newLease(ctx context.Context, key, value string) *Lease {
	l := &Lease{store: s, key: key, value: value}
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	l.done.Go(l.refresh)
	return l
}

// Context ends with ErrLost as its cause when the lock is lost.
func (l *Lease) Context() context.Context { return l.ctx }

var extend = redis.NewScript(`if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("PEXPIRE", KEYS[1], ARGV[2]) end return 0`)
var drop = redis.NewScript(`if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) end return 0`)

// refresh extends the lock until the lease ends, and gives up before the lock
// could be somebody else's.
func (l *Lease) refresh() {
	ttl := l.store.ttl
	tick := time.NewTicker(ttl / 3)
	defer tick.Stop()
	sure := time.Now() // until sure+ttl the lock is certainly ours
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		asked := time.Now()
		ctx, cancel := context.WithTimeout(l.ctx, ttl/5)
		n, err := extend.Run(ctx, l.store.rdb, []string{l.key}, l.value, ttl.Milliseconds()).Int()
		cancel()
		switch {
		case err == nil && n == 1:
			sure = asked
		case err == nil, time.Since(sure) > ttl*3/5:
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

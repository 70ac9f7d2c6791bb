package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Write is one write of a record, done under a lease, with everything that has to be true in the
// same moment: one Redis script, all of it or nothing.
type Write struct {
	Name  string // of the record
	Value any    // stored as JSON; its "state" says whether it is final
	TTL   time.Duration
	// Final are the states after which the record never changes.
	Final []string
	// Unless names a key: while it exists nothing is written.
	Unless string
	Also   []Command
}

// Command is a Redis command whose first argument is a name of the store.
type Command struct {
	Do   string // "SADD"
	Name string
	Args []any
}

var (
	// ErrFinal says that a record was not written because its state is final.
	ErrFinal = errors.New("the record is final")
	// ErrUnless says that a record was not written because the key of Unless exists.
	ErrUnless = errors.New("the record may not be written any more")
)

// put writes under a fence. The lock has to hold our value. Where it is gone, the writer says
// whether its lease still runs; a write that was under way for longer than that is recognised by
// the record, which a later holder has written.
var put = redis.NewScript(`
local held = redis.call("GET", KEYS[2])
local old = redis.call("GET", KEYS[1])
local ok, rec = false, nil
if old then ok, rec = pcall(cjson.decode, old) end
if ok and string.find(ARGV[6], " " .. tostring(rec.state) .. " ", 1, true) then return "final" end
if held and held ~= ARGV[1] then return "lost" end
if not held and (ARGV[2] ~= "1" or ok and (tonumber(rec.token) or 0) > tonumber(ARGV[3])) then return "lost" end
if ARGV[7] == "1" and redis.call("EXISTS", KEYS[3]) == 1 then return "unless" end
if not held then redis.call("SET", KEYS[2], ARGV[1], "PX", ARGV[8]) end
redis.call("SET", KEYS[1], ARGV[4], "PX", ARGV[5])
local i = 9
while i <= #ARGV do
  local n = tonumber(ARGV[i])
  redis.call(unpack(ARGV, i + 1, i + n))
  i = i + n + 1
end
return "ok"`)

// Token is the lease's fencing token, to be stored in the record as "token".
func (l *Lease) Token() int64 { return l.token }

// Write stores a record that only the lease's holder may write. It returns ErrLost when the lock
// is not ours any more, ErrFinal when the record is final, ErrUnless when w.Unless exists; then
// nothing was written.
func (l *Lease) Write(ctx context.Context, w Write) error {
	value, err := json.Marshal(w.Value)
	if err != nil {
		return fmt.Errorf("encode %s: %w", w.Name, err)
	}
	valid, guarded := "0", "0"
	if l.Valid() {
		valid = "1"
	}
	keys := []string{prefix + w.Name, l.key}
	if w.Unless != "" {
		guarded, keys = "1", append(keys, prefix+w.Unless)
	}
	args := []any{l.value, valid, l.token, value, w.TTL.Milliseconds(), " " + strings.Join(w.Final, " ") + " ", guarded, l.store.ttl.Milliseconds()}
	for _, c := range w.Also {
		args = append(args, len(c.Args)+2, c.Do, prefix+c.Name)
		args = append(args, c.Args...)
		keys = append(keys, prefix+c.Name)
	}
	got, err := put.Run(ctx, l.store.rdb, keys, args...).Text()
	switch {
	case err != nil:
		return fmt.Errorf("store %s: %w", w.Name, err)
	case got == "lost":
		return ErrLost
	case got == "final":
		return ErrFinal
	case got == "unless":
		return ErrUnless
	}
	return nil
}

var putUnlessSet = redis.NewScript(`
local old = redis.call("GET", KEYS[1])
if old then
  local ok, rec = pcall(cjson.decode, old)
  if ok and rec[ARGV[1]] then return 0 end
  if ok and string.find(ARGV[2], " " .. tostring(rec.state) .. " ", 1, true) then return 0 end
end
redis.call("SET", KEYS[2], ARGV[3], "PX", ARGV[4])
return 1`)

// PutUnless stores v under name unless the record is in one of the final states or has the given
// field set, and says whether it did.
func (s *Store) PutUnless(ctx context.Context, record, field string, final []string, name string, v any, ttl time.Duration) (bool, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return false, fmt.Errorf("encode %s: %w", name, err)
	}
	return putUnlessSet.Run(ctx, s.rdb, []string{prefix + record, prefix + name}, field, " "+strings.Join(final, " ")+" ", b, ttl.Milliseconds()).Bool()
}

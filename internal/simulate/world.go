package simulate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"

	"waggle/ops"
)

// Writers that are no operation.
const (
	bySwarm = "swarm"  // its own rollback
	byHand  = "docker" // somebody on a manager
)

// world is everything outside of the replicas, and records the history.
type world struct {
	plan    *plan
	redis   *redisServer
	swarm   *swarm
	dir     string       // of every commit's files
	handler slog.Handler // of the replicas' logs
	began   time.Time
	end     chan struct{} // closed when the simulation is over

	people sync.WaitGroup // who ask and click

	mu       sync.Mutex
	quiet    bool // every fault is over
	replicas []*replica
	counts   map[point]int
	head     int                   // the newest commit
	pushed   map[int]time.Duration // when commits were
	history  history
	asked    map[string]bool // tokens of pending approvals that were seen
	refs     int             // messages that were posted
	asking   int             // requests in transit
}

func (w *world) since() time.Duration { return time.Since(w.began) }

// now is the current time as a word for hash.
func (w *world) now() int64 { return int64(w.since()) }

func (w *world) note(who, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log(who, format, args...)
}

// log is note for callers that hold the lock.
func (w *world) log(who, format string, args ...any) {
	w.history.lines = append(w.history.lines, line{w.since(), who, fmt.Sprintf(format, args...)})
}

// recordWrite records the write of a service.
func (w *world) recordWrite(x write) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x.at = w.since()
	w.history.writes = append(w.history.writes, x)
	what := "writes"
	if x.undo {
		what = "goes back to"
	}
	text := fmt.Sprintf("%s %s %s: %s → %s", x.by, what, x.app, x.from, x.to)
	if x.lost {
		text += ", and the answer is lost"
	}
	who := x.on
	if who == "" {
		who = x.by
	}
	w.log(who, "%s", text)
}

// duration returns a number of milliseconds in a range.
func (w *world) duration(from, to int, words ...any) time.Duration {
	return time.Duration(from+int(w.plan.hash(words...)%uint64(to-from))) * time.Millisecond
}

// chance is true once in n.
func (w *world) chance(n int, words ...any) bool { return w.plan.hash(words...)%uint64(n) == 0 }

// away reports whether a part is away, and since when.
func (w *world) away(part string) (since time.Duration, away bool) {
	now := w.since()
	for _, o := range w.plan.outages {
		if o.part == part && now >= o.from && now < o.from+o.long {
			return now - o.from, true
		}
	}
	return 0, false
}

func (w *world) redisAway() bool {
	_, away := w.away(partRedis)
	return away
}

func (w *world) leaderAway() (time.Duration, bool) { return w.away(partLeader) }

func (w *world) slackAway() bool {
	_, away := w.away(partSlack)
	return away
}

func (w *world) slow() bool {
	_, away := w.away(partSlow)
	return away
}

// outcome is what a failpoint does to the call itself.
type outcome struct{ lost bool } // its answer is lost

// failpoint is failpointResult for calls whose answer can't be lost.
func (w *world) failpoint(r *replica, p point, afterwards bool) error {
	_, err := w.failpointResult(r, p, afterwards)
	return err
}

// failpointResult fires the fault that is planned for this occurrence, if any.
func (w *world) failpointResult(r *replica, p point, afterwards bool) (outcome, error) {
	w.mu.Lock()
	if !afterwards {
		w.counts[p]++
	}
	var hit *fault
	if !w.quiet {
		for _, f := range w.plan.faults {
			// Whether the answer will be lost is decided before the write.
			at := f.after == afterwards || f.do == lose && !afterwards
			if f.point == p && !f.struck && at && w.counts[p] >= f.nth {
				hit = f
				f.struck = true
				break
			}
		}
	}
	if hit == nil {
		w.mu.Unlock()
		return outcome{}, nil
	}
	w.history.fired = append(w.history.fired, firedFault{w.since(), r.name, hit.do})
	w.log(r.name, "*** %s", *hit)
	w.mu.Unlock()
	switch hit.do {
	case kill:
		r.kill()
		w.people.Go(func() {
			time.Sleep(hit.back)
			w.start()
		})
	case sleep:
		r.gate.sleep(hit.long)
	case hold:
		time.Sleep(hit.long)
	case lose:
		return outcome{lost: true}, nil
	}
	return outcome{}, r.pass()
}

// operationOf returns the id of the operation that makes a call. The context has the id of the
// job: the operation's, a retry's, or that of the click that approved it.
func (w *world) operationOf(ctx context.Context) string {
	id, _ := asynq.GetTaskID(ctx)
	id = strings.TrimPrefix(id, "click:")
	w.mu.Lock()
	defer w.mu.Unlock()
	best := ""
	for known := range w.history.ops {
		if (id == known || strings.HasPrefix(id, known+".")) && len(known) > len(best) {
			best = known
		}
	}
	if best == "" && w.known(id) {
		id, _, _ = strings.Cut(id, ".")
		return id
	}
	if best == "" {
		return "unknown " + id
	}
	return best
}

// known registers the deploy of a push that was stored while Docker was unreachable: only its id
// names the commit. The caller holds the lock.
func (w *world) known(id string) bool {
	var n int
	id, _, _ = strings.Cut(id, ".")
	if w.history.ops[id] != nil {
		return true
	}
	if _, err := fmt.Sscanf(id, "deploy-"+pizza+"-%x", &n); err != nil {
		return false
	}
	op := w.history.op(id, "deploy", pizza)
	op.n, op.askedAt, op.accepted = n-0xa000000, w.pushed[n-0xa000000], true
	return true
}

// pick returns a live replica, nil if there is none.
func (w *world) pick(n int) *replica {
	w.mu.Lock()
	defer w.mu.Unlock()
	var live []*replica
	for _, r := range w.replicas {
		if r.alive() {
			live = append(live, r)
		}
	}
	if len(live) == 0 {
		return nil
	}
	return live[n%len(live)]
}

// withRetry sends a request to a replica, and to another one when there is no answer in a few
// seconds, as forges and people do.
func (w *world) withRetry(on int, ask func(ctx context.Context, r *replica) error) error {
	w.mu.Lock()
	w.asking++
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.asking--
	}()
	err := errors.New("no replica lives")
	for try := range 12 {
		r := w.pick(on + try)
		if r != nil {
			answer := make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				defer cancel()
				answer <- ask(ctx, r)
			}()
			select {
			case err = <-answer:
			case <-time.After(5 * time.Second):
				err = errors.New("no answer")
			}
			if err == nil || ops.CodeOf(err) == ops.Invalid {
				return err
			}
		}
		select {
		case <-time.After(2 * time.Second):
		case <-w.end:
			return err
		}
	}
	return err
}

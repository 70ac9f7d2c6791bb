package ops

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"waggle/internal/secret"
	"waggle/ops/store"
)

// Operation is one change of the swarm. The Runner takes every operation the
// same way: authorise → plan → approve → prepare → lock → apply → converge →
// audit → report.
//
// Its exported fields are what was asked and what has been decided so far: they
// are kept as JSON, and an operation that was cut off starts again from them. So
// Plan, Prepare and Apply must see from their fields and from the cluster what is
// done already, and Run.Save makes a decision durable before it is acted on.
type Operation interface {
	// Kind names the operation: "scale". It is the same for all of its type.
	Kind() string
	// Target names what it changes. One operation at a time changes a target.
	Target() string
	// Needs is the least role that may ask for it.
	Needs() Role
	// Plan reads the cluster and says what would change; it changes nothing. It
	// is called again whenever the cluster changed before Apply got through. An
	// *Error says why it cannot be done.
	Plan(ctx context.Context, run *Run) (Plan, error)
	// Apply does what the last Plan said, in one write, on the version that was
	// planned on; OutOfDate when the cluster has moved on.
	Apply(ctx context.Context, run *Run) error
	// Converge follows the cluster until it shows what was planned and holds it,
	// and says so in one sentence; or Failed, with what the cluster shows instead.
	Converge(ctx context.Context, run *Run) (string, error)
}

// Watcher is an operation whose Converge only watches what the swarm does, without a lock. A later
// change may begin meanwhile. Converge then returns a Canceled error that names it.
type Watcher interface {
	Operation
	OnlyWatches()
}

// Setter is an operation that may set a value whatever it was before. Of two that wait, the one
// asked for later holds.
type Setter interface {
	Operation
	// Setting names what it sets: replicas.
	Setting() string
	// Sets says whether it sets that whatever it was before; else it adds to it.
	Sets() bool
}

// Recognizer is an operation that recognises in the swarm what an earlier attempt at it has done.
type Recognizer interface {
	Operation
	// Effect is what the last Plan saw.
	Effect() Effect
}

// Effect is how an operation's change stands in the swarm.
type Effect struct {
	State EffectState
	By    string // what came after, with EffectSuperseded
}

// EffectState is one of the states of an Effect.
type EffectState int

const (
	EffectNone       EffectState = iota // not there: it is still to be written
	EffectCurrent                       // there, and the newest of its kind
	EffectSuperseded                    // replaced by something newer
	EffectTakenBack                     // it was there, and the swarm has gone back
)

// Locker is an operation that changes other things than one app.
type Locker interface {
	Operation
	// Locks are the things that it changes, the one that it is about first. It is asked
	// after Plan, which has found them; their ids are "" before.
	Locks() []Target
}

// Sealer is an operation with secrets in it. They are sealed before anything of it
// is kept; fields that hold them open are not part of its JSON.
type Sealer interface {
	Operation
	Seal(key secret.Key) error
}

// Preparer is an operation with slow work that changes nothing in the swarm, to
// be done before anything is locked: cloning, building, pushing. One at a time
// for a target; a newer one replaces those that wait.
type Preparer interface {
	Operation
	Prepare(ctx context.Context, run *Run) error
}

// Holder is a Preparer that may have to wait before its turn.
type Holder interface {
	Preparer
	// Hold says what it waits for, "" for nothing. It is asked again about every
	// second.
	Hold(ctx context.Context, run *Run) (why string, err error)
}

// Source fetches the files of a commit.
type Source interface {
	// Checkout fetches exactly that commit into a directory of its own; the
	// branch is a hint where to find it. The caller calls remove when done.
	Checkout(ctx context.Context, url, commit, branch string) (dir string, remove func(), err error)
	// Resolve returns the full hash of the commit that a branch, or else a tag,
	// names now, of the default branch for ""; NotFound when there is none of that
	// name. A full hash is returned as it is.
	Resolve(ctx context.Context, url, ref string) (commit string, err error)
}

// Env is what operations work with.
type Env struct {
	Swarm     Swarm
	Source    Source
	SecretKey secret.Key // opens the registries' passwords; the zero key when none is set
	Images    ImageRegistries
	// RegistryImage is the image of a registry that Waggle runs.
	RegistryImage string
	// ScaleAbove is the number of replicas above which a scale waits for an approval.
	ScaleAbove    int
	Builds        *Slots // for builds side by side
	BuildTimeout  time.Duration
	DeployTimeout time.Duration // the longest an update may take to converge
	JoinTimeout   time.Duration // the longest a node may take to be Ready
	// Servers are the machines that may join; SSH has the user and port of those of
	// which nothing else is said.
	Servers Servers
	SSH     Address
	// AdvertiseAddr is the address that new nodes dial, "" for this manager's own.
	AdvertiseAddr string
	Network       string // the overlay network that new apps join
	Now           func() time.Time
}

// Run is one operation under way. Its methods are safe for concurrent use.
type Run struct {
	Env
	Request
	Log *slog.Logger

	op       Operation
	target   Service  // that the plan changes; the zero one when it is no app
	resumed  bool     // an earlier attempt may have changed something
	applied  bool     // an earlier attempt has written the change
	applying bool     // this attempt may have changed something
	began    bool     // its slow work has begun, now or before
	prepared bool     // its slow work is over
	approved *Plan    // the plan that somebody approved
	locks    []string // names of the locks that it holds
	awayNote string   // the note while a part does not answer
	w        *recordWriter
	message  *teller
	show     func(Status)
	atEnd    []func()
	hold     func(ctx context.Context, app string) (*store.Lease, error)

	mu     sync.Mutex
	status Status
}

// Save makes the operation's fields durable. It fails when this process does not hold the
// operation's lease any more: call it right before a write that nothing else fences.
func (r *Run) Save(ctx context.Context) error {
	b, err := json.Marshal(r.op)
	if err != nil {
		return err
	}
	return r.w.write(ctx, func(rec *record) { rec.Op = b }, inFlight(r.ID))
}

// Defer calls f when this attempt at the operation ends, however it does: the last
// one first.
func (r *Run) Defer(f func()) { r.atEnd = append(r.atEnd, f) }

func (r *Run) end() {
	for i := len(r.atEnd) - 1; i >= 0; i-- {
		r.atEnd[i]()
	}
}

// update changes the status and shows it, unless the operation is not this process's any more.
func (r *Run) update(change func(*Status)) {
	if r.w == nil || r.w.lease.Valid() {
		r.decide(change)
	}
}

// decide is update whether or not it is shown.
func (r *Run) decide(change func(*Status)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status.State.Final() {
		return
	}
	change(&r.status)
	if r.show != nil {
		r.show(r.copy())
	}
}

// snapshot is the status as it is now.
func (r *Run) snapshot() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.copy()
}

func (r *Run) copy() Status {
	s := r.status
	s.Took = r.Now().Sub(s.Began)
	s.Steps = append([]Step(nil), s.Steps...)
	return s
}

// Note shows a sentence about what is waited for or was noticed.
func (r *Run) Note(sentence string) { r.update(func(s *Status) { s.Note = sentence }) }

// Step shows a stage while do runs, with its time and its end.
func (r *Run) Step(name string, do func(detail func(string)) error) error {
	began, i := r.Now(), 0
	r.update(func(s *Status) {
		s.State, s.Note, i = Working, "", len(s.Steps)
		s.Steps = append(s.Steps, Step{Name: name, State: Working, Began: began})
	})
	err := do(func(detail string) {
		r.update(func(s *Status) { s.Steps[i].Detail = detail })
	})
	r.update(func(s *Status) {
		s.Steps[i].Took, s.Steps[i].State = r.Now().Sub(began), Done
		if err != nil {
			s.Steps[i].State = Failure
		}
	})
	return err
}

// Message is the one message in which people see how an operation goes.
type Message interface {
	// Show replaces what is shown. It never blocks: statuses that come faster
	// than they can be shown are left out, never the last one.
	Show(Status)
	// Close returns nil when the last status is shown, or never can be; an error when
	// another try later makes sense. It returns soon after ctx ends, and leaves nothing
	// running.
	Close(ctx context.Context) error
}

// MaybePosted is passed to Reporter.Open as the name of a message that somebody may have posted
// without having been able to tell its name.
const MaybePosted = "?"

// Reporter opens messages.
type Reporter interface {
	// Open returns the message for a request. ref names the message that an
	// earlier attempt made, or is ""; save is called with the name of a new one.
	Open(req Request, ref string, save func(ref string)) Message
	// Record shows one line of the audit to those who watch it, if anybody does. An
	// error means that another try later makes sense.
	Record(ctx context.Context, e Entry) error
}

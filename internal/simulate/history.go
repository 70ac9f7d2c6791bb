package simulate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"waggle/ops"
)

// history is what people, the swarm and the forge saw. The checks use nothing else.
type history struct {
	lines     []line
	ops       map[string]*operation // by id
	writes    []write               // of services, in order
	told      map[string][]*shown   // by id of the operation
	commits   map[string][]string   // states that the forge was told, by commit
	audit     []ops.Entry
	fired     []firedFault
	approvals map[string][]time.Duration // when people clicked approve, by id of the operation
	left      []string                   // what is left in Redis at the end
	start     map[string]spec
}

type line struct {
	at        time.Duration
	who, text string
}

// operation is one request.
type operation struct {
	id         string
	kind       string
	app        string
	n          int // replicas, or the number of the commit
	relative   bool
	askedAt    time.Duration
	accepted   bool // Waggle acknowledged the request
	acceptedAt time.Duration
}

// write is one write of a service.
type write struct {
	at        time.Duration
	by        string // id of the operation, or who else
	on        string // replica
	app       string
	from, to  spec
	effective bool
	undo      bool // it goes back to the spec before
	lost      bool // whoever wrote it got no answer
}

// shown is a status that was delivered to Slack.
type shown struct {
	at     time.Duration
	on     string
	status ops.Status
}

// firedFault is a fault that fired.
type firedFault struct {
	at time.Duration
	on string
	do action
}

func newHistory() history {
	return history{ops: map[string]*operation{}, told: map[string][]*shown{}, approvals: map[string][]time.Duration{}, commits: map[string][]string{},
		start: map[string]spec{}}
}

// op returns the operation with that id and creates it if necessary.
func (h *history) op(id, kind, app string) *operation {
	if h.ops[id] == nil {
		h.ops[id] = &operation{id: id, kind: kind, app: app}
	}
	return h.ops[id]
}

func (h *history) String() string {
	var b strings.Builder
	for _, l := range h.lines {
		fmt.Fprintf(&b, "%8.3f %-6s %s\n", l.at.Seconds(), l.who, l.text)
	}
	return b.String()
}

// violation is one broken invariant.
type violation struct {
	class string // the same for all of its kind
	text  string
}

func (v violation) String() string { return v.class + ": " + v.text }

// Classes of violations, one per invariant.
const (
	olderCommit   = "older-commit"        // a commit was rolled out over a newer one
	scaleAgain    = "scale-again"         // a scale that was written is written over a later one
	scaleLate     = "scale-late"          // a scale is first written after one that was asked for later
	addedTwice    = "added-twice"         // a relative scale changed the count twice
	releasedTwice = "released-twice"      // one operation rolled a release out twice
	endChanged    = "end-changed"         // people saw two different ends, or work after an end
	auditedTwice  = "audited-twice"       // an operation has not exactly one audit entry
	noEnd         = "no-end"              // an accepted request has no final state
	notShown      = "not-shown"           // its end is known but people do not see it
	doneUntrue    = "done-untrue"         // told as done, and it never was so
	lostWrite     = "lost-write"          // told as failed, but a write of it, whose answer was lost, holds
	gaveUp        = "gave-up"             // told as failed since the swarm was away, but a write of it holds
	denied        = "denied"              // told that nothing was changed, but a write of it holds
	approvedLock  = "approved-but-locked" // approved, and refused because of a lock
	forgeWrong    = "forge-wrong"         // the forge was told something else than people
	left          = "left-over"           // locks, jobs or records in flight at the end
)

// cause names the faults that fired before, for classes with several causes.
func (h *history) cause(until time.Duration) string {
	var of []string
	for _, s := range h.fired {
		if s.at <= until && s.do != lose {
			of = append(of, string(s.do))
		}
	}
	slices.Sort(of)
	if of = slices.Compact(of); len(of) == 0 {
		return ""
	}
	return " after " + strings.Join(of, " and ")
}

// ids returns the operations' ids in the order of the requests.
func (h *history) ids() []string {
	return slices.SortedFunc(maps.Keys(h.ops), func(a, b string) int {
		return cmp.Or(cmp.Compare(h.ops[a].askedAt, h.ops[b].askedAt), cmp.Compare(a, b))
	})
}

// end returns the first final status of an operation that was shown, and the last status.
func (h *history) end(id string) (first, last *shown) {
	for _, s := range h.told[id] {
		if first == nil && s.status.State.Final() {
			first = s
		}
		last = s
	}
	return first, last
}

// approved returns when somebody last clicked approve for an operation, 0 if never. It may need a
// second approval when its plan has changed.
func (h *history) approved(id string, until time.Duration) (at time.Duration) {
	for _, click := range h.approvals[id] {
		if click <= until {
			at = click
		}
	}
	return at
}

// follows reports whether later was requested or approved after earlier was accepted or
// approved. Requests that overlap have no order, so there are two seconds of tolerance.
func (h *history) follows(later *operation, wrote time.Duration, earlier *operation, wroteToo time.Duration) bool {
	return earlier.accepted && max(later.askedAt, h.approved(later.id, wrote)) > max(earlier.acceptedAt,
		h.approved(earlier.id, wroteToo))+2*time.Second
}

// by returns the writes of an operation, without rollbacks.
func (h *history) by(id string) []write {
	var out []write
	for _, w := range h.writes {
		if w.by == id && w.effective && !w.undo {
			out = append(out, w)
		}
	}
	return out
}

// specAt returns the spec of an app's service at a time.
func (h *history) specAt(app string, at time.Duration) spec {
	s := h.start[app]
	for _, w := range h.writes {
		if w.app == app && w.effective && w.at <= at {
			s = w.to
		}
	}
	return s
}

// holds reports whether an operation's write was still in effect at a time.
func (h *history) holds(op *operation, w write, at time.Duration) bool {
	now := h.specAt(op.app, at)
	if op.kind == "scale" {
		return now.replicas == w.to.replicas && w.from.replicas != w.to.replicas
	}
	return now.image == w.to.image && w.from.image != w.to.image
}

// check returns all violations.
func (h *history) check() []violation {
	var out []violation
	say := func(class, format string, args ...any) {
		out = append(out, violation{class, fmt.Sprintf(format, args...)})
	}
	h.checkOrder(say)
	h.checkTwice(say)
	h.checkEnds(say)
	out = append(out, h.pending()...)
	return out
}

type sayer = func(class, format string, args ...any)

// checkOrder: nothing goes backwards.
func (h *history) checkOrder(say sayer) {
	for i, w := range h.writes {
		op := h.ops[w.by]
		if op == nil || w.undo || !w.effective {
			continue
		}
		if op.kind == "deploy" && w.from.image != w.to.image {
			if was, is := commitOf(w.from.image), commitOf(w.to.image); was > is {
				say(olderCommit, "%s rolled commit %d out over %d at %s", op.id, is, was, w.at)
			}
		}
		if op.kind != "scale" || op.relative || w.from.replicas == w.to.replicas {
			continue
		}
		for _, x := range h.writes[:i] {
			later := h.ops[x.by]
			if later == nil || later.id == op.id || later.app != op.app || later.kind != "scale" || x.undo ||
				x.from.replicas == x.to.replicas {
				continue
			}
			wroteBefore := func(y write) bool { return y.by == op.id && y.at < x.at && !y.undo }
			if slices.ContainsFunc(h.writes[:i], wroteBefore) {
				say(scaleAgain, "%s wrote %d again at %s, over %s, which wrote %d",
					op.id, w.to.replicas, w.at, later.id, x.to.replicas)
				break
			}
			if h.follows(later, x.at, op, w.at) {
				say(scaleLate, "%s wrote %d at %s, after %s, which was asked for later and wrote %d", op.id, w.to.replicas,
					w.at, later.id, x.to.replicas)
				break
			}
		}
	}
}

// checkTwice: no operation changes the same thing twice.
func (h *history) checkTwice(say sayer) {
	for _, id := range h.ids() {
		op, writes := h.ops[id], h.by(id)
		counts, images := 0, 0
		for _, w := range writes {
			if w.from.replicas != w.to.replicas {
				counts++
			}
			if w.from.image != w.to.image {
				images++
			}
		}
		if op.kind == "scale" && op.relative && counts > 1 && !h.undone(op.app, writes) {
			say(addedTwice, "%s changed the count %d times", id, counts)
		}
		if op.kind != "scale" && images > 1 {
			say(releasedTwice, "%s wrote the image %d times%s", id, images, h.cause(writes[len(writes)-1].at))
		}
	}
}

// undone reports whether somebody else wrote the service between the first and the last of the
// writes, or it was rolled back.
func (h *history) undone(app string, writes []write) bool {
	from, to := writes[0].at, writes[len(writes)-1].at
	return slices.ContainsFunc(h.writes, func(w write) bool {
		return w.app == app && w.at > from && w.at < to && (w.by == byHand || w.undo)
	})
}

// checkEnds: the final state that is shown is true and never changes.
func (h *history) checkEnds(say sayer) {
	for _, id := range h.ids() {
		op := h.ops[id]
		first, _ := h.end(id)
		if first == nil {
			continue
		}
		for _, s := range h.told[id] {
			if s.at >= first.at && s.status.State != first.status.State {
				say(endChanged, "%s was %s and then %s%s", id, first.status.State, s.status.State, h.cause(s.at))
				break
			}
		}
		h.checkEnd(say, op, first)
	}
	entries := map[string]int{}
	for _, e := range h.audit {
		if op := h.ops[e.ID]; op != nil && op.kind == e.Kind {
			entries[e.ID]++
		}
	}
	for id, n := range entries {
		if n > 1 {
			say(auditedTwice, "%s has %d audit entries%s", id, n, h.cause(time.Hour))
		}
	}
}

// checkEnd: the final state of one operation is true.
func (h *history) checkEnd(say sayer, op *operation, end *shown) {
	s := end.status
	var held *write
	for _, w := range h.by(op.id) {
		if h.holds(op, w, end.at) {
			held = &w
		}
	}
	switch s.State {
	case ops.Done:
		if !h.was(op, end.at) {
			say(doneUntrue, "%s is reported as done at %s, but %s never had that state or was rolled back", op.id, end.at,
				op.app)
		}
	case ops.Failure, ops.Refused, ops.Cancelled, ops.Rejected, ops.Expired:
		away := s.Err != nil && (s.Err.Code == ops.Unavailable || s.Err.Code == ops.Internal)
		unchanged := s.State != ops.Failure || s.Err != nil && strings.Contains(s.Err.Sentence+s.Err.Next,
			"othing was changed")
		switch {
		case held == nil:
		case held.lost && (away || unchanged):
			say(lostWrite, "%s is reported as %s (%s), but its write at %s, whose answer was lost, is in effect", op.id,
				s.State, s.Err.Sentence, held.at)
		case away:
			say(gaveUp, "%s is reported as %s (%s), but its write at %s is in effect", op.id, s.State, s.Err.Sentence, held.at)
		case unchanged:
			say(denied, "%s is reported as %s (%s), but its write at %s is in effect", op.id, s.State, s.Err.Sentence, held.at)
		}
		if s.Err != nil && s.Err.Code == ops.Locked && h.approved(op.id, end.at) > 0 {
			say(approvedLock, "%s was approved at %s and then %s: %s", op.id, h.approved(op.id, end.at), s.State, s.Err.Sentence)
		}
	}
}

// was reports whether the service had the requested state at some time, and a release was not
// rolled back since.
func (h *history) was(op *operation, until time.Duration) bool {
	if own := h.by(op.id); len(own) > 0 {
		return op.kind == "scale" || !h.wentBack(own[len(own)-1], until)
	}
	has := func(s spec) bool {
		switch {
		case op.kind == "scale":
			return !op.relative && s.replicas == op.n
		case op.kind == "deploy":
			return commitOf(s.image) == op.n
		}
		return false
	}
	if has(h.specAt(op.app, op.askedAt)) {
		return true
	}
	return slices.ContainsFunc(h.writes, func(w write) bool {
		// After a crash, a relative scale can't tell its own write from somebody else's to the
		// same count.
		byHands := op.relative && w.by == byHand
		return w.app == op.app && w.at >= op.askedAt && w.at <= until && (has(w.to) || byHands)
	})
}

// unseen is how recent a change may be that an operation has not observed yet.
const unseen = 3 * time.Second

// wentBack reports whether a release was rolled back, and long enough ago to be observed.
func (h *history) wentBack(w write, until time.Duration) bool {
	return slices.ContainsFunc(h.writes, func(x write) bool {
		return x.app == w.app && x.undo && x.at > w.at && x.at < until-unseen && x.from.image == w.to.image &&
			x.to.image != w.to.image
	})
}

// pending returns the violations that end by themselves in time: the run waits for that.
func (h *history) pending() []violation {
	var out []violation
	say := func(class, format string, args ...any) {
		out = append(out, violation{class, fmt.Sprintf(format, args...)})
	}
	audited := map[string]bool{}
	for _, e := range h.audit {
		if op := h.ops[e.ID]; op != nil && op.kind == e.Kind {
			audited[e.ID] = true
		}
	}
	for _, id := range h.ids() {
		op := h.ops[id]
		first, last := h.end(id)
		switch {
		case !op.accepted && last == nil: // nobody was told that it was taken
			continue
		case first == nil && audited[id]:
			say(notShown, "%s has ended, but its message does not show that", id)
			continue
		case first == nil:
			say(noEnd, "%s has no end", id)
			continue
		case !last.status.State.Final():
			say(notShown, "%s is shown as %s, and was %s before", id, last.status.State, first.status.State)
			continue
		case !audited[id]:
			say(auditedTwice, "%s has no audit entry", id)
		}
		if op.kind != "deploy" {
			continue
		}
		want, states := "", h.commits[commit(op.n)]
		switch last.status.State {
		case ops.Done:
			want = ops.StatusSuccess
		case ops.Failure:
			want = ops.StatusFailure
		case ops.Refused: // where the forge is may not be known, when it was told nothing before
			if len(states) > 0 {
				want = ops.StatusFailure
			}
		}
		if want != "" && (len(states) == 0 || states[len(states)-1] != want) {
			say(forgeWrong, "%s is %s, and the forge was told %v", id, last.status.State, states)
		}
	}
	for _, what := range h.left {
		say(left, "%s", what)
	}
	return out
}

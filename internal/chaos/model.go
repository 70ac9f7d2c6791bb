package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// change is one operation that was asked for.
type change struct {
	ID   string
	App  string
	Kind string // "scale" or "deploy"
	What string // what was typed, or the commit

	Absolute int // of a scale that names a number, with Relative false
	Delta    int
	Relative bool
	Commit   int // number of the pushed commit, from 1

	Asked    time.Time
	Accepted bool      // acknowledged; else it may have been taken or not
	Told     time.Time // when its last state was seen in Slack and its audit entry in Redis
}

func (c *change) String() string { return fmt.Sprintf("%s %s (%s)", c.App, c.What, c.ID) }

// overlaps says whether a write that came after since may be the change's: it was asked for before
// until, and its end was not told before since.
func (c *change) overlaps(since, until time.Time) bool {
	return c.Asked.Before(until) && (c.Told.IsZero() || !c.Told.Before(since))
}

// version is what a third manager showed of an app. The swarm held it at some moment from Began to
// Ended, which is how long the first read of it took; Last is when the last read of it began.
type version struct {
	Began, Ended time.Time
	Last         time.Time
	App          string
	Index        uint64
	Replicas     int
	Image        string
	Update       string // state of its last update
	Releases     []release
}

type release struct {
	Number int    `json:"number"`
	Image  string `json:"image"`
	Commit string `json:"commit"`
	Op     string `json:"op"`
}

func (v version) newest() release {
	if len(v.Releases) == 0 {
		return release{}
	}
	return v.Releases[0]
}

func (v version) String() string {
	n := v.newest()
	return fmt.Sprintf("%s %s v%d: %d replicas, release %d (%.7s, %s), update %q", v.Began.Format("15:04:05.000"), v.App, v.Index,
		v.Replicas, n.Number, n.Commit, n.Op, v.Update)
}

// entry is one line of the audit.
type entry struct {
	ID      string `json:"id"`
	Kind    string `json:"kind"`
	Outcome string `json:"outcome"`
	Why     string `json:"why"`
}

// message is one message about an operation: the first lines it had, in order.
type message struct {
	ID    string
	Lines []string
}

// history is all that is known of a run, in the order in which it was seen.
type history struct {
	Start    map[string]version // of each app
	Changes  []*change
	Versions []version
	Audit    []entry
	Messages []message
	Whispers int            // refusals that only the asker saw
	Commits  map[string]int // number of each pushed commit, by hash
	// Emptied says that Redis lost what it had: then an operation may have no audit entry.
	Emptied bool
}

// marks begin the first line of a message, by outcome.
var marks = map[string]string{"done": "✅", "failed": "❌", "refused": "⛔", "superseded": "⏭", "cancelled": "🚫", "rejected": "🚫", "expired": "🚫"}

func isFinal(line string) bool {
	for _, m := range marks {
		if strings.HasPrefix(line, m) {
			return true
		}
	}
	return false
}

// check returns every violation of what must hold when nothing is under way any more.
func (h *history) check() []string {
	var wrong []string
	violate := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	outcomes := h.checkTold(violate)
	for app := range h.Start {
		h.checkApp(app, outcomes, violate)
	}
	slices.Sort(wrong)
	return wrong
}

// checkTold holds what was asked for against the audit and the messages, and returns the outcomes.
func (h *history) checkTold(violate func(string, ...any)) map[string]string {
	outcomes, entries := map[string]string{}, map[string][]entry{}
	for _, e := range h.Audit {
		entries[e.ID] = append(entries[e.ID], e)
		outcomes[e.ID] = e.Outcome
	}
	messages := map[string][]message{}
	for _, m := range h.Messages {
		messages[m.ID] = append(messages[m.ID], m)
	}
	refused := 0
	for _, c := range h.Changes {
		got := entries[c.ID]
		switch {
		case len(got) > 1:
			violate("twice: %s has %d audit entries: %+v", c, len(got), got)
		case len(got) == 0 && c.Accepted && !h.Emptied:
			violate("lost: %s was accepted and has no audit entry", c)
		}
		for _, e := range got {
			if e.Outcome == "failed" { // what was done to Waggle is over in time for each of them
				violate("failed: %s: %s", c, e.Why)
			}
		}
		all := messages[c.ID]
		if len(all) > 1 {
			violate("twice: %s has %d messages: %q", c, len(all), all)
		}
		for _, m := range all {
			checkMessage(c, m, outcomes[c.ID], violate)
		}
		switch outcome := outcomes[c.ID]; {
		case len(all) > 0:
		case outcome == "refused":
			refused++ // told to the asker alone
		case outcome != "":
			violate("lost: %s ended %s and has no message", c, outcome)
		}
	}
	if h.Whispers < refused {
		violate("lost: %d refusals were not shown, %d of %d were", refused-h.Whispers, h.Whispers, refused)
	}
	return outcomes
}

func checkMessage(c *change, m message, outcome string, violate func(string, ...any)) {
	last := m.Lines[len(m.Lines)-1]
	switch {
	case !isFinal(last):
		violate("not final: the message of %s is %q, audit %q", c, last, outcome)
	case outcome != "" && !strings.HasPrefix(last, marks[outcome]):
		violate("untrue: the message of %s is %q, the audit says %s", c, last, outcome)
	case outcome == "done" && c.Kind == "scale" && !c.Relative && c.Absolute > 0 && !strings.Contains(last, fmt.Sprintf(" of %d", c.Absolute)):
		violate("untrue: the message of %s is %q", c, last)
	}
	// Slack has no fence: a process that wakes may show for a moment where it fell asleep. It may not
	// stay, and it may not be another end.
	for i, line := range m.Lines[:len(m.Lines)-1] {
		if isFinal(line) && isFinal(last) && !strings.HasPrefix(last, string([]rune(line)[0])) {
			violate("backwards: the message of %s was %q and became %q", c, line, m.Lines[i+1])
		}
	}
}

// checkApp holds what was written to an app against what was asked for.
func (h *history) checkApp(app string, outcomes map[string]string, violate func(string, ...any)) {
	before := h.Start[app]
	highest := h.Commits[before.newest().Commit]
	numberOf, opOf := map[string]int{}, map[int]string{} // of releases
	low, high := before.Replicas, before.Replicas
	absolute := false
	var changes []*change
	for _, c := range h.Changes {
		if c.App != app {
			continue
		}
		changes = append(changes, c)
		absolute = absolute || c.Kind == "scale" && !c.Relative
		if outcome := outcomes[c.ID]; c.Relative && outcome != "refused" && outcome != "cancelled" && (outcome != "" || !c.Accepted) {
			if c.Delta > 0 {
				high += c.Delta
			} else {
				low += c.Delta
			}
			if outcome == "done" { // certain
				if c.Delta > 0 {
					low += c.Delta
				} else {
					high += c.Delta
				}
			}
		}
	}
	for _, v := range h.Versions {
		if v.App != app {
			continue
		}
		if v.Replicas != before.Replicas && absolute && !slices.ContainsFunc(changes, func(c *change) bool {
			return c.Kind == "scale" && c.Absolute == v.Replicas && c.overlaps(before.Last, v.Ended)
		}) {
			violate("backwards: %s was set from %d to %d replicas when no scale to %d was under way: %s", app, before.Replicas, v.Replicas, v.Replicas, v)
		}
		now, was := v.newest(), before.newest()
		wentBack := strings.HasPrefix(v.Update, "rollback")
		if now.Number != was.Number || now.Op != was.Op {
			if commit := h.Commits[now.Commit]; commit < highest && !wentBack {
				violate("backwards: %s runs commit %d after commit %d: %s", app, commit, highest, v)
			}
			highest = max(highest, h.Commits[now.Commit])
			if n, ok := numberOf[now.Op]; ok && n != now.Number && !wentBack {
				violate("twice: operation %s is release %d and %d of %s", now.Op, n, now.Number, app)
			}
			if op, ok := opOf[now.Number]; ok && op != now.Op && !wentBack {
				violate("twice: release %d of %s is of %s and of %s", now.Number, app, op, now.Op)
			}
			numberOf[now.Op], opOf[now.Number] = now.Number, now.Op
			if !wentBack && !slices.ContainsFunc(changes, func(c *change) bool { return c.ID == now.Op && c.overlaps(before.Last, v.Ended) }) {
				violate("twice: release %d of %s was written when its operation %s was not under way: %s", now.Number, app, now.Op, v)
			}
		}
		before = v
	}
	h.checkEnd(app, before, changes, outcomes, violate)
	if !absolute && (before.Replicas < low || before.Replicas > high) {
		violate("relative: %s runs %d replicas, and the scales that were told make %d to %d", app, before.Replicas, low, high)
	}
}

// checkEnd holds the app's last version against what was asked for last.
func (h *history) checkEnd(app string, last version, changes []*change, outcomes map[string]string, violate func(string, ...any)) {
	var newest *change
	for _, c := range changes {
		if c.Kind == "deploy" && c.Accepted && (newest == nil || c.Commit > newest.Commit) {
			newest = c
		}
		if c.Kind != "scale" || c.Relative || outcomes[c.ID] != "done" {
			continue
		}
		// Nobody who was asked after this one was told may have written another number.
		if last.Replicas != c.Absolute && !slices.ContainsFunc(changes, func(o *change) bool {
			return o.Kind == "scale" && o != c && o.Absolute == last.Replicas && outcomes[o.ID] != "refused" && !(!o.Told.IsZero() && o.Told.Before(c.Asked))
		}) {
			violate("lost: %s was done, and the app runs %d replicas", c, last.Replicas)
		}
	}
	if newest != nil && outcomes[newest.ID] != "failed" && h.Commits[last.newest().Commit] < newest.Commit && !h.Emptied {
		violate("lost: %s is the newest push, and the app runs commit %d", newest, h.Commits[last.newest().Commit])
	}
}

// tail is the history of one app, for a report.
func (h *history) tail(app string) string {
	type line struct {
		at   time.Time
		text string
	}
	var lines []line
	for _, c := range h.Changes {
		if c.App != app {
			continue
		}
		lines = append(lines, line{c.Asked, fmt.Sprintf("asked %s, accepted %t", c, c.Accepted)})
		if !c.Told.IsZero() {
			lines = append(lines, line{c.Told, "told " + c.ID})
		}
	}
	for _, v := range h.Versions {
		if v.App == app {
			lines = append(lines, line{v.Began, v.String()})
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return a.at.Compare(b.at) })
	var out strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&out, "%s %s\n", l.at.Format("15:04:05.000"), l.text)
	}
	return out.String()
}

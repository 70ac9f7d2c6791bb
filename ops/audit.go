package ops

import (
	"context"
	"encoding/json"
	"time"
)

// auditMax is how many entries the audit stream keeps.
const auditMax = 10000

// Entry is one line of the audit.
type Entry struct {
	At      time.Time `json:"at"`
	ID      string    `json:"id"`
	Who     string    `json:"who"`
	UserID  string    `json:"user_id,omitempty"`
	Kind    string    `json:"kind"`
	Target  string    `json:"target"`
	Diffs   []Diff    `json:"diffs,omitempty"`
	Outcome State     `json:"outcome"`
	Why     string    `json:"why,omitempty"`
	// Decider approved, rejected or cancelled it.
	Decider string        `json:"decider,omitempty"`
	Took    time.Duration `json:"took_ns"`
}

func (r *Runner) audit(ctx context.Context, run *Run) Entry {
	s := run.status
	entry := Entry{At: r.Env.Now(), ID: s.ID, Who: s.Actor.String(), UserID: s.Actor.ID, Kind: s.Kind,
		Target: s.Target, Diffs: s.Plan.Diffs, Outcome: s.State, Took: r.Env.Now().Sub(s.Began)}
	attrs := []any{"op", entry.ID, "who", entry.Who, "user_id", entry.UserID, "kind", entry.Kind, "target", entry.Target,
		"diffs", entry.Diffs, "outcome", entry.Outcome, "took", entry.Took}
	if s.Decision != nil {
		entry.Decider = s.Decision.By.String()
		attrs = append(attrs, "decider", entry.Decider, "decider_id", s.Decision.By.ID)
	}
	if s.Err != nil {
		entry.Why = s.Err.Sentence
		attrs = append(attrs, "why", s.Err.Sentence)
		if s.Err.Err != nil {
			attrs = append(attrs, "err", s.Err.Err.Error())
		}
	}
	r.Log.Info("audit", attrs...)
	r.Metrics.count(entry.Kind, entry.Outcome, entry.Took)
	if err := r.Store.Append(ctx, "audit", entry, auditMax); err != nil {
		r.Log.Error("the audit entry is only in this log", "op", entry.ID, "err", err)
	}
	return entry
}

// Audit returns the newest entries, newest first: of one target, unless that is "".
func (r *Runner) Audit(ctx context.Context, target string, n int) ([]Entry, error) {
	var out []Entry
	before := ""
	for len(out) < n {
		page, ids, err := r.Store.Entries(ctx, "audit", before, 200)
		if err != nil {
			return nil, err
		}
		if len(ids) == 0 {
			break
		}
		before = ids[len(ids)-1]
		for _, raw := range page {
			var e Entry
			if err := json.Unmarshal(raw, &e); err == nil && (target == "" || e.Target == target) && len(out) < n {
				out = append(out, e)
			}
		}
	}
	return out, nil
}

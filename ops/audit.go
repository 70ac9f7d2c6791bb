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
	Decider   string        `json:"decider,omitempty"`
	DeciderID string        `json:"decider_id,omitempty"`
	Took      time.Duration `json:"took_ns"`
}

func (r *Runner) audit(ctx context.Context, run *Run) Entry {
	s := run.status
	entry := Entry{At: r.Env.Now(), ID: s.ID, Who: s.Actor.String(), UserID: s.Actor.ID, Kind: s.Kind,
		Target: s.Target, Diffs: s.Plan.Diffs, Outcome: s.State, Took: r.Env.Now().Sub(s.Began)}
	if s.Decision != nil {
		entry.Decider, entry.DeciderID = s.Decision.By.String(), s.Decision.By.ID
	}
	var cause error
	if s.Err != nil {
		entry.Why, cause = s.Err.Sentence, s.Err.Err
	}
	r.Metrics.count(entry.Kind, entry.Outcome, entry.Took)
	if cause != nil {
		r.Log.Warn("an operation ended with an error", "op", entry.ID, "outcome", entry.Outcome, "err", cause)
	}
	if err := r.record(ctx, entry); err != nil {
		r.Log.Error("the audit entry is only in this log", "op", entry.ID, "err", err)
	}
	return entry
}

// record puts an entry into the log and the stream.
func (r *Runner) record(ctx context.Context, e Entry) error {
	r.Log.Info("audit", "op", e.ID, "who", e.Who, "user_id", e.UserID, "kind", e.Kind, "target", e.Target, "diffs", e.Diffs,
		"outcome", e.Outcome, "took", e.Took, "decider", e.Decider, "decider_id", e.DeciderID, "why", e.Why)
	return r.Store.Append(ctx, "audit", e, auditMax)
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

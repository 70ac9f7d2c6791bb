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

// auditStream is the name of the stream of entries.
const auditStream = "audit"

// auditEntry is the entry of an operation that has come to its end.
func (r *Runner) auditEntry(run *Run) Entry {
	s := run.snapshot()
	entry := Entry{At: r.Env.Now(), ID: s.ID, Who: s.Actor.String(), UserID: s.Actor.ID, Kind: s.Kind,
		Target: s.Target, Diffs: s.Plan.Diffs, Outcome: s.State, Took: s.Took}
	if s.Decision != nil {
		entry.Decider, entry.DeciderID = s.Decision.By.String(), s.Decision.By.ID
	}
	if s.Err != nil {
		entry.Why = s.Err.Sentence
	}
	return entry
}

// ended counts and logs an operation whose end is durable.
func (r *Runner) ended(run *Run) {
	e := run.w.record().Audit
	r.Metrics.count(e.Kind, e.Outcome, e.Took)
	r.logEntry(*e)
	if s := run.snapshot(); s.Err != nil && s.Err.Err != nil {
		r.Log.Warn("an operation ended with an error", "op", e.ID, "outcome", e.Outcome, "err", s.Err.Err)
	}
}

func (r *Runner) logEntry(e Entry) {
	r.Log.Info("audit", "op", e.ID, "who", e.Who, "user_id", e.UserID, "kind", e.Kind, "target", e.Target, "diffs", e.Diffs,
		"outcome", e.Outcome, "took", e.Took, "decider", e.Decider, "decider_id", e.DeciderID, "why", e.Why)
}

// record puts an entry into the log and the stream.
func (r *Runner) record(ctx context.Context, e Entry) error {
	r.logEntry(e)
	return r.Store.Append(ctx, auditStream, e, auditMax)
}

// Audit returns the newest entries, newest first: of one target, unless that is "".
func (r *Runner) Audit(ctx context.Context, target string, n int) ([]Entry, error) {
	var out []Entry
	before := ""
	for len(out) < n {
		page, ids, err := r.Store.Entries(ctx, auditStream, before, 200)
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

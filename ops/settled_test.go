package ops_test

import (
	"encoding/json"
	"testing"

	"waggle/ops"
)

// settled waits until operations have come to their end and everything is told, and checks that each
// has one audit entry, and that no lock and nothing else is left of them.
func (h *house) settled(t *testing.T, ids ...string) {
	t.Helper()
	rdb := h.Store.Client()
	left := func() (out []string) {
		for _, pattern := range []string{"waggle:lock:run:*", "waggle:lock:target:*", "waggle:lock:turn:*", "waggle:lock:tell:*", "waggle:applying:*", "waggle:outbox", "waggle:inflight", "waggle:pending"} {
			keys, err := rdb.Keys(t.Context(), pattern).Result()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, keys...)
		}
		return out
	}
	outcomes := map[string][]string{}
	waitFor(t, "every outcome in the audit", func() bool {
		all, err := h.Audit(t.Context(), "", 100)
		if err != nil {
			t.Fatal(err)
		}
		clear(outcomes)
		for _, e := range all {
			outcomes[e.ID] = append(outcomes[e.ID], string(e.Outcome))
		}
		for _, id := range ids {
			if len(outcomes[id]) == 0 {
				return false
			}
		}
		return len(left()) == 0
	})
	for _, id := range ids {
		if o := outcomes[id]; len(o) != 1 || o[0] != string(ops.Done) && o[0] != string(ops.Superseded) {
			t.Errorf("%s: %v", id, o)
		}
		var rec struct{ State ops.State }
		raw, err := rdb.Get(t.Context(), "waggle:op:"+id).Bytes()
		if err == nil {
			err = json.Unmarshal(raw, &rec)
		}
		if err != nil || string(rec.State) != outcomes[id][0] {
			t.Errorf("%s: the record says %s, %v, and the audit %v", id, rec.State, err, outcomes[id])
		}
	}
}

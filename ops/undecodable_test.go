package ops_test

import (
	"testing"
	"time"

	"waggle/ops"
)

// TestRecordOfANewerVersion: what a newer Waggle has stored stops nothing but itself, and is still
// there for it.
func TestRecordOfANewerVersion(t *testing.T) {
	for name, rec := range map[string]string{
		"of an unknown kind":   `{"id":"new","kind":"teleport","op":{},"state":"pending","round":1,"deadline":"2000-01-01T00:00:00Z"}`,
		"of a newer format":    `{"format":99,"id":"new","kind":"scale","op":{},"state":"pending","round":1,"deadline":"2000-01-01T00:00:00Z"}`,
		"with a field changed": `{"id":"new","kind":"scale","op":[1],"state":"pending","round":1,"deadline":"2000-01-01T00:00:00Z"}`,
		"damaged":              `{"id":"new","ki`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mem := kept(t)
			swarm := newFakeSwarm(linked("pizza", 1))
			h := startOn(t, mem, swarm)
			rdb := h.Store.Client()
			stored := func() {
				for key, err := range map[string]error{
					"op":       rdb.Set(t.Context(), "waggle:op:new", rec, 0).Err(),
					"pending":  h.Store.Schedule(t.Context(), "pending", "new.1", time.Unix(1, 0)),
					"inflight": h.Store.Add(t.Context(), "inflight", "new"),
					"applying": rdb.Set(t.Context(), "waggle:applying:app/pizza", `"new"`, 0).Err(),
					"outbox":   h.Store.Schedule(t.Context(), "outbox", "new|message|1", time.Unix(1, 0)),
				} {
					if err != nil {
						t.Fatal(key, err)
					}
				}
			}
			stored()
			if got, err := h.PendingOperations(t.Context()); err != nil || len(got) != 0 {
				t.Errorf("%v, %v", got, err)
			}
			// Pushes go on, and so does what waits, and the sweep of crashes.
			id := h.push(t, pushOf(1)).Jobs[0].ID
			says(t, h.final(t, id), ops.Done)
			h.swarm.with(func() { h.swarm.services["pizza"].Replicas = 3 })
			op := h.ask(t, "op1")
			h.decide(t, "click", "bob", op.Token, ops.Approve, "")
			says(t, h.final(t, "op1"), ops.Done)
			stored()
			h.Stop()
			second := startOn(t, mem, swarm)
			if err := second.Store.Add(t.Context(), "inflight", "gone"); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "a sweep", func() bool {
				ids, err := second.Store.Members(t.Context(), "inflight")
				return err == nil && len(ids) == 1 && ids[0] == "new"
			})
			if got, err := rdb.Get(t.Context(), "waggle:op:new").Result(); err == nil && got != rec {
				t.Errorf("the record is %s now", got)
			}
		})
	}
}

package simulate

import (
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// steps are those at which the mechanism has just made something durable, or has changed something.
var steps = []string{"begun", "prepared", "applying", "applied", "followed", "pending", "final", "told"}

// TestEachStep has a replica die, and sleep through its lease, at each step of each kind of
// operation, while something newer is asked for.
func TestEachStep(t *testing.T) {
	dir := files(t)
	second := func(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }
	loads := map[string][]command{
		"absolute scale": {{at: second(1), what: askScale, app: pasta, n: 5}, {at: second(2), what: askScale, app: pasta, n: 2, on: 1}},
		"relative scale": {{at: second(1), what: askMore, app: pasta, n: 2}, {at: second(2), what: askMore, app: pasta, n: 1, on: 1}},
		"approved scale": {{at: second(1), what: askScale, app: pasta, n: 12}, {at: second(2), what: askMore, app: pizza, n: 1, on: 1}},
		"push":           {{at: second(1), what: askPush, app: pizza, n: 1}, {at: second(2), what: askPush, app: pizza, n: 2, on: 1}},
		"rollback": {{at: second(1), what: askPush, app: pizza, n: 1}, {at: second(20), what: askRollback, app: pizza},
			{at: second(21), what: askPush, app: pizza, n: 2, on: 1}},
	}
	fired := map[string]int{}
	for load, commands := range loads {
		for _, step := range steps {
			for _, do := range []action{kill, sleep} {
				for nth := 1; nth <= stepsNth; nth++ { // the first, or the one asked for later
					f := &fault{point: pointStep(step), nth: nth, do: do, long: 25 * time.Second, back: 4 * time.Second}
					p := &plan{seed: 7, commands: commands, faults: []*fault{f}, bad: map[int]bool{}, ends: time.Minute}
					synctest.Test(t, func(t *testing.T) {
						r, err := run(p, dir, slog.DiscardHandler)
						if err != nil {
							t.Fatal(err)
						}
						if len(r.violations) > 0 {
							t.Errorf("%s: %s", load, r)
						}
					})
					if f.struck {
						fired[step]++
					}
				}
			}
		}
	}
	for _, step := range steps {
		if fired[step] < stepsNth {
			t.Errorf("step %s was reached in %d of %d runs", step, fired[step], len(loads)*4)
		}
	}
	t.Log(fmt.Sprint(fired))
}

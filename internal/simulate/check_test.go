package simulate

import (
	"testing"
	"time"

	"waggle/ops"
)

// story builds a history; each step takes one second.
type story struct {
	history
	now time.Duration
}

func newStory() *story {
	s := &story{history: newHistory()}
	s.start[pizza] = spec{replicas: 2, image: imageOf(0)}
	return s
}

func imageOf(n int) string {
	if n == 0 {
		return registryDomain + "/" + pizza + ":base@" + digest
	}
	return registryDomain + "/" + pizza + ":" + commit(n)[:12] + "@" + digest
}

func (s *story) step() time.Duration { s.now += time.Second; return s.now }

func (s *story) asks(id, kind string, n int) *operation {
	o := s.op(id, kind, pizza)
	o.n, o.askedAt, o.acceptedAt, o.accepted = n, s.step(), s.now, true
	return o
}

func (s *story) wait(d time.Duration) { s.now += d }

func (s *story) writes(by string, replicas, image int) *write {
	from := s.specAt(pizza, s.now)
	s.history.writes = append(s.history.writes, write{at: s.step(), by: by, app: pizza, from: from,
		to: spec{replicas: replicas, image: imageOf(image)}, effective: true})
	return &s.history.writes[len(s.history.writes)-1]
}

func (s *story) tells(id string, state ops.State, e *ops.Error) {
	s.told[id] = append(s.told[id], &shown{at: s.step(), status: ops.Status{ID: id, State: state, Err: e}})
}

// ends shows, audits and reports a final state.
func (s *story) ends(id string, state ops.State, e *ops.Error) {
	s.tells(id, state, e)
	o := s.history.ops[id]
	s.audit = append(s.audit, ops.Entry{ID: id, Kind: o.kind, Outcome: state})
	if o.kind == "deploy" {
		status := ops.StatusSuccess
		if state != ops.Done {
			status = ops.StatusFailure
		}
		s.commits[commit(o.n)] = append(s.commits[commit(o.n)], status)
	}
}

var away = &ops.Error{Code: ops.Unavailable, Sentence: "Docker did not answer in time"}

// TestChecks: each check finds its violation, and nothing in a correct history.
func TestChecks(t *testing.T) {
	for _, tc := range []struct {
		name string
		want string // class; "" for none
		tell func(s *story)
	}{
		{"a scale and a push", "", func(s *story) {
			s.asks("a", "scale", 5)
			s.writes("a", 5, 0)
			s.ends("a", ops.Done, nil)
			s.asks("b", "deploy", 1)
			s.writes("b", 5, 1)
			s.ends("b", ops.Done, nil)
		}},
		{"told twice is no change", "", func(s *story) {
			s.asks("a", "scale", 5)
			s.writes("a", 5, 0)
			s.ends("a", ops.Done, nil)
			s.tells("a", ops.Done, nil)
		}},
		{"a failed release that the swarm went back from", "", func(s *story) {
			s.asks("a", "deploy", 1)
			s.writes("a", 2, 1)
			s.writes(bySwarm, 2, 0).undo = true
			s.ends("a", ops.Failure, ops.Errorf(ops.Failed, "pizza did not come up"))
		}},
		{"an older commit over a newer one", olderCommit, func(s *story) {
			s.asks("a", "deploy", 1)
			s.asks("b", "deploy", 2)
			s.writes("b", 2, 2)
			s.ends("b", ops.Done, nil)
			s.writes("a", 2, 1)
			s.ends("a", ops.Done, nil)
		}},
		{"a rollback may bring an older one", "", func(s *story) {
			s.asks("a", "deploy", 2)
			s.writes("a", 2, 2)
			s.ends("a", ops.Done, nil)
			s.asks("b", "rollback", 0)
			s.writes("b", 2, 1)
			s.ends("b", ops.Done, nil)
		}},
		{"a scale again over a later one", scaleAgain, func(s *story) {
			s.asks("a", "scale", 5)
			s.writes("a", 5, 0)
			s.asks("b", "scale", 3)
			s.writes("b", 3, 0)
			s.ends("b", ops.Done, nil)
			s.writes("a", 5, 0)
			s.ends("a", ops.Done, nil)
		}},
		{"a scale after a later one", scaleLate, func(s *story) {
			s.asks("a", "scale", 5)
			s.wait(5 * time.Second)
			s.asks("b", "scale", 3)
			s.writes("b", 3, 0)
			s.ends("b", ops.Done, nil)
			s.writes("a", 5, 0)
			s.ends("a", ops.Done, nil)
		}},
		{"a scale that was taken after a later one", "", func(s *story) {
			a := s.asks("a", "scale", 5)
			s.wait(5 * time.Second)
			s.asks("b", "scale", 3)
			s.writes("b", 3, 0)
			s.ends("b", ops.Done, nil)
			a.acceptedAt = s.step()
			s.writes("a", 5, 0)
			s.ends("a", ops.Done, nil)
		}},
		{"approved after a later one", "", func(s *story) {
			s.asks("a", "scale", 0)
			s.tells("a", ops.Pending, nil)
			s.wait(5 * time.Second)
			s.asks("b", "scale", 3)
			s.writes("b", 3, 0)
			s.ends("b", ops.Done, nil)
			s.wait(5 * time.Second)
			s.tells("a", ops.Working, nil)
			s.approvals["a"] = []time.Duration{s.told["a"][1].at}
			s.writes("a", 0, 0)
			s.ends("a", ops.Done, nil)
		}},
		{"added twice", addedTwice, func(s *story) {
			s.asks("a", "scale", 2).relative = true
			s.writes("a", 4, 0)
			s.writes("a", 6, 0)
			s.ends("a", ops.Done, nil)
		}},
		{"added again after another hand", "", func(s *story) {
			s.asks("a", "scale", 2).relative = true
			s.writes("a", 4, 0)
			s.writes(byHand, 2, 0)
			s.writes("a", 4, 0)
			s.ends("a", ops.Done, nil)
		}},
		{"released twice", releasedTwice, func(s *story) {
			s.asks("a", "deploy", 1)
			s.writes("a", 2, 1)
			s.writes(bySwarm, 2, 0).undo = true
			s.writes("a", 2, 1)
			s.writes(bySwarm, 2, 0).undo = true
			s.ends("a", ops.Failure, ops.Errorf(ops.Failed, "pizza did not come up"))
		}},
		{"another end", endChanged, func(s *story) {
			s.asks("a", "scale", 5)
			s.writes("a", 5, 0)
			s.ends("a", ops.Done, nil)
			s.tells("a", ops.Refused, away)
		}},
		{"work after the end", endChanged, func(s *story) {
			s.asks("a", "scale", 5)
			s.writes("a", 5, 0)
			s.ends("a", ops.Done, nil)
			s.tells("a", ops.Working, nil)
			s.tells("a", ops.Done, nil)
		}},
		{"audited twice", auditedTwice, func(s *story) {
			s.asks("a", "scale", 5)
			s.writes("a", 5, 0)
			s.ends("a", ops.Done, nil)
			s.audit = append(s.audit, s.audit[0])
		}},
		{"never audited", auditedTwice, func(s *story) {
			s.asks("a", "scale", 5)
			s.writes("a", 5, 0)
			s.tells("a", ops.Done, nil)
		}},
		{"no end", noEnd, func(s *story) {
			s.asks("a", "scale", 5)
			s.tells("a", ops.Working, nil)
		}},
		{"nothing was taken", "", func(s *story) {
			s.asks("a", "scale", 5).accepted = false
		}},
		{"an end that is not shown", notShown, func(s *story) {
			s.asks("a", "scale", 5)
			s.writes("a", 5, 0)
			s.tells("a", ops.Working, nil)
			s.audit = append(s.audit, ops.Entry{ID: "a", Kind: "scale", Outcome: ops.Done})
		}},
		{"done, and it never was", doneUntrue, func(s *story) {
			s.asks("a", "scale", 5)
			s.ends("a", ops.Done, nil)
		}},
		{"done, and it went back", doneUntrue, func(s *story) {
			s.asks("a", "deploy", 1)
			s.writes("a", 2, 1)
			s.writes(bySwarm, 2, 0).undo = true
			s.wait(2 * unseen)
			s.ends("a", ops.Done, nil)
		}},
		{"done without a write, as it was so", "", func(s *story) {
			s.asks("a", "scale", 2)
			s.ends("a", ops.Done, nil)
		}},
		{"failed, and its write without an answer holds", lostWrite, func(s *story) {
			s.asks("a", "scale", 5)
			s.writes("a", 5, 0).lost = true
			s.ends("a", ops.Failure, away)
		}},
		{"failed, and its write holds", gaveUp, func(s *story) {
			s.asks("a", "scale", 5)
			s.writes("a", 5, 0)
			s.ends("a", ops.Failure, away)
		}},
		{"refused, and its write holds", denied, func(s *story) {
			s.asks("a", "scale", 5)
			s.writes("a", 5, 0)
			s.ends("a", ops.Refused, ops.Errorf(ops.OutOfDate, "pizza changed"))
		}},
		{"failed truly", "", func(s *story) {
			s.asks("a", "scale", 5)
			s.writes("a", 5, 0)
			s.ends("a", ops.Failure, ops.Errorf(ops.Failed, "pizza: 2 of 5 run"))
		}},
		{"approved and locked", approvedLock, func(s *story) {
			s.asks("a", "scale", 0)
			s.tells("a", ops.Working, nil)
			s.approvals["a"] = []time.Duration{s.told["a"][0].at}
			s.ends("a", ops.Refused, ops.Errorf(ops.Locked, "@ada has been changing pizza"))
		}},
		{"the forge knows it otherwise", forgeWrong, func(s *story) {
			s.asks("a", "deploy", 1)
			s.writes("a", 2, 1)
			s.ends("a", ops.Done, nil)
			s.commits[commit(1)] = []string{ops.StatusPending}
		}},
		{"a lock at the end", left, func(s *story) {
			s.left = []string{"waggle:lock:target:pizza"}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStory()
			tc.tell(s)
			got := s.check()
			if tc.want == "" && len(got) > 0 {
				t.Errorf("it finds %v", got)
			}
			if tc.want != "" && (len(got) != 1 || got[0].class != tc.want) {
				t.Errorf("it finds %v, want one %s", got, tc.want)
			}
		})
	}
}

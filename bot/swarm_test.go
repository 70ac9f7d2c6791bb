package bot

import (
	"fmt"
	"strings"
	"testing"

	"waggle/ops"
)

// TestNothingIsCut: what is too long for one block of Slack's takes several.
func TestNothingIsCut(t *testing.T) {
	t.Parallel()
	o, s := newOffice(t), &submitter{}
	o.serveHTTP(s)
	for i := range 20 {
		s.audit = append(s.audit, ops.Entry{At: noon, Who: "@ada", Kind: "registry-edit", Target: fmt.Sprintf("app-%02d", i), Outcome: ops.Failure, Why: strings.Repeat("because & ", 40)})
		s.pending = append(s.pending, ops.Waits{ID: fmt.Sprintf("cmd-%02d", i), Target: strings.Repeat("a", 200), Actor: byAda, Deadline: noon, Plan: scaling})
	}
	for line, want := range map[string]func(i int) string{
		"/swarm audit":          func(i int) string { return map[bool]string{true: fmt.Sprintf("app-%02d", i)}[i < auditShown] },
		"/swarm audit --page 2": func(i int) string { return map[bool]string{true: fmt.Sprintf("app-%02d", i)}[i >= auditShown] },
		"/swarm pending":        func(i int) string { return fmt.Sprintf("/swarm cancel cmd-%02d", i) },
	} {
		before := len(o.visible(linus))
		if ack := o.typed(linus, deploys, line); !ack.OK() || len(o.visible(linus)) != before+1 {
			t.Fatalf("%s is answered with %+v", line, ack)
		}
		got := o.visible(linus)[before]
		for i := range 20 {
			if !strings.Contains(got, want(i)) {
				t.Errorf("%s: no %s in %s", line, want(i), got)
			}
		}
		if older := strings.Contains(got, "Older: `/swarm audit --page 2`"); older != (line == "/swarm audit") {
			t.Errorf("%s: older entries %t", line, older)
		}
	}
	before := len(o.visible(linus))
	o.typed(linus, deploys, "/swarm help")
	got := o.visible(linus)[before]
	for _, c := range Commands() {
		if !strings.Contains(got, "`"+c.line()+"`") {
			t.Errorf("the help has no %s", c.line())
		}
	}
}

// TestPending lists what runs and what waits, with the ids that /swarm cancel takes.
func TestPending(t *testing.T) {
	t.Parallel()
	o, s := newOffice(t), &submitter{}
	o.serveHTTP(s)
	if ack := o.typed(linus, deploys, "/swarm pending"); !strings.Contains(ack.Body, "Nothing is under way, and nothing waits for an approval.") {
		t.Errorf("answered with %+v", ack)
	}
	m := o.bot.Open(ops.Request{Channel: deploys}, "", func(ref string) {
		s.work = []ops.Work{
			{ID: "deploy-1", Kind: "deploy", Target: "pizza", Title: "deploy of 1a2b3c4 (<!here>)", Actor: byPush, Asked: noon, Cancels: true, Message: ref},
			{ID: "deploy-2", Kind: "deploy", Target: "pasta", Title: "deploy of 2b3c4d5", Actor: byAda, Asked: noon, Cancels: true, Waits: "deploys of pasta are frozen: `/unfreeze pasta` lets it go on"},
			{ID: "cmd-3", Kind: "scale", Target: "salad", Title: "/scale salad 3", Actor: byAda, Asked: noon},
		}
	})
	m.Show(done())
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
	s.pending = []ops.Waits{{ID: "cmd-4", Target: "soup", Actor: byAda, Deadline: noon, Plan: scaling}}
	before := len(o.visible(linus))
	o.typed(linus, deploys, "/swarm pending")
	got := o.visible(linus)[before]
	for _, want := range []string{
		"3 under way", "pizza: deploy of 1a2b3c4 (<!here>)*, asked for by grace (push), 2026-03-01 12:00 UTC · `/swarm cancel deploy-1` · message (http",
		"pasta: deploy of 2b3c4d5*, asked for by @ada, 2026-03-01 12:00 UTC, deploys of pasta are frozen: `/unfreeze pasta` lets it go on · `/swarm cancel deploy-2`",
		"salad: /scale salad 3*, asked for by @ada, 2026-03-01 12:00 UTC\n", "1 waiting for an approval", "soup: replicas 3 → 6*", "`/swarm cancel cmd-4`",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %s", want, got)
		}
	}
	if strings.Contains(got, "cancel cmd-3") || len(o.visible(ada)) > 1 {
		t.Errorf("shown: %s; others see %q", got, o.visible(ada))
	}
}

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

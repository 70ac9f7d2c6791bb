package bot

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"waggle/internal/workspace"
	"waggle/ops"
)

var (
	byAda  = ops.Actor{ID: ada, Team: "T0WAGGLE", Name: "ada", Via: "slack"}
	byPush = ops.Actor{Name: "grace", Via: "github"}

	scaling  = ops.Plan{Diffs: []ops.Diff{{What: "replicas", From: "3", To: "6"}}, Undo: "/scale pizza 3"}
	updating = ops.Plan{Diffs: []ops.Diff{{What: "image", From: "pizza:1", To: "pizza:2"}}, Undo: "/rollback pizza"}
	partly   = &ops.Replicas{Wanted: 6, Running: 4, Stopping: 1,
		Nodes:    []ops.NodeCount{{Node: "n1", Count: 2}, {Node: "n2", Count: 2}},
		Problems: []ops.Problem{{Count: 1, Node: "n3", Reason: "no such image: pizza:2"}, {Count: 1, Reason: "no suitable node (insufficient resources)"}}}
	noon   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	wholly = &ops.Replicas{Wanted: 6, Running: 6, Nodes: []ops.NodeCount{{Node: "n1", Count: 3}, {Node: "n2", Count: 3}}}
)

// status is a scale of ada's, and then what change makes of it.
func status(state ops.State, change func(*ops.Status)) ops.Status {
	s := ops.Status{ID: "op1", Kind: "scale", Target: "pizza", Title: "/scale pizza 6", Actor: byAda, State: state, Took: 2300 * time.Millisecond, Plan: scaling}
	if change != nil {
		change(&s)
	}
	return s
}

// push is a deploy by a push.
func push(state ops.State, change func(*ops.Status)) ops.Status {
	s := ops.Status{ID: "op2", Kind: "deploy", Target: "pizza", Title: "deploy of 1a2b3c4 (Bake it longer)", Actor: byPush, State: state, Took: 72 * time.Second, Plan: updating}
	if change != nil {
		change(&s)
	}
	return s
}

var statuses = map[string]ops.Status{
	"planning":      status(ops.Planning, func(s *ops.Status) { s.Plan = ops.Plan{} }),
	"waiting":       push(ops.Waiting, func(s *ops.Status) { s.Note = "waits for the deploy of @linus, which began 10:00:00 UTC" }),
	"working":       status(ops.Working, func(s *ops.Status) { s.Replicas = partly }),
	"working-begun": status(ops.Working, nil),
	"working-steps": push(ops.Working, func(s *ops.Status) {
		s.Steps = []ops.Step{{Name: "clone", Detail: "1a2b3c4", State: ops.Done, Took: 800 * time.Millisecond},
			{Name: "build", Detail: "step 3 of 7: RUN go build", State: ops.Working}}
		s.Note = "Waggle was interrupted; resuming."
	}),
	"working-update": push(ops.Working, func(s *ops.Status) {
		s.Steps = []ops.Step{{Name: "clone", State: ops.Done, Took: time.Second}, {Name: "build", State: ops.Done, Took: 41 * time.Second},
			{Name: "push", Detail: "12 MB of 40 MB", State: ops.Done, Took: 3 * time.Second}, {Name: "update", State: ops.Working}}
		s.Replicas = partly
	}),
	"holding": status(ops.Holding, func(s *ops.Status) { s.Replicas = wholly }),
	"reverting": push(ops.Reverting, func(s *ops.Status) {
		s.Note, s.Replicas = "the new tasks fail, so the swarm goes back to pizza:1", partly
	}),
	"done": status(ops.Done, func(s *ops.Status) { s.Result, s.Replicas = "pizza runs 6 of 6", wholly }),
	"done-push": push(ops.Done, func(s *ops.Status) {
		s.Result, s.Replicas = "pizza runs pizza:2, 6 of 6", wholly
		s.Steps = []ops.Step{{Name: "clone", State: ops.Done, Took: time.Second}, {Name: "build", State: ops.Done, Took: 41 * time.Second}}
		s.Plan.Warnings = []string{"The registry does not answer, so the digest is not pinned."}
	}),
	"dry-run": status(ops.DryRun, nil),
	"dry-run-approval": status(ops.DryRun, func(s *ops.Status) {
		s.Plan.Diffs = []ops.Diff{{What: "replicas", From: "3", To: "30"}}
		s.Plan.Approval, s.Plan.Warnings = "30 is above 20", []string{"2 nodes are drained."}
	}),
	"failed": status(ops.Failure, func(s *ops.Status) {
		s.Replicas = partly
		s.Err = ops.Errorf(ops.Failed, "4 of 6 run after 10 minutes").Then("Look at `/app logs pizza`.")
	}),
	"failed-log": push(ops.Failure, func(s *ops.Status) {
		s.Steps = []ops.Step{{Name: "clone", State: ops.Done, Took: time.Second}, {Name: "build", State: ops.Failure, Took: 41 * time.Second}}
		s.Err = ops.Errorf(ops.Failed, "The build failed at step 3 of 7")
		s.Err.Log = "go build ./...\nmain.go:3:1: undefined: bake\nexit status 1"
	}),
	"failed-names-itself": status(ops.Failure, func(s *ops.Status) { s.Err = ops.Errorf(ops.Failed, "pizza did not converge") }),
	"refused": status(ops.Refused, func(s *ops.Status) {
		s.Plan = ops.Plan{}
		s.Err = ops.Errorf(ops.NotFound, "There is no app \"piza\" in this swarm").Then("Did you mean `pizza`?")
	}),
	"superseded": push(ops.Superseded, func(s *ops.Status) {
		s.Err = ops.Errorf(ops.Canceled, "Superseded by a newer push")
	}),
	"pending": status(ops.Pending, func(s *ops.Status) {
		s.Plan = ops.Plan{Diffs: []ops.Diff{{What: "replicas", From: "3", To: "0"}}, Approval: "it stops pizza", Undo: "/scale pizza 3"}
		s.Token, s.Deadline = "token-1", noon
	}),
	"pending-again": status(ops.Pending, func(s *ops.Status) {
		s.Before = &ops.Plan{Diffs: []ops.Diff{{What: "replicas", From: "3", To: "0"}}}
		s.Plan = ops.Plan{Diffs: []ops.Diff{{What: "replicas", From: "5", To: "0"}}, Approval: "it stops pizza"}
		s.Token, s.Deadline = "token-2", noon
	}),
	"pending-push": push(ops.Pending, func(s *ops.Status) {
		s.Plan.Approval = "pushes to pizza wait for one; grace pushed this"
		s.Plan.Commits = []ops.Commit{
			{ID: strings.Repeat("1a", 20), Message: "Bake it longer", Author: "Grace", URL: "https://git.example/acme/pizza/commit/1a?x=1&y=2|z>"},
			{ID: strings.Repeat("2b", 20), Message: "Less salt <!here>", URL: "javascript:alert(1)"}}
		s.Plan.Count, s.Plan.Compare = 7, "https://git.example/acme/pizza/compare/0...2b"
		s.Token, s.Deadline = "token-1", noon
	}),
	"rejected": status(ops.Rejected, func(s *ops.Status) {
		s.Err = ops.Errorf(ops.Canceled, "@grace rejected it: not on a Friday")
		s.Decision = &ops.Decision{Verdict: ops.Reject, By: ops.Actor{ID: grace, Name: "grace", Via: "slack"}, Reason: "not on a Friday"}
	}),
	"expired":   status(ops.Expired, func(s *ops.Status) { s.Err = ops.Errorf(ops.Canceled, "Nobody approved it in 30 minutes") }),
	"cancelled": status(ops.Cancelled, func(s *ops.Status) { s.Err = ops.Errorf(ops.Canceled, "@ada took it back") }),
	"done-approved": status(ops.Done, func(s *ops.Status) {
		s.Result, s.Replicas = "pizza runs 6 of 6", wholly
		s.Decision = &ops.Decision{Verdict: ops.Approve, By: ops.Actor{ID: grace, Name: "grace", Via: "slack"}}
	}),
	"many-problems": status(ops.Working, func(s *ops.Status) {
		r := ops.Replicas{Wanted: 40, Running: 3, Nodes: []ops.NodeCount{{Node: "n1", Count: 3}}}
		for i := range 7 {
			r.Problems = append(r.Problems, ops.Problem{Count: 9 - i, Node: fmt.Sprintf("n%d", i), Reason: "no space left on device"})
		}
		s.Replicas = &r
	}),
}

// nasty is text that means something to Slack.
const nasty = "<!channel> <@U0ADA> <https://evil.example|click> @here #general https://evil.example &lt;!here&gt; `code` ```fence``` *bold* _it_ ~x~\n> quote\n• list"

// hostile are statuses with text that others chose: commit subjects, logs,
// names, and the words of the swarm.
func hostile() map[string]ops.Status {
	all := map[string]ops.Status{}
	for name, text := range map[string]string{"nasty": nasty, "long": strings.Repeat("a&b<c> ", 1500), "wide": strings.Repeat("🐝", 9000),
		"log": strings.Repeat("``` "+nasty+"\n", 600), "ticks": strings.Repeat("`", 7000), "invalid": "\xff\xfe\x00", "lines": strings.Repeat("\n", 5000)} {
		for _, state := range []ops.State{ops.Planning, ops.Waiting, ops.Working, ops.Holding, ops.Reverting, ops.Done, ops.DryRun, ops.Failure, ops.Refused, ops.Superseded,
			ops.Pending, ops.Rejected, ops.Expired, ops.Cancelled, "unheard-of"} {
			for _, actor := range []ops.Actor{byAda, {Name: text, Via: "github"}} {
				log := text
				text := cut(text, 11000)
				s := ops.Status{ID: "op1", Kind: "deploy", Target: text, Title: text, Actor: actor, State: state, Note: text, Result: text,
					Plan: ops.Plan{Diffs: []ops.Diff{{What: text, From: text, To: text}}, Warnings: []string{text, text}, Approval: text, Undo: text,
						Commits: []ops.Commit{{ID: text, Message: text, Author: text, URL: text}, {ID: text, Message: text, URL: "https://evil.example/" + text}}, Count: 9, Compare: "https://evil.example/" + text},
					Steps: []ops.Step{{Name: text, Detail: text, State: ops.Working}, {Name: text, Detail: text, State: ops.Failure}},
					Replicas: &ops.Replicas{Wanted: 3, Running: 1, Stopping: 1, Nodes: []ops.NodeCount{{Node: text, Count: 1}},
						Problems: []ops.Problem{{Count: 2, Node: text, Reason: text}}},
					Before: &ops.Plan{Diffs: []ops.Diff{{What: text, From: text, To: text}}}, Token: "token", Deadline: noon,
					Decision: &ops.Decision{Verdict: ops.Approve, By: ops.Actor{Name: text, Via: "github"}, Reason: text},
					Err:      &ops.Error{Code: ops.Failed, Sentence: text, Next: text, Log: log, Err: errors.New("canary-cause")}}
				all[fmt.Sprintf("%s/%s/%s", name, state, actor.Via)] = s
				if s.Kind = "scale"; state != ops.Working && state != ops.Done {
					continue
				}
				all[fmt.Sprintf("%s/%s/%s/scale", name, state, actor.Via)] = s
			}
		}
	}
	return all
}

func TestRender(t *testing.T) {
	for name, s := range statuses {
		t.Run(name, func(t *testing.T) {
			m := check(t, s)
			golden(t, filepath.Join("render", name+".txt"), "notification: "+m.Notification()+"\n\n"+m.Plain()+"\n")
		})
	}
}

func TestRenderHostile(t *testing.T) {
	for name, s := range hostile() {
		t.Run(name, func(t *testing.T) {
			m := check(t, s)
			if strings.Contains(m.Plain(), "canary-cause") {
				t.Error("the cause is for the log only")
			}
		})
	}
	m := check(t, hostile()["nasty/failed/github"])
	golden(t, filepath.Join("render", "hostile.txt"), "notification: "+m.Notification()+"\n\n"+m.Plain()+"\n")
	m = check(t, hostile()["nasty/done/slack"])
	golden(t, filepath.Join("render", "hostile-done.txt"), "notification: "+m.Notification()+"\n\n"+m.Plain()+"\n")
}

// TestLongPlans: who decides reads the whole plan, and where it is longer than a message
// may be, how much of it is left out; never is it the reason, the time or a warning.
func TestLongPlans(t *testing.T) {
	var apps []string
	for i := range 120 {
		apps = append(apps, fmt.Sprintf("app-%03d", i))
	}
	planned := func(state ops.State, n int) ops.Status {
		return status(state, func(s *ops.Status) {
			s.Plan = ops.Plan{Approval: "it is used", Facts: []string{"get the login without a restart: " + strings.Join(apps, ", ")}, Warnings: []string{"pizza is of a stack"}}
			for i := range n {
				s.Plan.Diffs = append(s.Plan.Diffs, ops.Diff{What: fmt.Sprintf("registry of app-%03d", i), From: "registry.example.com/acme", To: "none: it is pulled without a login"})
			}
			s.Token, s.Deadline = "token-1", noon
		})
	}
	all := func(t *testing.T, got string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%q is not in it: %s", w, cut(got, 500))
			}
		}
	}
	for _, state := range []ops.State{ops.Pending, ops.DryRun} {
		t.Run(string(state), func(t *testing.T) {
			must := []string{"it is used", "⚠️ pizza is of a stack"}
			if state == ops.Pending {
				must = append(must, "Somebody other than @U0ADA may approve it until 2026-03-01 12:00 UTC.")
			}
			got := check(t, planned(state, 45)).Plain()
			all(t, got, append(must, apps...)...)
			for i := range 45 {
				all(t, got, fmt.Sprintf("• registry of app-%03d registry.example.com/acme → none: it is pulled without a login", i))
			}
			if strings.Contains(got, "…") {
				t.Error("something is cut")
			}
			got = check(t, planned(state, 400)).Plain()
			all(t, got, append(must, "• registry of app-080 ")...)
			if n := strings.Count(got, "• registry of"); !strings.Contains(got, fmt.Sprintf("…and %d more lines", 400-n+2)) { // the fact is two lines
				t.Errorf("%d of 400 are shown, and it does not say so", n)
			}
		})
	}
	failed := status(ops.Failure, func(s *ops.Status) {
		s.Err = ops.Errorf(ops.Failed, "3 of 123 apps are in own now; not moved: %s", strings.Join(apps, ", "))
	})
	all(t, check(t, failed).Plain(), apps...)

	warned := planned(ops.Pending, 45)
	for range 400 {
		warned.Plan.Warnings = append(warned.Plan.Warnings, "pasta stays where it is: its deploys are frozen")
	}
	all(t, check(t, warned).Plain(), "Why: it is used", "may approve it until", "⚠️ pasta", " more lines")
}

// check renders a status, and tests what holds for every message.
func check(t *testing.T, s ops.Status) workspace.Message {
	t.Helper()
	got := render(s)
	raw := asJSON(t, got.blocks)
	for _, fault := range workspace.CheckBlocks(raw) {
		t.Errorf("Slack refuses it: %s", fault)
	}
	// The text of chat.update. Source: https://docs.slack.dev/reference/methods/chat.update
	if n := utf8.RuneCountInString(got.text); n == 0 || n > 4000 {
		t.Errorf("the notification has %d characters", n)
	}
	if strings.Contains(got.text, "\n") {
		t.Errorf("the notification has several lines: %q", got.text)
	}
	texts, total := []string{got.text}, 0
	var blocks []struct {
		Type     string
		Text     *textObject
		Elements json.RawMessage
	}
	if err := json.Unmarshal(raw, &blocks); err != nil {
		t.Fatal(err)
	}
	for i, b := range blocks {
		var all []textObject
		if b.Type == "context" {
			if err := json.Unmarshal(b.Elements, &all); err != nil {
				t.Fatal(err)
			}
		}
		if b.Text != nil {
			all = append(all, *b.Text)
		}
		for _, m := range all {
			texts = append(texts, m.Text)
			if total += utf8.RuneCountInString(m.Text); total > maxMessage+100 {
				t.Errorf("%d characters up to block %d: Slack does not take as many in a message", total, i)
			}
			if !m.Verbatim {
				t.Errorf("block %d is not verbatim: Slack makes links of what looks like one", i)
			}
			if strings.Count(m.Text, "```")%2 == 1 {
				t.Errorf("block %d leaves a code block open: %q", i, m.Text)
			}
		}
		if i == 0 && b.Text != nil && strings.Contains(b.Text.Text, "\n") {
			t.Errorf("the headline has several lines: %q", b.Text.Text)
		}
	}
	ours := regexp.MustCompile(`^(<@(U0ADA|U0GRACE)>|<!date\^\d+\^\{date_short_pretty\} \{time\}\|[-0-9: ]+UTC>|<https?://[^<>|\s]+\|(Compare|\x60[0-9a-f]{7}\x60)>)$`)
	for _, text := range texts {
		for _, found := range regexp.MustCompile(`<[^>]*>?|>`).FindAllString(text, -1) {
			if !ours.MatchString(found) {
				t.Errorf("%q reaches Slack's parser in %q", found, cut(text, 300))
			}
		}
		// What is cut off must not end in half an escape.
		for _, amp := range regexp.MustCompile(`&[a-z]{0,3}(?:[^a-z;]|$)`).FindAllString(text, -1) {
			t.Errorf("half an escape %q in %q", amp, cut(text, 300))
		}
	}
	return workspace.Message{Text: got.text, Blocks: raw}
}

type textObject struct {
	Text     string
	Verbatim bool
}

func TestSentence(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
	}{
		{errors.New("redis: canary"), "⛔ *Waggle could not do it, for a reason that is in its log.*"},
		{ops.Errorf(ops.Invalid, "What <!channel>").Then("Type `/x <y>`."), "⛔ *What &lt;!channel&gt;.*\nType `/x &lt;y&gt;`."},
		{fmt.Errorf("wrapped: %w", ops.Errorf(ops.Locked, "Held")), "⛔ *Held.*"},
	} {
		if got := sentence(tc.err); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

func TestBar(t *testing.T) {
	for _, tc := range []struct {
		running, wanted int
		want            string
	}{{0, 0, ""}, {0, 3, "▱▱▱"}, {2, 3, "▰▰▱"}, {3, 3, "▰▰▰"}, {5, 3, "▰▰▰"}, {1, 100, "▱▱▱▱▱▱▱▱▱▱▱▱▱▱▱▱▱▱▱▱"}, {99, 100, "▰▰▰▰▰▰▰▰▰▰▰▰▰▰▰▰▰▰▰▱"}, {1, -1, ""}} {
		if got := bar(ops.Replicas{Running: tc.running, Wanted: tc.wanted}); got != tc.want {
			t.Errorf("%d of %d: %s, want %s", tc.running, tc.wanted, got, tc.want)
		}
	}
}

func TestTook(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0.0 s", 340 * time.Millisecond: "0.3 s", 9940 * time.Millisecond: "9.9 s", 9990 * time.Millisecond: "10.0 s",
		12 * time.Second: "12 s", 59900 * time.Millisecond: "60 s", 61 * time.Second: "1m1s", time.Hour: "1h0m0s"} {
		if got := took(d); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
}

func TestTail(t *testing.T) {
	if got := tail("abc", 3); got != "abc" {
		t.Error(got)
	}
	if got := tail("äbcd", 3); got != "… (the beginning is cut)\nbcd" {
		t.Error(got)
	}
}

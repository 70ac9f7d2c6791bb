package bot

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"waggle/internal/workspace"
	"waggle/ops"
)

func TestDeployIsParsed(t *testing.T) {
	for text, want := range map[string]string{
		"pizza":                "{App:pizza Ref: From:}",
		"pizza v1.2":           "{App:pizza Ref:v1.2 From:}",
		"pizza image nginx:1":  "{App:pizza Ref: From:nginx:1}",
		"pizza image":          "{App:pizza Ref:image From:}", // a branch may be called that
		"":                     "was given nothing",
		"pizza image nginx x":  "was given 4 words",
		"pizza main now":       "was given 3 words",
		"pizza ../x":           "is not a branch",
		"pizza image Nginx:1":  "is no image",
		"pizza image nginx:::": "is no image",
	} {
		args, err := parseLine(text, []string{dryRun}, nil)
		if err != nil {
			t.Fatal(err)
		}
		op, err := parseDeploy(args)
		got := fmt.Sprint(err)
		if err == nil {
			d := op.(*ops.Deploy)
			got = fmt.Sprintf("{App:%s Ref:%s From:%s}", d.App, d.Ref, d.From)
			if !d.Hand {
				t.Errorf("%q is not by hand", text)
			}
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
	for text, want := range map[string]string{"pizza": "0", "pizza 3": "3", "pizza 0": "is no release", "pizza -1": "is no release", "pizza x": "is no release", "": "was given nothing"} {
		args, _ := parseLine(text, []string{dryRun}, nil)
		op, err := parseRollback(args)
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprint(op.(*ops.Rollback).To)
		}
		if !strings.Contains(got, want) {
			t.Errorf("/rollback %q is %s, want %s", text, got, want)
		}
	}
}

// TestDeployButtons clicks what is below a deploy's message.
func TestDeployButtons(t *testing.T) {
	t.Parallel()
	o, s := newOffice(t), &submitter{}
	o.serveHTTP(s)
	var asked ops.Question
	s.ask = func(_ context.Context, q ops.Question) (ops.Answer, error) {
		asked = q
		return ops.Answer{Head: "The last 2 lines of pizza"}, nil
	}
	m := o.bot.Open(ops.Request{ID: "op2", Channel: deploys}, "", func(string) {})
	shown := func(text string, s ops.Status) workspace.Message {
		t.Helper()
		m.Show(s)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		got, err := o.Wait(ctx, deploys, ada, func(m workspace.Message) bool { return strings.Contains(m.Plain(), text) })
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	click := func(user string, m workspace.Message, action string) {
		t.Helper()
		if ack, err := o.Click(t.Context(), user, m, action); err != nil || !ack.OK() {
			t.Fatalf("%s is answered %+v, %v", action, ack, err)
		}
	}
	running := shown("[Cancel]", push(ops.Working, func(s *ops.Status) { s.Steps = []ops.Step{{Name: "build", State: ops.Working}} }))
	click(linus, running, actionCancel)
	if d := s.decided; len(d) != 1 || d[0].token != ops.CancelToken("op2") || d[0].verdict != ops.Cancel || d[0].req.Actor.ID != linus {
		t.Errorf("decided: %+v", d)
	}
	end := push(ops.Done, func(s *ops.Status) {
		s.Result = "pizza runs release 3"
		s.Plan.Diffs = append(s.Plan.Diffs, ops.Diff{What: "release", From: "2", To: "3"})
	})
	m.Show(end)
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
	done := shown("[Rollback] [Logs]", end)
	click(linus, done, actionRollback)
	reqs := s.taken()
	if len(reqs) != 1 || reqs[0].Actor.ID != linus || reqs[0].Channel != deploys || s.ops[0].(*ops.Rollback).App != "pizza" || s.ops[0].(*ops.Rollback).Of != 3 {
		t.Errorf("asked for %+v %+v", reqs, s.ops)
	}
	click(grace, done, actionLogs)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := o.Wait(ctx, deploys, grace, func(m workspace.Message) bool { return strings.Contains(m.Plain(), "The last 2 lines") }); err != nil {
		t.Error(err)
	}
	if asked != (ops.AppLogs{App: "pizza", Lines: 50}) {
		t.Errorf("asked %+v", asked)
	}
}

func TestWholeLogIsInTheThread(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	m := o.bot.Open(ops.Request{ID: "op2", Channel: deploys}, "", func(string) {})
	s := statuses["failed-log"]
	e := *s.Err
	s.Err, e.Whole = &e, strings.Repeat("#5 0.1 \x1b[31mbaking\x1b[0m\n", 500)
	m.Show(s)
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
	all := o.Messages(deploys, ada)
	if len(all) != 2 {
		t.Fatalf("%d messages:\n%s", len(all), o.Screen(deploys, ada))
	}
	file := all[1]
	if file.ThreadTS != all[0].TS || len(file.Files) != 1 || file.Files[0].Name != "pizza.log" || string(file.Files[0].Content) != strings.Repeat("#5 0.1 baking\n", 500) {
		t.Errorf("the log is %+v", file)
	}
	if first, _, _ := strings.Cut(all[0].Plain(), "\n"); !strings.Contains(first, "The build failed at step 3 of 7") {
		t.Errorf("the first line is %q", first)
	}
}

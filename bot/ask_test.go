package bot

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"waggle/internal/workspace"
	"waggle/ops"
)

type anything struct{}

func (anything) Needs() ops.Role { return ops.Viewer }
func (anything) Ask(context.Context, *ops.Runner, ops.Actor) (ops.Answer, error) {
	return ops.Answer{}, nil
}

func (o *office) read(do func(ctx context.Context) (ops.Answer, error)) rendered {
	o.work(&submitter{ask: func(ctx context.Context, _ ops.Question) (ops.Answer, error) { return do(ctx) }})
	asked := ops.Request{Title: "/node list", Channel: deploys, Actor: ops.Actor{ID: linus}, Reply: string(asJSON(o.t, reply{User: linus}))}
	return o.bot.reading(asked, func(ctx context.Context) rendered {
		got, err := o.bot.house.Ask(ctx, asked.Actor, anything{})
		if err != nil {
			return rendered{text: sentence(err)}
		}
		return answers(got)
	})
}

// TestAnswerInTime comes with the acknowledgement; a later one follows, and both
// are for the asker alone.
func TestAnswerInTime(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	got := o.read(func(context.Context) (ops.Answer, error) { return ops.Answer{Head: "3 nodes"}, nil })
	if got.text != "3 nodes" {
		t.Errorf("answered %+v", got)
	}

	o.bot.soon = time.Millisecond
	go_ := make(chan struct{})
	got = o.read(func(context.Context) (ops.Answer, error) { <-go_; return ops.Answer{Head: "4 nodes"}, nil })
	if got.text != "" {
		t.Errorf("answered %+v before there was an answer", got)
	}
	close(go_)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := o.Wait(ctx, deploys, linus, func(m workspace.Message) bool { return strings.Contains(m.Plain(), "4 nodes") }); err != nil {
		t.Error(err)
	}
	if seen := o.visible(ada); len(seen) != 0 {
		t.Errorf("others see %q", seen)
	}
}

func TestAnswerGoesWrong(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	if got := o.read(func(context.Context) (ops.Answer, error) { panic("boom") }); !strings.Contains(got.text, "in its log") {
		t.Errorf("a panic is answered %+v", got)
	}
	if got := o.read(func(context.Context) (ops.Answer, error) {
		return ops.Answer{}, ops.Errorf(ops.Unavailable, "Docker does not answer")
	}); !strings.Contains(got.text, "Docker does not answer") {
		t.Errorf("answered %+v", got)
	}
}

// TestCloseEndsAnswers: an answer that hangs does not keep Waggle from stopping.
func TestCloseEndsAnswers(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.bot.soon = time.Millisecond
	o.read(func(ctx context.Context) (ops.Answer, error) { <-ctx.Done(); return ops.Answer{}, ctx.Err() })
	within(t, 5*time.Second, "Close", o.bot.Close)
}

func TestAnswers(t *testing.T) {
	long := ops.Part{Table: [][]string{{"node", "state"}}}
	for i := range 400 {
		long.Table = append(long.Table, []string{fmt.Sprintf("node-%d", i), strings.Repeat("x", 100)})
	}
	many := ops.Answer{Head: "much"}
	for i := range 70 {
		many.Parts = append(many.Parts, ops.Part{Title: fmt.Sprintf("part %d", i)})
	}
	for name, a := range map[string]ops.Answer{
		"answer": {Head: "3 nodes, 1 of them is down", Parts: []ops.Part{
			{Table: [][]string{{"node", "role", "state"}, {"n1", "manager (leader)", "ready"}, {"größer", "worker", "down <!channel>"}}},
			{Title: "Managers", Lines: []string{"1 of 1 reachable", "<@U1> & co"}},
			{Code: "docker swarm join --token x 10.0.0.1:2377"},
		}, Concerns: []ops.Concern{{What: "n3 is down", Then: "`/node remove n3 --force` if it does not come back"}, {What: "only one manager"}}},
		"answer-long": {Head: "400 nodes", Parts: []ops.Part{long}},
		"answer-many": many,
	} {
		t.Run(name, func(t *testing.T) {
			r := answers(a)
			if problems := workspace.CheckBlocks(asJSON(t, r.blocks)); len(problems) > 0 {
				t.Errorf("Slack refuses it: %v", problems)
			}
			m := workspace.Message{Text: r.text, Blocks: asJSON(t, r.blocks)}
			golden(t, "render/"+name+".txt", "notification: "+m.Notification()+"\n\n"+m.Plain()+"\n")
		})
	}
}

// TestLongLines: a line of an answer may list all apps.
func TestLongLines(t *testing.T) {
	apps := strings.Repeat("app ", 400) + "the-last"
	m := answers(ops.Answer{Head: "much", Parts: []ops.Part{{Lines: []string{apps}}}, Concerns: []ops.Concern{{What: "frozen: " + apps, Then: "`/unfreeze <app>`"}}})
	got := workspace.Message{Blocks: asJSON(t, m.blocks)}.Plain()
	if strings.Count(got, "the-last") != 2 || !strings.Contains(got, "/unfreeze <app>") || len(workspace.CheckBlocks(asJSON(t, m.blocks))) > 0 {
		t.Errorf("shown: %s", got)
	}
}

// TestFollow shows an answer again and again in place of the one before.
func TestFollow(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.bot.followEvery = 20 * time.Millisecond
	var asked atomic.Int32
	o.serveHTTP(&submitter{ask: func(_ context.Context, q ops.Question) (ops.Answer, error) {
		if l, ok := q.(ops.AppLogs); !ok || l.App != "pizza" || l.Lines != 7 {
			t.Errorf("asked %+v", q)
		}
		return ops.Answer{Head: fmt.Sprintf("answer %d", asked.Add(1)), Moves: true}, nil
	}})
	o.typed(linus, deploys, "/app logs pizza 7")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	m, err := o.Wait(ctx, deploys, linus, func(m workspace.Message) bool { return strings.Contains(m.Plain(), "answer 1") })
	if err != nil || !strings.Contains(m.Plain(), "[Follow]") {
		t.Fatalf("%v, %s", err, m.Plain())
	}
	if ack, err := o.Click(t.Context(), linus, m, actionFollow); err != nil || !ack.OK() {
		t.Fatalf("%+v, %v", ack, err)
	}
	last, err := o.Wait(ctx, deploys, linus, func(m workspace.Message) bool { return strings.Contains(m.Plain(), "answer 6") })
	if err != nil || last.TS != m.TS || strings.Contains(last.Plain(), "[Follow]") || strings.Contains(last.Plain(), "followed for a minute") {
		t.Errorf("%v, %s", err, last.Plain())
	}
	if n := asked.Load(); n != 6 {
		t.Errorf("asked %d times", n)
	}
	if seen := o.visible(ada); len(seen) != 0 {
		t.Errorf("others see %q", seen)
	}
}

// TestLongAnswer is sent as a file to the asker alone; the message has its end.
func TestLongAnswer(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	var log strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&log, "line %d\n", i)
	}
	o.serveHTTP(&submitter{ask: func(context.Context, ops.Question) (ops.Answer, error) {
		return ops.Answer{Head: "The last 2000 lines of pizza", Parts: []ops.Part{{Code: log.String(), File: "pizza.log"}}}, nil
	}})
	o.typed(linus, deploys, "/app logs pizza 2000")
	seen := strings.Join(o.visible(linus), "\n")
	if !strings.Contains(seen, "line 1999") || strings.Contains(seen, "line 1\n") || !strings.Contains(seen, "the file pizza.log in your messages") {
		t.Errorf("he sees %s", cut(seen, 2000))
	}
	var files int
	for _, c := range o.Channels(linus) {
		for _, m := range o.Messages(c.ID, linus) {
			for _, f := range m.Files {
				files++
				if f.Name != "pizza.log" || string(f.Content) != log.String() || c.ID == deploys {
					t.Errorf("the file %s of %d bytes in %s", f.Name, len(f.Content), c.ID)
				}
			}
		}
	}
	if files != 1 || len(o.visible(ada)) != 0 {
		t.Errorf("%d files; others see %q", files, o.visible(ada))
	}
}

// TestForm fills in the form of a new app: faults are shown at their fields, and a
// right one makes the operation of the line.
func TestForm(t *testing.T) {
	t.Parallel()
	o, s := newOffice(t), &submitter{}
	o.serveHTTP(s)
	if ack := o.typed(linus, deploys, "/app create pizza"); !strings.Contains(ack.Body, "You are a viewer here") {
		t.Errorf("a viewer is answered %+v", ack)
	}
	if ack := o.typed(ada, deploys, "/app create pizza"); !ack.OK() || ack.Body != "" {
		t.Fatalf("%+v", ack)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	view, err := o.WaitView(ctx, ada, func(v workspace.View) bool { return v.Title == "New app" })
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{"repo": "file:///etc", "replicas": "1.5", "ports": "80", "env": "1X=2", "volumes": "data:relative", "cpu": "many", "memory": "1k", "constraints": "here"}
	if ack, err := o.Submit(t.Context(), ada, view, bad); err != nil || !ack.OK() {
		t.Fatalf("%+v, %v", ack, err)
	}
	view, _ = o.View(ada)
	for field := range bad {
		if view.Errors[field] == "" || strings.ContainsAny(view.Errors[field], "*`") || strings.Contains(view.Errors[field], "in its log") {
			t.Errorf("the fault of %s is %q", field, view.Errors[field])
		}
	}
	if len(s.taken()) > 0 {
		t.Fatal("it was taken all the same")
	}
	good := map[string]string{"repo": "https://github.com/acme/pizza.git", "branch": " main ", "replicas": "2", "ports": "8080:80", "env": "OVEN=hot\nSIZE=a b", "volumes": "data:/data",
		"cpu": "0.5", "memory": "256m", "constraints": "node.role==worker", "approve": "yes"}
	if ack, err := o.Submit(t.Context(), ada, view, good); err != nil || !ack.OK() || strings.Contains(ack.Body, "errors") {
		t.Fatalf("%+v, %v", ack, err)
	}
	if _, open := o.View(ada); open {
		t.Error("the form is still open")
	}
	if len(s.ops) != 1 {
		t.Fatalf("taken: %+v", s.ops)
	}
	c := s.ops[0].(*ops.AppCreate)
	if c.App != "pizza" || c.Repo != good["repo"] || c.Branch != "main" || c.Replicas != 2 || fmt.Sprint(c.Ports) != "[8080:80]" || c.Env["SIZE"] != "a b" || c.Env["OVEN"] != "hot" ||
		fmt.Sprint(c.Volumes) != "[data:/data]" || c.LimitCPU != 5e8 || c.LimitMemory != 256<<20 || !c.Approve {
		t.Errorf("made %+v", c)
	}
	if r := s.taken()[0]; r.Title != "/app create pizza" || r.Channel != deploys || r.Actor.ID != ada {
		t.Errorf("taken %+v", r)
	}
}

// TestFormWhereTheBotIsNot: what comes of a form that was opened where the bot may not
// write goes to who filled it in, by the way that the command gave.
func TestFormWhereTheBotIsNot(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	o, s := newOffice(t, func(_ *workspace.Options, b *Options) { b.Log = slog.New(slog.NewTextHandler(&log, nil)) }), &submitter{}
	o.serveHTTP(s)
	fill := func(line string) (way string) {
		t.Helper()
		ack := o.typed(ada, general, line)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		view, err := o.WaitView(ctx, ada, func(v workspace.View) bool { return v.Title == "New app" })
		if err != nil {
			t.Fatal(err)
		}
		if ack, err := o.Submit(t.Context(), ada, view, map[string]string{"repo": "https://github.com/acme/pizza.git"}); err != nil || !ack.OK() || strings.Contains(ack.Body, "errors") {
			t.Fatalf("%+v, %v", ack, err)
		}
		return ack.ResponseURL
	}
	sees := func(who string) (out []string) {
		for _, m := range o.Messages(general, who) {
			out = append(out, m.Plain())
		}
		return out
	}

	fill("/app create pizza")
	m := o.bot.Open(s.taken()[0], "", func(string) {})
	m.Show(done())
	if err := closed(t, m); err != nil {
		t.Error(err)
	}
	if got := sees(ada); len(got) != 1 || !strings.Contains(got[0], "pizza runs 6 of 6") || !strings.Contains(got[0], "only you see this") {
		t.Errorf("she sees %q", got)
	}

	s.do = func(context.Context) error { return ops.Errorf(ops.Unavailable, "There is no key to seal it with") }
	fill("/app create pasta")
	o.until(func() bool { return len(sees(ada)) == 2 })
	if got := sees(ada); !strings.Contains(got[1], "no key to seal it with") || len(sees(linus)) > 0 {
		t.Errorf("she sees %q, others %q", got, sees(linus))
	}

	o.FailNext("response_url", 1, workspace.Failure{Drop: true}) // tried again
	fill("/app create soup")
	o.until(func() bool { return len(sees(ada)) == 3 })

	// A long line leaves no room for it, and is asked about all the same.
	if ack := o.typed(ada, general, "/app env pizza secret "+strings.Repeat("A", maxMetadata-150)); !ack.OK() || ack.Body != "" {
		t.Errorf("a long line is answered %+v", ack)
	}

	o.Outage("response_url", 0, workspace.Failure{Drop: true})
	way := fill("/app create salad")
	o.until(func() bool { return len(o.Calls("response_url")) > 5 })
	o.bot.Close()
	if got := log.String(); !strings.Contains(got, "did not reach its asker") || strings.Contains(got, way) {
		t.Errorf("the log has the way to answer, %s, or nothing: %s", way, got)
	}
}

// TestSecretsStayOutOfTitles: what is typed after the app is in no message.
func TestSecretsStayOutOfTitles(t *testing.T) {
	t.Parallel()
	o, s := newOffice(t), &submitter{}
	o.serveHTTP(s)
	if ack := o.typed(ada, deploys, "/app env pizza set DB_PASSWORD=canary"); !ack.OK() || ack.Body != "" {
		t.Fatalf("%+v", ack)
	}
	if r := s.taken()[0]; r.Title != "/app env pizza" || strings.Contains(fmt.Sprintf("%+v %s", r, asJSON(t, s.ops[0])), "canary") {
		t.Errorf("taken %+v", r)
	}
}

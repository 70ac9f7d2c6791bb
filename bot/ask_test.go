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

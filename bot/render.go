package bot

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"waggle/ops"
)

// Slack's limits, in characters. Source: https://docs.slack.dev/reference/block-kit/blocks
const (
	maxSection = 3000
	maxLog     = 2500
)

// esc makes text safe to put between mrkdwn: it can name no person, channel or link.
func esc(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}

// sentence is an error as the asker reads it: what, then what to do.
func sentence(err error) string {
	e := new(ops.Error)
	if !errors.As(err, &e) {
		return "⛔ *Waggle could not do it, for a reason that is in its log.*"
	}
	text := "⛔ *" + esc(e.Sentence) + ".*"
	if e.Next != "" {
		text += "\n" + esc(e.Next)
	}
	return text
}

// rendered is a status as Slack takes it.
type rendered struct {
	text   string // the notification
	blocks []slack.Block
}

// render turns a status into a message. The first line alone says what is the
// matter; the second is what to look at or to do.
func render(s ops.Status) rendered {
	head := headline(s)
	blocks := []slack.Block{section(head)}
	if body := detail(s); body != "" {
		blocks = append(blocks, section(body))
	}
	if s.Err != nil && s.Err.Log != "" && s.State == ops.Failure {
		blocks = append(blocks, section("```"+tail(fence(esc(s.Err.Log)), maxLog)+"```"))
	}
	blocks = append(blocks, slack.NewContextBlock("", slack.NewTextBlockObject(slack.MarkdownType, cut(footer(s), maxSection), false, false)))
	return rendered{text: strings.ReplaceAll(head, "*", ""), blocks: blocks}
}

func section(text string) slack.Block {
	return slack.NewSectionBlock(slack.NewTextBlockObject(slack.MarkdownType, cut(text, maxSection), false, false), nil, nil)
}

// headline is the first line: the app, the outcome, and the one fact that matters.
func headline(s ops.Status) string {
	app := esc(s.Target)
	switch s.State {
	case ops.Done:
		was := ""
		if s.Kind == "scale" && len(s.Plan.Diffs) > 0 && s.Plan.Diffs[0].From != s.Plan.Diffs[0].To {
			was = fmt.Sprintf(" (was %s)", s.Plan.Diffs[0].From)
		}
		return fmt.Sprintf("✅ *%s*%s", esc(s.Result), was)
	case ops.DryRun:
		return fmt.Sprintf("📝 *%s: %s* (nothing was changed)", app, esc(diffs(s.Plan)))
	case ops.Failure:
		if strings.HasPrefix(s.Err.Sentence, s.Target) {
			return fmt.Sprintf("❌ *%s*", esc(s.Err.Sentence))
		}
		return fmt.Sprintf("❌ *%s:* %s", app, esc(s.Err.Sentence))
	case ops.Refused:
		return fmt.Sprintf("⛔ *%s*", esc(s.Err.Sentence))
	case ops.Superseded:
		return fmt.Sprintf("⏭️ *%s %s:* %s", app, esc(s.Title), esc(s.Err.Sentence))
	case ops.Waiting:
		return fmt.Sprintf("⏳ *%s %s* %s", app, esc(s.Title), esc(s.Note))
	case ops.Reverting:
		return fmt.Sprintf("↩️ *%s* %s", app, esc(s.Note))
	case ops.Planning:
		return fmt.Sprintf("⏳ *%s:* %s", app, esc(s.Title))
	}
	what := esc(s.Title)
	if s.Kind == "scale" {
		what = esc(diffs(s.Plan))
	}
	stage := ""
	switch {
	case s.State == ops.Holding:
		stage = fmt.Sprintf(" · *%s*, watching that it holds", s.Replicas)
	case s.Replicas != nil:
		stage = fmt.Sprintf(" · *%s*", s.Replicas)
	case len(s.Steps) > 0:
		stage = " · " + s.Steps[len(s.Steps)-1].Name
	}
	return fmt.Sprintf("🔄 *%s:* %s%s", app, what, stage)
}

func diffs(p ops.Plan) string {
	parts := make([]string, len(p.Diffs))
	for i, d := range p.Diffs {
		parts[i] = d.String()
	}
	return strings.Join(parts, ", ")
}

// detail is what is below the first line.
func detail(s ops.Status) string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if s.Err != nil && s.Err.Next != "" {
		add("%s", esc(s.Err.Next))
	}
	if s.Note != "" && s.State != ops.Waiting && s.State != ops.Reverting {
		add("_%s_", esc(s.Note))
	}
	for _, step := range s.Steps {
		mark := map[ops.State]string{ops.Working: "▸", ops.Done: "✓", ops.Failure: "✗"}[step.State]
		line := fmt.Sprintf("%s %s", mark, step.Name)
		if step.Detail != "" {
			line += " `" + strings.ReplaceAll(cut(step.Detail, 100), "`", "'") + "`"
		}
		if step.State != ops.Working {
			line += " · " + took(step.Took)
		}
		add("%s", esc(line))
	}
	if r := s.Replicas; r != nil && s.State != ops.Refused {
		if where := r.Where(); where != "" {
			add("%s %s", bar(*r), esc(where))
		}
		if !s.State.Final() && r.Stopping > 0 {
			add("%d still stopping", r.Stopping)
		}
		if s.State != ops.Done {
			for i, p := range r.Problems {
				if i == 3 {
					add("…and %d more reasons", len(r.Problems)-i)
					break
				}
				add("⚠️ %d not running: %s", p.Count, esc(cut(p.String(), 300)))
			}
		}
	}
	for _, w := range s.Plan.Warnings {
		add("⚠️ %s", esc(w))
	}
	if s.State == ops.DryRun && s.Plan.Approval != "" {
		add("It would need an approval: %s", esc(s.Plan.Approval))
	}
	return strings.Join(lines, "\n")
}

// bar draws how many of the wanted replicas run.
func bar(r ops.Replicas) string {
	const widest = 20
	if r.Wanted <= 0 {
		return ""
	}
	width := min(r.Wanted, widest)
	full := min(width, r.Running*width/r.Wanted)
	return strings.Repeat("▰", full) + strings.Repeat("▱", width-full)
}

// footer says who, what was typed, how long, and how to take it back.
func footer(s ops.Status) string {
	who := esc(s.Actor.String())
	if s.Actor.Via == "slack" {
		who = "<@" + s.Actor.ID + ">"
	}
	parts := []string{who}
	if s.Title != "" {
		if s.Actor.Via == "slack" {
			parts = append(parts, "`"+esc(strings.ReplaceAll(s.Title, "`", "'"))+"`")
		} else {
			parts = append(parts, esc(s.Title))
		}
	}
	parts = append(parts, took(s.Took))
	if s.State == ops.Done && s.Plan.Undo != "" {
		parts = append(parts, "undo: `"+esc(s.Plan.Undo)+"`")
	}
	return strings.Join(parts, " · ")
}

func took(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// tail keeps the end of a log and says that the rest was cut.
func tail(text string, n int) string {
	r := []rune(text)
	if len(r) <= n {
		return text
	}
	return "… (the beginning is cut)\n" + string(r[len(r)-n:])
}

// fence keeps a log from ending the code block that it stands in.
func fence(text string) string { return strings.ReplaceAll(text, "```", "'''") }

package bot

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/slack-go/slack"

	"waggle/ops"
)

// Slack's limits, in characters. Source: https://docs.slack.dev/reference/block-kit/blocks
const (
	maxSection = 3000
	maxContext = 2000
	maxLog     = 2500
	maxLine    = 600 // ours: of one text in a line
	// maxMessage is ours, of all the texts of a message together: somewhere above 11000
	// Slack refuses a message with msg_blocks_too_long, and does not say where.
	// Source: https://github.com/slackapi/bolt-js/issues/2509
	maxMessage = 10000
)

// esc makes text safe to put between mrkdwn: it can name no person, channel or
// link, and opens no block of code.
func esc(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "```", "'''").Replace(text)
}

// line is esc for text that is to stay in its line.
func line(text string) string {
	return esc(cut(strings.Join(strings.Fields(text), " "), maxLine))
}

// whole is line for text that is not to be cut: it takes as many lines as it needs.
func whole(text string) []string {
	var out []string
	rest := []rune(strings.Join(strings.Fields(text), " "))
	for len(rest) > maxLine {
		end := maxLine
		for i := maxLine; i > maxLine/2; i-- {
			if rest[i] == ' ' {
				end = i
				break
			}
		}
		out, rest = append(out, esc(string(rest[:end]))), rest[end:]
		if rest[0] == ' ' {
			rest = rest[1:]
		}
	}
	return append(out, esc(string(rest)))
}

// isLong says whether line cuts a text.
func isLong(text string) bool {
	return utf8.RuneCountInString(strings.Join(strings.Fields(text), " ")) > maxLine
}

// size is how many characters lines take.
func size(lines ...string) int {
	n := 0
	for _, l := range lines {
		n += utf8.RuneCountInString(l) + 1
	}
	return n
}

// first are as many lines as take n characters; the last says how many more there are.
func first(lines []string, n int) []string {
	if len(lines) == 0 || size(lines...) <= n {
		return lines
	}
	const more = "…and %d more lines"
	kept := 0
	for size(lines[:kept+1]...)+len(more)+5 <= n {
		kept++
	}
	return append(slices.Clone(lines[:kept]), fmt.Sprintf(more, len(lines)-kept))
}

// cutEscaped is cut for escaped text: it leaves no half of an escape or a mention.
func cutEscaped(text string, n int) string {
	short := cut(text, n)
	if short == text {
		return text
	}
	for _, pair := range []string{"&;", "<>"} {
		if i := strings.LastIndexByte(short, pair[0]); i >= 0 && !strings.Contains(short[i:], pair[1:]) {
			short = short[:i] + "…"
		}
	}
	return short
}

// sentence is an error as the asker reads it: what, then what to do.
func sentence(err error) string {
	e := new(ops.Error)
	if !errors.As(err, &e) {
		return "⛔ *Waggle could not do it, for a reason that is in its log.*"
	}
	text := "⛔ *" + line(e.Sentence) + ".*"
	if e.Next != "" {
		text += "\n" + stopped(line(e.Next))
	}
	return text
}

// stopped ends a sentence that has no end yet.
func stopped(text string) string {
	if strings.HasSuffix(text, ".") || strings.HasSuffix(text, "?") || strings.HasSuffix(text, "!") || strings.HasSuffix(text, "…") {
		return text
	}
	return text + "."
}

// rendered is a status as Slack takes it.
type rendered struct {
	text   string // the notification
	blocks []slack.Block
}

// acknowledgement is the message as an answer to the asker alone, nil for one
// without text.
func (r rendered) acknowledgement() any {
	if r.text == "" {
		return nil
	}
	return slack.Msg{ResponseType: slack.ResponseTypeEphemeral, Text: r.text, Blocks: slack.Blocks{BlockSet: r.blocks}}
}

// same is equal for two messages that differ at most in the footer, which has
// the time.
func (r rendered) same() string {
	if len(r.blocks) == 0 {
		return r.text
	}
	b, err := json.Marshal(r.blocks[:len(r.blocks)-1])
	if err != nil {
		return err.Error() // blocks always encode
	}
	return string(b)
}

// plain is the message as a line of text that Slack takes whatever it refused before, with
// a note that it is cut.
func (r rendered) plain(note string) rendered {
	return rendered{text: cutEscaped(r.text, 300) + "\n" + note}
}

// cutMost is renderCut's shortest form.
const cutMost = 2

// renderCut renders a status in a form that is shorter the higher n is, for when Slack
// refuses the one before: 0 is all of it, 1 leaves out logs and most of a long plan, 2 is
// a line of text.
func renderCut(s ops.Status, n int) rendered {
	full := render(s)
	if n == 0 {
		return full
	}
	note := fmt.Sprintf("_Cut, as Slack refused the whole message. Search Waggle's log for `op=%s`._", line(s.ID))
	if s.State == ops.Pending {
		note += " `/swarm pending` lists what needs approval."
	}
	if n == cutMost {
		return full.plain(note)
	}
	blocks := append([]slack.Block{section(cutEscaped(headline(s), maxLine))}, sections(detail(s, 2*maxLine))...)
	blocks = append(blocks, section(note))
	if s.State == ops.Pending {
		blocks = append(blocks, decisionButtons(s.Token))
	}
	return rendered{text: full.text, blocks: append(blocks, full.blocks[len(full.blocks)-1])}
}

// render turns a status into a message. The first line alone says what is the
// matter; the second is what to look at or to do.
func render(s ops.Status) rendered {
	head := headline(s)
	foot := mrkdwn(footer(s), maxContext)
	blocks := []slack.Block{section(head)}
	log := ""
	if s.Err != nil && s.Err.Log != "" && s.State == ops.Failure {
		log = "```\n" + tail(s.Err.Log, maxLog) + "\n```"
	}
	blocks = append(blocks, sections(detail(s, maxMessage-min(size(head), maxSection)-size(log, foot.Text)))...)
	if log != "" {
		blocks = append(blocks, section(log))
	}
	if s.State == ops.Pending {
		blocks = append(blocks, decisionButtons(s.Token))
	}
	if buttons := deployButtons(s); buttons != nil {
		blocks = append(blocks, buttons)
	}
	blocks = append(blocks, slack.NewContextBlock("", foot))
	return rendered{text: strings.ReplaceAll(cutEscaped(head, maxSection), "*", ""), blocks: blocks}
}

func section(text string) slack.Block {
	return slack.NewSectionBlock(mrkdwn(text, maxSection), nil, nil)
}

// mrkdwn is a text that Slack reads as it stands: what looks like a link, a
// channel or a name in it stays text.
func mrkdwn(text string, limit int) *slack.TextBlockObject {
	return slack.NewTextBlockObject(slack.MarkdownType, cutEscaped(text, limit), false, true)
}

// headline is the first line: the app, the outcome, and the one fact that matters.
func headline(s ops.Status) string {
	app := line(s.Target)
	switch s.State {
	case ops.Done:
		was := ""
		if s.Kind == "scale" && len(s.Plan.Diffs) > 0 && s.Plan.Diffs[0].From != s.Plan.Diffs[0].To {
			was = fmt.Sprintf(" (was %s)", line(s.Plan.Diffs[0].From))
		}
		return fmt.Sprintf("✅ *%s*%s", line(s.Result), was)
	case ops.DryRun:
		return fmt.Sprintf("📝 *%s: %s* (nothing was changed)", app, line(firstDiff(s.Plan)))
	case ops.Failure:
		if strings.HasPrefix(s.Err.Sentence, s.Target) {
			return fmt.Sprintf("❌ *%s*", line(s.Err.Sentence))
		}
		return fmt.Sprintf("❌ *%s:* %s", app, line(s.Err.Sentence))
	case ops.Refused:
		return fmt.Sprintf("⛔ *%s*", line(s.Err.Sentence))
	case ops.Pending:
		return fmt.Sprintf("🔐 *%s: %s* waits for an approval", app, line(firstDiff(s.Plan)))
	case ops.Rejected, ops.Expired, ops.Cancelled:
		if len(s.Plan.Diffs) == 0 {
			return fmt.Sprintf("🚫 *%s %s* was not done: %s", app, line(s.Title), line(s.Err.Sentence))
		}
		return fmt.Sprintf("🚫 *%s: %s* was not done: %s", app, line(firstDiff(s.Plan)), line(s.Err.Sentence))
	case ops.Superseded:
		return fmt.Sprintf("⏭️ *%s %s:* %s", app, line(s.Title), line(s.Err.Sentence))
	case ops.Waiting:
		return fmt.Sprintf("⏳ *%s %s* %s", app, line(s.Title), line(s.Note))
	case ops.Reverting:
		return fmt.Sprintf("↩️ *%s* %s", app, line(s.Note))
	case ops.Planning:
		return fmt.Sprintf("⏳ *%s:* %s", app, line(s.Title))
	}
	what := line(s.Title)
	if s.Kind == "scale" {
		what = line(diffs(s.Plan))
	}
	stage := ""
	switch {
	case s.State == ops.Holding:
		stage = fmt.Sprintf(" · *%s*, watching that it holds", s.Replicas)
	case s.Replicas != nil:
		stage = fmt.Sprintf(" · *%s*", s.Replicas)
	case len(s.Steps) > 0:
		stage = " · " + line(s.Steps[len(s.Steps)-1].Name)
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

// firstDiff is the change that matters most, with how many more there are.
func firstDiff(p ops.Plan) string {
	switch len(p.Diffs) {
	case 0:
		return "nothing"
	case 1:
		return p.Diffs[0].String()
	}
	return fmt.Sprintf("%s (and %d more)", p.Diffs[0], len(p.Diffs)-1)
}

// detail is what is below the first line, in at most n characters. An approver reads
// the plan here: where it is too long, he is told so, and what he has to know to decide
// stays.
func detail(s ops.Status, n int) []string {
	var told, plan, asking, going, warnings, last []string
	if s.Err != nil && isLong(s.Err.Sentence) {
		told = whole(s.Err.Sentence)
	}
	if isLong(s.Result) {
		told = append(told, whole(s.Result)...)
	}
	if s.Err != nil && s.Err.Next != "" {
		told = append(told, whole(stopped(s.Err.Next))...)
	}
	if s.State == ops.Pending {
		if s.Before != nil {
			told = append(told, whole(fmt.Sprintf("⚠️ The cluster changed after somebody approved this: it was `%s`.", diffs(*s.Before)))...)
		}
		asking = append(first(whole(fmt.Sprintf("Why: %s.", s.Plan.Approval)), maxSection),
			fmt.Sprintf("Somebody other than %s may approve it until %s.", mention(s.Actor), clock(s.Deadline)))
	}
	if s.State == ops.Pending || s.State == ops.DryRun {
		if len(s.Plan.Diffs) > 1 || isLong(diffs(s.Plan)) {
			for _, d := range s.Plan.Diffs {
				plan = append(plan, whole("• "+d.String())...)
			}
		}
		for _, f := range s.Plan.Facts {
			plan = append(plan, whole(f)...)
		}
	}
	going = append(commits(s.Plan), progress(s)...)
	for _, w := range s.Plan.Warnings {
		warnings = append(warnings, whole("⚠️ "+w)...)
	}
	if s.State == ops.DryRun && s.Plan.Approval != "" {
		last = whole("It would need an approval: " + s.Plan.Approval)
	}
	for _, part := range []*[]string{&asking, &told, &last, &warnings, &going, &plan} { // what matters most has room first
		*part = first(*part, n)
		n -= size(*part...)
	}
	return slices.Concat(told, plan, asking, going, warnings, last)
}

// progress is what an operation has come to.
func progress(s ops.Status) []string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if s.Note != "" && s.State != ops.Waiting && s.State != ops.Reverting {
		add("_%s_", line(s.Note))
	}
	for _, step := range s.Steps {
		mark := map[ops.State]string{ops.Working: "▸", ops.Done: "✓", ops.Failure: "✗"}[step.State]
		text := fmt.Sprintf("%s %s", mark, step.Name)
		if step.Detail != "" {
			text += " `" + strings.ReplaceAll(cut(step.Detail, 100), "`", "'") + "`"
		}
		if step.State != ops.Working {
			text += " · " + took(step.Took)
		}
		add("%s", line(text))
	}
	if r := s.Replicas; r != nil && s.State != ops.Refused {
		if where := r.Where(); where != "" {
			lines = append(lines, whole(bar(*r)+" "+where)...)
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
				add("⚠️ %d not running: %s", p.Count, line(cut(p.String(), 300)))
			}
		}
	}
	return lines
}

var commitHash = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)

// commits are the commits of a push, with links.
func commits(p ops.Plan) []string {
	var out []string
	for _, c := range p.Commits {
		id := line(cut(c.ID, 12))
		if commitHash.MatchString(c.ID) {
			id = link(c.URL, "`"+c.ID[:7]+"`")
		}
		text := "• " + id + " " + line(cut(c.Message, 80))
		if c.Author != "" {
			text += " · " + line(cut(c.Author, 40))
		}
		out = append(out, text)
	}
	if more := p.Count - len(p.Commits); more > 0 && len(p.Commits) > 0 {
		out = append(out, fmt.Sprintf("…and %d more before", more))
	}
	if p.Compare != "" {
		if l := link(p.Compare, "Compare"); l != "Compare" {
			out = append(out, l)
		}
	}
	return out
}

// link links escaped text to a page, if the address is one.
func link(address, text string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || len(address) > 500 {
		return text
	}
	return "<" + strings.NewReplacer("&", "&amp;", "<", "%3C", ">", "%3E", "|", "%7C").Replace(u.String()) + "|" + text + ">"
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
	who := line(s.Actor.String())
	if s.Actor.Via == "slack" {
		who = "<@" + s.Actor.ID + ">"
	}
	parts := []string{who}
	if s.Title != "" {
		if s.Actor.Via == "slack" {
			parts = append(parts, "`"+line(strings.ReplaceAll(s.Title, "`", "'"))+"`")
		} else {
			parts = append(parts, line(s.Title))
		}
	}
	if d := s.Decision; d != nil && d.Verdict == ops.Approve {
		parts = append(parts, "approved by "+mention(d.By))
	}
	parts = append(parts, took(s.Took))
	if s.State == ops.Done && s.Plan.Undo != "" {
		parts = append(parts, "undo: `"+line(strings.ReplaceAll(s.Plan.Undo, "`", "'"))+"`")
	}
	return strings.Join(parts, " · ")
}

// mention names somebody so that Slack shows who it is.
func mention(a ops.Actor) string {
	if a.Via == "slack" && a.ID != "" {
		return "<@" + line(a.ID) + ">"
	}
	return line(a.String())
}

// clock is a time as each reader's own clock shows it.
// Source: https://docs.slack.dev/messaging/formatting-message-text#date-formatting
func clock(t time.Time) string {
	return fmt.Sprintf("<!date^%d^{date_short_pretty} {time}|%s>", t.Unix(), t.UTC().Format("2006-01-02 15:04 UTC"))
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

// control are the characters and sequences by which a log colours a terminal.
var control = regexp.MustCompile(`\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]`)

// tail escapes the end of a log, of at most about n characters, and says that the
// rest was cut.
func tail(log string, n int) string {
	r := []rune(strings.TrimSpace(control.ReplaceAllString(log, "")))
	from := len(r)
	for room := n; from > 0; from-- {
		if room -= utf8.RuneCountInString(esc(string(r[from-1]))); room < 0 {
			break
		}
	}
	if from == 0 {
		return esc(string(r))
	}
	return "… (the beginning is cut)\n" + esc(string(r[from:]))
}

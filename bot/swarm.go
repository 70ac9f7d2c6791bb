package bot

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"waggle/ops"
)

// auditShown is how many entries /swarm audit shows.
const auditShown = 15

func answerHelp(_ context.Context, _ *Bot, _ ops.Request, args Args) (string, error) {
	rows := Commands()
	if len(args.Words) > 0 {
		var err error
		if rows, err = helpOf(args.Words); err != nil {
			return "", err
		}
	}
	var text strings.Builder
	for _, c := range rows {
		fmt.Fprintf(&text, "`%s`\n%s. For example `%s`.\n", esc(c.line()), c.Short, strings.Join(c.Example, "`, `"))
	}
	return text.String(), nil
}

// helpOf returns the rows that help is asked for: those of a command, or of it only
// that of a verb.
func helpOf(words []string) ([]Command, error) {
	names, all := slashCommands()
	name := "/" + strings.TrimPrefix(words[0], "/")
	rows := all[name]
	if len(rows) == 0 || len(words) == 1 {
		return rows, notOurs(name, names, rows)
	}
	c, rest, err := find(name, words[1:])
	if err == nil && (c.Verb == "" || len(rest) > 0) {
		err = ops.Errorf(ops.Invalid, "%s has no %q", name, strings.Join(words[1:], " ")).Then("`%s help` shows what it has.", name)
	}
	return []Command{c}, err
}

func answerPending(ctx context.Context, b *Bot, asked ops.Request, args Args) (string, error) {
	if len(args.Words) > 0 {
		return "", ops.Errorf(ops.Invalid, "/swarm pending takes nothing, and was given %s", count(args.Words))
	}
	if err := b.Authorise(ctx, asked.Actor, ops.Viewer); err != nil {
		return "", err
	}
	return b.pending(ctx)
}

// answerCancel stores the decision; what comes of it is told as for a click.
func answerCancel(ctx context.Context, b *Bot, asked ops.Request, args Args) (string, error) {
	if len(args.Words) != 1 {
		return "", ops.Errorf(ops.Invalid, "/swarm cancel takes the id of what waits or runs, and was given %s", count(args.Words)).
			Then("`/swarm pending` lists what runs and what waits.")
	}
	return "", b.stored(asked, b.decide(ctx, asked, ops.CancelToken(args.Words[0]), ops.Cancel, ""))
}

func answerAudit(ctx context.Context, b *Bot, asked ops.Request, args Args) (string, error) {
	if len(args.Words) > 1 {
		return "", ops.Errorf(ops.Invalid, "/swarm audit takes one app, and was given %s", count(args.Words))
	}
	if err := b.Authorise(ctx, asked.Actor, ops.Viewer); err != nil {
		return "", err
	}
	page, err := parsePage(args)
	if err != nil {
		return "", err
	}
	return b.audit(ctx, strings.Join(args.Words, ""), page)
}

// pending lists what runs and what waits, with the ids of what can be cancelled.
func (b *Bot) pending(ctx context.Context) (string, error) {
	work, err := b.house.UnderWay(ctx)
	if err != nil {
		return "", redisAway(err)
	}
	waits, err := b.house.PendingOperations(ctx)
	if err != nil {
		return "", redisAway(err)
	}
	if len(work)+len(waits) == 0 {
		return "Nothing is under way, and nothing waits for an approval.", nil
	}
	var text strings.Builder
	end := func(id, message string) {
		if id != "" {
			fmt.Fprintf(&text, " · `/swarm cancel %s`", esc(id))
		}
		if channel, ts, ok := strings.Cut(message, "/"); ok {
			if link, err := b.permalink(ctx, channel, ts); err == nil {
				fmt.Fprintf(&text, " · <%s|message>", link)
			}
		}
		text.WriteString("\n")
	}
	if len(work) > 0 {
		fmt.Fprintf(&text, "*%d under way*\n", len(work))
	}
	for _, w := range work {
		fmt.Fprintf(&text, "• *%s: %s*, asked for by %s, %s", line(w.Target), line(w.Title), mention(w.Actor), clock(w.Asked))
		if w.Waits != "" {
			fmt.Fprintf(&text, ", %s", line(w.Waits))
		}
		id := ""
		if w.Cancels {
			id = w.ID
		}
		end(id, w.Message)
	}
	if len(waits) > 0 {
		fmt.Fprintf(&text, "*%d waiting for an approval*\n", len(waits))
	}
	for _, w := range waits {
		fmt.Fprintf(&text, "• *%s: %s*, asked for by %s, until %s", line(w.Target), line(firstDiff(w.Plan)), mention(w.Actor), clock(w.Deadline))
		end(w.ID, w.Message)
	}
	return text.String(), nil
}

func (b *Bot) audit(ctx context.Context, target string, page int) (string, error) {
	entries, err := b.house.Audit(ctx, target, page*auditShown+1)
	if err != nil {
		return "", redisAway(err)
	}
	from := min((page-1)*auditShown, len(entries))
	more := len(entries) > page*auditShown
	entries = entries[from:min(page*auditShown, len(entries))]
	if len(entries) == 0 {
		if page > 1 {
			return "There is no such page: nothing older is remembered here; the log of Waggle has it all.", nil
		}
		return "Nothing was done that Redis remembers; the log of Waggle has it all.", nil
	}
	var text strings.Builder
	for _, e := range entries {
		text.WriteString(entryLine(e) + "\n")
	}
	if more {
		text.WriteString(strings.Join(strings.Fields(fmt.Sprintf("Older: `/swarm audit %s --page %d`", esc(target), page+1)), " "))
	}
	return text.String(), nil
}

// entryLine is one entry of the audit.
func entryLine(e ops.Entry) string {
	text := fmt.Sprintf("%s  %s *%s* %s %s", clock(e.At), line(e.Who), e.Outcome, e.Kind, line(e.Target))
	if len(e.Diffs) > 0 {
		text += ": " + line(diffs(ops.Plan{Diffs: e.Diffs}))
	}
	if e.Decider != "" {
		text += fmt.Sprintf(" (decided by %s)", line(e.Decider))
	}
	if e.Why != "" {
		text += ": " + line(cut(e.Why, 200))
	}
	return text
}

// againAfter is how old an entry is when it is not the first attempt to record it: an
// earlier one may have been posted.
const againAfter = 3 * time.Second

// Record implements ops.Reporter: one line in the audit channel. Like a message's Close it
// returns nil when the line is there or can never be, which is logged, and an error when it
// may be later; it is safe to call again then.
func (b *Bot) Record(ctx context.Context, e ops.Entry) error {
	if b.opts.AuditChannel == "" || e.Outcome == ops.DryRun {
		return nil
	}
	if err := b.pace(b.opts.AuditChannel).Wait(ctx); err != nil {
		return err
	}
	msg := rendered{text: entryLine(e), blocks: []slack.Block{section(entryLine(e))}}
	// An operation has more than one entry when decisions about it are refused.
	with := mark(auditEvent, fmt.Sprintf("%s@%d", e.ID, e.At.UnixNano()))
	lost := b.opts.Now().Sub(e.At) > againAfter
	err := b.insist(ctx, func() error {
		if lost {
			_, ts, err := b.posted(ctx, b.opts.AuditChannel, with, e.At, "")
			if err != nil || ts != "" {
				return err
			}
		}
		_, _, err := b.post(ctx, b.opts.AuditChannel, msg, with)
		if what, _ := classify(err); err != nil && what == shorten && len(msg.blocks) > 0 {
			msg = msg.plain("_Cut, as Slack refused the whole line._")
			_, _, err = b.post(ctx, b.opts.AuditChannel, msg, with)
		}
		lost = err != nil && !notDone(err)
		return err
	})
	if what, _ := classify(err); err != nil && (what == never || what == shorten) {
		b.opts.Log.Warn("an audit entry can't be shown in its channel", "op", e.ID, "channel", b.opts.AuditChannel, "err", err)
		return nil
	}
	return err
}

func redisAway(err error) error {
	return &ops.Error{Code: ops.Unavailable, Sentence: "Redis does not answer", Next: "Try again in a minute.", Err: err}
}

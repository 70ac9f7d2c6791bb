package bot

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/slack-go/slack"

	"waggle/ops"
)

const (
	askWithin = 30 * time.Second // the longest a question may take
	maxBlocks = 50               // of a message. Source: https://docs.slack.dev/reference/block-kit/blocks
)

// reading runs do, which reads for an answer to the asker alone. What is there in
// the time of an acknowledgement is returned; what takes longer follows by itself.
func (b *Bot) reading(asked ops.Request, do func(ctx context.Context) rendered) rendered {
	ctx, cancel := context.WithTimeout(b.life, askWithin)
	answers, late := make(chan rendered), make(chan struct{})
	b.reads.Go(func() {
		defer cancel()
		var got rendered
		b.recovered(asked.Title, func() string { got = do(ctx); return "" })
		if got.text == "" {
			got = rendered{text: sentence(fmt.Errorf("no answer"))}
		}
		select {
		case answers <- got:
			return
		case <-late:
		}
		if len(got.blocks) == 0 {
			got.blocks = []slack.Block{section(got.text)}
		}
		if err := b.answerAsker(ctx, asked, got, false); err != nil {
			b.opts.Log.Warn("an answer did not reach its asker", "question", asked.Title, "user", asked.Actor.ID, "err", err)
		}
	})
	soon := time.NewTimer(b.soon)
	defer soon.Stop()
	select {
	case got := <-answers:
		return got
	case <-soon.C:
		close(late)
		return rendered{}
	}
}

// answers makes an ops.Answer a message.
func answers(a ops.Answer) rendered {
	head := "*" + line(a.Head) + "*"
	blocks := []slack.Block{section(head)}
	for _, p := range a.Parts {
		if p.Title != "" {
			blocks = append(blocks, section("*"+line(p.Title)+"*"))
		}
		if len(p.Table) > 0 {
			blocks = append(blocks, fenced(table(p.Table))...)
		}
		if len(p.Lines) > 0 {
			blocks = append(blocks, sections(wholeLines(p.Lines))...)
		}
		if p.Code != "" {
			lines := strings.Split(strings.TrimRight(p.Code, "\n"), "\n")
			if long(p) {
				lines = lastLines(lines, 2*maxSection)
			}
			blocks = append(blocks, fenced(lines)...)
		}
	}
	var worries []string
	for _, c := range a.Concerns {
		text := "⚠️ " + c.What
		if c.Then != "" {
			text += ": " + c.Then
		}
		worries = append(worries, whole(text)...)
	}
	if len(worries) > 0 {
		blocks = append(blocks, sections(worries)...)
	}
	if len(blocks) > maxBlocks {
		blocks = append(blocks[:maxBlocks-1], section("… (the rest is cut: it is longer than a message may be)"))
	}
	return rendered{text: strings.ReplaceAll(head, "*", ""), blocks: blocks}
}

// long says whether a part is better sent as a file.
func long(p ops.Part) bool { return p.File != "" && utf8.RuneCountInString(p.Code) > 2*maxSection }

// lastLines are the last lines of at most n characters together.
func lastLines(lines []string, n int) []string {
	from := len(lines)
	for from > 0 && n > utf8.RuneCountInString(lines[from-1]) {
		from--
		n -= utf8.RuneCountInString(lines[from]) + 1
	}
	return lines[from:]
}

// sendLong sends the parts of an answer that are too long for a message as files, to
// the asker alone, and says in the answer that it did.
func (b *Bot) sendLong(ctx context.Context, asked ops.Request, a *ops.Answer) {
	for _, p := range a.Parts {
		if !long(p) {
			continue
		}
		im, _, _, err := b.api.OpenConversationContext(ctx, &slack.OpenConversationParameters{Users: []string{asked.Actor.ID}})
		if err == nil {
			_, err = b.api.UploadFileContext(ctx, slack.UploadFileParameters{Channel: im.ID, Filename: p.File, Title: asked.Title,
				Content: p.Code, FileSize: len(p.Code), InitialComment: line(a.Head)})
		}
		if err != nil {
			b.opts.Log.Warn("a long answer could not be sent as a file", "question", asked.Title, "user", asked.Actor.ID, "err", err)
			a.Concern("only the end is shown: the whole could not be sent to you as a file", "ask for fewer lines")
			continue
		}
		a.Parts = append(a.Parts, ops.Part{Lines: []string{fmt.Sprintf("This is the end. The whole is the file %s in your messages with Waggle.", p.File)}})
	}
}

const (
	actionFollow = "follow"
	followTimes  = 5 // a response_url is good for as many
)

// followed is a question that is asked again.
type followed struct {
	Name string `json:"name"`
	Verb string `json:"verb"`
	Args Args   `json:"args"`
}

// followButton lets the asker see for a minute how an answer changes.
func followButton(row Command, args Args) (slack.Block, error) {
	value, err := json.Marshal(followed{row.Name, row.Verb, args})
	if err != nil || len(value) > 2000 {
		return nil, fmt.Errorf("no button for %s: %w", row.line(), err)
	}
	return slack.NewActionBlock("follow", slack.NewButtonBlockElement(actionFollow, string(value), plainText("Follow"))), nil
}

// follow asks a question again and again, and shows each answer in place of the one
// before.
func (b *Bot) follow(asked ops.Request, value string) error {
	var f followed
	if err := json.Unmarshal([]byte(value), &f); err != nil {
		return fmt.Errorf("read a button: %w", err)
	}
	words := f.Args.Words
	if f.Verb != "" {
		words = append([]string{f.Verb}, words...)
	}
	row, _, err := find(f.Name, words)
	if err != nil || row.Ask == nil {
		return fmt.Errorf("follow %s %s: %w", f.Name, f.Verb, err)
	}
	question, err := row.Ask(f.Args)
	if err != nil {
		return err
	}
	b.reads.Go(func() {
		tick := time.NewTicker(b.followEvery)
		defer tick.Stop()
		for i := range followTimes {
			ctx, cancel := context.WithTimeout(b.life, askWithin)
			got, err := b.house.Ask(ctx, asked.Actor, question)
			shown := answers(got)
			if err != nil {
				text := sentence(b.noted(asked, err))
				shown = rendered{text: text, blocks: []slack.Block{section(text)}}
			} else if i < followTimes-1 {
				shown.blocks = append(shown.blocks, section("_It is followed for a minute._"))
			}
			sent := b.answerAsker(ctx, asked, shown, true) // in place of the one before
			cancel()
			if err != nil || sent != nil {
				b.opts.Log.Info("following has ended early", "question", row.line(), "user", asked.Actor.ID, "err", sent)
				return
			}
			select {
			case <-b.life.Done():
				return
			case <-tick.C:
			}
		}
	})
	return nil
}

func wholeLines(lines []string) []string {
	var out []string
	for _, l := range lines {
		out = append(out, whole(l)...)
	}
	return out
}

// table lays out rows in columns, each as wide as its widest cell.
func table(rows [][]string) []string {
	var wide []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(wide) {
				wide = append(wide, 0)
			}
			wide[i] = max(wide[i], utf8.RuneCountInString(cell))
		}
	}
	out := make([]string, len(rows))
	for r, row := range rows {
		var text strings.Builder
		for i, cell := range row {
			text.WriteString(strings.Join(strings.Fields(cell), " "))
			if pad := wide[i] - utf8.RuneCountInString(cell); i < len(row)-1 {
				text.WriteString(strings.Repeat(" ", pad+2))
			}
		}
		out[r] = strings.TrimRight(text.String(), " ")
	}
	return out
}

// fenced shows lines as they stand, in as many blocks as they need.
func fenced(lines []string) []slack.Block {
	escaped := slices.Clone(lines)
	for i, l := range escaped {
		escaped[i] = cutEscaped(esc(l), maxLine)
	}
	var out []slack.Block
	for _, part := range pack(escaped, maxSection-8) {
		out = append(out, section("```\n"+part+"\n```"))
	}
	return out
}

// sections shows escaped lines, in as many blocks as they need.
func sections(lines []string) []slack.Block {
	var out []slack.Block
	for _, part := range pack(lines, maxSection) {
		out = append(out, section(part))
	}
	return out
}

// mrkdwnLines shows a text of escaped lines, in blocks when it is too long for one.
func mrkdwnLines(text string) rendered {
	if size(text) <= maxSection {
		return rendered{text: text}
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return rendered{text: cutEscaped(lines[0], maxSection), blocks: sections(first(lines, maxBlocks/3*maxSection))}
}

// pack joins lines to texts of at most n characters. A line has fewer.
func pack(lines []string, n int) []string {
	var out []string
	room := 0
	for _, l := range lines {
		size := utf8.RuneCountInString(l) + 1
		if len(out) == 0 || size > room {
			out, room = append(out, l), n-size
			continue
		}
		out[len(out)-1] += "\n" + l
		room -= size
	}
	return out
}

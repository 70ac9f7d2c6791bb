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
		m := &message{bot: b, channel: asked.Channel}
		if err := json.Unmarshal([]byte(asked.Reply), &m.reply); err != nil {
			b.opts.Log.Warn("an answer has no way back", "question", asked.Title, "err", err)
			return
		}
		if err := m.whisper(ctx, got); err != nil {
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
			blocks = append(blocks, sections(escapedLines(p.Lines))...)
		}
		if p.Code != "" {
			blocks = append(blocks, fenced(strings.Split(strings.TrimRight(p.Code, "\n"), "\n"))...)
		}
	}
	var worries []string
	for _, c := range a.Concerns {
		text := "⚠️ " + line(c.What)
		if c.Then != "" {
			text += ": " + line(c.Then)
		}
		worries = append(worries, text)
	}
	if len(worries) > 0 {
		blocks = append(blocks, sections(worries)...)
	}
	if len(blocks) > maxBlocks {
		blocks = append(blocks[:maxBlocks-1], section("… (the rest is cut: it is longer than a message may be)"))
	}
	return rendered{text: strings.ReplaceAll(head, "*", ""), blocks: blocks}
}

func escapedLines(lines []string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = line(l)
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

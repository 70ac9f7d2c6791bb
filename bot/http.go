package bot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"waggle/ops"
	"waggle/ops/queue"
	"waggle/ops/store"
)

const (
	maxBody = 1 << 20 // Slack's own requests are a few kB
	// ackWithin leaves room in the 3 s that Slack waits.
	ackWithin = 1500 * time.Millisecond
)

// reply is how to answer the asker of a slash command, kept with the request.
type reply struct {
	User string `json:"user"`
	URL  string `json:"url"` // response_url: five uses in thirty minutes
}

// ServeHTTP takes what Slack sends to /slack/events in HTTP mode.
// Source: https://docs.slack.dev/authentication/verifying-requests-from-slack
func (b *Bot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "Slack sends POST here", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		return
	} else if err != nil {
		http.Error(w, "unreadable", http.StatusBadRequest)
		return
	}
	if err := b.verify(r.Header, body); err != nil {
		b.opts.Log.Warn("refused a request to /slack/events", "remote", r.RemoteAddr, "err", err)
		http.Error(w, "bad signature", http.StatusUnauthorized)
		return
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch kind {
	case "application/x-www-form-urlencoded":
		r.Body = io.NopCloser(bytes.NewReader(body))
		if err := r.ParseForm(); err != nil {
			http.Error(w, "unreadable", http.StatusBadRequest)
			return
		}
		if payload := r.PostForm.Get("payload"); payload != "" {
			var in slack.InteractionCallback
			if err := json.Unmarshal([]byte(payload), &in); err != nil {
				http.Error(w, "unreadable", http.StatusBadRequest)
				return
			}
			ack, err := b.interaction(r.Context(), in)
			if err != nil {
				// Slack then shows the clicker that it did not work.
				b.opts.Log.Error("could not take a click", "user", in.User.ID, "err", err)
				http.Error(w, "try again", http.StatusServiceUnavailable)
			} else if ack != nil {
				answer(w, ack)
			}
			return
		}
		if r.PostForm.Get("ssl_check") == "1" {
			return // Slack looks now and then whether the address and its certificate are good
		}
		cmd, err := slack.SlashCommandParse(r)
		if err != nil || cmd.Command == "" {
			http.Error(w, "no command in it", http.StatusBadRequest)
			return
		}
		if ack := b.command(r.Context(), cmd).acknowledgement(); ack != nil {
			answer(w, ack)
		}
	case "application/json":
		var event struct{ Type, Challenge string }
		if err := json.Unmarshal(body, &event); err != nil {
			http.Error(w, "unreadable", http.StatusBadRequest)
			return
		}
		if event.Type == "url_verification" {
			answer(w, map[string]string{"challenge": event.Challenge})
		}
	default:
		http.Error(w, "neither a form nor JSON", http.StatusUnsupportedMediaType)
	}
}

func (b *Bot) verify(h http.Header, body []byte) error {
	if b.opts.SigningSecret.Empty() {
		return errors.New("there is no signing secret to check it with")
	}
	v, err := slack.NewSecretsVerifier(h, b.opts.SigningSecret.Reveal())
	if err != nil {
		return err
	}
	_, _ = v.Write(body) // into a hash
	return v.Ensure()
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // else Slack has hung up
}

// command takes one slash command. What it returns is shown to the asker alone;
// a message without text means that more follows by itself.
func (b *Bot) command(ctx context.Context, cmd slack.SlashCommand) rendered {
	words, err := split(plain(cmd.Text))
	if err != nil {
		return rendered{text: sentence(err)}
	}
	row, words, err := find(cmd.Command, words)
	if err != nil {
		return rendered{text: sentence(err)}
	}
	args, err := parseArgs(words, row.flags(), row.Options)
	if err != nil {
		return rendered{text: usage(err, row)}
	}
	where, err := json.Marshal(reply{User: cmd.UserID, URL: cmd.ResponseURL})
	if err != nil {
		return rendered{text: sentence(err)}
	}
	asked := ops.Request{
		// A request that is replayed within Slack's five minutes is the same request.
		ID:      fmt.Sprintf("cmd-%x", sha256.Sum256([]byte(cmd.TriggerID+cmd.Command+cmd.Text)))[:16],
		Actor:   ops.Actor{ID: cmd.UserID, Team: cmd.TeamID, Name: cmd.UserName, Via: "slack"},
		Title:   cut(cmd.Command+" "+plain(cmd.Text), 80),
		Channel: cmd.ChannelID,
		Reply:   string(where),
		DryRun:  args.Flags[dryRun],
	}
	if row.Hide && len(words) > 0 {
		asked.Title = cut(strings.Join([]string{row.Name, row.Verb, words[0]}, " "), 80)
	}
	if row.Answer != nil {
		ctx, cancel := context.WithTimeout(ctx, ackWithin)
		defer cancel()
		text, err := row.Answer(ctx, b, asked, args)
		if err != nil {
			return rendered{text: usage(b.noted(asked, err), row)}
		}
		return mrkdwnLines(text)
	}
	if row.New == nil {
		return b.question(row, asked, args)
	}
	var all []ops.Operation
	for _, one := range row.each(args) {
		op, err := row.parse(one)
		switch {
		case errors.Is(err, errAsk):
			return b.question(row, asked, args)
		case errors.Is(err, errForm):
			if err := b.openForm(ctx, cmd, row, asked, args); err != nil {
				return rendered{text: usage(b.noted(asked, err), row)}
			}
			return rendered{}
		case err != nil:
			return rendered{text: usage(err, row)}
		case slices.ContainsFunc(all, func(o ops.Operation) bool { return o.Target() == op.Target() }):
			return rendered{text: usage(ops.Errorf(ops.Invalid, "%s is there twice", op.Target()), row)}
		}
		all = append(all, op)
	}
	var taken []string
	again := 0
	for i, op := range all {
		one := asked
		if i > 0 {
			one.ID = fmt.Sprintf("%s-%d", asked.ID, i)
		}
		err := b.submit(ctx, one, op)
		if errors.Is(err, queue.ErrDuplicate) {
			again++
		} else if err != nil {
			return rendered{text: sentence(untaken(err, taken, all[i:]))}
		}
		taken = append(taken, op.Target())
	}
	if again == len(all) {
		return rendered{text: takenBefore}
	}
	return rendered{}
}

func (b *Bot) question(row Command, asked ops.Request, args Args) rendered {
	question, err := row.Ask(args)
	if err != nil {
		return rendered{text: usage(err, row)}
	}
	return b.reading(asked, func(ctx context.Context) rendered {
		got, err := b.house.Ask(ctx, asked.Actor, question)
		if err != nil {
			return rendered{text: usage(b.noted(asked, err), row)}
		}
		b.sendLong(ctx, asked, &got)
		shown := answers(got)
		if got.Moves {
			button, err := followButton(row, args)
			if err != nil {
				b.opts.Log.Debug("an answer cannot be followed", "err", err)
				return shown
			}
			shown.blocks = append(shown.blocks, button)
		}
		return shown
	})
}

const takenBefore = "This very request was taken before."

// submit makes an operation durable; its own message follows. The error is
// queue.ErrDuplicate, or for the asker to read.
func (b *Bot) submit(ctx context.Context, asked ops.Request, op ops.Operation) error {
	ctx, cancel := context.WithTimeout(ctx, ackWithin)
	defer cancel()
	return b.stored(asked, b.house.Submit(ctx, asked, op))
}

// stored says to the asker why a request was not made durable. When Redis was asked and
// did not answer it may have been, all the same.
func (b *Bot) stored(asked ops.Request, err error) error {
	if err == nil || errors.Is(err, queue.ErrDuplicate) || errors.As(err, new(*ops.Error)) {
		return err
	}
	b.opts.Log.Error("could not store a request", "title", asked.Title, "user", asked.Actor.ID, "err", err)
	if store.NotDone(err) {
		return &ops.Error{Code: ops.Unavailable, Err: err, Sentence: "Redis does not answer, so nothing was changed",
			Next: "Try again in a minute; Waggle's `/readyz` says when it is back."}
	}
	return &ops.Error{Code: ops.Unavailable, Err: err, Sentence: "Redis did not answer in time, so this may have been taken, or not",
		Next: "`/swarm` shows what was taken: look there before you type it again."}
}

// untaken is err, with which a line about several apps came to an end, and what became
// of each of them.
func untaken(err error, taken []string, left []ops.Operation) error {
	sure := store.NotDone(err)
	if ops.CodeOf(err) != ops.Unavailable || len(taken) == 0 && (sure || len(left) == 1) {
		return err
	}
	var parts, not []string
	add := func(what string, apps ...string) {
		if len(apps) > 0 {
			parts = append(parts, what+": "+strings.Join(apps, ", "))
		}
	}
	for _, op := range left {
		not = append(not, op.Target())
	}
	add("taken", taken...)
	if !sure {
		add("perhaps taken", not[0])
		not = not[1:]
	}
	add("not taken", not...)
	return (&ops.Error{Code: ops.Unavailable, Sentence: "Redis does not answer; " + strings.Join(parts, "; "), Err: err}).
		Then("`/swarm` shows what was taken. Type the others again in a minute.")
}

// noted puts an error into the log that its reader is told is there.
func (b *Bot) noted(asked ops.Request, err error) error {
	if !errors.As(err, new(*ops.Error)) {
		b.opts.Log.Error("could not do what was asked for", "title", asked.Title, "user", asked.Actor.ID, "err", err)
	}
	return err
}

// usage is the answer to a line that could not be read, or not be answered.
func usage(err error, c Command) string {
	if ops.CodeOf(err) != ops.Invalid {
		return sentence(err)
	}
	return fmt.Sprintf("%s\nUsage: `%s`, for example `%s`. Nothing was changed.", sentence(err), esc(c.line()), c.Example[0])
}

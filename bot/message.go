package bot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slack-go/slack"

	"waggle/ops"
)

// quiet is how long an operation may plan before its message appears: most are
// past it by then, or refused and answered to the asker alone.
const quiet = 1500 * time.Millisecond

// Open implements ops.Reporter.
func (b *Bot) Open(req ops.Request, ref string, save func(ref string)) ops.Message {
	m := &message{bot: b, channel: req.Channel, save: save, changed: make(chan struct{}, 1), closing: make(chan struct{})}
	if m.channel == "" {
		m.channel = b.opts.Channel
	}
	if channel, ts, ok := strings.Cut(ref, "/"); ok {
		m.channel, m.ts = channel, ts
	}
	if req.Reply != "" {
		if err := json.Unmarshal([]byte(req.Reply), &m.reply); err != nil {
			b.opts.Log.Warn("a stored request does not say how to answer", "op", req.ID, "err", err)
		}
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

// message is one message in Slack, edited as its operation goes. One goroutine,
// begun by the first Show and ended by Close, does all the talking.
type message struct {
	bot     *Bot
	reply   reply
	save    func(ref string)
	ctx     context.Context
	cancel  context.CancelFunc
	changed chan struct{} // holds one token when there is a newer status
	closing chan struct{}
	talking sync.WaitGroup

	mu     sync.Mutex
	begun  bool
	status ops.Status

	// Used by the goroutine only.
	channel string
	ts      string // "" until it is posted
	shown   string // what is shown, to leave out edits that change nothing
	used    int    // of the five uses of the response_url
	err     error  // why the last status is not shown
}

// Show implements ops.Message.
func (m *message) Show(s ops.Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status = s
	if !m.begun {
		m.begun = true
		m.talking.Go(m.talk)
	}
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// Close implements ops.Message.
func (m *message) Close(ctx context.Context) error {
	stop := context.AfterFunc(ctx, m.cancel)
	defer stop()
	defer m.cancel()
	close(m.closing)
	m.talking.Wait()
	if m.err == nil {
		m.sendLog(ctx)
	}
	return m.err
}

// sendLog puts the whole log of what failed into the thread of the message.
func (m *message) sendLog(ctx context.Context) {
	s := m.latest()
	if s.State != ops.Failure || s.Err == nil || s.Err.Whole == "" || m.ts == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	log := control.ReplaceAllString(s.Err.Whole, "")
	_, err := m.bot.api.UploadFileContext(ctx, slack.UploadFileParameters{Channel: m.channel, ThreadTimestamp: m.ts,
		Filename: s.Target + ".log", Title: cut("The whole log of "+s.Title, 80), Content: log, FileSize: len(log)})
	if err != nil {
		m.bot.opts.Log.Warn("the whole log is not in the message's thread", "op", s.ID, "channel", m.channel, "err", err)
	}
}

func (m *message) latest() ops.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status
}

// talk sends what changed, no faster than Slack takes it, and the last status
// before it ends.
func (m *message) talk() {
	closing := m.closing
	early := time.NewTimer(m.bot.quiet)
	defer early.Stop()
	soon := true // planning is not worth a message yet
	for {
		select {
		case <-m.ctx.Done():
			m.err = m.ctx.Err()
			return
		case <-early.C:
			soon = false
		case <-m.changed:
		case <-closing:
			m.err = m.send(true)
			return
		}
		if soon && m.latest().State == ops.Planning {
			continue
		}
		if m.latest().State.Final() {
			continue // Close follows, and sends it
		}
		if err := m.send(false); err != nil {
			m.bot.opts.Log.Warn("could not show how an operation goes", "op", m.latest().ID, "channel", m.channel, "err", err)
		}
	}
}

// send shows the latest status. It tries again for as long as that may help; a
// newer status takes the place of the one that was to be sent.
func (m *message) send(last bool) error {
	for try := 0; ; try++ {
		if render(m.latest()).same() == m.shown {
			return nil // an edit that changes nothing is not worth its place in the channel's pace
		}
		if m.channel != "" && !m.private() {
			if err := m.bot.pace(m.channel).Wait(m.ctx); err != nil {
				return err
			}
		}
		err := m.put(render(m.latest()), m.private())
		if err == nil {
			return nil
		}
		again, wait := classify(err)
		if !again {
			return err
		}
		if !last && try >= 3 {
			return err // the next change tries again
		}
		t := time.NewTimer(max(wait, m.bot.again))
		select {
		case <-m.ctx.Done():
			t.Stop()
			return fmt.Errorf("%w, after %w", m.ctx.Err(), err)
		case <-t.C:
		}
	}
}

// private says whether only the asker is to see the status: a refusal or a dry
// run of which the channel has seen nothing yet.
func (m *message) private() bool {
	s := m.latest().State
	return m.ts == "" && m.reply.User != "" && (s == ops.Refused || s == ops.DryRun)
}

// put posts the message, or edits it when it is there.
func (m *message) put(msg rendered, private bool) error {
	var err error
	ctx, cancel := context.WithTimeout(m.ctx, 15*time.Second)
	defer cancel()
	switch {
	case m.channel == "" && m.reply.URL == "":
		return nil // nobody asked to be told
	case private:
		err = m.whisper(ctx, msg)
	case m.ts != "":
		_, _, _, err = m.bot.api.UpdateMessageContext(ctx, m.channel, m.ts, options(msg)...)
		if refused(err, "message_not_found", "cant_update_message") {
			m.ts = "" // somebody deleted it: make a new one
			err = m.post(ctx, msg)
		}
	default:
		err = m.post(ctx, msg)
	}
	if err == nil {
		m.shown = msg.same()
	}
	return err
}

func options(msg rendered) []slack.MsgOption {
	return []slack.MsgOption{slack.MsgOptionText(msg.text, false), slack.MsgOptionBlocks(msg.blocks...),
		slack.MsgOptionDisableLinkUnfurl(), slack.MsgOptionDisableMediaUnfurl()}
}

// notWritable are Slack's words for a channel that the bot may not write to.
var notWritable = []string{"not_in_channel", "channel_not_found", "is_archived", "restricted_action"}

func (m *message) post(ctx context.Context, msg rendered) error {
	channel, ts, err := m.bot.api.PostMessageContext(ctx, m.channel, options(msg)...)
	if fallback := m.bot.opts.Channel; refused(err, notWritable...) && m.latest().State == ops.Pending && fallback != "" && fallback != m.channel {
		// Others have to see it, to approve it.
		m.channel = fallback
		return m.post(ctx, msg)
	}
	if refused(err, notWritable...) && m.reply.URL != "" {
		// A command can be typed where the bot may not write.
		msg.blocks = append(msg.blocks, section("Waggle may not write here, so only you see this. `/invite` it to show its work to all."))
		return m.whisper(ctx, msg)
	}
	if err != nil {
		return err
	}
	m.channel, m.ts = channel, ts
	m.save(channel + "/" + ts)
	return nil
}

// whisper answers the asker alone, through the response_url of the command and,
// when that is used up, as an ephemeral message.
// Source: https://docs.slack.dev/interactivity/handling-user-interaction#message_responses
func (m *message) whisper(ctx context.Context, msg rendered) error {
	const uses = 5
	if m.reply.URL == "" || m.used >= uses {
		_, err := m.bot.api.PostEphemeralContext(ctx, m.channel, m.reply.User, options(msg)...)
		return err
	}
	if m.used == uses-1 && !m.latest().State.Final() {
		return nil // the last use is for the end
	}
	body, err := json.Marshal(slack.Msg{ResponseType: slack.ResponseTypeEphemeral, Text: msg.text,
		Blocks: slack.Blocks{BlockSet: msg.blocks}, ReplaceOriginal: m.used > 0})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.reply.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := m.bot.http.Do(req)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return failed.Err // it says where to: whoever reads that in the log could answer
	} else if err != nil {
		return err
	}
	defer resp.Body.Close()
	m.used++
	if resp.StatusCode != http.StatusOK {
		if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone {
			m.used = uses
			return m.whisper(ctx, msg)
		}
		return slack.StatusCodeError{Code: resp.StatusCode, Status: resp.Status}
	}
	return nil
}

func refused(err error, codes ...string) bool {
	e, ok := errors.AsType[slack.SlackErrorResponse](err)
	return ok && slices.Contains(codes, e.Err)
}

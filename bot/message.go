package bot

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/slack-go/slack"

	"waggle/ops"
)

const (
	// quiet is how long an operation may plan before its message appears: most are
	// past it by then, or refused and answered to the asker alone.
	quiet = 1500 * time.Millisecond
	// callTimeout bounds what one try to show a status may take.
	callTimeout = 15 * time.Second
	// triesInBetween is how often a status that is not the last is tried: then the next
	// change takes its place.
	triesInBetween = 4
	// mayBePosted is the ref of a message that an earlier attempt may have posted, whose
	// name was lost.
	mayBePosted = "?"
)

// Open implements ops.Reporter. ref is the message's name, "channel/ts"; "" when there is
// no message yet; or "?" when an earlier attempt may have posted one and its name was
// lost: then it is looked for in the channel's history before a new one is posted.
func (b *Bot) Open(req ops.Request, ref string, save func(ref string)) ops.Message {
	m := &message{bot: b, op: req.ID, asked: req.At, channel: req.Channel, lost: ref == mayBePosted, save: save,
		changed: make(chan struct{}, 1), closing: make(chan struct{})}
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
	op      string
	asked   time.Time
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
	lost    bool   // it may have been posted, without an answer
	dead    string // the ts of a message that cannot be edited any more
	shown   string // what is shown, to leave out edits that change nothing
	cut     int    // how far the content is cut, because Slack refused more
	cutIn   ops.State
	used    int // of the uses of the response_url
	urlGone bool
	warned  bool  // that the last tries failed
	err     error // why the last status is not shown
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

// Close implements ops.Message. It is called once, and returns soon after ctx ends,
// whatever Slack does; nothing of the message goes on after it.
//
// It returns nil when the last status is shown, and also when it can never be, because
// its channel and its asker cannot be written to or Slack refuses even its shortest form:
// that is logged as a warning. An error says that it is not shown and may be later: Slack
// is away, or the token has to be replaced. Whoever keeps the status opens the message
// again then, shows the status and closes it, which is safe at any time: an edit can be
// repeated, and of a post whose answer was lost see Open. What only the asker sees, and
// the file with a log, may come twice if Waggle dies right after they were sent.
func (m *message) Close(ctx context.Context) error {
	stop := context.AfterFunc(ctx, m.cancel)
	defer stop()
	defer m.cancel()
	if ctx.Err() != nil {
		m.cancel() // before the goroutine sees that it is to send the last status
	}
	close(m.closing)
	m.talking.Wait()
	if m.err == nil {
		m.sendLog(ctx)
		return nil
	}
	if what, _ := classify(m.err); what == never || what == shorten {
		m.bot.opts.Log.Warn("the last state can't be shown in Slack", "op", m.op, "channel", m.channel,
			"state", m.latest().State, "err", m.err)
		return nil
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
		err := m.send(false)
		// What can never be shown is said once, by Close.
		if what, _ := classify(err); err != nil && !m.warned && (what == retry || what == later) {
			m.bot.opts.Log.Warn("could not show how an operation goes", "op", m.op, "channel", m.channel, "err", err)
		}
		m.warned = err != nil
	}
}

// send shows the latest status. It tries again for as long as that may help; a
// newer status takes the place of the one that was to be sent.
func (m *message) send(last bool) error {
	backoff := m.bot.again
	for try := 1; ; try++ {
		s := m.latest()
		if s.State != m.cutIn {
			m.cut, m.cutIn = 0, s.State
		}
		msg := renderCut(s, m.cut)
		if msg.same() == m.shown {
			return nil // an edit that changes nothing is not worth its place in the channel's pace
		}
		if m.channel != "" && !m.private(s) {
			if err := m.bot.pace(m.channel).Wait(m.ctx); err != nil {
				return err
			}
		}
		err := m.put(s, msg)
		if err == nil {
			m.shown = msg.same()
			return nil
		}
		what, wait := classify(err)
		switch {
		case what == shorten && m.cut < cutMost:
			m.cut++
			continue
		case what != retry:
			return err
		case !last && try >= triesInBetween:
			return err // the next change tries again
		}
		if err := rest(m.ctx, max(wait, backoff), err); err != nil {
			return err
		}
		backoff = min(2*backoff, maxBackoff*m.bot.again)
	}
}

// private says whether only the asker is to see the status: a refusal or a dry
// run of which the channel has seen nothing yet.
func (m *message) private(s ops.Status) bool {
	return m.ts == "" && m.reply.User != "" && (s.State == ops.Refused || s.State == ops.DryRun || m.channel == "")
}

// put posts the message, or edits it when it is there.
func (m *message) put(s ops.Status, msg rendered) error {
	if m.channel == "" && m.reply.User == "" {
		return nil // nobody asked to be told
	}
	ctx, cancel := context.WithTimeout(m.ctx, callTimeout)
	defer cancel()
	if m.ts == "" && m.lost {
		if err := m.find(ctx); err != nil {
			return err
		}
	}
	if m.ts != "" {
		_, _, _, err := m.bot.api.UpdateMessageContext(ctx, m.channel, m.ts, options(msg)...)
		if !refused(err, uneditable...) {
			return m.elsewhere(ctx, s, msg, err)
		}
		m.dead, m.ts = m.ts, "" // somebody deleted it: make a new one
	} else if m.private(s) {
		return m.whisper(ctx, s, msg)
	}
	return m.elsewhere(ctx, s, msg, m.post(ctx, msg))
}

// find looks for the message that an earlier try may have posted: where the operation
// reports, or in the default channel, where an approval is asked for if need be.
func (m *message) find(ctx context.Context) error {
	channels := []string{m.channel}
	if fallback := m.bot.opts.Channel; fallback != m.channel {
		channels = append(channels, fallback)
	}
	for _, channel := range channels {
		if channel == "" {
			continue
		}
		id, ts, err := m.bot.posted(ctx, channel, mark(operationEvent, m.op), m.asked, m.dead)
		if err != nil {
			return err
		}
		if ts != "" {
			m.named(id, ts)
			return nil
		}
	}
	m.lost = false
	return nil
}

func (m *message) post(ctx context.Context, msg rendered) error {
	channel, ts, err := m.bot.post(ctx, m.channel, msg, mark(operationEvent, m.op))
	if err != nil {
		m.lost = m.lost || !notDone(err)
		return err
	}
	m.named(channel, ts)
	return nil
}

// named keeps the name of a message that is in Slack.
func (m *message) named(channel, ts string) {
	m.channel, m.ts, m.lost = channel, ts, false
	m.save(channel + "/" + ts)
}

// elsewhere shows a message another way when err says that its channel can't be written
// to; other errors it returns.
func (m *message) elsewhere(ctx context.Context, s ops.Status, msg rendered, err error) error {
	if err == nil {
		return nil
	}
	if what, _ := classify(err); what != never {
		return err
	}
	if fallback := m.bot.opts.Channel; s.State == ops.Pending && fallback != "" && fallback != m.channel {
		// Others have to see it, to approve it.
		m.channel, m.ts = fallback, ""
		return m.elsewhere(ctx, s, msg, m.post(ctx, msg))
	}
	if m.reply.User == "" {
		return err
	}
	// A command can be typed where the bot can't write.
	if len(msg.blocks) > 0 {
		const why = "Waggle can't write here, so only you see this. `/invite` it to show its work to all."
		msg.blocks = append(msg.blocks, section(why))
	}
	return m.whisper(ctx, s, msg)
}

// whisper answers the asker alone, through the response_url of the command. Where that is
// used up or has expired, as after a restart or an outage, what has to be known comes as an
// ephemeral or a direct message: those can't be replaced, so there is none in between.
func (m *message) whisper(ctx context.Context, s ops.Status, msg rendered) error {
	must := s.State.Final() || s.State == ops.Pending
	old := !m.asked.IsZero() && m.bot.opts.Now().Sub(m.asked) > responseLife
	if !m.urlGone && !old && m.used < responseUses {
		if m.used == responseUses-1 && !must {
			return nil // the last use is for the end
		}
		err := m.bot.respond(ctx, m.reply.URL, msg, m.used > 0)
		if err == nil {
			m.used++
		}
		if !refused(err, urlGone) {
			return err
		}
		m.urlGone = true
	}
	if !must {
		return nil
	}
	return m.bot.sendPrivately(ctx, m.channel, m.reply.User, msg)
}

func options(msg rendered) []slack.MsgOption {
	return []slack.MsgOption{slack.MsgOptionText(msg.text, false), slack.MsgOptionBlocks(msg.blocks...),
		slack.MsgOptionDisableLinkUnfurl(), slack.MsgOptionDisableMediaUnfurl()}
}

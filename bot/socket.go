package bot

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/slack-go/slack"
	"github.com/slack-go/slack/socketmode"
	"golang.org/x/sync/errgroup"
)

const (
	// socketWorkers is how many requests are answered side by side. Each takes
	// ackWithin at most, so the line never stands still for longer.
	socketWorkers = 16
	// flush is for the last acknowledgements: the library says when one is
	// queued, not when it is written.
	flush = 100 * time.Millisecond
)

// ListenSocket takes what Slack sends over Socket Mode, until ctx ends; then it
// answers what has come and returns nil. It connects again by itself. The error
// is a refusal that trying again does not help, such as a wrong app token.
// Source: https://docs.slack.dev/apis/events-api/using-socket-mode
func (b *Bot) ListenSocket(ctx context.Context) error {
	client := socketmode.New(b.api)
	connected, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	var connection sync.WaitGroup
	connection.Go(func() { ended <- client.RunContext(connected) })
	var answers errgroup.Group
	answers.SetLimit(socketWorkers)
	defer func() {
		_ = answers.Wait() // they return no errors
		time.Sleep(flush)
		hangUp()
		connection.Wait()
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return refusedSocket(err)
		case event := <-client.Events:
			if err := b.socketEvent(connected, client, event, &answers); err != nil {
				return err
			}
		}
	}
}

// socketEvent handles one event of the library and never blocks on Slack or Redis.
func (b *Bot) socketEvent(ctx context.Context, client *socketmode.Client, event socketmode.Event, answers *errgroup.Group) error {
	log := b.opts.Log
	switch data := event.Data.(type) {
	case slack.SlashCommand:
		if !answers.TryGo(func() error {
			var m rendered
			if failed := b.recovered(data.Command, func() string { m = b.command(ctx, data); return "" }); failed != "" {
				m = rendered{text: failed}
			}
			b.acknowledge(ctx, client, event.Request, m.acknowledgement())
			return nil
		}) {
			log.Warn("too many requests at once: one was refused", "command", data.Command, "user", data.UserID)
			b.acknowledge(ctx, client, event.Request, rendered{text: "⛔ *Waggle has too much to do at this moment, so nothing was changed.*\nTry again in a minute."}.acknowledgement())
		}
		return nil
	case slack.InteractionCallback:
		if !answers.TryGo(func() error {
			b.recovered("interaction", func() string {
				ack, err := b.interaction(ctx, data)
				if err != nil {
					log.Error("could not take a click", "user", data.User.ID, "err", err)
					return ""
				}
				b.acknowledge(ctx, client, event.Request, ack)
				return ""
			})
			return nil
		}) {
			log.Warn("too many requests at once: a click was refused", "user", data.User.ID)
		}
		return nil // a click that is not acknowledged shows the clicker that it did not work
	case *socketmode.ConnectedEvent:
		log.Info("connected to Slack over Socket Mode", "connection", data.ConnectionCount+1)
	case *slack.ConnectionErrorEvent:
		if what, _ := classify(data.ErrorObj); what != retry {
			return refusedSocket(data.ErrorObj)
		}
		log.Warn("no Socket Mode connection to Slack; trying again", "attempt", data.Attempt, "in", data.Backoff, "err", data.ErrorObj)
	case *socketmode.ErrorBadMessage:
		log.Warn("Slack sent something unreadable over Socket Mode", "err", data.Cause)
	case *socketmode.ErrorWriteFailed:
		log.Warn("could not acknowledge a request over Socket Mode", "err", data.Cause)
	}
	if event.Request != nil && event.Request.EnvelopeID != "" {
		b.acknowledge(ctx, client, event.Request, nil) // else Slack sends it again
	}
	return nil
}

// recovered keeps a defect in one request from ending the process, as net/http
// does in HTTP mode.
func (b *Bot) recovered(what string, answer func() string) (text string) {
	defer func() {
		if p := recover(); p != nil {
			b.opts.Log.Error("a request ended in a panic", "request", what, "panic", p, "stack", string(debug.Stack()))
			text = sentence(fmt.Errorf("panic: %v", p))
		}
	}()
	return answer()
}

// acknowledge tells Slack that a request has come, with what the asker is to
// see, if anything.
func (b *Bot) acknowledge(ctx context.Context, client *socketmode.Client, req *socketmode.Request, payload any) {
	ctx, cancel := context.WithTimeout(ctx, ackWithin)
	defer cancel()
	if err := client.AckCtx(ctx, req.EnvelopeID, payload); err != nil {
		b.opts.Log.Warn("could not acknowledge a request over Socket Mode", "err", err)
	}
}

// refusedSocket says what to do about a connection that Slack refuses.
func refusedSocket(err error) error {
	next := "is slack.app_token the app-level token (xapp-…) of this app?"
	if refused(err, "missing_scope") {
		next = "give the app-level token the scope connections:write"
	}
	return fmt.Errorf("slack refuses Socket Mode: %w: %s", err, next)
}

package workspace_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/slack-go/slack"
	"github.com/slack-go/slack/socketmode"

	"waggle/internal/workspace"
)

func TestSocketMode(t *testing.T) {
	w := start(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	client := socketmode.New(client(w))
	ended := make(chan error, 1)
	go func() { ended <- client.RunContext(ctx) }()
	handled := make(chan struct{})
	go func() {
		defer close(handled)
		for {
			var e socketmode.Event
			select {
			case e = <-client.Events:
			case <-ctx.Done():
				return
			}
			if e.Request == nil {
				continue
			}
			switch e.Type {
			case socketmode.EventTypeSlashCommand:
				c, _ := e.Data.(slack.SlashCommand)
				_ = client.Ack(*e.Request, map[string]any{"text": "got " + c.Text})
			case socketmode.EventTypeInteractive, socketmode.EventTypeEventsAPI:
				_ = client.Ack(*e.Request)
			}
		}
	}()
	if err := w.WaitSockets(ctx, 1); err != nil {
		t.Fatal(err)
	}
	in := workspace.CommandInput{User: "U0ADA", Channel: "deploys", Command: "/scale", Text: "pizza 6"}
	ack, err := w.Command(ctx, in)
	if err != nil || !ack.OK() || ack.Status != http.StatusOK {
		t.Fatalf("ack %+v, %v", ack, err)
	}
	if got := w.Screen("deploys", "U0ADA"); got != "waggle (only visible to you):\n  got pizza 6\n" {
		t.Errorf("screen\n%s", got)
	}
	_, ts, err := client.PostMessageContext(ctx, "C0DEPLOYS", slack.MsgOptionBlocks(slack.NewActionBlock("", button("x", "X", ""))))
	if err != nil {
		t.Fatal(err)
	}
	m, _ := w.Message("U0ADA", "deploys", ts)
	if ack, err := w.Click(ctx, "U0ADA", m, "x"); err != nil || !ack.OK() {
		t.Errorf("click: %+v, %v", ack, err)
	}
	event := json.RawMessage(`{"type":"app_mention","user":"U0ADA","text":"hi","ts":"1.1","channel":"C0DEPLOYS","event_ts":"1.1"}`)
	if ack, err := w.Event(ctx, workspace.EventInput{Event: event}); err != nil || !ack.OK() {
		t.Errorf("event: %+v, %v", ack, err)
	}

	w.Disconnect("refresh_requested")
	// The client comes back with a new connection.
	if _, err := w.WaitCalls(ctx, "apps.connections.open", 2); err != nil {
		t.Fatal(err)
	}
	if err := w.WaitSockets(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if ack, err := w.Command(ctx, in); err != nil || !ack.OK() {
		t.Errorf("after reconnecting: %+v, %v", ack, err)
	}
	cancel()
	<-handled
	<-ended
}

func TestSocketModeTimeout(t *testing.T) {
	w := start(t, func(o *workspace.Options) { o.AckTimeout = 20 * time.Millisecond })
	ctx, cancel := context.WithCancel(t.Context())
	client := socketmode.New(client(w))
	ended := make(chan error, 1)
	go func() { ended <- client.RunContext(ctx) }()
	if err := w.WaitSockets(ctx, 1); err != nil {
		t.Fatal(err)
	}
	ack, err := w.Command(ctx, workspace.CommandInput{User: "U0ADA", Channel: "deploys", Command: "/scale"})
	if err != nil || ack.Error != "operation_timeout" {
		t.Errorf("ack %+v, %v", ack, err)
	}
	cancel()
	<-ended
}

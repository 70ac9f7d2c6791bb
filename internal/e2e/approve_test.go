package e2e

import (
	"strings"
	"testing"
	"time"

	"waggle/internal/workspace"
)

const grace = "U0GRACE" // an admin

// click clicks a button of a message as it is now.
func (b *bench) click(user string, m workspace.Message, action string) {
	b.Helper()
	now, ok := b.ws.Message(user, m.Channel, m.TS)
	if !ok {
		b.Fatalf("%s does not see the message", user)
	}
	ack, err := b.ws.Click(b.ctx, user, now, action)
	b.must(err)
	if !ack.OK() {
		b.Errorf("the click was answered %+v", ack)
	}
}

func TestScaleToZeroWaitsForAnApproval(t *testing.T) {
	b := start(t, map[string]string{"WAGGLE_SLACK_AUDIT_CHANNEL": "C0OPS"})
	b.service("pizza", brief)
	b.say(ada, "/scale pizza 0")
	m := b.sees(grace, "pizza: replicas 1 → 0 waits for an approval")
	contains(t, "the message", m.Plain(), "Why: it stops pizza", "Somebody other than @ada may approve it", "[Approve]", "[Reject]")

	b.say(ada, "/swarm pending")
	contains(t, "what waits", b.ws.Screen(channel, ada), "1 waiting for an approval")
	b.click(ada, m, "approve")
	b.sees(ada, "You asked for this yourself, so somebody else has to approve it")
	b.click(linus, m, "approve")
	b.sees(linus, "You are a viewer here, and this needs an operator")
	if n := b.docker("service", "inspect", "pizza", "--format", "{{.Spec.Mode.Replicated.Replicas}}"); n != "1" {
		t.Fatalf("pizza has %s replicas before anybody approved", n)
	}

	b.click(grace, m, "approve")
	done := b.sees(ada, "pizza is stopped (was 1)")
	contains(t, "the message", done.Plain(), "approved by @grace")
	if done.TS != m.TS || strings.Contains(done.Plain(), "[Approve]") {
		t.Errorf("it is another message, or still has buttons:\n%s", done.Plain())
	}
	b.eventually("no task runs", 20*time.Second, func() bool { return b.running("pizza") == 0 })

	b.say(grace, "/swarm audit pizza")
	contains(t, "the audit", b.ws.Screen(channel, grace), "scale pizza: replicas 1 → 0 (decided by @grace)")
	_, err := b.ws.Wait(b.ctx, "C0OPS", grace, func(m workspace.Message) bool {
		return strings.Contains(m.Plain(), "@ada *done* scale pizza: replicas 1 → 0 (decided by @grace)")
	})
	b.must(err)
}

func TestRejectedWithAReason(t *testing.T) {
	b := start(t)
	b.service("pizza", brief)
	b.say(ada, "/scale pizza 21")
	m := b.sees(grace, "pizza: replicas 1 → 21 waits for an approval")
	b.click(grace, m, "reject")
	view, err := b.ws.WaitView(b.ctx, grace, func(v workspace.View) bool { return true })
	b.must(err)
	ack, err := b.ws.Submit(b.ctx, grace, view, map[string]string{"text": "not on a Monday"})
	b.must(err)
	if !ack.OK() {
		t.Fatalf("the form was answered %+v", ack)
	}
	b.sees(ada, "pizza: replicas 1 → 21 was not done: @grace rejected it: not on a Monday")
}

func TestApprovalOutlivesAKill(t *testing.T) {
	b := start(t)
	b.service("pizza", brief)
	b.say(ada, "/scale pizza 0")
	m := b.sees(grace, "waits for an approval")
	b.waggle.Kill()
	b.serve()
	b.click(grace, m, "approve")
	b.sees(ada, "pizza is stopped (was 1)")
}

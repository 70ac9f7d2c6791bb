package e2e

import (
	"strings"
	"testing"
)

func TestScale(t *testing.T) {
	b := start(t)
	b.service("pizza")
	b.say(ada, "/scale pizza 6")
	m := b.sees(ada, "pizza runs 6 of 6 (was 1)")
	contains(t, "the message", m.Plain(), "node-1 2", "node-2 2", "node-3 2", "/scale pizza 1")
	contains(t, "what it said before", history(m), "replicas: 1 → 6", "6 of 6 running, watching that it holds")
	if n := b.running("pizza"); n != 6 {
		t.Errorf("%d tasks run", n)
	}
	if all := b.ws.Messages(channel, ada); len(all) != 1 {
		t.Errorf("%d messages, want one that was edited:\n%s", len(all), b.ws.Screen(channel, ada))
	}

	b.say(ada, "/scale pizza -4")
	b.sees(ada, "pizza runs 2 of 2 (was 6)")
	b.say(ada, "/scale pizza +1")
	b.sees(ada, "pizza runs 3 of 3 (was 2)")
	if n := b.running("pizza"); n != 3 {
		t.Errorf("%d tasks run", n)
	}
	if strings.Contains(b.docker("service", "inspect", "pizza"), "waggle.") {
		t.Error("a scale has left labels")
	}
}

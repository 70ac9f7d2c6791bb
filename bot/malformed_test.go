package bot

import (
	"fmt"
	"strings"
	"testing"

	"github.com/slack-go/slack"
)

// malformed are lines that people get wrong. Each is answered with one sentence and
// what to do, and nothing is taken.
var malformed = []string{
	"/scale", "/scale pizza", "/scale pizza six", "/scale pizza 1.5", "/scale pizza ½", "/scale pizza 6 7", "/scale pizza 99999999999999999999",
	"/scale pizza --dri-run 6", "/scale <!channel> 6", "/scale pizzа 6", `/scale "pizza 6`, "/scale pizza=six", "/scale pizza=6 pasta", "/scael pizza 6",
	"/app", "/app lst", "/app list now", "/app list --page 0", "/app show", "/app show a b", "/app show ../etc", "/app logs", "/app logs pizza many", "/app logs pizza 0",
	"/app logs pizza --since yesterday", "/app logs pizza --grep", "/app create", "/app create Pizza", "/app create pizza.co", "/app create waggle-x", "/app create pizza file:///etc",
	"/app create pizza https://ada:canary@github.com/a/b", "/app create pizza ssh://-oProxyCommand=x/a", "/app create pizza ext::sh", "/app create pizza https://github.com/a/b --force",
	"/app create pizza https://github.com/a/b ../main", "/app link pizza", "/app link pizza https://github.com", "/app link pizza git@github.com:a/b.git -x",
	"/app env", "/app env pizza put A=1", "/app env pizza set", "/app env pizza set A", "/app env pizza set 1A=2", "/app env pizza set A=1 A=2", "/app env pizza unset A=1",
	"/app set", "/app set pizza", "/app set pizza limit-memory", "/app set pizza limit-memory=", "/app remove", "/app remove pizza --volumes",
	"/join-node", "/join-node 10.0.0", "/join-node 256.1.1.1", "/join-node 10.0.0.12 boss", "/join-node root@10.0.0.12", "/join-node 10.0.0.12:22", "/join-node 127.0.0.1", "/join-node fe80::1%eth0",
	"/join-node ‐evil", "/join-node 10.0.0.12 --port 70000", "/join-node 10.0.0.12 --user 'a b'", "/join-node 10.0.0.12 --advertise eth0", "/join-node 10.0.0.12 worker manager",
	"/node", "/node drian n2", "/node drain", "/node drain n2 n3", "/node drain n2;reboot", "/node label n2", "/node label n2 disk", "/node label n2 =x", "/node label n2 a=1 a=2",
	"/scale pizza 10000", "/scale pizza ６", "/scale pizza=6 pasta=10000", "/scale pizza=6 pizza=2", "/scale рizza=2", "/scale “pizza 6", "/scale <http://pizza.com|pizza.com>=",
	"/app create -pizza", "/app create pizza_1", "/app create pìzza", "/app create waggle", "/app create pizza2345678901234567890123456789012345678901234567890123456789xyz",
	"/app create pizza https://gіthub.com/a/b", "/app create pizza <https://ada:canary@github.com/a/b|github.com>", "/app create pizza git@github.com:a/b.git main extra", "/app link pizza git@-oProxyCommand=x:a/b",
	"/app link pizza ssh://git@github.com/a/b?x=1", "/app link pizza https://github.com/a/b mаin", "/app link pizza file://localhost/etc “main”", "/app env pizza set ОVEN=hot", "/app env pizza set =hot",
	"/app env pizza set OVEN-2=hot", "/app set pizza “branch” main", "/app set pizza branch=a branch=b", "/app env pizza unset “OVEN",
	"/app env pizza set BIG=" + strings.Repeat("x", 32<<10+1),
	"/swarm now", "/swarm cancel", "/swarm audit a b", "/swarm audit --page x",
}

func TestMalformedLines(t *testing.T) {
	o, s := newOffice(t), &submitter{}
	o.work(s)
	var all strings.Builder
	for i, line := range malformed {
		name, text, _ := strings.Cut(line, " ")
		got := o.bot.command(t.Context(), slack.SlashCommand{Command: name, Text: text, UserID: ada, TeamID: o.TeamID(), ChannelID: deploys, TriggerID: fmt.Sprint(i)})
		if got.text == "" || !strings.HasPrefix(got.text, "⛔ *") || strings.Contains(got.text, "canary") {
			t.Errorf("%s is answered %q", line, got.text)
		}
		fmt.Fprintf(&all, "%s\n%s\n\n", cut(line, 200), got.text)
	}
	if n := len(s.taken()); n > 0 {
		t.Errorf("%d were taken", n)
	}
	golden(t, "malformed.txt", all.String())
}

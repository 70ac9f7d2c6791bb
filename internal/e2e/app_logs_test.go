package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"waggle/internal/forge"
	"waggle/internal/workspace"
)

// releasesButTheLast is the label of the releases without the oldest.
func (b *bench) releasesButTheLast(name string) string {
	b.Helper()
	var all []json.RawMessage
	b.must(json.Unmarshal([]byte(b.inspect(name, `{{index .Spec.Labels "waggle.releases"}}`)), &all))
	out, err := json.Marshal(all[:len(all)-1])
	b.must(err)
	return string(out)
}

var logLine = regexp.MustCompile(`(?m)^(\d\d:\d\d:\d\d) (\d)@(node-\d) (\w+) (\d+)$`)

// TestLogsOfAllNodes reads what three tasks on three nodes print: in order, by
// words, by task, by time, as a file, and as it goes on.
func TestLogsOfAllNodes(t *testing.T) {
	b := start(t)
	b.docker("service", "create", "--detach", "--quiet", "--name", "talk", "--endpoint-mode", "dnsrr", "--no-resolve-image", "--stop-grace-period", "1s",
		"--replicas", "3", "--replicas-max-per-node", "1", b.lab.BaseImage,
		"sh", "-c", `i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo boot $i; done; trap exit TERM; i=0; while :; do i=$((i+1)); echo tick $i; sleep 1; done`)
	b.gone("talk")
	asks := func(line string) workspace.Message {
		t.Helper()
		before := len(b.ws.Messages(channel, linus))
		command, args, _ := strings.Cut(line, " ")
		ack, err := b.ws.Command(b.ctx, workspace.CommandInput{User: linus, Channel: channel, Command: command, Text: args})
		b.must(err)
		if !ack.OK() || ack.Took > 3*time.Second { // what takes longer than 1.5 s follows by itself
			t.Errorf("%s was acknowledged after %s: %+v", line, ack.Took, ack)
		}
		var last workspace.Message
		b.eventually("an answer to "+line, 30*time.Second, func() bool {
			all := b.ws.Messages(channel, linus)
			if len(all) == before {
				return false
			}
			last = all[len(all)-1]
			return true
		})
		return last
	}
	b.eventually("all three tick, and have done so for a while", time.Minute, func() bool {
		text := asks(`/app logs talk 100 --grep "tick 12"`).Plain()
		return strings.Contains(text, "1@node-") && strings.Contains(text, "2@node-") && strings.Contains(text, "3@node-")
	})
	m := asks("/app logs talk 30")
	lines := logLine.FindAllStringSubmatch(m.Plain(), -1)
	var stamps []string
	nodes := map[string]bool{}
	for _, l := range lines {
		stamps, nodes[l[3]] = append(stamps, l[1]), true
	}
	if len(lines) != 30 || len(nodes) != 3 || !slices.IsSorted(stamps) || !m.Ephemeral {
		t.Errorf("%d lines of %d nodes:\n%s", len(lines), len(nodes), m.Plain())
	}
	if m := asks("/app logs talk 20 --grep BOOT"); strings.Contains(m.Plain(), "tick") || len(logLine.FindAllString(m.Plain(), -1)) != 20 {
		t.Errorf("lines with boot:\n%s", m.Plain())
	}
	m = asks("/app logs talk 20 --task 2")
	for _, l := range logLine.FindAllStringSubmatch(m.Plain(), -1) {
		if l[2] != "2" {
			t.Errorf("a line of the task %s", l[2])
		}
	}
	if n := len(logLine.FindAllString(m.Plain(), -1)); n != 20 {
		t.Errorf("%d lines of task 2:\n%s", n, m.Plain())
	}
	since := asks("/app logs talk 5000 --since 3s")
	if n := len(logLine.FindAllString(since.Plain(), -1)); n < 3 || n > 15 || strings.Contains(since.Plain(), "boot") {
		t.Errorf("%d lines of the last three seconds:\n%s", n, since.Plain())
	}
	asks("/app logs talk 10 --grep nothing-like-that")
	b.sees(linus, "talk printed nothing that fits")

	// A long one is a file, for the asker alone.
	m = asks("/app logs talk 5000")
	contains(t, "the answer", m.Plain(), "The last 5000 lines of talk", "This is the end. The whole is the file talk.log in your messages with Waggle")
	var file string
	for _, c := range b.ws.Channels(linus) {
		for _, m := range b.ws.Messages(c.ID, linus) {
			for _, f := range m.Files {
				file = string(f.Content)
			}
		}
	}
	if n := strings.Count(file, "\n") + 1; n != 5000 || strings.Contains(b.ws.Screen(channel, ada), "boot") {
		t.Errorf("the file has %d lines", n)
	}

	// Followed, the same message goes on.
	m = asks("/app logs talk 6 --grep tick")
	all := logLine.FindAllStringSubmatch(m.Plain(), -1)
	b.click(linus, m, "follow")
	b.eventually("later lines", 40*time.Second, func() bool {
		now, ok := b.ws.Message(linus, m.Channel, m.TS)
		later := logLine.FindAllStringSubmatch(now.Plain(), -1)
		return ok && len(later) == 6 && later[5][1] > all[len(all)-1][1] && strings.Contains(now.Plain(), "It is followed for a minute")
	})
}

// TestUnlinkAndLinkAgain: what only a repository gives a meaning goes, the rest
// stays, nothing is restarted, and a link later begins afresh.
func TestUnlinkAndLinkAgain(t *testing.T) {
	b := start(t)
	repo := b.linked("pizza", 1, brief, "--label", "mine=1", "--label", "waggle.target=last", "--label", "waggle.build-arg.OVEN=hot", "--label", "waggle.platform=linux/amd64",
		"--label", "waggle.channel="+channel)
	staged := map[string]string{"version": "1", "Dockerfile": fmt.Sprintf("FROM %s/busybox:1 AS last\nARG OVEN=cold\nCOPY version /version\nRUN echo \"oven $OVEN\" > /said\nCMD [\"sh\", \"-c\", \"cat /said; exec sleep 100000\"]\n", b.lab.Private.Addr)}
	b.push(repo, staged, "Bake a pizza")
	b.sees(ada, "pizza runs release 1")
	b.say(ada, "/app set pizza approve=push paths=src")
	b.sees(ada, "approve, paths of pizza are set")
	b.say(linus, "/app show pizza")
	contains(t, "the app", b.sees(linus, "pizza runs 1/1, release 1").Plain(), "build-arg.OVEN hot", "target last", "platform linux/amd64", "approve push", "paths src", "channel "+channel,
		"pulled with the login of the registry lab", "Any number more would find a place")

	said := b.touches("pizza", "/app unlink pizza", "pizza is not deployed by pushes any more", true, "Labels.waggle.approve", "Labels.waggle.build-arg.OVEN",
		"Labels.waggle.paths", "Labels.waggle.platform", "Labels.waggle.repo", "Labels.waggle.target")
	contains(t, "the plan", said, "waggle.build-arg.OVEN hot → none", "waggle.target last → none", "waggle.approve push → none", "no task is restarted; it runs on, and its releases stay")
	push, err := repo.Push(b.ctx, map[string]string{"version": "2"}, "Nobody deploys this")
	b.must(err)
	b.say(ada, "/deploy pizza")
	b.sees(ada, "pizza is not linked to a repository")

	other, err := b.forge.Create(b.ctx, "acme/other", forge.RepoOptions{})
	b.must(err)
	b.touches("pizza", "/app link pizza "+other.CloneURL()+" main", "A push to main of "+other.CloneURL()+" deploys pizza", true, "Labels.waggle.branch", "Labels.waggle.repo")
	sha := b.push(other, staged, "From the other")
	b.sees(ada, "pizza runs release 2 ("+sha[:7]+"), 1 of 1")
	b.eventually("it was built without the old argument", 20*time.Second, func() bool {
		return strings.Contains(b.docker("service", "logs", "--raw", "pizza"), "oven cold")
	})
	if strings.Contains(b.ws.Screen(channel, ada), push[:7]) {
		t.Error("the push to the repository of before was deployed")
	}
}

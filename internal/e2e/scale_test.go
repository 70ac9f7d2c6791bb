package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestScale(t *testing.T) {
	b := start(t)
	b.service("pizza")
	b.say(ada, "/scale pizza 6")
	m := b.sees(ada, "pizza runs 6 of 6 (was 1)")
	contains(t, "the message", m.Plain(), "node-1 2", "node-2 2", "node-3 2", "/scale pizza 1")
	contains(t, "what it said before", history(m), "replicas 1 → 6", "6 of 6 running, watching that it holds")
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

func TestScaleRefusals(t *testing.T) {
	b := start(t)
	b.service("pizza")
	b.service("agent", "--mode", "global")
	b.service("report", "--mode", "replicated-job")
	for line, want := range map[string]string{
		"/scale agent 2":                    "agent is a global service",
		"/scale report 2":                   "report is a job (replicated-job)",
		"/scale piza 2":                     `There is no app "piza" in this swarm`,
		"/scale pizza -2":                   "pizza runs 1, so 2 fewer is less than none",
		"/scale pizza 1.5":                  "1.5 is a fraction, and replicas are whole",
		"/scale pizza 99999":                "99999 replicas are more than Waggle sets (5000)",
		"/scale pizza 99999999999999999999": "99999999999999999999 is too large a number of replicas",
		"/scale pizza six":                  `"six" is not a number of replicas`,
		"/scale pizza":                      "/scale takes an app and a number, and was given only pizza",
		"/scale pizza 2 --dryrun":           "Unknown flag --dryrun",
		"/scale ../pizza 2":                 "is no app's name",
		"/scale pizza 3 --dry-run":          "pizza: replicas 1 → 3 (nothing was changed)",
		"/scale pizza 4 \u2014dry-run":      "pizza: replicas 1 → 4 (nothing was changed)", // as Slack's keyboards write --

	} {
		t.Run(line, func(t *testing.T) {
			b.say(ada, line)
			m := b.sees(ada, want)
			if !m.Ephemeral {
				t.Error("all see it, and only the asker should")
			}
		})
	}
	contains(t, "the nearest name", b.ws.Screen(channel, ada), "Did you mean `pizza`?", "Did you mean `--dry-run`?")

	b.say(linus, "/scale pizza 2")
	m := b.sees(linus, "You are a viewer here, and this needs an operator")
	contains(t, "who could", m.Plain(), "the workspace's admins may do it")
	b.say("U0GIL", "/scale pizza 2")
	b.sees("U0GIL", "Guests may not do this")
	if n := b.docker("service", "inspect", "pizza", "--format", "{{.Spec.Mode.Replicated.Replicas}}"); n != "1" {
		t.Errorf("pizza has %s replicas after refusals alone", n)
	}
}

func TestScaleSaysWhatIsWrongWithReplicasThatDoNotRun(t *testing.T) {
	b := start(t)
	b.service("pizza", "--replicas-max-per-node", "1")
	b.serviceOf(b.lab.BaseImage+"-missing", "ghost", "--replicas", "0")
	b.say(ada, "/scale pizza 5")
	b.say(ada, "/scale ghost 1")

	m := b.seesWithin(90*time.Second, ada, "pizza: 3 of 5 run and nothing has changed for 20s")
	contains(t, "the message", m.Plain(), "no suitable node (max replicas per node limit exceed", "`/scale pizza 1` goes back", "node-1 1")
	m = b.seesWithin(90*time.Second, ada, "ghost: 0 of 1 run")
	contains(t, "the message", m.Plain(), b.lab.BaseImage+"-missing", "`/scale ghost 0` goes back")
}

// TestScaleTakesOver: a scale whose replicas do not start is only watched, so the next one begins at
// once, and the first says what took over.
func TestScaleTakesOver(t *testing.T) {
	b := start(t)
	b.service("pizza", "--health-cmd", "false", "--health-interval", "1s", "--health-retries", "100")
	b.say(ada, "/scale pizza 2")
	b.sees(ada, "pizza: replicas 1 → 2")
	b.say("U0GRACE", "/scale pizza 3")
	b.seesAbout("Superseded by @grace", "pizza")
	b.sees(ada, "pizza: replicas 2 → 3")
}

// TestScaleBuildsOnOtherHands has plain docker change labels of the service all
// the time; neither hand may lose what it wrote.
func TestScaleBuildsOnOtherHands(t *testing.T) {
	b := start(t)
	b.service("pizza")
	var hand sync.WaitGroup
	labelling, stop := context.WithCancel(b.ctx)
	end := func() { stop(); hand.Wait() }
	b.Cleanup(end)
	labels := 0
	hand.Go(func() {
		for labelling.Err() == nil {
			// The label that is under way when it is to stop is written all the same.
			if _, err := b.lab.Manager().Docker(b.ctx, "service", "update", "--detach", "--label-add", fmt.Sprintf("hand%d=x", labels), "pizza"); err == nil {
				labels++
			}
		}
	})
	for _, n := range []string{"2", "3", "4"} {
		b.say(ada, "/scale pizza "+n)
		b.sees(ada, "pizza runs "+n+" of "+n)
	}
	end()
	out := b.docker("service", "inspect", "pizza", "--format", "{{json .Spec.Labels}} {{.Spec.Mode.Replicated.Replicas}}")
	if n := strings.Count(out, "hand"); n != labels || labels == 0 || !strings.HasSuffix(out, " 4") {
		t.Errorf("%d of %d labels are there, and 4 replicas should be: %.200s…", n, labels, out)
	}
}

func TestAcknowledgedWhateverDockerDoes(t *testing.T) {
	for _, tc := range []struct{ name, host, says string }{
		{"not there", "unix:///nonexistent/docker.sock", "Docker does not answer"},
		{"hangs", "unix://" + silentSocket(t), "Docker did not answer in time"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := start(t, map[string]string{"WAGGLE_DOCKER_HOST": tc.host})
			b.say(ada, "/scale pizza 2")
			b.sees(ada, tc.says)

			b.redis.Kill()
			ack := b.say(ada, "/scale pizza 2")
			contains(t, "the acknowledgement", ack.Body, "Redis does not answer, so nothing was changed")
		})
	}
}

// silentSocket takes connections, until the test ends, and never answers.
func silentSocket(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return path
}

func TestForgedAndReplayedRequests(t *testing.T) {
	b := start(t)
	b.service("pizza")
	body := url.Values{"command": {"/scale"}, "text": {"pizza +1"}, "team_id": {b.ws.TeamID()}, "user_id": {ada}, "channel_id": {channel},
		"trigger_id": {"1.2.3"}, "user_name": {"ada"}}.Encode()
	send := func(secret string, at time.Time) int {
		t.Helper()
		req, err := http.NewRequestWithContext(b.ctx, http.MethodPost, b.waggle.URL+"/slack/events", strings.NewReader(body))
		b.must(err)
		stamp := fmt.Sprint(at.Unix())
		mac := hmac.New(sha256.New, []byte(secret))
		fmt.Fprintf(mac, "v0:%s:%s", stamp, body)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("X-Slack-Request-Timestamp", stamp)
		req.Header.Set("X-Slack-Signature", "v0="+hex.EncodeToString(mac.Sum(nil)))
		resp, err := http.DefaultClient.Do(req)
		b.must(err)
		b.must(resp.Body.Close())
		return resp.StatusCode
	}
	if got := send("wrong", time.Now()); got != http.StatusUnauthorized {
		t.Errorf("wrong secret: %d", got)
	}
	if got := send(b.ws.SigningSecret(), time.Now().Add(-10*time.Minute)); got != http.StatusUnauthorized {
		t.Errorf("old timestamp: %d", got)
	}
	for range 3 { // the same request, captured and sent again
		if got := send(b.ws.SigningSecret(), time.Now()); got != http.StatusOK {
			t.Errorf("good signature: %d", got)
		}
	}
	b.sees(ada, "pizza runs 2 of 2 (was 1)")
	if n := b.running("pizza"); n != 2 {
		t.Errorf("a replayed +1 was added again: %d run", n)
	}
}

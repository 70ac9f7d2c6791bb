package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/crypto/ssh/knownhosts"

	"waggle/internal/forge"
)

// brief has new tasks watched for a short time only: these tests are about what
// comes before that.
const brief = "--update-monitor=500ms"

func (b *bench) flush() {
	b.Helper()
	c := redis.NewClient(&redis.Options{Addr: b.redis.Addr})
	defer c.Close()
	b.must(c.FlushAll(b.ctx).Err())
}

// TestRollbackWithAnEmptyRedis goes back by number, and by the button, after
// Redis has lost everything; then deploys an image by hand.
func TestRollbackWithAnEmptyRedis(t *testing.T) {
	b := start(t)
	repo := b.linked("pizza", 1, brief)
	one := b.push(repo, b.dockerfile("1"), "Bake a pizza")
	b.sees(ada, "pizza runs release 1")
	first := b.image("pizza")
	b.push(repo, b.dockerfile("2"), "Add olives")
	done := b.sees(ada, "pizza runs release 2")
	b.flush()

	b.click(ada, done, "rollback")
	b.sees(ada, "pizza runs release 3 ("+one[:7]+", back to release 1), 1 of 1")
	if now := b.image("pizza"); now != first {
		t.Errorf("it runs %s, want %s", now, first)
	}
	b.click(ada, done, "rollback")
	b.sees(ada, "pizza runs release 3 by now, and this is about release 2")
	b.say(ada, "/rollback pizza 2")
	b.sees(ada, "pizza runs release 4 (")

	b.say(ada, "/deploy pizza image "+strings.SplitN(first, "@", 2)[0])
	b.sees(ada, "pizza runs release 5 ("+strings.SplitN(first, "@", 2)[0]+"), 1 of 1")
	if now := b.image("pizza"); now != first {
		t.Errorf("it runs %s, want the digest %s", now, first)
	}
	b.say(ada, "/deploy pizza image "+b.lab.Private.Addr+"/acme/none:1")
	b.sees(ada, "The registry "+b.lab.Private.Addr+" has no image "+b.lab.Private.Addr+"/acme/none:1")
	if r := b.releases("pizza"); len(r) != 5 || r[0].Commit != "" || r[1].Commit == one {
		t.Errorf("releases %+v", r)
	}
}

func TestCancelStopsABuild(t *testing.T) {
	b := start(t)
	repo := b.linked("pizza", 1, brief)
	before := b.image("pizza")
	b.push(repo, b.slow("1", 120), "Bake for ages")
	m := b.building("pizza", "Bake for ages")
	b.eventually("the build runs", 30*time.Second, func() bool { return b.sleeping("120") })
	began := time.Now()
	b.click(ada, m, "cancel")
	b.sees(ada, "was not done: @ada cancelled it")
	b.eventually("the build is stopped", time.Until(began.Add(2*time.Second)), func() bool { return !b.sleeping("120") })
	if now := b.image("pizza"); now != before {
		t.Errorf("it runs %s", now)
	}
	b.push(repo, b.dockerfile("2"), "Bake quickly")
	b.sees(ada, "pizza runs release 1")
}

// sleeping says whether a process of this machine, where the lab's engines build
// too, sleeps that long.
func (b *bench) sleeping(seconds string) bool {
	b.Helper()
	out, err := b.lab.Manager().Exec(b.ctx, "ps", "-eo", "args")
	b.must(err)
	return strings.Contains(out, "sleep "+seconds)
}

func TestFreezeAndApproval(t *testing.T) {
	b := start(t)
	repo := b.linked("pizza", 1, brief, "--label", "waggle.approve=push")
	b.say(ada, "/freeze all Black Friday")
	b.sees(ada, "Deploys of all apps are frozen")
	first := b.push(repo, b.dockerfile("1"), "Bake a pizza")
	waits := b.sees(ada, "pizza "+first[:7])
	contains(t, "the message", waits.Plain(), "Black Friday", "@ada", "/unfreeze all")
	b.say(ada, "/deploy pizza")
	b.sees(ada, "Deploys of all apps are frozen by @ada")
	b.say(linus, "/swarm pending") // what was refused is in nobody's way
	contains(t, "what waits", b.sees(linus, "1 under way").Plain(), first[:7], "are frozen by @ada", "`/swarm cancel deploy-pizza-"+first[:7])
	second := b.push(repo, b.dockerfile("2"), "Add olives")
	b.sees(ada, "Superseded by a newer push")
	b.sees(ada, "pizza "+second[:7])
	b.say(ada, "/unfreeze all")
	b.sees(ada, "Deploys of all apps go on")

	pending := b.seesAbout("Add olives", "waits for an approval")
	contains(t, "the message", pending.Plain(), "[Approve]", second[:7])
	third := b.push(repo, b.dockerfile("3"), "Add salt")
	b.sees(ada, "A newer push took its place before somebody approved it")
	pending = b.seesAbout("Add salt", "waits for an approval")
	b.click(grace, pending, "approve")
	b.sees(ada, "pizza runs release 1 ("+third[:7]+"), 1 of 1")
	if r := b.releases("pizza"); len(r) != 1 {
		t.Errorf("releases %+v", r)
	}
}

func TestCaptainDefinition(t *testing.T) {
	b := start(t)
	repo := b.linked("pizza", 1, brief, "--label", "waggle.build-arg.OVEN=hot", "--env", "SECRET_TOPPING=canary")
	b.push(repo, map[string]string{"captain-definition": fmt.Sprintf(`{"schemaVersion": 2, "dockerfileLines": [
		"FROM %s/busybox:1", "ARG OVEN", "COPY version /version", "RUN echo the oven is $OVEN, ${SECRET_TOPPING:-no topping}, $(cat /version) > /said",
		"CMD [\"sh\", \"-c\", \"cat /said; exec sleep 100000\"]"]}`, b.lab.Private.Addr), "version": "7"}, "From CapRover")
	b.sees(ada, "pizza runs release 1")
	b.eventually("it prints what was built", 20*time.Second, func() bool {
		return strings.Contains(b.docker("service", "logs", "--raw", "pizza"), "the oven is hot, no topping, 7")
	})
	b.push(repo, map[string]string{"captain-definition": `{"schemaVersion": 2, "templateId": "node/8.7.0"}`}, "A template")
	b.sees(ada, "pizza: The captain-definition has the templateId node/8.7.0")
}

// TestUnhealthyVersionIsNotNoticed asks an app of two replicas in a loop while a
// version whose health check never passes is deployed, start first.
func TestUnhealthyVersionIsNotNoticed(t *testing.T) {
	b := start(t)
	const port = "18080"
	repo := b.linked("pizza", 2, "--publish", "mode=host,published="+port+",target=8080", "--update-order", "start-first",
		"--update-failure-action", "rollback", "--update-monitor", "3s")
	web := b.dockerfile("1")
	web["Dockerfile"] = fmt.Sprintf("FROM %s/busybox:1\nCOPY version /www/index.html\nHEALTHCHECK --interval=1s --retries=2 --timeout=10s CMD test \"$(cat /www/index.html)\" = 1\n"+
		"CMD [\"busybox\", \"httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/www\"]\n", b.lab.Private.Addr)
	b.push(repo, web, "Bake a pizza")
	b.sees(ada, "pizza runs release 1")

	var addrs []string
	for _, n := range b.lab.Nodes {
		if body, err := get(b.ctx, "http://"+n.Addr+":"+port); err == nil && body == "1" {
			addrs = append(addrs, n.Addr)
		}
	}
	if len(addrs) != 2 {
		t.Fatalf("it answers on %v, want two nodes", addrs)
	}
	stop, ended := make(chan struct{}), make(chan string)
	go func() {
		asked, fault := 0, ""
		for {
			select {
			case <-stop:
				ended <- fmt.Sprintf("%d asked%s", asked, fault)
				return
			default:
			}
			for _, addr := range addrs {
				asked++
				if body, err := get(b.ctx, "http://"+addr+":"+port); err != nil || body != "1" {
					fault = fmt.Sprintf(", and %s answered %q, %v", addr, body, err)
				}
			}
			time.Sleep(10 * time.Millisecond) // the pace of the client
		}
	}()
	web["version"] = "2"
	b.push(repo, web, "Burn it")
	m := b.seesAbout("Burn it", "pizza did not come up")
	close(stop)
	if said := <-ended; strings.Contains(said, "answered") || strings.HasPrefix(said, "0 ") {
		t.Errorf("the client: %s", said)
	}
	contains(t, "the message", m.Plain(), "The version before serves: 2 of 2")
}

// get returns what a page says, without its last newline.
func get(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(body)), err
}

func TestPrivateRepositoryByToken(t *testing.T) {
	const token = "canary-git-token-77"
	b := start(t)
	private, err := forge.Start(b.ctx, forge.Options{Dir: t.TempDir(), WebhookURL: "http://" + b.addr + "/webhooks/github", Secret: webhookSecret, User: "mia", Password: token})
	b.must(err)
	t.Cleanup(func() { _ = private.Close() })
	repo, err := private.Create(b.ctx, "acme/secret-pizza", forge.RepoOptions{Private: true})
	b.must(err)
	b.service("pizza", brief, "--label", "waggle.repo="+repo.CloneURL())

	b.push(repo, b.dockerfile("1"), "Without the token")
	b.seesAbout("Without the token", "pizza:")
	host := strings.Split(strings.TrimPrefix(repo.CloneURL(), "http://"), "/")[0]
	b.stop()
	b.settings["WAGGLE_GIT_CREDENTIALS"] = fmt.Sprintf(`[{"host": %q, "username": "mia", "token": %q}]`, host, token)
	b.serve()
	b.push(repo, b.dockerfile("2"), "With the token")
	b.sees(ada, "pizza runs release 1")
	for what, text := range map[string]string{"log": b.waggle.Log(), "channel": b.ws.Screen(channel, ada), "image": b.docker("image", "history", "--no-trunc", b.image("pizza"))} {
		if strings.Contains(text, token) {
			t.Errorf("the token is in the %s", what)
		}
	}
}

// TestPrivateRepositoryBySSH needs the server's host key to be known, and a deploy
// key.
func TestPrivateRepositoryBySSH(t *testing.T) {
	b := start(t)
	server := b.lab.Nodes[1]
	private, err := forge.Start(b.ctx, forge.Options{Dir: t.TempDir(), WebhookURL: "http://" + b.addr + "/webhooks/github", Secret: webhookSecret,
		SSH: "root@" + server.Addr, User: "mia", Password: "only for pushes"})
	b.must(err)
	t.Cleanup(func() { _ = private.Close() })
	repo, err := private.Create(b.ctx, "acme/secret-pizza", forge.RepoOptions{Private: true})
	b.must(err)
	b.service("pizza", brief, "--label", "waggle.repo="+repo.SSHURL())
	again := func(more map[string]string) {
		b.stop()
		maps.Copy(b.settings, more)
		b.serve()
	}

	known := filepath.Join(t.TempDir(), "known_hosts")
	b.must(os.WriteFile(known, nil, 0o600))
	deployKey := filepath.Join(t.TempDir(), "deploy-key") // as Docker mounts a secret
	text, err := os.ReadFile(b.lab.SSHKey)
	b.must(err)
	b.must(os.WriteFile(deployKey, text, 0o600))
	b.must(os.Chmod(deployKey, 0o444))
	again(map[string]string{"WAGGLE_GIT_KNOWN_HOSTS_FILE": known, "WAGGLE_GIT_CREDENTIALS": fmt.Sprintf(`[{"host": %q, "ssh_key_file": %q}]`, server.Addr, deployKey)})
	b.push(repo, b.dockerfile("1"), "Host key not known")
	m := b.seesAbout("Host key not known", "the SSH host key of "+server.Addr+" is not known")
	contains(t, "the way out", m.Plain(), "ssh-keyscan "+server.Addr, "git.known_hosts_file")

	b.must(os.WriteFile(known, []byte(knownhosts.Line([]string{server.Addr}, server.HostKey())+"\n"), 0o600))
	b.push(repo, b.dockerfile("2"), "With the deploy key")
	b.sees(ada, "pizza runs release 1")
	again(map[string]string{"WAGGLE_GIT_CREDENTIALS": ""})
	b.push(repo, b.dockerfile("3"), "Without a key")
	m = b.seesAbout("Without a key", "does not let Waggle read it")
	contains(t, "the way out", m.Plain(), "git.credentials")
}

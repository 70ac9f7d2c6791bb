// Package e2e runs the whole of Waggle on real parts: its binary as a process,
// three Docker engines in one swarm and two beside it, registries with and without login, a real
// Redis, a real Git forge, and the local workspace in place of Slack.
package e2e

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"waggle/internal/forge"
	"waggle/internal/lab"
	"waggle/internal/rig"
	"waggle/internal/workspace"
)

const (
	channel       = "C0DEPLOYS"
	ada           = "U0ADA"   // owner of the workspace
	linus         = "U0LINUS" // member
	webhookSecret = "canary-webhook-5c1d"
)

var (
	labs   = lab.Pool{Options: lab.Options{Nodes: 5, Spare: 2, Swarm: true}, Most: 2}
	binary string
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	// With more of them two cores are so busy that swarms miss their own deadlines.
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(labs.Most)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if os.Getenv("WAGGLE_LAB") == "1" {
		dir, err := os.MkdirTemp("", "waggle-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "waggle")
		build := exec.Command("go", "build", "-race", "-o", binary, "waggle/cmd/waggle")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build waggle: %v\n%s", err, out)
			return 1
		}
	}
	return labs.Run(m)
}

// bench is one Waggle with everything around it.
type bench struct {
	*testing.T
	ctx      context.Context
	lab      *lab.Lab
	ws       *workspace.Workspace
	forge    *forge.Forge
	redis    *lab.Redis
	redisDir string
	addr     string
	settings map[string]string
	waggle   *rig.Waggle
}

// free returns a lab for this test, which runs beside one on another lab.
func free(t *testing.T) *lab.Lab {
	t.Helper()
	t.Parallel()
	return labs.Get(t)
}

// start brings up a Waggle of this test's own on a free lab, and ends it with the
// test.
func start(t *testing.T, settings ...map[string]string) *bench {
	t.Helper()
	return startOn(t, free(t), settings...)
}

// startOn is start on that lab.
func startOn(t *testing.T, l *lab.Lab, settings ...map[string]string) *bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	b := &bench{T: t, ctx: ctx, lab: l}

	var err error
	b.redisDir = t.TempDir()
	b.redis, err = lab.StartRedis(ctx, b.redisDir, lab.AppendOnly())
	b.must(err)
	t.Cleanup(b.redis.Kill)
	b.addr, err = rig.FreeAddr()
	b.must(err)
	o := workspace.Example()
	o.EventsURL = "http://" + b.addr + "/slack/events"
	o.App.Scopes = append(workspace.DefaultScopes(), "chat:write.public")
	b.ws, err = workspace.New(o)
	b.must(err)
	b.must(b.ws.Start())
	t.Cleanup(func() { _ = b.ws.Close() })
	b.forge, err = forge.Start(ctx, forge.Options{Dir: t.TempDir(), WebhookURL: "http://" + b.addr + "/webhooks/github", Secret: webhookSecret})
	b.must(err)
	t.Cleanup(func() { _ = b.forge.Close() })

	key := rig.SecretKey()
	b.must(rig.SetRegistries(ctx, l.Manager().Host(), key,
		rig.Registry{Name: "lab", Domain: l.Private.Addr, Prefix: "acme", User: l.Private.User, Password: l.Private.Password, Push: true},
		rig.Registry{Name: "bases", Domain: l.Private.Addr, User: l.Private.User, Password: l.Private.Password}))
	b.settings = map[string]string{
		"WAGGLE_SLACK_API_URL":          b.ws.APIURL(),
		"WAGGLE_SLACK_BOT_TOKEN":        b.ws.BotToken(),
		"WAGGLE_SLACK_SIGNING_SECRET":   b.ws.SigningSecret(),
		"WAGGLE_SLACK_CHANNEL":          channel,
		"WAGGLE_REDIS_URL":              b.redis.URL,
		"WAGGLE_DOCKER_HOST":            l.Manager().Host(),
		"WAGGLE_WEBHOOKS_GITHUB_SECRET": webhookSecret,
		"WAGGLE_SECRET_KEY":             key,
		"WAGGLE_LOG_LEVEL":              "debug",
	}
	for _, more := range settings {
		maps.Copy(b.settings, more)
	}
	b.serve()
	t.Cleanup(func() {
		b.stop()
		b.noLeak()
		if t.Failed() {
			t.Logf("waggle's log:\n%s", withoutDebug(b.waggle.Log()))
			t.Logf("the channel:\n%s", b.ws.Screen(channel, ada))
		}
	})
	return b
}

func withoutDebug(log string) string {
	return regexp.MustCompile(`(?m)^.*level=DEBUG.*\n`).ReplaceAllString(log, "")
}

// serve starts Waggle, again if need be.
func (b *bench) serve() {
	b.Helper()
	var err error
	b.waggle, err = rig.Start(b.ctx, binary, b.addr, b.settings, nil, b.settings["WAGGLE_DOCKER_HOST"] == b.lab.Manager().Host())
	b.must(err)
}

func (b *bench) stop() {
	b.Helper()
	if b.waggle.Cmd.ProcessState != nil {
		return // killed by the test
	}
	if err := b.waggle.Stop(); err != nil {
		b.Errorf("waggle ended with %v:\n%s", err, b.waggle.Log())
	}
	if strings.Contains(b.waggle.Log(), "DATA RACE") {
		b.Errorf("waggle has a data race:\n%s", b.waggle.Log())
	}
}

// noLeak asserts that no secret is in the log, in any message, in Redis or in
// clear in a config of the swarm.
func (b *bench) noLeak() {
	b.Helper()
	var seen bytes.Buffer
	seen.WriteString(b.waggle.Log())
	for _, c := range b.ws.Channels(ada) {
		seen.WriteString(b.ws.Screen(c.ID, ada))
	}
	seen.WriteString(b.configs())
	seen.WriteString(b.redisValues())
	for name, canary := range map[string]string{
		"webhook secret": webhookSecret, "registry password": b.lab.Private.Password,
		"bot token": b.ws.BotToken(), "signing secret": b.ws.SigningSecret(), "secret key": b.settings["WAGGLE_SECRET_KEY"],
	} {
		if strings.Contains(seen.String(), canary) {
			b.Errorf("the %s is in a log, a message, Redis or a config", name)
		}
	}
}

// configs is all that the swarm's configs hold.
func (b *bench) configs() string {
	b.Helper()
	ids := strings.Fields(b.docker("config", "ls", "-q"))
	if len(ids) == 0 {
		return ""
	}
	return b.docker(append([]string{"config", "inspect", "--format", "{{.Spec.Name}} {{printf \"%s\" .Spec.Data}}"}, ids...)...)
}

// redisValues is the file that Redis appends every write to.
func (b *bench) redisValues() string {
	b.Helper()
	var all strings.Builder
	b.must(filepath.WalkDir(b.redisDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		all.Write(text)
		return err
	}))
	return all.String()
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// docker runs the plain docker command line on the manager.
func (b *bench) docker(args ...string) string {
	b.Helper()
	out, err := b.lab.Manager().Docker(b.ctx, args...)
	b.must(err)
	return strings.TrimSpace(out)
}

// service makes a service that sleeps, with plain docker, and removes it with
// the test.
func (b *bench) service(name string, args ...string) {
	b.Helper()
	b.serviceOf(b.lab.BaseImage, name, args...)
}

func (b *bench) serviceOf(image, name string, args ...string) {
	b.Helper()
	create := append([]string{"service", "create", "--detach", "--quiet", "--name", name, "--endpoint-mode", "dnsrr",
		"--no-resolve-image", "--stop-grace-period", "1s"}, args...)
	made := false
	b.Cleanup(func() { // also when docker has given up on what the swarm does all the same
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if _, err := b.lab.Manager().Docker(ctx, "service", "rm", name); err != nil && (made || !strings.Contains(err.Error(), "not found")) {
			b.Errorf("remove %s: %v", name, err)
		}
	})
	b.docker(append(create, image)...)
	made = true
}

// running counts the tasks of a service that run, by the docker command line.
func (b *bench) running(name string) int {
	b.Helper()
	out := b.docker("service", "ps", name, "--filter", "desired-state=running", "--format", "{{.CurrentState}}")
	return strings.Count(out, "Running ")
}

// eventually waits until ok.
func (b *bench) eventually(what string, within time.Duration, ok func() bool) {
	b.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			b.Fatalf("not within %s: %s", within, what)
		}
	}
}

// say types a slash command as user.
func (b *bench) say(user, text string) workspace.Ack {
	b.Helper()
	command, args, _ := strings.Cut(text, " ")
	ack, err := b.ws.Command(b.ctx, workspace.CommandInput{User: user, Channel: channel, Command: command, Text: args})
	b.must(err)
	if !ack.OK() || ack.Took > 2*time.Second {
		b.Errorf("%s was acknowledged after %s: %+v", text, ack.Took, ack)
	}
	return ack
}

// sees waits for a message that user sees with this text on its first line.
func (b *bench) sees(user, first string) workspace.Message {
	b.Helper()
	return b.seesWithin(60*time.Second, user, first)
}

// seesAbout is sees for the message that has about anywhere in it.
func (b *bench) seesAbout(about, first string) workspace.Message {
	b.Helper()
	return b.match(90*time.Second, ada, first, about)
}

func (b *bench) seesWithin(limit time.Duration, user, first string) workspace.Message {
	b.Helper()
	return b.match(limit, user, first, "")
}

func (b *bench) match(limit time.Duration, user, first, about string) workspace.Message {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, limit)
	defer cancel()
	m, err := b.ws.Wait(ctx, channel, user, func(m workspace.Message) bool {
		line, _, _ := strings.Cut(strings.ReplaceAll(m.Plain(), "*", ""), "\n")
		return strings.Contains(line, first) && strings.Contains(m.Plain(), about)
	})
	b.must(err)
	return m
}

// history is all that a message said, one text an edit.
func history(m workspace.Message) string {
	var all []string
	for _, v := range m.Edits {
		all = append(all, v.Text)
	}
	return strings.Join(append(all, m.Text), "\n")
}

func contains(t testing.TB, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s does not have %q:\n%s", what, p, text)
		}
	}
}

// redisKeys lists all keys.
func (b *bench) redisKeys() []string {
	b.Helper()
	c := redis.NewClient(&redis.Options{Addr: b.redis.Addr})
	defer c.Close()
	keys, err := c.Keys(b.ctx, "*").Result()
	b.must(err)
	return keys
}

//go:build linux

// Package demo shows the main job on a real swarm, on this machine alone: three
// Docker engines, registries, Git and the local workspace in place of Slack.
package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"waggle/internal/forge"
	"waggle/internal/lab"
	"waggle/internal/page"
	"waggle/internal/rig"
	"waggle/internal/workspace"
)

const (
	app     = "pizza"
	person  = "U0ADA"
	grace   = "U0GRACE" // an admin, who approves what ada asks for
	channel = "C0DEPLOYS"
)

// Addr is where the workspace's page is unless something else is asked for.
const Addr = page.Addr

// Options say how the demo runs.
type Options struct {
	Binary string // waggle itself, which is run as a process of its own
	Exit   bool   // end after the transcript, instead of taking commands
	Addr   string // where the workspace's page is, unless Exit
	Engine string // the lab's engines, as in lab.Options
	// Manifest is the Slack app's, in JSON.
	Manifest []byte
	In       io.Reader // commands, one a line
	Out      io.Writer
}

// show is a demo under way.
type show struct {
	Options
	began  time.Time
	steps  []step
	lab    *lab.Lab
	ws     *workspace.Workspace
	page   *page.Page
	forge  *forge.Forge
	repo   *forge.Repo
	waggle *rig.Waggle
}

type step struct {
	name string
	took time.Duration
}

// Run runs the demo. Everything that it started is gone when it returns.
func Run(ctx context.Context, o Options) (err error) {
	s := &show{Options: o, began: time.Now()}
	defer func() {
		if e := s.close(); e != nil {
			err = errors.Join(err, e)
		}
		if err == nil {
			s.say("\nAll of it is gone from this machine again.\n")
		}
	}()
	s.say("Waggle's demo: a real three-node Docker Swarm on this machine, a git push, a slash command.\n\n")
	if err := s.up(ctx); err != nil {
		return err
	}
	if err := s.story(ctx); err != nil {
		return err
	}
	s.summary()
	if o.Exit {
		return nil
	}
	return s.prompt(ctx)
}

func (s *show) say(format string, args ...any) { fmt.Fprintf(s.Out, format, args...) }

// timed runs one step and remembers how long it took.
func (s *show) timed(name string, do func() error) error {
	began := time.Now()
	err := do()
	s.steps = append(s.steps, step{name, time.Since(began)})
	return err
}

func (s *show) up(ctx context.Context) error {
	var err error
	if s.ws, err = workspace.New(workspace.Example()); err != nil {
		return err
	}
	if err := s.ws.Start(); err != nil {
		return err
	}
	if !s.Exit { // before all that takes long: the port may be taken
		s.page, err = page.Start(s.ws, page.Options{Addr: s.Addr, User: person, Channel: channel, Manifest: s.Manifest})
		if err != nil {
			return fmt.Errorf("%w; --addr chooses another", err)
		}
		s.say("The workspace is open in a browser at %s: watch it there.\n\n", s.page.URL)
	}
	err = s.timed("a swarm of three engines, a fourth beside it, and a registry", func() (err error) {
		s.lab, err = lab.Start(ctx, lab.Options{Nodes: 4, Spare: 1, Swarm: true, Engine: s.Engine, Progress: func(what string) { s.say("  · %s\n", what) }})
		return err
	})
	if err != nil {
		return err
	}
	addr, err := rig.FreeAddr()
	if err != nil {
		return err
	}
	s.ws.SetEventsURL("http://" + addr + "/slack/events")
	const secret = "demo webhook secret"
	if s.forge, err = forge.Start(ctx, forge.Options{WebhookURL: "http://" + addr + "/webhooks/github", Secret: secret}); err != nil {
		return err
	}
	key := rig.SecretKey()
	err = rig.SetRegistries(ctx, s.lab.Manager().Host(), key, rig.Registry{
		Name: "lab", Domain: s.lab.Private.Addr, User: s.lab.Private.User, Password: s.lab.Private.Password, Push: true})
	if err != nil {
		return err
	}
	s.waggle, err = rig.Start(ctx, s.Binary, addr, map[string]string{
		"WAGGLE_SLACK_API_URL":          s.ws.APIURL(),
		"WAGGLE_SLACK_BOT_TOKEN":        s.ws.BotToken(),
		"WAGGLE_SLACK_SIGNING_SECRET":   s.ws.SigningSecret(),
		"WAGGLE_SLACK_CHANNEL":          channel,
		"WAGGLE_DOCKER_HOST":            s.lab.Manager().Host(),
		"WAGGLE_WEBHOOKS_GITHUB_SECRET": secret,
		"WAGGLE_SECRET_KEY":             key,
		"WAGGLE_SSH_KEY_FILE":           s.lab.SSHKey,
	}, nil, true)
	if err != nil {
		return err
	}
	s.steps = append(s.steps, step{"waggle serve, from start to ready", s.waggle.ReadyIn})
	s.say("  · waggle serve is ready; Redis is embedded\n\n")
	return nil
}

// story is what the demo shows.
func (s *show) story(ctx context.Context) error {
	var err error
	if s.repo, err = s.forge.Create(ctx, "acme/"+app, forge.RepoOptions{}); err != nil {
		return err
	}
	create := []string{"service", "create", "--name", app, "--label", "waggle.repo=" + s.repo.CloneURL(), "--endpoint-mode", "dnsrr", s.lab.BaseImage}
	s.say("A service made with plain Docker; one label links it to a repository:\n\n$ docker %s\n\n", strings.Join(create, " "))
	quiet := append([]string{"service", "create", "--detach", "--quiet", "--no-resolve-image"}, create[2:]...)
	if _, err := s.lab.Manager().Docker(ctx, quiet...); err != nil {
		return err
	}

	if err := s.push(ctx, "Bake the first pizza", "margherita"); err != nil {
		return err
	}
	if err := s.command(ctx, "/scale pizza 6", "runs 6 of 6"); err != nil {
		return err
	}
	fourth := s.lab.Nodes[3]
	s.say("A fourth server joins. Waggle looks at it over SSH first; what it will do waits for somebody else's click:\n\n")
	if err := s.command(ctx, "/join-node "+fourth.Addr, fourth.Name+" is ready"); err != nil {
		return err
	}
	if err := s.command(ctx, "/scale pizza +2", "runs 8 of 8"); err != nil {
		return err
	}
	if err := s.push(ctx, "Add olives", "with olives"); err != nil {
		return err
	}
	out, err := s.lab.Manager().Docker(ctx, "service", "ps", app, "--filter", "desired-state=running",
		"--format", "table {{.Name}}\t{{.Node}}\t{{.Image}}\t{{.CurrentState}}")
	if err != nil {
		return err
	}
	s.say("What Docker itself says:\n\n$ docker service ps %s\n%s\n", app, out)
	return nil
}

// push commits and pushes, and follows the deploy.
func (s *show) push(ctx context.Context, message, recipe string) error {
	s.say("$ git commit -m %q && git push\n", message)
	files := map[string]string{
		"Dockerfile": fmt.Sprintf("FROM %s/busybox:1\nCOPY recipe /recipe\nRUN echo \"baking $(cat /recipe)\"\nCMD [\"sh\", \"-c\", \"echo serving $(cat /recipe); exec sleep 1000000\"]\n", s.lab.Private.Addr),
		"recipe":     recipe + "\n",
	}
	return s.timed("git push → all replicas on "+message, func() error {
		sha, err := s.repo.Push(ctx, files, message)
		if err != nil {
			return err
		}
		return s.follow(ctx, func() error { return nil }, sha[:7], "runs release")
	})
}

// command types a slash command and follows what comes of it.
func (s *show) command(ctx context.Context, line, until string) error {
	s.say("ada, in #deploys: %s\n", line)
	return s.timed(line, func() error {
		return s.follow(ctx, func() error {
			ack, err := s.ws.Type(ctx, person, channel, line)
			if err == nil && !ack.OK() {
				err = fmt.Errorf("%s: %s", line, ack.Error)
			}
			return err
		}, line, until)
	})
}

// follow prints what people see in the channel of what it is about, until that has
// come to its end. Others may be at work in the page meanwhile.
func (s *show) follow(ctx context.Context, do func() error, about, until string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	changes := s.ws.Subscribe(ctx)
	began := time.Now()
	if err := do(); err != nil {
		return err
	}
	for c := range changes {
		text := c.Message.Plain()
		if !strings.Contains(text, about) {
			continue
		}
		first, rest, _ := strings.Cut(strings.ReplaceAll(text, "*", ""), "\n")
		s.say("  %5.1f s  %s\n", time.Since(began).Seconds(), first)
		if strings.HasPrefix(first, "🔐") {
			for line := range strings.Lines(rest) {
				s.say("           %s\n", strings.TrimRight(line, "\n"))
			}
			s.say("grace clicks [Approve]\n")
			if _, err := s.ws.Click(ctx, grace, c.Message, "approve"); err != nil {
				return err
			}
		}
		if !final(first) {
			continue
		}
		for line := range strings.Lines(rest) {
			s.say("           %s\n", strings.TrimRight(line, "\n"))
		}
		s.say("\n")
		if !strings.HasPrefix(first, "✅") {
			return fmt.Errorf("the demo went wrong; waggle's log:\n%s", s.waggle.Log())
		}
		if strings.Contains(text, until) {
			return nil
		}
	}
	return fmt.Errorf("nothing came of it in time; waggle's log:\n%s", s.waggle.Log())
}

// final says whether a message's first line is an outcome.
func final(first string) bool {
	for _, mark := range []string{"✅", "❌", "⛔", "📝", "⏭"} {
		if strings.HasPrefix(first, mark) {
			return true
		}
	}
	return false
}

func (s *show) summary() {
	s.say("What took how long:\n")
	for _, st := range s.steps {
		s.say("  %7.2f s  %s\n", st.took.Seconds(), st.name)
	}
	s.say("  %7.2f s  all of it\n", time.Since(s.began).Seconds())
}

// prompt takes slash commands, one a line, until ctx ends.
func (s *show) prompt(ctx context.Context) error {
	s.say("\nIt is yours now, at %s: type commands and click as whoever you like.\n"+
		"Here, too: slash commands are ada's (/swarm help lists them), \"approve\" and \"reject\" are grace's clicks on what waits. Ctrl-C ends it.\n"+
		"DOCKER_HOST=%s, repository %s\n", s.page.URL, s.lab.Manager().Host(), s.repo.CloneURL())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	printed := make(chan struct{})
	changes := s.ws.Subscribe(ctx)
	go func() {
		defer close(printed)
		for c := range changes {
			s.say("%s\n", c.Message.Plain())
		}
	}()
	lines := make(chan string)
	go func() { // ends with the input, or with the process: a read cannot be called off
		defer close(lines)
		for in := bufio.NewScanner(s.In); in.Scan(); {
			select {
			case lines <- in.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() { cancel(); <-printed }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case line, more := <-lines:
			switch {
			case !more:
				lines = nil // the page stays
				continue
			case line == "approve" || line == "reject":
				if err := s.click(ctx, line); err != nil {
					s.say("%v\n", err)
				}
				continue
			case !strings.HasPrefix(line, "/"):
				continue
			}
			if _, err := s.ws.Type(ctx, person, channel, line); err != nil {
				s.say("%v\n", err)
			}
		}
	}
}

// click clicks, as grace, on the newest message that waits.
func (s *show) click(ctx context.Context, action string) error {
	all := s.ws.Messages(channel, grace)
	for i := len(all) - 1; i >= 0; i-- {
		if strings.HasPrefix(all[i].Plain(), "🔐") {
			_, err := s.ws.Click(ctx, grace, all[i], action)
			return err
		}
	}
	return errors.New("nothing waits for an approval")
}

func (s *show) close() error {
	var errs []error
	if s.waggle != nil {
		errs = append(errs, s.waggle.Stop())
	}
	if s.forge != nil {
		errs = append(errs, s.forge.Close())
	}
	if s.page != nil {
		errs = append(errs, s.page.Close())
	}
	if s.ws != nil {
		errs = append(errs, s.ws.Close())
	}
	if s.lab != nil {
		errs = append(errs, s.lab.Close())
	}
	return errors.Join(errs...)
}

// Bench measures Waggle on a real swarm on this machine, beside the plain docker
// command line doing the same in the same run. It needs root, as the lab does:
//
//	go run ./internal/bench
//
// It fails when something does not run; the figures themselves are for reading.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"waggle/internal/forge"
	"waggle/internal/lab"
	"waggle/internal/rig"
	"waggle/internal/workspace"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	runs := flag.Int("runs", 5, "how often each figure is taken")
	acks := flag.Int("acks", 100, "how many commands are typed for their acknowledgement")
	only := flag.String("only", "", "measure only one of "+strings.Join(parts(), ", "))
	flag.Parse()
	if *runs < 1 || *acks < 1 || *only != "" && !slices.Contains(parts(), *only) {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(ctx, *runs, *acks, *only, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// parts are what can be measured alone.
func parts() []string { return []string{"joins", "deploys", "large", "webhooks", "cache"} }

func run(ctx context.Context, runs, acks int, only string, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "waggle-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "waggle")
	if only != "webhooks" { // which are measured in this process
		say("building waggle")
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "waggle/cmd/waggle")
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // as in the Dockerfile
		if text, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build waggle: %w\n%s", err, text)
		}
	}
	nodes := lab.Options{Nodes: 4, Spare: 1, Swarm: true, Progress: func(s string) { say("lab: %s", s) }}
	if only == "webhooks" {
		nodes.Nodes, nodes.Spare = 1, 0
	}
	l, err := lab.Start(ctx, nodes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	b := &bench{lab: l, only: only, binary: binary, dir: dir, got: map[figure][]float64{}}
	if only != "webhooks" && only != "cache" {
		if err := b.measure(ctx, runs, acks); err != nil {
			return err
		}
	}
	if b.measures("webhooks") {
		say("webhooks")
		if err := b.webhooks(ctx, runs); err != nil {
			return err
		}
	}
	if b.measures("cache") {
		say("builds with and without layers from the registry")
		if err := b.caches(ctx, runs); err != nil {
			return err
		}
	}
	version, err := l.Manager().Docker(ctx, "version", "--format", "client {{.Client.Version}}, engine {{.Server.Version}}")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s; docker %s.\n", machine(), strings.TrimSpace(version))
	b.print(out, runs, acks)
	b.printHooks(out)
	b.printCaches(out, runs)
	return nil
}

func (b *bench) measures(part string) bool { return b.only == "" || b.only == part }

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// bench is a Waggle with everything around it, and what was measured.
type bench struct {
	lab    *lab.Lab
	binary string
	dir    string
	got    map[figure][]float64

	only      string // the part that is measured alone; everything when it is ""
	hookBytes int    // of a delivery

	ws       *workspace.Workspace
	forge    *forge.Forge
	addr     string
	settings map[string]string
	waggle   *rig.Waggle
	byHand   *forge.Repo // deployed by hand
}

const (
	ada     = "U0ADA"
	channel = "C0DEPLOYS"
	app     = "pizza"
	// settle is how long Waggle is left alone before its memory is read.
	settle = 3 * time.Second
	// replicas is what is scaled to, from one.
	replicas = 6
)

func (b *bench) measure(ctx context.Context, runs, acks int) (err error) {
	redis, err := lab.StartRedis(ctx, b.dir, lab.AppendOnly())
	if err != nil {
		return err
	}
	defer redis.Kill()
	if b.addr, err = rig.FreeAddr(); err != nil {
		return err
	}
	o := workspace.Example()
	o.EventsURL = "http://" + b.addr + "/slack/events"
	if b.ws, err = workspace.New(o); err != nil {
		return err
	}
	if err := b.ws.Start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.ws.Close()) }()
	b.forge, err = forge.Start(ctx, forge.Options{Dir: filepath.Join(b.dir, "git"), WebhookURL: "http://" + b.addr + "/webhooks/github", Secret: "bench"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.forge.Close()) }()
	key := rig.SecretKey()
	err = rig.SetRegistries(ctx, b.lab.Manager().Host(), key,
		rig.Registry{Name: "lab", Domain: b.lab.Private.Addr, User: b.lab.Private.User, Password: b.lab.Private.Password, Push: true})
	if err != nil {
		return err
	}
	b.settings = map[string]string{
		"WAGGLE_SLACK_API_URL":          b.ws.APIURL(),
		"WAGGLE_SLACK_BOT_TOKEN":        b.ws.BotToken(),
		"WAGGLE_SLACK_SIGNING_SECRET":   b.ws.SigningSecret(),
		"WAGGLE_SLACK_CHANNEL":          channel,
		"WAGGLE_REDIS_URL":              redis.URL,
		"WAGGLE_DOCKER_HOST":            b.lab.Manager().Host(),
		"WAGGLE_WEBHOOKS_GITHUB_SECRET": "bench",
		"WAGGLE_SSH_KEY_FILE":           b.lab.SSHKey,
		"WAGGLE_SECRET_KEY":             key,
	}

	repo, err := b.forge.Create(ctx, "acme/"+app, forge.RepoOptions{})
	if err != nil {
		return err
	}
	if _, err := b.docker(ctx, "service", "create", "--detach", "--quiet", "--name", app, "--endpoint-mode", "dnsrr",
		"--stop-grace-period", "1s", "--label", "waggle.repo="+repo.CloneURL(), b.lab.BaseImage); err != nil {
		return err
	}
	if b.measures("large") {
		say("a large swarm")
		if err := b.large(ctx, runs); err != nil || b.only == "large" {
			return err
		}
	}
	for i := range runs {
		say("run %d of %d", i+1, runs)
		var err error
		if b.only == "deploys" {
			if err = b.serve(ctx); err == nil {
				err = b.deploys(ctx, repo, i)
			}
		} else {
			err = b.startUp(ctx)
			if err == nil && b.only != "joins" {
				err = b.round(ctx, repo, i)
			}
			if err == nil {
				err = b.joins(ctx, i)
			}
		}
		if err := errors.Join(err, b.waggle.Stop()); err != nil {
			return fmt.Errorf("%w; waggle's log:\n%s", err, b.waggle.Log())
		}
	}
	if b.only != "" {
		return nil
	}
	say("acknowledgements")
	if err := b.serve(ctx); err != nil {
		return err
	}
	return errors.Join(b.acknowledged(ctx, acks), b.waggle.Stop())
}

// startUp measures the way to ready some times, and leaves the last Waggle running.
func (b *bench) startUp(ctx context.Context) error {
	const starts = 4
	for i := range starts {
		if err := b.serve(ctx); err != nil {
			return err
		}
		b.note(ready, b.waggle.ReadyIn)
		took, _, err := b.cli(ctx, "version")
		if err != nil {
			return err
		}
		b.note(cliVersion, took)
		if i < starts-1 {
			if err := b.waggle.Stop(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) serve(ctx context.Context) (err error) {
	b.waggle, err = rig.Start(ctx, b.binary, b.addr, b.settings, nil, true)
	return err
}

// round is what one Waggle does: nothing, a scale, and a deploy.
func (b *bench) round(ctx context.Context, repo *forge.Repo, i int) error {
	if err := b.resident(ctx, idleRSS, idleAnon); err != nil {
		return err
	}
	// Who begins changes, so that nobody always has the warm caches.
	scales := []func(context.Context) error{b.scale, b.scaleByCLI}
	for j := range scales {
		if err := b.backToOne(ctx); err != nil {
			return err
		}
		if err := scales[(i+j)%len(scales)](ctx); err != nil {
			return err
		}
	}
	if err := b.backToOne(ctx); err != nil {
		return err
	}
	if err := b.deploys(ctx, repo, i); err != nil {
		return err
	}
	if err := b.resident(ctx, busyRSS, busyAnon); err != nil {
		return err
	}
	_, peak, err := b.cli(ctx, "service", "ls")
	if err != nil {
		return err
	}
	b.got[cliRSS] = append(b.got[cliRSS], peak)
	return nil
}

func (b *bench) resident(ctx context.Context, rss, anon figure) error {
	if err := sleep(ctx, settle); err != nil {
		return err
	}
	m, err := memory(b.waggle.Cmd.Process.Pid)
	if err != nil {
		return err
	}
	b.got[rss] = append(b.got[rss], m["VmRSS"])
	b.got[anon] = append(b.got[anon], m["RssAnon"])
	return nil
}

// scale has somebody type /scale, and looks when the message says what.
func (b *bench) scale(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	changes := b.ws.Subscribe(ctx)
	began := time.Now()
	if err := b.command(ctx, fmt.Sprintf("%s %d", app, replicas)); err != nil {
		return err
	}
	all := fmt.Sprintf("%d of %[1]d running", replicas)
	done := fmt.Sprintf("%s runs %d of %[2]d", app, replicas)
	var said time.Time
	for c := range changes {
		text := strings.ReplaceAll(c.Message.Plain(), "*", "")
		if said.IsZero() && (strings.Contains(text, all) || strings.Contains(text, done)) {
			said = c.At
		}
		if strings.Contains(text, done) {
			at, err := b.lastRunning(ctx)
			if err != nil {
				return err
			}
			b.note(running, at.Sub(began))
			b.note(reported, said.Sub(at))
			b.note(scaled, c.At.Sub(began))
			return nil
		}
	}
	return fmt.Errorf("no message said %q:\n%s", done, b.ws.Screen(channel, ada))
}

func (b *bench) scaleByCLI(ctx context.Context) error {
	began := time.Now()
	took, _, err := b.cli(ctx, "service", "scale", fmt.Sprintf("%s=%d", app, replicas))
	if err != nil {
		return err
	}
	at, err := b.lastRunning(ctx)
	if err != nil {
		return err
	}
	b.note(cliRunning, at.Sub(began))
	b.note(cliScaled, took)
	return nil
}

// lastRunning is when, by the nodes' own word, the last replica began to run.
func (b *bench) lastRunning(ctx context.Context) (time.Time, error) {
	times, err := b.runningSince(ctx)
	if err == nil && len(times) != replicas {
		err = fmt.Errorf("%d replicas run, want %d", len(times), replicas)
	}
	var last time.Time
	for _, t := range times {
		if t.After(last) {
			last = t
		}
	}
	return last, err
}

func (b *bench) runningSince(ctx context.Context) ([]time.Time, error) {
	ids, err := b.docker(ctx, "service", "ps", "-q", "--no-trunc", app)
	if err != nil {
		return nil, err
	}
	lines, err := b.docker(ctx, append([]string{"inspect", "--type", "task", "--format",
		`{{.Status.State}} {{.Status.Timestamp.Format "2006-01-02T15:04:05.999999999Z07:00"}}`}, strings.Fields(ids)...)...)
	if err != nil {
		return nil, err
	}
	var out []time.Time
	for line := range strings.Lines(lines) {
		state, at, _ := strings.Cut(strings.TrimSpace(line), " ")
		if state != "running" {
			continue
		}
		t, err := time.Parse(time.RFC3339Nano, at)
		if err != nil {
			return nil, fmt.Errorf("when a task began to run: %w", err)
		}
		out = append(out, t)
	}
	return out, nil
}

// backToOne waits until one replica is left, and a while for the nodes, and for
// the pace that Slack asks for, to have nothing more to do.
func (b *bench) backToOne(ctx context.Context) error {
	if _, err := b.docker(ctx, "service", "scale", "--detach", app+"=1"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		times, err := b.runningSince(ctx) // fails when a task goes in between
		if err == nil && len(times) == 1 {
			return sleep(ctx, 4*time.Second)
		}
		if ended := sleep(ctx, 100*time.Millisecond); ended != nil {
			return fmt.Errorf("%d replicas still run: %w", len(times), errors.Join(err, ended))
		}
	}
}

// acknowledged types the same command many times, one after the other.
func (b *bench) acknowledged(ctx context.Context, n int) error {
	for range n {
		typed := time.Now()
		if err := b.command(ctx, fmt.Sprintf("%s %d --dry-run", app, replicas)); err != nil {
			return err
		}
		b.note(acked, time.Since(typed))
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) command(ctx context.Context, text string) error {
	ack, err := b.ws.Command(ctx, workspace.CommandInput{User: ada, Channel: channel, Command: "/scale", Text: text})
	if err == nil && !ack.OK() {
		err = fmt.Errorf("/scale %s: %s", text, ack.Error)
	}
	return err
}

func (b *bench) docker(ctx context.Context, args ...string) (string, error) {
	return b.lab.Manager().Docker(ctx, args...)
}

// cli runs the docker command line, and returns how long it took and the most
// memory that it had.
func (b *bench) cli(ctx context.Context, args ...string) (took time.Duration, peak float64, err error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+b.lab.Manager().Host(), "DOCKER_CONFIG="+b.dir)
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			if err != nil {
				err = fmt.Errorf("docker %s: %w", strings.Join(args, " "), err)
			}
			return time.Since(began), peak, err
		case <-tick.C:
			// Not Maxrss: what a child had before exec is this process's.
			if m, err := memory(cmd.Process.Pid); err == nil {
				peak = max(peak, m["VmHWM"])
			}
		}
	}
}

// memory reads what the kernel says of a process, in MB.
func memory(pid int) (map[string]float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		var kb float64
		name, value, _ := strings.Cut(line, ":")
		if n, _ := fmt.Sscanf(value, "%f kB", &kb); n == 1 {
			out[name] = kb * 1024 / 1e6
		}
	}
	return out, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (b *bench) note(f figure, d time.Duration) {
	b.got[f] = append(b.got[f], float64(d)/float64(time.Millisecond))
}

func machine() string {
	load, _, _ := strings.Cut(read("/proc/loadavg"), " ")
	return fmt.Sprintf("%d cores, Linux %s, %s, load %s at the end", runtime.NumCPU(), read("/proc/sys/kernel/osrelease"), runtime.Version(), load)
}

// read is a line that the kernel writes, "" if it does not.
func read(path string) string {
	text, _ := os.ReadFile(path)
	return strings.TrimSpace(string(text))
}

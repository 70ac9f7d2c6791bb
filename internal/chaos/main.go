// Chaos breaks Waggle on the lab in every way that is known, while people and forges ask it for
// changes, and holds what was asked, told, written and audited against what must hold: nothing lost,
// nothing twice, nothing backwards, every message true and final, nothing left in Redis.
//
//	make chaos SCENARIOS=kill,failpoints KILLS=200 TIMES=20
//
// It needs root, as the lab does. Each scenario prints one row of a table; every random choice comes
// from the seed that is printed first.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"waggle/internal/lab"
	"waggle/internal/rig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	e := &env{}
	names := flag.String("scenarios", "", "run only these, of "+strings.Join(scenarioNames(), ","))
	flag.IntVar(&e.kills, "kills", 200, "how often a replica is killed in the scenario kill")
	flag.IntVar(&e.times, "times", 20, "how often each fail point and each other disturbance happens")
	flag.DurationVar(&e.pause, "pause", 35*time.Second, "how long a stopped replica sleeps; its lease is 15 s")
	flag.DurationVar(&e.away, "away", 40*time.Second, "how long Redis is away")
	flag.DurationVar(&e.slack, "slack", 5*time.Minute, "how long Slack is away")
	flag.DurationVar(&e.soak, "soak", time.Hour, "how long the soak takes")
	flag.Uint64Var(&e.seed, "seed", uint64(time.Now().UnixNano()), "seed of every random choice")
	race := flag.Bool("race", false, "build Waggle with the race detector")
	flag.Parse()
	var chosen []string
	if *names != "" {
		chosen = strings.Split(*names, ",")
	}
	for _, n := range chosen {
		if !slices.Contains(scenarioNames(), n) {
			fmt.Fprintf(os.Stderr, "chaos: there is no scenario %q, only %s\n", n, strings.Join(scenarioNames(), ", "))
			os.Exit(2)
		}
	}
	if err := run(ctx, e, chosen, *race, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		stop()
		os.Exit(1)
	}
}

func scenarioNames() []string {
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	return names
}

func run(ctx context.Context, e *env, chosen []string, race bool, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "waggle-chaos-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if e.binary, err = build(ctx, dir, race); err != nil {
		return err
	}
	if e.lab, err = lab.Start(ctx, labOptions); err != nil {
		return err
	}
	defer func() {
		if closing := e.lab.Close(); err == nil {
			err = closing
		}
	}()
	if err := prepare(ctx, e); err != nil {
		return err
	}
	fmt.Fprintf(out, "seed %d\n\n%s\n", e.seed, tableHead)
	wrong := 0
	var reports strings.Builder
	for _, s := range scenarios {
		if len(chosen) > 0 && !slices.Contains(chosen, s.name) {
			continue
		}
		began := time.Now()
		r := s.run(ctx, e)
		r.took = time.Since(began)
		fmt.Fprintln(out, r.String())
		wrong += len(r.wrong)
		reports.WriteString(r.report)
		if ctx.Err() != nil {
			break
		}
	}
	if wrong > 0 {
		fmt.Fprintf(out, "\n%s", reports.String())
		return fmt.Errorf("%d violations, with seed %d", wrong, e.seed)
	}
	return ctx.Err()
}

var labOptions = lab.Options{Nodes: 3, Managers: 3, Swarm: true}

// build builds the binary with its fail points.
func build(ctx context.Context, dir string, race bool) (string, error) {
	binary := filepath.Join(dir, "waggle")
	args := []string{"build", "-tags", "failpoint", "-o", binary}
	if race {
		args = append(args, "-race")
	}
	if out, err := exec.CommandContext(ctx, "go", append(args, "waggle/cmd/waggle")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build waggle: %w\n%s", err, out)
	}
	return binary, nil
}

// quiet leaves out what the client says of a Redis that is away on purpose.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// prepare gives the swarm the registry that deploys push to.
func prepare(ctx context.Context, e *env) error {
	redis.SetLogger(quiet{})
	e.key = rig.SecretKey()
	return rig.SetRegistries(ctx, e.lab.Manager().Host(), e.key,
		rig.Registry{Name: "lab", Domain: e.lab.Private.Addr, Prefix: "acme", User: e.lab.Private.User, Password: e.lab.Private.Password, Push: true})
}

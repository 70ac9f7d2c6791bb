// Command waggle runs a Docker Swarm from Slack.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"waggle/config"
	"waggle/internal/nearest"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // bad usage or settings
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// subcommand is one row of what the binary does.
type subcommand struct {
	name, usage, short string
	run                func(ctx context.Context, args []string, stdout, stderr io.Writer) error
}

func subcommands() []subcommand {
	return []subcommand{
		{"serve", "[--config FILE]", "run the service", serve},
		{"demo", "[--exit]", "show the main job on a real swarm on this machine, without a Slack account", runDemo},
		{"manifest", "[--url URL]", "print the Slack app manifest", manifest},
		{"doctor", "[--config FILE]", "check everything that serve needs, and say what to do about what is wrong", doctor},
		{"ready", "[--url URL]", "ask a running service whether it is ready", ready},
		{"version", "", "print version, commit, Go and API versions", version},
	}
}

// errUsage is an error in how the command was called, already said.
var errUsage = errors.New("usage")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		help(stderr)
		return exitUsage
	}
	var names []string
	for _, c := range subcommands() {
		names = append(names, c.name)
		if c.name != args[0] {
			continue
		}
		err := c.run(ctx, args[1:], stdout, stderr)
		problems := new(config.Problems)
		switch {
		case err == nil, errors.Is(err, flag.ErrHelp):
			return exitOK
		case errors.Is(err, errUsage):
			return exitUsage
		case errors.As(err, &problems):
			fmt.Fprintf(stderr, "waggle: the settings cannot be used:\n%v\n", problems)
			return exitUsage
		}
		fmt.Fprintln(stderr, "waggle:", err)
		return exitFailed
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		help(stdout)
		return exitOK
	}
	fmt.Fprintf(stderr, "waggle: there is no command %q", args[0])
	if near := nearest.Of(args[0], names); near != "" {
		fmt.Fprintf(stderr, ": did you mean %q?", near)
	}
	fmt.Fprintln(stderr)
	help(stderr)
	return exitUsage
}

func help(w io.Writer) {
	fmt.Fprintln(w, "Waggle runs a Docker Swarm from Slack.")
	for _, c := range subcommands() {
		fmt.Fprintf(w, "  %-30s %s\n", strings.TrimSpace("waggle "+c.name+" "+c.usage), c.short)
	}
}

// parse reads a subcommand's flags; there are no other arguments.
func parse(flags *flag.FlagSet, args []string, stderr io.Writer) error {
	flags.SetOutput(stderr)
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "waggle %s: unexpected %q\n", flags.Name(), flags.Arg(0))
		return errUsage
	}
	return nil
}

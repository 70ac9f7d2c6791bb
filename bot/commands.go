package bot

import (
	"context"
	"fmt"

	"waggle/ops"
)

// Command is one row of the command table: the source of the parser, the help,
// the manifest and the docs.
type Command struct {
	Name    string // "/scale"
	Usage   string // its arguments
	Short   string // what it does, for Slack's list
	Example []string
	// New returns an empty operation of the kind that Parse returns, for reading
	// stored ones; nil for a command that only answers.
	New   func() ops.Operation
	Parse func(Args) (ops.Operation, error)
	// Answer answers a command that makes no operation, to the asker alone and
	// within the time that Slack gives an acknowledgement.
	Answer func(ctx context.Context, b *Bot, asked ops.Request, args Args) (string, error)
}

// dryRun is a flag of every command that changes something.
const dryRun = "dry-run"

// Commands is the table.
func Commands() []Command {
	return []Command{
		{
			Name: "/scale", Usage: "<app> <n> | +<n> | -<n> [--dry-run]",
			Short:   "Set how many replicas of an app run",
			Example: []string{"/scale pizza 6", "/scale pizza +2", "/scale pizza 0 --dry-run"},
			New:     func() ops.Operation { return new(ops.Scale) },
			Parse:   parseScale,
		},
		{
			Name: "/swarm", Usage: "help | pending | cancel <id> | audit [app]",
			Short:   "What waits for an approval, what was done, and help",
			Example: []string{"/swarm pending", "/swarm audit pizza"},
			Answer:  answerSwarm,
		},
	}
}

// Kinds returns how to make an empty operation of every kind in the table.
func Kinds() map[string]func() ops.Operation {
	kinds := map[string]func() ops.Operation{}
	for _, c := range Commands() {
		if c.New != nil {
			kinds[c.New().Kind()] = c.New
		}
	}
	return kinds
}

func parseScale(args Args) (ops.Operation, error) {
	if len(args.Words) != 2 {
		return nil, ops.Errorf(ops.Invalid, "/scale takes an app and a number, and was given %s", count(args.Words))
	}
	app, err := parseApp(args.Words[0])
	if err != nil {
		return nil, err
	}
	n, relative, err := parseCount(args.Words[1])
	if err != nil {
		return nil, err
	}
	return &ops.Scale{App: app, Replicas: n, Relative: relative}, nil
}

func count(words []string) string {
	switch len(words) {
	case 0:
		return "nothing"
	case 1:
		return "only " + words[0]
	}
	return fmt.Sprintf("%d words", len(words))
}

package bot

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"waggle/internal/nearest"
	"waggle/ops"
)

// Command is one row of the command table: the source of the parser, the help,
// the manifest and the docs. Either it changes something (New and Parse), or it
// asks (Ask), or it is about Waggle itself (Answer).
type Command struct {
	Name    string // "/scale"
	Verb    string // the first word, "drain" of "/node drain"; "" for a command without verbs
	Usage   string // its arguments, after the verb
	Short   string // what it does
	Example []string
	Flags   []string // "force" of --force
	Options []string // "user" of --user VALUE
	// New returns an empty operation of the kind that Parse returns, for reading
	// stored ones.
	New   func() ops.Operation
	Parse func(Args) (ops.Operation, error)
	// Hide keeps what was typed after the app out of messages and the audit.
	Hide bool
	// Form asks for what the line does not say, when Parse returns errForm or there
	// is no Parse.
	Form *Form
	// Ask makes the question that is answered to the asker alone; with a Parse, when
	// that returns errAsk.
	Ask func(Args) (ops.Question, error)
	// Answer answers a command about what Waggle itself does, to the asker alone;
	// "" when the answer follows by itself.
	Answer func(ctx context.Context, b *Bot, asked ops.Request, args Args) (string, error)
}

// dryRun is a flag of every command that changes something.
const dryRun = "dry-run"

// flags are the flags that the command takes.
func (c Command) flags() []string {
	if c.New == nil {
		return c.Flags
	}
	return append([]string{dryRun}, c.Flags...)
}

func (c Command) parse(args Args) (ops.Operation, error) {
	if c.Parse == nil {
		return nil, errForm
	}
	return c.Parse(args)
}

// line is how the command is typed.
func (c Command) line() string {
	return strings.Join(strings.Fields(c.Name+" "+c.Verb+" "+c.Usage), " ")
}

// Commands is the table.
func Commands() []Command {
	return slices.Concat([]Command{
		{
			Name: "/scale", Usage: "<app> <n> | +<n> | -<n> | <app>=<n>… [--dry-run]",
			Short:   "Set how many replicas of an app run",
			Example: []string{"/scale pizza 6", "/scale pizza +2", "/scale pizza 0 --dry-run", "/scale pizza=6"},
			New:     func() ops.Operation { return new(ops.Scale) },
			Parse:   parseScale,
		},
	}, appCommands(), deployCommands(), nodeCommands(), registryCommands(), []Command{
		{
			Name:    "/swarm",
			Short:   "The whole swarm on one screen: what is wrong first",
			Example: []string{"/swarm"},
			Ask:     func(args Args) (ops.Question, error) { return ops.Overview{}, none("/swarm", args) },
		},
		{
			Name: "/swarm", Verb: "pending",
			Short:   "What runs and what waits",
			Example: []string{"/swarm pending"},
			Answer:  answerPending,
		},
		{
			Name: "/swarm", Verb: "cancel", Usage: "<id>",
			Short:   "Take back what waits, or stop a deploy",
			Example: []string{"/swarm cancel cmd-0123456789ab"},
			Answer:  answerCancel,
		},
		{
			Name: "/swarm", Verb: "audit", Usage: "[app] [--page n]",
			Short:   "What was done lately, and by whom",
			Example: []string{"/swarm audit", "/swarm audit pizza", "/swarm audit --page 2"},
			Options: []string{"page"},
			Answer:  answerAudit,
		},
		{
			Name: "/swarm", Verb: "help", Usage: "[command [verb]]",
			Short:   "What Waggle can do, or one command, which has a help of its own too",
			Example: []string{"/swarm help", "/swarm help node"},
			Answer:  answerHelp,
		},
	})
}

// slashCommands groups the table by name: Slack knows nothing of verbs.
func slashCommands() (names []string, rows map[string][]Command) {
	rows = map[string][]Command{}
	for _, c := range Commands() {
		if rows[c.Name] == nil {
			names = append(names, c.Name)
		}
		rows[c.Name] = append(rows[c.Name], c)
	}
	return names, rows
}

// helpRow is the command whose verb help tells of all of them.
const helpRow = "/swarm"

// find returns the row for a command and its words, and the words after the verb.
// Help that a command is asked for is that of helpRow.
func find(name string, words []string) (Command, []string, error) {
	names, all := slashCommands()
	rows := all[name]
	if err := notOurs(name, names, rows); err != nil {
		return Command{}, nil, err
	}
	ofVerb := func(c Command) bool { return c.Verb != "" && (rows[0].Verb != "" || c.Verb == words[1]) }
	if name != helpRow && len(words) > 0 && slices.Contains([]string{"help", "--help", "-h"}, words[0]) && (len(words) == 1 || slices.ContainsFunc(rows, ofVerb)) {
		c, _, err := find(helpRow, []string{"help"})
		return c, append([]string{name}, words[1:]...), err
	}
	var verbs []string
	for _, c := range rows {
		if c.Verb != "" && len(words) > 0 && words[0] == c.Verb {
			return c, words[1:], nil
		}
		verbs = append(verbs, c.Verb)
	}
	if i := slices.Index(verbs, ""); i >= 0 && (len(words) == 0 || rows[i].Usage != "") {
		return rows[i], words, nil
	}
	verbs = slices.DeleteFunc(verbs, func(v string) bool { return v == "" })
	if len(words) == 0 {
		return Command{}, nil, ops.Errorf(ops.Invalid, "%s needs to know what", name).
			Then("It knows %s.", strings.Join(verbs, ", "))
	}
	e := ops.Errorf(ops.Invalid, "%s does not know %q", name, words[0])
	if near := nearest.Of(words[0], verbs); near != "" {
		return Command{}, nil, e.Then("Did you mean `%s %s`?", name, near)
	}
	return Command{}, nil, e.Then("It knows %s.", strings.Join(verbs, ", "))
}

// notOurs says that there is no command of that name, if it has no rows.
func notOurs(name string, names []string, rows []Command) error {
	if len(rows) > 0 {
		return nil
	}
	e := ops.Errorf(ops.Invalid, "Waggle has no command %s", name)
	if near := nearest.Of(name, names); near != "" {
		return e.Then("Did you mean `%s`?", near)
	}
	return e.Then("`/swarm help` lists them.")
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

// each splits a line that is about several apps, pizza=6 pasta=2, into one for each.
func (c Command) each(args Args) []Args {
	if c.Name != "/scale" || len(args.Words) == 0 || !strings.Contains(args.Words[0], "=") {
		return []Args{args}
	}
	var out []Args
	for _, w := range args.Words {
		one := args
		app, n, _ := strings.Cut(w, "=")
		one.Words = []string{app, n}
		out = append(out, one)
	}
	return out
}

func parseScale(args Args) (ops.Operation, error) {
	if len(args.Words) != 2 {
		return nil, ops.Errorf(ops.Invalid, "/scale takes an app and a number, and was given %s", count(args.Words))
	}
	app, err := parseApp(args.Words[0])
	if err != nil {
		return nil, err
	}
	if args.Words[1] == "" {
		return nil, ops.Errorf(ops.Invalid, "%s has no number", app).Then("Write `%s=6`.", app)
	}
	n, relative, err := parseCount(args.Words[1])
	if err == nil {
		err = ops.CheckReplicas(n)
	}
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

package bot

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/slack-go/slack"

	"waggle/ops"
)

// deployCommands are the rows about deploys.
func deployCommands() []Command {
	return []Command{
		{
			Name: "/deploy", Usage: "<app> [branch | tag | commit] | <app> image <ref> [--push] [--dry-run]",
			Short:   "Build and deploy a branch, tag or commit; or an image",
			Example: []string{"/deploy pizza", "/deploy pizza v1.2", "/deploy pizza image nginx:1.27", "/deploy pizza image nginx:1.27 --push"},
			Flags:   []string{"push"},
			New:     func() ops.Operation { return new(ops.Deploy) },
			Parse:   parseDeploy,
		},
		{
			Name: "/rollback", Usage: "<app> [release] [--dry-run]",
			Short:   "Go back to the release before, or to a numbered one",
			Example: []string{"/rollback pizza", "/rollback pizza 12"},
			New:     func() ops.Operation { return new(ops.Rollback) },
			Parse:   parseRollback,
		},
		{
			Name: "/freeze", Usage: "<app | all> [reason] [--dry-run]",
			Short:   "Have pushes wait, and say why",
			Example: []string{"/freeze pizza", "/freeze all Black Friday"},
			New:     func() ops.Operation { return new(ops.Freeze) },
			Parse: func(args Args) (ops.Operation, error) {
				app, reason, err := parseFreeze("/freeze", args)
				return &ops.Freeze{App: app, Reason: reason}, err
			},
		},
		{
			Name: "/unfreeze", Usage: "<app | all> [--dry-run]",
			Short:   "Deploy again; the newest push that waits goes first",
			Example: []string{"/unfreeze pizza", "/unfreeze all"},
			New:     func() ops.Operation { return &ops.Freeze{Lift: true} },
			Parse: func(args Args) (ops.Operation, error) {
				app, reason, err := parseFreeze("/unfreeze", args)
				if err == nil && reason != "" {
					err = ops.Errorf(ops.Invalid, "/unfreeze takes one app, or all, and was given %s", count(args.Words))
				}
				return &ops.Freeze{App: app, Lift: true}, err
			},
		},
	}
}

func parseDeploy(args Args) (ops.Operation, error) {
	if len(args.Words) < 1 || len(args.Words) > 3 || len(args.Words) == 3 && args.Words[1] != "image" {
		return nil, ops.Errorf(ops.Invalid, "/deploy takes an app and what to deploy, and was given %s", count(args.Words))
	}
	app, err := parseApp(args.Words[0])
	if err != nil {
		return nil, err
	}
	d := &ops.Deploy{App: app, Hand: true}
	switch len(args.Words) {
	case 2:
		d.Ref = args.Words[1]
		err = ops.CheckBranch(d.Ref)
	case 3:
		d.From = args.Words[2]
		d.Copy = args.Flags["push"]
		err = ops.CheckImage(d.From)
	}
	if args.Flags["push"] && d.From == "" {
		return nil, ops.Errorf(ops.Invalid, "--push is for images: what is built is pushed anyway")
	}
	return d, err
}

// maxReason is how long a reason may be, in characters.
const maxReason = 300

func parseFreeze(command string, args Args) (app, reason string, err error) {
	if len(args.Words) == 0 {
		return "", "", ops.Errorf(ops.Invalid, "%s takes an app, or all, and was given nothing", command)
	}
	reason = strings.Join(args.Words[1:], " ")
	if utf8.RuneCountInString(reason) > maxReason {
		return "", "", ops.Errorf(ops.Invalid, "The reason is longer than %d letters", maxReason)
	}
	app, err = parseApp(args.Words[0])
	return app, reason, err
}

func parseRollback(args Args) (ops.Operation, error) {
	if len(args.Words) < 1 || len(args.Words) > 2 {
		return nil, ops.Errorf(ops.Invalid, "/rollback takes an app and a release, and was given %s", count(args.Words))
	}
	app, err := parseApp(args.Words[0])
	if err != nil {
		return nil, err
	}
	b := &ops.Rollback{App: app}
	if len(args.Words) == 2 {
		b.To, err = strconv.Atoi(args.Words[1])
		if err != nil || b.To < 1 {
			return nil, ops.Errorf(ops.Invalid, "%q is no release: they are numbered from 1", cut(args.Words[1], 20)).
				Then("`/app history %s` shows them.", app)
		}
	}
	return b, nil
}

// deployButtons are below a deploy's message: to stop it for as long as nothing was
// changed, and to go back or look at the logs when it is done. Nil for none.
func deployButtons(s ops.Status) slack.Block {
	if s.Kind != "deploy" && s.Kind != "rollback" || !serviceName.MatchString(s.Target) {
		return nil
	}
	switch s.State {
	case ops.Waiting, ops.Working:
		begun := slices.ContainsFunc(s.Steps, func(step ops.Step) bool { return step.Name == "update" })
		if s.Kind != "deploy" || begun {
			return nil
		}
		return slack.NewActionBlock("deploy", slack.NewButtonBlockElement(actionCancel, s.ID, plainText("Cancel")).WithStyle(slack.StyleDanger))
	case ops.Done:
		value, err := json.Marshal(deployed{App: s.Target, Release: releaseOf(s.Plan)})
		if err != nil {
			return nil
		}
		var buttons []slack.BlockElement
		if s.Plan.Undo != "" {
			buttons = append(buttons, slack.NewButtonBlockElement(actionRollback, string(value), plainText("Rollback")).
				WithConfirm(slack.NewConfirmationBlockObject(plainText("Go back?"), plainText("The app goes back to the release before."), plainText("Go back"), plainText("Stay"))))
		}
		return slack.NewActionBlock("deploy", append(buttons, slack.NewButtonBlockElement(actionLogs, string(value), plainText("Logs")))...)
	}
	return nil
}

// deployed is what the buttons below a deploy that is done are about.
type deployed struct {
	App     string `json:"app"`
	Release int    `json:"release,omitempty"`
}

// releaseOf is the number of the release that a plan makes, 0 if it makes none.
func releaseOf(p ops.Plan) int {
	for _, d := range p.Diffs {
		if d.What == "release" {
			n, _ := strconv.Atoi(d.To) // Waggle's own
			return n
		}
	}
	return 0
}

// clickedRollback asks for the rollback as the clicker, from the release that the
// message is about.
func (b *Bot) clickedRollback(ctx context.Context, asked ops.Request, value string) error {
	var d deployed
	if err := json.Unmarshal([]byte(value), &d); err != nil {
		return fmt.Errorf("read a button: %w", err)
	}
	asked.Title = "/rollback " + d.App
	return once(b.submit(ctx, asked, &ops.Rollback{App: d.App, Of: d.Release}))
}

// clickedLogs shows the clicker what the app printed.
func (b *Bot) clickedLogs(asked ops.Request, value string) error {
	var d deployed
	if err := json.Unmarshal([]byte(value), &d); err != nil {
		return fmt.Errorf("read a button: %w", err)
	}
	asked.Title = "/app logs " + d.App
	b.reads.Go(func() {
		ctx, cancel := context.WithTimeout(b.life, askWithin)
		defer cancel()
		got, err := b.house.Ask(ctx, asked.Actor, ops.AppLogs{App: d.App, Lines: 50})
		b.sendLong(ctx, asked, &got)
		shown := answers(got)
		if err != nil {
			text := sentence(b.noted(asked, err))
			shown = rendered{text: text, blocks: []slack.Block{section(text)}}
		}
		// Not by the response_url: that could replace the deploy's message.
		err = b.insist(ctx, func() error { return b.sendPrivately(ctx, asked.Channel, asked.Actor.ID, shown) })
		if err != nil {
			b.opts.Log.Warn("an answer did not reach its asker", "question", asked.Title, "user", asked.Actor.ID, "err", err)
		}
	})
	return nil
}

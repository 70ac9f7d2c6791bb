package bot

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"waggle/ops"
)

// deployCommands are the rows about deploys.
func deployCommands() []Command {
	return []Command{
		{
			Name: "/deploy", Usage: "<app> [branch | tag | commit] | <app> image <ref> [--dry-run]",
			Short:   "Build and deploy a branch, tag or commit; or an image",
			Example: []string{"/deploy pizza", "/deploy pizza v1.2", "/deploy pizza image nginx:1.27"},
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
		err = ops.CheckImage(d.From)
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

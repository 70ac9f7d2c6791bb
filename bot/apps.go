package bot

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"waggle/internal/secret"
	"waggle/ops"
)

// appCommands are the rows about apps.
func appCommands() []Command {
	return []Command{
		{
			Name: "/app", Verb: "list", Usage: "[--page n]",
			Short:   "All apps: replicas, release, nodes, what is wrong",
			Example: []string{"/app list"}, Options: []string{"page"},
			Ask: func(args Args) (ops.Question, error) {
				page, err := parsePage(args)
				if err == nil {
					err = none("/app list", args)
				}
				return ops.AppList{Page: page}, err
			},
		},
		{
			Name: "/app", Verb: "show", Usage: "<app>",
			Short:   "One app: tasks by node, image, releases, settings",
			Example: []string{"/app show pizza"},
			Ask: func(args Args) (ops.Question, error) {
				app, err := oneApp("/app show", args)
				return ops.AppShow{App: app}, err
			},
		},
		{
			Name: "/app", Verb: "history", Usage: "<app>",
			Short:   "An app's releases",
			Example: []string{"/app history pizza"},
			Ask: func(args Args) (ops.Question, error) {
				app, err := oneApp("/app history", args)
				return ops.AppHistory{App: app}, err
			},
		},
		{
			Name: "/app", Verb: "logs", Usage: "<app> [n] [--since 10m] [--grep text] [--task n]",
			Short:   "What an app printed, from all nodes",
			Example: []string{"/app logs pizza", "/app logs pizza 200 --since 10m --grep error"},
			Options: []string{"since", "grep", "task"},
			Ask:     parseLogs,
		},
		{
			Name: "/app", Verb: "create", Usage: "<app> [<repo> [branch]] [--dry-run]",
			Short:   "Make an app; without a repository it asks for everything",
			Example: []string{"/app create pizza", "/app create pizza https://github.com/acme/pizza.git main"},
			New:     func() ops.Operation { return new(ops.AppCreate) },
			Parse:   parseCreate, Form: createForm(),
		},
		{
			Name: "/app", Verb: "link", Usage: "<app> <repo> [branch] [--dry-run]",
			Short:   "Have pushes to a repository deploy a service",
			Example: []string{"/app link pizza https://github.com/acme/pizza.git", "/app link pizza git@github.com:acme/pizza.git release"},
			New:     func() ops.Operation { return &ops.AppLink{Repo: "link"} },
			Parse:   parseLink,
		},
		{
			Name: "/app", Verb: "unlink", Usage: "<app> [--dry-run]",
			Short:   "Have pushes not deploy a service any more",
			Example: []string{"/app unlink pizza"},
			New:     func() ops.Operation { return new(ops.AppLink) },
			Parse: func(args Args) (ops.Operation, error) {
				app, err := oneApp("/app unlink", args)
				return &ops.AppLink{App: app}, err
			},
		},
		{
			Name: "/app", Verb: "env", Usage: "<app> [set K=V… | unset K… | secret [K]] [--dry-run]",
			Short:   "An app's variables and secrets; values are hidden",
			Example: []string{"/app env pizza", "/app env pizza set OVEN=hot", "/app env pizza unset OVEN", "/app env pizza secret DB_PASSWORD"},
			New:     func() ops.Operation { return new(ops.AppEnv) },
			Parse:   parseEnv, Form: secretForm(), Hide: true,
			Ask: func(args Args) (ops.Question, error) {
				app, err := parseApp(args.Words[0])
				return ops.AppEnvList{App: app}, err
			},
		},
		{
			Name: "/app", Verb: "build-secret", Usage: "<app> [set [NAME] | unset NAME] [--dry-run]",
			Short:   "Secrets that an app's builds are given; values are hidden",
			Example: []string{"/app build-secret pizza", "/app build-secret pizza set npm", "/app build-secret pizza unset npm"},
			New:     func() ops.Operation { return new(ops.AppBuildSecret) },
			Parse:   parseBuildSecret, Form: buildSecretForm(), Hide: true,
			Ask: func(args Args) (ops.Question, error) {
				app, err := parseApp(args.Words[0])
				return ops.BuildSecretList{App: app}, err
			},
		},
		{
			Name: "/app", Verb: "set", Usage: "<app> <setting>=<value>… [--dry-run]",
			Short:   "An app's limits, health check, placement, ports…",
			Example: []string{"/app set pizza limit-memory=512m", `/app set pizza health="wget -qO- localhost/" health-interval=10s`, "/app set pizza branch=main"},
			New:     func() ops.Operation { return new(ops.AppSet) },
			Parse:   parseSet,
		},
		{
			Name: "/app", Verb: "remove", Usage: "<app> [--volumes a,b] [--dry-run]",
			Short:   "Remove an app; its volumes stay unless they are named",
			Example: []string{"/app remove pizza", "/app remove db --volumes db-data"},
			Options: []string{"volumes"},
			New:     func() ops.Operation { return new(ops.AppRemove) },
			Parse: func(args Args) (ops.Operation, error) {
				app, err := oneApp("/app remove", args)
				if err != nil {
					return nil, err
				}
				return &ops.AppRemove{App: app, Volumes: commas(args.Options["volumes"])}, nil
			},
		},
	}
}

func oneApp(command string, args Args) (string, error) {
	if len(args.Words) != 1 {
		return "", ops.Errorf(ops.Invalid, "%s takes one app, and was given %s", command, count(args.Words)).Then("`/app list` shows them.")
	}
	return parseApp(args.Words[0])
}

func parsePage(args Args) (int, error) {
	p, given := args.Options["page"]
	if !given {
		return 1, nil
	}
	n, err := strconv.Atoi(p)
	if err != nil || n < 1 || n > 1000 {
		return 0, ops.Errorf(ops.Invalid, "%q is no page: pages are counted from 1", cut(p, 20))
	}
	return n, nil
}

// commas splits a list; "" is none.
func commas(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
}

// logLinesMost is how many lines one answer shows or sends as a file.
const logLinesMost = 5000

func parseLogs(args Args) (ops.Question, error) {
	if len(args.Words) < 1 || len(args.Words) > 2 {
		return nil, ops.Errorf(ops.Invalid, "/app logs takes an app and how many lines, and was given %s", count(args.Words))
	}
	app, err := parseApp(args.Words[0])
	if err != nil {
		return nil, err
	}
	q := ops.AppLogs{App: app, Lines: 50, Grep: args.Options["grep"], Task: args.Options["task"]}
	if len(args.Words) == 2 {
		if q.Lines, err = strconv.Atoi(args.Words[1]); err != nil || q.Lines < 1 || q.Lines > logLinesMost {
			return nil, ops.Errorf(ops.Invalid, "%q is no number of lines between 1 and %d", cut(args.Words[1], 20), logLinesMost)
		}
	}
	if since, given := args.Options["since"]; given {
		if q.Since, err = time.ParseDuration(since); err != nil || q.Since <= 0 || q.Since > 30*24*time.Hour {
			return nil, ops.Errorf(ops.Invalid, "%q is no time ago, like 10m or 2h", cut(since, 20))
		}
	}
	return q, nil
}

// appName is stricter than what Docker takes: the name is also a host's in the
// apps' network. Source: RFC 1123, section 2.1
var appName = regexp.MustCompile(`^[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?$`)

func parseNewApp(word string) (string, error) {
	if !appName.MatchString(word) {
		return "", ops.Errorf(ops.Invalid, "%q cannot be a new app's name", cut(word, 70)).
			Then("Take small letters, digits and -, beginning with a letter, at most 63: it is also its name in the network.")
	}
	if word == "waggle" || strings.HasPrefix(word, "waggle-") {
		return "", ops.Errorf(ops.Invalid, "Names that begin with waggle are Waggle's own").Then("Choose another than %s.", word)
	}
	return word, nil
}

func parseRepo(words []string) (repo, branch string, err error) {
	if err := ops.CheckRepo(words[0]); err != nil {
		return "", "", err
	}
	if len(words) > 1 {
		if err := ops.CheckBranch(words[1]); err != nil {
			return "", "", err
		}
		branch = words[1]
	}
	return words[0], branch, nil
}

func parseLink(args Args) (ops.Operation, error) {
	if len(args.Words) < 2 || len(args.Words) > 3 {
		return nil, ops.Errorf(ops.Invalid, "/app link takes an app, a repository and a branch, and was given %s", count(args.Words))
	}
	app, err := parseApp(args.Words[0])
	if err != nil {
		return nil, err
	}
	repo, branch, err := parseRepo(args.Words[1:])
	return &ops.AppLink{App: app, Repo: repo, Branch: branch}, err
}

func parseCreate(args Args) (ops.Operation, error) {
	if len(args.Words) == 0 || len(args.Words) > 3 {
		return nil, ops.Errorf(ops.Invalid, "/app create takes a name, a repository and a branch, and was given %s", count(args.Words))
	}
	app, err := parseNewApp(args.Words[0])
	if err != nil {
		return nil, err
	}
	if len(args.Words) == 1 {
		return nil, errForm
	}
	repo, branch, err := parseRepo(args.Words[1:])
	return &ops.AppCreate{App: app, Repo: repo, Branch: branch, Replicas: 1}, err
}

// envName is what a variable may be called. Source: POSIX.1-2017, XBD 8.1
var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

// maxEnv is how long a value may be, in bytes.
const maxEnv = 32 << 10

func parseVariable(word string) (name string, value secret.Text, err error) {
	name, v, ok := strings.Cut(word, "=")
	switch {
	case !ok:
		return "", "", ops.Errorf(ops.Invalid, "%q sets nothing: write NAME=value", cut(word, 40))
	case !envName.MatchString(name):
		return "", "", ops.Errorf(ops.Invalid, "%q is no variable's name: it has letters, digits and _, and begins with none of the digits", cut(name, 40))
	case len(v) > maxEnv:
		return "", "", ops.Errorf(ops.Invalid, "The value of %s is longer than %d bytes", name, maxEnv)
	}
	return name, secret.Text(v), nil
}

// errAsk, from a row's Parse, says that the line asks its question.
var errAsk = fmt.Errorf("ask the question")

func parseEnv(args Args) (ops.Operation, error) {
	if len(args.Words) == 0 {
		return nil, ops.Errorf(ops.Invalid, "/app env takes an app, and was given nothing")
	}
	app, err := parseApp(args.Words[0])
	if err != nil {
		return nil, err
	}
	if len(args.Words) == 1 {
		return nil, errAsk
	}
	op, rest := &ops.AppEnv{App: app}, args.Words[2:]
	switch verb := args.Words[1]; {
	case verb == "secret" && len(rest) <= 1:
		return nil, errForm
	case verb != "set" && verb != "unset":
		return nil, ops.Errorf(ops.Invalid, "/app env does not know %q", cut(verb, 40)).Then("It knows set, unset and secret.")
	case len(rest) == 0:
		return nil, ops.Errorf(ops.Invalid, "/app env %s %s needs names", app, verb)
	case verb == "unset":
		for _, name := range rest {
			if !envName.MatchString(name) {
				return nil, ops.Errorf(ops.Invalid, "%q is no variable's name", cut(name, 40))
			}
		}
		op.Unset = rest
		return op, nil
	}
	op.Set = map[string]secret.Text{}
	for _, word := range rest {
		name, value, err := parseVariable(word)
		if err != nil {
			return nil, err
		}
		if _, twice := op.Set[name]; twice {
			return nil, ops.Errorf(ops.Invalid, "%s is there twice", name)
		}
		op.Set[name] = value
	}
	return op, nil
}

func parseSet(args Args) (ops.Operation, error) {
	if len(args.Words) < 2 {
		names, _ := ops.SettingNames()
		return nil, ops.Errorf(ops.Invalid, "/app set takes an app and settings, and was given %s", count(args.Words)).
			Then("It sets %s.", strings.Join(names, ", "))
	}
	app, err := parseApp(args.Words[0])
	if err != nil {
		return nil, err
	}
	op := &ops.AppSet{App: app, Values: map[string]string{}}
	for _, w := range args.Words[1:] {
		name, value, ok := strings.Cut(w, "=")
		if !ok || value == "" {
			return nil, ops.Errorf(ops.Invalid, "%q sets nothing: write setting=value, and setting=none to take it away", cut(w, 60))
		}
		if _, twice := op.Values[name]; twice {
			return nil, ops.Errorf(ops.Invalid, "%s is there twice", cut(name, 40))
		}
		op.Values[name] = value
	}
	return op, nil
}

// createForm asks for everything of a new app.
func createForm() *Form {
	return &Form{
		Title: "New app", Submit: "Create",
		Fields: func(context.Context, *Bot, ops.Actor, Args) ([]Field, error) {
			return []Field{
				{Name: "repo", Label: "Repository", Placeholder: "https://github.com/acme/pizza.git", Hint: "Pushes to it deploy the app. Leave it empty to run an image.", Optional: true},
				{Name: "branch", Label: "Branch", Hint: "Empty is the repository's default.", Optional: true},
				{Name: "dockerfile", Label: "Dockerfile", Placeholder: "Dockerfile", Optional: true},
				{Name: "image", Label: "Image", Placeholder: "nginx:1.27", Hint: "Instead of a repository.", Optional: true},
				{Name: "replicas", Label: "Replicas", Value: "1"},
				{Name: "ports", Label: "Ports", Placeholder: "8080:80, 53:53/udp, 9000:9000:host", Hint: "published:target; with :host on each task's node instead of the routing mesh.", Optional: true},
				{Name: "env", Label: "Environment", Placeholder: "OVEN=hot", Hint: "One NAME=value a line. For passwords use /app env <app> secret afterwards.", Lines: true, Optional: true},
				{Name: "volumes", Label: "Persistent data", Placeholder: "pizza-data:/data", Hint: "volume:path, one a line. The app is pinned to one node then.", Lines: true, Optional: true},
				{Name: "node", Label: "Node of the data", Hint: "Empty lets Waggle choose.", Optional: true},
				{Name: "health", Label: "Health check", Placeholder: "wget -qO- localhost/health", Hint: "A command that ends with 0 when all is well.", Optional: true},
				{Name: "constraints", Label: "Placement", Placeholder: "node.labels.disk==ssd", Hint: "Constraints, with commas.", Optional: true},
				{Name: "cpu", Label: "Limit of cores", Placeholder: "0.5", Optional: true},
				{Name: "memory", Label: "Limit of memory", Placeholder: "512m", Optional: true},
				{Name: "approve", Label: "Pushes wait for an approval", Choices: []string{"no", "yes"}},
				{Name: "channel", Label: "Channel", Hint: "Where its deploys are announced; empty is the default one.", Optional: true},
			}, nil
		},
		Read: func(_ context.Context, _ *Bot, args Args, filled map[string]string) (ops.Operation, map[string]string, error) {
			name, err := parseNewApp(args.Words[0])
			if err != nil {
				return nil, nil, err
			}
			for field, value := range filled {
				filled[field] = strings.TrimSpace(value)
			}
			faults := map[string]string{}
			check := func(field string, err error) {
				if err != nil {
					faults[field] = plainSentence(err)
				}
			}
			op := &ops.AppCreate{App: name, Repo: plain(filled["repo"]), Branch: filled["branch"], Dockerfile: filled["dockerfile"], Image: plain(filled["image"]),
				Health: filled["health"], Node: filled["node"], Approve: filled["approve"] == "yes", Channel: filled["channel"]}
			switch {
			case op.Repo == "" && op.Image == "":
				faults["repo"] = "Give a repository, or an image further down."
			case op.Repo != "" && op.Image != "":
				faults["image"] = "Give either a repository or an image."
			case op.Repo != "":
				check("repo", ops.CheckRepo(op.Repo))
			default:
				check("image", ops.CheckImage(op.Image))
			}
			if op.Branch != "" {
				check("branch", ops.CheckBranch(op.Branch))
			}
			n, relative, err := parseCount(filled["replicas"])
			if err == nil && (relative || n < 0 || n > ops.MaxReplicas) {
				err = ops.Errorf(ops.Invalid, "It is a number of replicas from 0 to %d", ops.MaxReplicas)
			}
			op.Replicas = n
			check("replicas", err)
			if filled["ports"] != "" {
				op.Ports, err = ops.ParsePorts(filled["ports"])
				check("ports", err)
			}
			for line := range strings.Lines(filled["env"]) {
				if line = strings.TrimSpace(line); line == "" {
					continue
				}
				name, value, err := parseVariable(line)
				if check("env", err); err != nil {
					break
				}
				if op.Env == nil {
					op.Env = map[string]secret.Text{}
				}
				op.Env[name] = value
			}
			op.Volumes, err = ops.ParseVolumes(commas(filled["volumes"]))
			check("volumes", err)
			if c := filled["constraints"]; c != "" {
				op.Constraints, err = ops.ParseConstraints(c)
				check("constraints", err)
			}
			if c := filled["cpu"]; c != "" {
				op.LimitCPU, err = ops.ParseCores(c)
				check("cpu", err)
			}
			if m := filled["memory"]; m != "" {
				op.LimitMemory, err = ops.ParseMemory(m)
				check("memory", err)
			}
			return op, faults, nil
		},
	}
}

// secretForm asks for a secret of an app: it is never typed into a channel.
func secretForm() *Form {
	return &Form{
		Title: "Secret", Submit: "Keep",
		Fields: func(_ context.Context, _ *Bot, _ ops.Actor, args Args) ([]Field, error) {
			name := ""
			if len(args.Words) > 2 {
				name = args.Words[2]
			}
			return []Field{
				{Name: "name", Label: "Name", Value: name, Placeholder: "DB_PASSWORD", Hint: "The app finds it in /run/secrets/NAME, and that path in NAME_FILE."},
				{Name: "value", Label: "Value", Lines: true, Hint: "It is kept as a swarm secret: nobody can read it back."},
			}, nil
		},
		Read: func(_ context.Context, _ *Bot, args Args, filled map[string]string) (ops.Operation, map[string]string, error) {
			name := strings.TrimSpace(filled["name"])
			if !envName.MatchString(name) {
				return nil, map[string]string{"name": "A name has letters, digits and _, and begins with none of the digits."}, nil
			}
			return &ops.AppEnv{App: args.Words[0], Secrets: map[string]secret.Text{name: secret.Text(filled["value"])}}, nil, nil
		},
	}
}

func parseBuildSecret(args Args) (ops.Operation, error) {
	if len(args.Words) == 0 {
		return nil, ops.Errorf(ops.Invalid, "/app build-secret takes an app, and was given nothing")
	}
	app, err := parseApp(args.Words[0])
	if err != nil {
		return nil, err
	}
	if len(args.Words) == 1 {
		return nil, errAsk
	}
	verb, names := args.Words[1], args.Words[2:]
	for _, name := range names {
		if strings.Contains(name, "=") || len(names) > 1 {
			return nil, ops.Errorf(ops.Invalid, "/app build-secret %s takes one name, and no value: a secret is not typed where others read", app).Then("`/app build-secret %s set NAME` asks for the value.", app)
		}
		if err := ops.CheckBuildSecret(name); err != nil {
			return nil, err
		}
	}
	switch {
	case verb == "set":
		return nil, errForm
	case verb != "unset":
		return nil, ops.Errorf(ops.Invalid, "/app build-secret does not know %q", cut(verb, 40)).Then("It knows set and unset.")
	case len(names) == 0:
		return nil, ops.Errorf(ops.Invalid, "/app build-secret %s unset needs a name", app)
	}
	return &ops.AppBuildSecret{App: app, ID: names[0], Unset: true}, nil
}

// buildSecretForm asks for a build secret: it is never typed into a channel.
func buildSecretForm() *Form {
	return &Form{
		Title: "Build secret", Submit: "Keep",
		Fields: func(_ context.Context, _ *Bot, _ ops.Actor, args Args) ([]Field, error) {
			name := ""
			if len(args.Words) > 2 {
				name = args.Words[2]
			}
			return []Field{
				{Name: "name", Label: "Name", Value: name, Placeholder: "npm", Hint: "The Dockerfile mounts it with RUN --mount=type=secret,id=NAME and finds it in /run/secrets/NAME."},
				{Name: "value", Label: "Value", Lines: true, Hint: "It is kept in the swarm, sealed with secret_key, and given to builds only: it is not in the image."},
			}, nil
		},
		Read: func(_ context.Context, _ *Bot, args Args, filled map[string]string) (ops.Operation, map[string]string, error) {
			name := strings.TrimSpace(filled["name"])
			if err := ops.CheckBuildSecret(name); err != nil {
				return nil, map[string]string{"name": plainSentence(err)}, nil
			}
			return &ops.AppBuildSecret{App: args.Words[0], ID: name, Value: secret.Text(filled["value"])}, nil, nil
		},
	}
}

// plainSentence is an error as a form shows it: what, then what to do, in plain text.
func plainSentence(err error) string {
	if !errors.As(err, new(*ops.Error)) {
		err = ops.Errorf(ops.Invalid, "%w", err) // what is wrong with a value
	}
	return strings.Join(slices.DeleteFunc(strings.Split(strings.NewReplacer("*", "", "`", "", "⛔ ", "").Replace(unescaped(sentence(err))), "\n"), func(l string) bool { return l == "" }), " ")
}

func unescaped(text string) string {
	return strings.NewReplacer("&lt;", "<", "&gt;", ">", "&amp;", "&").Replace(text)
}

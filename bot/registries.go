package bot

import (
	"context"
	"errors"
	"regexp"
	"strconv"
	"strings"

	"waggle/internal/secret"
	"waggle/ops"
)

// registryCommands are the rows about registries.
func registryCommands() []Command {
	push := func(verb, short string, on bool) Command {
		return Command{
			Name: "/registry", Verb: verb, Usage: "<name> [--dry-run]", Short: short, Example: []string{"/registry " + verb + " hub"},
			New: func() ops.Operation { return &ops.RegistryPush{On: on} },
			Parse: func(args Args) (ops.Operation, error) {
				name, err := parseRegistry(verb, args)
				return &ops.RegistryPush{Name: name, On: on}, err
			},
		}
	}
	return []Command{
		{
			Name: "/registry", Verb: "list",
			Short:   "All registries, and how many services pull from each",
			Example: []string{"/registry list"},
			Ask:     func(args Args) (ops.Question, error) { return ops.RegistryList{}, none("/registry list", args) },
		},
		{
			Name: "/registry", Verb: "add", Usage: "[name] [--dry-run]",
			Short:   "Add a registry; a form asks for its login",
			Example: []string{"/registry add", "/registry add ghcr"},
			New:     func() ops.Operation { return new(ops.RegistryAdd) },
			Parse: func(args Args) (ops.Operation, error) {
				if len(args.Words) == 0 {
					return nil, errForm
				}
				if _, err := parseRegistry("add", args); err != nil {
					return nil, err
				}
				return nil, errForm
			},
			Form: &Form{Title: "Add a registry", Submit: "Try and add", Fields: addFields, Read: readAdd},
		},
		{
			Name: "/registry", Verb: "edit", Usage: "<name> [--dry-run]",
			Short:   "Change a registry's place or login, in a form",
			Example: []string{"/registry edit hub"},
			New:     func() ops.Operation { return new(ops.RegistryEdit) },
			Parse: func(args Args) (ops.Operation, error) {
				if _, err := parseRegistry("edit", args); err != nil {
					return nil, err
				}
				return nil, errForm
			},
			Form: &Form{Title: "Change a registry", Submit: "Try and change", Fields: editFields, Read: readEdit},
		},
		{
			Name: "/registry", Verb: "default", Usage: "[name] [--dry-run]",
			Short:   "Show or choose where built images are pushed",
			Example: []string{"/registry default", "/registry default ghcr"},
			New:     func() ops.Operation { return new(ops.RegistryDefault) },
			Ask:     func(Args) (ops.Question, error) { return ops.RegistryShowDefault{}, nil },
			Parse: func(args Args) (ops.Operation, error) {
				if len(args.Words) == 0 {
					return nil, errAsk
				}
				name, err := parseRegistry("default", args)
				return &ops.RegistryDefault{Name: name}, err
			},
		},
		push("enable", "Let built images be pushed to a registry", true),
		push("disable", "Let nothing be pushed to a registry any more", false),
		{
			Name: "/registry", Verb: "remove", Usage: "<name> [--dry-run]",
			Short:   "Forget a registry and its password",
			Example: []string{"/registry remove hub"},
			New:     func() ops.Operation { return new(ops.RegistryRemove) },
			Parse: func(args Args) (ops.Operation, error) {
				name, err := parseRegistry("remove", args)
				return &ops.RegistryRemove{Name: name}, err
			},
		},
		{
			Name: "/registry", Verb: "setup", Usage: "[node] [--address host:port] [--name name] [--certificate secret --key secret] [--dry-run]",
			Short:   "Run a registry in this swarm, and add it",
			Example: []string{"/registry setup", "/registry setup n1 --address 10.0.0.11:5000"},
			Options: []string{"address", "name", "certificate", "key"},
			New:     func() ops.Operation { return new(ops.RegistrySetup) },
			Parse:   parseRegistrySetup,
		},
		{
			Name: "/registry", Verb: "check",
			Short:   "Try every registry, and look for every image in use",
			Example: []string{"/registry check"},
			Ask:     func(args Args) (ops.Question, error) { return ops.RegistryCheck{}, none("/registry check", args) },
		},
		{
			Name: "/registry", Verb: "migrate", Usage: "[app…] [--dry-run]",
			Short:   "Bring images to the default registry, and run them from there",
			Example: []string{"/registry migrate", "/registry migrate pizza pasta"},
			New:     func() ops.Operation { return new(ops.RegistryMigrate) },
			Parse: func(args Args) (ops.Operation, error) {
				m := new(ops.RegistryMigrate)
				for _, w := range args.Words {
					app, err := parseApp(w)
					if err != nil {
						return nil, err
					}
					m.Apps = append(m.Apps, app)
				}
				return m, nil
			},
		},
		{
			Name: "/registry", Verb: "prune", Usage: "[--keep n] [--dry-run]",
			Short:   "Remove old images from the registry that /registry setup made",
			Example: []string{"/registry prune", "/registry prune --keep 3"},
			Options: []string{"keep"},
			New:     func() ops.Operation { return new(ops.RegistryPrune) },
			Parse:   parseRegistryPrune,
		},
	}
}

// registryName is what a registry may be called; ops says so in more words.
var registryName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,60}$`)

func parseRegistry(verb string, args Args) (string, error) {
	if len(args.Words) != 1 {
		return "", ops.Errorf(ops.Invalid, "/registry %s takes the name of one registry, and was given %s", verb, count(args.Words)).
			Then("`/registry list` shows them.")
	}
	if !registryName.MatchString(args.Words[0]) {
		return "", ops.Errorf(ops.Invalid, "%q is no name of a registry", cut(args.Words[0], 60)).
			Then("`/registry list` shows them.")
	}
	return strings.ToLower(args.Words[0]), nil
}

func parseRegistrySetup(args Args) (ops.Operation, error) {
	s := &ops.RegistrySetup{Name: "local", Address: args.Options["address"], Certificate: args.Options["certificate"], Key: args.Options["key"]}
	switch len(args.Words) {
	case 0:
	case 1:
		node, err := parseNodeName(args.Words[0])
		if err != nil {
			return nil, err
		}
		s.Node = node
	default:
		return nil, ops.Errorf(ops.Invalid, "/registry setup takes one node, and was given %s", count(args.Words))
	}
	if name, given := args.Options["name"]; given {
		var err error
		if s.Name, err = parseRegistry("setup --name", Args{Words: []string{name}}); err != nil {
			return nil, err
		}
	}
	if s.Address != "" {
		if _, _, err := ops.CheckSetup(s.Address); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func parseRegistryPrune(args Args) (ops.Operation, error) {
	if err := none("/registry prune", args); err != nil {
		return nil, err
	}
	p := &ops.RegistryPrune{Keep: ops.PruneKeep}
	if keep, given := args.Options["keep"]; given {
		n, err := strconv.Atoi(keep)
		if err != nil || n < 1 || n > 1000 {
			return nil, ops.Errorf(ops.Invalid, "%q is no number of images to keep: 1 to 1000", cut(keep, 20))
		}
		p.Keep = n
	}
	return p, nil
}

// Fields of the forms, named as in ops.RegistryInput.
const (
	yes = "yes"
	no  = "no: only pull from it"
)

func registryFields(r ops.Registry, passwordHint string) []Field {
	pushed := yes
	if !r.Push {
		pushed = no
	}
	return []Field{
		{Name: "address", Label: "Domain", Value: r.Domain, Placeholder: "ghcr.io, docker.io, registry.example.com:5000"},
		{Name: "prefix", Label: "Prefix", Value: r.Prefix, Optional: true, Placeholder: "acme", Hint: "The path in front of its images' names: on Docker Hub and ghcr.io the account or organization"},
		{Name: "username", Label: "User", Value: r.Username, Optional: true, Hint: "Empty if it lets everybody in"},
		{Name: "password", Label: "Password or token", Optional: true, Hint: passwordHint},
		{Name: "push", Label: "Push built images to it?", Choices: []string{yes, no}, Value: pushed},
	}
}

func addFields(_ context.Context, _ *Bot, _ ops.Actor, args Args) ([]Field, error) {
	name := Field{Name: "name", Label: "Name", Placeholder: "hub, ghcr", Hint: "What you call it in commands"}
	if len(args.Words) > 0 {
		name.Value = strings.ToLower(args.Words[0])
	}
	return append([]Field{name}, registryFields(ops.Registry{Push: true}, "It is kept sealed, and never shown")...), nil
}

func readAdd(_ context.Context, _ *Bot, _ Args, filled map[string]string) (ops.Operation, map[string]string, error) {
	in := registryInput(filled)
	r, faults := in.Registry()
	return ops.NewRegistryAdd(r, in.Password), faultTexts(faults), nil
}

// seenOption carries which state of a registry the form was filled in from.
const seenOption = "seen"

func editFields(ctx context.Context, b *Bot, who ops.Actor, args Args) ([]Field, error) {
	r, err := b.house.Registry(ctx, who, strings.ToLower(args.Words[0]))
	if err != nil {
		return nil, err
	}
	args.Options[seenOption] = r.Fingerprint()
	return registryFields(r, "Empty keeps the one it has"), nil
}

func readEdit(_ context.Context, _ *Bot, args Args, filled map[string]string) (ops.Operation, map[string]string, error) {
	in := registryInput(filled)
	in.Name, in.KeepsPassword = strings.ToLower(args.Words[0]), true
	r, faults := in.Registry()
	return ops.NewRegistryEdit(r, in.Password, args.Options[seenOption]), faultTexts(faults), nil
}

func registryInput(filled map[string]string) ops.RegistryInput {
	return ops.RegistryInput{Name: filled["name"], Address: filled["address"], Prefix: filled["prefix"],
		Username: filled["username"], Password: secret.Text(filled["password"]), Push: filled["push"] == yes}
}

// faultTexts are sentences for the fields of a form, which know no formatting.
func faultTexts(faults map[string]error) map[string]string {
	out := map[string]string{}
	for field, err := range faults {
		e := new(ops.Error)
		if !errors.As(err, &e) {
			e = &ops.Error{Sentence: err.Error()}
		}
		out[field] = strings.ReplaceAll(strings.TrimSpace(e.Sentence+". "+e.Next), "`", "")
	}
	return out
}

package ops

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"waggle/internal/secret"
)

// AppEnv sets environment variables and secrets of an app.
type AppEnv struct {
	App   string   `json:"app"`
	Unset []string `json:"unset,omitempty"` // variables and secrets to take away
	// Set are variables and Secrets are swarm secrets, which are files below
	// /run/secrets with their path in <name>_FILE.
	Set     map[string]secret.Text `json:"-"`
	Secrets map[string]secret.Text `json:"-"`

	// What was set, sealed with secret_key.
	SealedSet     map[string]string `json:"set,omitempty"`
	SealedSecrets map[string]string `json:"secrets,omitempty"`

	// Rolls is set when the change that is about to be written restarts tasks: once it is
	// written nothing tells that any more.
	Rolls bool `json:"rolls,omitempty"`

	svc      Service
	change   Change
	replace  []SecretRef // secrets that the change takes out of the service
	restarts bool
}

func (*AppEnv) Kind() string     { return "app-env" }
func (a *AppEnv) Target() string { return a.App }
func (*AppEnv) Needs() Role      { return Operator }

// Seal implements Sealer.
func (a *AppEnv) Seal(key secret.Key) (err error) {
	seal := func(open map[string]secret.Text) (map[string]string, error) {
		out := map[string]string{}
		for name, value := range open {
			if out[name], err = key.Seal(value, "env "+a.App+" "+name); err != nil {
				return nil, noKey(err)
			}
		}
		return out, nil
	}
	if a.SealedSet, err = seal(a.Set); err != nil {
		return err
	}
	a.SealedSecrets, err = seal(a.Secrets)
	return err
}

// noKey says what to do when something secret cannot be kept.
func noKey(err error) error {
	if !errors.Is(err, secret.ErrNoKey) {
		return err // nil, or what the caller says of it
	}
	return Errorf(Invalid, "No secret_key is set, and secrets are only kept sealed with it").
		Then("Make one with `openssl rand -base64 32`, set it as secret_key for every Waggle of this swarm, and start Waggle again.")
}

func (a *AppEnv) open(key secret.Key, sealed map[string]string) (map[string]secret.Text, error) {
	out := map[string]secret.Text{}
	for name, box := range sealed {
		value, err := key.Open(box, "env "+a.App+" "+name)
		if err != nil {
			return nil, &Error{Code: Invalid, Sentence: "What was set was sealed with another secret_key than this Waggle has", Next: "Give every Waggle of this swarm the same secret_key, and type it again.", Err: err}
		}
		out[name] = value
	}
	return out, nil
}

// Plan says which variables change; values are shown to nobody.
func (a *AppEnv) Plan(ctx context.Context, run *Run) (Plan, error) {
	svc, err := run.app(ctx, a.App)
	if err != nil {
		return Plan{}, err
	}
	a.svc, a.change, a.replace = svc, Change{}, nil
	if a.change.Env, err = a.open(run.SecretKey, a.SealedSet); err != nil {
		return Plan{}, err
	}
	has := map[string]secret.Text{}
	for _, v := range svc.Env {
		has[v.Name] = v.Value
	}
	shown := func(name string) string {
		if _, ok := has[name]; ok {
			return "set"
		}
		return "not set"
	}
	var plan Plan
	for _, name := range slices.Sorted(maps.Keys(a.SealedSet)) {
		to := "set"
		if old, ok := has[name]; ok {
			to = "another value"
			if old == a.change.Env[name] {
				to = sameValue
			}
		}
		plan.Diffs = append(plan.Diffs, Diff{What: name, From: shown(name), To: to})
	}
	for _, name := range slices.Sorted(maps.Keys(a.SealedSecrets)) {
		if full := a.secretName(run, name); len(full) > maxSecretName {
			return Plan{}, Errorf(Invalid, "The swarm secret %s would have %d characters, and Docker allows %d", full, len(full), maxSecretName).
				Then("Use a name that is %s shorter than %s.", many(len(full)-maxSecretName, "character"), name)
		}
		from := "not set"
		if old, ok := svc.secret(name); ok {
			from = "set"
			a.drop(old)
		}
		plan.Diffs = append(plan.Diffs, Diff{What: "secret " + name, From: from, To: "/run/secrets/" + name})
		a.change.Env[name+"_FILE"] = secret.Text("/run/secrets/" + name)
	}
	for _, name := range a.Unset {
		old, isSecret := svc.secret(name)
		_, isVar := has[name]
		switch {
		case isSecret:
			a.drop(old)
			a.change.UnsetEnv = append(a.change.UnsetEnv, name+"_FILE")
			plan.Diffs = append(plan.Diffs, Diff{What: "secret " + name, From: "set", To: "not set"})
			if !svc.owns(old) {
				plan.Facts = append(plan.Facts, fmt.Sprintf("the swarm secret %s stays: Waggle did not make it", old.Name))
			}
		case isVar:
			a.change.UnsetEnv = append(a.change.UnsetEnv, name)
			plan.Diffs = append(plan.Diffs, Diff{What: name, From: "set", To: "not set"})
		case !run.resumed:
			return Plan{}, Errorf(NotFound, "%s has no variable and no secret %s", a.App, name).Then("`/app env %s` lists them.", a.App)
		}
	}
	a.restarts = slices.ContainsFunc(plan.Diffs, func(d Diff) bool { return d.To != sameValue })
	if a.restarts {
		plan.Facts = append(plan.Facts, "its tasks are restarted, "+svc.rolling())
	} else {
		plan.Facts = append(plan.Facts, "no task is restarted")
	}
	return plan, nil
}

// sameValue is what a plan says of a value that a variable has already.
const sameValue = "the same value"

// drop takes a secret out of the service, and away with that if it is the app's own.
func (a *AppEnv) drop(r SecretRef) {
	a.change.DropSecrets = append(a.change.DropSecrets, r.ID)
	if a.svc.owns(r) {
		a.replace = append(a.replace, r)
	}
}

// maxSecretName is Docker's limit for the name of a swarm secret.
const maxSecretName = 64

// secretName is the name of the swarm secret that holds a value. Secrets never change:
// each value has a name of its own.
func (a *AppEnv) secretName(run *Run, name string) string {
	return fmt.Sprintf("%s.%s.%s", a.svc.Name, name, run.ID[max(0, len(run.ID)-8):])
}

// owns says whether Waggle made the secret for this app.
func (s Service) owns(r SecretRef) bool { return strings.HasPrefix(r.Name, s.Name+".") }

// ownSecrets are the secrets that Waggle made for this app.
func (s Service) ownSecrets() []SecretRef {
	return slices.DeleteFunc(slices.Clone(s.Secrets), func(r SecretRef) bool { return !s.owns(r) })
}

// secret returns the service's secret that is the file of that name.
func (s Service) secret(name string) (SecretRef, bool) {
	for _, r := range s.Secrets {
		if r.File == name {
			return r, true
		}
	}
	return SecretRef{}, false
}

// Apply makes the secrets and sets everything in one update.
func (a *AppEnv) Apply(ctx context.Context, run *Run) error {
	values, err := a.open(run.SecretKey, a.SealedSecrets)
	if err != nil {
		return err
	}
	a.change.AddSecrets = nil
	for _, name := range slices.Sorted(maps.Keys(values)) {
		full := a.secretName(run, name)
		if old, ok := a.svc.secret(name); ok && old.Name == full {
			a.change.DropSecrets = slices.DeleteFunc(a.change.DropSecrets, func(id string) bool { return id == old.ID })
			a.replace = slices.DeleteFunc(a.replace, func(r SecretRef) bool { return r.ID == old.ID })
			continue // done by an attempt that was cut off
		}
		id, err := run.Swarm.CreateSecret(ctx, full, values[name], map[string]string{LabelApp: a.svc.Name})
		if err != nil {
			return err
		}
		a.change.AddSecrets = append(a.change.AddSecrets, SecretRef{ID: id, Name: full, File: name})
	}
	a.Rolls = a.restarts || run.resumed && a.Rolls
	if err := run.Save(ctx); err != nil {
		return redisAway(err)
	}
	if run.applied {
		return nil // written by an earlier attempt; what the swarm took back is not written again
	}
	_, err = run.Swarm.UpdateService(ctx, a.svc, a.change)
	return err
}

// Converge follows the restart of the tasks, and removes secrets that are of no
// use any more.
func (a *AppEnv) Converge(ctx context.Context, run *Run) (string, error) {
	if !a.Rolls {
		return fmt.Sprintf("%s of %s %s that value already", strings.Join(slices.Sorted(maps.Keys(a.SealedSet)), ", "), a.App, oneOrMore(len(a.SealedSet), "has", "have")), nil
	}
	got, err := run.followUpdate(ctx, a.svc.Name, "", "Nothing of the change is left; correct it and try again.")
	useless := a.replace
	if err != nil {
		useless = a.change.AddSecrets
	}
	for _, r := range useless {
		if e := run.Swarm.RemoveSecret(ctx, r.ID); e != nil {
			run.Log.Info("a secret that no task uses any more is still kept", "secret", r.Name, "err", e)
		}
	}
	if err != nil {
		return "", err
	}
	names := slices.Sorted(maps.Keys(a.SealedSet))
	names = append(append(names, slices.Sorted(maps.Keys(a.SealedSecrets))...), a.Unset...)
	return fmt.Sprintf("%s of %s changed, %d of %d run with it", strings.Join(names, ", "), a.App, got.Running, got.Wanted), nil
}

// AppEnvList asks for the names of an app's variables and secrets.
type AppEnvList struct{ App string }

func (AppEnvList) Needs() Role { return Viewer }

// Ask lists names; values are shown to nobody.
func (q AppEnvList) Ask(ctx context.Context, r *Runner, _ Actor) (Answer, error) {
	svc, err := findApp(ctx, r.Env.Swarm, q.App)
	if err != nil {
		return Answer{}, err
	}
	rows := [][]string{{"NAME", "VALUE"}}
	for _, v := range svc.Env {
		value := "hidden"
		if v.Value.Empty() {
			value = "empty"
		}
		rows = append(rows, []string{v.Name, value})
	}
	for _, s := range svc.Secrets {
		rows = append(rows, []string{s.File, "secret, in /run/secrets/" + s.File})
	}
	if len(rows) == 1 {
		return Answer{Head: svc.Name + " has no variables of its own", Parts: []Part{{Lines: []string{fmt.Sprintf("`/app env %s set NAME=value` sets one, `/app env %s secret` one that nobody can read.", svc.Name, svc.Name)}}}}, nil
	}
	return Answer{Head: fmt.Sprintf("%s has %s and %s", svc.Name, many(len(svc.Env), "variable"), many(len(svc.Secrets), "secret")), Parts: []Part{{Table: rows}}}, nil
}

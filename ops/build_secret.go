package ops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"waggle/internal/secret"
)

// What a service holds of build secrets. Docker has no limits of its own; the whole of a
// service, twice, must fit into one message of the swarm's.
const (
	maxBuildSecret  = 32 << 10 // bytes of one
	maxBuildSecrets = 16       // of one app
)

// buildSecretID is what the Dockerfile names a secret by, in --mount=type=secret,id=…
var buildSecretID = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$`)

// CheckBuildSecret checks the name of a build secret.
func CheckBuildSecret(id string) error {
	if !buildSecretID.MatchString(id) {
		return Errorf(Invalid, "A build secret's name has letters, digits and _ . - only, at most 63, and begins with none of . and -")
	}
	return nil
}

// AppBuildSecret sets or takes away a secret that the builds of an app are given.
type AppBuildSecret struct {
	App   string      `json:"app"`
	ID    string      `json:"id"`
	Unset bool        `json:"unset,omitempty"`
	Value secret.Text `json:"-"`

	// Sealed is what was set, as the label of the service holds it.
	Sealed string `json:"sealed,omitempty"`

	svc    Service
	change Change
}

func (*AppBuildSecret) Kind() string     { return "app-build-secret" }
func (b *AppBuildSecret) Target() string { return b.App }
func (*AppBuildSecret) Needs() Role      { return Operator }

// buildSecretPlace is what a build secret is sealed for: no other app's label opens it.
func buildSecretPlace(app, id string) string { return "build-secret " + app + "/" + id }

// Seal implements Sealer.
func (b *AppBuildSecret) Seal(key secret.Key) (err error) {
	if b.Unset {
		return nil
	}
	if len(b.Value) > maxBuildSecret {
		return Errorf(Invalid, "The build secret %s is longer than %d bytes", b.ID, maxBuildSecret)
	}
	b.Sealed, err = key.Seal(b.Value, buildSecretPlace(b.App, b.ID))
	return noKey(err)
}

// Plan says whether there was one; no task is restarted.
func (b *AppBuildSecret) Plan(ctx context.Context, run *Run) (Plan, error) {
	svc, err := run.app(ctx, b.App)
	if err != nil {
		return Plan{}, err
	}
	if err := CheckBuildSecret(b.ID); err != nil {
		return Plan{}, err
	}
	label := LabelBuildSecret + b.ID
	b.svc, b.change = svc, Change{}
	old, has := svc.Labels[label]
	plan := Plan{Diffs: []Diff{{What: "build secret " + b.ID, From: "not set", To: "set"}}, Facts: []string{"no task is restarted; the next build is given it"}}
	if has {
		plan.Diffs[0].From = "set"
	}
	if b.Unset {
		if !has && !run.resumed {
			return Plan{}, Errorf(NotFound, "%s has no build secret %s", b.App, b.ID).Then("`/app build-secret %s` lists them.", b.App)
		}
		b.change.Unset = []string{label}
		plan.Diffs[0].To, plan.Facts = "not set", []string{"no task is restarted; builds are not given it any more"}
		return plan, nil
	}
	value, err := openBuildSecret(run.SecretKey, b.App, b.ID, b.Sealed)
	if err != nil {
		return Plan{}, err
	}
	kept := b.Sealed
	if svc.Name != b.App { // sealed for the id that was typed, and builds open it by the name
		if kept, err = run.SecretKey.Seal(value, buildSecretPlace(svc.Name, b.ID)); err != nil {
			return Plan{}, err
		}
	}
	if before, err := run.SecretKey.Open(old, buildSecretPlace(svc.Name, b.ID)); has {
		plan.Diffs[0].To = "another value"
		if err == nil && before == value {
			plan.Diffs[0].To = "the same value"
		}
	}
	if n := len(svc.buildSecretIDs()); !has && n >= maxBuildSecrets {
		return Plan{}, Errorf(Invalid, "%s has %d build secrets, and the swarm keeps no more for one app", b.App, n).Then("`/app build-secret %s unset <name>` takes one away.", b.App)
	}
	b.change.Labels = map[string]string{label: kept}
	return plan, nil
}

// Apply writes the label, and nothing else.
func (b *AppBuildSecret) Apply(ctx context.Context, run *Run) error {
	_, err := run.Swarm.UpdateService(ctx, b.svc, b.change)
	return err
}

// Converge has nothing to wait for: labels are written at once.
func (b *AppBuildSecret) Converge(context.Context, *Run) (string, error) {
	if b.Unset {
		return fmt.Sprintf("Builds of %s are not given the secret %s any more", b.App, b.ID), nil
	}
	return fmt.Sprintf("Builds of %s are given the secret %s", b.App, b.ID), nil
}

// buildSecretIDs are the names of the build secrets that the service has, in order.
func (s Service) buildSecretIDs() []string {
	var ids []string
	for k := range s.Labels {
		if id, ok := strings.CutPrefix(k, LabelBuildSecret); ok && id != "" {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// buildSecrets opens the build secrets of the service.
func (s Service) buildSecrets(key secret.Key) (map[string]secret.Text, error) {
	out := map[string]secret.Text{}
	for _, id := range s.buildSecretIDs() {
		value, err := openBuildSecret(key, s.Name, id, s.Labels[LabelBuildSecret+id])
		if err != nil {
			return nil, err
		}
		out[id] = value
	}
	return out, nil
}

func openBuildSecret(key secret.Key, app, id, sealed string) (secret.Text, error) {
	value, err := key.Open(sealed, buildSecretPlace(app, id))
	if err == nil {
		return value, nil
	}
	again := fmt.Sprintf("`/app build-secret %s set %s` sets it again.", app, id)
	var other *secret.OtherKeyError
	switch {
	case errors.Is(err, secret.ErrNoKey):
		return "", &Error{Code: Invalid, Sentence: fmt.Sprintf("The build secret %s of %s cannot be opened: no secret_key is set", id, app),
			Next: "Set the secret_key that it was sealed with for every Waggle of this swarm, and start Waggle again.", Err: err}
	case errors.As(err, &other):
		return "", &Error{Code: Invalid, Sentence: fmt.Sprintf("The build secret %s of %s was sealed with another secret_key than this Waggle has", id, app),
			Next: "Give every Waggle of this swarm the same secret_key; or else " + again, Err: err}
	}
	return "", &Error{Code: Invalid, Sentence: fmt.Sprintf("The build secret %s of %s is not what Waggle keeps: it is damaged, or was sealed for another app", id, app), Next: again, Err: err}
}

// maskOf is what to show instead of secrets, as pairs for a replacer, the longest first.
// A secret of several lines is looked for line by line, as a log tells it.
func maskOf(secrets map[string]secret.Text) []string {
	shown := map[string]string{}
	for _, id := range slices.Sorted(maps.Keys(secrets)) {
		whole := strings.TrimSpace(secrets[id].Reveal())
		for _, text := range append([]string{whole}, strings.Split(whole, "\n")...) {
			if text = strings.TrimSpace(text); len(text) >= 4 {
				shown[text] = "<" + id + ">"
			}
		}
	}
	var pairs []string
	for _, text := range slices.SortedFunc(maps.Keys(shown), func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) }) {
		pairs = append(pairs, text, shown[text])
	}
	return pairs
}

// BuildSecretList asks for the names of an app's build secrets.
type BuildSecretList struct{ App string }

func (BuildSecretList) Needs() Role { return Viewer }

// Ask lists names; values are shown to nobody.
func (q BuildSecretList) Ask(ctx context.Context, r *Runner, _ Actor) (Answer, error) {
	svc, err := findApp(ctx, r.Env.Swarm, q.App)
	if err != nil {
		return Answer{}, err
	}
	ids := svc.buildSecretIDs()
	if len(ids) == 0 {
		return Answer{Head: svc.Name + " has no build secrets", Parts: []Part{{Lines: []string{
			fmt.Sprintf("`/app build-secret %s set NAME` sets one, for `RUN --mount=type=secret,id=NAME` in its Dockerfile.", svc.Name)}}}}, nil
	}
	rows := [][]string{{"NAME", "VALUE"}}
	for _, id := range ids {
		value := "hidden, in /run/secrets/" + id + " of a RUN that mounts it"
		if _, err := openBuildSecret(r.Env.SecretKey, svc.Name, id, svc.Labels[LabelBuildSecret+id]); err != nil {
			value = "cannot be opened with this secret_key"
		}
		rows = append(rows, []string{id, value})
	}
	return Answer{Head: fmt.Sprintf("Builds of %s are given %s", svc.Name, many(len(ids), "secret")), Parts: []Part{{Table: rows}}}, nil
}

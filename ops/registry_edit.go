package ops

import (
	"context"
	"fmt"

	"waggle/internal/secret"
)

// RegistryEdit changes a registry's place, login and whether it is pushed to. Its
// name stays.
type RegistryEdit struct {
	Registry Registry `json:"registry"` // as it is to be; the password is kept when Keep
	Keep     bool     `json:"keep,omitempty"`
	Seen     string   `json:"seen"` // fingerprint of the registry that was shown to be changed
	registryChange

	password secret.Text
	from, to Registry
}

// NewRegistryEdit changes a registry to r, as it was shown with that fingerprint.
// Without a password the one it has is kept, unless the user is taken away.
func NewRegistryEdit(r Registry, password secret.Text, seen string) *RegistryEdit {
	return &RegistryEdit{Registry: r, Keep: password.Empty() && r.Username != "", Seen: seen, password: password}
}

func (*RegistryEdit) Kind() string     { return "registry-edit" }
func (e *RegistryEdit) Target() string { return e.Registry.Name }
func (*RegistryEdit) Needs() Role      { return Admin }

// Seal implements Sealer.
func (e *RegistryEdit) Seal(key secret.Key) error { return e.Registry.Seal(key, e.password) }

// Plan tries the registry as it is to be.
func (e *RegistryEdit) Plan(ctx context.Context, run *Run) (Plan, error) {
	err := e.plan(ctx, run, func(rs Registries) (Registries, error) {
		now, err := rs.Named(e.Registry.Name)
		if err != nil {
			return rs, err
		}
		e.from, e.to = now, e.Registry
		if e.Keep {
			e.to.Sealed = now.Sealed
		}
		switch {
		case now == e.to:
			return rs, nil
		case now.Fingerprint() != e.Seen:
			return rs, Errorf(Invalid, "%s was changed by somebody else since you were shown it", now.Name).
				Then("Nothing was changed. `/registry edit %s` shows it as it is now.", now.Name)
		case e.Keep && now.Domain != e.to.Domain:
			return rs, Errorf(Invalid, "The password was given for %s, so it is not sent to %s", now.Domain, e.to.Domain).
				Then("Nothing was changed. Give the password with the new domain.")
		}
		return rs.Edit(now.Name, e.to)
	})
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{Diffs: []Diff{{What: "registry " + e.to.Name, From: e.from.words(), To: e.to.words()}}}
	if e.from.Sealed != e.to.Sealed {
		plan.Diffs = append(plan.Diffs, Diff{What: "its password", From: passwordWords(e.from, "the present one"), To: passwordWords(e.to, "a new one")})
	}
	e.tellDefault(&plan)
	e.tellLogins(&plan)
	if !e.changed() {
		return plan, nil
	}
	lost := e.lost(&plan)
	cluster, err := run.cluster(ctx)
	switch {
	case err != nil:
		return Plan{}, err
	case cluster && e.from.Push && !e.to.Push:
		plan.Approval = "nothing is pushed to " + e.to.Name + " any more"
	case cluster && lost > 0:
		plan.Approval = fmt.Sprintf("nobody renews the login of %s any more", many(lost, "service"))
	}
	return plan, run.try(ctx, e.to, &plan)
}

func passwordWords(r Registry, words string) string {
	if r.Sealed == "" {
		return "none"
	}
	return words
}

// Apply stores it. When there is nothing to store, everybody who pulls from there
// is sent the login once more.
func (e *RegistryEdit) Apply(ctx context.Context, run *Run) error {
	if !e.changed() && len(e.Logins) == 0 {
		for _, s := range e.next.users(e.to.Name, e.services) {
			if s.runs() {
				e.Logins = append(e.Logins, s.Name)
			}
		}
	}
	return e.apply(ctx, run)
}

// Converge gives the login to everybody who pulls from there.
func (e *RegistryEdit) Converge(ctx context.Context, run *Run) (string, error) {
	if err := e.giveLogins(ctx, run); err != nil {
		return "", err
	}
	text := fmt.Sprintf("%s is changed: %s", e.to.Name, e.to.words())
	if n := len(e.Logins); n > 0 {
		text += fmt.Sprintf("; %s the login, and nothing was restarted", oneOrMore(n, "1 service has", fmt.Sprintf("%d services have", n)))
	}
	return text, nil
}

// Registry returns a registry to be shown to somebody who may change it. Its
// password is sealed, and not for showing.
func (r *Runner) Registry(ctx context.Context, who Actor, name string) (Registry, error) {
	if err := r.Authoriser.Authorise(ctx, who, Admin); err != nil {
		return Registry{}, err
	}
	rs, err := ReadRegistries(ctx, r.Env.Swarm)
	if err != nil {
		return Registry{}, err
	}
	return rs.Named(name)
}

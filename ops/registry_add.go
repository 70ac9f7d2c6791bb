package ops

import (
	"context"
	"fmt"

	"waggle/internal/secret"
)

// RegistryAdd adds a registry.
type RegistryAdd struct {
	Registry Registry `json:"registry"`
	registryChange

	password secret.Text
}

// NewRegistryAdd adds a registry with that password, which is sealed before it is
// stored anywhere.
func NewRegistryAdd(r Registry, password secret.Text) *RegistryAdd {
	return &RegistryAdd{Registry: r, password: password}
}

func (*RegistryAdd) Kind() string     { return "registry-add" }
func (a *RegistryAdd) Target() string { return a.Registry.Name }
func (*RegistryAdd) Needs() Role      { return Admin }

// Seal implements Sealer.
func (a *RegistryAdd) Seal(key secret.Key) error { return a.Registry.Seal(key, a.password) }

// Plan tries the registry with its login; what does not work is named.
func (a *RegistryAdd) Plan(ctx context.Context, run *Run) (Plan, error) {
	err := a.plan(ctx, run, func(rs Registries) (Registries, error) {
		if r, err := rs.Named(a.Registry.Name); err == nil && r == a.Registry {
			return rs, nil // stored by an attempt that was cut off
		}
		return rs.Add(a.Registry)
	})
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{
		Diffs: []Diff{{What: "registry " + a.Registry.Name, From: "none", To: a.Registry.words()}},
		Undo:  "/registry remove " + a.Registry.Name,
	}
	if a.next.Default == a.Registry.Name {
		plan.Undo = "" // the default cannot be removed
	}
	a.tellDefault(&plan)
	a.tellLogins(&plan)
	if !a.changed() {
		return plan, nil
	}
	return plan, run.try(ctx, a.Registry, &plan)
}

// Apply stores it.
func (a *RegistryAdd) Apply(ctx context.Context, run *Run) error { return a.apply(ctx, run) }

// Converge gives the login to who pulls from there already.
func (a *RegistryAdd) Converge(ctx context.Context, run *Run) (string, error) {
	if err := a.giveLogins(ctx, run); err != nil {
		return "", err
	}
	text := fmt.Sprintf("%s is added: %s", a.Registry.Name, a.Registry.words())
	if a.next.Default == a.Registry.Name {
		text += "; built images are pushed there from now on"
	}
	return text, nil
}

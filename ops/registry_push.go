package ops

import (
	"context"
	"fmt"
)

// RegistryPush allows or ends pushing to a registry.
type RegistryPush struct {
	Name string `json:"name"`
	On   bool   `json:"on"`
	registryChange
}

func (p *RegistryPush) Kind() string {
	if p.On {
		return "registry-enable"
	}
	return "registry-disable"
}
func (p *RegistryPush) Target() string { return p.Name }
func (*RegistryPush) Needs() Role      { return Admin }

// Plan says what becomes of the default, and of the apps that are built.
func (p *RegistryPush) Plan(ctx context.Context, run *Run) (Plan, error) {
	var reg Registry
	err := p.plan(ctx, run, func(rs Registries) (next Registries, err error) {
		if reg, err = rs.Named(p.Name); err != nil {
			return rs, err
		}
		reg.Push = p.On
		return rs.Edit(p.Name, reg)
	})
	if err != nil {
		return Plan{}, err
	}
	onOff := map[bool]string{true: "on", false: "off"}
	was, err := p.before.Named(p.Name)
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{Diffs: []Diff{{What: "pushing to " + p.Name, From: onOff[was.Push], To: onOff[p.On]}}}
	p.tellDefault(&plan)
	if !p.changed() {
		return plan, nil
	}
	plan.Undo = "/registry enable " + p.Name
	if p.On {
		plan.Undo = "/registry disable " + p.Name
		return plan, run.try(ctx, reg, &plan)
	}
	cluster, err := run.cluster(ctx)
	if err != nil {
		return Plan{}, err
	}
	if cluster {
		plan.Approval = "nothing is pushed to " + p.Name + " any more"
	}
	if p.next.Default == "" && p.before.Default != "" {
		p.tellBuilt(&plan, cluster)
	}
	return plan, nil
}

// tellBuilt puts into a plan the apps that are built, when there is no default any
// more: who approves it has seen each of them.
func (p *RegistryPush) tellBuilt(plan *Plan, cluster bool) {
	becomes, why := "kept on this manager", "what is built stays on this manager"
	if cluster {
		becomes, why = "refused", "a git push is refused, since the other nodes could not get what is built"
	}
	built := 0
	for _, s := range p.services {
		if s.Labels[LabelRepo] != "" {
			built++
			plan.Diffs = append(plan.Diffs, Diff{What: "pushes to the repository of " + s.Name, From: "deployed", To: becomes})
		}
	}
	if built > 0 {
		plan.Warnings = append(plan.Warnings, fmt.Sprintf("%s %s deployed from a repository; until another default is chosen, %s",
			many(built, "app"), oneOrMore(built, "is", "are"), why))
	}
}

// Apply stores it.
func (p *RegistryPush) Apply(ctx context.Context, run *Run) error { return p.apply(ctx, run) }

// Converge says what is pushed where.
func (p *RegistryPush) Converge(context.Context, *Run) (string, error) {
	if !p.On {
		text := "Nothing is pushed to " + p.Name + " any more"
		if p.next.Default == "" {
			text += "; there is no default push registry"
		}
		return text, nil
	}
	text := p.Name + " may be pushed to"
	if p.next.Default == p.Name {
		text += ", and is the default"
	}
	return text, nil
}

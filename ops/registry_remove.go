package ops

import (
	"context"
	"fmt"
)

// RegistryRemove forgets a registry.
type RegistryRemove struct {
	Name string `json:"name"`
	registryChange

	was Registry
}

func (*RegistryRemove) Kind() string     { return "registry-remove" }
func (r *RegistryRemove) Target() string { return r.Name }
func (*RegistryRemove) Needs() Role      { return Admin }

// Plan lists who pulls from there, and what becomes of them.
func (r *RegistryRemove) Plan(ctx context.Context, run *Run) (Plan, error) {
	err := r.plan(ctx, run, func(rs Registries) (next Registries, err error) {
		was, err := rs.Named(r.Name)
		if CodeOf(err) == NotFound && run.resumed {
			return rs, nil // removed by an attempt that was cut off
		}
		r.was = was
		if err != nil {
			return rs, err
		}
		return rs.Remove(r.Name)
	})
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{Diffs: []Diff{{What: "registry " + r.Name, From: r.was.words(), To: "removed"}}}
	if !r.changed() {
		return plan, nil
	}
	r.lost(&plan)
	r.tellLogins(&plan)
	if own := managedRegistry(r.services); own.ID != "" && own.Labels[LabelManagedRegistry] == r.was.Domain {
		plan.Facts = append(plan.Facts, fmt.Sprintf("it runs in this swarm, and goes on: `docker service rm %s` would end it, and its images stay in the volume %s", own.Name, managedVolume))
	}
	cluster, err := run.cluster(ctx)
	if cluster {
		plan.Approval = "nobody pulls from it, but its login is forgotten"
		if n := len(r.before.users(r.Name, r.services)); n > 0 {
			plan.Approval = fmt.Sprintf("%s from it", oneOrMore(n, "1 service pulls", fmt.Sprintf("%d services pull", n)))
		}
	}
	return plan, err
}

// lost puts into a plan the services whose registry is not known after the
// change, and says how many there are.
func (c *registryChange) lost(p *Plan) int {
	n := 0
	for _, s := range c.services {
		before, was := c.before.Of(s.Image)
		if !was {
			continue
		}
		after, is := c.next.Of(s.Image)
		switch {
		case is && after.Name == before.Name:
		case is:
			p.Diffs = append(p.Diffs, Diff{What: s.Name, From: "pulled with the login of " + before.Name, To: "with that of " + after.Name})
		case before.Sealed == "":
			p.Diffs = append(p.Diffs, Diff{What: s.Name, From: "pulled from " + before.Name + " without a login", To: "the same, unknown to Waggle"})
		default:
			n++
			p.Diffs = append(p.Diffs, Diff{What: s.Name, From: "pulled with the login of " + before.Name, To: "with the same, which nobody renews"})
		}
	}
	if n > 0 {
		p.Warnings = append(p.Warnings, fmt.Sprintf("%s the login that %s now. Once that password ends, a task that is placed on a node without the image does not start; a deploy from elsewhere mends it",
			oneOrMore(n, "That service keeps", fmt.Sprintf("These %d services keep", n)), oneOrMore(n, "it has", "they have")))
	}
	return n
}

// Apply forgets it.
func (r *RegistryRemove) Apply(ctx context.Context, run *Run) error { return r.apply(ctx, run) }

// Converge gives who is pulled with another login that one.
func (r *RegistryRemove) Converge(ctx context.Context, run *Run) (string, error) {
	if err := r.giveLogins(ctx, run); err != nil {
		return "", err
	}
	return r.Name + " is removed, and its password is forgotten", nil
}

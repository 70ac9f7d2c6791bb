package ops

import (
	"context"
	"fmt"
)

// RegistryList asks for all registries.
type RegistryList struct{}

func (RegistryList) Needs() Role { return Viewer }

// Ask lists them, the default first, and who pulls from each. It shows no
// password.
func (RegistryList) Ask(ctx context.Context, r *Runner, _ Actor) (Answer, error) {
	rs, services, err := registriesAndServices(ctx, r.Env.Swarm)
	if err != nil {
		return Answer{}, err
	}
	rows := [][]string{{"NAME", "WHERE", "USER", "PUSH", "SERVICES"}}
	add := func(reg Registry) {
		push := "no"
		switch {
		case reg.Name == rs.Default:
			push = "default"
		case reg.Push:
			push = "yes"
		}
		rows = append(rows, []string{reg.Name, reg.where(), orNone(reg.Username), push, fmt.Sprint(len(rs.users(reg.Name, services)))})
	}
	for _, first := range []bool{true, false} {
		for _, reg := range rs.List {
			if (reg.Name == rs.Default) == first {
				add(reg)
			}
		}
	}
	a := Answer{Head: many(len(rs.List), "registry")}
	switch len(rs.List) {
	case 0:
		a.Head = "There is no registry yet: `/registry add` adds one, `/registry setup` makes one in this swarm"
	case 1:
	default:
		a.Head = fmt.Sprintf("%d registries", len(rs.List))
	}
	if len(rs.List) > 0 {
		a.Parts = append(a.Parts, Part{Table: rows})
	}
	nodes, err := r.Env.Swarm.Nodes(ctx)
	rs.concerns(nodes, r.Env.SecretKey, &a)
	return a, err
}

func registriesAndServices(ctx context.Context, swarm Swarm) (Registries, []Service, error) {
	rs, err := ReadRegistries(ctx, swarm)
	if err != nil {
		return rs, nil, err
	}
	services, err := swarm.Services(ctx)
	return rs, services, err
}

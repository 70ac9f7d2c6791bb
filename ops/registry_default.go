package ops

import (
	"context"
	"fmt"
	"strings"

	"waggle/internal/secret"
)

// RegistryDefault chooses the registry that built images are pushed to.
type RegistryDefault struct {
	Name string `json:"name"`
	registryChange
}

func (*RegistryDefault) Kind() string     { return "registry-default" }
func (d *RegistryDefault) Target() string { return d.Name }
func (*RegistryDefault) Needs() Role      { return Admin }

// Plan lists the apps whose images are elsewhere.
func (d *RegistryDefault) Plan(ctx context.Context, run *Run) (Plan, error) {
	if err := d.plan(ctx, run, func(rs Registries) (Registries, error) { return rs.Choose(d.Name) }); err != nil {
		return Plan{}, err
	}
	plan := Plan{Diffs: []Diff{{What: "default push registry", From: orNone(d.before.Default), To: d.Name}}}
	if d.changed() && d.before.Default != "" {
		plan.Undo = "/registry default " + d.before.Default
	}
	if away := d.next.elsewhere(d.services); len(away) > 0 {
		plan.Facts = append(plan.Facts, fmt.Sprintf("%s elsewhere: %s; `/registry migrate` brings %s here",
			oneOrMore(len(away), "the image of 1 app is", fmt.Sprintf("the images of %d apps are", len(away))), strings.Join(away, ", "), oneOrMore(len(away), "it", "them")))
	}
	return plan, nil
}

// elsewhere are the services whose images are not in the default registry, each
// with where it is: those that `/registry migrate` would bring there.
func (rs Registries) elsewhere(services []Service) (out []string) {
	to, ok := rs.Pushed()
	if !ok {
		return nil
	}
	for _, s := range services {
		if !s.migrates(rs, to) {
			continue
		}
		from := withoutDigest(s.Image)
		if r, ok := rs.Of(s.Image); ok {
			from = r.Name
		}
		out = append(out, fmt.Sprintf("%s (%s)", s.Name, from))
	}
	return out
}

// Apply stores the choice.
func (d *RegistryDefault) Apply(ctx context.Context, run *Run) error { return d.apply(ctx, run) }

// Converge says where images go.
func (d *RegistryDefault) Converge(context.Context, *Run) (string, error) {
	return fmt.Sprintf("Built images are pushed to %s from now on", d.Name), nil
}

// RegistryShowDefault asks for the default push registry.
type RegistryShowDefault struct{}

func (RegistryShowDefault) Needs() Role { return Viewer }

// Ask names it, and the apps whose images are elsewhere.
func (RegistryShowDefault) Ask(ctx context.Context, r *Runner, _ Actor) (Answer, error) {
	rs, services, err := registriesAndServices(ctx, r.Env.Swarm)
	if err != nil {
		return Answer{}, err
	}
	var a Answer
	to, ok := rs.Pushed()
	if ok {
		a.Head = fmt.Sprintf("Built images are pushed to %s: %s", to.Name, to.words())
	} else {
		a.Head = "There is no default push registry"
	}
	if away := rs.elsewhere(services); len(away) > 0 {
		a.Parts = append(a.Parts, Part{Title: "Images elsewhere", Lines: away})
	}
	nodes, err := r.Env.Swarm.Nodes(ctx)
	rs.concerns(nodes, r.Env.SecretKey, &a)
	return a, err
}

// concerns adds what is wrong with the registries as a whole.
func (rs Registries) concerns(nodes []Node, key secret.Key, a *Answer) {
	if _, ok := rs.Pushed(); !ok && len(nodes) > 1 {
		a.Concern(fmt.Sprintf("there are %d nodes and no default push registry: what is built here could not run on the others, so no build is deployed", len(nodes)),
			"`/registry default <name>`, or `/registry setup` makes one")
	}
	for _, r := range rs.List {
		if _, err := r.Login(key); err != nil {
			then := ""
			if e, ok := err.(*Error); ok {
				then = e.Next
			}
			a.Concern(sentenceOf(err), then)
		}
	}
}

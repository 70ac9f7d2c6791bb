package ops

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"waggle/ops/store"
)

// registryChange is what all changes of the registries have in common: they are
// stored in one write, and then every service that is pulled with another login
// than before is given it.
type registryChange struct {
	// Logins are the services that get another login, decided before the change is
	// stored: after that it cannot be seen any more.
	Logins []string `json:"logins,omitempty"`

	before, next Registries
	services     []Service
}

// plan reads, and works out what the change makes of the registries.
func (c *registryChange) plan(ctx context.Context, run *Run, change func(Registries) (Registries, error)) error {
	var err error
	if c.before, err = ReadRegistries(ctx, run.Swarm); err != nil {
		return err
	}
	if c.next, err = change(c.before); err != nil {
		return err
	}
	c.services, err = run.Swarm.Services(ctx)
	return err
}

// changed says whether there is anything to store.
func (c *registryChange) changed() bool {
	return c.before.Default != c.next.Default || !slices.Equal(c.before.List, c.next.List)
}

// moved are the services that are pulled with another login than before.
func (c *registryChange) moved() (names []string) {
	for _, s := range c.services {
		before, _ := c.before.Of(s.Image)
		after, ok := c.next.Of(s.Image)
		if ok && (after.Domain != before.Domain || after.Username != before.Username || after.Sealed != before.Sealed) && s.runs() {
			names = append(names, s.Name)
		}
	}
	return names
}

// runs says whether the service is one that goes on: not a job, which an update
// might begin anew.
func (s Service) runs() bool { return s.Mode == Replicated || s.Mode == Global }

// users are the services whose image is of that registry.
func (rs Registries) users(name string, services []Service) (out []Service) {
	for _, s := range services {
		if r, ok := rs.Of(s.Image); ok && r.Name == name {
			out = append(out, s)
		}
	}
	return out
}

// apply stores the registries.
func (c *registryChange) apply(ctx context.Context, run *Run) error {
	if !c.changed() {
		return nil
	}
	for _, name := range c.moved() {
		if !slices.Contains(c.Logins, name) {
			c.Logins = append(c.Logins, name)
		}
	}
	if err := run.Save(ctx); err != nil {
		return redisAway(err)
	}
	return SaveRegistries(ctx, run.Swarm, c.next, run.Log)
}

// giveLogins sends the services their new login. That restarts nothing: it is
// used when a task is made.
func (c *registryChange) giveLogins(ctx context.Context, run *Run) error {
	if len(c.Logins) == 0 {
		return nil
	}
	var failed []string
	var why error
	err := run.Step("logins", func(detail func(string)) error {
		for i, name := range c.Logins {
			detail(fmt.Sprintf("%d of %s", i, many(len(c.Logins), "service")))
			err := run.whileAway(ctx, run.Now().Add(run.DeployTimeout), func(ctx context.Context) error { return run.giveLogin(ctx, name) })
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				run.Log.Warn("a service has no new login", "service", name, "err", err)
				failed, why = append(failed, name), err
			}
		}
		detail(many(len(c.Logins)-len(failed), "service"))
		if why == nil {
			return nil
		}
		return (&Error{Code: Failed, Err: why, Sentence: fmt.Sprintf("The registries are stored, but %s %s not given the login: %s",
			strings.Join(failed, ", "), oneOrMore(len(failed), "was", "were"), sentenceOf(why))}).
			Then("`/registry edit` with nothing changed sends it again.")
	})
	return err
}

// giveLogin sends a service the login of its image's registry as it is now.
func (r *Run) giveLogin(ctx context.Context, name string) error {
	lease, err := r.holdApp(ctx, name)
	if err != nil {
		return err
	}
	defer lease.Release()
	for range maxPlans {
		svc, err := r.Swarm.Service(lease.Context(), name)
		if CodeOf(err) == NotFound {
			return nil // gone in the meantime
		}
		if err != nil {
			return err
		}
		rs, err := ReadRegistries(lease.Context(), r.Swarm)
		if err != nil {
			return err
		}
		auth, err := rs.authFrom(svc.Image, svc.Image, r.SecretKey)
		if err != nil || auth == nil {
			return err
		}
		_, err = r.Swarm.UpdateService(lease.Context(), svc, Change{Auth: auth})
		if CodeOf(err) != OutOfDate {
			return err
		}
	}
	return Errorf(OutOfDate, "%s is changed by somebody else all the time", name)
}

// holdApp takes an app's lock, so that nothing of Waggle's changes it meanwhile: a
// second write in the middle of a deploy would take its way back from it.
func (r *Run) holdApp(ctx context.Context, app string) (*store.Lease, error) {
	deadline := r.Now().Add(r.DeployTimeout)
	for {
		lease, err := r.hold(ctx, app)
		held := new(store.HeldError)
		switch {
		case err == nil:
			return lease, nil
		case !errors.As(err, &held):
			return nil, &Error{Code: Unavailable, Sentence: "Redis does not answer", Next: "Try again in a minute.", Err: err}
		case r.Now().After(deadline):
			return nil, Errorf(Locked, "%s has been changing %s (%s) since %s", held.Owner, app, held.Reason, clockTime(held.Since))
		}
		r.Note(fmt.Sprintf("Waits for %s, who has been changing %s (%s) since %s.", held.Owner, app, held.Reason, clockTime(held.Since)))
		if err := pause(ctx, 300*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

func clockTime(t time.Time) string { return t.UTC().Format("15:04:05 UTC") }

// tellLogins puts into a plan who gets another login.
func (c *registryChange) tellLogins(p *Plan) {
	if moved := c.moved(); len(moved) > 0 && c.changed() {
		p.Facts = append(p.Facts, fmt.Sprintf("%s the login without a restart: %s", oneOrMore(len(moved), "gets", "get"), strings.Join(moved, ", ")))
	}
}

// tellDefault puts into a plan what becomes of the default.
func (c *registryChange) tellDefault(p *Plan) {
	if c.before.Default != c.next.Default {
		p.Diffs = append(p.Diffs, Diff{What: "default push registry", From: orNone(c.before.Default), To: orNone(c.next.Default)})
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// try tries a registry as the plan would have it. What does not work refuses it.
func (r *Run) try(ctx context.Context, reg Registry, p *Plan) error {
	login, err := reg.Login(r.SecretKey)
	if err != nil {
		return err
	}
	t := r.Images.Try(ctx, login, reg.Push)
	p.Warnings = append(p.Warnings, t.Warnings...)
	return t.Err
}

// cluster says whether images have to travel: whether there is more than one node.
func (r *Run) cluster(ctx context.Context) (bool, error) {
	nodes, err := r.Swarm.Nodes(ctx)
	return len(nodes) > 1, err
}

// words describe a registry in a plan.
func (r Registry) words() string {
	text := r.where()
	if r.Username != "" {
		text += " as " + r.Username
	}
	if !r.Push {
		text += ", pull only"
	}
	return text
}

// Fingerprint names how a registry is now, for who wants to change it as they saw
// it.
func (r Registry) Fingerprint() string {
	b, _ := json.Marshal(r) // of strings and a bool
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

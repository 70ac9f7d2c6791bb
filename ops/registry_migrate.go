package ops

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// RegistryMigrate brings the images of apps to the default registry, one app
// after the other, and has the apps run them from there.
type RegistryMigrate struct {
	Apps []string `json:"apps,omitempty"` // only these; none means all

	// Moves are decided once, and tell how far each app has come.
	Moves []Move `json:"moves,omitempty"`

	rs    Registries
	to    Registry
	login RegistryLogin
	next  []Move
}

// Move is one app's way to the default registry.
type Move struct {
	App   string `json:"app"`
	From  string `json:"from"`            // its image before
	To    string `json:"to"`              // without a digest
	Image string `json:"image,omitempty"` // with digest, once it is in the registry
	Done  bool   `json:"done,omitempty"`
	Why   string `json:"why,omitempty"` // it was not moved, in one sentence without a period
}

func (*RegistryMigrate) Kind() string   { return "registry-migrate" }
func (*RegistryMigrate) Target() string { return "images" }
func (*RegistryMigrate) Needs() Role    { return Admin }

// migrates says whether the service is one to be moved to that registry.
func (s Service) migrates(rs Registries, to Registry) bool {
	r, known := rs.Of(s.Image)
	return s.runs() && s.Image != "" && !s.unbuilt() && s.Labels[LabelManagedRegistry] == "" && s.Labels[LabelMigrate] != "no" && (!known || r.Name != to.Name)
}

// unbuilt says whether the service waits for its first deploy: its image is a
// name for nothing.
func (s Service) unbuilt() bool {
	return s.Labels[LabelReplicas] != "" && s.Labels[LabelReleases] == ""
}

// Plan lists the apps in their order, with the image that each gets.
func (m *RegistryMigrate) Plan(ctx context.Context, run *Run) (Plan, error) {
	var err error
	if m.rs, err = ReadRegistries(ctx, run.Swarm); err != nil {
		return Plan{}, err
	}
	var ok bool
	if m.to, ok = m.rs.Pushed(); !ok {
		return Plan{}, Errorf(Invalid, "There is no default registry to bring images to").
			Then("`/registry default <name>` chooses one, `/registry add` adds one.")
	}
	if m.login, err = m.to.Login(run.SecretKey); err != nil {
		return Plan{}, err
	}
	var plan Plan
	m.next = m.Moves
	if m.next == nil {
		if err := m.decide(ctx, run, &plan); err != nil {
			return Plan{}, err
		}
	}
	for _, mv := range m.next {
		plan.Diffs = append(plan.Diffs, Diff{What: mv.App, From: withoutDigest(mv.From), To: mv.To})
	}
	return plan, nil
}

// decide works out the moves: apps with persistent data last.
func (m *RegistryMigrate) decide(ctx context.Context, run *Run, plan *Plan) error {
	services, err := run.Swarm.Services(ctx)
	if err != nil {
		return err
	}
	cluster, err := run.Swarm.Cluster(ctx)
	if err != nil {
		return err
	}
	if why := cluster.Labels[LabelFreeze]; why != "" {
		return Errorf(Invalid, "The deploys of all apps are frozen (%s), and moving an app restarts it", why).Then("`/unfreeze all` lets them go on.")
	}
	for _, app := range m.Apps {
		if _, err := findApp(ctx, run.Swarm, app); err != nil {
			return err
		}
	}
	slices.SortStableFunc(services, func(a, b Service) int {
		if a.Persistent != b.Persistent {
			return map[bool]int{false: -1, true: 1}[a.Persistent]
		}
		return cmp.Compare(a.Name, b.Name)
	})
	m.next = []Move{}
	var stacks, persistent []string
	for _, s := range services {
		if len(m.Apps) > 0 && !slices.Contains(m.Apps, s.Name) || !s.migrates(m.rs, m.to) {
			continue
		}
		if why := s.Labels[LabelFreeze]; why != "" {
			plan.Warnings = append(plan.Warnings, fmt.Sprintf("%s stays where it is: its deploys are frozen (%s)", s.Name, why))
			continue
		}
		to, err := m.to.image(s.Name, tagOf(s.Image))
		if err != nil {
			return err
		}
		m.next = append(m.next, Move{App: s.Name, From: s.Image, To: to})
		if s.Persistent {
			persistent = append(persistent, s.Name)
		}
		if s.Labels["com.docker.stack.namespace"] != "" {
			stacks = append(stacks, s.Name)
		}
	}
	if len(persistent) > 0 {
		plan.Facts = append(plan.Facts, fmt.Sprintf("with persistent data, so last, and stopped before %s started again: %s",
			oneOrMore(len(persistent), "it is", "they are"), strings.Join(persistent, ", ")))
	}
	if len(stacks) > 0 {
		plan.Warnings = append(plan.Warnings, fmt.Sprintf("%s of a stack, whose file names the image of before: the next `docker stack deploy` takes %s back there",
			oneOrMore(len(stacks), stacks[0]+" is", strings.Join(stacks, ", ")+" are"), oneOrMore(len(stacks), "it", "them")))
	}
	return nil
}

// tagOf is the tag that an image keeps in another registry: its own, or else the
// beginning of its digest.
func tagOf(image string) string {
	named, ok := parseImage(image)
	if !ok {
		return "latest"
	}
	if t, ok := named.(reference.Tagged); ok {
		return t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		return "sha-" + d.Digest().Encoded()[:12]
	}
	return "latest"
}

// Apply makes the list of moves durable; each app's update is a write of its own.
func (m *RegistryMigrate) Apply(ctx context.Context, run *Run) error {
	if m.Moves == nil {
		m.Moves = m.next
	}
	if err := run.Save(ctx); err != nil {
		return redisAway(err)
	}
	return nil
}

// Converge moves one app after the other. One that does not get there stays as it
// was, and the others go on.
func (m *RegistryMigrate) Converge(ctx context.Context, run *Run) (string, error) {
	moved := 0
	var left []string
	for i := range m.Moves {
		mv := &m.Moves[i]
		if mv.Done {
			_ = run.Step(mv.App, func(detail func(string)) error { detail("moved before"); return nil })
		} else if mv.Why == "" {
			err := run.Step(mv.App, func(detail func(string)) error {
				err := m.move(ctx, run, mv, detail)
				if err != nil && ctx.Err() == nil {
					mv.Why = sentenceOf(err)
					run.Log.Warn("an app was not moved", "app", mv.App, "to", mv.To, "err", err)
					detail("stays as it was")
				}
				return err
			})
			if ctx.Err() != nil {
				return "", ctx.Err()
			}
			mv.Done = err == nil
			if err := run.Save(ctx); err != nil {
				return "", redisAway(err)
			}
		}
		if mv.Done {
			moved++
		} else {
			left = append(left, fmt.Sprintf("%s (%s)", mv.App, mv.Why))
		}
	}
	switch {
	case len(m.Moves) == 0:
		return fmt.Sprintf("All images are in %s already", m.to.Name), nil
	case len(left) > 0:
		return "", Errorf(Failed, "%d of %s %s in %s now; not moved: %s", moved, many(len(m.Moves), "app"), oneOrMore(moved, "is", "are"), m.to.Name, strings.Join(left, ", ")).
			Then("What was not moved runs as before. `/registry migrate` tries it again.")
	}
	return fmt.Sprintf("%s %s from %s now", many(moved, "app"), oneOrMore(moved, "runs", "run"), m.to.Name), nil
}

// move brings one app's image to the registry and has the app run it from there.
func (m *RegistryMigrate) move(ctx context.Context, run *Run, mv *Move, detail func(string)) error {
	if mv.Image == "" {
		digest, err := m.bring(ctx, run, mv, detail)
		if err != nil {
			return err
		}
		mv.Image = mv.To + "@" + digest
		if err := run.Save(ctx); err != nil {
			return redisAway(err)
		}
	}
	detail("update")
	lease, err := run.holdApp(ctx, mv.App)
	if err != nil {
		return err
	}
	defer lease.Release()
	ctx = lease.Context()
	for range maxPlans {
		svc, err := run.Swarm.Service(ctx, mv.App)
		if err != nil {
			return err
		}
		if svc.Image != mv.Image {
			if svc.Image != mv.From {
				return Errorf(Failed, "%s was changed to %s meanwhile", mv.App, withoutDigest(svc.Image))
			}
			err = m.update(ctx, run, svc, mv)
		}
		if CodeOf(err) == OutOfDate {
			continue
		}
		if err != nil {
			return err
		}
		got, err := run.followUpdate(ctx, mv.App, mv.Image, "It runs as before.")
		if err == nil {
			detail(fmt.Sprintf("%d of %d from %s", got.Running, got.Wanted, m.to.Name))
		}
		return err
	}
	return Errorf(OutOfDate, "%s is changed by somebody else all the time", mv.App)
}

// update is the one write that moves an app. Its history gets a release, so that
// the newest is what runs.
func (m *RegistryMigrate) update(ctx context.Context, run *Run, svc Service, mv *Move) error {
	change := Change{Image: mv.Image, Rollback: true, Auth: &m.login.Auth}
	if svc.Persistent {
		change.UpdateOrder = "stop-first" // two tasks would share their data
	}
	releases, err := svc.Releases()
	if err != nil {
		return err
	}
	if len(releases) > 0 {
		last := releases[0]
		label, err := addRelease(releases, Release{Number: last.Number + 1, Image: mv.Image, Commit: last.Commit, By: run.Actor.Name, At: run.Now().UTC()})
		if err != nil {
			return err
		}
		change.Labels = map[string]string{LabelReleases: label}
	}
	_, err = run.Swarm.UpdateService(ctx, svc, change)
	return err
}

// bring has the image in the default registry, and returns its digest there.
//
// An image that is pinned is taken from its registry, and only else from this
// engine. One that is not is taken from this engine, if that has it: it is what
// runs, and may be another than what a registry has under that name.
func (m *RegistryMigrate) bring(ctx context.Context, run *Run, mv *Move, detail func(string)) (string, error) {
	named, ok := parseImage(mv.From)
	if !ok {
		return "", Errorf(Invalid, "%s has no name", mv.From)
	}
	digested, pinned := named.(reference.Digested)
	local := named.String()
	if pinned {
		local = named.Name() + "@" + digested.Digest().String()
	}
	fromEngine := func() (string, error) {
		if err := run.Swarm.TagImage(ctx, local, mv.To); err != nil {
			return "", err
		}
		detail("push from this engine")
		ctx, cancel := context.WithTimeout(ctx, run.BuildTimeout)
		defer cancel()
		return run.push(ctx, mv.To, m.login)
	}
	fromRegistry := func() (string, error) {
		from, err := run.loginFor(m.rs, mv.From)
		if err != nil {
			return "", err
		}
		return run.Images.Copy(ctx, from, local, m.login, mv.To, func(s string) { detail("copy from " + from.Domain + ": " + s) })
	}
	first, second := fromEngine, fromRegistry
	if pinned {
		first, second = fromRegistry, fromEngine
	}
	digest, err := first()
	if err == nil || ctx.Err() != nil || !pinned && CodeOf(err) != NotFound {
		return digest, err
	}
	run.Log.Info("an image is looked for elsewhere", "image", mv.From, "err", err)
	digest, also := second()
	if pinned && CodeOf(also) == NotFound {
		return digest, err // the registry's answer says more than that this engine has it not
	}
	return digest, also
}

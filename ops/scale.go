package ops

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"

	"waggle/internal/nearest"
)

// MaxReplicas is more than any service of a swarm sensibly has; a larger number
// is a slip of the finger.
const MaxReplicas = 5000

// CheckReplicas says why there cannot be so many.
func CheckReplicas(n int) error {
	if n > MaxReplicas {
		return Errorf(Invalid, "%d replicas are more than Waggle sets (%d)", n, MaxReplicas).Then("`docker service scale` on a manager does, if you mean it.")
	}
	return nil
}

// Scale sets how many replicas of an app run.
type Scale struct {
	App      string `json:"app"`
	Replicas int    `json:"replicas"` // how many, or how many more or fewer
	Relative bool   `json:"relative,omitempty"`

	// Decided is set once the plan is about to be applied, so that "+2" is not
	// added twice when Waggle stops in between.
	Decided *ScaleDecision `json:"decided,omitempty"`

	effect Effect
	svc    Service
	to     int
	auth   *RegistryAuth
}

// ScaleDecision is a scale with its numbers worked out.
type ScaleDecision struct {
	From    int    `json:"from"`
	To      int    `json:"to"`
	Version uint64 `json:"version"` // of the service, before the change
}

func (*Scale) Kind() string     { return "scale" }
func (s *Scale) Target() string { return s.App }
func (*Scale) Needs() Role      { return Operator }

// Plan works out the number and refuses what cannot be scaled.
func (s *Scale) Plan(ctx context.Context, run *Run) (Plan, error) {
	svc, err := run.app(ctx, s.App)
	if err != nil {
		return Plan{}, err
	}
	s.svc = svc
	switch svc.Mode {
	case Replicated:
	case Global:
		return Plan{}, Errorf(Invalid, "%s is a global service: it runs once on every node, so it cannot be scaled", s.App).
			Then("It follows the number of nodes by itself.")
	default:
		return Plan{}, Errorf(Invalid, "%s is a job (%s): it runs to its end, so it cannot be scaled", s.App, svc.Mode).
			Then("Only replicated services can be scaled.")
	}
	from := svc.Replicas
	s.to = s.Replicas
	if s.Relative {
		s.to = from + s.Replicas
	}
	if s.effect = s.effectIn(ctx, run, svc); s.effect.State != EffectNone || s.Decided != nil && run.resumed && svc.Version == s.Decided.Version {
		from, s.to = s.Decided.From, s.Decided.To
	} else if d := s.Decided; d != nil && run.resumed && (s.Relative || svc.Replicas != d.From) {
		return Plan{}, Errorf(OutOfDate, "Waggle stopped while scaling %s from %d to %d, and it is at %d now", s.App, d.From, d.To, svc.Replicas).
			Then("Type `/scale %s %d` if that is still what you want.", s.App, d.To)
	}
	switch {
	case s.to < 0:
		return Plan{}, Errorf(Invalid, "%s runs %d, so %d fewer is less than none", s.App, from, -s.Replicas).
			Then("Type `/scale %s 0` to stop it.", s.App)
	}
	if err := CheckReplicas(s.to); err != nil {
		return Plan{}, err
	}
	plan := Plan{
		Diffs: []Diff{{What: "replicas", From: fmt.Sprint(from), To: fmt.Sprint(s.to)}},
		Undo:  fmt.Sprintf("/scale %s %d", s.App, from),
	}
	if err := s.capacity(ctx, run, &plan); err != nil {
		return Plan{}, err
	}
	var warning string
	if s.auth, warning, err = run.authFor(ctx, svc.Image); err != nil {
		return Plan{}, err
	} else if warning != "" {
		plan.Warnings = append(plan.Warnings, warning)
	}
	switch {
	case s.to == from:
		plan.Undo = ""
	case s.to == 0:
		plan.Approval = "it stops " + s.App
	case s.to > run.ScaleAbove && s.to > from:
		plan.Approval = fmt.Sprintf("%d is above %d replicas", s.to, run.ScaleAbove)
	case svc.Persistent && s.to > 1:
		plan.Approval = s.App + " has persistent data, which its replicas would share"
	}
	return plan, nil
}

// effectIn says how the scale stands in the service. No other operation changes the service before
// the end of a scale's write is known, so a number that is not its own is another hand's.
func (s *Scale) effectIn(ctx context.Context, run *Run, svc Service) Effect {
	d := s.Decided
	switch {
	case d == nil || !run.resumed:
		return Effect{}
	case run.applied && svc.Replicas != d.To:
		return Effect{EffectSuperseded, s.successor(ctx, run, svc)}
	case run.applied, svc.Version != d.Version && svc.Replicas == d.To:
		return Effect{State: EffectCurrent}
	}
	return Effect{}
}

func (s *Scale) successor(ctx context.Context, run *Run, svc Service) string {
	return fmt.Sprintf("%s: %s is set to %d replicas", run.successor(ctx), s.App, svc.Replicas)
}

// overtaken returns why the scale is not to be watched any more.
func (s *Scale) overtaken(ctx context.Context, run *Run) error {
	svc, err := run.Swarm.Service(ctx, s.App)
	if CodeOf(err) == NotFound {
		return Errorf(Canceled, "%s was removed", s.App)
	}
	if err != nil || svc.Replicas == s.to {
		return err
	}
	return Errorf(Canceled, "Superseded by %s", s.successor(ctx, run, svc))
}

// Effect tells how the scale stands in the swarm.
func (s *Scale) Effect() Effect { return s.effect }

// OnlyWatches lets a later change of the app begin while this one's replicas start.
func (*Scale) OnlyWatches() {}

// Setting implements Setter.
func (*Scale) Setting() string { return "replicas" }

// Sets says whether a scale sets a number; others add to it.
func (s *Scale) Sets() bool { return !s.Relative }

// capacity warns when not all replicas will find a place, and of what breaks
// scaling.
func (s *Scale) capacity(ctx context.Context, run *Run, plan *Plan) error {
	if s.to <= s.svc.Replicas {
		return nil
	}
	w, err := readWorld(ctx, run.Swarm)
	if err != nil {
		return err
	}
	if short := s.svc.shortage(s.to, w.nodes, w.used); short != "" {
		plan.Warnings = append(plan.Warnings, short)
	}
	plan.Warnings = append(plan.Warnings, s.svc.worries(w.nodes)...)
	if s.to > 1 && !s.svc.Health.own() && len(s.svc.Ports) > 0 {
		plan.Warnings = append(plan.Warnings, "it has no health check of its own: unless its image has one, a new replica gets requests as soon as its process runs")
	}
	if len(w.nodes) > 1 {
		if warning := run.notInRegistry(ctx, s.svc); warning != "" {
			plan.Warnings = append(plan.Warnings, warning)
		}
	}
	return nil
}

// registryWithin is how long a plan waits for a registry that it only warns of.
const registryWithin = 5 * time.Second

// notInRegistry returns a warning if only this manager's engine has the image, and "" if its
// registry has it or this engine does not. It asks the registry, because the containerd image
// store gives every image a digest.
func (r *Run) notInRegistry(ctx context.Context, s Service) string {
	named, ok := parseImage(s.Image)
	if _, pinned := named.(reference.Digested); !ok || pinned {
		return ""
	}
	const missing = "its image was built on a manager and is in no registry: other nodes cannot get it; `/registry migrate` brings it to one"
	if reference.Domain(named) == hub && len(releasesOf(s)) > 0 {
		return missing // a release that was never pushed
	}
	images, err := r.Swarm.Images(ctx)
	if err != nil {
		r.Log.Info("whether the image was built here is not known", "image", s.Image, "err", err)
		return ""
	}
	tag := reference.TagNameOnly(named).String()
	here := slices.IndexFunc(images, func(i LocalImage) bool {
		return slices.ContainsFunc(i.Names, func(name string) bool {
			n, ok := parseImage(name)
			return ok && reference.TagNameOnly(n).String() == tag
		})
	})
	if here < 0 {
		return ""
	}
	rs, err := ReadRegistries(ctx, r.Swarm)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, registryWithin)
		defer cancel()
		err = r.find(ctx, rs, s.Image)
	}
	switch {
	case err == nil:
		return ""
	case CodeOf(err) == NotFound, !images[here].hasDigest():
		return missing
	}
	return fmt.Sprintf("can't check whether its registry has the image (%s). If not, other nodes can't pull it: `/registry migrate` pushes it to one", sentenceOf(err))
}

// hasDigest reports whether the image has a digest. With the classic image store one without
// a digest was neither pulled nor pushed by that engine.
func (i LocalImage) hasDigest() bool {
	return slices.ContainsFunc(i.Names, func(name string) bool {
		n, ok := parseImage(name)
		_, digested := n.(reference.Digested)
		return ok && digested
	})
}

func releasesOf(s Service) []Release {
	releases, _ := s.Releases() // a label that cannot be read tells of none
	return releases
}

const (
	// labelTries is how often a write is tried again because somebody labels the
	// service all the time.
	labelTries = 20
	// stepAside is the longest wait before such a try: two who try again at once, and
	// take as long as each other, are in each other's way every time.
	stepAside = 60 * time.Millisecond
)

// Apply writes the number, and nothing else. When nothing but labels has changed since
// the plan, it still holds, and the write is tried again: to plan again takes longer
// than other hands may need for the next label.
func (s *Scale) Apply(ctx context.Context, run *Run) error {
	s.Decided = &ScaleDecision{From: s.svc.Replicas, To: s.to, Version: s.svc.Version}
	if err := run.Save(ctx); err != nil {
		return redisAway(err)
	}
	if s.svc.Replicas == s.to {
		return nil
	}
	for tries := 1; ; tries++ {
		_, err := run.Swarm.UpdateService(ctx, s.svc, Change{Replicas: &s.to, Auth: s.auth})
		if CodeOf(err) != OutOfDate || tries == labelTries {
			return err
		}
		if pause(ctx, rand.N(stepAside)) != nil {
			return err
		}
		now, readErr := run.app(ctx, s.App)
		if readErr != nil || !now.sameButLabels(s.svc) {
			return err
		}
		s.svc = now
	}
}

// sameButLabels says whether nothing but labels has changed from one reading to the next.
func (s Service) sameButLabels(o Service) bool {
	s.Version, s.Labels, o.Version, o.Labels = 0, nil, 0, nil
	return reflect.DeepEqual(s, o)
}

// Converge waits until that many run.
func (s *Scale) Converge(ctx context.Context, run *Run) (string, error) {
	s.svc.Replicas = s.to
	var got Replicas
	err := run.watch(ctx, func(ctx context.Context) error { return s.overtaken(ctx, run) }, func(ctx context.Context) (err error) {
		got, err = run.converge(ctx, s.svc)
		return err
	})
	if e, ok := err.(*Error); ok && e.Code == Failed {
		e.Sentence = s.App + ": " + e.Sentence
		if undo := run.status.Plan.Undo; undo != "" {
			e.Then("The swarm goes on trying. `%s` goes back.", undo)
		}
		return "", e
	}
	if err != nil {
		return "", err
	}
	if s.to == 0 {
		return fmt.Sprintf("%s is stopped", s.App), nil
	}
	return fmt.Sprintf("%s runs %d of %d", s.App, got.Running, got.Wanted), nil
}

// app is findApp for the app that the operation changes.
func (r *Run) app(ctx context.Context, name string) (svc Service, err error) {
	svc, err = findApp(ctx, r.Swarm, name)
	r.target = svc
	return svc, err
}

// findApp returns the service of that name, or an error with the nearest name.
func findApp(ctx context.Context, swarm Swarm, name string) (Service, error) {
	svc, err := swarm.Service(ctx, name)
	if CodeOf(err) != NotFound {
		return svc, err
	}
	all, err := swarm.Services(ctx)
	if err != nil {
		return Service{}, err
	}
	names := make([]string, len(all))
	for i, s := range all {
		names[i] = s.Name
	}
	e := Errorf(NotFound, "There is no app %q in this swarm", name)
	switch near := nearest.Of(name, names); {
	case near != "":
		e.Then("Did you mean `%s`?", near)
	case len(names) == 0:
		e.Then("This swarm runs no service at all.")
	case len(names) <= 10:
		e.Then("There is: %s.", strings.Join(names, ", "))
	}
	return Service{}, e
}

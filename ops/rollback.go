package ops

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Rollback brings an app back to the image of an earlier release, as a release of
// its own.
type Rollback struct {
	App string `json:"app"`
	To  int    `json:"to,omitempty"` // number of the release; 0 is the one before
	// Of, unless 0, is the release that is to be left: if another runs by now,
	// nothing is done.
	Of int `json:"of,omitempty"`

	// Decided is set before the plan is applied, so that one that was cut off does
	// not go back twice.
	Decided *Release `json:"decided,omitempty"`
	Attempt *attempt `json:"attempt,omitempty"`

	effect     Effect
	svc        Service
	releases   []Release
	registries Registries
	next       Release
}

func (*Rollback) Kind() string     { return "rollback" }
func (b *Rollback) Target() string { return b.App }
func (*Rollback) Needs() Role      { return Operator }

// Plan finds the release and asks the registry whether its image is still there.
func (b *Rollback) Plan(ctx context.Context, run *Run) (Plan, error) {
	svc, err := run.app(ctx, b.App)
	if err != nil {
		return Plan{}, err
	}
	if b.svc = svc; svc.job() {
		return Plan{}, Errorf(Invalid, "%s is a job (%s), which has no releases", b.App, svc.Mode)
	}
	if b.releases, err = svc.Releases(); err != nil {
		return Plan{}, err
	}
	if b.registries, err = ReadRegistries(ctx, run.Swarm); err != nil {
		return Plan{}, err
	}
	ran, err := run.ran(ctx, svc, b.Attempt)
	if err != nil {
		return Plan{}, err
	}
	switch b.effect = svc.effectOf(run.ID, b.Attempt, run.applied || ran, b.releases, run.before(b.Attempt, func(r Release) bool {
		return b.Decided != nil && r.Number == b.Decided.Number && r.Image == b.Decided.Image
	})); b.effect.State {
	case EffectCurrent:
		b.next = *b.Decided
		return b.plan(b.releases[1:]), nil
	case EffectTakenBack, EffectSuperseded:
		b.next = *b.Decided
		return b.plan(b.releases), nil
	}
	target, err := b.target()
	if err != nil {
		return Plan{}, err
	}
	image, warning, err := b.check(ctx, run, target)
	if err != nil {
		return Plan{}, err
	}
	b.next = Release{Number: b.releases[0].Number + 1, Image: image, Commit: target.Commit, By: run.Actor.Name, Op: run.ID, From: target.Number, Before: svc.before(b.releases)}
	plan := b.plan(b.releases)
	plan.Facts = []string{fmt.Sprintf("release %d was deployed by %s %s", target.Number, target.By, ago(run.Now(), target.At))}
	if target.Number == 0 {
		plan.Facts = []string{"this is the image that ran before Waggle's first release"}
	}
	if warning != "" {
		plan.Warnings = append(plan.Warnings, warning)
	}
	return plan, nil
}

// plan is what changes, with the releases before it.
func (b *Rollback) plan(releases []Release) Plan {
	from := 0
	if len(releases) > 0 {
		from = releases[0].Number
	}
	return Plan{Diffs: []Diff{
		{What: "image", From: withoutDigest(b.svc.Image), To: withoutDigest(b.next.Image)},
		{What: "release", From: strconv.Itoa(from), To: strconv.Itoa(b.next.Number)},
	}, Undo: "/rollback " + b.App}
}

// Effect tells how the rollback's release stands in the swarm.
func (b *Rollback) Effect() Effect { return b.effect }

// target is the release to go back to.
func (b *Rollback) target() (Release, error) {
	if len(b.releases) == 0 {
		return Release{}, Errorf(Invalid, "%s has no release yet, so there is none to go back to", b.App).
			Then("`/deploy %s image <ref>` deploys an image.", b.App)
	}
	if now := b.releases[0].Number; b.Of != 0 && b.Of != now {
		return Release{}, Errorf(Invalid, "%s runs release %d by now, and this is about release %d", b.App, now, b.Of).
			Then("`/rollback %s` goes back from release %d.", b.App, now)
	}
	if b.To != 0 {
		return b.numbered()
	}
	for _, r := range b.releases {
		if r.Image != b.svc.Image {
			return r, nil
		}
		if r.Before != "" && r.Before != b.svc.Image {
			return Release{Image: r.Before}, nil
		}
	}
	return Release{}, Errorf(Invalid, "No release before this one of %s is known", b.App).
		Then("`/app history %s` shows them.", b.App)
}

func (b *Rollback) numbered() (Release, error) {
	numbers := make([]string, len(b.releases))
	for i, r := range b.releases {
		if r.Number == b.To && r.Image == b.svc.Image {
			return Release{}, Errorf(Invalid, "%s runs the image of release %d already", b.App, b.To).
				Then("`/app history %s` shows the others.", b.App)
		}
		if r.Number == b.To {
			return r, nil
		}
		numbers[i] = strconv.Itoa(r.Number)
	}
	return Release{}, Errorf(NotFound, "%s has no release %d, or it is too old to be kept", b.App, b.To).
		Then("There is: %s.", strings.Join(numbers, ", "))
}

// check asks the registry for the image of a release, and returns it with its
// digest. One that never was in a registry has none, and is only warned of.
func (b *Rollback) check(ctx context.Context, run *Run, r Release) (image, warning string, err error) {
	image, err = b.registries.pin(ctx, run, r.Image)
	switch pinned := strings.Contains(r.Image, "@"); {
	case err == nil:
		return image, "", nil
	case pinned && CodeOf(err) == NotFound:
		e := Errorf(NotFound, "The image of release %d of %s is not in its registry any more: %s", r.Number, b.App, r.Image)
		if r.Commit != "" && b.svc.Labels[LabelRepo] != "" {
			return "", "", e.Then("Nothing was changed. `/deploy %s %s` builds it again.", b.App, r.Commit)
		}
		return "", "", e.Then("Nothing was changed. `/app history %s` shows the others.", b.App)
	case pinned && CodeOf(err) == Unavailable:
		return r.Image, lowerFirst(sentenceOf(err)) + ", so only nodes that have the image can run it", nil
	case pinned:
		return "", "", err
	}
	run.Log.Info("an image without a digest is not found in a registry", "image", r.Image, "err", err)
	return r.Image, "its image is found in no registry, so only nodes that have it can run it", nil
}

// Apply sets the image and the release label in one update.
func (b *Rollback) Apply(ctx context.Context, run *Run) error {
	b.next.At = run.Now().UTC()
	label, err := addRelease(b.releases, b.next)
	if err != nil {
		return err
	}
	auth, err := b.registries.authFrom(b.svc.Image, b.next.Image, run.SecretKey)
	if err != nil {
		return err
	}
	b.Decided, b.Attempt = &b.next, &attempt{Version: b.svc.Version, Number: b.next.Number, Image: b.next.Image, At: run.Now(), WentBack: b.svc.wentBack()}
	if err := run.Save(ctx); err != nil {
		return redisAway(err)
	}
	_, err = run.Swarm.UpdateService(ctx, b.svc, Change{Image: b.next.Image, Labels: map[string]string{LabelReleases: label}, Rollback: true, Auth: auth})
	return err
}

// Converge follows the rolling update to its end.
func (b *Rollback) Converge(ctx context.Context, run *Run) (string, error) {
	var got Replicas
	err := run.Step("update", func(func(string)) (err error) {
		got, err = run.followUpdate(ctx, b.svc.Name, b.next.Image, fmt.Sprintf("`/app history %s` shows the other releases.", b.App))
		return err
	})
	if err != nil {
		return "", err
	}
	back := fmt.Sprintf("back to release %d", b.next.From)
	if b.next.From == 0 {
		back = "back to what ran before"
	}
	return fmt.Sprintf("%s runs release %d (%s, %s), %d of %d", b.App, b.next.Number, b.next.what(), back, got.Running, got.Wanted), nil
}

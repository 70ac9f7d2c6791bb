package ops

import (
	"context"
	"regexp"
	"strings"

	"github.com/distribution/reference"
)

var (
	fullHash  = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)
	shortHash = regexp.MustCompile(`^[0-9a-f]{7,39}$`)
)

// find finds out which commit or image is asked for by hand. Once it is known it
// stays: a branch that moves meanwhile is another deploy.
func (d *Deploy) find(ctx context.Context, run *Run) error {
	switch {
	case d.Image != "" || d.Source != "" || d.Push.After != "":
		return nil
	case d.From != "":
		image, err := d.registries.pin(ctx, run, d.From)
		if err != nil {
			return err
		}
		if !d.Copy {
			d.Image = image
			return nil
		}
		if _, ok := d.registries.Pushed(); !ok {
			return Errorf(Invalid, "There is no default registry to push the image to").
				Then("`/registry default <name>` chooses one; without --push it is deployed from where it is.")
		}
		d.Source = image
		return nil
	}
	repo := d.svc.Labels[LabelRepo]
	if repo == "" {
		return Errorf(Invalid, "%s is not linked to a repository", d.App).
			Then("`/app link %s <repo>` links it; `/deploy %s image <ref>` deploys an image.", d.App, d.App)
	}
	ref := d.Ref
	if ref == "" {
		ref = d.svc.Labels[LabelBranch]
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout*2)
	defer cancel()
	commit, err := run.Source.Resolve(ctx, repo, ref)
	if CodeOf(err) == NotFound && shortHash.MatchString(ref) {
		commit, err = d.released(ref)
	}
	if err != nil {
		return err
	}
	d.Push = Push{Repo: repo, After: commit, Pusher: run.Actor.Name}
	if !fullHash.MatchString(ref) && !shortHash.MatchString(ref) {
		d.Push.Branch = ref
	}
	return nil
}

// released completes a short hash with those of the app's releases: a repository
// tells no others without a clone.
func (d *Deploy) released(ref string) (string, error) {
	releases, err := d.svc.Releases()
	if err != nil {
		return "", err
	}
	for _, r := range releases {
		if strings.HasPrefix(r.Commit, ref) {
			return r.Commit, nil
		}
	}
	return "", Errorf(NotFound, "There is no branch or tag %s, and no release of %s was of that commit", ref, d.App).
		Then("Give the commit's full hash.")
}

// copy brings the image to the default push registry.
func (d *Deploy) copy(ctx context.Context, run *Run, as string) error {
	err := run.Step("push", func(detail func(string)) error {
		ctx, cancel := context.WithTimeout(ctx, run.BuildTimeout)
		defer cancel()
		from, err := run.loginFor(d.registries, d.Source)
		if err != nil {
			return err
		}
		named, err := reference.ParseNormalizedNamed(d.Source)
		if err != nil {
			return CheckImage(d.Source)
		}
		var digest string
		err = run.whileAway(ctx, run.Now().Add(run.BuildTimeout), func(ctx context.Context) (err error) {
			digest, err = run.Images.Copy(ctx, from, named.String(), d.login, as, detail)
			return err
		})
		if err == nil {
			d.Image = as + "@" + digest
			detail(digest[:min(19, len(digest))])
		}
		return d.timedOut(ctx, err, "The push to "+d.to.Domain, run.BuildTimeout)
	})
	if err != nil {
		return err
	}
	if err := run.Save(ctx); err != nil {
		run.Log.Warn("after a restart this image would be copied again", "err", err)
	}
	return nil
}

// pin asks the registry of an image for its digest and returns the image with it.
func (rs Registries) pin(ctx context.Context, run *Run, image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", CheckImage(image)
	}
	var login RegistryLogin
	if r, ok := rs.Of(image); ok {
		if login, err = r.Login(run.SecretKey); err != nil {
			return "", err
		}
	}
	name := reference.FamiliarString(reference.TagNameOnly(named))
	digest, err := run.Swarm.ImageDigest(ctx, name, login.Auth)
	if err != nil {
		return "", err
	}
	return withoutDigest(name) + "@" + digest, nil
}

package ops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"golang.org/x/sync/errgroup"
)

// PruneKeep is how many of each app's newest images stay, unless more are asked for.
const PruneKeep = 10

const collectService = "waggle-registry-collect"

// RegistryPrune removes images that nothing names from the registry that Waggle
// runs, and frees their space.
type RegistryPrune struct {
	Keep int `json:"keep"` // of each repository's newest images

	// Removed is what was decided to go: name@digest.
	Removed []string `json:"removed,omitempty"`
	Decided bool     `json:"decided,omitempty"`

	reg     Registry
	login   RegistryLogin
	service Service
	next    []string
}

func (*RegistryPrune) Kind() string     { return "registry-prune" }
func (p *RegistryPrune) Target() string { return "images" }
func (*RegistryPrune) Needs() Role      { return Admin }

// Plan says how many images of which app go.
func (p *RegistryPrune) Plan(ctx context.Context, run *Run) (Plan, error) {
	services, err := run.Swarm.Services(ctx)
	if err != nil {
		return Plan{}, err
	}
	rs, err := ReadRegistries(ctx, run.Swarm)
	if err != nil {
		return Plan{}, err
	}
	p.service = managedRegistry(services)
	i := slices.IndexFunc(rs.List, func(r Registry) bool { return r.Domain == p.service.Labels[LabelManagedRegistry] })
	if p.service.ID == "" || i < 0 {
		return Plan{}, Errorf(Invalid, "Waggle runs no registry here, and prunes no other").
			Then("`/registry setup` makes one; others have their own ways to clean up.")
	}
	p.reg = rs.List[i]
	if p.login, err = p.reg.Login(run.SecretKey); err != nil {
		return Plan{}, err
	}
	plan := Plan{
		Diffs: []Diff{{What: "images in " + p.reg.Name, From: "all", To: fmt.Sprintf("the newest %d of each app", p.Keep)}},
		Facts: []string{"images that a release or a service names stay",
			"the registry is stopped while its space is collected: what is pushed or pulled then waits"},
	}
	if p.Decided {
		return plan, nil
	}
	if p.service.Replicas == 0 {
		return Plan{}, Errorf(Invalid, "The registry %s is stopped", p.reg.Name).Then("`/scale %s 1` starts it.", p.service.Name)
	}
	p.next = nil
	repositories, err := run.Images.Repositories(ctx, p.login)
	if err != nil {
		return Plan{}, err
	}
	for _, repo := range repositories {
		all, err := p.images(ctx, run, repo)
		if err != nil {
			return Plan{}, err
		}
		gone := unnamed(all, namedDigests(services), p.Keep)
		if len(gone) > 0 {
			plan.Facts = append(plan.Facts, fmt.Sprintf("%s: removes %d of %s", repo, len(gone), many(len(all), "image")))
		}
		for _, img := range gone {
			p.next = append(p.next, p.reg.Domain+"/"+repo+"@"+img.Digest)
		}
	}
	return plan, nil
}

// images are those of a repository, one for each digest.
func (p *RegistryPrune) images(ctx context.Context, run *Run, repo string) ([]Image, error) {
	name := p.reg.Domain + "/" + repo
	tags, err := run.Images.Tags(ctx, p.login, name)
	if CodeOf(err) == NotFound {
		return nil, nil // its last tag is gone
	}
	if err != nil {
		return nil, err
	}
	found := make([]Image, len(tags))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(asks)
	for i, tag := range tags {
		g.Go(func() (err error) {
			found[i], err = run.Images.Image(ctx, p.login, name+":"+tag)
			if CodeOf(err) == NotFound {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []Image
	for _, img := range found {
		if img.Digest != "" && !slices.ContainsFunc(out, func(o Image) bool { return o.Digest == img.Digest }) {
			out = append(out, img)
		}
	}
	return out, nil
}

// namedDigests are the digests that services run and that `/rollback` may go back to.
func namedDigests(services []Service) map[string]bool {
	out := map[string]bool{}
	add := func(image string) {
		if named, ok := parseImage(image); ok {
			if d, ok := named.(reference.Digested); ok {
				out[d.Digest().String()] = true
			}
		}
	}
	for _, s := range services {
		images, readable := s.neededImages()
		for _, image := range images {
			add(image)
		}
		if !readable {
			// What cannot be read may name anything that is in it.
			for _, word := range strings.FieldsFunc(s.Labels[LabelReleases], func(r rune) bool { return strings.ContainsRune("\"@, {}[]", r) }) {
				out[word] = true
			}
		}
	}
	return out
}

// unnamed are the images that may go: not named, and not among the newest.
func unnamed(all []Image, named map[string]bool, keep int) (gone []Image) {
	newest := slices.SortedStableFunc(slices.Values(all), func(a, b Image) int { return b.Created.Compare(a.Created) })
	for i, img := range newest {
		if i >= keep && !named[img.Digest] && !img.Created.IsZero() {
			gone = append(gone, img)
		}
	}
	return gone
}

// Apply makes it durable what is to go.
func (p *RegistryPrune) Apply(ctx context.Context, run *Run) error {
	if !p.Decided {
		p.Removed, p.Decided = p.next, true
	}
	if err := run.Save(ctx); err != nil {
		return redisAway(err)
	}
	return nil
}

// Converge removes the images, then has the registry's own program free the space.
func (p *RegistryPrune) Converge(ctx context.Context, run *Run) (string, error) {
	if run.resumed { // it may be stopped, and collected
		err := run.whileAway(ctx, run.Now().Add(run.DeployTimeout), run.removeCollector)
		if err != nil {
			return "", err
		}
		if err := p.start(ctx, run); err != nil {
			return "", p.notStarted(ctx, run, err, nil)
		}
	}
	removed := 0
	err := run.Step("remove", func(detail func(string)) error {
		deadline := run.Now().Add(run.BuildTimeout)
		var services []Service
		err := run.whileAway(ctx, deadline, func(ctx context.Context) (err error) {
			services, err = run.Swarm.Services(ctx)
			return err
		})
		if err != nil {
			return err
		}
		named := namedDigests(services) // a deploy may have named one since
		for i, image := range p.Removed {
			detail(fmt.Sprintf("%d of %s", i, many(len(p.Removed), "image")))
			if _, digest, ok := strings.Cut(image, "@"); !ok || named[digest] {
				continue
			}
			err := run.whileAway(ctx, deadline, func(ctx context.Context) error {
				return run.Images.Delete(ctx, p.login, image)
			})
			if err != nil && CodeOf(err) != NotFound {
				return err
			}
			removed++
		}
		detail(many(removed, "image"))
		return nil
	})
	if err != nil {
		return "", err
	}
	freed := ""
	err = run.Step("collect", func(detail func(string)) error {
		freed, err = p.collect(ctx, run)
		detail(freed)
		return err
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s removed from %s, %s", many(removed, "image"), p.reg.Name, freed), nil
}

// collectScript runs the registry's garbage collection and says the space that its
// files take before and after, in KB. Untagged manifests are left: a service may
// run one, and those of single platforms have no tag.
// Source: https://distribution.github.io/distribution/about/garbage-collection/
const collectScript = `set -e
size() { du -sk ` + managedPath + ` | cut -f1; }
echo waggle before $(size)
for f in /etc/distribution/config.yml /etc/docker/registry/config.yml; do
  if [ -f $f ]; then registry garbage-collect $f >/tmp/log 2>&1 || { tail -5 /tmp/log; exit 1; }; fi
done
echo waggle after $(size)`

// collect stops the registry, as its garbage collection asks for, runs that where
// the data is, and starts the registry again.
func (p *RegistryPrune) collect(ctx context.Context, run *Run) (freed string, err error) {
	// Whatever goes wrong, or whoever cancels it: the registry has to run again.
	defer func() {
		if startErr := p.start(ctx, run); startErr != nil {
			err = p.notStarted(ctx, run, startErr, err)
		}
	}()
	if err := run.scaleTo(ctx, p.service.Name, 0); err != nil {
		return "", err
	}
	id, err := p.startCollector(ctx, run)
	if err != nil {
		return "", err
	}
	defer func() {
		limit := 10 * time.Second
		if ctx.Err() != nil {
			limit = 2 * time.Second // Waggle stops; Converge removes it when it is resumed
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		err := run.whileAway(ctx, run.Now().Add(limit), func(ctx context.Context) error {
			return run.Swarm.RemoveService(ctx, id)
		})
		if err != nil && CodeOf(err) != NotFound {
			run.Log.Warn("a service that has done its work was left", "service", collectService, "err", err)
		}
	}()
	task, err := run.finished(ctx, id)
	if err != nil {
		return "", err
	}
	log, logErr := run.Swarm.TaskLogs(ctx, task.ID, logLines)
	if task.State != "complete" {
		e := Errorf(Failed, "The registry's garbage collection failed: %s", task.why()).Then("Its log says more. The images are removed, and their space is not freed.")
		e.Log = log
		return "", e
	}
	if logErr != nil {
		run.Log.Warn("what was freed is not known", "err", logErr)
	}
	return freedText(log), nil
}

// startCollector makes the service that collects. One whose answer was lost is made again.
func (p *RegistryPrune) startCollector(ctx context.Context, run *Run) (id string, err error) {
	err = run.whileAway(ctx, run.Now().Add(run.DeployTimeout), func(ctx context.Context) error {
		if err := run.removeCollector(ctx); err != nil {
			return err
		}
		rs, err := ReadRegistries(ctx, run.Swarm)
		if err != nil {
			return err
		}
		auth, err := rs.authFrom(p.service.Image, p.service.Image, run.SecretKey)
		if err != nil {
			return err
		}
		work := NewService{Name: collectService, Image: p.service.Image, Auth: auth, Replicas: 1, Once: true,
			Args: []string{"sh", "-c", collectScript}, Constraints: p.service.Constraints}
		work.Mounts = managedMounts()
		work.Env = []EnvVar{
			{Name: "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", Value: managedPath},
			{Name: "REGISTRY_STORAGE_DELETE_ENABLED", Value: "true"},
		}
		id, err = run.Swarm.CreateService(ctx, work)
		return err
	})
	return id, err
}

// start starts the registry and waits until it runs. When ctx ends meanwhile, because Waggle stops or
// has lost its lock, it only asks for the start, for a few seconds: Converge does the rest when the
// operation is resumed.
func (p *RegistryPrune) start(ctx context.Context, run *Run) error {
	err := ctx.Err()
	if err == nil {
		err = run.scaleTo(ctx, p.service.Name, 1)
	}
	if err != nil && ctx.Err() != nil {
		brief, cancel := detached(ctx)
		defer cancel()
		_, err = run.setReplicas(brief, run.Now().Add(run.DeployTimeout), p.service.Name, 1)
	}
	return err
}

// notStarted is the error of a prune after which the registry does not run. Before is how the prune
// itself failed, nil if it did not.
func (p *RegistryPrune) notStarted(ctx context.Context, run *Run, start, before error) error {
	run.Log.Error("the registry is stopped", "service", p.service.Name, "err", start)
	if ctx.Err() != nil {
		return cmp.Or(before, start) // it goes on later
	}
	e := &Error{Code: Failed, Err: errors.Join(before, start),
		Sentence: fmt.Sprintf("The registry %s is stopped and could not be started again: %s", p.reg.Name, sentenceOf(start))}
	if before != nil {
		e.Sentence = sentenceOf(before) + ". " + e.Sentence
		if failed := new(Error); errors.As(before, &failed) {
			e.Log, e.Whole = failed.Log, failed.Whole
		}
	}
	return e.Then("No image can be pushed or pulled until it runs. Type `/scale %s 1`.", p.service.Name)
}

// removeCollector removes what an attempt that was cut off has left.
func (r *Run) removeCollector(ctx context.Context) error {
	services, err := r.Swarm.Services(ctx)
	if err != nil {
		return err
	}
	for _, s := range services {
		if s.Name == collectService {
			if err := r.Swarm.RemoveService(ctx, s.ID); err != nil && CodeOf(err) != NotFound {
				return err
			}
		}
	}
	return nil
}

// freedText says what the collection's log tells of the space.
func freedText(log string) string {
	kb := func(when string) (int, bool) {
		_, rest, ok := strings.Cut(log, "waggle "+when+" ")
		number, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.Atoi(strings.TrimSpace(number))
		return n, ok && err == nil
	}
	before, ok := kb("before")
	after, also := kb("after")
	if !ok || !also {
		return "and its space is collected"
	}
	return fmt.Sprintf("%s freed, %s used", bytesText(int64(before-after)<<10), bytesText(int64(after)<<10))
}

// scaleTo sets a service's replicas and waits until that many run.
func (r *Run) scaleTo(ctx context.Context, name string, n int) error {
	svc, err := r.setReplicas(ctx, r.Now().Add(r.DeployTimeout), name, n)
	if err != nil {
		return err
	}
	_, err = r.converge(ctx, svc)
	return err
}

// setReplicas sets a service's replicas, on whatever version it is at.
func (r *Run) setReplicas(ctx context.Context, deadline time.Time, name string, n int) (svc Service, err error) {
	err = r.whileAway(ctx, deadline, func(ctx context.Context) (err error) {
		for range maxPlans {
			if svc, err = r.Swarm.Service(ctx, name); err != nil {
				return err
			}
			if svc.Replicas == n {
				return nil
			}
			if _, err = r.Swarm.UpdateService(ctx, svc, Change{Replicas: &n}); CodeOf(err) != OutOfDate {
				svc.Replicas = n
				return err
			}
		}
		return Errorf(OutOfDate, "%s kept changing while Waggle tried to scale it; gave up after %d attempts", name, maxPlans)
	})
	return svc, err
}

// finished waits for the end of a service's one task.
func (r *Run) finished(ctx context.Context, serviceID string) (Task, error) {
	var last Task
	err := r.until(ctx, r.BuildTimeout, func(ctx context.Context) (bool, error) {
		tasks, err := r.Swarm.Tasks(ctx, serviceID, false)
		if err != nil || len(tasks) == 0 {
			return false, err
		}
		last = tasks[0]
		return last.ended(), nil
	})
	if err == errDeadline {
		return last, Errorf(Failed, "The registry's garbage collection was not done after %s", r.BuildTimeout)
	}
	return last, err
}

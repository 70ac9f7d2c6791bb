package ops

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// AppRemove removes an app. Its volumes stay, unless they are named.
type AppRemove struct {
	App     string   `json:"app"`
	Volumes []string `json:"volumes,omitempty"` // to be removed as well

	// Decided is set once the plan is about to be applied.
	Decided *AppRemoval `json:"decided,omitempty"`

	svc Service
}

// AppRemoval is what is removed.
type AppRemoval struct {
	ID      string      `json:"id"` // of the service
	Secrets []SecretRef `json:"secrets"`
}

func (*AppRemove) Kind() string     { return "app-remove" }
func (r *AppRemove) Target() string { return r.App }
func (*AppRemove) Needs() Role      { return Operator }

// Plan names what goes and what stays.
func (r *AppRemove) Plan(ctx context.Context, run *Run) (Plan, error) {
	svc, err := findApp(ctx, run.Swarm, r.App)
	if CodeOf(err) == NotFound && r.Decided != nil { // an attempt that was cut off removed it
		r.svc = Service{ID: r.Decided.ID, Name: r.App}
		return Plan{}, nil
	}
	if err != nil {
		return Plan{}, err
	}
	r.svc = svc
	if svc.Labels[LabelManagedRegistry] != "" {
		return Plan{}, Errorf(Invalid, "%s is the registry %s, which Waggle runs", r.App, svc.Labels[LabelManagedRegistry]).
			Then("`/registry list` shows it; `/registry remove` takes it out of use first.")
	}
	if stack := svc.Labels["com.docker.stack.namespace"]; stack != "" {
		return Plan{}, Errorf(Invalid, "%s belongs to the stack %s, which would make it again", r.App, stack).
			Then("Take it out of the stack file, or type `docker stack rm %s` on a manager.", stack)
	}
	w, err := readWorld(ctx, run.Swarm)
	if err != nil {
		return Plan{}, err
	}
	got := w.observe(svc)
	plan := Plan{
		Diffs:    []Diff{{What: "app " + r.App, From: svc.replicasText(got) + " of " + withoutDigest(svc.Image), To: "removed"}},
		Approval: "it removes " + r.App,
	}
	var have []string
	for _, m := range svc.Mounts {
		switch {
		case m.Type != "volume" || m.Source == "":
			continue
		case slices.Contains(r.Volumes, m.Source):
			plan.Diffs = append(plan.Diffs, Diff{What: "volume " + m.Source, From: "the data of " + r.App, To: "removed, for good"})
		default:
			plan.Facts = append(plan.Facts, fmt.Sprintf("the volume %s stays; `--volumes %[1]s` would remove it too", m.Source))
		}
		have = append(have, m.Source)
	}
	for _, v := range r.Volumes {
		if !slices.Contains(have, v) {
			return Plan{}, Errorf(NotFound, "%s has no volume %q", r.App, v).Then("It has: %s.", strings.Join(append(have, "none else"), ", "))
		}
	}
	plan.Facts = append(plan.Facts, "its images stay in the registry")
	if len(svc.Secrets) > 0 {
		plan.Facts = append(plan.Facts, fmt.Sprintf("%s of its own %s removed", many(len(r.own(svc)), "secret"), oneOrMore(len(r.own(svc)), "is", "are")))
	}
	if releases, err := svc.Releases(); err == nil && len(releases) > 0 {
		plan.Warnings = append(plan.Warnings, "its releases are kept in the service, and go with it")
	}
	return plan, nil
}

// own are the secrets that Waggle made for the app.
func (r *AppRemove) own(s Service) []SecretRef {
	var out []SecretRef
	for _, ref := range s.Secrets {
		if strings.HasPrefix(ref.Name, r.App+".") {
			out = append(out, ref)
		}
	}
	return out
}

// Apply removes the service.
func (r *AppRemove) Apply(ctx context.Context, run *Run) error {
	if r.Decided == nil {
		r.Decided = &AppRemoval{r.svc.ID, r.own(r.svc)}
		if err := run.Save(ctx); err != nil {
			return redisAway(err)
		}
	}
	err := run.Swarm.RemoveService(ctx, r.svc.ID)
	if CodeOf(err) == NotFound {
		return nil
	}
	return err
}

// Converge waits until its tasks are gone, and removes what is to go with them.
func (r *AppRemove) Converge(ctx context.Context, run *Run) (string, error) {
	err := run.until(ctx, run.DeployTimeout, func(ctx context.Context) (bool, error) {
		tasks, err := run.Swarm.NodeTasks(ctx, "")
		if err != nil {
			return false, err
		}
		left := 0
		for _, t := range tasks {
			if t.ServiceID == r.Decided.ID && !t.ended() {
				left++
			}
		}
		if left > 0 {
			run.Note(fmt.Sprintf("%s still stopping.", many(left, "task")))
		}
		return left == 0, nil
	})
	if err == errDeadline {
		return "", Errorf(Failed, "%s is removed, and its tasks do not stop", r.App).Then("See the nodes with `/node list`.")
	}
	if err != nil {
		return "", err
	}
	text := r.App + " is removed"
	for _, s := range r.Decided.Secrets {
		if err := run.Swarm.RemoveSecret(ctx, s.ID); err != nil {
			run.Log.Info("a secret of a removed app is still kept", "secret", s.Name, "err", err)
		}
	}
	for _, v := range r.Volumes {
		err := run.until(ctx, stall, func(ctx context.Context) (bool, error) {
			// The container that used it is removed a moment after its task.
			err := run.Swarm.RemoveVolume(ctx, v)
			if CodeOf(err) == NotFound {
				return true, err
			}
			return err == nil, nil
		})
		switch {
		case CodeOf(err) == NotFound:
			text += fmt.Sprintf("; the volume %s is not on Waggle's manager: type `docker volume rm %[1]s` on the node that it ran on", v)
		case err != nil:
			text += fmt.Sprintf("; the volume %s could not be removed: type `docker volume rm %[1]s` on its node", v)
		default:
			text += fmt.Sprintf(", and the volume %s with it", v)
		}
	}
	return text, nil
}

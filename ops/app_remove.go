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

	svc   Service
	homes []Node // that may have its volumes
}

// AppRemoval is what is removed.
type AppRemoval struct {
	ID      string      `json:"id"` // of the service
	Secrets []SecretRef `json:"secrets"`
	Nodes   []string    `json:"nodes,omitempty"` // ids of those that may have its volumes
}

func (*AppRemove) Kind() string     { return "app-remove" }
func (r *AppRemove) Target() string { return r.App }
func (*AppRemove) Needs() Role      { return Operator }

// Plan names what goes and what stays.
func (r *AppRemove) Plan(ctx context.Context, run *Run) (Plan, error) {
	svc, err := run.app(ctx, r.App)
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
	r.homes = w.homes(svc)
	plan := Plan{
		Diffs:    []Diff{{What: "app " + svc.Name, From: "a service", To: "removed"}},
		Facts:    []string{"its image is " + withoutDigest(svc.Image)},
		Approval: "it removes " + svc.Name,
	}
	if got := w.observe(svc); !svc.job() {
		plan.Facts[0] += fmt.Sprintf(", %d/%d running now", got.Running, got.Wanted)
	}
	var have []string
	for _, m := range svc.Mounts {
		if m.Type != "volume" || m.Source == "" {
			continue
		}
		have = append(have, m.Source)
		if !slices.Contains(r.Volumes, m.Source) {
			plan.Facts = append(plan.Facts, fmt.Sprintf("the volume %s stays%s; `--volumes %[1]s` would remove it too", m.Source, on(r.homes)))
			continue
		}
		if other := sharing(svc, m.Source, w.services); other != "" {
			return Plan{}, Errorf(Invalid, "%s uses the volume %s as well, so it cannot go with %s", other, m.Source, r.App).
				Then("Remove %s without it: `/app remove %[1]s`.", r.App)
		}
		plan.Diffs = append(plan.Diffs, Diff{What: "volume " + m.Source, From: "the data of " + svc.Name, To: "removed, for good"})
		if len(r.homes) > 0 {
			plan.Facts = append(plan.Facts, fmt.Sprintf("the volume %s is%s", m.Source, on(r.homes)))
		}
	}
	for _, v := range r.Volumes {
		if !slices.Contains(have, v) {
			return Plan{}, Errorf(NotFound, "%s has no volume %q", r.App, v).Then("It has: %s.", strings.Join(append(have, "none else"), ", "))
		}
	}
	plan.Facts = append(plan.Facts, "its images stay in the registry")
	if len(svc.Secrets) > 0 {
		own := len(svc.ownSecrets())
		plan.Facts = append(plan.Facts, fmt.Sprintf("%s of its own %s removed", many(own, "secret"), oneOrMore(own, "is", "are")))
	}
	if releases, err := svc.Releases(); err == nil && len(releases) > 0 {
		plan.Warnings = append(plan.Warnings, "its releases are kept in the service, and go with it")
	}
	return plan, nil
}

// homes are the nodes that may have data of the service: those that it is pinned to,
// or else those of its tasks that the swarm still knows.
func (w world) homes(s Service) []Node {
	var pins, ran []Node
	for _, n := range w.nodes {
		if s.pinned(n) {
			pins = append(pins, n)
		}
		if slices.ContainsFunc(w.of[s.ID], func(t Task) bool { return t.NodeID == n.ID }) {
			ran = append(ran, n)
		}
	}
	if len(pins) > 0 {
		return pins
	}
	return ran
}

// on says where a volume is, " on n1, n2"; "" when that is not known.
func on(nodes []Node) string {
	if len(nodes) == 0 {
		return ""
	}
	return " on " + hostnames(nodes)
}

func hostnames(nodes []Node) string {
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.Hostname
	}
	return strings.Join(names, ", ")
}

// sharing is another service that mounts the volume, "" when none does.
func sharing(s Service, volume string, services []Service) string {
	for _, other := range services {
		if other.ID != s.ID && slices.ContainsFunc(other.Mounts, func(m Mount) bool { return m.Type == "volume" && m.Source == volume }) {
			return other.Name
		}
	}
	return ""
}

// Apply removes the service.
func (r *AppRemove) Apply(ctx context.Context, run *Run) error {
	if r.Decided == nil {
		r.Decided = &AppRemoval{ID: r.svc.ID, Secrets: r.svc.ownSecrets()}
		for _, n := range r.homes {
			r.Decided.Nodes = append(r.Decided.Nodes, n.ID)
		}
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
	if len(r.Volumes) == 0 {
		return text, nil
	}
	gone, left, err := r.removeVolumes(ctx, run)
	if err != nil {
		return "", err
	}
	if len(gone) > 0 {
		text += ", and with it " + strings.Join(gone, ", ")
	}
	if len(left) > 0 {
		text += "; what is left: " + strings.Join(left, ", ")
	}
	return text, nil
}

// removeVolumes removes the volumes from the nodes that the app was on: its own
// manager's by the engine, others over SSH. A volume of that name on another node
// is none of the app's. Left is what remains to be done by hand.
func (r *AppRemove) removeVolumes(ctx context.Context, run *Run) (gone, left []string, err error) {
	var cluster Cluster
	var nodes []Node
	err = run.whileAway(ctx, run.Now().Add(run.DeployTimeout), func(ctx context.Context) (err error) {
		if cluster, err = run.Swarm.Cluster(ctx); err != nil {
			return err
		}
		nodes, err = run.Swarm.Nodes(ctx)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	byHand := func(v, where, why string) string {
		return fmt.Sprintf("the volume %s on %s (%s): type `docker volume rm %[1]s` there", v, where, why)
	}
	if len(r.Decided.Nodes) == 0 {
		for _, v := range r.Volumes {
			left = append(left, byHand(v, "the node that it ran on", "which is not known"))
		}
	}
	for _, n := range nodes {
		if !slices.Contains(r.Decided.Nodes, n.ID) {
			continue
		}
		var at Volumes = run.Swarm
		if n.ID != cluster.Self {
			server, err := run.connect(ctx, n)
			if err != nil {
				for _, v := range r.Volumes {
					left = append(left, byHand(v, n.Hostname, sentenceOf(err)))
				}
				continue
			}
			defer server.Close()
			at = server
		}
		for _, v := range r.Volumes {
			var last error
			err := run.until(ctx, stall, func(ctx context.Context) (bool, error) {
				// The container that used it is removed a moment after its task.
				last = at.RemoveVolume(ctx, v)
				return last == nil || CodeOf(last) == NotFound, nil
			})
			switch {
			case err != nil && ctx.Err() != nil:
				return nil, nil, err
			case err != nil:
				run.Log.Info("a volume of a removed app stays", "volume", v, "node", n.Hostname, "err", last)
				left = append(left, byHand(v, n.Hostname, "it could not be removed"))
			case last == nil:
				gone = append(gone, fmt.Sprintf("the volume %s on %s", v, n.Hostname))
			}
		}
	}
	return gone, left, nil
}

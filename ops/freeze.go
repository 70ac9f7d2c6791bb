package ops

import (
	"cmp"
	"context"
	"fmt"
	"strings"
)

// AllApps, in place of an app's name, means every app.
const AllApps = "all"

// Freeze holds deploys back: of one app by a label of its service, of all by a
// label of the swarm. Unfreeze lets them go on.
type Freeze struct {
	App    string `json:"app"` // or AllApps
	Reason string `json:"reason,omitempty"`
	Lift   bool   `json:"lift,omitempty"` // unfreeze

	svc     Service
	cluster Cluster
	label   string
}

func (f *Freeze) Kind() string {
	if f.Lift {
		return "unfreeze"
	}
	return "freeze"
}
func (f *Freeze) Target() string { return f.App }
func (*Freeze) Needs() Role      { return Operator }

func (f *Freeze) labels() map[string]string {
	if f.App == AllApps {
		return f.cluster.Labels
	}
	return f.svc.Labels
}

// Plan says which label changes; no task is restarted.
func (f *Freeze) Plan(ctx context.Context, run *Run) (Plan, error) {
	var err error
	if f.cluster, err = run.Swarm.Cluster(ctx); err != nil {
		return Plan{}, err
	}
	if f.App != AllApps {
		if f.svc, err = run.app(ctx, f.App); err != nil {
			return Plan{}, err
		}
	}
	was := f.labels()[LabelFreeze]
	plan := Plan{Undo: "/unfreeze " + f.App}
	if f.Lift {
		if was == "" && !run.resumed {
			return Plan{}, f.notFrozen()
		}
		plan.Diffs = []Diff{{What: LabelFreeze, From: cmp.Or(was, "none"), To: "none"}}
		plan.Facts = []string{"the newest push that waits is deployed"}
		plan.Undo = "/freeze " + f.App
		if all := f.cluster.Labels[LabelFreeze]; f.App != AllApps && all != "" {
			plan.Warnings = []string{fmt.Sprintf("deploys of all apps are frozen (%s), so they still wait: `/unfreeze all`", all)}
		}
		return plan, nil
	}
	f.label = fmt.Sprintf("%s, %s", run.Actor, run.At.UTC().Format("2 Jan 2006 15:04 UTC"))
	if reason := strings.Join(strings.Fields(f.Reason), " "); reason != "" {
		f.label += ": " + reason
	}
	plan.Diffs = []Diff{{What: LabelFreeze, From: cmp.Or(was, "none"), To: f.label}}
	plan.Facts = []string{"pushes wait from now on; what is being deployed already goes on, and so does `/rollback`"}
	return plan, nil
}

func (f *Freeze) notFrozen() error {
	if f.App == AllApps {
		return Errorf(Invalid, "Nobody has frozen the deploys of all apps").Then("`/app list` shows the apps that are frozen by themselves.")
	}
	e := Errorf(Invalid, "The deploys of %s are not frozen", f.App)
	if all := f.cluster.Labels[LabelFreeze]; all != "" {
		return e.Then("Those of all apps are, by %s: `/unfreeze all`.", all)
	}
	return e
}

// Apply writes the label, and nothing else.
func (f *Freeze) Apply(ctx context.Context, run *Run) error {
	set, unset := map[string]string{LabelFreeze: f.label}, []string(nil)
	if f.Lift {
		set, unset = nil, []string{LabelFreeze}
	}
	if f.App == AllApps {
		return run.Swarm.LabelSwarm(ctx, f.cluster, set, unset)
	}
	_, err := run.Swarm.UpdateService(ctx, f.svc, Change{Labels: set, Unset: unset})
	return err
}

// Converge has nothing to wait for: labels are written at once.
func (f *Freeze) Converge(context.Context, *Run) (string, error) {
	whose := "of " + f.App
	if f.App == AllApps {
		whose = "of all apps"
	}
	if f.Lift {
		return fmt.Sprintf("Deploys %s go on", whose), nil
	}
	return fmt.Sprintf("Deploys %s are frozen", whose), nil
}

// frozen says by whom, when and why the deploys of a service are held back, and
// whether by its own label or by that of all; "" when they are not.
func (r *Run) frozen(ctx context.Context, svc Service) (by, whose string, err error) {
	if by := svc.Labels[LabelFreeze]; by != "" {
		return by, svc.Name, nil
	}
	c, err := r.Swarm.Cluster(ctx)
	return c.Labels[LabelFreeze], AllApps, err
}

// Hold has a push to a frozen app wait.
func (d *Deploy) Hold(ctx context.Context, run *Run) (string, error) {
	if d.Hand {
		return "", nil // Plan refuses it
	}
	svc, err := run.Swarm.Service(ctx, d.App)
	if CodeOf(err) == NotFound {
		return "", nil // Plan says so
	}
	if err != nil {
		return "", err
	}
	by, whose, err := run.frozen(ctx, svc)
	if err != nil || by == "" {
		return "", err
	}
	return fmt.Sprintf("waits, since deploys of %s are frozen by %s. `/unfreeze %s` lets it go on", map[bool]string{true: "all apps", false: d.App}[whose == AllApps], by, whose), nil
}

// checkFrozen refuses a deploy by hand while deploys are frozen. One that was on its way
// before goes on.
func (d *Deploy) checkFrozen(ctx context.Context, run *Run) error {
	if run.began {
		return nil
	}
	by, whose, err := run.frozen(ctx, d.svc)
	if err != nil || by == "" {
		return err
	}
	if whose == AllApps {
		whose = "all apps"
	}
	e := Errorf(Invalid, "Deploys of %s are frozen by %s", whose, by)
	if whose == d.App {
		return e.Then("`/unfreeze %s` lifts that; `/rollback %s` works all the same.", d.App, d.App)
	}
	return e.Then("`/unfreeze all` lifts that; `/rollback %s` works all the same.", d.App)
}

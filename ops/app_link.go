package ops

import (
	"context"
	"fmt"
	"strings"
)

// appLabels are the labels that make a service deployable by a push.
var appLabels = []string{LabelRepo, LabelBranch, LabelDockerfile, LabelContext, LabelPaths, LabelApprove}

// AppLink makes a service deployable by pushes to a repository, or takes that away.
type AppLink struct {
	App    string `json:"app"`
	Repo   string `json:"repo,omitempty"` // clone URL; "" unlinks
	Branch string `json:"branch,omitempty"`

	svc    Service
	change Change
}

func (l *AppLink) Kind() string {
	if l.Repo == "" {
		return "app-unlink"
	}
	return "app-link"
}
func (l *AppLink) Target() string { return l.App }
func (*AppLink) Needs() Role      { return Operator }

// Plan says which labels change; no task is restarted.
func (l *AppLink) Plan(ctx context.Context, run *Run) (Plan, error) {
	svc, err := findApp(ctx, run.Swarm, l.App)
	if err != nil {
		return Plan{}, err
	}
	l.svc, l.change = svc, Change{}
	if svc.job() {
		return Plan{}, Errorf(Invalid, "%s is a job (%s), which a push does not deploy", l.App, svc.Mode)
	}
	var plan Plan
	shown := func(v string) string {
		if v == "" {
			return "none"
		}
		return v
	}
	if l.Repo == "" {
		if svc.Labels[LabelRepo] == "" {
			return Plan{}, Errorf(Invalid, "%s is not linked to a repository", l.App)
		}
		for _, k := range appLabels {
			if v, ok := svc.Labels[k]; ok {
				l.change.Unset = append(l.change.Unset, k)
				plan.Diffs = append(plan.Diffs, Diff{What: k, From: shown(v), To: "none"})
			}
		}
		plan.Facts = []string{"no task is restarted; its releases stay"}
		plan.Undo = fmt.Sprintf("/app link %s %s %s", l.App, svc.Labels[LabelRepo], svc.Labels[LabelBranch])
		return plan, nil
	}
	l.change.Labels = map[string]string{LabelRepo: l.Repo}
	plan.Diffs = []Diff{{What: LabelRepo, From: shown(svc.Labels[LabelRepo]), To: l.Repo}}
	if l.Branch != "" || svc.Labels[LabelBranch] != "" {
		plan.Diffs = append(plan.Diffs, Diff{What: LabelBranch, From: shown(svc.Labels[LabelBranch]), To: shown(l.Branch)})
	}
	if l.Branch != "" {
		l.change.Labels[LabelBranch] = l.Branch
	} else {
		l.change.Unset = []string{LabelBranch}
	}
	plan.Facts = []string{"no task is restarted; the next push deploys it"}
	if ids := svc.buildSecretIDs(); len(ids) > 0 {
		plan.Facts = append(plan.Facts, fmt.Sprintf("its builds are given the %s %s", oneOrMore(len(ids), "secret", "secrets"), strings.Join(ids, ", ")))
	}
	plan.Undo = "/app unlink " + l.App
	return plan, nil
}

// Apply writes the labels, and nothing else.
func (l *AppLink) Apply(ctx context.Context, run *Run) error {
	_, err := run.Swarm.UpdateService(ctx, l.svc, l.change)
	return err
}

// Converge has nothing to wait for: labels are written at once.
func (l *AppLink) Converge(context.Context, *Run) (string, error) {
	if l.Repo == "" {
		return l.App + " is not deployed by pushes any more", nil
	}
	branch := l.Branch
	if branch == "" {
		branch = "the default branch"
	}
	return fmt.Sprintf("A push to %s of %s deploys %s", branch, l.Repo, l.App), nil
}

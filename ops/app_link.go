package ops

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// linkLabels are the labels that mean something with a repository only: where it
// is, how it is built and which pushes count. What a deploy by hand follows stays
// without one: channel, freeze, releases, replicas, migrate.
var linkLabels = []string{LabelRepo, LabelBranch, LabelDockerfile, LabelContext, LabelTarget, LabelPlatform, LabelPaths, LabelApprove}

// linked are the labels of the service that go with its repository.
func (s Service) linked() []string {
	var out []string
	for _, k := range linkLabels {
		if _, ok := s.Labels[k]; ok {
			out = append(out, k)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		if strings.HasPrefix(k, LabelBuildArg) || strings.HasPrefix(k, LabelBuildSecret) {
			out = append(out, k)
		}
	}
	return out
}

// gated says whether pushes that deploy the service wait for an approval. Whoever could
// take that off alone, or have it follow another branch, would need none.
func (s Service) gated() bool { return s.Labels[LabelApprove] == "push" }

// ungates is why a change that takes off the approval of pushes needs one.
func (s Service) ungates() string {
	return "pushes to " + s.Name + " would deploy without an approval"
}

// redirects is why a change of the repository or branch of a gated service needs an approval.
func (s Service) redirects() string {
	return "pushes to " + s.Name + " need approval, and this changes which ones deploy"
}

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
	svc, err := run.app(ctx, l.App)
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
		if svc.Labels[LabelRepo] == "" && !run.resumed {
			return Plan{}, Errorf(Invalid, "%s is not linked to a repository", l.App)
		}
		l.change.Unset = svc.linked()
		for _, k := range l.change.Unset {
			from := shown(svc.Labels[k])
			if strings.HasPrefix(k, LabelBuildSecret) {
				from = "set"
			}
			plan.Diffs = append(plan.Diffs, Diff{What: k, From: from, To: "none"})
		}
		if svc.gated() {
			plan.Approval = "once it is linked again, " + svc.ungates()
		}
		plan.Facts = []string{"no task is restarted; it runs on, and its releases stay"}
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
	if svc.gated() && (l.Repo != svc.Labels[LabelRepo] || l.Branch != svc.Labels[LabelBranch]) {
		plan.Approval = svc.redirects()
	}
	plan.Facts = []string{"no task is restarted; the next push deploys it"}
	if ids := svc.buildSecretIDs(); len(ids) > 0 {
		plan.Facts = append(plan.Facts, fmt.Sprintf("its builds are given the %s %s", oneOrMore(len(ids), "secret", "secrets"), strings.Join(ids, ", ")))
	}
	if w := inClear(l.Repo); w != "" {
		plan.Warnings = append(plan.Warnings, w)
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

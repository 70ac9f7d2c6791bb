package ops

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"

	"waggle/internal/secret"
)

// AppCreate makes an app: a service that a push deploys, or one with an image.
type AppCreate struct {
	App         string   `json:"app"`
	Repo        string   `json:"repo,omitempty"`
	Branch      string   `json:"branch,omitempty"`
	Dockerfile  string   `json:"dockerfile,omitempty"`
	Image       string   `json:"image,omitempty"` // instead of a repository
	Replicas    int      `json:"replicas"`        // once it has an image
	Ports       []Port   `json:"ports,omitempty"`
	Volumes     []Mount  `json:"volumes,omitempty"`
	Health      string   `json:"health,omitempty"` // a command
	Constraints []string `json:"constraints,omitempty"`
	Node        string   `json:"node,omitempty"` // where its persistent data is to be
	LimitCPU    int64    `json:"limit_cpu,omitempty"`
	LimitMemory int64    `json:"limit_memory,omitempty"`
	Approve     bool     `json:"approve,omitempty"` // pushes wait for an approval
	Channel     string   `json:"channel,omitempty"`

	Env       map[string]secret.Text `json:"-"`
	SealedEnv map[string]string      `json:"env,omitempty"`

	made NewService
	id   string
}

func (*AppCreate) Kind() string     { return "app-create" }
func (c *AppCreate) Target() string { return c.App }
func (*AppCreate) Needs() Role      { return Operator }

// Seal implements Sealer.
func (c *AppCreate) Seal(key secret.Key) (err error) {
	c.SealedEnv = map[string]string{}
	for name, value := range c.Env {
		if c.SealedEnv[name], err = key.Seal(value, "env "+c.App+" "+name); err != nil {
			return noKey(err)
		}
	}
	return nil
}

// Plan works out the service.
func (c *AppCreate) Plan(ctx context.Context, run *Run) (Plan, error) {
	w, err := readWorld(ctx, run.Swarm)
	if err != nil {
		return Plan{}, err
	}
	for _, s := range w.services {
		if strings.EqualFold(s.Name, c.App) && !run.resumed {
			e := Errorf(Invalid, "There is an app %s already", s.Name)
			if c.Repo != "" {
				return Plan{}, e.Then("`/app link %s %s` has pushes deploy it.", s.Name, c.Repo)
			}
			return Plan{}, e.Then("`/app show %s` shows it.", s.Name)
		}
	}
	if taken := portsTaken(c.Ports, c.App, w.services); taken != "" {
		return Plan{}, Errorf(Invalid, "%s cannot be made: %s", c.App, taken).Then("Publish another port.")
	}
	registries, err := ReadRegistries(ctx, run.Swarm)
	if err != nil {
		return Plan{}, err
	}
	c.made = NewService{Name: c.App, Labels: map[string]string{}, Constraints: slices.Clone(c.Constraints), Settings: Settings{Ports: c.Ports, Mounts: c.Volumes,
		LimitCPU: c.LimitCPU, LimitMemory: c.LimitMemory, UpdateOrder: "start-first", Parallelism: 1}}
	m := &c.made
	plan := Plan{Diffs: []Diff{{What: "app " + c.App, From: "none", To: "a service"}}, Undo: "/app remove " + c.App}
	for key, value := range map[string]string{LabelRepo: c.Repo, LabelBranch: c.Branch, LabelDockerfile: c.Dockerfile, LabelChannel: c.Channel} {
		if value != "" {
			m.Labels[key] = value
		}
	}
	if c.Approve {
		m.Labels[LabelApprove] = "push"
	}
	if c.Repo != "" {
		to, _ := registries.Pushed()
		// A service must have an image; with no replicas nothing is pulled.
		if m.Image, err = to.image(c.App, "none"); err != nil {
			return Plan{}, err
		}
		m.Labels[LabelReplicas] = strconv.Itoa(c.Replicas)
		plan.Diffs[0].To = fmt.Sprintf("deployed by pushes to %s of %s", cmp.Or(c.Branch, "the default branch"), c.Repo)
		plan.Facts = append(plan.Facts, fmt.Sprintf("the first deploy starts %s", many(c.Replicas, "replica")))
		if w := inClear(c.Repo); w != "" {
			plan.Warnings = append(plan.Warnings, w)
		}
		if to.Domain == "" && len(w.nodes) > 1 {
			plan.Warnings = append(plan.Warnings, "there is no default push registry, so a push cannot be deployed yet: `/registry add` or `/registry setup` makes one")
		}
	} else {
		m.Image, m.Replicas = c.Image, c.Replicas
		plan.Diffs[0].To = fmt.Sprintf("%s of %s", many(c.Replicas, "replica"), c.Image)
		if m.Auth, err = registries.authFrom(c.Image, c.Image, run.SecretKey); err != nil {
			return Plan{}, err
		}
	}
	if c.Health != "" {
		m.Health.Test = []string{"CMD-SHELL", c.Health}
	} else if c.Replicas > 1 {
		plan.Warnings = append(plan.Warnings, "it has no health check of its own: unless its image has one, a task gets requests as soon as its process runs")
	}
	view := Service{Name: c.App, Mode: Replicated, Constraints: m.Constraints, Settings: m.Settings, Persistent: len(c.Volumes) > 0}
	for _, p := range c.Ports {
		view.HostPorts = view.HostPorts || p.Host
	}
	if view.HostPorts || view.Persistent {
		m.UpdateOrder = "stop-first"
	}
	if view.Persistent {
		node, err := c.home(view, w)
		if err != nil {
			return Plan{}, err
		}
		m.Constraints = append(m.Constraints, "node.id == "+node.ID)
		where := ""
		if c.Node != "" { // else it is Waggle's choice, by where there is room now
			where = " on " + node.Hostname
		}
		plan.Diffs = append(plan.Diffs, Diff{What: "its data", From: "none", To: join(c.Volumes) + where})
		plan.Facts = append(plan.Facts, fmt.Sprintf("it has persistent data, so it runs on %s only and its updates stop the old task first", node.Hostname))
		view.Constraints = m.Constraints
		if c.Replicas > 1 {
			plan.Approval = c.App + " has persistent data, which its replicas would share"
		}
	}
	if c.Replicas > run.ScaleAbove {
		plan.Approval = fmt.Sprintf("%d is above %d replicas", c.Replicas, run.ScaleAbove)
	}
	if len(c.Ports) > 0 {
		plan.Diffs = append(plan.Diffs, Diff{What: "ports", From: "none", To: join(c.Ports)})
	}
	if short := view.shortage(c.Replicas, w.nodes, w.used); short != "" {
		plan.Warnings = append(plan.Warnings, short)
	}
	plan.Warnings = append(plan.Warnings, view.worries(w.nodes)...)
	return plan, nil
}

// home chooses the node of an app's data: the one that is asked for, or of those
// that fit the one with the fewest tasks.
func (c *AppCreate) home(s Service, w world) (Node, error) {
	if c.Node != "" {
		for _, n := range w.nodes {
			if strings.EqualFold(n.Hostname, c.Node) || n.ID == c.Node {
				return n, nil
			}
		}
		return Node{}, Errorf(NotFound, "There is no node %q for the data of %s", c.Node, c.App).Then("`/node list` shows them.")
	}
	var best *Node
	count := func(n Node) (tasks int) {
		for _, k := range w.used[n.ID].Tasks {
			tasks += k
		}
		return tasks
	}
	for i, n := range w.nodes {
		if s.unfit(n, w.used[n.ID]) == "" && (best == nil || count(n) < count(*best)) {
			best = &w.nodes[i]
		}
	}
	if best == nil {
		return Node{}, Errorf(Invalid, "No node can take the data of %s", c.App).Then("`/node list` shows how they stand.")
	}
	return *best, nil
}

// Apply makes the service.
func (c *AppCreate) Apply(ctx context.Context, run *Run) error {
	for name, box := range c.SealedEnv {
		value, err := run.SecretKey.Open(box, "env "+c.App+" "+name)
		if err != nil {
			return &Error{Code: Invalid, Sentence: "Its environment was sealed with another secret_key than this Waggle has", Next: "Give every Waggle of this swarm the same secret_key, and type it again.", Err: err}
		}
		c.made.Env = append(c.made.Env, EnvVar{Name: name, Value: value})
	}
	network, err := run.Swarm.NetworkID(ctx, run.Network)
	if err != nil {
		return err
	}
	c.made.Networks = []string{network}
	c.id, err = run.Swarm.CreateService(ctx, c.made)
	if CodeOf(err) == OutOfDate && run.resumed {
		return nil // made by an attempt that was cut off
	}
	return err
}

// Converge waits for its replicas, and says what to set at the forge.
func (c *AppCreate) Converge(ctx context.Context, run *Run) (string, error) {
	var svc Service
	err := run.whileAway(ctx, run.Now().Add(run.DeployTimeout), func(ctx context.Context) (err error) {
		svc, err = run.Swarm.Service(ctx, c.App)
		return err
	})
	if err != nil {
		return "", err
	}
	if c.Repo == "" {
		got, err := run.converge(ctx, svc)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s runs %d of %d", c.App, got.Running, got.Wanted), nil
	}
	return fmt.Sprintf("%s waits for its first push. At the forge, add a webhook: POST to /webhooks/%s of this Waggle, content type JSON, with the secret webhooks.%[2]s.secret; or type `/deploy %[1]s`",
		c.App, forgeOf(c.Repo)), nil
}

// forgeOf guesses which forge a repository is at, by its host.
func forgeOf(repo string) string {
	host := repo
	if u, err := url.Parse(repo); err == nil && u.Host != "" {
		host = u.Hostname()
	} else if m := scp.FindStringSubmatch(repo); m != nil {
		host = m[1]
	}
	for part, forge := range map[string]string{"github": "github", "gitlab": "gitlab", "bitbucket.org": "bitbucket", "bitbucket": "bitbucket-server",
		"azure": "azure", "visualstudio": "azure", "gogs": "gogs"} {
		if strings.Contains(host, part) && !(part == "bitbucket" && strings.Contains(host, "bitbucket.org")) {
			return forge
		}
	}
	return "gitea"
}

// CheckImage says why a text is no image's reference.
func CheckImage(image string) error {
	if _, err := reference.ParseNormalizedNamed(image); err != nil {
		return Errorf(Invalid, "%q is no image: %w", image, err).Then("It is like nginx:1.27 or ghcr.io/acme/pizza:2.")
	}
	return nil
}

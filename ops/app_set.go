package ops

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"waggle/internal/nearest"
)

// maxLabel is how long a label's value may be, in bytes. Docker has no limit of its
// own; the whole of a service must fit into one message of the swarm's.
const maxLabel = 4096

// setting is one thing of an app that can be set: a row of a table.
type setting struct {
	name     string
	values   string // what it takes, for people
	restarts bool
	// plan reads a value into the change, and says what it was and will be.
	plan func(s Service, value string, c *Change) (from, to string, err error)
}

// appSettings are what `/app set` can set.
func appSettings() []setting {
	label := func(name, key, values string, check func(string) error) setting {
		return setting{name: name, values: values + ", or none", plan: func(s Service, value string, c *Change) (string, string, error) {
			from := s.Labels[key]
			if from == "" {
				from = "none"
			}
			if value == "none" || value == "" {
				c.Unset = append(c.Unset, key)
				return from, "none", nil
			}
			if len(value) > maxLabel {
				return "", "", fmt.Errorf("it is longer than %d bytes", maxLabel)
			}
			if check != nil {
				if err := check(value); err != nil {
					return "", "", err
				}
			}
			if c.Labels == nil {
				c.Labels = map[string]string{}
			}
			c.Labels[key] = value
			return from, value, nil
		}}
	}
	resource := func(name, values string, parse func(string) (int64, error), show func(int64) string,
		now func(Service) int64, at func(*Change) **int64) setting {
		return setting{name: name, values: values + ", or none", restarts: true, plan: func(s Service, value string, c *Change) (string, string, error) {
			text := func(n int64) string {
				if n == 0 {
					return "none"
				}
				return show(n)
			}
			var n int64
			if value != "none" {
				var err error
				if n, err = parse(value); err != nil {
					return "", "", err
				}
			}
			*at(c) = &n
			return text(now(s)), text(n), nil
		}}
	}
	limits := func(c *Change) *Resources {
		if c.Limits == nil {
			c.Limits = new(Resources)
		}
		return c.Limits
	}
	reserve := func(c *Change) *Resources {
		if c.Reserve == nil {
			c.Reserve = new(Resources)
		}
		return c.Reserve
	}
	health := func(name, values string, change func(h *Health, value string) (from, to string, err error)) setting {
		return setting{name: name, values: values, restarts: true, plan: func(s Service, value string, c *Change) (string, string, error) {
			h := s.Health
			if c.Health != nil {
				h = *c.Health
			}
			from, to, err := change(&h, value)
			c.Health = &h
			return from, to, err
		}}
	}
	duration := func(at func(*Health) *time.Duration) func(*Health, string) (string, string, error) {
		return func(h *Health, value string) (string, string, error) {
			if !h.own() {
				return "", "", fmt.Errorf("the app has no health check of its own: set health too")
			}
			d, err := time.ParseDuration(value)
			if err != nil || d < time.Second || d > 24*time.Hour {
				return "", "", fmt.Errorf("%q is no time between 1s and 24h, like 10s or 2m", value)
			}
			from := at(h).String()
			if *at(h) == 0 {
				from = "the default"
			}
			*at(h) = d
			return from, d.String(), nil
		}
	}
	return []setting{
		label("branch", LabelBranch, "a branch", CheckBranch),
		label("dockerfile", LabelDockerfile, "a path in the build context", checkInside),
		label("context", LabelContext, "a directory of the repository", checkInside),
		label("paths", LabelPaths, "patterns with commas: only pushes that change such a path deploy", checkPaths),
		label("channel", LabelChannel, "where its deploys are announced", nil),
		label("approve", LabelApprove, "push: pushes wait for an approval", func(v string) error {
			if v != "push" {
				return fmt.Errorf("it is push or none, not %q", v)
			}
			return nil
		}),
		resource("limit-cpu", "cores, like 0.5", ParseCores, cores, func(s Service) int64 { return s.LimitCPU }, func(c *Change) **int64 { return &limits(c).CPU }),
		resource("limit-memory", "memory, like 512m", ParseMemory, bytesText, func(s Service) int64 { return s.LimitMemory }, func(c *Change) **int64 { return &limits(c).Memory }),
		resource("reserve-cpu", "cores, like 0.25", ParseCores, cores, func(s Service) int64 { return s.ReserveCPU }, func(c *Change) **int64 { return &reserve(c).CPU }),
		resource("reserve-memory", "memory, like 256m", ParseMemory, bytesText, func(s Service) int64 { return s.ReserveMemory }, func(c *Change) **int64 { return &reserve(c).Memory }),
		health("health", `a command in quotes, none, or image`, func(h *Health, value string) (string, string, error) {
			from := h.String()
			switch value {
			case "image":
				*h = Health{}
			case "none":
				*h = Health{Test: []string{"NONE"}}
			default:
				h.Test = []string{"CMD-SHELL", value}
			}
			return from, h.String(), nil
		}),
		health("health-interval", "a time, like 10s", duration(func(h *Health) *time.Duration { return &h.Interval })),
		health("health-timeout", "a time, like 3s", duration(func(h *Health) *time.Duration { return &h.Timeout })),
		health("health-start", "a time, like 30s", duration(func(h *Health) *time.Duration { return &h.Start })),
		health("health-retries", "a number", func(h *Health, value string) (string, string, error) {
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || n > 100 {
				return "", "", fmt.Errorf("%q is no number of failures between 1 and 100", value)
			}
			if !h.own() {
				return "", "", fmt.Errorf("the app has no health check of its own: set health too")
			}
			from := "the default"
			if h.Retries > 0 {
				from = strconv.Itoa(h.Retries)
			}
			h.Retries = n
			return from, value, nil
		}),
		{name: "order", values: "start-first or stop-first", plan: func(s Service, value string, c *Change) (string, string, error) {
			if value != "start-first" && value != "stop-first" {
				return "", "", fmt.Errorf("it is start-first or stop-first, not %q", value)
			}
			if value == "start-first" && s.Persistent {
				return "", "", fmt.Errorf("the app has persistent data, which two versions would use at once: it has to be stop-first")
			}
			c.UpdateOrder = value
			return s.UpdateOrder, value, nil
		}},
		{name: "parallelism", values: "how many tasks an update replaces at once, 0 for all", plan: func(s Service, value string, c *Change) (string, string, error) {
			n, err := strconv.Atoi(value)
			if err != nil || n < 0 || n > maxReplicas {
				return "", "", fmt.Errorf("%q is no number of tasks", value)
			}
			c.Parallelism = &n
			return strconv.Itoa(s.Parallelism), value, nil
		}},
		{name: "constraints", values: `conditions like node.labels.disk==ssd, with commas, or none`, restarts: true, plan: func(s Service, value string, c *Change) (string, string, error) {
			list := []string{}
			if value != "none" {
				var err error
				if list, err = ParseConstraints(value); err != nil {
					return "", "", err
				}
			}
			if s.Persistent && s.pinnedByID() && !slices.ContainsFunc(list, func(c string) bool { return slices.Contains(s.Constraints, c) && strings.HasPrefix(c, "node.id") }) {
				return "", "", fmt.Errorf("its data is on one node, and it would start without it elsewhere: to move it, stop the app, copy the volume to the other node, and change the constraint with docker service update")
			}
			c.Constraints = &list
			show := func(l []string) string {
				if len(l) == 0 {
					return "none"
				}
				return strings.Join(l, ", ")
			}
			return show(s.Constraints), show(list), nil
		}},
		{name: "ports", values: "published:target[/udp][:host], with commas, or none", restarts: true, plan: func(s Service, value string, c *Change) (string, string, error) {
			ports := []Port{}
			if value != "none" {
				var err error
				if ports, err = ParsePorts(value); err != nil {
					return "", "", err
				}
			}
			c.Ports = &ports
			show := func(l []Port) string {
				if len(l) == 0 {
					return "none"
				}
				return join(l)
			}
			return show(s.Ports), show(ports), nil
		}},
	}
}

// ParseConstraints reads placement constraints with commas between them.
func ParseConstraints(value string) ([]string, error) {
	var list []string
	for part := range strings.SplitSeq(value, ",") {
		k, ok := parseConstraint(part)
		if !ok || !constraintKey(k.key) || k.value == "" {
			return nil, fmt.Errorf("%q is no constraint: it is like node.labels.disk==ssd, node.role!=manager or node.hostname==n1", part)
		}
		list = append(list, strings.TrimSpace(part))
	}
	return list, nil
}

// pinnedByID says whether a constraint on a node's id holds the service there.
func (s Service) pinnedByID() bool {
	return slices.ContainsFunc(s.Constraints, func(raw string) bool {
		c, ok := parseConstraint(raw)
		return ok && c.equal && c.key == "node.id"
	})
}

var volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

// ParseVolumes reads persistent data as volume:path, with :ro for data that is only
// read. Paths of a node are not taken: who may make an app is not root there.
func ParseVolumes(list []string) ([]Mount, error) {
	var out []Mount
	for _, text := range list {
		rest, readOnly := strings.CutSuffix(text, ":ro")
		name, at, ok := strings.Cut(rest, ":")
		switch {
		case !ok || !strings.HasPrefix(at, "/") || at != path.Clean(at) || at == "/":
			return nil, fmt.Errorf("%q is no volume: write volume:/path, like pizza-data:/data", text)
		case !volumeName.MatchString(name):
			return nil, fmt.Errorf("%q is no volume's name: it has letters, digits and _ . - only", name)
		}
		for _, m := range out {
			if m.Target == at {
				return nil, fmt.Errorf("%s is there twice", at)
			}
		}
		out = append(out, Mount{Type: "volume", Source: name, Target: at, ReadOnly: readOnly})
	}
	return out, nil
}

func constraintKey(key string) bool {
	switch k := strings.ToLower(key); k {
	case "node.id", "node.hostname", "node.role", "node.ip", "node.platform.os", "node.platform.arch":
		return true
	default:
		return strings.HasPrefix(k, "node.labels.") && len(k) > len("node.labels.") || strings.HasPrefix(k, "engine.labels.") && len(k) > len("engine.labels.")
	}
}

// ParseCores reads a number of cores as 1e-9 cores.
func ParseCores(value string) (int64, error) {
	f, err := strconv.ParseFloat(value, 64)
	if err != nil || !(f >= 0.01 && f <= 1024) {
		return 0, fmt.Errorf("%q is no number of cores between 0.01 and 1024", value)
	}
	return int64(f * 1e9), nil
}

// ParseMemory reads an amount of memory as bytes.
func ParseMemory(value string) (int64, error) {
	n, err := units.RAMInBytes(value)
	if err != nil || n < 6<<20 || n > 1<<46 {
		return 0, fmt.Errorf("%q is no amount of memory of at least 6m, like 512m or 2g", value)
	}
	return n, nil
}

// checkInside checks a path that must stay inside the repository.
func checkInside(path string) error {
	if strings.HasPrefix(path, "/") || slices.Contains(strings.Split(path, "/"), "..") || strings.ContainsAny(path, "\x00\\") {
		return fmt.Errorf("%q leads out of the repository", path)
	}
	return nil
}

// ParsePorts reads published ports: 8080:80, 53:53/udp, 9000:9000:host.
func ParsePorts(value string) ([]Port, error) {
	var out []Port
	seen := map[string]bool{}
	for part := range strings.SplitSeq(value, ",") {
		part = strings.TrimSpace(part)
		bad := func(why string) error { return fmt.Errorf("%q is no port to publish: %s", part, why) }
		rest, host := strings.CutSuffix(part, ":host")
		rest, protocol, _ := strings.Cut(rest, "/")
		published, target, ok := strings.Cut(rest, ":")
		if !ok {
			return nil, bad("write published:target, like 8080:80")
		}
		p := Port{Protocol: protocol, Host: host}
		if protocol == "" {
			p.Protocol = "tcp"
		}
		if !slices.Contains([]string{"tcp", "udp", "sctp"}, p.Protocol) {
			return nil, bad("the protocol is tcp, udp or sctp")
		}
		var err error
		if p.Published, err = parsePort(published); err == nil {
			p.Target, err = parsePort(target)
		}
		if err != nil {
			return nil, bad(err.Error())
		}
		key := fmt.Sprintf("%d/%s", p.Published, p.Protocol)
		if seen[key] {
			return nil, bad("it is there twice")
		}
		seen[key] = true
		out = append(out, p)
	}
	return out, nil
}

func parsePort(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 65535 {
		return 0, errors.New("ports are 1 to 65535")
	}
	return n, nil
}

// portsTaken says which of the ports another service publishes already, "" when
// none.
func portsTaken(ports []Port, app string, services []Service) string {
	for _, s := range services {
		if s.Name == app {
			continue
		}
		for _, theirs := range s.Ports {
			for _, ours := range ports {
				if ours.Published != 0 && ours.Published == theirs.Published && ours.Protocol == theirs.Protocol {
					return fmt.Sprintf("the port %d/%s is published by %s already", ours.Published, ours.Protocol, s.Name)
				}
			}
		}
	}
	return ""
}

// SettingNames are the names of what `/app set` can set, with what each takes.
func SettingNames() (names []string, takes map[string]string) {
	takes = map[string]string{}
	for _, s := range appSettings() {
		names = append(names, s.name)
		takes[s.name] = s.values
	}
	return names, takes
}

// AppSet sets settings of an app, each touching only its field.
type AppSet struct {
	App    string            `json:"app"`
	Values map[string]string `json:"values"`

	svc      Service
	change   Change
	restarts bool
}

func (*AppSet) Kind() string     { return "app-set" }
func (a *AppSet) Target() string { return a.App }
func (*AppSet) Needs() Role      { return Operator }

// Plan says what each setting was and will be, and whether tasks are restarted.
func (a *AppSet) Plan(ctx context.Context, run *Run) (Plan, error) {
	svc, err := findApp(ctx, run.Swarm, a.App)
	if err != nil {
		return Plan{}, err
	}
	a.svc, a.change, a.restarts = svc, Change{}, false
	table := map[string]setting{}
	for _, s := range appSettings() {
		table[s.name] = s
	}
	var plan Plan
	undo := "/app set " + a.App
	for _, name := range slices.Sorted(maps.Keys(a.Values)) {
		s, ok := table[name]
		if !ok {
			names, _ := SettingNames()
			e := Errorf(Invalid, "An app has no setting %q", name)
			if near := nearest.Of(name, names); near != "" {
				return Plan{}, e.Then("Did you mean `%s`?", near)
			}
			return Plan{}, e.Then("There is: %s.", strings.Join(names, ", "))
		}
		from, to, err := s.plan(svc, a.Values[name], &a.change)
		if err != nil {
			return Plan{}, Errorf(Invalid, "%s cannot be set: %w", name, err).Then("It takes %s.", s.values)
		}
		plan.Diffs = append(plan.Diffs, Diff{What: name, From: from, To: to})
		a.restarts = a.restarts || s.restarts && from != to
		undo += fmt.Sprintf(" %s=%q", name, from)
	}
	if a.change.Ports != nil {
		services, err := run.Swarm.Services(ctx)
		if err != nil {
			return Plan{}, err
		}
		if taken := portsTaken(*a.change.Ports, a.App, services); taken != "" {
			return Plan{}, Errorf(Invalid, "ports cannot be set: %s", taken).Then("Publish another port.")
		}
	}
	if a.change.Constraints != nil {
		nodes, err := run.Swarm.Nodes(ctx)
		if err != nil {
			return Plan{}, err
		}
		after := svc
		after.Constraints = *a.change.Constraints
		if more, why := after.places(nodes, nil); more == 0 {
			plan.Warnings = append(plan.Warnings, "no node fits: "+strings.Join(why[:min(4, len(why))], ", "))
		}
	}
	if a.restarts {
		plan.Facts = append(plan.Facts, fmt.Sprintf("its tasks are restarted, %d at a time, %s", max(1, svc.Parallelism), svc.UpdateOrder))
	} else {
		plan.Facts = append(plan.Facts, "no task is restarted")
	}
	plan.Undo = undo
	return plan, nil
}

// Apply writes the settings, and nothing else, in one update.
func (a *AppSet) Apply(ctx context.Context, run *Run) error {
	a.change.Rollback = a.restarts
	_, err := run.Swarm.UpdateService(ctx, a.svc, a.change)
	return err
}

// Converge follows the restart of the tasks, if there is one.
func (a *AppSet) Converge(ctx context.Context, run *Run) (string, error) {
	names := slices.Sorted(maps.Keys(a.Values))
	what := fmt.Sprintf("%s of %s %s set", strings.Join(names, ", "), a.App, oneOrMore(len(names), "is", "are"))
	if !a.restarts {
		return what, nil
	}
	got, err := run.followUpdate(ctx, a.svc.Name, "", "Nothing of the change is left; correct it and try again.")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %d of %d run with it", what, got.Running, got.Wanted), nil
}

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
			if value != byDefault && (err != nil || d < time.Second || d > 24*time.Hour) {
				return "", "", fmt.Errorf("%q is no time between 1s and 24h, like 10s or 2m", value)
			}
			from := *at(h)
			*at(h) = d
			show := func(d time.Duration) string {
				if d == 0 {
					return byDefault
				}
				return d.String()
			}
			return show(from), show(d), nil
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
			from := h.setting()
			switch value {
			case "image":
				*h = Health{}
			case "none":
				*h = Health{Test: []string{"NONE"}}
			default:
				h.Test = []string{"CMD-SHELL", value}
			}
			return from, h.setting(), nil
		}),
		health("health-interval", "a time, like 10s, or default", duration(func(h *Health) *time.Duration { return &h.Interval })),
		health("health-timeout", "a time, like 3s, or default", duration(func(h *Health) *time.Duration { return &h.Timeout })),
		health("health-start", "a time, like 30s, or default", duration(func(h *Health) *time.Duration { return &h.Start })),
		health("health-retries", "a number, or default", func(h *Health, value string) (string, string, error) {
			n, err := strconv.Atoi(value)
			if value != byDefault && (err != nil || n < 1 || n > 100) {
				return "", "", fmt.Errorf("%q is no number of failures between 1 and 100", value)
			}
			if !h.own() {
				return "", "", fmt.Errorf("the app has no health check of its own: set health too")
			}
			from := byDefault
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
			if err != nil || n < 0 || n > MaxReplicas {
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
			c.Constraints = &list
			show := func(l []string) string {
				if len(l) == 0 {
					return "none"
				}
				return strings.Join(l, ", ")
			}
			return show(s.Constraints), show(list), nil
		}},
		{name: "node", values: "the node of its persistent data, where it runs now", restarts: true}, // planned by AppSet.home
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

// byDefault is the value of a health check's number that leaves it to Docker.
const byDefault = "default"

// setting is the health check as `/app set` takes it.
func (h Health) setting() string {
	if len(h.Test) == 0 {
		return "image"
	}
	return h.String()
}

// pins are the constraints that hold the service on one node.
func (s Service) pins() []constraint {
	var out []constraint
	for _, raw := range s.Constraints {
		if c, ok := parseConstraint(raw); ok && c.equal && (c.key == "node.id" || c.key == "node.hostname") {
			out = append(out, c)
		}
	}
	return out
}

// dataStays is why an app with persistent data is not moved, and how to do it by
// hand. Where says where its data is.
func (s Service) dataStays(where string) error {
	var volumes []string
	for _, m := range s.Mounts {
		if m.Type != "tmpfs" {
			volumes = append(volumes, m.Source)
		}
	}
	loosen := ""
	for _, raw := range s.Constraints {
		if c, ok := parseConstraint(raw); ok && slices.Contains(s.pins(), c) {
			loosen += fmt.Sprintf("--constraint-rm '%s' ", raw)
		}
	}
	if where == "" {
		where = "a node that is gone"
	}
	return Errorf(Invalid, "Its data is on %s, and elsewhere it would start without it", where).
		Then("To move it: `/scale %[1]s 0`; copy its volumes (%[2]s) to the other node; on a manager `docker service update %[3]s--constraint-add node.id==<id of the other> %[1]s`; `/scale %[1]s %[4]d`.",
			s.Name, strings.Join(volumes, ", "), loosen, max(1, s.Replicas))
}

// rolling says how an update replaces the tasks of the service.
func (s Service) rolling() string {
	if s.Parallelism == 0 {
		return "all at once, " + s.UpdateOrder
	}
	return fmt.Sprintf("%d at a time, %s", s.Parallelism, s.UpdateOrder)
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

// nodesOwn are ports that a node needs itself: one that the routing mesh takes on
// every node shuts its operators out, or breaks the swarm.
var nodesOwn = map[int]string{22: "SSH", 2375: "Docker", 2376: "Docker", 2377: "the swarm's managers", 4789: "the overlay networks", 7946: "the swarm's gossip"}

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
		if whose := nodesOwn[p.Published]; whose != "" {
			return nil, bad(fmt.Sprintf("%d is the nodes' own, for %s", p.Published, whose))
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

	// Rolls is set when the change that is about to be written restarts tasks: once it is
	// written nothing tells that any more.
	Rolls bool `json:"rolls,omitempty"`

	svc      Service
	change   Change
	restarts bool
}

func (*AppSet) Kind() string     { return "app-set" }
func (a *AppSet) Target() string { return a.App }
func (*AppSet) Needs() Role      { return Operator }

// Plan says what each setting was and will be, and whether tasks are restarted.
func (a *AppSet) Plan(ctx context.Context, run *Run) (Plan, error) {
	svc, err := run.app(ctx, a.App)
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
		var from, to string
		if name == "node" {
			from, to, err = a.home(ctx, run, a.Values[name])
		} else {
			from, to, err = s.plan(svc, a.Values[name], &a.change)
		}
		if err == nil && name == "constraints" {
			err = a.keepsData(ctx, run)
		}
		if e := new(Error); errors.As(err, &e) && e.Next != "" {
			return Plan{}, Errorf(e.Code, "%s cannot be set: %s", name, lowerFirst(e.Sentence)).Then("%s", e.Next)
		}
		if err != nil {
			return Plan{}, Errorf(Invalid, "%s cannot be set: %w", name, err).Then("It takes %s.", s.values)
		}
		plan.Diffs = append(plan.Diffs, Diff{What: name, From: from, To: to})
		a.restarts = a.restarts || s.restarts && from != to
		if name != "node" { // data does not move back either
			undo += fmt.Sprintf(" %s=%q", name, from)
		}
	}
	if svc.gated() {
		switch branch, ok := a.change.Labels[LabelBranch]; {
		case slices.Contains(a.change.Unset, LabelApprove):
			plan.Approval = svc.ungates()
		case ok && branch != svc.Labels[LabelBranch], slices.Contains(a.change.Unset, LabelBranch) && svc.Labels[LabelBranch] != "":
			plan.Approval = svc.redirects()
		}
	}
	if a.restarts {
		if err := a.consequences(ctx, run, &plan); err != nil {
			return Plan{}, err
		}
	} else {
		plan.Facts = append(plan.Facts, "no task is restarted")
	}
	if strings.Contains(undo, "=") {
		plan.Undo = undo
	}
	return plan, nil
}

// home plans the node of an app's data. It can be said where the data is already;
// data does not move.
func (a *AppSet) home(ctx context.Context, run *Run, value string) (from, to string, err error) {
	s := a.svc
	if _, both := a.Values["constraints"]; both {
		return "", "", fmt.Errorf("constraints are set in the same line")
	}
	if !s.Persistent {
		return "", "", Errorf(Invalid, "The app has no persistent data, so it may run anywhere").Then("`/app set %s constraints=node.hostname==%s` places it.", s.Name, value)
	}
	w, err := readWorld(ctx, run.Swarm)
	if err != nil {
		return "", "", err
	}
	homes := w.homes(s)
	if value == "none" {
		return "", "", s.dataStays(hostnames(homes))
	}
	node, _, err := findNode(ctx, run.Swarm, value)
	if err != nil {
		return "", "", err
	}
	if s.pinned(node) {
		return node.Hostname, node.Hostname, nil
	}
	if len(s.pins()) > 0 || len(homes) > 0 && !slices.ContainsFunc(homes, func(n Node) bool { return n.ID == node.ID }) {
		return "", "", s.dataStays(hostnames(homes))
	}
	constraints := append(slices.Clone(s.Constraints), "node.id == "+node.ID)
	a.change.Constraints = &constraints
	return "any", node.Hostname, nil
}

// keepsData refuses constraints that let an app leave the node of its data.
func (a *AppSet) keepsData(ctx context.Context, run *Run) error {
	kept := func(pin constraint) bool {
		return slices.ContainsFunc(*a.change.Constraints, func(raw string) bool { c, ok := parseConstraint(raw); return ok && c == pin })
	}
	if !a.svc.Persistent || !slices.ContainsFunc(a.svc.pins(), func(pin constraint) bool { return !kept(pin) }) {
		return nil
	}
	w, err := readWorld(ctx, run.Swarm)
	if err != nil {
		return err
	}
	return a.svc.dataStays(hostnames(w.homes(a.svc)))
}

// consequences are what a change that restarts tasks leads to.
func (a *AppSet) consequences(ctx context.Context, run *Run, plan *Plan) error {
	w, err := readWorld(ctx, run.Swarm)
	if err != nil {
		return err
	}
	after := a.change.on(a.svc)
	if taken := portsTaken(after.Ports, a.svc.Name, w.services); taken != "" && a.change.Ports != nil {
		return Errorf(Invalid, "ports cannot be set: %s", taken).Then("Publish another port.")
	}
	plan.Facts = append(plan.Facts, "its tasks are restarted, "+after.rolling())
	if a.change.Constraints != nil && len(a.Values) == 1 {
		plan.Facts[len(plan.Facts)-1] = "tasks on nodes that fit go on; the others are restarted, " + after.rolling()
	}
	// Its own tasks are replaced, so they take nobody's place.
	others := slices.DeleteFunc(slices.Clone(w.tasks), func(t Task) bool { return t.ServiceID == a.svc.ID })
	if short := after.shortage(after.Replicas, w.nodes, reservations(w.services, others)); short != "" && after.Mode == Replicated {
		plan.Warnings = append(plan.Warnings, short)
	}
	if a.change.Ports != nil {
		plan.Warnings = append(plan.Warnings, after.worries(w.nodes)...)
		if after.HostPorts && after.UpdateOrder == "start-first" {
			plan.Warnings = append(plan.Warnings, fmt.Sprintf("an update starts the new task first, and on its node the port is not free then: `/app set %s order=stop-first`", a.App))
		}
	}
	return nil
}

// on is the service as the change leaves it, as far as it matters to where its tasks
// run.
func (c Change) on(s Service) Service {
	if c.Constraints != nil {
		s.Constraints = *c.Constraints
	}
	if c.Reserve != nil && c.Reserve.CPU != nil {
		s.ReserveCPU = *c.Reserve.CPU
	}
	if c.Reserve != nil && c.Reserve.Memory != nil {
		s.ReserveMemory = *c.Reserve.Memory
	}
	if c.Ports != nil {
		s.Ports = *c.Ports
		s.HostPorts = slices.ContainsFunc(s.Ports, func(p Port) bool { return p.Host })
	}
	if c.UpdateOrder != "" {
		s.UpdateOrder = c.UpdateOrder
	}
	if c.Parallelism != nil {
		s.Parallelism = *c.Parallelism
	}
	return s
}

func lowerFirst(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToLower(text[:1]) + text[1:]
}

// Apply writes the settings, and nothing else, in one update.
func (a *AppSet) Apply(ctx context.Context, run *Run) error {
	a.Rolls = a.restarts || run.resumed && a.Rolls
	if err := run.Save(ctx); err != nil {
		return redisAway(err)
	}
	if run.applied {
		return nil // written by an earlier attempt; what the swarm took back is not written again
	}
	_, err := run.Swarm.UpdateService(ctx, a.svc, a.change)
	return err
}

// Converge follows the restart of the tasks, if there is one.
func (a *AppSet) Converge(ctx context.Context, run *Run) (string, error) {
	names := slices.Sorted(maps.Keys(a.Values))
	what := fmt.Sprintf("%s of %s %s set", strings.Join(names, ", "), a.App, oneOrMore(len(names), "is", "are"))
	if !a.Rolls {
		return what, nil
	}
	got, err := run.followUpdate(ctx, a.svc.Name, "", "Nothing of the change is left; correct it and try again.")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %d of %d run with it", what, got.Running, got.Wanted), nil
}

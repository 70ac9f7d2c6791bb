package ops

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// appsShown is how many apps one answer lists.
const appsShown = 60

// AppList asks for all apps.
type AppList struct{ Page int } // from 1

func (AppList) Needs() Role { return Viewer }

// Ask lists the apps, those with a problem as concerns.
func (q AppList) Ask(ctx context.Context, r *Runner, _ Actor) (Answer, error) {
	w, err := readWorld(ctx, r.Env.Swarm)
	if err != nil {
		return Answer{}, err
	}
	waits := map[string]string{}
	if pending, err := r.PendingOperations(ctx); err == nil {
		for _, p := range pending {
			waits[p.Target] = p.Kind + " waits for an approval"
		}
	} else {
		r.Log.Warn("what waits is not in the list of apps", "err", err)
	}
	a := Answer{}
	if c, err := r.Env.Swarm.Cluster(ctx); err == nil && c.Labels[LabelFreeze] != "" {
		a.Concern("deploys of all apps are frozen by "+c.Labels[LabelFreeze], "`/unfreeze all`")
	}
	short := 0
	rows := [][]string{{"APP", "REPLICAS", "HEALTH", "RELEASE", "NODES", ""}}
	page := max(1, q.Page)
	for i, s := range w.services {
		got := w.observe(s)
		if !s.job() && got.Running < got.Wanted {
			short++
		}
		if i < (page-1)*appsShown || i >= page*appsShown {
			continue
		}
		rows = append(rows, []string{s.Name, s.replicasText(got), s.healthText(got, w.of[s.ID]), s.releaseText(), nodesText(got), s.notes(waits[s.Name])})
		if problem := s.problem(got); problem != "" && len(a.Concerns) < 10 {
			a.Concern(problem, fmt.Sprintf("`/app show %s`", s.Name))
		}
	}
	a.Head = fmt.Sprintf("%s, %s", many(len(w.services), "app"), oneOrMore(len(w.services), "at its count", "all at their count"))
	if short > 0 {
		a.Head = fmt.Sprintf("%s, %d not at their count", many(len(w.services), "app"), short)
	}
	if pages := (len(w.services) + appsShown - 1) / appsShown; pages > 1 {
		if page > pages {
			return Answer{}, Errorf(Invalid, "There is no page %d: %s fill %d", page, many(len(w.services), "app"), pages)
		}
		a.Head += fmt.Sprintf(" (page %d of %d)", page, pages)
		if page < pages {
			a.Concern("there are more", fmt.Sprintf("`/app list --page %d`", page+1))
		}
	}
	if len(w.services) == 0 {
		return Answer{Head: "This swarm runs no service yet", Parts: []Part{{Lines: []string{"`/app create <name> <repo>` makes one that a push deploys."}}}}, nil
	}
	a.Parts = []Part{{Table: rows}}
	return a, nil
}

func (s Service) job() bool { return s.Mode == ReplicatedJob || s.Mode == GlobalJob }

func (s Service) replicasText(got Replicas) string {
	switch s.Mode {
	case Global:
		return fmt.Sprintf("%d/%d global", got.Running, got.Wanted)
	case ReplicatedJob, GlobalJob:
		return "job"
	}
	return fmt.Sprintf("%d/%d", got.Running, got.Wanted)
}

// healthText is a word for how its tasks are. A task with a health check does not
// run before that passes.
func (s Service) healthText(got Replicas, tasks []Task) string {
	switch {
	case s.job() || got.Wanted == 0:
		return "-"
	case got.Running < got.Wanted && slices.ContainsFunc(tasks, func(t Task) bool { return t.wanted() && t.State == "starting" }):
		return "starting"
	case got.Running < got.Wanted:
		return "failing"
	case s.Health.own():
		return "healthy"
	}
	return "unchecked"
}

func (s Service) releaseText() string {
	releases, err := s.Releases()
	if err != nil {
		return "?"
	}
	if len(releases) == 0 {
		return "-"
	}
	return fmt.Sprintf("%d %s", releases[0].Number, releases[0].what())
}

func nodesText(got Replicas) string {
	if len(got.Nodes) > 3 {
		return many(len(got.Nodes), "node")
	}
	names := make([]string, len(got.Nodes))
	for i, n := range got.Nodes {
		names[i] = n.Node
	}
	return strings.Join(names, " ")
}

// notes are what to know of an app at a glance.
func (s Service) notes(waits string) string {
	var out []string
	if s.Labels[LabelFreeze] != "" {
		out = append(out, "frozen")
	}
	if s.Persistent {
		out = append(out, "data")
	}
	if waits != "" {
		out = append(out, waits)
	}
	return strings.Join(out, ", ")
}

// problem is what is wrong with an app, "" when nothing is.
func (s Service) problem(got Replicas) string {
	if s.job() || got.Running >= got.Wanted {
		return ""
	}
	text := fmt.Sprintf("%s runs %d of %d", s.Name, got.Running, got.Wanted)
	if len(got.Problems) > 0 {
		text += ": " + got.Problems[0].String()
	}
	return text
}

// AppShow asks for one app.
type AppShow struct{ App string }

func (AppShow) Needs() Role { return Viewer }

// Ask tells all there is to know of an app, and what a scale would do now.
func (q AppShow) Ask(ctx context.Context, r *Runner, _ Actor) (Answer, error) {
	svc, err := findApp(ctx, r.Env.Swarm, q.App)
	if err != nil {
		return Answer{}, err
	}
	w, err := readWorld(ctx, r.Env.Swarm)
	if err != nil {
		return Answer{}, err
	}
	got := w.observe(svc)
	a := Answer{Head: fmt.Sprintf("%s runs %s", svc.Name, svc.replicasText(got))}
	releases, err := svc.Releases()
	if err != nil {
		a.Concern(sentenceOf(err), "")
	} else if len(releases) > 0 {
		a.Head += fmt.Sprintf(", release %d (%s) since %s", releases[0].Number, releases[0].what(), ago(r.Env.Now(), releases[0].At))
	}
	facts := svc.facts()
	if registries, err := ReadRegistries(ctx, r.Env.Swarm); err != nil {
		a.Concern(sentenceOf(err), "")
	} else if from, ok := registries.Of(svc.Image); ok {
		facts = slices.Insert(facts, 1, "pulled with the login of the registry "+from.String())
	}
	a.Parts = []Part{{Lines: facts}}
	a.Parts = append(a.Parts, tasksPart(svc, w))
	if len(releases) > 0 {
		a.Parts = append(a.Parts, Part{Title: "Last releases", Table: releaseRows(releases[:min(3, len(releases))], r.Env.Now())})
	}
	if svc.Mode == Replicated {
		switch more, why := svc.places(w.nodes, w.used); {
		case more >= unlimited:
			a.Parts = append(a.Parts, Part{Lines: []string{"Any number more would find a place: nothing is reserved."}})
		case more == 0:
			a.Parts = append(a.Parts, Part{Lines: []string{"None more would find a place: " + strings.Join(why[:min(4, len(why))], ", ") + "."}})
		default:
			a.Parts = append(a.Parts, Part{Lines: []string{fmt.Sprintf("%d more would find a place: %s.", more, strings.Join(why[:min(4, len(why))], ", "))}})
		}
	}
	for _, p := range got.Problems {
		a.Concern(fmt.Sprintf("%d not running: %s", p.Count, p), fmt.Sprintf("`/app logs %s`", svc.Name))
	}
	for _, text := range svc.worries(w.nodes) {
		a.Concern(text, "")
	}
	if f := svc.Labels[LabelFreeze]; f != "" {
		a.Concern("deploys are frozen by "+f, fmt.Sprintf("`/unfreeze %s`", svc.Name))
	}
	if c, err := r.Env.Swarm.Cluster(ctx); err == nil && c.Labels[LabelFreeze] != "" {
		a.Concern("deploys of all apps are frozen by "+c.Labels[LabelFreeze], "`/unfreeze all`")
	}
	return a, nil
}

// facts are what a service is set to.
func (s Service) facts() []string {
	out := []string{"image " + s.Image}
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if repo := s.Labels[LabelRepo]; repo != "" {
		add("deployed from %s, branch %s", repo, cmp.Or(s.Labels[LabelBranch], "(the repository's default)"))
	}
	for _, k := range append(s.linked(), LabelChannel) {
		if v := s.Labels[k]; v != "" && k != LabelRepo && k != LabelBranch && !strings.HasPrefix(k, LabelBuildSecret) {
			add("%s %s", strings.TrimPrefix(k, "waggle."), v)
		}
	}
	if s.MaxPerNode > 0 {
		add("at most %d on a node", s.MaxPerNode)
	}
	if len(s.Ports) > 0 {
		add("ports %s", join(s.Ports))
	}
	if len(s.Mounts) > 0 {
		add("volumes %s", join(s.Mounts))
	}
	if len(s.Env) > 0 {
		names := make([]string, len(s.Env))
		for i, v := range s.Env {
			names[i] = v.Name
		}
		add("environment %s (values are hidden)", strings.Join(names, ", "))
	}
	if len(s.Secrets) > 0 {
		names := make([]string, len(s.Secrets))
		for i, v := range s.Secrets {
			names[i] = v.File
		}
		add("secrets %s", strings.Join(names, ", "))
	}
	if ids := s.buildSecretIDs(); len(ids) > 0 {
		add("build secrets %s (values are hidden)", strings.Join(ids, ", "))
	}
	if s.LimitCPU > 0 || s.LimitMemory > 0 || s.ReserveCPU > 0 || s.ReserveMemory > 0 {
		limit := func(cpu, memory int64) string {
			c, m := "no", "no"
			if cpu > 0 {
				c = cores(cpu)
			}
			if memory > 0 {
				m = bytesText(memory)
			}
			return fmt.Sprintf("%s cores, %s memory", c, m)
		}
		add("limits %s; reserved %s", limit(s.LimitCPU, s.LimitMemory), limit(s.ReserveCPU, s.ReserveMemory))
	}
	add("health check: %s", s.Health)
	if len(s.Constraints) > 0 {
		add("runs where %s", strings.Join(s.Constraints, " and "))
	}
	add("updates %s", s.rolling())
	return out
}

func join[T fmt.Stringer](all []T) string {
	out := make([]string, len(all))
	for i, v := range all {
		out[i] = v.String()
	}
	return strings.Join(out, ", ")
}

// worries are what breaks scaling or balancing of an app, or its data.
func (s Service) worries(nodes []Node) []string {
	var out []string
	if s.HostPorts && s.Mode == Replicated {
		out = append(out, "its port is published on each node by itself: one replica a node, and nothing balances between them")
	}
	if down := s.pinnedDown(nodes); down != "" {
		out = append(out, down)
	}
	if s.Persistent && len(s.pins()) == 0 && s.Mode == Replicated {
		out = append(out, fmt.Sprintf("it has persistent data and may run on any node: a task that moves finds none of it; `/app set %s node=<where it runs>` keeps it there", s.Name))
	}
	return out
}

// downHome is the service's only node when that is away.
func (s Service) downHome(nodes []Node) (Node, bool) {
	i := slices.IndexFunc(nodes, func(n Node) bool { return s.pinned(n) && !n.up() })
	if i < 0 {
		return Node{}, false
	}
	return nodes[i], true
}

// pinnedDown says that the service's only node is away, "" when it is not.
func (s Service) pinnedDown(nodes []Node) string {
	n, down := s.downHome(nodes)
	if !down {
		return ""
	}
	return fmt.Sprintf("it is pinned to %s, which is %s: nothing of it runs until %[1]s is back", n.Hostname, n.State)
}

func tasksPart(s Service, w world) Part {
	names := map[string]string{}
	for _, n := range w.nodes {
		names[n.ID] = n.Hostname
	}
	rows := [][]string{{"TASK", "NODE", "STATE", "SINCE (UTC)", "ERROR"}}
	tasks := slices.Clone(w.of[s.ID])
	slices.SortStableFunc(tasks, func(a, b Task) int {
		return cmp.Or(strings.Compare(names[a.NodeID], names[b.NodeID]), a.Slot-b.Slot, b.Created.Compare(a.Created))
	})
	failures := map[int]bool{}
	for _, t := range tasks {
		if !t.wanted() && (t.Err == "" || failures[t.Slot]) {
			continue
		}
		if !t.wanted() {
			failures[t.Slot] = true // the newest failure of a slot is enough
		}
		name := fmt.Sprintf("%s.%d", s.Name, t.Slot)
		if t.Slot == 0 {
			name = s.Name
		}
		rows = append(rows, []string{name, names[t.NodeID], t.State, t.Updated.UTC().Format("01-02 15:04"), t.why()})
		if len(rows) > 40 {
			rows = append(rows, []string{"…"})
			break
		}
	}
	if len(rows) == 1 {
		return Part{Lines: []string{"No task."}}
	}
	return Part{Title: "Tasks", Table: rows}
}

// AppHistory asks for the releases of an app.
type AppHistory struct{ App string }

func (AppHistory) Needs() Role { return Viewer }

// Ask lists the releases, which are kept in the service itself.
func (q AppHistory) Ask(ctx context.Context, r *Runner, _ Actor) (Answer, error) {
	svc, err := findApp(ctx, r.Env.Swarm, q.App)
	if err != nil {
		return Answer{}, err
	}
	releases, err := svc.Releases()
	if err != nil {
		return Answer{}, err
	}
	if len(releases) == 0 {
		return Answer{Head: svc.Name + " has no release yet", Parts: []Part{{Lines: []string{"A push or `/deploy` makes the first."}}}}, nil
	}
	a := Answer{Head: fmt.Sprintf("%s runs release %d; %s kept", svc.Name, releases[0].Number, oneOrMore(len(releases), "1 release is", fmt.Sprintf("%d releases are", len(releases))))}
	a.Parts = []Part{{Table: releaseRows(releases, r.Env.Now())}, {Lines: []string{fmt.Sprintf("`/rollback %s <number>` goes back to one.", svc.Name)}}}
	return a, nil
}

func releaseRows(releases []Release, now time.Time) [][]string {
	rows := [][]string{{"RELEASE", "COMMIT", "BY", "WHEN", "IMAGE"}}
	for _, rel := range releases {
		_, digest, _ := strings.Cut(rel.Image, "@")
		image := withoutDigest(rel.Image)
		if digest != "" {
			image += "@" + digest[:min(19, len(digest))]
		}
		commit := cmp.Or(short(rel.Commit), "-")
		if rel.From > 0 {
			commit += fmt.Sprintf(" (back to %d)", rel.From)
		}
		rows = append(rows, []string{strconv.Itoa(rel.Number), commit, rel.By, ago(now, rel.At), image})
	}
	return rows
}

// ago says how long ago something was.
func ago(now, at time.Time) string {
	switch d := now.Sub(at); {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return at.UTC().Format("2006-01-02")
	}
}

// secretNames are the parts of an environment variable's name that make its value
// a secret in logs.
var secretNames = []string{"PASS", "SECRET", "TOKEN", "KEY", "CREDENTIAL", "AUTH", "DSN", "PRIVATE"}

// masker replaces what must not be seen of a service's environment.
func (s Service) masker() *strings.Replacer { return strings.NewReplacer(s.secrets()...) }

// secrets are the values of a service's environment that must not be seen, the
// longest first, each followed by what to show instead.
func (s Service) secrets() []string {
	var pairs []string
	for _, v := range slices.Backward(slices.SortedFunc(slices.Values(s.Env), func(a, b EnvVar) int { return len(a.Value) - len(b.Value) })) {
		secretive := slices.ContainsFunc(secretNames, func(p string) bool { return strings.Contains(strings.ToUpper(v.Name), p) })
		if secretive && len(v.Value) >= 4 {
			pairs = append(pairs, v.Value.Reveal(), "<"+v.Name+">")
		}
	}
	return pairs
}

// AppLogs asks for what an app's tasks printed.
type AppLogs struct {
	App   string
	Lines int // the last ones
	Since time.Duration
	Grep  string // only lines with it; letters of both cases
	Task  string // only of this slot ("2"), task or node
}

func (AppLogs) Needs() Role { return Viewer }

// Ask reads the logs from all nodes, in order of time.
func (q AppLogs) Ask(ctx context.Context, r *Runner, _ Actor) (Answer, error) {
	svc, err := findApp(ctx, r.Env.Swarm, q.App)
	if err != nil {
		return Answer{}, err
	}
	nodes, err := r.Env.Swarm.Nodes(ctx)
	if err != nil {
		return Answer{}, err
	}
	tasks, err := r.Env.Swarm.Tasks(ctx, svc.ID, false)
	if err != nil {
		return Answer{}, err
	}
	request := LogRequest{Lines: q.Lines, Since: q.Since}
	if q.Grep != "" {
		request.Lines = 2000 // what is looked through
	}
	lines, partial, err := r.Env.Swarm.ServiceLogs(ctx, svc, request)
	if err != nil {
		return Answer{}, err
	}
	host, slot := map[string]string{}, map[string]string{}
	for _, n := range nodes {
		host[n.ID] = n.Hostname
	}
	for _, t := range tasks {
		slot[t.ID] = cmp.Or(strings.TrimPrefix(strconv.Itoa(t.Slot), "0"), host[t.NodeID])
	}
	// A slot first: an id may begin with its number.
	fits := func(l LogLine) bool { return strings.HasPrefix(l.TaskID, q.Task) }
	switch named := func(name string) bool { return name == q.Task }; {
	case slices.ContainsFunc(slices.Collect(maps.Values(slot)), named):
		fits = func(l LogLine) bool { return slot[l.TaskID] == q.Task }
	case slices.ContainsFunc(slices.Collect(maps.Values(host)), named):
		fits = func(l LogLine) bool { return host[l.NodeID] == q.Task }
	}
	mask := svc.masker()
	var out []string
	for _, l := range lines {
		if q.Task != "" && !fits(l) {
			continue
		}
		text := mask.Replace(l.Text)
		if q.Grep != "" && !strings.Contains(strings.ToLower(text), strings.ToLower(q.Grep)) {
			continue
		}
		out = append(out, fmt.Sprintf("%s %s@%s %s", l.At.UTC().Format("15:04:05"), cmp.Or(slot[l.TaskID], l.TaskID[:min(8, len(l.TaskID))]), cmp.Or(host[l.NodeID], "?"), text))
	}
	if q.Lines > 0 && len(out) > q.Lines {
		out = out[len(out)-q.Lines:]
	}
	a := Answer{Head: fmt.Sprintf("The last %s of %s, times in UTC", many(len(out), "line"), svc.Name), Moves: true}
	if len(out) == 0 {
		a.Head = svc.Name + " printed nothing"
		if q.Grep != "" || q.Task != "" || q.Since > 0 {
			a.Head += " that fits"
		}
	} else {
		a.Parts = []Part{{Code: strings.Join(out, "\n"), File: svc.Name + ".log"}}
	}
	if partial {
		var away []string
		for _, n := range nodes {
			if !n.up() {
				away = append(away, n.Hostname)
			}
		}
		a.Concern("a node does not give its logs, so lines may be missing", strings.Join(away, ", "))
	}
	return a, nil
}

package ops_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/ops"
)

// fakeSwarm is a swarm of three nodes whose tasks run at once, unless a test
// says otherwise. It keeps version indexes as Docker does.
type fakeSwarm struct {
	fakeConfigs
	fakeMaking

	mu       sync.Mutex
	services map[string]*ops.Service
	previous map[string]ops.Service
	nodes    []ops.Node
	updates  []ops.Change
	built    []ops.BuildRequest

	beforeUpdate func(*fakeSwarm)                          // another hand, just before a write
	tasks        func(ops.Service) []ops.Task              // nil: all run
	rolled       func(svc *ops.Service, change ops.Change) // what becomes of an image update
	lineOf       func(log func(string))                    // what builds say
	build        func(ctx context.Context, req ops.BuildRequest) error
	push         func() error
	pushed       []ops.RegistryAuth
	sought       []string // "user image" that registries were asked for
	registry     func(image string) (string, error)
	log          string // of every task
	beforeNode   func(*fakeSwarm)
	nodeChanges  []ops.NodeChange
	nodeErrs     []error           // of the next changes of a node
	cluster      uint64            // its version
	labels       map[string]string // of the swarm
	rotated      []string
	afterUpdate  func(*ops.Service)
	lines        []ops.LogLine
	partial      bool
	logsAsked    ops.LogRequest
	made         []ops.NewService
	secrets      map[string]string // values by name
	secretsGone  []string
	volumesGone  []string
	volume       error
	images       []ops.LocalImage
	imagesGone   []string
	down         error // every call fails with it
	faults
	asks int // how often all services were read
}

func newFakeSwarm(services ...ops.Service) *fakeSwarm {
	f := &fakeSwarm{services: map[string]*ops.Service{}, previous: map[string]ops.Service{}}
	for i := range 3 {
		f.nodes = append(f.nodes, ops.Node{ID: fmt.Sprintf("id%d", i+1), Hostname: fmt.Sprintf("n%d", i+1), State: "ready", Availability: "active", Role: "worker",
			Addr: fmt.Sprintf("10.0.0.%d", i+1), OS: "linux", Arch: "x86_64", EngineVersion: "20.10.24", CPUs: 2e9, Memory: 4 << 30})
	}
	f.manager(0)
	f.nodes[0].Leader = true
	for _, s := range services {
		if s.Mode == "" {
			s.Mode = ops.Replicated
		}
		s.ID, s.Version, s.Monitor = "id-"+s.Name, 10, 20*time.Millisecond
		f.services[s.Name] = &s
	}
	f.save(ops.Registries{List: []ops.Registry{sealed("reg", "reg:5000", "acme", "mia", "canary-reg")}, Default: "reg"})
	return f
}

// manager makes a node one.
func (f *fakeSwarm) manager(i int) {
	n := &f.nodes[i]
	n.Role, n.Manager, n.Reachable, n.ManagerAt = "manager", true, true, n.Addr+":2377"
}

func (f *fakeSwarm) with(do func()) { f.mu.Lock(); defer f.mu.Unlock(); do() }

func (f *fakeSwarm) service(name string) ops.Service {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *f.services[name]
}

func (f *fakeSwarm) changes() []ops.Change {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.updates)
}

func (f *fakeSwarm) Services(ctx context.Context) ([]ops.Service, error) {
	if err := f.begin(ctx, "Services"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asks++
	var out []ops.Service
	for _, name := range slices.Sorted(maps.Keys(f.services)) {
		out = append(out, *f.services[name])
	}
	return out, f.down
}

// asked is how often all services were read.
func (f *fakeSwarm) asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asks
}

func (f *fakeSwarm) Service(ctx context.Context, name string) (ops.Service, error) {
	if err := f.begin(ctx, "Service"); err != nil {
		return ops.Service{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return ops.Service{}, f.down
	}
	s, ok := f.services[name]
	if !ok {
		return ops.Service{}, ops.Errorf(ops.NotFound, "There is no service %s", name)
	}
	return *s, nil
}

func (f *fakeSwarm) Tasks(ctx context.Context, id string, upToDate bool) ([]ops.Task, error) {
	if err := f.begin(ctx, "Tasks"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	svc := *f.services[strings.TrimPrefix(id, "id-")]
	make := f.tasks
	if make == nil {
		make = f.spread
	}
	var out []ops.Task
	for _, t := range make(svc) {
		if !upToDate || t.Image == "" || t.Image == svc.Image {
			out = append(out, t)
		}
	}
	return out, nil
}

func (f *fakeSwarm) Nodes(ctx context.Context) ([]ops.Node, error) {
	if err := f.begin(ctx, "Nodes"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.nodes), f.down
}

// NodeTasks returns the running tasks of all services.
func (f *fakeSwarm) NodeTasks(ctx context.Context, nodeID string) ([]ops.Task, error) {
	services, err := f.Services(ctx)
	if err != nil {
		return nil, err
	}
	var out []ops.Task
	for _, s := range services {
		tasks, _ := f.Tasks(ctx, s.ID, false)
		for _, t := range tasks {
			if nodeID == "" || t.NodeID == nodeID {
				t.ServiceID = s.ID
				out = append(out, t)
			}
		}
	}
	return out, nil
}

func (f *fakeSwarm) UpdateNode(ctx context.Context, n ops.Node, c ops.NodeChange) error {
	return f.write(ctx, "UpdateNode", func() error { return f.updateNode(n, c) })
}

func (f *fakeSwarm) updateNode(n ops.Node, c ops.NodeChange) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.nodeErrs) > 0 {
		err := f.nodeErrs[0]
		f.nodeErrs = f.nodeErrs[1:]
		return err
	}
	if hand := f.beforeNode; hand != nil {
		f.beforeNode = nil
		hand(f)
	}
	i := slices.IndexFunc(f.nodes, func(m ops.Node) bool { return m.ID == n.ID })
	if i < 0 {
		return ops.Errorf(ops.NotFound, "There is no node %s", n.ID)
	}
	if f.nodes[i].Version != n.Version {
		return ops.Errorf(ops.OutOfDate, "%s changed since it was read", n.Hostname)
	}
	f.nodeChanges = append(f.nodeChanges, c)
	m := &f.nodes[i]
	m.Version++
	if c.Availability != "" {
		m.Availability = c.Availability
	}
	if c.Role != "" {
		m.Role, m.Manager, m.Reachable = c.Role, c.Role == "manager", c.Role == "manager"
	}
	m.Labels = maps.Clone(m.Labels)
	for k, v := range c.Labels {
		if m.Labels == nil {
			m.Labels = map[string]string{}
		}
		m.Labels[k] = v
	}
	for _, k := range c.Unset {
		delete(m.Labels, k)
	}
	return nil
}

func (f *fakeSwarm) RemoveNode(ctx context.Context, id string, force bool) error {
	return f.write(ctx, "RemoveNode", func() error { return f.removeNode(id, force) })
}

func (f *fakeSwarm) removeNode(id string, force bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, n := range f.nodes {
		if n.ID != id {
			continue
		}
		if !force && n.State != "down" {
			return ops.Errorf(ops.Internal, "%s is not down and can't be removed", n.Hostname)
		}
		f.nodes = slices.Delete(f.nodes, i, i+1)
		return nil
	}
	return ops.Errorf(ops.NotFound, "There is no node %s", id)
}

func (f *fakeSwarm) Cluster(ctx context.Context) (ops.Cluster, error) {
	if err := f.begin(ctx, "Cluster"); err != nil {
		return ops.Cluster{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := ops.Cluster{ID: "cluster", Version: f.cluster, Self: "id1", Labels: maps.Clone(f.labels), WorkerToken: "canary-worker-token", ManagerToken: "canary-manager-token"}
	for _, r := range f.rotated {
		if strings.Contains(r, "worker true") {
			c.WorkerToken += "-new"
		}
		if strings.Contains(r, "manager true") {
			c.ManagerToken += "-new"
		}
	}
	return c, f.down
}

func (f *fakeSwarm) RotateTokens(ctx context.Context, c ops.Cluster, worker, manager bool) error {
	return f.write(ctx, "RotateTokens", func() error { return f.rotateTokens(c, worker, manager) })
}

func (f *fakeSwarm) rotateTokens(c ops.Cluster, worker, manager bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.Version != f.cluster {
		return ops.Errorf(ops.OutOfDate, "the swarm changed")
	}
	f.cluster++
	f.rotated = append(f.rotated, fmt.Sprintf("worker %t, manager %t", worker, manager))
	return nil
}

func (f *fakeSwarm) LabelSwarm(_ context.Context, c ops.Cluster, set map[string]string, unset []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.Version != f.cluster {
		return ops.Errorf(ops.OutOfDate, "the swarm changed")
	}
	f.cluster++
	if f.labels == nil {
		f.labels = map[string]string{}
	}
	maps.Copy(f.labels, set)
	for _, k := range unset {
		delete(f.labels, k)
	}
	return nil
}

func (f *fakeSwarm) UpdateService(ctx context.Context, svc ops.Service, c ops.Change) ([]string, error) {
	return nil, f.write(ctx, "UpdateService", func() error { return f.updateService(svc, c) })
}

func (f *fakeSwarm) updateService(svc ops.Service, c ops.Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if hand := f.beforeUpdate; hand != nil {
		f.beforeUpdate = nil
		hand(f)
	}
	s := f.services[svc.Name]
	if s.Version != svc.Version {
		return ops.Errorf(ops.OutOfDate, "%s was changed meanwhile", svc.Name)
	}
	f.updates = append(f.updates, c)
	f.previous[svc.Name] = *s
	if c.Auth != nil {
		if f.given == nil {
			f.given = map[string]string{}
		}
		f.given[s.Name] = c.Auth.Username + ":" + c.Auth.Password.Reveal()
	}
	s.Version++
	labels := map[string]string{}
	maps.Copy(labels, s.Labels)
	maps.Copy(labels, c.Labels)
	for _, k := range c.Unset {
		delete(labels, k)
	}
	s.Labels = labels
	if c.Replicas != nil {
		s.Replicas = *c.Replicas
	}
	s.Update = ops.UpdateStatus{}
	if f.afterUpdate != nil {
		f.afterUpdate(s)
	}
	if c.Image != "" {
		s.Image = c.Image
		s.Update = ops.UpdateStatus{State: "completed"}
		if f.rolled != nil {
			f.rolled(s, c)
		}
	}
	return nil
}

func (f *fakeSwarm) RollbackService(ctx context.Context, svc ops.Service) error {
	return f.write(ctx, "RollbackService", func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.services[svc.Name].Version != svc.Version {
			return ops.Errorf(ops.OutOfDate, "%s was changed meanwhile", svc.Name)
		}
		f.rollback(svc.Name)
		return nil
	})
}

func (f *fakeSwarm) rollback(name string) {
	s, old := f.services[name], f.previous[name]
	s.Image, s.Labels, s.Version = old.Image, old.Labels, s.Version+1
	s.Update = ops.UpdateStatus{State: "rollback_completed", Message: "rollback completed"}
}

func (f *fakeSwarm) TaskLogs(context.Context, string, int) (string, error) { return f.log, nil }

func (f *fakeSwarm) Build(ctx context.Context, req ops.BuildRequest, log func(string)) error {
	f.with(func() { f.built = append(f.built, req) })
	if f.lineOf != nil {
		f.lineOf(log)
	}
	if f.build != nil {
		return f.build(ctx, req)
	}
	log("#1 building")
	return nil
}

// ImageDigest finds every image, unless a test says otherwise.
func (f *fakeSwarm) ImageDigest(_ context.Context, image string, auth ops.RegistryAuth) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sought = append(f.sought, auth.Username+" "+image)
	if f.registry != nil {
		return f.registry(image)
	}
	if _, pinned, ok := strings.Cut(image, "@"); ok {
		return pinned, nil
	}
	return digest, nil
}

const digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

func (f *fakeSwarm) Push(_ context.Context, _ string, auth ops.RegistryAuth, _ func(string)) (string, error) {
	f.with(func() { f.pushed = append(f.pushed, auth) })
	if f.push != nil {
		if err := f.push(); err != nil {
			return "", err
		}
	}
	return digest, nil
}

// spread has one running task a slot, over the nodes that take tasks and that the
// service's constraint on the host name, if it has one, lets it run on; the others
// wait.
func (f *fakeSwarm) spread(s ops.Service) []ops.Task {
	var places []ops.Node
	for _, n := range f.nodes {
		if n.State == "ready" && n.Availability == "active" && (len(s.Constraints) == 0 || s.Constraints[0] == "node.hostname=="+n.Hostname || s.Constraints[0] == "node.id == "+n.ID) {
			places = append(places, n)
		}
	}
	slots := s.Replicas
	if s.Mode == ops.Global {
		slots = len(places)
	}
	var out []ops.Task
	for i := range slots {
		t := task(i+1, "running", "", 0)
		if s.Mode == ops.Global {
			t.Slot = 0
		}
		if len(places) == 0 {
			t.State, t.NodeID, t.Err = "pending", "", "no suitable node"
		} else {
			t.NodeID = places[i%len(places)].ID
		}
		out = append(out, t)
	}
	return out
}

func task(slot int, state, err string, age int) ops.Task {
	desired := "running"
	if state == "failed" || state == "rejected" || state == "shutdown" {
		desired = "shutdown"
	}
	return ops.Task{ID: fmt.Sprintf("t%d-%s-%d", slot, state, age), Slot: slot, NodeID: fmt.Sprintf("id%d", (slot-1)%3+1),
		State: state, Desired: desired, Err: err, Created: time.Unix(int64(1000-age), 0)}
}

// fakeSource has every commit.
type fakeSource struct {
	mu      sync.Mutex
	fetched []string
	removed int
	err     error
	heads   map[string]string // where branches are; elsewhere there are none
	looks   int
	files   map[string]string // of every commit; a Dockerfile if nil
}

func (s *fakeSource) Resolve(_ context.Context, _, branch string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	if head := s.heads[branch]; head != "" {
		return head, nil
	}
	return "", ops.Errorf(ops.NotFound, "no branch %s", branch)
}

func (s *fakeSource) Checkout(_ context.Context, url, commit, _ string) (string, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetched = append(s.fetched, url+"@"+commit)
	dir, err := os.MkdirTemp("", "waggle-test-")
	if err != nil {
		return "", nil, err
	}
	files := s.files
	if files == nil {
		files = map[string]string{"Dockerfile": "FROM scratch"}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return "", nil, err
		}
	}
	remove := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.removed++
		_ = os.RemoveAll(dir)
	}
	if s.err != nil {
		_ = os.RemoveAll(dir)
	}
	return dir, remove, s.err
}

// recorder is a Reporter that keeps every status.
type recorder struct {
	mu      sync.Mutex
	all     []ops.Status
	changed chan struct{}
	opened  []string              // which operation, and the name that its message was opened by
	closing func(id string)       // before a Close of that operation's message returns
	refuses func(id string) error // what that returns
}

func newRecorder() *recorder { return &recorder{changed: make(chan struct{}, 1)} }

func (r *recorder) Open(req ops.Request, ref string, save func(string)) ops.Message {
	r.mu.Lock()
	r.opened = append(r.opened, req.ID+" "+ref)
	r.mu.Unlock()
	if ref == "" {
		save("message-1")
	}
	return recorded{r, req.ID}
}

func (r *recorder) Record(context.Context, ops.Entry) error { return nil }

type recorded struct {
	*recorder
	id string
}

func (m recorded) Show(s ops.Status) {
	m.mu.Lock()
	m.all = append(m.all, s)
	m.mu.Unlock()
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

func (m recorded) Close(context.Context) error {
	m.mu.Lock()
	closing, refuses := m.closing, m.refuses
	m.mu.Unlock()
	if closing != nil {
		closing(m.id)
	}
	if refuses != nil {
		return refuses(m.id)
	}
	return nil
}

// wait returns the first status that is meant, now or later.
func (r *recorder) wait(t *testing.T, meant func(ops.Status) bool) ops.Status {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		r.mu.Lock()
		for _, s := range r.all {
			if meant(s) {
				r.mu.Unlock()
				return s
			}
		}
		last := ops.Status{}
		if len(r.all) > 0 {
			last = r.all[len(r.all)-1]
		}
		r.mu.Unlock()
		select {
		case <-r.changed:
		case <-deadline:
			t.Fatalf("not seen in time; the last status was %+v", last)
		}
	}
}

func (r *recorder) final(t *testing.T, id string) ops.Status {
	t.Helper()
	return r.wait(t, func(s ops.Status) bool { return s.ID == id && s.State.Final() })
}

func (r *recorder) seen(meant func(ops.Status) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.all, meant)
}

package simulate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"waggle/ops"
)

// monitor is how long the swarm watches a new task.
const monitor = 2 * time.Second

// swarm is a model of a Docker Swarm: services with a version index and a previous spec, rolling
// updates and automatic rollbacks. It has no goroutines: due events happen at the next call.
type swarm struct {
	w *world

	mu       sync.Mutex
	services map[string]*service
	due      []event // by time
	tasks    int     // that were ever made
}

type event struct {
	at time.Time
	do func()
}

type spec struct {
	replicas int
	image    string
	labels   map[string]string
}

func (s spec) String() string { return fmt.Sprintf("%d × %s", s.replicas, shortImage(s.image)) }

type service struct {
	name    string
	version uint64
	spec
	previous *spec
	status   ops.UpdateStatus
	tasks    []*task
	round    int // of updates: the steps of an earlier one end
}

type task struct {
	ops.Task
	failed bool
}

func newSwarm(w *world) *swarm {
	s := &swarm{w: w, services: map[string]*service{}}
	for name, replicas := range map[string]int{pizza: 2, pasta: 3} {
		labels := map[string]string{}
		if name == pizza {
			labels[ops.LabelRepo] = repo
		}
		svc := &service{name: name, version: 10, spec: spec{replicas, registryDomain + "/" + name + ":base@" + digest,
			labels}}
		for slot := range replicas {
			t := s.task(svc, slot+1)
			t.State = "running"
		}
		s.services[name] = svc
	}
	s.due = nil
	return s
}

// schedule calls do after d. The lock is held for both.
func (s *swarm) schedule(d time.Duration, do func()) {
	e := event{time.Now().Add(d), do}
	i, _ := slices.BinarySearchFunc(s.due, e, func(a, b event) int {
		if a.at.After(b.at) {
			return 1
		}
		return -1
	})
	s.due = slices.Insert(s.due, i, e)
}

// advance runs the events that are due, in order.
func (s *swarm) advance() {
	for len(s.due) > 0 && !s.due[0].at.After(time.Now()) {
		e := s.due[0]
		s.due = s.due[1:]
		e.do()
	}
}

// move advances the model when there are no calls.
func (s *swarm) move() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
}

// task creates a task for a slot.
func (s *swarm) task(svc *service, slot int) *task {
	s.tasks++
	now := time.Now()
	t := &task{Task: ops.Task{ID: fmt.Sprintf("task%d", s.tasks), ServiceID: "id-" + svc.name, NodeID: "id1",
		Slot: slot, State: "preparing", Desired: "running",
		Image: svc.image, Created: now, Updated: now}}
	svc.tasks = append(svc.tasks, t)
	s.schedule(s.w.duration(300, 1500, "start", s.tasks), func() {
		switch {
		case t.Desired != "running":
		case s.w.plan.bad[commitOf(t.Image)]:
			s.fail(svc, t)
		default:
			t.State, t.Updated = "running", time.Now()
			s.replace(svc, t)
		}
	})
	return t
}

// replace stops the other tasks of a slot when its new one runs.
func (s *swarm) replace(svc *service, by *task) {
	for _, t := range svc.tasks {
		if t != by && t.Slot == by.Slot && t.Desired == "running" {
			s.retire(t)
		}
	}
}

// fail ends a task with an error; the swarm restarts it.
func (s *swarm) fail(svc *service, t *task) {
	t.State, t.Desired, t.Err, t.ExitCode, t.failed, t.Updated = "failed", "shutdown", "task: non-zero exit (1)", 1,
		true, time.Now()
	s.w.note("swarm", "%s.%d fails (%s)", svc.name, t.Slot, shortImage(t.Image))
	if t.Image == svc.image && (svc.status.State == "updating" || svc.status.State == "rollback_started") {
		s.goBack(svc)
	}
	s.schedule(time.Second, func() { s.fill(svc) })
}

// retire stops a task.
func (s *swarm) retire(t *task) {
	t.Desired = "shutdown"
	s.schedule(200*time.Millisecond, func() {
		if !t.failed {
			t.State, t.Updated = "shutdown", time.Now()
		}
	})
}

// current returns the newest task of a slot whose desired state is running.
func (svc *service) current(slot int) *task {
	for _, t := range slices.Backward(svc.tasks) {
		if t.Slot == slot && t.Desired == "running" {
			return t
		}
	}
	return nil
}

// fill creates missing tasks and stops surplus ones.
func (s *swarm) fill(svc *service) {
	for _, t := range svc.tasks {
		if t.Desired == "running" && t.Slot > svc.replicas {
			s.retire(t)
		}
	}
	for slot := 1; slot <= svc.replicas; slot++ {
		if svc.current(slot) == nil {
			s.task(svc, slot)
		}
	}
}

func (svc *service) dirty() (slot int) {
	for slot := 1; slot <= svc.replicas; slot++ {
		if t := svc.current(slot); t == nil || t.Image != svc.image {
			return slot
		}
	}
	return 0
}

// roll replaces tasks with another image one at a time, start-first.
func (s *swarm) roll(svc *service, started, completed string) {
	svc.round++
	round := svc.round
	svc.status = ops.UpdateStatus{State: started, Message: strings.ReplaceAll(started, "_", " "), StartedAt: time.Now()}
	var step func()
	step = func() {
		if svc.round != round {
			return
		}
		slot := svc.dirty()
		if slot == 0 {
			s.schedule(monitor, func() {
				if svc.round == round {
					svc.status.State, svc.status.Message = completed, strings.ReplaceAll(completed, "_", " ")
				}
			})
			return
		}
		t := s.task(svc, slot)
		var wait func()
		wait = func() {
			switch {
			case svc.round != round:
			case t.State == "running":
				step()
			case t.Desired != "running":
			default:
				s.schedule(100*time.Millisecond, wait)
			}
		}
		wait()
	}
	step()
}

// goBack is the swarm's automatic rollback (FailureAction=rollback).
func (s *swarm) goBack(svc *service) {
	svc.round++
	if svc.status.State == "rollback_started" || svc.previous == nil {
		svc.status.State, svc.status.Message = "rollback_paused", "update paused due to failure"
		return
	}
	from := svc.spec
	svc.spec, svc.previous = *svc.previous, nil
	svc.version++
	s.w.recordWrite(write{by: bySwarm, app: svc.name, from: from, to: svc.spec, effective: true, undo: true})
	s.leave(svc)
	s.fill(svc)
	s.roll(svc, "rollback_started", "rollback_completed")
}

// leave stops tasks with another image that do not run yet.
func (s *swarm) leave(svc *service) {
	for slot := 1; slot <= svc.replicas; slot++ {
		if t := svc.current(slot); t != nil && t.State != "running" && t.Image != svc.image {
			s.retire(t)
		}
	}
}

// update writes a new spec.
func (s *swarm) update(svc *service, to spec) {
	old := svc.spec
	svc.previous, svc.spec = &old, to
	svc.version++
	svc.status = ops.UpdateStatus{}
	svc.round++
	if svc.image != old.image {
		s.leave(svc)
	}
	s.fill(svc)
	if svc.dirty() != 0 {
		s.roll(svc, "updating", "completed")
	}
}

// scaleByHand is `docker service scale` by somebody else.
func (s *swarm) scaleByHand(name string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
	svc := s.services[name]
	from, to := svc.spec, svc.spec
	to.replicas = n
	s.update(svc, to)
	s.w.recordWrite(write{by: byHand, app: name, from: from, to: to, effective: true})
}

// killTask ends a running task of a service.
func (s *swarm) killTask(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
	svc := s.services[name]
	if t := svc.current(1); t != nil && t.State == "running" {
		s.fail(svc, t)
	}
}

// client is the swarm as one replica sees it. The embedded interface is nil: the operations of
// the simulation call none of its other methods.
type client struct {
	ops.Swarm
	r *replica
}

func unavailable(err error) error {
	return &ops.Error{Code: ops.Unavailable, Sentence: "Docker did not answer in time", Err: err}
}

// call is the round trip to a manager. It fails while there is no leader, but a write may take
// effect all the same.
func (c client) call(ctx context.Context, what string, writes bool) (effect bool, err error) {
	if err := c.r.pass(); err != nil {
		return false, unavailable(err)
	}
	w := c.r.w
	time.Sleep(c.r.latency(what))
	if w.slow() {
		if err := c.wait(ctx, w.duration(300, 2500, "slow", what, w.now())); err != nil {
			return false, err
		}
	}
	if err := w.failpoint(c.r, pointSwarm, before); err != nil {
		return false, unavailable(err)
	}
	if _, away := w.away(partDocker); away {
		return false, &ops.Error{Code: ops.Unavailable, Sentence: "Docker does not answer",
			Err: errors.New("connect: connection refused")}
	}
	if since, away := w.leaderAway(); away {
		effect = writes && since < 6*time.Second && w.chance(3, "in flight", what, w.now())
		if err := c.wait(ctx, w.duration(500, 5000, "away", what, w.now())); err != nil {
			return effect, err
		}
		return effect, unavailable(fmt.Errorf("rpc error: the swarm does not have a leader"))
	}
	return true, nil
}

func (c client) wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return unavailable(ctx.Err())
	case <-t.C:
	}
	if err := c.r.pass(); err != nil {
		return unavailable(err)
	}
	return nil
}

func (svc *service) read() ops.Service {
	out := ops.Service{ID: "id-" + svc.name, Name: svc.name, Version: svc.version, Mode: ops.Replicated,
		Replicas: svc.replicas, Image: svc.image,
		Labels: maps.Clone(svc.labels), Update: svc.status, Monitor: monitor}
	for _, t := range svc.tasks {
		if t.Desired == "running" {
			out.Desired++
			if t.State == "running" {
				out.Running++
			}
		}
	}
	return out
}

func (c client) Services(ctx context.Context) ([]ops.Service, error) {
	if _, err := c.call(ctx, "services", false); err != nil {
		return nil, err
	}
	s := c.r.w.swarm
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
	var out []ops.Service
	for _, name := range slices.Sorted(maps.Keys(s.services)) {
		out = append(out, s.services[name].read())
	}
	return out, nil
}

func (c client) Service(ctx context.Context, name string) (ops.Service, error) {
	if _, err := c.call(ctx, "service "+name, false); err != nil {
		return ops.Service{}, err
	}
	s := c.r.w.swarm
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
	svc, ok := s.services[strings.TrimPrefix(name, "id-")]
	if !ok {
		return ops.Service{}, ops.Errorf(ops.NotFound, "There is no service %s", name)
	}
	return svc.read(), nil
}

func (c client) Tasks(ctx context.Context, id string, upToDate bool) ([]ops.Task, error) {
	if _, err := c.call(ctx, fmt.Sprint("tasks ", id, upToDate), false); err != nil {
		return nil, err
	}
	s := c.r.w.swarm
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
	svc, ok := s.services[strings.TrimPrefix(id, "id-")]
	if !ok {
		return nil, ops.Errorf(ops.NotFound, "There is no service %s", id)
	}
	var out []ops.Task
	for _, t := range svc.tasks {
		if !upToDate || t.Image == svc.image {
			out = append(out, t.Task)
		}
	}
	return out, nil
}

func (c client) NodeTasks(ctx context.Context, _ string) ([]ops.Task, error) {
	if _, err := c.call(ctx, "node tasks", false); err != nil {
		return nil, err
	}
	s := c.r.w.swarm
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
	var out []ops.Task
	for _, name := range slices.Sorted(maps.Keys(s.services)) {
		for _, t := range s.services[name].tasks {
			out = append(out, t.Task)
		}
	}
	return out, nil
}

func (c client) Nodes(ctx context.Context) ([]ops.Node, error) {
	if _, err := c.call(ctx, "nodes", false); err != nil {
		return nil, err
	}
	return []ops.Node{{ID: "id1", Hostname: "n1", Role: "manager", Manager: true, Leader: true, Reachable: true,
		State: "ready", Availability: ops.Active,
		Addr: "10.0.0.1", ManagerAt: "10.0.0.1:2377", OS: "linux", Arch: "x86_64", EngineVersion: "28.5.1", CPUs: 8e9,
		Memory: 16 << 30}}, nil
}

func (c client) Cluster(ctx context.Context) (ops.Cluster, error) {
	if _, err := c.call(ctx, "cluster", false); err != nil {
		return ops.Cluster{}, err
	}
	return ops.Cluster{ID: "cluster", Version: 1, Self: "id1"}, nil
}

func (c client) Configs(ctx context.Context, _ string) ([]ops.Config, error) {
	if _, err := c.call(ctx, "configs", false); err != nil {
		return nil, err
	}
	text := fmt.Sprintf(`{"format":1,"default":"reg","registries":[{"name":"reg","domain":%q,"push":true}]}`,
		registryDomain)
	return []ops.Config{{ID: "config1", Name: "waggle-registries-1", Data: []byte(text)}}, nil
}

func (client) Images(context.Context) ([]ops.LocalImage, error)      { return nil, nil }
func (client) TaskLogs(context.Context, string, int) (string, error) { return "", nil }
func (client) ImageDigest(_ context.Context, _ string, _ ops.RegistryAuth) (string, error) {
	return digest, nil
}

func (c client) Build(ctx context.Context, req ops.BuildRequest, _ func(string)) error {
	if err := c.r.pass(); err != nil {
		return unavailable(err)
	}
	if err := c.wait(ctx, c.r.w.duration(300, 3000, "build", req.Tag)); err != nil {
		return err
	}
	_, err := c.call(ctx, "build", false)
	return err
}

func (c client) Push(ctx context.Context, ref string, _ ops.RegistryAuth, _ func(string)) (string, error) {
	if err := c.r.pass(); err != nil {
		return "", unavailable(err)
	}
	return digest, c.wait(ctx, c.r.w.duration(200, 1500, "push", ref))
}

// UpdateService fails as OutOfDate unless the version is the one that was read.
func (c client) UpdateService(ctx context.Context, read ops.Service, change ops.Change) ([]string, error) {
	return nil, c.write(ctx, read, "update", func(svc *service) (spec, error) {
		to := svc.spec
		to.labels = maps.Clone(to.labels)
		maps.Copy(to.labels, change.Labels)
		for _, name := range change.Unset {
			delete(to.labels, name)
		}
		if change.Replicas != nil {
			to.replicas = *change.Replicas
		}
		if change.Image != "" {
			to.image = change.Image
		}
		return to, nil
	})
}

// RollbackService restores the previous spec.
func (c client) RollbackService(ctx context.Context, read ops.Service) error {
	return c.write(ctx, read, "rollback", func(svc *service) (spec, error) {
		if svc.previous == nil {
			return spec{}, ops.Errorf(ops.Internal, "service %s does not have a previous spec", svc.name)
		}
		return *svc.previous, nil
	})
}

func (c client) write(ctx context.Context, read ops.Service, what string, change func(*service) (spec, error)) error {
	w, s := c.r.w, c.r.w.swarm
	op := w.operationOf(ctx)
	fault, err := w.failpointResult(c.r, pointUpdate, before)
	if err != nil {
		return unavailable(err)
	}
	effect, failed := c.call(ctx, what+" "+read.Name, true)
	if !effect {
		return failed
	}
	s.mu.Lock()
	s.advance()
	svc := s.services[read.Name]
	if svc.version != read.Version {
		s.mu.Unlock()
		if failed != nil {
			return failed
		}
		return ops.Errorf(ops.OutOfDate, "%s was changed meanwhile", read.Name)
	}
	to, err := change(svc)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	from := svc.spec
	s.update(svc, to)
	if what == "rollback" {
		// The rolling update that has begun is the rollback.
		if svc.status.State == "updating" {
			s.roll(svc, "rollback_started", "rollback_completed")
		} else {
			svc.status = ops.UpdateStatus{State: "rollback_completed", Message: "rollback completed"}
		}
	}
	lost := failed != nil || fault.lost
	w.recordWrite(write{by: op, on: c.r.name, app: read.Name, from: from, to: to, effective: true,
		undo: what == "rollback", lost: lost})
	s.mu.Unlock()
	if err := w.failpoint(c.r, pointUpdate, after); err != nil {
		return unavailable(err)
	}
	if failed == nil && fault.lost {
		if err := c.wait(ctx, 5*time.Second); err != nil {
			return err
		}
		failed = unavailable(context.DeadlineExceeded)
	}
	return failed
}

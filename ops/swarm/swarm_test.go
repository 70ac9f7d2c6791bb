package swarm

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/swarm"

	"waggle/internal/lab"
	"waggle/internal/secret"
	"waggle/ops"
)

// These tests need a real swarm; they are skipped unless WAGGLE_LAB=1.
var labs = lab.Pool{Options: lab.Options{Swarm: true}}

func TestMain(m *testing.M) { os.Exit(labs.Run(m)) }

// real is the adapter on the lab's first manager.
type real struct {
	*Client
	*testing.T
	lab  *lab.Lab
	auth ops.RegistryAuth // of the private registry
}

func onLab(t *testing.T) *real {
	l := labs.Get(t)
	c, err := Dial(Options{Host: l.Manager().Host()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &real{Client: c, T: t, lab: l, auth: ops.RegistryAuth{Username: l.Private.User, Password: secret.Text(l.Private.Password)}}
}

// buildOf builds an image from a Dockerfile and returns its progress.
func (r *real) buildOf(ctx context.Context, tag, dockerfile string, logins []ops.RegistryLogin) (string, error) {
	r.Helper()
	dir := r.TempDir()
	for name, content := range map[string]string{"Dockerfile": dockerfile, ".dockerignore": "*.key\n", "menu.txt": "margherita\n", "private.key": "canary"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			r.Fatal(err)
		}
	}
	var lines []string
	err := r.Build(ctx, ops.BuildRequest{Dir: dir, Tag: tag, Logins: logins}, func(l string) { lines = append(lines, l) })
	return strings.Join(lines, "\n"), err
}

// release builds and pushes an image to the private registry and returns it
// pinned.
func (r *real) release(tag, dockerfile string) string {
	r.Helper()
	ref := r.lab.Private.Image(tag)
	if log, err := r.buildOf(r.Context(), ref, dockerfile, nil); err != nil {
		r.Fatalf("building %s: %v\n%s", ref, err, log)
	}
	digest, err := r.Push(r.Context(), ref, r.auth, nil)
	if err != nil {
		r.Fatal(err)
	}
	return ref + "@" + digest
}

// pull has the manager's engine pull an image: Engine 20.10's BuildKit takes
// no subnet for an insecure registry, but does take what is there.
func (r *real) pull(ref string) {
	r.Helper()
	stream, err := r.api.ImagePull(r.Context(), ref, image.PullOptions{})
	if err != nil {
		r.Fatal(err)
	}
	defer stream.Close()
	if _, err := io.Copy(io.Discard, stream); err != nil {
		r.Fatal(err)
	}
}

// create makes a service as docker service create does, removed at the end.
func (r *real) create(name string, replicas uint64, command ...string) ops.Service {
	r.Helper()
	created, err := r.api.ServiceCreate(r.Context(), swarm.ServiceSpec{
		Annotations:  swarm.Annotations{Name: name},
		TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: r.lab.BaseImage, Args: command}},
		Mode:         swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}},
	}, swarm.ServiceCreateOptions{})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := r.api.ServiceRemove(context.Background(), created.ID); err != nil {
			r.Error(err)
		}
	})
	return r.service(name)
}

func (r *real) service(name string) ops.Service {
	r.Helper()
	s, err := r.Service(r.Context(), name)
	if err != nil {
		r.Fatal(err)
	}
	return s
}

func (r *real) change(name string, c ops.Change) {
	r.Helper()
	if warnings, err := r.UpdateService(r.Context(), r.service(name), c); err != nil || len(warnings) > 0 {
		r.Fatalf("update of %s: %v, warnings %q", name, err, warnings)
	}
}

// until waits for a state of the service and its current tasks.
func (r *real) until(name, what string, ok func(s ops.Service, tasks []ops.Task) bool) {
	r.Helper()
	began := time.Now()
	for {
		s := r.service(name)
		tasks, err := r.Tasks(r.Context(), s.ID, true)
		if err != nil {
			r.Fatal(err)
		}
		if ok(s, tasks) {
			r.Logf("%s: %s after %s", name, what, time.Since(began).Round(time.Millisecond))
			return
		}
		if time.Since(began) > time.Minute {
			r.Fatalf("%s: not %s after a minute: %+v %+v", name, what, s, tasks)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// running says that n tasks run, made from the image if one is given.
func running(n int, image string) func(ops.Service, []ops.Task) bool {
	return func(_ ops.Service, tasks []ops.Task) bool {
		up := 0
		for _, k := range tasks {
			if k.State == "running" && k.Desired == "running" && (image == "" || k.Image == image) {
				up++
			}
		}
		return up == n
	}
}

func TestRealEngineAndNodes(t *testing.T) {
	r := onLab(t)
	i, err := r.Info(t.Context())
	if err != nil || i.Problem != "" || !i.Manager || i.NodeID == "" || i.SwarmID == "" || i.EngineVersion == "" || i.APIVersion == "" {
		t.Errorf("info = %+v, %v", i, err)
	}
	nodes, err := r.Nodes(t.Context())
	if err != nil || len(nodes) != len(r.lab.Nodes) {
		t.Fatalf("nodes = %+v, %v", nodes, err)
	}
	for i, n := range nodes {
		if n.Hostname != r.lab.Nodes[i].Name || n.State != "ready" || n.Addr != r.lab.Nodes[i].Addr {
			t.Errorf("node = %+v", n)
		}
	}
	if c, err := r.Cluster(t.Context()); err != nil || c.Self != nodes[0].ID || c.WorkerToken.Empty() || c.ManagerToken.Empty() {
		t.Errorf("c = %+v, %v", c, err)
	}
	worker, err := Dial(Options{Host: r.lab.Nodes[2].Host()})
	if err != nil {
		t.Fatal(err)
	}
	defer worker.Close()
	if i, err := worker.Info(t.Context()); err != nil || i.Manager || !strings.Contains(i.Problem, "worker") {
		t.Errorf("a worker's info = %+v, %v", i, err)
	}
	_, err = worker.Services(t.Context())
	wantError(t, err, ops.Unavailable, "is not a swarm manager")
}

func TestRealScaleRestartsNothing(t *testing.T) {
	r := onLab(t)
	s := r.create("scale", 2, "sleep", "1000")
	r.until("scale", "up", running(2, ""))
	before, _ := r.Tasks(t.Context(), s.ID, true)
	s = r.service("scale")
	five, three := 5, 3
	r.change("scale", ops.Change{Replicas: &five, Labels: map[string]string{"waggle.by": "mia"}, Rollback: true})
	r.until("scale", "scaled", running(5, ""))
	after, _ := r.Tasks(t.Context(), s.ID, true)
	kept := 0
	for _, a := range after {
		for _, b := range before {
			if a.ID == b.ID && a.Desired == "running" {
				kept++
			}
		}
	}
	if kept != 2 {
		t.Errorf("%d of 2 tasks are still there", kept)
	}
	_, err := r.UpdateService(t.Context(), s, ops.Change{Replicas: &three})
	wantError(t, err, ops.OutOfDate, "scale changed")
	// Somebody writes between our reading and our writing.
	current, raw, err := r.inspect(t.Context(), "scale")
	if err != nil {
		t.Fatal(err)
	}
	spec, _ := rawSpec(raw)
	current.Version.Index = s.Version
	_, err = r.write(t.Context(), current, spec, map[string][]string{}, map[string][]string{})
	wantError(t, err, ops.OutOfDate, "changed since")
	if err := r.RollbackService(t.Context(), r.service("scale")); err != nil {
		t.Fatal(err)
	}
	r.until("scale", "rolled back", running(2, ""))
	if got := r.service("scale").Labels["waggle.by"]; got != "" {
		t.Errorf("the label outlived the rollback: %q", got)
	}
}

func TestRealDeployAndItsFailure(t *testing.T) {
	r := onLab(t)
	r.pull(r.lab.BaseImage)
	r.create("pizza", 3)
	r.until("pizza", "up", running(3, ""))

	good := r.release("pizza:1", "FROM "+r.lab.BaseImage+"\nCOPY . /menu\nRUN test ! -e /menu/private.key\nCMD echo open; exec sleep 1000\n")
	r.change("pizza", ops.Change{Image: good, Auth: &r.auth, Rollback: true, Labels: map[string]string{"waggle.releases": "1"}})
	r.until("pizza", "deployed on every node, from the private registry", running(3, good))
	four := 4
	r.change("pizza", ops.Change{Replicas: &four}) // keeps the credentials
	r.until("pizza", "scaled", running(4, good))

	bad := r.release("pizza:2", "FROM "+r.lab.BaseImage+"\nCMD echo the oven is cold >&2; exit 3\n")
	r.change("pizza", ops.Change{Image: bad, Auth: &r.auth, Rollback: true, Labels: map[string]string{"waggle.releases": "2"}})
	r.until("pizza", "rolled back by the swarm", func(s ops.Service, tasks []ops.Task) bool {
		return s.Update.State == "rollback_completed" && running(4, good)(s, tasks)
	})
	s := r.service("pizza")
	if s.Image != good || s.Labels["waggle.releases"] != "1" {
		t.Errorf("after the rollback: image %s, releases %s", s.Image, s.Labels["waggle.releases"])
	}
	all, err := r.Tasks(t.Context(), s.ID, false)
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for _, k := range all {
		if k.Image == bad && k.State == "failed" {
			failed++
			log, err := r.TaskLogs(t.Context(), k.ID, 20)
			if err != nil || log != "the oven is cold" || k.ExitCode != 3 || !strings.Contains(k.Err, "non-zero exit (3)") {
				t.Errorf("log %q, %v of %+v", log, err, k)
			}
		}
	}
	if failed == 0 {
		t.Error("no task tells what failed")
	}
}

// A service whose image was for other machines runs here once its image is.
func TestRealUpdateOfPlatforms(t *testing.T) {
	r := onLab(t)
	r.pull(r.lab.BaseImage)
	created, err := r.api.ServiceCreate(t.Context(), swarm.ServiceSpec{
		Annotations: swarm.Annotations{Name: "foreign"},
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: &swarm.ContainerSpec{Image: r.lab.BaseImage, Args: []string{"sleep", "1000"}},
			Placement:     &swarm.Placement{Platforms: []swarm.Platform{{OS: "linux", Architecture: "s390x"}}},
		},
	}, swarm.ServiceCreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.api.ServiceRemove(context.Background(), created.ID); err != nil {
			t.Error(err)
		}
	})
	image := r.release("foreign:1", "FROM "+r.lab.BaseImage+"\nCMD exec sleep 1000\n")
	began := time.Now()
	r.change("foreign", ops.Change{Image: image, Auth: &r.auth})
	t.Logf("updated in %s", time.Since(began).Round(time.Millisecond))
	r.until("foreign", "on a node of the image's platform", running(1, image))
	if got := r.service("foreign").Platforms; len(got) != 1 || got[0] != "linux/"+runtime.GOARCH {
		t.Errorf("platforms %q", got)
	}
}

func TestRealBuildFromCache(t *testing.T) {
	r := onLab(t)
	r.pull(r.lab.BaseImage)
	dockerfile := fmt.Sprintf("FROM %s\nCOPY . /menu\nRUN echo baked %d\n", r.lab.BaseImage, time.Now().UnixNano())
	for _, cached := range []bool{false, true} {
		began := time.Now()
		log, err := r.buildOf(t.Context(), r.lab.Private.Image("cache:1"), dockerfile, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		t.Logf("built in %s", time.Since(began).Round(time.Millisecond))
		if strings.Count(log, "CACHED") >= 2 != cached {
			t.Errorf("cached %v:\n%s", cached, log)
		}
	}
}

func TestRealBuildThatFails(t *testing.T) {
	r := onLab(t)
	r.pull(r.lab.BaseImage)
	for name, c := range map[string]struct{ dockerfile, sentence, log string }{
		"step":    {"FROM " + r.lab.BaseImage + "\nRUN echo kneading; echo no flour >&2; exit 4\n", "exit code: 4", "no flour"},
		"syntax":  {"FROM scratch\nFROBNICATE\n", "unknown instruction: FROBNICATE", ""},
		"missing": {"FROM " + r.lab.BaseImage + "\nCOPY nothing /\n", "nothing", ""},
		"base":    {"FROM nowhere.invalid/base:1\n", "The base image nowhere.invalid/base:1 cannot be fetched", ""},
		"ignored": {"FROM " + r.lab.BaseImage + "\nCOPY private.key /\n", "private.key", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.buildOf(t.Context(), "fails:1", c.dockerfile, nil)
			if e := wantError(t, err, ops.Failed, c.sentence); !strings.Contains(e.Log, c.log) {
				t.Errorf("log %q", e.Log)
			}
		})
	}
}

func TestRealBuildFromAPrivateBase(t *testing.T) {
	r := onLab(t)
	base := r.lab.Private.Image("busybox:1")
	dockerfile := "FROM " + base + "\nRUN true\n"
	wrong := ops.RegistryAuth{Username: r.auth.Username, Password: "wrong-canary"}
	for _, logins := range [][]ops.RegistryLogin{nil, {{Domain: r.lab.Private.Addr, Auth: wrong}}, {{Domain: r.lab.Registry.Addr, Auth: r.auth}},
		{{Domain: r.lab.Private.Addr, Prefix: "other", Auth: r.auth}}} {
		_, err := r.buildOf(t.Context(), "base:1", dockerfile, logins)
		e := wantError(t, err, ops.Failed, "The base image "+base+" cannot be fetched")
		if !strings.Contains(e.Sentence, "401") || strings.Contains(e.Error(), "canary") {
			t.Errorf("error is %v", e)
		}
	}
	if log, err := r.buildOf(t.Context(), "base:1", dockerfile, []ops.RegistryLogin{{Domain: r.lab.Private.Addr, Auth: r.auth}}); err != nil {
		t.Errorf("%v\n%s", err, log)
	}
}

func TestRealBuildIsCanceledOnTheEngine(t *testing.T) {
	r := onLab(t)
	r.pull(r.lab.BaseImage)
	goroutines := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	mark := fmt.Sprint(100000 + time.Now().UnixNano()%100000)
	done := make(chan error, 1)
	go func() {
		_, err := r.buildOf(ctx, "slow:1", "FROM "+r.lab.BaseImage+"\nRUN sleep "+mark+"\n", nil)
		done <- err
	}()
	wait := func(want bool) {
		t.Helper()
		for began := time.Now(); runs("sleep", mark) != want; time.Sleep(20 * time.Millisecond) {
			if time.Since(began) > 20*time.Second {
				t.Fatalf("the build's step runs: %v, want %v", !want, want)
			}
		}
	}
	wait(true)
	began := time.Now()
	cancel()
	wantError(t, <-done, ops.Canceled, "called off")
	returned := time.Since(began)
	wait(false)
	stopped := time.Since(began)
	t.Logf("returned after %s, stopped on the engine after %s", returned.Round(time.Millisecond), stopped.Round(time.Millisecond))
	if stopped > 2*time.Second {
		t.Errorf("the engine stopped only after %s", stopped)
	}
	for began := time.Now(); runtime.NumGoroutine() > goroutines+2; time.Sleep(20 * time.Millisecond) { // an idle connection has two
		if time.Since(began) > 5*time.Second {
			t.Fatalf("%d goroutines before, %d after", goroutines, runtime.NumGoroutine())
		}
	}
}

// runs says whether a process with exactly these arguments is there.
func runs(args ...string) bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && string(b) == strings.Join(args, "\x00")+"\x00" {
			return true
		}
	}
	return false
}

func TestRealPushThatIsRefused(t *testing.T) {
	r := onLab(t)
	ref := r.lab.Private.Image("refused:1")
	if log, err := r.buildOf(t.Context(), ref, "FROM scratch\nCOPY menu.txt /\n", nil); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	_, err := r.Push(t.Context(), ref, ops.RegistryAuth{Username: "mia", Password: "wrong-canary"}, nil)
	if e := wantError(t, err, ops.Failed, "does not let mia push to refused"); strings.Contains(e.Error(), "canary") {
		t.Errorf("the password is in %v", e)
	}
	_, err = r.Push(t.Context(), ref, ops.RegistryAuth{}, nil)
	wantError(t, err, ops.Failed, "wants a user and password")
	_, err = r.Push(t.Context(), r.lab.Private.Image("nothing:1"), r.auth, nil)
	wantError(t, err, ops.Failed, "has no image")
	first, err := r.Push(t.Context(), ref, r.auth, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.Push(t.Context(), ref, r.auth, nil); err != nil || again != first {
		t.Errorf("pushed again: %s, %v; first %s", again, err, first)
	}
}

func TestRealLogsOfANodeThatIsDown(t *testing.T) {
	r := onLab(t)
	s := r.create("logs", 3, "sh", "-c", "echo one; echo two >&2; echo three; exec sleep 1000")
	r.until("logs", "up", running(3, ""))
	down := r.lab.Nodes[2]
	if err := down.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := down.Start(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		r.untilReady()
	}()
	nodes, err := r.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := r.Tasks(t.Context(), s.ID, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range tasks {
		began := time.Now()
		log, err := r.TaskLogs(t.Context(), k.ID, 2)
		took := time.Since(began)
		if k.NodeID == nodes[2].ID {
			t.Logf("task on the node that is down: %q, %v after %s", log, err, took.Round(time.Millisecond))
			wantError(t, err, ops.Unavailable, "")
			if took > logsTimeout+time.Second {
				t.Errorf("it took %s", took)
			}
			continue
		}
		if len(strings.Split(log, "\n")) != 2 || err != nil {
			t.Errorf("log %q, %v", log, err)
		}
	}
}

// untilReady waits for all nodes.
func (r *real) untilReady() {
	for began := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		nodes, err := r.Nodes(context.WithoutCancel(r.Context()))
		ready := 0
		for _, n := range nodes {
			if n.State == "ready" {
				ready++
			}
		}
		if err == nil && ready == len(r.lab.Nodes) {
			return
		}
		if time.Since(began) > time.Minute {
			r.Errorf("nodes = %+v, %v", nodes, err)
			return
		}
	}
}

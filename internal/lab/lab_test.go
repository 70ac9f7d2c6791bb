package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// ownerEnv makes the test binary a lab's owner that waits to be killed.
const ownerEnv = "WAGGLE_LAB_TEST_OWNER"

func TestMain(m *testing.M) {
	if os.Getenv(ownerEnv) != "" {
		l, err := Start(context.Background(), Options{Nodes: 1})
		if err == nil {
			_, err = l.Manager().Docker(context.Background(), "run", "-d", "--cgroupns", "host", l.BaseImage)
		}
		if err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		fmt.Println("up", l.Dir)
		select {}
	}
	os.Exit(m.Run())
}

// machine is what a lab could leave behind, one line each.
func machine(t *testing.T) []string {
	t.Helper()
	var lines []string
	for _, cmd := range [][]string{{"ip", "netns"}, {"ip", "-br", "link"}, {"iptables-save"}, {"ip6tables-save"}, {"cat", "/proc/self/mounts"}} {
		out, err := command(t.Context(), "", cmd[0], cmd[1:]...)
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(out) {
			l = strings.TrimSpace(l)
			if strings.HasSuffix(cmd[0], "-save") && !strings.HasPrefix(l, "-") {
				continue // comments with the time, counters, tables without a rule
			}
			lines = append(lines, cmd[0]+": "+l)
		}
	}
	for _, glob := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/*/*/", "/sys/fs/cgroup/*/*/*/", base + "/waggle-lab-*"} {
		dirs, _ := filepath.Glob(glob)
		for _, d := range dirs {
			lines = append(lines, "dir: "+d)
		}
	}
	return append(lines, processes(nil)...)
}

// processes lists those in the given process namespaces, or all.
func processes(ns []string) (lines []string) {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		in, err := os.Readlink(p + "/ns/pid")
		name, _ := os.ReadFile(p + "/comm")
		if err == nil && (ns == nil || slices.Contains(ns, in)) {
			lines = append(lines, "process: "+p+" "+strings.TrimSpace(string(name)))
		}
	}
	return lines
}

// wantNothingLeft closes a lab and fails for everything of it that is left.
// Other labs and other engines may come and go meanwhile, so what has no name
// of this lab is only logged.
func wantNothingLeft(t *testing.T, l *Lab, before []string) {
	t.Helper()
	var ns []string
	for _, n := range l.Nodes {
		in, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", n.box.init.pid()))
		if err != nil {
			t.Fatal(err)
		}
		ns = append(ns, in)
	}
	if inside := processes(ns); !slices.ContainsFunc(inside, func(p string) bool { return strings.Contains(p, "containerd-shim") }) {
		t.Errorf("no shim was running, so its end proves nothing: %s", inside)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	left := processes(ns)
	names := []string{l.slot.link(""), l.slot.cgroup() + " ", l.slot.cgroup() + "/"}
	for _, line := range machine(t) {
		switch {
		case slices.Contains(before, line):
		case slices.ContainsFunc(names, func(n string) bool { return strings.Contains(line+" ", n) }):
			left = append(left, line)
		case !strings.HasPrefix(line, "process:"):
			t.Log("new, and not known as the lab's: " + line)
		}
	}
	for _, p := range l.state.Processes {
		if p.alive() {
			left = append(left, fmt.Sprintf("process %d", p.PID))
		}
	}
	if len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

func TestLab(t *testing.T) {
	Need(t)
	ctx := t.Context()
	before := machine(t)

	owner := killedOwner(t)

	begin := time.Now()
	l, err := Start(ctx, Options{Swarm: true, Progress: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Logf("three nodes after %s", time.Since(begin).Round(time.Millisecond))
	if took := time.Since(begin); took > 20*time.Second {
		t.Logf("SLOW: a lab should be up in 20 s")
	}
	t.Run("killed owner's lab is gone", func(t *testing.T) {
		for _, p := range owner.Processes {
			if p.alive() {
				t.Errorf("process %d is alive", p.PID)
			}
		}
		// Its slot is free again: this lab has it, or by now another one.
		if st, err := readState(owner.dir); err == nil && st.Owner == owner.Owner {
			t.Errorf("%s still has its files", owner.dir)
		}
	})
	t.Run("swarm", func(t *testing.T) { testSwarm(t, l) })
	t.Run("two labs at once", func(t *testing.T) {
		between := machine(t)
		if out, err := l.Manager().Docker(t.Context(), "service", "ls", "-q"); err != nil || out == "" {
			t.Error("the first lab has no service to disturb", err)
		}
		other := New(t, Options{Nodes: 1})
		if other.Manager().Addr == l.Manager().Addr {
			t.Error("both labs use the same address")
		}
		if _, err := other.Manager().Docker(t.Context(), "run", "-d", other.BaseImage); err != nil {
			t.Error(err)
		}
		wantNothingLeft(t, other, between)
		out, err := l.Manager().Docker(t.Context(), "node", "ls", "--format", "{{.Status}}")
		if err != nil || strings.Count(out, "Ready") != 3 {
			t.Errorf("the first lab, after the end of the other: %q %v", out, err)
		}
	})
	t.Run("ssh", func(t *testing.T) { testSSH(t, l) })
	t.Run("users", func(t *testing.T) { testUsers(t, l) })
	t.Run("ssh faults", func(t *testing.T) { testSSHFaults(t, l) })
	t.Run("hidden docker", func(t *testing.T) { testHiddenDocker(t, l) })
	t.Run("registries", func(t *testing.T) { testRegistries(t, l) })
	t.Run("faults", func(t *testing.T) { testFaults(t, l) })

	wantNothingLeft(t, l, before)
	if err := l.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

type killed struct {
	State
	dir string
}

// killedOwner starts a lab in another process and kills that with SIGKILL.
func killedOwner(t *testing.T) killed {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), ownerEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	line, err := bufio.NewReader(out).ReadString('\n')
	dir, ok := strings.CutPrefix(strings.TrimSpace(line), "up ")
	if !ok {
		t.Fatalf("the other owner says %q: %v", line, err)
	}
	st, err := readState(dir)
	if err != nil {
		t.Fatal(err)
	}
	return killed{st, dir}
}

func testSwarm(t *testing.T, l *Lab) {
	ctx := t.Context()
	m := l.Manager()
	out, err := m.Docker(ctx, "node", "ls", "--format", "{{.Hostname}} {{.Status}}")
	if err != nil || strings.Count(out, "Ready") != 3 {
		t.Fatalf("nodes: %s %v", out, err)
	}
	// With credentials, on every node, by an overlay network.
	if _, err := m.DockerInput(ctx, l.Private.Password, "login", "-u", l.Private.User, "--password-stdin", l.Private.Addr); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"network", "create", "-d", "overlay", "comb"},
		{"service", "create", "-d", "--with-registry-auth", "--network", "comb", "--endpoint-mode", "dnsrr", "--name", "pizza", "--replicas", "3",
			"--publish", "mode=host,published=8000,target=80", l.Private.Image("busybox:1"), "httpd", "-f", "-p", "80", "-h", "/etc"},
	} {
		if _, err := m.Docker(ctx, args...); err != nil {
			t.Fatal(err)
		}
	}
	err = poll(ctx, 90*time.Second, func(ctx context.Context) error {
		out, err = m.Docker(ctx, "service", "ps", "pizza", "-f", "desired-state=running", "--format", "{{.Node}} {{.CurrentState}}")
		if err == nil && strings.Count(out, "Running") != 3 {
			err = errors.New(out)
		}
		return err
	})
	if err != nil {
		t.Fatal("tasks:", err)
	}
	for _, n := range l.Nodes {
		if !strings.Contains(out, n.Name) {
			t.Errorf("no task on %s:\n%s", n.Name, out)
		}
		if err := get(ctx, "http://"+n.Addr+":8000/passwd"); err != nil {
			t.Errorf("published port of %s: %v", n.Name, err)
		}
	}
	// From a container on one node to the one on another.
	id, err := m.Docker(ctx, "ps", "-q", "--filter", "name=pizza")
	if err != nil {
		t.Fatal(err)
	}
	script := `nslookup tasks.pizza 127.0.0.11 | awk '/^Address/ && !/127.0.0.11/ {print $NF}' | sort -u | while read ip; do timeout 5 wget -q -O /dev/null http://$ip/passwd && echo ok; done`
	// The other nodes' tasks are known on this one a moment after they run.
	err = poll(ctx, 30*time.Second, func(ctx context.Context) error {
		out, err := m.Docker(ctx, "exec", strings.TrimSpace(id), "sh", "-c", script)
		if err == nil && strings.Count(out, "ok") != 3 {
			err = fmt.Errorf("%q", out)
		}
		return err
	})
	if err != nil {
		t.Error("over the overlay:", err)
	}
}

func get(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

func dial(t *testing.T, l *Lab, n *Node, user string, key ssh.PublicKey) (*ssh.Client, error) {
	t.Helper()
	return ssh.Dial("tcp", n.SSHAddr(), &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(clientKey(t, l))}, Timeout: 3 * time.Second,
		HostKeyCallback: ssh.FixedHostKey(key), HostKeyAlgorithms: []string{key.Type()},
	})
}

func clientKey(t *testing.T, l *Lab) ssh.Signer {
	t.Helper()
	b, err := os.ReadFile(l.SSHKey)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// over runs a command on a node over SSH and returns all that it printed.
func over(t *testing.T, l *Lab, n *Node, user, command string) (string, error) {
	t.Helper()
	c, err := dial(t, l, n, user, n.HostKey())
	if err != nil {
		return "", err
	}
	defer c.Close()
	s, err := c.NewSession()
	if err != nil {
		return "", err
	}
	out, err := s.CombinedOutput(command)
	return strings.TrimSpace(string(out)), err
}

func testUsers(t *testing.T, l *Lab) {
	n := l.Nodes[2]
	key := clientKey(t, l).PublicKey()
	for name, docker := range map[string]bool{"deploy": false, "keeper": true} {
		if err := n.AddUser(name, docker, key); err != nil {
			t.Fatal(err)
		}
		if out, err := over(t, l, n, name, "id -un; pwd"); err != nil || out != name+"\n/run/lab/home/"+name {
			t.Errorf("as %s: %q, %v", name, out, err)
		}
		out, err := over(t, l, n, name, "docker info --format '{{.Name}}'")
		if docker && (err != nil || !strings.HasSuffix(out, n.Name)) || !docker && !strings.Contains(out, "permission denied") {
			t.Errorf("docker as %s: %q, %v", name, out, err)
		}
		if err := n.RemoveUser(name); err != nil {
			t.Fatal(err)
		}
		if out, err := over(t, l, n, name, "true"); err == nil {
			t.Errorf("%s after its removal: %q", name, out)
		}
	}
	if out, err := over(t, l, n, "root", "ls /run/lab/home /run/lab/authorized_keys"); err != nil || strings.Contains(out, "deploy") {
		t.Errorf("left of the users: %q, %v", out, err)
	}
}

func testSSHFaults(t *testing.T, l *Lab) {
	ctx := t.Context()
	n := l.Nodes[2]
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(n.ConfigureSSH(ctx, "ForceCommand echo forced", "AllowTcpForwarding no"))
	if out, err := over(t, l, n, "root", "hostname"); err != nil || out != "forced" {
		t.Errorf("with settings of its own: %q, %v", out, err)
	}
	must(n.ConfigureSSH(ctx))
	if out, err := over(t, l, n, "root", "hostname"); err != nil || out != n.Name {
		t.Errorf("with the lab's settings again: %q, %v", out, err)
	}

	old := n.HostKey()
	must(n.NewHostKeys(ctx))
	if _, err := dial(t, l, n, "root", old); err == nil || !strings.Contains(err.Error(), "host key mismatch") {
		t.Errorf("with new host keys: %v", err)
	}
	if out, err := over(t, l, n, "root", "hostname"); err != nil || out != n.Name {
		t.Errorf("with new host keys: %q, %v", out, err)
	}

	must(n.FreezeSSH(ctx))
	c, err := net.DialTimeout("tcp", n.SSHAddr(), time.Second)
	must(err)
	must(c.SetDeadline(time.Now().Add(300 * time.Millisecond)))
	if read, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a frozen sshd says %d bytes, %v", read, err)
	}
	c.Close()
	must(n.ThawSSH(ctx))
	if out, err := over(t, l, n, "root", "hostname"); err != nil || out != n.Name {
		t.Errorf("thawed: %q, %v", out, err)
	}
}

func testHiddenDocker(t *testing.T, l *Lab) {
	ctx := t.Context()
	n := l.Nodes[2]
	if err := n.HideDocker(ctx); err != nil {
		t.Fatal(err)
	}
	var exit *ssh.ExitError
	if out, err := over(t, l, n, "root", "docker version"); !errors.As(err, &exit) || exit.ExitStatus() != 127 {
		t.Errorf("the docker command: %q, %v", out, err)
	}
	if _, err := os.Stat(n.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket: %v", err)
	}
	if err := n.ShowDocker(ctx); err != nil {
		t.Fatal(err)
	}
	if out, err := over(t, l, n, "root", "docker info --format '{{.Name}}'"); err != nil || out != n.Name {
		t.Errorf("shown again: %q, %v", out, err)
	}

	if err := n.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if err := n.engine.ping(short); err == nil {
		t.Error("a frozen engine answers")
	}
	if err := n.Thaw(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.engine.ping(ctx); err != nil {
		t.Error("thawed:", err)
	}
}

func testSSH(t *testing.T, l *Lab) {
	for _, n := range l.Nodes {
		for i, key := range n.HostKeys {
			c, err := dial(t, l, n, "root", key)
			if err != nil {
				t.Fatalf("%s with its %s key: %v", n.Name, key.Type(), err)
			}
			defer c.Close()
			if i > 0 {
				continue
			}
			s, err := c.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			out, err := s.Output("hostname; docker info --format '{{.Name}}'")
			if want := n.Name + "\n" + n.Name + "\n"; err != nil || string(out) != want {
				t.Errorf("on %s: %q, %v", n.Name, out, err)
			}
			// The socket in the node is that node's engine.
			conn, err := c.Dial("unix", "/var/run/docker.sock")
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
		}
	}
	n := l.Nodes[2]
	if err := n.StopSSH(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := net.DialTimeout("tcp", n.SSHAddr(), time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a stopped sshd: %v", err)
	}
	if err := n.StartSSH(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := dial(t, l, n, "root", n.HostKey())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func testRegistries(t *testing.T, l *Lab) {
	ctx := t.Context()
	stranger := *l.Private
	stranger.User, stranger.Password = "waggle", "wrong"
	if _, _, err := stranger.Push(ctx, "busybox:2", Image{}); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("push with a wrong password: %v", err)
	}
	l.Registry.Stop()
	if _, _, err := l.Registry.Push(ctx, "busybox:2", Image{}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("push to a stopped registry: %v", err)
	}
	if err := l.Registry.Start(ctx); err != nil {
		t.Fatal(err)
	}
	ref, digest, err := l.Registry.Push(ctx, "pizza:2", Image{
		Cmd: []string{"sh", "-c", "cat /pizza; echo $TOPPING"}, Env: []string{"TOPPING=honey"}, Files: map[string]string{"/pizza": "v2\n"},
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := l.Manager().Docker(ctx, "run", "--rm", strings.TrimSuffix(ref, ":2")+"@"+digest)
	if err != nil || out != "v2\nhoney\n" {
		t.Errorf("the image pushed: %q, %v", out, err)
	}
	// A build on the engine, from the base image, pushed by the engine.
	dir := t.TempDir()
	file := "FROM " + l.BaseImage + "\nRUN echo built >/made\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	app := l.Private.Image("built:1")
	for _, args := range [][]string{{"build", "-q", "-t", app, dir}, {"push", "-q", app}} {
		if _, err := l.Manager().Docker(ctx, args...); err != nil {
			t.Error(err)
		}
	}
}

func testFaults(t *testing.T, l *Lab) {
	ctx := t.Context()
	n := l.Nodes[2]
	status := func(want string) {
		t.Helper()
		err := poll(ctx, 30*time.Second, func(ctx context.Context) error {
			out, err := l.Manager().Docker(ctx, "node", "inspect", n.Name, "--format", "{{.Status.State}}")
			if err == nil && strings.TrimSpace(out) != want {
				err = fmt.Errorf("%s is %s", n.Name, strings.TrimSpace(out))
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	if err := n.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	status("down")
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	status("ready")

	reach := func(want bool) {
		t.Helper()
		c, err := net.DialTimeout("tcp", n.SSHAddr(), 300*time.Millisecond)
		if err == nil {
			c.Close()
		}
		if (err == nil) != want {
			t.Errorf("reach the node: %v", err)
		}
	}
	for _, f := range []struct {
		name     string
		do, undo func() error
	}{
		{"block", func() error { return n.Block(ctx, "tcp", 22) }, func() error { return n.Unblock(ctx, "tcp", 22) }},
		{"partition", func() error { return n.Partition(ctx) }, func() error { return n.Heal(ctx) }},
	} {
		if err := f.do(); err != nil {
			t.Fatal(f.name, err)
		}
		reach(false)
		if err := f.undo(); err != nil {
			t.Fatal(f.name, err)
		}
		if err := poll(ctx, 5*time.Second, func(ctx context.Context) error {
			c, err := net.DialTimeout("tcp", n.SSHAddr(), time.Second)
			if err == nil {
				c.Close()
			}
			return err
		}); err != nil {
			t.Error(f.name, err)
		}
	}
	if err := n.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

// A lab that is given up half way leaves nothing either.
func TestStartCancelled(t *testing.T) {
	Need(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l, err := Start(ctx, Options{Nodes: 2, Progress: func(s string) {
		if strings.HasPrefix(s, "registry") {
			cancel() // the engines are starting
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("start: %v %v", l, err)
	}
	states, _ := filepath.Glob(base + "/waggle-lab-*/state.json")
	for _, path := range states {
		if st, err := readState(filepath.Dir(path)); err == nil && st.Owner.PID == os.Getpid() {
			t.Errorf("%s is left", path)
		}
	}
	var status syscall.WaitStatus
	if pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
		t.Errorf("a child process is left: %d %v", pid, err)
	}
}

func TestRedis(t *testing.T) {
	if _, err := lookPath("redis-server"); err != nil && os.Getenv("WAGGLE_LAB") != "1" {
		t.Skip("needs redis-server: apt-get install redis-server")
	}
	ctx := t.Context()
	r, err := StartRedis(ctx, t.TempDir(), AppendOnly())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	do := func(command, want string) {
		t.Helper()
		c, err := net.Dial("tcp", r.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "%s\r\n", command)
		got, err := bufio.NewReader(c).ReadString('\n')
		if err != nil || strings.TrimSpace(got) != want {
			t.Errorf("%s: %q, want %q (%v)", command, got, want, err)
		}
	}
	do("INCR bees", ":1")
	r.Kill()
	if err := r.Start(ctx); err != nil {
		t.Fatal(err)
	}
	do("INCR bees", ":2")
	if err := r.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	do("INCR bees", ":3")
}

// The messages are all that somebody without root gets, so they must name the way.
func TestRequireSaysWhatToInstall(t *testing.T) {
	missing := missingPackages([]tool{{"no-such-program", "some-package"}, {"sh", "dash"}})
	err := needsRoot(missing)
	if !strings.Contains(err.Error(), "sudo, after: apt-get install --no-install-recommends some-package") || strings.Contains(err.Error(), "dash") {
		t.Errorf("%v", err)
	}
}

func TestIdentity(t *testing.T) {
	id, err := identify(os.Getpid())
	if err != nil || !id.alive() {
		t.Fatalf("%+v %v", id, err)
	}
	id.Start += "0"
	if id.alive() {
		t.Error("a process that started at another time is taken for this one")
	}
}

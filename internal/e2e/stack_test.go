package e2e

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"waggle/internal/lab"
	"waggle/internal/workspace"
)

// TestStack does what compose.yaml says at its top: it builds the image from
// the Dockerfile, deploys the stack with the docker command line on a real
// swarm, and uses what then runs. Only the base images are stand-ins, made from
// what this machine has installed, since the lab pulls nothing.
func TestStack(t *testing.T) {
	s := newStack(t)
	s.standIns()
	s.build()
	s.command("stack", "deploy", "-c", "compose.yaml", "waggle")
	s.replicas(2)
	s.appendOnly()

	s.service("pizza")
	// Slack uses one connection after the other, so each replica gets one.
	s.say(ada, "/scale pizza 3")
	s.sees(ada, "pizza runs 3 of 3 (was 1)")
	s.say(ada, "/scale pizza -1 --dry-run")
	s.sees(ada, "pizza: replicas 3 → 2 (nothing was changed)")
	if n := s.running("pizza"); n != 3 {
		t.Errorf("%d tasks run", n)
	}
}

// stack is the repository's compose.yaml on the lab's manager.
type stack struct {
	*bench
	dir string // a copy of the repository
	ssh *ssh.Client
	to  string // host:port of the container that dial connects to
}

func newStack(t *testing.T) *stack {
	t.Helper()
	l := free(t)
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	t.Cleanup(cancel)
	s := &stack{bench: &bench{T: t, ctx: ctx, lab: l}, dir: filepath.Join(t.TempDir(), "waggle")}
	copyRepository(t, s.dir)

	var err error
	s.ssh, err = sshTo(l)
	s.must(err)
	t.Cleanup(func() { _ = s.ssh.Close() })
	o := workspace.Example()
	o.Addr = l.Gateway + ":0" // where containers reach it
	s.ws, err = workspace.New(o)
	s.must(err)
	s.must(s.ws.Start())
	t.Cleanup(func() { _ = s.ws.Close() })

	key, err := os.ReadFile(l.SSHKey)
	s.must(err)
	s.must(os.Mkdir(filepath.Join(s.dir, "secrets"), 0o700))
	sealing := make([]byte, 32)
	_, _ = rand.Read(sealing) // never fails
	for name, value := range map[string]string{
		"slack_bot_token": s.ws.BotToken(), "slack_app_token": s.ws.AppToken(),
		"github_secret": webhookSecret, "secret_key": base64.StdEncoding.EncodeToString(sealing), "ssh_key": string(key),
	} {
		s.must(os.WriteFile(filepath.Join(s.dir, "secrets", name), []byte(value), 0o600))
	}
	t.Cleanup(s.remove)
	t.Cleanup(func() {
		if t.Failed() {
			s.explain()
		}
	})
	return s
}

// sshTo logs in on the manager: a way to addresses that only it reaches.
func sshTo(l *lab.Lab) (*ssh.Client, error) {
	pem, err := os.ReadFile(l.SSHKey)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, err
	}
	return ssh.Dial("tcp", l.Manager().SSHAddr(), &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, Timeout: 5 * time.Second,
		HostKeyCallback: ssh.FixedHostKey(l.Manager().HostKey()), HostKeyAlgorithms: []string{l.Manager().HostKey().Type()},
	})
}

// dial connects to the container that is talked to. This kernel has no IP_VS,
// so the published port leads nowhere; the container's own address does.
func (s *stack) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return s.ssh.DialContext(ctx, network, s.to)
}

func (s *stack) talkTo(container string) {
	s.Helper()
	var networks []struct {
		Containers map[string]struct{ IPv4Address string }
	}
	s.must(json.Unmarshal([]byte(s.docker("network", "inspect", "docker_gwbridge")), &networks))
	for id, c := range networks[0].Containers {
		if strings.HasPrefix(id, container) {
			ip, _, _ := strings.Cut(c.IPv4Address, "/")
			s.to = ip + ":8080"
			return
		}
	}
	s.Fatalf("the container %s has no address on its node", container)
}

// command runs the docker command line with this person's environment, in the
// copy of the repository.
func (s *stack) command(args ...string) string {
	s.Helper()
	cmd := exec.CommandContext(s.ctx, "docker", args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+s.lab.Manager().Host(), "DOCKER_CONFIG="+s.TempDir(),
		"DOCKER_BUILDKIT=0", // the builder that needs no plugin of the command line
		"WAGGLE_SLACK_CHANNEL="+channel, "WAGGLE_SLACK_API_URL="+s.ws.APIURL())
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (s *stack) build() {
	s.Helper()
	begin := time.Now()
	out := s.command("build", "-t", "waggle:latest", "--build-arg", "VERSION=v9.8.7", "--build-arg", "GOFLAGS=-mod=vendor", ".")
	s.Logf("built in %s", time.Since(begin).Round(time.Millisecond))
	if strings.Contains(out, "Reading package lists") {
		s.Errorf("the build wanted packages:\n%s", out)
	}
	contains(s, "the image's version", s.docker("run", "--rm", "waggle:latest", "version"), "waggle v9.8.7")
	contains(s, "the image's git", s.docker("run", "--rm", "--entrypoint", "git", "waggle:latest", "version"), "git version")
}

// replicas waits until that many of Waggle run as the stack says, each ready and
// connected to Slack.
func (s *stack) replicas(n int) {
	s.Helper()
	begin := time.Now()
	var tasks []string
	s.eventually(fmt.Sprintf("%d replicas run on the manager", n), 60*time.Second, func() bool {
		tasks = strings.Fields(s.docker("ps", "--no-trunc", "--filter", "label=com.docker.swarm.service.name=waggle_waggle", "--filter", "health=healthy", "--format", "{{.ID}}"))
		return len(tasks) == n && s.running("waggle_waggle") == n
	})
	s.Logf("%d replicas run after %s", n, time.Since(begin).Round(time.Millisecond))
	for _, c := range tasks {
		s.talkTo(c)
		page := ""
		s.eventually("/readyz of each says that all is there", 30*time.Second, func() bool {
			page = s.get("/readyz")
			return strings.HasPrefix(page, `{"ready":true,`)
		})
		contains(s, "/readyz", page, `"redis":"ok"`, `"swarm":"ok"`, `"slack":"ok"`)
		contains(s, "waggle ready in the container", s.docker("exec", c, "waggle", "ready"), `"ready":true`)
	}
	ctx, cancel := context.WithTimeout(s.ctx, 20*time.Second)
	defer cancel()
	s.must(s.ws.WaitSockets(ctx, n))
}

// get reads a page of the container that is talked to.
func (s *stack) get(page string) string {
	s.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: s.dial, DisableKeepAlives: true}}
	resp, err := client.Get("http://waggle" + page)
	s.must(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	s.must(err)
	return string(body)
}

func (s *stack) appendOnly() {
	s.Helper()
	c := s.docker("ps", "-q", "--filter", "label=com.docker.swarm.service.name=waggle_redis")
	contains(s, "Redis", s.docker("exec", c, "redis-cli", "config", "get", "appendonly"), "yes")
	volume := s.docker("volume", "inspect", "waggle_redis", "--format", "{{.Mountpoint}}")
	// The path is the node's, and the lab's nodes share this machine's files.
	if _, err := os.Stat(filepath.Join(volume, "appendonlydir")); err != nil {
		s.Errorf("Redis does not write to its volume: %v", err)
	}
}

// remove takes the stack away, and waits until nothing of it is left.
func (s *stack) remove() {
	const mine = "label=com.docker.stack.namespace=waggle"
	for _, step := range []struct{ do, gone []string }{
		// Waggle first, while its Redis is there to be told.
		{[]string{"service", "rm", "waggle_waggle"}, []string{"ps", "-aq", "--filter", "label=com.docker.swarm.service.name=waggle_waggle"}},
		{[]string{"stack", "rm", "waggle"}, []string{"ps", "-aq", "--filter", mine}},
		{[]string{"volume", "rm", "waggle_redis"}, []string{"volume", "ls", "-q", "--filter", mine}},
		{nil, []string{"network", "ls", "-q", "--filter", mine}},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		if step.do != nil {
			if _, err := s.lab.Manager().Docker(ctx, step.do...); err != nil && !s.Failed() {
				s.Errorf("remove the stack: %v", err)
			}
		}
		for {
			left, err := s.lab.Manager().Docker(ctx, step.gone...)
			if err == nil && left == "" {
				break
			}
			if ctx.Err() != nil {
				s.Errorf("docker %s: still %q: %v", strings.Join(step.gone, " "), left, err)
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		cancel()
	}
}

func (s *stack) explain() {
	for _, args := range [][]string{
		{"stack", "ps", "--no-trunc", "waggle"}, {"service", "logs", "--tail", "50", "waggle_waggle"}, {"service", "logs", "--tail", "20", "waggle_redis"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		out, err := s.lab.Manager().Docker(ctx, args...)
		cancel()
		s.Logf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	s.Logf("the channel:\n%s", s.ws.Screen(channel, ada))
}

// standIns makes the base images that the Dockerfile and compose.yaml name.
func (s *stack) standIns() {
	s.Helper()
	begin := time.Now()
	s.toolchain("golang:1.26-bookworm")

	d := s.newImage()
	d.packages("base-files", "dash", "git", "openssh-client", "ca-certificates")
	d.path("/etc/ssl/certs/ca-certificates.crt")
	d.load("debian:bookworm-slim", "CMD [\"sh\"]")

	r := s.newImage()
	r.packages("base-files", "dash", "grep", "redis-server", "redis-tools")
	// The official image is built without the protected mode that Debian's has.
	r.file("usr/local/bin/docker-entrypoint.sh", 0o755, "#!/bin/sh\nexec \"$@\" --protected-mode no\n")
	r.dir("data", 0o755)
	r.load("redis:7", "WORKDIR /data", "VOLUME /data", "ENTRYPOINT [\"docker-entrypoint.sh\"]", "CMD [\"redis-server\"]")
	s.Logf("stand-ins made in %s", time.Since(begin).Round(time.Millisecond))

	// None is missing, should somebody take another one.
	for _, file := range []string{"Dockerfile", "compose.yaml"} {
		text, err := os.ReadFile(filepath.Join(s.dir, file))
		s.must(err)
		for _, m := range regexp.MustCompile(`(?m)^(?:FROM| *image:) ([a-z]+:\S+)`).FindAllSubmatch(text, -1) {
			s.docker("image", "inspect", "--format", "{{.ID}}", string(m[1]))
		}
	}
}

// toolchain makes an image of this machine's Go and its build cache. A package
// that the build in the image does not find there by its content is compiled.
func (s *stack) toolchain(name string) {
	s.Helper()
	golang := func(args ...string) string {
		s.Helper()
		cmd := exec.CommandContext(s.ctx, "go", args...)
		cmd.Dir = s.dir
		cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0") // as in the Dockerfile
		out, err := cmd.Output()
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			s.Fatalf("go %s: %v\n%s", args[0], err, exit.Stderr)
		}
		s.must(err)
		return strings.TrimSpace(string(out))
	}
	golang("mod", "vendor")
	root, cache := golang("env", "GOROOT"), golang("env", "GOCACHE")

	i := s.newImage()
	i.packages("base-files", "dash")
	i.tree(root, "usr/local/go", func(path string) bool {
		top, rest, _ := strings.Cut(path, "/")
		switch {
		case strings.HasSuffix(path, "_test.go"), filepath.Base(path) == "testdata":
			return false
		case top == "src":
			return rest != "cmd"
		case top == "bin":
			return rest != "gofmt"
		}
		return top == "pkg" || top == "VERSION" || top == "go.env"
	})
	begin := time.Now()
	files := golang("list", "-deps", "-export", "-mod=vendor", "-trimpath", "-f", "{{.Export}}", "./cmd/waggle")
	s.Logf("compiled in %s", time.Since(begin).Round(time.Millisecond))
	i.compiled(cache, strings.Fields(files))
	i.load(name, "ENV GOPATH=/go GOTOOLCHAIN=local PATH=/usr/local/go/bin:/usr/bin:/bin", "WORKDIR /go", "CMD [\"sh\"]")
}

// image is an image in the making: a tar file.
type image struct {
	*stack
	out *os.File
	buf *bufio.Writer
	tar *tar.Writer
	has map[string]bool // by name in the image
}

func (s *stack) newImage() *image {
	s.Helper()
	f, err := os.CreateTemp(s.TempDir(), "*.tar")
	s.must(err)
	i := &image{stack: s, out: f, buf: bufio.NewWriterSize(f, 1<<20), has: map[string]bool{}}
	i.tar = tar.NewWriter(i.buf)
	for _, d := range []string{"etc", "proc", "root", "run", "sys", "usr", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "var", "go", "src"} {
		i.dir(d, 0o755)
	}
	i.dir("tmp", 0o1777)
	for _, d := range []string{"bin", "lib", "lib64", "sbin"} {
		i.link(d, "usr/"+d)
	}
	i.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n")
	i.file("etc/group", 0o644, "root:x:0:\n")
	return i
}

// add writes one entry. A name is only taken once.
func (i *image) add(h *tar.Header, data io.Reader) {
	i.Helper()
	if i.has[h.Name] {
		return
	}
	i.has[h.Name] = true
	h.ModTime = time.Unix(0, 0)
	i.must(i.tar.WriteHeader(h))
	if data != nil {
		_, err := io.Copy(i.tar, data)
		i.must(err)
	}
}

func (i *image) dir(name string, mode int64) {
	i.Helper()
	i.add(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
}

func (i *image) link(name, to string) {
	i.Helper()
	i.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}, nil)
}

func (i *image) file(name string, mode int64, text string) {
	i.Helper()
	i.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(text))}, strings.NewReader(text))
}

// copy puts a file of this machine under that name; of a link, the link.
func (i *image) copy(from, name string) {
	i.Helper()
	st, err := os.Lstat(from)
	i.must(err)
	switch {
	case st.Mode().Type() == fs.ModeSymlink:
		to, err := os.Readlink(from)
		i.must(err)
		i.link(name, to)
	case st.Mode().IsRegular():
		f, err := os.Open(from)
		i.must(err)
		defer f.Close()
		i.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(st.Mode().Perm()), Size: st.Size()}, f)
	}
}

// path copies a file to its own place, and what it is a link to as well.
func (i *image) path(path string) {
	i.Helper()
	dir, err := filepath.EvalSymlinks(filepath.Dir(path)) // /lib is /usr/lib
	i.must(err)
	path = filepath.Join(dir, filepath.Base(path))
	st, err := os.Lstat(path)
	i.must(err)
	if st.IsDir() {
		return
	}
	i.copy(path, path[1:])
	if st.Mode().Type() == fs.ModeSymlink {
		if to, err := filepath.EvalSymlinks(path); err == nil {
			i.path(to)
		}
	}
}

// packages copies what installed packages have, and the libraries it needs.
func (i *image) packages(names ...string) {
	i.Helper()
	out, err := exec.CommandContext(i.ctx, "dpkg", append([]string{"-L"}, names...)...).Output()
	if err != nil {
		i.Fatalf("a stand-in needs Debian's packages %s installed: %v", strings.Join(names, ", "), err)
	}
	var programs []string
	for path := range strings.Lines(string(out)) {
		path = strings.TrimSpace(path)
		st, err := os.Stat(path)
		if err != nil || !st.Mode().IsRegular() || strings.HasPrefix(path, "/usr/share/") && !strings.HasPrefix(path, "/usr/share/git-core/") {
			continue
		}
		i.path(path)
		if to, err := filepath.EvalSymlinks(path); err == nil && st.Mode()&0o111 != 0 {
			programs = append(programs, to) // most of git's are links to one
		}
	}
	slices.Sort(programs)
	out, _ = exec.CommandContext(i.ctx, "ldd", slices.Compact(programs)...).Output() // complains of scripts
	for _, m := range regexp.MustCompile(`(?m)^\t(?:.* => )?(/\S+)`).FindAllStringSubmatch(string(out), -1) {
		i.path(m[1])
	}
}

// tree copies a directory without what keep refuses.
func (i *image) tree(from, name string, keep func(path string) bool) {
	i.Helper()
	i.must(filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == from {
			return err
		}
		rel, err := filepath.Rel(from, path)
		switch {
		case err != nil:
			return err
		case d.IsDir() && !keep(rel) && rel != "bin" && rel != "src":
			return fs.SkipDir
		case !d.IsDir() && keep(rel):
			i.copy(path, filepath.Join(name, rel))
		}
		return nil
	}))
}

// compiled copies packages from Go's build cache: the files, and the entries
// that lead to them. Where a later Go keeps them otherwise, the build in the
// image compiles them again, which takes longer and is all the same.
func (i *image) compiled(cache string, files []string) {
	i.Helper()
	wanted := map[string]bool{}
	for _, f := range files {
		wanted[strings.TrimSuffix(filepath.Base(f), "-d")] = true
		i.copy(f, "root/.cache/go-build/"+strings.TrimPrefix(f, cache+"/"))
	}
	entries, err := filepath.Glob(cache + "/??/*-a")
	i.must(err)
	for _, e := range entries {
		text, err := os.ReadFile(e)
		// "v1 <action> <output> <size> <time>"
		if f := strings.Fields(string(text)); err == nil && len(f) > 2 && wanted[f[2]] {
			i.file("root/.cache/go-build/"+strings.TrimPrefix(e, cache+"/"), 0o644, string(text))
		}
	}
}

// load gives the image to the manager's engine.
func (i *image) load(name string, changes ...string) {
	i.Helper()
	i.must(i.tar.Close())
	i.must(i.buf.Flush())
	i.must(i.out.Close())
	args := []string{"import"}
	for _, c := range changes {
		args = append(args, "--change", c)
	}
	i.command(append(args, i.out.Name(), name)...)
	i.must(os.Remove(i.out.Name()))
}

// copyRepository copies what a build may want, as it is in the work tree.
func copyRepository(t *testing.T, to string) {
	t.Helper()
	from := filepath.Join("..", "..")
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", "bin", "secrets", "vendor"}, rel) {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if d.Type().IsRegular() {
			copyFile(t, path, filepath.Join(to, rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

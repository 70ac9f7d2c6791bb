package swarm

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	control "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/session/auth"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"waggle/internal/secret"
	"waggle/ops"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares lines with a file of testdata.
func golden(t *testing.T, name string, lines []string) {
	t.Helper()
	got := strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile(filepath.Join("testdata", name), []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := data(t, name); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// The streams in testdata are those of real builds: by Engine 20.10, and by 28.5 with the
// containerd image store.

func TestProgressOfABuild(t *testing.T) {
	for _, name := range []string{"build-ok", "build-ok-28-containerd"} {
		var lines []string
		err := follow(strings.NewReader(data(t, name+".json")), newProgress(func(l string) { lines = append(lines, l) }))
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", lines)
	}
}

func TestNewEngineTellsAFailingBuild(t *testing.T) {
	var lines []string
	err := follow(strings.NewReader(data(t, "build-failed-28-containerd.json")), newProgress(func(l string) { lines = append(lines, l) }))
	golden(t, "build-failed-28-containerd.txt", lines)
	var step *stepError
	if !errors.As(err, &step) || !strings.HasPrefix(step.step, "[2/2] RUN echo first") || step.log != "then\nfirst" || cleanBuild(step.message) != "exit code: 3" {
		t.Errorf("error is %#v", err)
	}
}

func TestProgressOfAFailingBuild(t *testing.T) {
	var lines []string
	err := follow(strings.NewReader(data(t, "build-failed.json")), newProgress(func(l string) { lines = append(lines, l) }))
	golden(t, "build-failed.txt", lines)
	var step *stepError
	if !errors.As(err, &step) {
		t.Fatalf("error is %v", err)
	}
	tail := strings.Split(step.log, "\n")
	if !strings.HasPrefix(step.step, "[2/2] RUN for i in") || len(tail) != tailLines || tail[0] == "line 1" || tail[len(tail)-1] != "unfinished" {
		t.Errorf("step %q, log of %d lines:\n%s", step.step, len(tail), step.log)
	}
}

func TestBuildStreamThatIsCutOff(t *testing.T) {
	whole := data(t, "build-ok.json")
	for name, stream := range map[string]string{
		"empty": "", "in a record": whole[:len(whole)/2], "before the result": whole[:strings.Index(whole, `{"id":"moby.image.id"`)],
	} {
		if err := follow(strings.NewReader(stream), newProgress(nil)); err == nil {
			t.Errorf("%s: taken for a success", name)
		}
	}
	var step *stepError
	if err := follow(strings.NewReader(whole[:strings.Index(whole, `{"id":"moby.image.id"`)]), newProgress(nil)); !errors.As(err, &step) || step.message != endedWithoutImage || step.step == "" {
		t.Errorf("a stream that ends in good order without an image: %#v", err)
	}
	if err := follow(strings.NewReader(`{"id":"moby.buildkit.trace"}{"id":"moby.image.id","aux":{"ID":"sha256:0"}}`), newProgress(nil)); err != nil {
		t.Errorf("a record without aux: %v", err)
	}
	err := follow(strings.NewReader(`{"id":"moby.buildkit.trace","aux":"AAAA"}`), newProgress(nil))
	wantError(t, err, ops.Internal, "cannot be read")
}

func FuzzFollow(f *testing.F) {
	for _, name := range []string{"build-ok.json", "build-failed.json", "push-ok.json"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Fuzz(func(t *testing.T, stream string) {
		follow(strings.NewReader(stream), newProgress(func(string) {}))
		followPush(strings.NewReader(stream), func(string) {})
	})
}

// record of a trace, as the engine writes it.
func traced(t *testing.T, s *control.StatusResponse) json.RawMessage {
	t.Helper()
	b, err := proto.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	aux, _ := json.Marshal(b)
	return aux
}

func TestOutputIsMadePlain(t *testing.T) {
	var lines []string
	p := newProgress(func(l string) { lines = append(lines, l) })
	at := func(d time.Duration) *timestamppb.Timestamp {
		return timestamppb.New(time.Unix(1000, 0).Add(d))
	}
	say := func(stream int64, s string) {
		if err := p.trace(traced(t, &control.StatusResponse{Logs: []*control.VertexLog{{Vertex: "v", Stream: stream, Msg: []byte(s), Timestamp: at(1500 * time.Millisecond)}}})); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.trace(traced(t, &control.StatusResponse{Vertexes: []*control.Vertex{{Digest: "v", Name: "RUN x", Started: at(0)}}})); err != nil {
		t.Fatal(err)
	}
	say(1, "half ")
	say(2, "error\n")
	say(1, "whole\n\x1b[31mred\x1b[0m\n10%\r50%\r100%\r\nnul\x00 \xff\n")
	say(1, strings.Repeat("x", lineLimit+1))
	say(1, "end")
	end := &control.Vertex{Digest: "v", Name: "RUN x", Started: at(0), Completed: at(2 * time.Second), Error: "context canceled"}
	for range 2 {
		if err := p.trace(traced(t, &control.StatusResponse{Vertexes: []*control.Vertex{end}})); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"#1 RUN x", "#1 1.50 error", "#1 1.50 half whole", "#1 1.50 red", "#1 1.50 100%", "#1 1.50 nul \uFFFD",
		"#1 1.50 " + strings.Repeat("x", lineLimit+1), "#1 1.50 end", "#1 CANCELED"}
	if got := strings.Join(lines, "|"); got != strings.Join(want, "|") {
		t.Errorf("lines %q", lines)
	}
}

func TestWhyABuildFailed(t *testing.T) {
	c, _ := fake(t, nil)
	for name, k := range map[string]struct {
		message, step  string
		sentence, next string
	}{
		"old engine": {"executor failed running [/bin/sh -c make]: exit code: 2", "[2/2] RUN make", "The build failed at [2/2] RUN make: exit code: 2", ""},
		"new engine": {`failed to solve: process "/bin/sh -c make" did not complete successfully: exit code: 2`, "[2/2] RUN make", "The build failed at [2/2] RUN make: exit code: 2", ""},
		"syntax": {"failed to solve with frontend dockerfile.v0: failed to create LLB definition: dockerfile parse error line 2: unknown instruction: FROBNICATE", "",
			"The build failed: dockerfile parse error line 2: unknown instruction: FROBNICATE", ""},
		"frontend": {"failed to solve with frontend gateway.v0: failed to do request: dial tcp: i/o timeout", "resolve image config for docker.io/docker/dockerfile:1",
			"The build failed at resolve image config for docker.io/docker/dockerfile:1: failed to do request", "`# syntax=` line"},
		"secret of an old engine": {"secret npm not found: not found", "[2/2] RUN make", "The build failed at [2/2] RUN make: secret npm not found", "Set the secret npm with `/app build-secret`"},
		"secret of a new engine":  {"failed to solve: secret npm: not found", "[2/2] RUN make", "The build failed at [2/2] RUN make: secret npm: not found", "Set the secret npm with"},
		"base refused": {"rpc error: code = Unknown desc = pulling from host r failed with status code [manifests 1]: 401 Unauthorized", "[internal] load metadata for r/base:1",
			"The base image r/base:1 cannot be fetched: pulling from host r failed", "right credentials"},
		"base unreachable": {"failed to do request: Head: dial tcp 1.2.3.4:443: connect: connection refused", "[internal] load metadata for r/base:1", "The base image r/base:1", "reaches the base image's registry"},
		"base untrusted":   {"failed to do request: http: server gave HTTP response to HTTPS client", "[internal] load metadata for r/base:1", "The base image r/base:1", "insecure-registries as http://"},
		"denied in a step": {"executor failed running [/bin/sh -c cat /x]: permission denied", "[2/2] RUN cat /x", "The build failed at [2/2] RUN cat /x: permission denied", ""},
		// As 26 and 28 tell it, with either image store.
		"base refused, new": {"failed to solve: 10.99.7.1:5001/busybox:1: failed to resolve source metadata for 10.99.7.1:5001/busybox:1: unexpected status from HEAD request to http://10.99.7.1:5001/v2/busybox/manifests/1: 401 Unauthorized",
			"[internal] load metadata for 10.99.7.1:5001/busybox:1", "The base image 10.99.7.1:5001/busybox:1 cannot be fetched: 401 Unauthorized", "right credentials"},
		"base not there": {"failed to solve: 10.99.7.1:5000/busybox:nope: failed to resolve source metadata for 10.99.7.1:5000/busybox:nope: 10.99.7.1:5000/busybox:nope: not found",
			"[internal] load metadata for 10.99.7.1:5000/busybox:nope", "The base image 10.99.7.1:5000/busybox:nope cannot be fetched: not found", "whether the base image exists"},
		"base unreachable, new": {`failed to solve: 10.99.7.1:5999/x:1: failed to resolve source metadata for 10.99.7.1:5999/x:1: failed to do request: Head "https://10.99.7.1:5999/v2/x/manifests/1": dial tcp 10.99.7.1:5999: connect: connection refused`,
			"[internal] load metadata for 10.99.7.1:5999/x:1", "The base image 10.99.7.1:5999/x:1 cannot be fetched: dial tcp 10.99.7.1:5999: connect: connection refused", "reaches the base image's registry"},
		"copy of nothing": {`failed to solve: failed to compute cache key: failed to calculate checksum of ref 4d3b5b29-c360-4d64-96bf-71213bd7e35a::bpog8f4gooivbb43g8b6fh0ht: "/nope": not found`,
			"[2/2] COPY nope /", `The build failed at [2/2] COPY nope /: "/nope": not found`, ""},
		"no result":           {endedWithoutImage, "[2/2] RUN make", "The build did not finish: Docker reported neither an image nor an error. Its last step: [2/2] RUN make", "journalctl"},
		"no result at a base": {endedWithoutImage, "[internal] load metadata for r/base:1", "The build did not finish: Docker reported neither", "journalctl"},
		"another platform": {"failed to solve: r/base:1: failed to resolve source metadata for r/base:1: no match for platform in manifest: not found", "[internal] load metadata for r/base:1",
			"The base image r/base:1 cannot be fetched: no match for platform in manifest", "waggle.platform"},
		"leak": {"no access with password canary", "", "The build failed: no access with password <secret>", ""},
	} {
		t.Run(name, func(t *testing.T) {
			req := ops.BuildRequest{Tag: "x", Logins: []ops.RegistryLogin{{Domain: "r", Auth: ops.RegistryAuth{Username: "u", Password: "canary"}}}}
			err := c.buildFailed(t.Context(), &stepError{message: k.message, step: k.step}, req)
			e := wantError(t, err, ops.Failed, k.sentence)
			if !strings.Contains(e.Next, k.next) || (k.next == "") != (e.Next == "") {
				t.Errorf("next = %q", e.Next)
			}
			if strings.Contains(e.Error()+e.Log, "canary") {
				t.Errorf("the password is in %v", e)
			}
		})
	}
}

func TestDockerfileStaysInTheContext(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "context")
	for _, f := range []string{"outside", "context/Dockerfile", "context/sub/App.dockerfile"} {
		path := filepath.Join(root, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"link": "sub/App.dockerfile", "out": "../outside", "etc": "/etc", "loop": "loop"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]struct {
		file string
		code ops.Code
	}{
		"": {"Dockerfile", ""}, "Dockerfile": {"Dockerfile", ""}, "sub/App.dockerfile": {"sub/App.dockerfile", ""},
		"./sub/../Dockerfile": {"Dockerfile", ""}, "link": {"sub/App.dockerfile", ""},
		"out": {"", ops.Invalid}, "../outside": {"", ops.Invalid}, "/etc/passwd": {"", ops.Invalid}, "etc/passwd": {"", ops.Invalid},
		"none": {"", ops.Failed}, "sub": {"", ops.Failed}, "loop": {"", ops.Failed},
	} {
		file, err := dockerfilePath(dir, name)
		if ops.CodeOf(err) != want.code || err == nil && file != filepath.Join(dir, want.file) {
			t.Errorf("%q: %s, %v; want %+v", name, file, err, want)
		}
	}
}

func TestLargeDockerfile(t *testing.T) {
	dir := t.TempDir()
	for size, refused := range map[int]bool{maxDockerfile: false, maxDockerfile + 1: true} {
		text := "FROM scratch\n#" + strings.Repeat("x", size)
		if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text[:size]), 0o644); err != nil {
			t.Fatal(err)
		}
		c, e := fake(t, nil)
		err := c.Build(t.Context(), ops.BuildRequest{Dir: dir, Tag: "x"}, nil)
		if got := strings.Contains(fmt.Sprint(err), "larger than 1 MB"); got != refused || refused == (e.writes() > 0) {
			t.Errorf("%d bytes: %v, and %d requests to the engine", size, err, e.writes())
		}
	}
}

func TestBaseImageCredentialsGoToTheirRegistryOnly(t *testing.T) {
	login := func(domain, prefix, user string) ops.RegistryLogin {
		return ops.RegistryLogin{Domain: domain, Prefix: prefix, Auth: ops.RegistryAuth{Username: user, Password: secret.Text("pw-" + user)}}
	}
	logins := []ops.RegistryLogin{
		login("r.example.com:5000", "", "mia"), login("docker.io", "", "hub"), login("only.example.com", "team", "only"),
		login("ghcr.io", "acme", "acme"), login("ghcr.io", "acme/sub", "sub"), login("reg.example.com", "", "all"), login("reg.example.com", "a", "a"),
	}
	for _, c := range []struct{ name, host, dockerfile, want, cache string }{
		{"its own", "r.example.com:5000", "", "mia", ""},
		{"another port", "r.example.com:5001", "", "", ""},
		{"no port", "r.example.com", "", "", ""},
		{"a longer host", "evil-r.example.com:5000", "", "", ""},
		{"nothing", "", "", "", ""},
		{"hub, as BuildKit asks", "https://index.docker.io/v1/", "FROM busybox", "hub", ""},
		{"hub's registry", "registry-1.docker.io", "", "hub", ""},
		{"hub", "docker.io", "", "hub", ""},
		{"hub's index", "index.docker.io", "", "hub", ""},
		{"a longer hub", "index.docker.io.evil.org", "", "", ""},
		{"the only one, no base image named", "only.example.com", "FROM scratch", "only", ""},
		{"the only one, for its prefix", "only.example.com", "FROM only.example.com/team/base:1", "only", ""},
		{"the only one, not for others", "only.example.com", "FROM only.example.com/public/base", "", ""},
		{"longest prefix", "ghcr.io", "FROM ghcr.io/acme/sub/base:1", "sub", ""},
		{"whole parts of the path", "ghcr.io", "FROM ghcr.io/acme/subway", "acme", ""},
		{"not of another host", "ghcr.io", "FROM r.example.com:5000/acme/sub/base\nFROM ghcr.io/acme/base", "acme", ""},
		{"neither prefix", "ghcr.io", "FROM ghcr.io/other/base", "", ""},
		{"several, none named", "ghcr.io", "FROM scratch", "", ""},
		{"several, none named, one for all", "reg.example.com", "FROM scratch", "all", ""},
		{"from an ARG", "ghcr.io", "ARG BASE=ghcr.io/acme/sub/base\nFROM ${BASE}:1", "sub", ""},
		{"from a default", "ghcr.io", "FROM ${BASE:-ghcr.io/acme/sub/base}", "sub", ""},
		{"a stage copied from", "ghcr.io", "FROM scratch AS x\nCOPY --from=x / /\nCOPY --from=ghcr.io/acme/sub/files:2 /a /b", "sub", ""},
		{"a mount", "ghcr.io", "FROM scratch\nRUN --mount=type=bind,from=ghcr.io/acme/sub/files,target=/x true", "sub", ""},
		{"a platform", "ghcr.io", "FROM --platform=linux/amd64 ghcr.io/acme/sub/base@sha256:1111111111111111111111111111111111111111111111111111111111111111 AS b", "sub", ""},
		{"not a Dockerfile", "ghcr.io", "\x00", "", ""},
		{"the cache's", "ghcr.io", "FROM scratch", "sub", "ghcr.io/acme/sub/pizza:1"},
		{"the base's before the cache's", "ghcr.io", "FROM ghcr.io/acme/base", "acme", "ghcr.io/acme/sub/pizza:1"},
		{"not the cache's for another host", "r.example.com:5001", "FROM scratch", "", "ghcr.io/acme/sub/pizza:1"},
		{"not another's for the cache", "only.example.com", "FROM only.example.com/public/base", "", "only.example.com/public/pizza:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := baseAuth{logins: logins, images: baseImages(strings.NewReader(c.dockerfile), nil), cache: c.cache}
			got, err := a.Credentials(t.Context(), &auth.CredentialsRequest{Host: c.host})
			want := ":"
			if c.want != "" {
				want = c.want + ":pw-" + c.want
			}
			if err != nil || got.Username+":"+got.Secret != want {
				t.Errorf("%q is given %s:%s, %v; want %s", c.host, got.GetUsername(), got.GetSecret(), err, want)
			}
		})
	}
}

func TestBaseImages(t *testing.T) {
	const long = "0123456789abcdef"
	for name, c := range map[string]struct {
		dockerfile string
		args       map[string]string
		want       []string
	}{
		"a default":                    {"ARG BASE=a.test/base\nFROM $BASE", nil, []string{"a.test/base"}},
		"another's argument":           {"ARG BASE=a.test/base\nFROM $BASE", map[string]string{"OTHER": "b.test/base"}, []string{"a.test/base"}},
		"an argument":                  {"ARG BASE=a.test/base\nFROM $BASE", map[string]string{"BASE": "b.test/base"}, []string{"b.test/base"}},
		"an argument, no default":      {"ARG BASE\nFROM ${BASE}:1", map[string]string{"BASE": "b.test/base"}, []string{"b.test/base:1"}},
		"an argument without an ARG":   {"FROM ${BASE:-a.test/base}", map[string]string{"BASE": "b.test/base"}, []string{"a.test/base"}},
		"an ARG too late":              {"FROM a.test/base\nARG BASE=a.test/base\nFROM ${BASE:-c.test/base}", map[string]string{"BASE": "b.test/base"}, []string{"a.test/base", "c.test/base"}},
		"an empty argument":            {"ARG BASE=a.test/base\nFROM ${BASE:-c.test/base}", map[string]string{"BASE": ""}, []string{"c.test/base"}},
		"a default of another ARG":     {"ARG REG=a.test\nARG BASE=\"$REG/base\"\nFROM ${BASE}", nil, []string{"a.test/base"}},
		"its argument":                 {"ARG REG=a.test BASE=${REG}/base\nFROM ${BASE}", map[string]string{"REG": "b.test"}, []string{"b.test/base"}},
		"an ARG that comes only later": {"ARG BASE=$REG/base\nARG REG=a.test\nFROM ${BASE}", nil, []string{"/base"}},
		"an ARG declared again":        {"ARG BASE=a.test/base\nARG BASE\nFROM $BASE", nil, []string{"a.test/base"}},
		"too long":                     {"ARG A=" + strings.Repeat("a", 60_000) + "\nFROM " + strings.Repeat("$A", 1000) + "\nFROM a.test/base", nil, []string{"a.test/base"}},
		"too long by defaults": {"ARG A0=" + long + "\n" + func() (text string) {
			for i := range 20 {
				text += fmt.Sprintf("ARG A%d=$A%d$A%d\n", i+1, i, i)
			}
			return text
		}() + "FROM $A20\nFROM a.test/base", nil, []string{"a.test/base"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := baseImages(strings.NewReader(c.dockerfile), c.args); !slices.Equal(got, c.want) {
				t.Errorf("%d images, %.200q; want %q", len(got), got, c.want)
			}
		})
	}
	// Each may be long, and all of them come to no more than a Dockerfile.
	all := baseImages(strings.NewReader("ARG A="+strings.Repeat("a", 2000)+"\n"+strings.Repeat("FROM $A\n", 2000)), nil)
	if n := len(strings.Join(all, "")); n == 0 || n > maxDockerfile {
		t.Errorf("%d images have %d bytes", len(all), n)
	}
}

// An engine that has no sessions must not leave the build waiting.
func TestBuildWithoutSessions(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c, _ := fake(t, map[string]http.HandlerFunc{"POST /build": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }})
	began := time.Now()
	err := c.Build(t.Context(), ops.BuildRequest{Dir: dir, Tag: "x"}, nil)
	if ops.CodeOf(err) != ops.Internal || !strings.Contains(err.Error(), "open a build session") {
		t.Errorf("error is %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

// An engine that stops in the middle of a build is away: nothing is known against the build.
func TestBuildWhoseEngineStops(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	whole := data(t, "build-ok.json")
	for name, end := range map[string]func(w http.ResponseWriter){
		"before it answers": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"between records": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, whole[:strings.Index(whole, `{"id":"moby.image.id"`)])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"in a record": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, whole[:len(whole)/2])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"and says so": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, `{"errorDetail":{"message":"failed to solve: Canceled: context canceled"},"error":"context canceled"}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := fake(t, map[string]http.HandlerFunc{
				"POST /build": func(w http.ResponseWriter, _ *http.Request) { end(w) },
				"POST /session": func(w http.ResponseWriter, _ *http.Request) {
					conn, _, err := w.(http.Hijacker).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close()
					_, _ = io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
					_, _ = io.Copy(io.Discard, conn) // until the build has ended
				},
			})
			err := c.Build(t.Context(), ops.BuildRequest{Dir: dir, Tag: "x"}, nil)
			if ops.CodeOf(err) != ops.Unavailable {
				t.Errorf("%s: %v", ops.CodeOf(err), err)
			}
		})
	}
}

// A build ends in time on an engine that takes the connection of its session and never
// answers it; one that answers later is hung up on.
func TestBuildWhoseSessionIsNotAnswered(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]struct {
		build    http.HandlerFunc // after /session was asked for
		call     func(context.Context) (context.Context, context.CancelFunc)
		code     ops.Code
		sentence string
	}{
		"deadline": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, 200*time.Millisecond)
			},
			ops.Failed, "not done in time"},
		"called off": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(ctx)
				time.AfterFunc(200*time.Millisecond, cancel)
				return ctx, cancel
			},
			ops.Canceled, "called off"},
		"the build is refused": {fails(500, "no room"), context.WithCancel, ops.Internal, "no room"},
	} {
		t.Run(name, func(t *testing.T) {
			asked, late, hungUp := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			c, _ := fake(t, map[string]http.HandlerFunc{
				"POST /build": func(w http.ResponseWriter, r *http.Request) {
					<-asked
					k.build(w, r)
				},
				"POST /session": func(w http.ResponseWriter, _ *http.Request) {
					close(asked)
					<-late
					conn, _, err := w.(http.Hijacker).Hijack()
					if err != nil {
						hungUp <- err
						return
					}
					defer conn.Close()
					_, _ = io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
					_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
					_, err = conn.Read(make([]byte, 1))
					hungUp <- err
				},
			})
			ctx, cancel := k.call(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- c.Build(ctx, ops.BuildRequest{Dir: dir, Tag: "x"}, nil) }()
			select {
			case err := <-ended:
				wantError(t, err, k.code, k.sentence)
			case <-time.After(5 * time.Second):
				t.Error("the build goes on")
			}
			close(late)
			if err := <-hungUp; err != io.EOF {
				t.Errorf("the late session: %v", err)
			}
		})
	}
}

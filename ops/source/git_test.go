package source

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/ops"
)

// repo is a bare repository made by the real git, with a clone to commit in.
type repo struct {
	t          *testing.T
	bare, work string
}

func newRepo(t *testing.T) *repo {
	t.Helper()
	dir := t.TempDir()
	r := &repo{t: t, bare: filepath.Join(dir, "pizza.git"), work: filepath.Join(dir, "work")}
	r.run(dir, "init", "--quiet", "--bare", "--initial-branch=main", r.bare)
	r.run(dir, "clone", "--quiet", r.bare, r.work)
	return r
}

func (r *repo) run(dir string, args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Mia", "GIT_AUTHOR_EMAIL=mia@example.com", "GIT_COMMITTER_NAME=Mia", "GIT_COMMITTER_EMAIL=mia@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes a file, pushes the commit and returns its hash.
func (r *repo) commit(name, content, message string) string {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.work, name), []byte(content), 0o644); err != nil {
		r.t.Fatal(err)
	}
	r.run(r.work, "add", "-A")
	r.run(r.work, "commit", "--quiet", "-m", message)
	r.run(r.work, "push", "--quiet", "origin", "HEAD:main")
	return r.run(r.work, "rev-parse", "HEAD")
}

func (r *repo) url() string { return "file://" + r.bare }

// server serves the repository over HTTP by git's own backend.
type server struct {
	*httptest.Server
	mu    sync.Mutex
	auths []string // Authorization header of each request
}

func (r *repo) serve(before func(w http.ResponseWriter, req *http.Request) bool) *server {
	r.t.Helper()
	path := strings.TrimSpace(r.run(r.bare, "--exec-path")) + "/git-http-backend"
	backend := &cgi.Handler{Path: path, Env: []string{"GIT_PROJECT_ROOT=" + filepath.Dir(r.bare), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null"}, Stderr: io.Discard}
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		s.mu.Lock()
		s.auths = append(s.auths, req.Header.Get("Authorization"))
		s.mu.Unlock()
		if before == nil || before(w, req) {
			backend.ServeHTTP(w, req)
		}
	}))
	r.t.Cleanup(s.Close)
	return s
}

func (s *server) host() string { return strings.TrimPrefix(s.URL, "http://") }

func wantError(t *testing.T, err error, code ops.Code, sentence string) *ops.Error {
	t.Helper()
	var e *ops.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Sentence, sentence) {
		t.Fatalf("error is %s %v, want %s with %q", ops.CodeOf(err), err, code, sentence)
	}
	return e
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func empty(t *testing.T, dir string) {
	t.Helper()
	entries, _ := os.ReadDir(dir)
	if len(entries) > 0 {
		t.Errorf("%s is left in the work root", entries[0].Name())
	}
}

func TestCheckoutIsExactlyTheCommit(t *testing.T) {
	r := newRepo(t)
	first := r.commit("menu", "margherita", "Add a menu\n\nWith one pizza.")
	r.commit("menu", "funghi", "Change it")
	for name, url := range map[string]string{"file": r.url(), "http": r.serve(nil).URL + "/pizza.git"} {
		t.Run(name, func(t *testing.T) {
			g := &Git{Dir: t.TempDir()}
			tree, err := g.Checkout(t.Context(), url, first, "")
			if err != nil {
				t.Fatal(err)
			}
			if got := read(t, tree.Dir, "menu"); got != "margherita" {
				t.Errorf("menu is %q, want that of the first commit", got)
			}
			if tree.Commit != first || tree.Subject != "Add a menu" || tree.Author != "Mia" || tree.At.IsZero() {
				t.Errorf("tree = %+v", tree)
			}
			if entries, _ := os.ReadDir(tree.Dir); len(entries) != 1 {
				t.Errorf("the tree has more than the commit: %v", entries)
			}
			if err := tree.Close(); err != nil {
				t.Error(err)
			}
			empty(t, g.Dir)
		})
	}
}

func TestCheckoutOfSHA256Repository(t *testing.T) {
	dir := t.TempDir()
	r := &repo{t: t, bare: filepath.Join(dir, "p.git"), work: filepath.Join(dir, "w")}
	r.run(dir, "init", "--quiet", "--bare", "--object-format=sha256", "--initial-branch=main", r.bare)
	r.run(dir, "init", "--quiet", "--object-format=sha256", r.work)
	r.run(r.work, "remote", "add", "origin", r.bare)
	commit := r.commit("menu", "x", "One")
	if len(commit) != 64 {
		t.Skip("this git makes no SHA-256 repositories")
	}
	tree, err := (&Git{Dir: t.TempDir()}).Checkout(t.Context(), r.url(), commit, "main")
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
}

// An older server gives only what a branch points at.
func TestCheckoutWhereHashesAreRefused(t *testing.T) {
	r := newRepo(t)
	first := r.commit("menu", "margherita", "One")
	for _, m := range []string{"a", "b", "c"} {
		r.commit("menu", m, m)
	}
	s := r.serve(func(_ http.ResponseWriter, req *http.Request) bool {
		req.Header.Del("Git-Protocol") // speaks protocol 0 only
		return true
	})
	g := &Git{Dir: t.TempDir()}
	tree, err := g.Checkout(t.Context(), s.URL+"/pizza.git", first, "main")
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if got := read(t, tree.Dir, "menu"); got != "margherita" {
		t.Errorf("menu is %q", got)
	}
	_, err = g.Checkout(t.Context(), s.URL+"/pizza.git", first, "")
	wantError(t, err, ops.NotFound, first[:7])
}

func TestCheckoutDeepInAnOldServersHistory(t *testing.T) {
	r := newRepo(t)
	first := r.commit("menu", "margherita", "One")
	for range 60 {
		r.run(r.work, "commit", "--quiet", "--allow-empty", "-m", "more")
	}
	r.run(r.work, "push", "--quiet", "origin", "HEAD:main")
	s := r.serve(func(_ http.ResponseWriter, req *http.Request) bool { req.Header.Del("Git-Protocol"); return true })
	tree, err := (&Git{Dir: t.TempDir()}).Checkout(t.Context(), s.URL+"/pizza.git", first, "main")
	if err != nil {
		t.Fatal(err)
	}
	tree.Close()
}

func TestCheckoutOfACommitThatIsGone(t *testing.T) {
	r := newRepo(t)
	r.commit("menu", "margherita", "One")
	g := &Git{Dir: t.TempDir()}
	_, err := g.Checkout(t.Context(), r.url(), strings.Repeat("ab", 20), "main")
	e := wantError(t, err, ops.NotFound, "does not have commit abababa any more")
	if !strings.Contains(e.Next, "force-pushed") {
		t.Errorf("next = %q", e.Next)
	}
	_, err = g.Checkout(t.Context(), r.url(), strings.Repeat("ab", 20), "gone")
	wantError(t, err, ops.NotFound, "does not have commit")
	empty(t, g.Dir)
}

func TestCheckoutRefusesBadInput(t *testing.T) {
	hash := strings.Repeat("a", 40)
	for name, c := range map[string]struct{ url, commit, branch string }{
		"short hash":            {"https://example.com/p.git", "abc1234", ""},
		"branch as hash":        {"https://example.com/p.git", "main", ""},
		"hash with newline":     {"https://example.com/p.git", hash + "\n", ""},
		"upper case hash":       {"https://example.com/p.git", strings.ToUpper(hash), ""},
		"option":                {"--upload-pack=touch /tmp/x", hash, ""},
		"option without spaces": {"--upload-pack=x", hash, ""},
		"ext transport":         {"ext::sh -c x", hash, ""},
		"ext, short":            {"ext::x", hash, ""},
		"fd transport":          {"fd::17", hash, ""},
		"ssh option as host":    {"ssh://-oProxyCommand=x/p", hash, ""},
		"ssh option as user":    {"ssh://-oProxyCommand@host/p", hash, ""},
		"scp option":            {"-oProxyCommand=x:p", hash, ""},
		"scp option as host":    {"git@-oProxyCommand=x:p", hash, ""},
		"scp path option":       {"host:-p", hash, ""},
		"newline":               {"https://example.com/p\n.git", hash, ""},
		"local path":            {"/etc", hash, ""},
		"ftp":                   {"ftp://example.com/p.git", hash, ""},
		"no host":               {"https:///p.git", hash, ""},
		"empty":                 {"", hash, ""},
		"password":              {"https://mia:canary@example.com/p.git", hash, ""},
		"token as user":         {"https://canary@example.com/p.git", hash, ""},
		"ssh password":          {"ssh://git:canary@example.com/p.git", hash, ""},
		"branch as option":      {"https://example.com/p.git", hash, "--all"},
		"branch as refspec":     {"https://example.com/p.git", hash, "a:refs/heads/b"},
		"branch with wildcard":  {"https://example.com/p.git", hash, "*"},
		"branch as range":       {"https://example.com/p.git", hash, "a..b"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &Git{Dir: t.TempDir()}
			_, err := g.Checkout(t.Context(), c.url, c.commit, c.branch)
			wantError(t, err, ops.Invalid, "")
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("the error repeats the password: %v", err)
			}
		})
	}
}

func TestAddressesThatAreTaken(t *testing.T) {
	g := &Git{Credentials: []Credential{{Host: "git.example.com", Token: "t"}, {Host: "git.example.com", KeyFile: "/k"}}}
	for url, want := range map[string]struct{ name, host, key string }{
		"https://git.example.com/o/p.git":        {"https://git.example.com/o/p.git", "git.example.com", ""},
		"https://GIT.example.com/o/p.git?x=1":    {"https://GIT.example.com/o/p.git", "GIT.example.com", ""},
		"git@git.example.com:o/p.git":            {"git@git.example.com:o/p.git", "git.example.com", "/k"},
		"ssh://git@git.example.com/o/p.git":      {"ssh://git@git.example.com/o/p.git", "git.example.com", "/k"},
		"ssh://git@git.example.com:2222/o/p.git": {"ssh://git@git.example.com:2222/o/p.git", "git.example.com:2222", "none"},
		"https://git.example.com.evil.org/p.git": {"https://git.example.com.evil.org/p.git", "git.example.com.evil.org", "none"},
	} {
		r, err := g.remote(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		key := "none"
		if r.creds != nil {
			key = r.creds.KeyFile
		}
		if r.name != want.name || r.host != want.host || key != want.key {
			t.Errorf("%s: name %q host %q key %q, want %+v", url, r.name, r.host, key, want)
		}
	}
}

// needAuth lets only mia with the token through.
func needAuth(token string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, req *http.Request) bool {
		if user, pass, _ := req.BasicAuth(); user == "mia" && pass == token {
			return true
		}
		w.Header().Set("WWW-Authenticate", "Basic")
		http.Error(w, "who are you", http.StatusUnauthorized)
		return false
	}
}

func TestTokenReachesItsHostAndNothingElse(t *testing.T) {
	const token = "token-canary"
	// What a process list shows is recorded by a git that stands in for git.
	shim, argv := t.TempDir(), filepath.Join(t.TempDir(), "argv")
	real, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\nprintf '%s\\n' \"$*\" >> " + argv + "\nexec " + real + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(shim, "git"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}

	r := newRepo(t)
	commit := r.commit("menu", "x", "One")
	private, other := r.serve(needAuth(token)), r.serve(nil)
	moved := r.serve(func(w http.ResponseWriter, req *http.Request) bool {
		http.Redirect(w, req, other.URL+req.URL.RequestURI(), http.StatusMovedPermanently)
		return false
	})
	t.Setenv("PATH", shim+":"+os.Getenv("PATH"))
	g := &Git{Dir: t.TempDir(), Credentials: []Credential{
		{Host: private.host(), Username: "mia", Token: token}, {Host: moved.host(), Username: "mia", Token: token}}}

	tree, err := g.Checkout(t.Context(), private.URL+"/pizza.git", commit, "main")
	if err != nil {
		t.Fatal(err)
	}
	tree.Close()
	if tree, err = g.Checkout(t.Context(), other.URL+"/pizza.git", commit, "main"); err != nil {
		t.Fatal(err)
	}
	tree.Close()
	_, err = g.Checkout(t.Context(), moved.URL+"/pizza.git", commit, "main")
	wantError(t, err, ops.Failed, "moved")
	if slices.ContainsFunc(other.auths, func(a string) bool { return a != "" }) {
		t.Errorf("another host was given %q", other.auths)
	}
	encoded := base64.StdEncoding.EncodeToString([]byte("mia:" + token))
	if got := read(t, argv); strings.Contains(got, token) || strings.Contains(got, encoded) || !strings.Contains(got, "fetch") {
		t.Errorf("arguments of git:\n%s", got)
	}

	g.Credentials[0].Token = "wrong-canary"
	_, err = g.Checkout(t.Context(), private.URL+"/pizza.git", commit, "main")
	e := wantError(t, err, ops.Failed, "does not let Waggle read it")
	if !strings.Contains(e.Next, "check the token") || e.Log == "" {
		t.Errorf("next %q, log %q", e.Next, e.Log)
	}
	if all := err.Error() + e.Log + e.Next; strings.Contains(all, "canary") {
		t.Errorf("the token is in the error: %s", all)
	}
	g.Credentials = nil
	_, err = g.Checkout(t.Context(), private.URL+"/pizza.git", commit, "main")
	if e := wantError(t, err, ops.Failed, "does not let Waggle read it"); !strings.Contains(e.Next, "add a token") {
		t.Errorf("next %q", e.Next)
	}
}

func TestOwnConfigurationIsNotUsed(t *testing.T) {
	r := newRepo(t)
	commit := r.commit("menu", "x", "One")
	s := r.serve(nil)
	home, mark := t.TempDir(), filepath.Join(t.TempDir(), "ran")
	hooks := filepath.Join(home, "hooks")
	if err := os.MkdirAll(hooks, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"hooks/post-checkout": "#!/bin/sh\ntouch " + mark + "\n",
		".gitconfig":          "[core]\nhooksPath=" + hooks + "\n[url \"https://nowhere.invalid/\"]\ninsteadOf=http://\n",
		".netrc":              "machine 127.0.0.1 login mia password canary\n",
	} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", home)
	t.Setenv("GIT_DIR", "/nonexistent")
	t.Setenv("GIT_CONFIG_COUNT", "1")
	t.Setenv("GIT_CONFIG_KEY_0", "core.hooksPath")
	t.Setenv("GIT_CONFIG_VALUE_0", hooks)
	tree, err := (&Git{Dir: t.TempDir()}).Checkout(t.Context(), s.URL+"/pizza.git", commit, "")
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if _, err := os.Stat(mark); err == nil {
		t.Error("a hook of the user's ran")
	}
	if slices.ContainsFunc(s.auths, func(a string) bool { return a != "" }) {
		t.Errorf("the user's .netrc was used: %q", s.auths)
	}
}

func TestWhatGoesWrongIsNamed(t *testing.T) {
	r := newRepo(t)
	commit := r.commit("menu", "x", "One")
	down := httptest.NewServer(nil)
	down.Close()
	broken := r.serve(func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "oops", http.StatusBadGateway)
		return false
	})
	foreign := httptest.NewTLSServer(nil)
	defer foreign.Close()
	for name, c := range map[string]struct {
		url      string
		code     ops.Code
		sentence string
	}{
		"foreign certificate":  {foreign.URL + "/pizza.git", ops.Failed, "the TLS certificate of 127.0.0.1"},
		"server down":          {down.URL + "/pizza.git", ops.Unavailable, "cannot be reached"},
		"unknown host":         {"https://nowhere.invalid/pizza.git", ops.Unavailable, "cannot be reached"},
		"server broken":        {broken.URL + "/pizza.git", ops.Unavailable, "cannot be reached"},
		"no repository, http":  {r.serve(nil).URL + "/nothing.git", ops.Failed, "there is no repository"},
		"no repository, local": {"file:///nonexistent/nothing.git", ops.Failed, "there is no repository"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &Git{Dir: t.TempDir()}
			_, err := g.Checkout(t.Context(), c.url, commit, "main")
			if e := wantError(t, err, c.code, c.sentence); e.Next == "" || e.Log == "" {
				t.Errorf("next %q, log %q", e.Next, e.Log)
			}
			empty(t, g.Dir)
		})
	}
}

func TestCancelKillsTheWholeGroup(t *testing.T) {
	r := newRepo(t)
	commit := r.commit("menu", "x", "One")
	asked := make(chan struct{}, 9)
	release := make(chan struct{})
	s := r.serve(func(_ http.ResponseWriter, req *http.Request) bool {
		asked <- struct{}{}
		select {
		case <-release:
		case <-req.Context().Done():
		}
		return false
	})
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	g := &Git{Dir: t.TempDir()}
	done := make(chan error, 1)
	go func() {
		_, err := g.Checkout(ctx, s.URL+"/pizza.git", commit, "main")
		done <- err
	}()
	select {
	case <-asked:
	case err := <-done:
		t.Fatalf("it ended without asking: %v", err)
	}
	began := time.Now()
	cancel()
	select {
	case err := <-done:
		wantError(t, err, ops.Canceled, "")
	case <-time.After(5 * time.Second):
		t.Fatal("still fetching 5 s after the cancel")
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	out, _ := exec.Command("ps", "-eo", "args").Output()
	if strings.Contains(string(out), s.URL) {
		t.Errorf("a git of the fetch is left:\n%s", out)
	}
	empty(t, g.Dir)
}

func TestPathStaysInTheTree(t *testing.T) {
	r := newRepo(t)
	for name, to := range map[string]string{"out": "/etc", "up": "../..", "in": "app"} {
		if err := os.Symlink(to, filepath.Join(r.work, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(r.work, "app"), 0o755); err != nil {
		t.Fatal(err)
	}
	commit := r.commit("app/Dockerfile", "FROM scratch", "One")
	tree, err := (&Git{Dir: t.TempDir()}).Checkout(t.Context(), r.url(), commit, "")
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	for name, code := range map[string]ops.Code{
		"": "", ".": "", "app": "", "in": "", "in/Dockerfile": "", "app/..": "",
		"nothing": ops.NotFound, "out": ops.Invalid, "up": ops.Invalid, "out/passwd": ops.Invalid,
		"../x": ops.Invalid, "/etc": ops.Invalid, "in/../../..": ops.Invalid,
	} {
		path, err := tree.Path(name)
		if ops.CodeOf(err) != code {
			t.Errorf("Path(%q) = %q, %v; want code %q", name, path, err, code)
		}
	}
	if info, err := os.Lstat(filepath.Join(tree.Dir, "in")); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("a link of the repository is not kept as one: %v %v", info, err)
	}
}

func TestResolve(t *testing.T) {
	r := newRepo(t)
	first := r.commit("menu", "x", "One")
	r.run(r.work, "tag", "-a", "v1", "-m", "Release")
	r.run(r.work, "tag", "light")
	r.run(r.work, "push", "--quiet", "--tags")
	second := r.commit("menu", "y", "Two")
	g := &Git{Dir: t.TempDir()}
	for ref, want := range map[string]string{"": second, "main": second, "v1": first, "light": first, first: first} {
		if got, err := g.Resolve(t.Context(), r.url(), ref); err != nil || got != want {
			t.Errorf("Resolve(%s) = %s, %v; want %s", ref, got, err, want)
		}
	}
	_, err := g.Resolve(t.Context(), r.url(), "nothing")
	wantError(t, err, ops.NotFound, "no branch or tag nothing")
	_, err = g.Resolve(t.Context(), r.url(), "--heads")
	wantError(t, err, ops.Invalid, "")
	empty(t, g.Dir)
}

func TestSweepRemovesWhatKilledRunsLeft(t *testing.T) {
	r := newRepo(t)
	commit := r.commit("menu", "x", "One")
	g := &Git{Dir: t.TempDir()}
	if err := (&Git{Dir: filepath.Join(g.Dir, "none")}).Sweep(); err != nil {
		t.Errorf("sweeping a root that is not there: %v", err)
	}
	tree, err := g.Checkout(t.Context(), r.url(), commit, "")
	if err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(g.Dir, workPrefix+"left")
	fresh := filepath.Join(g.Dir, workPrefix+"fresh")
	mine := filepath.Join(g.Dir, "mine")
	for _, d := range []string{left, fresh, mine} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(left, "lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := g.Sweep(); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{left: false, fresh: true, mine: true, tree.Dir: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", filepath.Base(dir), err == nil, want)
		}
	}
	if err := tree.Close(); err != nil {
		t.Error(err)
	}
}

func TestSSHIsTiedDown(t *testing.T) {
	g := &Git{KnownHosts: "/etc/known hosts", Credentials: []Credential{{Host: "git.example.com", KeyFile: "/k"}}}
	r, err := g.remote("git@git.example.com:o/p.git")
	if err != nil {
		t.Fatal(err)
	}
	got := r.sshCommand("/keys/it's")
	for _, want := range []string{"'StrictHostKeyChecking=yes'", "'BatchMode=yes'", "'IdentitiesOnly=yes'",
		`'UserKnownHostsFile="/etc/known hosts"'`, `'-i' '/keys/it'\''s'`} {
		if !strings.Contains(got, want) {
			t.Errorf("ssh command %s lacks %s", got, want)
		}
	}
}

// TestDeployKey: ssh ignores a key that others may read, and that is how Docker mounts
// secrets.
func TestDeployKey(t *testing.T) {
	for mode, copied := range map[os.FileMode]bool{0o400: false, 0o600: false, 0o444: true, 0o640: true} {
		file := filepath.Join(t.TempDir(), "key")
		if err := errors.Join(os.WriteFile(file, []byte("canary"), 0o600), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
		run := &runner{remote: &remote{host: "git.example.com", creds: &Credential{KeyFile: file}}, dir: t.TempDir()}
		got, err := run.deployKey()
		if err != nil {
			t.Fatal(err)
		}
		if copied != (got != file) {
			t.Errorf("mode %#o: %s", mode, got)
		}
		text, err := os.ReadFile(got)
		st, err2 := os.Stat(got)
		if err != nil || err2 != nil || string(text) != "canary" || st.Mode().Perm()&0o077 != 0 {
			t.Errorf("mode %#o: %q in %v, %v %v", mode, text, st, err, err2)
		}
	}
	g := &Git{Dir: t.TempDir(), Credentials: []Credential{{Host: "git.example.com", KeyFile: "/not/there"}}}
	_, err := g.Resolve(t.Context(), "git@git.example.com:o/p.git", "main")
	e := new(ops.Error)
	if !errors.As(err, &e) || e.Sentence != "Waggle cannot read its deploy key for git.example.com, /not/there" {
		t.Errorf("without the file: %v", err)
	}
}

// TestWorkDirectory is refused when another user could put other files there.
func TestWorkDirectory(t *testing.T) {
	shared := filepath.Join(t.TempDir(), "shared")
	if err := errors.Join(os.Mkdir(shared, 0o700), os.Chmod(shared, 0o777)); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{shared, link} {
		g := &Git{Dir: dir}
		e := new(ops.Error)
		if _, _, err := g.workDir(); !errors.As(err, &e) || !strings.Contains(e.Sentence, "not a directory of Waggle's alone") {
			t.Errorf("%s: %v", dir, err)
		}
		if err := g.Sweep(); !errors.As(err, &e) {
			t.Errorf("sweeping %s: %v", dir, err)
		}
	}
	if err := (&Git{Dir: file}).Sweep(); err == nil {
		t.Error("a file is swept")
	}
	// What leads there may be a link: submodules have to be found below it.
	real := t.TempDir()
	link = filepath.Join(t.TempDir(), "tmp")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	root, lock, err := (&Git{Dir: filepath.Join(link, "waggle")}).workDir()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if want, _ := filepath.EvalSymlinks(root); root != want {
		t.Errorf("it is at %s, which is %s", root, want)
	}
}

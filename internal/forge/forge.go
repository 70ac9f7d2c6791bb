// Package forge is a small real Git forge for tests and the demonstration. It
// serves repositories over HTTP with git's own http-backend, and sends GitHub's
// push event for what is pushed to them, by whatever Git client.
package forge

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Options say where a forge listens and whom it tells of pushes.
type Options struct {
	Addr string // default "127.0.0.1:0"
	Dir  string // keeps the repositories; default a temporary directory, removed by Close

	WebhookURL string // no events are sent while it is empty
	Secret     string // signs them
	Form       bool   // send them as GitHub does for the content type x-www-form-urlencoded
	// Timeout is how long an answer to an event is waited for; default 10 s, as GitHub.
	Timeout time.Duration

	// User and Password open private repositories.
	User, Password string
	// SSH is user@host of an SSH server on this machine that gives the repositories
	// too; "" for one that is not there.
	SSH string
}

// Forge is a running forge.
type Forge struct {
	opts    Options
	dir     string
	tmp     bool
	url     string
	backend string
	server  *http.Server
	client  *http.Client

	ctx    context.Context // ends with Close: it bounds deliveries, which outlive the push
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu         sync.Mutex // guards what follows, and the webhook of opts
	repos      map[string]*Repo
	deliveries []Delivery
	changed    chan struct{} // closed and made anew when a delivery ends
	ended      bool          // no more deliveries may begin
	hold, held chan struct{} // held is what fetches wait for, if it is not nil; hold becomes it with the next push

	close func() error
}

// Start starts a forge; the caller must Close it.
func Start(ctx context.Context, opts Options) (*Forge, error) {
	if opts.Addr == "" {
		opts.Addr = "127.0.0.1:0"
	}
	if opts.Timeout == 0 {
		opts.Timeout = 10 * time.Second
	}
	f := &Forge{
		opts: opts, dir: opts.Dir, repos: map[string]*Repo{}, changed: make(chan struct{}),
		client: &http.Client{
			Transport:     &http.Transport{}, // no proxy between the forge and its hook
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	exe, err := f.git(ctx, os.TempDir(), "--exec-path")
	if err != nil {
		return nil, fmt.Errorf("starting the forge: %w (is git installed?)", err)
	}
	f.backend = filepath.Join(exe, "git-http-backend")
	if _, err := os.Stat(f.backend); err != nil {
		return nil, fmt.Errorf("starting the forge: %w: apt-get install git", err)
	}
	if f.dir == "" {
		if f.dir, err = os.MkdirTemp("", "forge-"); err != nil {
			return nil, fmt.Errorf("starting the forge: %w", err)
		}
		f.tmp = true
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", opts.Addr)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting the forge: %w", err), f.removeFiles())
	}
	f.url = "http://" + listener.Addr().String()
	f.ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	f.close = sync.OnceValue(f.shutdown)
	f.server = &http.Server{Handler: f, ReadHeaderTimeout: 10 * time.Second}
	f.wg.Go(func() { _ = f.server.Serve(listener) }) // it always ends with an error: closed
	return f, nil
}

// URL is the forge's address, such as http://127.0.0.1:41234.
func (f *Forge) URL() string { return f.url }

// SetWebhook changes whom the forge tells of pushes from now on.
func (f *Forge) SetWebhook(url, secret string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opts.WebhookURL, f.opts.Secret = url, secret
}

// HoldFetches has every fetch after the next push wait, as at a forge that is slow,
// until the returned function is called.
func (f *Forge) HoldFetches() (release func()) {
	held := make(chan struct{})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hold = held
	return sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.hold, f.held = nil, nil
		close(held)
	})
}

// Close ends the server and the deliveries under way, and removes the
// repositories unless they are in a directory of the caller. It may be called
// again.
func (f *Forge) Close() error { return f.close() }

func (f *Forge) shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := f.server.Shutdown(ctx); err != nil {
		_ = f.server.Close()
	}
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	f.cancel()
	f.wg.Wait()
	f.client.CloseIdleConnections()
	return f.removeFiles()
}

func (f *Forge) removeFiles() error {
	if !f.tmp {
		return nil
	}
	return os.RemoveAll(f.dir)
}

// RepoOptions are the settings of a repository.
type RepoOptions struct {
	Private       bool   // needs the forge's User and Password
	DefaultBranch string // default "main"
}

var repoName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]*/[A-Za-z0-9_-][A-Za-z0-9_.-]*$`)

// Create makes an empty repository with a name such as "bees/pizza".
func (f *Forge) Create(ctx context.Context, name string, opts RepoOptions) (*Repo, error) {
	if !repoName.MatchString(name) || strings.HasSuffix(name, ".git") {
		return nil, fmt.Errorf("creating repository %q: the name must be <owner>/<name>", name)
	}
	if opts.DefaultBranch == "" {
		opts.DefaultBranch = "main"
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.repos[name] != nil {
		return nil, fmt.Errorf("creating repository %s: it exists already", name)
	}
	r := &Repo{
		Name: name, Private: opts.Private, DefaultBranch: opts.DefaultBranch,
		forge: f, id: int64(len(f.repos) + 1), created: time.Now(),
		bare: filepath.Join(f.dir, "repos", name+".git"), work: filepath.Join(f.dir, "work", name),
	}
	if err := os.MkdirAll(r.bare, 0o755); err != nil {
		return nil, fmt.Errorf("creating repository %s: %w", name, err)
	}
	for _, args := range [][]string{
		{"init", "-q", "--bare", "-b", opts.DefaultBranch, "."},
		{"config", "http.receivepack", "true"}, // also without a login
		{"config", "receive.denyDeleteCurrent", "ignore"},
		{"config", "uploadpack.allowAnySHA1InWant", "true"},
		{"config", "uploadpack.allowFilter", "true"},
	} {
		if _, err := f.git(ctx, r.bare, args...); err != nil {
			return nil, fmt.Errorf("creating repository %s: %w", name, err)
		}
	}
	f.repos[name] = r
	return r, nil
}

// ServeHTTP serves repositories at /<owner>/<name>.git, and a commit as text at
// the address that events link to.
func (f *Forge) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	parts := strings.SplitN(strings.TrimPrefix(req.URL.Path, "/"), "/", 3)
	if len(parts) < 2 {
		http.NotFound(w, req)
		return
	}
	base, isGit := strings.CutSuffix(parts[1], ".git")
	f.mu.Lock()
	r, held := f.repos[parts[0]+"/"+base], f.held
	f.mu.Unlock()
	if r == nil {
		http.NotFound(w, req)
		return
	}
	if held != nil && strings.HasSuffix(req.URL.Path, "/git-upload-pack") {
		select {
		case <-held:
		case <-req.Context().Done():
			return
		case <-f.ctx.Done():
			return
		}
	}
	user, password, _ := req.BasicAuth()
	if r.Private && (subtle.ConstantTimeCompare([]byte(user), []byte(f.opts.User)) != 1 ||
		subtle.ConstantTimeCompare([]byte(password), []byte(f.opts.Password)) != 1 || f.opts.Password == "") {
		w.Header().Set("WWW-Authenticate", `Basic realm="forge"`)
		http.Error(w, "this repository is private", http.StatusUnauthorized)
		return
	}
	if !isGit {
		r.serveText(w, req, strings.Join(parts[2:], ""))
		return
	}
	h := &cgi.Handler{
		Path: f.backend,
		Dir:  f.dir,
		Env: append(hermetic(), "GIT_PROJECT_ROOT="+filepath.Join(f.dir, "repos"), "GIT_HTTP_EXPORT_ALL=1",
			"REMOTE_USER="+user),
		Logger: log.New(io.Discard, "", 0),
		Stderr: io.Discard,
	}
	if err := unchunk(req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if req.Method != http.MethodPost || !strings.HasSuffix(req.URL.Path, "/git-receive-pack") {
		h.ServeHTTP(w, req)
		return
	}
	if user == "" {
		user = "bee"
	}
	f.mu.Lock()
	f.held = f.hold
	f.mu.Unlock()
	r.receive(user, func() { h.ServeHTTP(w, req) })
}

// unchunk gives the request's body a length, which CGI needs and git does not
// send for a body of more than 1 MiB.
func unchunk(req *http.Request) error {
	if req.ContentLength >= 0 {
		return nil
	}
	const most = 256 << 20
	body, err := io.ReadAll(io.LimitReader(req.Body, most+1))
	if err == nil && len(body) > most {
		err = errors.New("the push is too large for this forge")
	}
	if err != nil {
		return err
	}
	req.Body = io.NopCloser(strings.NewReader(string(body)))
	req.ContentLength, req.TransferEncoding = int64(len(body)), nil
	return nil
}

var commitPath = regexp.MustCompile(`^commit/([0-9a-f]{40})$`)

func (r *Repo) serveText(w http.ResponseWriter, req *http.Request, rest string) {
	args := []string{"log", "--all", "--decorate", "--stat"}
	if m := commitPath.FindStringSubmatch(rest); m != nil {
		args = []string{"show", m[1]}
	} else if rest != "" {
		http.NotFound(w, req)
		return
	}
	out, err := r.forge.git(req.Context(), r.bare, args...)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = io.WriteString(w, out)
}

// git runs git in dir, apart from the user's and the machine's settings.
func (f *Forge) git(ctx context.Context, dir string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env = dir, hermetic()
	cmd.WaitDelay = 2 * time.Second
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return strings.TrimRight(string(out), "\n"), nil
}

// hermetic is an environment without credentials, proxies and settings.
func hermetic() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C",
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Bee", "GIT_AUTHOR_EMAIL=bee@example.com",
		"GIT_COMMITTER_NAME=Bee", "GIT_COMMITTER_EMAIL=bee@example.com",
	}
}

package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/docker/go-units"

	"waggle/ops"
)

// deepen is how many commits of a branch are fetched to find one before all of
// them are.
const deepen = "50"

// runner runs git for one repository.
type runner struct {
	*remote
	dir  string // what git keeps
	tree string // the files
	log  *slog.Logger
}

// init makes the repository, its files apart from it.
func (r *runner) init(ctx context.Context, sha256 bool) error {
	if err := os.MkdirAll(filepath.Join(r.dir, "home"), 0o755); err != nil {
		return &ops.Error{Code: ops.Internal, Sentence: "No directory to fetch into", Err: err}
	}
	args := []string{"init", "--quiet", "--template="}
	if sha256 {
		args = append(args, "--object-format=sha256")
	}
	if _, err := r.git(ctx, args...); err != nil {
		return r.failed(ctx, err, "prepare a repository")
	}
	return nil
}

// fetch gets the commit: by its hash, or where the server refuses that, with
// the branch that has it; "*" is any branch.
func (r *runner) fetch(ctx context.Context, commit, branch string) error {
	options := []string{"fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"}
	_, err := r.git(ctx, append(options, "--depth=1", "--", r.url, commit)...)
	if err == nil {
		return nil
	}
	if !refusesHash(err) || ctx.Err() != nil {
		return r.failed(ctx, err, "fetch "+short(commit))
	}
	if branch != "" {
		r.log.Info("the server gives no commit by its hash: fetching the branch", "repo", r.name, "branch", branch)
		ref := "refs/heads/" + branch + ":refs/heads/fetched"
		if branch == "*" {
			ref += "/*"
		}
		for _, depth := range []string{"--depth=" + deepen, "--unshallow"} {
			_, err = r.git(ctx, append(options, "--force", depth, "--", r.url, ref)...)
			if depth == "--unshallow" && err != nil && strings.Contains(err.Error(), "complete repository") {
				err = nil // the branch is shorter than that
			}
			if err != nil && strings.Contains(err.Error(), "does not support shallow") { // a dumb HTTP server
				_, err = r.git(ctx, append(options, "--force", "--", r.url, ref)...)
			}
			if err != nil {
				break
			}
			if _, err := r.git(ctx, "cat-file", "-e", commit+"^{commit}"); err == nil {
				return nil
			}
		}
		if err != nil && !refusesHash(err) {
			return r.failed(ctx, err, "fetch the branch "+branch)
		}
		if ctx.Err() != nil {
			return r.failed(ctx, ctx.Err(), "fetch "+branch)
		}
	}
	gone := ops.Errorf(ops.NotFound, "%s does not have commit %s any more", r.name, short(commit)).
		Then("The branch was probably force-pushed: push again, or deploy the branch as it is now")
	var f *failure
	if errors.As(err, &f) {
		gone.Err, gone.Log = f, f.log()
	}
	return gone
}

// checkout brings the files of a commit that was fetched into the tree.
func (r *runner) checkout(ctx context.Context, commit string) error {
	if _, err := r.git(ctx, "checkout", "--quiet", "--force", "--detach", commit); err != nil {
		return r.failed(ctx, err, "check out "+short(commit))
	}
	return nil
}

// refusesHash says whether a server has no such commit, or doesn't give one by
// its hash. Servers don't tell these apart.
func refusesHash(err error) bool {
	return contains(err.Error(), "not our ref", "unadvertised object", "couldn't find remote ref", "remote error: upload-pack: not our ref",
		"does not support shallow", "unable to find", "no such remote ref", "did not send all necessary objects")
}

// failure is a git that exited with an error.
type failure struct {
	verb   string
	stderr string
	err    error
}

func (f *failure) Error() string { return fmt.Sprintf("git %s: %v: %s", f.verb, f.err, f.stderr) }
func (f *failure) Unwrap() error { return f.err }

// log is the end of what git said.
func (f *failure) log() string {
	lines := strings.Split(strings.TrimSpace(f.stderr), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// maxOutput is how many bytes git may print: whoever pushes decides on the files that
// it lists.
const maxOutput = 64 << 20

// git runs one git command and returns what it printed. When ctx ends, git and
// all it started are killed. Errors are *failure, or *ops.Error of a key that cannot be
// read.
func (r *runner) git(ctx context.Context, args ...string) (string, error) {
	env, err := r.env()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = r.dir
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	var errOut bytes.Buffer
	out := &atMost{n: maxOutput}
	cmd.Stdout, cmd.Stderr = out, &limited{buf: &errOut, n: 64 << 10}
	began := time.Now()
	err = cmd.Run()
	r.log.Debug("git", "verb", args[0], "repo", r.name, "took", time.Since(began), "err", err)
	if err != nil {
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case out.over: // which ended git
			err = ops.Errorf(ops.Failed, "%s has too many files: their list is longer than %s", r.name, units.BytesSize(maxOutput)).
				Then("Take out of the repository what no build needs")
		}
		return "", &failure{verb: args[0], stderr: r.scrub(strings.TrimSpace(errOut.String())), err: err}
	}
	return out.buf.String(), nil
}

// env is the whole environment of a run: nothing of this machine's or this
// user's Git configuration, and the credentials where no other user sees them.
func (r *runner) env() ([]string, error) {
	key, err := r.deployKey()
	if err != nil {
		return nil, err
	}
	env := []string{
		"HOME=" + filepath.Join(r.dir, "home"), // no .netrc either
		"LC_ALL=C",
		"GIT_DIR=" + filepath.Join(r.dir, "git"),
		"GIT_WORK_TREE=" + r.tree,
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_ATTR_NOSYSTEM=1",
		"GIT_TERMINAL_PROMPT=0",
		"GIT_ASKPASS=",
		"SSH_ASKPASS=",
		"GIT_ALLOW_PROTOCOL=" + r.protocols(),
		"GIT_SSH_COMMAND=" + r.sshCommand(key),
	}
	for _, k := range []string{"PATH", "TMPDIR", "http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
		"SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH"} {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	config := r.config()
	env = append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(config)/2))
	for i := 0; i < len(config); i += 2 {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i/2, config[i]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i/2, config[i+1]))
	}
	return env, nil
}

// keyCopy is the name of deployKey's copy.
const keyCopy = "key"

// deployKey is the file of the deploy key, "" when there is none. ssh takes no key that
// others than its user may read, and a Docker secret may be read by all in the container
// unless the service says otherwise: of such a one it is a copy, which goes with the rest.
func (r *runner) deployKey() (string, error) {
	if r.creds == nil || r.creds.KeyFile == "" {
		return "", nil
	}
	file := r.creds.KeyFile
	unreadable := func(err error) error {
		return &ops.Error{Code: ops.Failed, Sentence: fmt.Sprintf("Waggle cannot read its deploy key for %s, %s", r.host, file),
			Next: "Put it there, for uid " + strconv.Itoa(os.Geteuid()) + " to read, or correct git.credentials.", Err: err}
	}
	st, err := os.Stat(file)
	if err != nil {
		return "", unreadable(err)
	}
	if st.Mode().Perm()&0o077 == 0 {
		return file, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", unreadable(err)
	}
	own := filepath.Join(r.dir, keyCopy)
	if err := os.WriteFile(own, text, 0o600); err != nil {
		return "", &ops.Error{Code: ops.Internal, Sentence: "The deploy key cannot be copied for ssh", Err: err}
	}
	return own, nil
}

// failed turns git's error into what a person can act on.
func (r *runner) failed(ctx context.Context, err error, what string) error {
	if e := new(ops.Error); errors.As(err, &e) { // says it all
		return e
	}
	var f *failure
	if !errors.As(err, &f) {
		f = &failure{verb: what, err: err}
	}
	e := &ops.Error{Code: ops.Failed, Log: f.log(), Err: err}
	var large *ops.Error
	switch {
	case errors.As(context.Cause(ctx), &large): // more than the quota
		return large
	case errors.Is(ctx.Err(), context.Canceled):
		e.Code, e.Sentence = ops.Canceled, "called off: "+what
	case ctx.Err() != nil:
		e.Code, e.Sentence = ops.Unavailable, fmt.Sprintf("%s did not answer in time", r.name)
	case errors.Is(err, exec.ErrNotFound):
		e.Code, e.Sentence, e.Next = ops.Internal, "git is not installed where Waggle runs", "install git there"
	case contains(f.stderr, "external filter 'false'"):
		e.Sentence = fmt.Sprintf("%s keeps files in Git LFS, and git-lfs is not installed where Waggle runs", r.name)
		e.Next = "install git-lfs there"
	case contains(f.stderr, "smudge filter lfs failed", "error downloading object"):
		e.Sentence = fmt.Sprintf("files that %s keeps in Git LFS cannot be fetched", r.name)
		e.Next = fmt.Sprintf("see whether its server has them, and whether the token or deploy key for %s in git.credentials may read them", r.host)
	case contains(f.stderr, "host key verification failed", "no matching host key"):
		e.Sentence = fmt.Sprintf("the SSH host key of %s is not known, or is another than the known one", r.host)
		e.Next = fmt.Sprintf("compare what `ssh-keyscan %s` prints with what the forge publishes, and add it to git.known_hosts_file", keyscan(r.host))
	case contains(f.stderr, "unable to update url base", "returned error: 30", "http code 30"):
		e.Sentence = fmt.Sprintf("%s moved: the server redirects to another address", r.name)
		e.Next = "link the app to the new address"
	case contains(f.stderr, "authentication failed", "could not read username", "could not read password", "terminal prompts disabled",
		"permission denied", "returned error: 401", "returned error: 403", "access denied"):
		e.Sentence = fmt.Sprintf("%s does not let Waggle read it", r.name)
		e.Next = fmt.Sprintf("add a token or deploy key for %s to git.credentials", r.host)
		if r.creds != nil {
			e.Next = fmt.Sprintf("check the token or deploy key for %s in git.credentials: it may have expired, or lack this repository", r.host)
		}
	case contains(f.stderr, "repository not found", "returned error: 404", "not found", "does not appear to be a git repository", "does not exist"):
		e.Sentence = fmt.Sprintf("there is no repository %s, or Waggle may not see it", r.name)
		e.Next = fmt.Sprintf("check the address, and the token or deploy key for %s in git.credentials", r.host)
	case contains(f.stderr, "certificate problem", "certificate verification failed"):
		// Not Unavailable: a retry does not mend it.
		e.Sentence = fmt.Sprintf("the TLS certificate of %s is not trusted", r.host)
		e.Next = "see whether it has expired; for a certificate authority of your own, set GIT_SSL_CAINFO for Waggle"
	case contains(f.stderr, "could not resolve", "connection refused", "timed out", "failed to connect", "couldn't connect", "network is unreachable",
		"no route to host", "connection reset", "hung up", "early eof", "rpc failed", "returned error: 5", "operation too slow", "ssl", "certificate", "unable to access"):
		e.Code, e.Sentence = ops.Unavailable, fmt.Sprintf("%s cannot be reached", r.name)
		e.Next = "see whether the server is up and whether this machine reaches it"
	default:
		e.Sentence = fmt.Sprintf("git could not %s from %s", what, r.name)
	}
	return e
}

// keyscan are the arguments of ssh-keyscan for a host, with or without a port.
func keyscan(host string) string {
	if name, port, err := net.SplitHostPort(host); err == nil {
		return "-p " + port + " " + name
	}
	return host
}

func contains(s string, words ...string) bool {
	s = strings.ToLower(s)
	for _, w := range words {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}

// atMost is a writer that keeps n bytes and takes no more.
type atMost struct {
	buf  bytes.Buffer
	n    int
	over bool
}

func (a *atMost) Write(p []byte) (int, error) {
	if a.over = a.buf.Len()+len(p) > a.n; a.over {
		return 0, io.ErrShortWrite
	}
	return a.buf.Write(p)
}

// limited is a writer that keeps the last n bytes.
type limited struct {
	buf *bytes.Buffer
	n   int
}

func (l *limited) Write(p []byte) (int, error) {
	l.buf.Write(p)
	if over := l.buf.Len() - l.n; over > 0 {
		l.buf.Next(over)
	}
	return len(p), nil
}

// Package source fetches exactly one commit of a Git repository, with the git
// binary and nothing of this machine's Git configuration.
package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"waggle/internal/secret"
	"waggle/ops"
)

// Credential is how to log in to one Git server: with a token over HTTP, or a
// deploy key over SSH.
type Credential struct {
	Host     string // host, with its port unless that is the usual one
	Username string // for the token; "git" unless set, which most servers take
	Token    secret.Text
	KeyFile  string // private key for SSH
}

// Git fetches commits into directories of their own below Dir.
type Git struct {
	Dir         string // work root, on a disk with room for a checkout of each build
	Credentials []Credential
	// KnownHosts is the file of host keys that SSH servers must match; empty
	// means ssh's own files. A server whose key is not there is refused.
	KnownHosts string
	Quota      int64        // bytes of disk that one checkout may take, with what git keeps for it; 0 is no limit
	Log        *slog.Logger // nil discards
}

// Tree is the files of one commit.
type Tree struct {
	Dir     string // the files, without a .git: the same commit gives the same tree
	Commit  string
	Subject string // first line of the commit's message
	Author  string
	At      time.Time // when it was committed

	root string
	lock *os.File
}

// Close removes the files.
func (t *Tree) Close() error {
	err := os.RemoveAll(t.root)
	return errors.Join(err, t.lock.Close())
}

// Path returns a directory or file of the tree, with symbolic links resolved.
// One that is outside the tree is Invalid, one that is not there NotFound.
func (t *Tree) Path(name string) (string, error) {
	outside := ops.Errorf(ops.Invalid, "%s is outside the repository", name)
	if name == "" {
		name = "."
	}
	if !filepath.IsLocal(name) {
		return "", outside
	}
	root, err := filepath.EvalSymlinks(t.Dir)
	if err != nil {
		return "", &ops.Error{Code: ops.Internal, Sentence: "The checkout is gone", Err: err}
	}
	path, err := filepath.EvalSymlinks(filepath.Join(root, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", ops.Errorf(ops.NotFound, "commit %s has no %s", short(t.Commit), name)
	}
	if err != nil {
		return "", &ops.Error{Code: ops.Invalid, Sentence: name + " cannot be read in the repository", Err: err}
	}
	if rel, err := filepath.Rel(root, path); err != nil || !filepath.IsLocal(rel) {
		return "", outside
	}
	return path, nil
}

var fullHash = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)

// branchName is stricter than Git's own rule: what it lets through can mean
// nothing but a branch in a refspec.
var branchName = regexp.MustCompile(`^[^\s:*?\[\\^~+\-\x00-\x20\x7f][^\s:*?\[\\^~\x00-\x20\x7f]*$`)

// Checkout fetches the commit, named by its full hash, and nothing else. Some
// servers give only what a branch or tag points at; then the history of branch
// is searched for the commit, unless branch is empty. The caller closes the
// tree.
//
// Errors are Invalid for an address or hash that can't be right, Unavailable
// when the repository is not reached, Failed when it refuses us, and NotFound
// when it no longer has the commit.
func (g *Git) Checkout(ctx context.Context, url, commit, branch string) (_ *Tree, err error) {
	if !fullHash.MatchString(commit) {
		return nil, ops.Errorf(ops.Invalid, "%q is not a full commit hash", commit)
	}
	if branch != "" && (!branchName.MatchString(branch) || strings.Contains(branch, "..")) {
		return nil, ops.Errorf(ops.Invalid, "%q is not a branch", branch)
	}
	r, err := g.remote(url)
	if err != nil {
		return nil, err
	}
	root, lock, err := g.workDir()
	if err != nil {
		return nil, noDir(err)
	}
	t := &Tree{Dir: filepath.Join(root, "tree"), Commit: commit, root: root, lock: lock}
	defer func() {
		if err == nil {
			return
		}
		if closed := t.Close(); closed != nil {
			g.logger().Warn("a failed checkout stays on disk", "err", closed)
		}
	}()
	run := &runner{remote: r, dir: root, tree: t.Dir, log: g.logger()}
	if err := os.Mkdir(t.Dir, 0o755); err != nil {
		return nil, &ops.Error{Code: ops.Internal, Sentence: "No directory to fetch into", Err: err}
	}
	ctx, stop := g.within(ctx, root, r.name)
	err = g.fill(ctx, run, t, branch)
	if large := stop(); large != nil {
		err = large
	}
	if err != nil {
		return nil, err
	}
	// Only the files are needed from here on.
	for _, d := range []string{"git", "home", "modules", keyCopy} {
		if err := os.RemoveAll(filepath.Join(root, d)); err != nil {
			return nil, &ops.Error{Code: ops.Internal, Sentence: "The checkout cannot be tidied", Err: err}
		}
	}
	return t, nil
}

// fill fetches the commit into the tree, with its submodules, and reads about it.
func (g *Git) fill(ctx context.Context, run *runner, t *Tree, branch string) error {
	if err := run.init(ctx, len(t.Commit) == 64); err != nil {
		return err
	}
	if err := run.fetch(ctx, t.Commit, branch); err != nil {
		return err
	}
	if err := run.checkout(ctx, t.Commit); err != nil {
		return err
	}
	head, err := run.git(ctx, "log", "-1", "--no-show-signature", "--encoding=UTF-8", "--format=%H%x00%s%x00%an%x00%cI", "HEAD")
	if err != nil {
		return run.failed(ctx, err, "read "+short(t.Commit))
	}
	fields := strings.Split(strings.TrimSpace(head), "\x00")
	if len(fields) != 4 || fields[0] != t.Commit {
		return ops.Errorf(ops.Internal, "git checked out another commit than %s", short(t.Commit))
	}
	t.Subject, t.Author = fields[1], fields[2]
	t.At, _ = time.Parse(time.RFC3339, fields[3])
	return g.submodules(ctx, run, 0, new(int))
}

// Resolve returns the full hash of the commit that a branch or tag, or a full
// hash itself, names now; of the default branch for "". NotFound when the
// repository has none of that name; other errors are those of Checkout.
func (g *Git) Resolve(ctx context.Context, url, ref string) (string, error) {
	if fullHash.MatchString(ref) {
		return ref, nil
	}
	if ref != "" && (!branchName.MatchString(ref) || strings.Contains(ref, "..")) {
		return "", ops.Errorf(ops.Invalid, "%q is not a branch or tag", ref)
	}
	r, err := g.remote(url)
	if err != nil {
		return "", err
	}
	root, lock, err := g.workDir()
	if err != nil {
		return "", noDir(err)
	}
	defer lock.Close()
	defer os.RemoveAll(root)
	run := &runner{remote: r, dir: root, log: g.logger()}
	names := []string{"refs/heads/" + ref, "refs/tags/" + ref + "^{}", "refs/tags/" + ref} // the first that is there
	if ref == "" {
		names = []string{"HEAD"}
	}
	out, err := run.git(ctx, append([]string{"ls-remote", "--quiet", "--", r.url}, names...)...)
	if err != nil {
		return "", run.failed(ctx, err, "ask "+r.name)
	}
	found := map[string]string{}
	for line := range strings.Lines(out) {
		if hash, name, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			found[name] = hash
		}
	}
	for _, name := range names {
		if hash := found[name]; fullHash.MatchString(hash) {
			return hash, nil
		}
	}
	if ref == "" {
		return "", ops.Errorf(ops.NotFound, "%s has no commit yet", r.name).Then("Push one.")
	}
	return "", ops.Errorf(ops.NotFound, "%s has no branch or tag %s", r.name, ref).
		Then("Give a branch, a tag, or a commit's full hash.")
}

// workPrefix begins the names of the directories that workDir makes.
const workPrefix = "checkout-"

// workDir makes a directory of its own below Dir. The lock is held as long as
// this process lives and the file is open, which is how Sweep knows.
func (g *Git) workDir() (string, *os.File, error) {
	if err := os.MkdirAll(g.Dir, 0o700); err != nil {
		return "", nil, err
	}
	if err := g.mine(); err != nil {
		return "", nil, err
	}
	dir, err := filepath.EvalSymlinks(g.Dir) // of what leads there
	if err != nil {
		return "", nil, err
	}
	root, err := os.MkdirTemp(dir, workPrefix)
	if err != nil {
		return "", nil, err
	}
	lock, err := os.OpenFile(filepath.Join(root, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(root))
	}
	return root, lock, nil
}

func noDir(err error) error {
	if e := new(ops.Error); errors.As(err, &e) {
		return e
	}
	return &ops.Error{Code: ops.Internal, Sentence: "No directory to fetch into", Err: err}
}

// mine says why Dir is not to be trusted: in a directory for all, such as /tmp, another
// user can have made it first, and could then put other files in place of what is built.
func (g *Git) mine() error {
	st, err := os.Lstat(g.Dir)
	if err != nil {
		return err
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); !st.IsDir() || st.Mode().Perm()&0o022 != 0 || !ok || int(sys.Uid) != os.Geteuid() {
		return ops.Errorf(ops.Failed, "%s, which checkouts go to, is not a directory of Waggle's alone", g.Dir).
			Then("See whose it is and remove it, or have TMPDIR name another place.")
	}
	return nil
}

// Sweep removes the directories that killed runs left below Dir. Those of a
// process that lives, this one or another, stay.
func (g *Git) Sweep() error {
	if err := g.mine(); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	entries, err := os.ReadDir(g.Dir)
	if err != nil {
		return fmt.Errorf("sweeping %s: %w", g.Dir, err)
	}
	var all error
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), workPrefix) {
			continue
		}
		root := filepath.Join(g.Dir, e.Name())
		if inUse(root) {
			continue
		}
		if err := os.RemoveAll(root); err != nil {
			all = errors.Join(all, err)
			continue
		}
		g.logger().Info("removed a checkout that a killed run left", "dir", root)
	}
	return all
}

// inUse says whether a process holds a work directory, or is just making it.
func inUse(root string) bool {
	lock, err := os.OpenFile(filepath.Join(root, "lock"), os.O_RDWR, 0)
	if err != nil {
		info, err := os.Stat(root)
		return err != nil || time.Since(info.ModTime()) < time.Minute
	}
	defer lock.Close()
	return syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil
}

func (g *Git) logger() *slog.Logger {
	if g.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return g.Log
}

func short(commit string) string { return commit[:min(len(commit), 7)] }

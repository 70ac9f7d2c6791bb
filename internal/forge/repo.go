package forge

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Repo is a repository of a forge.
type Repo struct {
	Name          string // owner/name
	Private       bool
	DefaultBranch string

	forge   *Forge
	id      int64
	created time.Time
	bare    string

	workMu sync.Mutex // guards work, the work tree that Push uses
	work   string

	pushMu sync.Mutex // one push at a time, so that each change of a ref has one author
}

// CloneURL is where Git clients find the repository.
func (r *Repo) CloneURL() string { return r.forge.url + "/" + r.Name + ".git" }

// SSHURL is how SSH clients find it. Only with Options.SSH somebody answers there.
func (r *Repo) SSHURL() string {
	if r.forge.opts.SSH != "" {
		return "ssh://" + r.forge.opts.SSH + r.bare
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(r.forge.url, "http://"), ":")
	return "git@" + host + ":" + r.Name + ".git"
}

// HTMLURL is where a browser finds it, and how events name it.
func (r *Repo) HTMLURL() string { return r.forge.url + "/" + r.Name }

// Commit is a commit to push.
type Commit struct {
	Branch  string            // default the repository's
	Files   map[string]string // to write, by path
	Remove  []string          // to remove
	Message string
	Amend   bool // replace the branch's last commit, which makes it a forced push
}

// Push commits files to the default branch and pushes them, with the real git
// over HTTP. It returns the new commit. The event follows: see Forge.Wait.
func (r *Repo) Push(ctx context.Context, files map[string]string, message string) (sha string, err error) {
	return r.PushCommit(ctx, Commit{Files: files, Message: message})
}

// PushCommit pushes one commit, as Push does. A branch that does not exist yet
// starts at the default branch.
func (r *Repo) PushCommit(ctx context.Context, c Commit) (sha string, err error) {
	if c.Branch == "" {
		c.Branch = r.DefaultBranch
	}
	r.workMu.Lock()
	defer r.workMu.Unlock()
	if err := r.checkout(ctx, c.Branch); err != nil {
		return "", fmt.Errorf("pushing to %s: %w", r.Name, err)
	}
	for name, content := range c.Files {
		path := filepath.Join(r.work, filepath.FromSlash(name))
		mode := os.FileMode(0o644)
		if strings.HasPrefix(content, "#!") {
			mode = 0o755
		}
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err = errors.Join(err, os.WriteFile(path, []byte(content), mode)); err != nil {
			return "", fmt.Errorf("pushing to %s: %w", r.Name, err)
		}
	}
	for _, name := range c.Remove {
		if err := os.RemoveAll(filepath.Join(r.work, filepath.FromSlash(name))); err != nil {
			return "", fmt.Errorf("pushing to %s: %w", r.Name, err)
		}
	}
	commit := []string{"commit", "-q", "--allow-empty", "-m", c.Message}
	push := []string{"push", "-q", "origin", "HEAD:refs/heads/" + c.Branch}
	if c.Amend {
		commit, push = append(commit, "--amend"), append(push, "--force")
	}
	for _, args := range [][]string{{"add", "-A"}, commit, push} {
		if _, err := r.gitWork(ctx, args...); err != nil {
			return "", fmt.Errorf("pushing to %s: %w", r.Name, err)
		}
	}
	return r.gitWork(ctx, "rev-parse", "HEAD")
}

// Tag pushes a tag for what ref names; annotated if it has a message.
func (r *Repo) Tag(ctx context.Context, name, ref, message string) error {
	r.workMu.Lock()
	defer r.workMu.Unlock()
	if err := r.checkout(ctx, r.DefaultBranch); err != nil {
		return fmt.Errorf("tagging %s: %w", r.Name, err)
	}
	tag := []string{"tag", name, ref}
	if message != "" {
		tag = []string{"tag", "-a", "-m", message, name, ref}
	}
	for _, args := range [][]string{tag, {"push", "-q", "origin", "refs/tags/" + name}} {
		if _, err := r.gitWork(ctx, args...); err != nil {
			return fmt.Errorf("tagging %s: %w", r.Name, err)
		}
	}
	return nil
}

// Delete removes a branch or tag, by its full name, with a push.
func (r *Repo) Delete(ctx context.Context, ref string) error {
	r.workMu.Lock()
	defer r.workMu.Unlock()
	if err := r.checkout(ctx, r.DefaultBranch); err != nil {
		return fmt.Errorf("deleting %s of %s: %w", ref, r.Name, err)
	}
	if _, err := r.gitWork(ctx, "push", "-q", "origin", ":"+ref); err != nil {
		return fmt.Errorf("deleting %s of %s: %w", ref, r.Name, err)
	}
	return nil
}

// Resolve returns the commit that a branch, tag or commit names.
func (r *Repo) Resolve(ctx context.Context, ref string) (string, error) {
	return r.forge.git(ctx, r.bare, "rev-parse", "--verify", "-q", ref+"^{commit}")
}

// checkout brings the work tree to the branch as it is on the forge.
func (r *Repo) checkout(ctx context.Context, branch string) error {
	if _, err := os.Stat(filepath.Join(r.work, ".git")); err != nil {
		if err := os.MkdirAll(r.work, 0o755); err != nil {
			return err
		}
		for _, args := range [][]string{{"init", "-q", "-b", r.DefaultBranch}, {"remote", "add", "origin", r.CloneURL()}} {
			if _, err := r.gitWork(ctx, args...); err != nil {
				return err
			}
		}
	}
	if _, err := r.gitWork(ctx, "fetch", "-q", "--prune", "--tags", "origin"); err != nil {
		return err
	}
	for _, start := range []string{branch, r.DefaultBranch} {
		if _, err := r.gitWork(ctx, "rev-parse", "-q", "--verify", "refs/remotes/origin/"+start); err == nil {
			_, err = r.gitWork(ctx, "checkout", "-q", "--no-track", "-f", "-B", branch, "refs/remotes/origin/"+start)
			return err
		}
	}
	// Nothing has been pushed yet.
	_, err := r.gitWork(ctx, "symbolic-ref", "HEAD", "refs/heads/"+branch)
	return err
}

func (r *Repo) gitWork(ctx context.Context, args ...string) (string, error) {
	if r.Private {
		login := base64.StdEncoding.EncodeToString([]byte(r.forge.opts.User + ":" + r.forge.opts.Password))
		args = append([]string{"-c", "http.extraHeader=Authorization: Basic " + login}, args...)
	}
	return r.forge.git(ctx, r.work, args...)
}

// refs returns what each branch and tag points to.
func (r *Repo) refs(ctx context.Context) (map[string]string, error) {
	out, err := r.forge.git(ctx, r.bare, "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/tags")
	refs := map[string]string{}
	for line := range strings.Lines(out) {
		sha, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		refs[name] = sha
	}
	return refs, err
}

// receive lets a push happen and sends an event for each ref it changed.
func (r *Repo) receive(pusher string, push func()) {
	r.pushMu.Lock()
	defer r.pushMu.Unlock()
	// The forge's context, not the request's: the client is answered, and may be
	// gone, before the refs are read again.
	before, err := r.refs(r.forge.ctx)
	push()
	after, err2 := r.refs(r.forge.ctx)
	if err = errors.Join(err, err2); err != nil {
		r.forge.fail("push", fmt.Errorf("comparing the refs of %s: %w", r.Name, err))
		return
	}
	for _, c := range changes(before, after) {
		event, err := r.pushEvent(r.forge.ctx, pusher, c, before)
		if err != nil {
			r.forge.fail("push", fmt.Errorf("describing the push to %s: %w", r.Name, err))
			continue
		}
		r.forge.send("push", event)
	}
}

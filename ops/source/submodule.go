package source

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"waggle/ops"
)

// What a repository may ask for by its submodules.
const (
	maxDepth      = 5   // submodules in submodules
	maxSubmodules = 100 // of one checkout
)

// module is an entry of .gitmodules.
type module struct{ url, update string }

// submodules fetches the submodules of what r has checked out, and theirs. Git's own
// `git submodule` has no part in it: of the .gitmodules, which anybody may have written, only
// the addresses count, for the paths at which the commit itself has a submodule; names, and
// commands to run, do not. n counts the submodules of the whole checkout.
//
// An address follows the rules of the app's own, and is no file:// besides.
func (g *Git) submodules(ctx context.Context, r *runner, depth int, n *int) error {
	if _, err := os.Lstat(filepath.Join(r.tree, ".gitmodules")); err != nil {
		return nil
	}
	modules, err := r.modules(ctx)
	if err != nil {
		return err
	}
	out, err := r.git(ctx, "ls-tree", "-r", "-z", "HEAD")
	if err != nil {
		return r.failed(ctx, err, "list its files")
	}
	commits := map[string]string{} // by path
	for entry := range strings.SplitSeq(out, "\x00") {
		about, at, _ := strings.Cut(entry, "\t")
		commit, ok := strings.CutPrefix(about, "160000 commit ")
		if !ok {
			continue
		}
		if m, ok := modules[at]; !ok || m.update == "none" {
			r.log.Info("a submodule without an address, or not to be fetched, stays empty", "repo", r.name, "path", at)
			continue
		}
		commits[at] = commit
	}
	if *n += len(commits); *n > maxSubmodules {
		return ops.Errorf(ops.Failed, "the repository has more than %d submodules", maxSubmodules)
	}
	if len(commits) > 0 && depth >= maxDepth {
		return ops.Errorf(ops.Failed, "the repository has submodules in one another, more than %d deep", maxDepth)
	}
	for i, at := range slices.Sorted(maps.Keys(commits)) {
		git := filepath.Join(r.dir, "modules", strconv.Itoa(i))
		if err := g.submodule(ctx, r, git, at, commits[at], modules[at].url, depth, n); err != nil {
			var e *ops.Error
			if errors.As(err, &e) && !strings.HasPrefix(e.Sentence, "Submodule ") && e.Code != ops.Canceled {
				e.Sentence = fmt.Sprintf("Submodule %s: %s", at, e.Sentence)
			}
			return err
		}
	}
	return nil
}

// submodule fetches one of them into its directory; git is where its own data go.
func (g *Git) submodule(ctx context.Context, r *runner, git, at, commit, address string, depth int, n *int) error {
	// Git made the directory. That nothing leads elsewhere is looked at all the same.
	dir := filepath.Join(r.tree, filepath.FromSlash(at))
	if real, err := filepath.EvalSymlinks(dir); err != nil || !filepath.IsLocal(at) || real != dir {
		return &ops.Error{Code: ops.Invalid, Sentence: "it is at no directory of the repository", Err: err}
	}
	if !fullHash.MatchString(commit) {
		return ops.Errorf(ops.Invalid, "it is at no commit")
	}
	address, err := resolve(r.url, address)
	if err != nil {
		return err
	}
	sub, err := g.remote(address)
	if err != nil {
		return err
	}
	switch {
	case sub.scheme == "file":
		return ops.Errorf(ops.Invalid, "its address is a path of Waggle's machine").Then("Give it the address of a server in .gitmodules")
	case sub.scheme == "http" && (r.scheme != "http" || !sameHost(r.host, sub.host)):
		sub.creds = nil // a token that is meant for https stays off the open network
	}
	run := &runner{remote: sub, dir: git, tree: dir, log: r.log}
	if err := run.init(ctx, len(commit) == 64); err != nil {
		return err
	}
	if err := run.fetch(ctx, commit, "*"); err != nil {
		return err
	}
	if err := run.checkout(ctx, commit); err != nil {
		return err
	}
	return g.submodules(ctx, run, depth+1, n)
}

// modules reads the .gitmodules of the commit, by path.
func (r *runner) modules(ctx context.Context) (map[string]module, error) {
	out, err := r.git(ctx, "ls-tree", "-z", "HEAD", ".gitmodules")
	if err != nil {
		return nil, r.failed(ctx, err, "find .gitmodules")
	}
	if !strings.HasPrefix(out, "100") { // not there, or no plain file
		return nil, nil
	}
	out, err = r.git(ctx, "config", "--blob", "HEAD:.gitmodules", "--no-includes", "--null", "--list")
	if err != nil {
		return nil, &ops.Error{Code: ops.Invalid, Sentence: "The file .gitmodules of " + r.name + " cannot be read", Err: err}
	}
	paths, byName := map[string]string{}, map[string]module{}
	for line := range strings.SplitSeq(out, "\x00") {
		key, value, _ := strings.Cut(line, "\n")
		rest, ok := strings.CutPrefix(key, "submodule.")
		dot := strings.LastIndexByte(rest, '.')
		if !ok || dot < 0 {
			continue
		}
		name, m := rest[:dot], byName[rest[:dot]]
		switch rest[dot+1:] {
		case "path":
			paths[name] = path.Clean(value)
		case "url":
			m.url = value
		case "update":
			m.update = value
		}
		byName[name] = m
	}
	byPath := map[string]module{}
	for name, m := range byName {
		if at := paths[name]; at != "" && m.url != "" {
			byPath[at] = m
		}
	}
	return byPath, nil
}

// resolve returns the address of a submodule, which may be relative to its
// repository's: ../sauce.git
func resolve(base, address string) (string, error) {
	if !strings.HasPrefix(address, "./") && !strings.HasPrefix(address, "../") {
		return address, nil
	}
	base, _, _ = strings.Cut(base, "?")
	host, at := "", base
	if scheme, rest, ok := strings.Cut(base, "://"); ok {
		authority, p, _ := strings.Cut(rest, "/")
		host, at = scheme+"://"+authority+"/", p
	} else if before, p, ok := strings.Cut(base, ":"); ok {
		host, at = before+":", p
		if strings.HasPrefix(p, "/") {
			host, at = before+":/", p[1:]
		}
	}
	parts := strings.Split(strings.Trim(at, "/"), "/")
	for {
		if rest, ok := strings.CutPrefix(address, "./"); ok {
			address = rest
			continue
		}
		rest, ok := strings.CutPrefix(address, "../")
		if !ok {
			break
		}
		if len(parts) == 0 || parts[0] == "" {
			return "", ops.Errorf(ops.Invalid, "its address leads out of the server")
		}
		address, parts = rest, parts[:len(parts)-1]
	}
	return host + strings.Join(append(parts, address), "/"), nil
}

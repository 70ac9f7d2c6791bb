package source

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"waggle/internal/lab"
	"waggle/ops"
)

// gitlink is a submodule to commit, with the .gitmodules that goes with it.
type gitlink struct{ path, commit, modules string }

// with commits a .gitmodules and submodules as they are given, right or wrong.
func (r *repo) with(links ...gitlink) string {
	r.t.Helper()
	text := ""
	for _, l := range links {
		text += l.modules
	}
	if err := os.WriteFile(filepath.Join(r.work, ".gitmodules"), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
	r.run(r.work, "add", ".gitmodules")
	for _, l := range links {
		if l.path != "" {
			r.run(r.work, "update-index", "--add", "--cacheinfo", "160000,"+l.commit+","+l.path)
		}
	}
	r.run(r.work, "commit", "--quiet", "-m", "Submodules")
	r.run(r.work, "push", "--quiet", "origin", "HEAD:main")
	return r.run(r.work, "rev-parse", "HEAD")
}

func module_(path, url string, more ...string) string {
	return fmt.Sprintf("[submodule %q]\n\tpath = %s\n\turl = %s\n\t%s\n", path, path, url, strings.Join(more, "\n\t"))
}

// beside makes another repository in the same directory, which one server serves.
func (r *repo) beside(name string) *repo {
	r.t.Helper()
	dir := filepath.Dir(r.bare)
	o := &repo{t: r.t, bare: filepath.Join(dir, name+".git"), work: filepath.Join(dir, name+"-work")}
	r.run(dir, "init", "--quiet", "--bare", "--initial-branch=main", o.bare)
	r.run(dir, "clone", "--quiet", o.bare, o.work)
	return o
}

func TestSubmodules(t *testing.T) {
	r := newRepo(t)
	sauce, herbs := r.beside("sauce"), r.beside("herbs")
	basil := herbs.commit("basil", "green", "Herbs")
	herbs.commit("basil", "brown", "Later")
	sauce.commit("tomato", "red", "Sauce")
	mixed := sauce.with(gitlink{"herbs", basil, module_("herbs", "../herbs.git")})
	for name, before := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"any server": nil,
		// Git 2.39's backend then gives no commit by its hash.
		"an old server": func(_ http.ResponseWriter, req *http.Request) bool { req.Header.Del("Git-Protocol"); return true },
	} {
		t.Run(name, func(t *testing.T) {
			s := r.serve(before)
			commit := r.with(
				gitlink{"lib/sauce", mixed, module_("lib/sauce", "./../sauce.git", "update = rebase")},
				gitlink{"again", basil, module_("again", s.URL+"/herbs.git")},
				gitlink{"none", basil, module_("none", "../nothing.git", "update = none")},
				gitlink{"unnamed", basil, ""})
			g := &Git{Dir: t.TempDir()}
			tree, err := g.Checkout(t.Context(), s.URL+"/pizza.git", commit, "main")
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{"lib/sauce/tomato", "lib/sauce/herbs/basil", "again/basil"} {
				if got := read(t, tree.Dir, path); got != "red" && got != "green" {
					t.Errorf("%s is %q", path, got)
				}
			}
			for _, path := range []string{"none", "unnamed"} {
				empty(t, filepath.Join(tree.Dir, path))
			}
			if found, _ := filepath.Glob(filepath.Join(tree.Dir, "*", ".git")); len(found) > 0 {
				t.Errorf("there is %v", found)
			}
			if entries, _ := os.ReadDir(filepath.Dir(tree.Dir)); len(entries) != 2 { // the tree and its lock
				t.Errorf("beside the tree there is %v", entries)
			}
			if err := tree.Close(); err != nil {
				t.Error(err)
			}
			empty(t, g.Dir)
		})
	}
}

// TestHostileSubmodules: each is an error, or harmless, and nothing runs.
func TestHostileSubmodules(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "ran")
	r := newRepo(t)
	sauce := r.beside("sauce")
	red := sauce.commit("tomato", "red", "Sauce")
	s := r.serve(nil)
	for name, c := range map[string]struct {
		link     gitlink
		code     ops.Code // "" is harmless: lib is empty
		sentence string
	}{
		"an option as address":     {gitlink{"lib", red, module_("lib", "--upload-pack=touch${IFS}"+mark)}, ops.Invalid, "Submodule lib: The repository's address is not one"},
		"an option in an address":  {gitlink{"lib", red, module_("lib", "ssh://-oProxyCommand=touch${IFS}"+mark+"/x")}, ops.Invalid, "Submodule lib: The repository's address is not one"},
		"an option, relative":      {gitlink{"lib", red, module_("lib", "./--upload-pack=touch")}, ops.Failed, "Submodule lib: "},
		"a command as transport":   {gitlink{"lib", red, module_("lib", "\"ext::sh -c touch% "+mark+"\"")}, ops.Invalid, "Submodule lib: "},
		"ext without spaces":       {gitlink{"lib", red, module_("lib", "ext::touch")}, ops.Invalid, "Submodule lib: The repository's address is not one"},
		"a path of this machine":   {gitlink{"lib", red, module_("lib", "file://"+sauce.bare)}, ops.Invalid, "Submodule lib: its address is a path of Waggle's machine"},
		"a bare path":              {gitlink{"lib", red, module_("lib", sauce.bare)}, ops.Invalid, "Submodule lib: The repository's address is not one"},
		"a password":               {gitlink{"lib", red, module_("lib", "http://mia:canary@example.com/x.git")}, ops.Invalid, "Submodule lib: The repository's address carries a password"},
		"out of the server":        {gitlink{"lib", red, module_("lib", "../../../x.git")}, ops.Invalid, "Submodule lib: its address leads out of the server"},
		"a line break":             {gitlink{"lib", red, module_("lib", `"http://example.com/x\nHost: y"`)}, ops.Invalid, "Submodule lib: The repository's address has a space"},
		"a command as update":      {gitlink{"lib", red, module_("lib", s.URL+"/sauce.git", "update = !touch "+mark)}, "ran", ""},
		"a path out of the tree":   {gitlink{"lib", red, module_("../../x", s.URL+"/sauce.git")}, "", ""},
		"a path into git's own":    {gitlink{"lib", red, module_(".git/hooks", s.URL+"/sauce.git")}, "", ""},
		"a name out of the tree":   {gitlink{"lib", red, "[submodule \"../../x\"]\n\tpath = lib\n\turl = " + s.URL + "/sauce.git\n"}, "ran", ""},
		"a commit that is nowhere": {gitlink{"lib", strings.Repeat("ab", 20), module_("lib", "../sauce.git")}, ops.NotFound, "Submodule lib: "},
		"no configuration":         {gitlink{"lib", red, "[submodule \"lib"}, ops.Invalid, ".gitmodules of "},
		"an include":               {gitlink{"lib", red, "[include]\n\tpath = /etc/passwd\n" + module_("lib", s.URL+"/sauce.git")}, "ran", ""},
	} {
		t.Run(name, func(t *testing.T) {
			commit := r.with(c.link)
			g := &Git{Dir: t.TempDir()}
			tree, err := g.Checkout(t.Context(), s.URL+"/pizza.git", commit, "main")
			switch c.code {
			case "", "ran":
				if err != nil {
					t.Fatal(err)
				}
				if c.code == "" {
					empty(t, filepath.Join(tree.Dir, "lib"))
				} else if got := read(t, tree.Dir, "lib/tomato"); got != "red" {
					t.Errorf("lib/tomato is %q", got)
				}
				if entries, _ := os.ReadDir(g.Dir); len(entries) != 1 {
					t.Errorf("in the work root there is %v", entries)
				}
				if err := tree.Close(); err != nil {
					t.Error(err)
				}
			default:
				e := wantError(t, err, c.code, c.sentence)
				if strings.Contains(e.Error()+e.Next+e.Log, "canary") {
					t.Errorf("it tells the password: %v", e)
				}
			}
			empty(t, g.Dir)
			if _, err := os.Stat(mark); err == nil {
				t.Error("a command of the repository's ran")
			}
		})
	}
	t.Run("gitmodules is a link", func(t *testing.T) {
		o := r.beside("links")
		o.t = t
		o.commit("to", "/etc/passwd", "A link's text")
		listing := filepath.Join(t.TempDir(), "listing")
		if err := os.WriteFile(listing, []byte("120000 blob "+o.run(o.work, "rev-parse", "HEAD:to")+"\t.gitmodules\n160000 commit "+red+"\tlib\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		// Git itself makes no such tree but by its parts.
		out, err := exec.Command("sh", "-c", "git -C "+o.work+" mktree --missing < "+listing).Output()
		if err != nil {
			t.Fatal(err)
		}
		commit := o.run(o.work, "commit-tree", "-m", "Link", strings.TrimSpace(string(out)))
		o.run(o.work, "push", "--quiet", "origin", commit+":refs/heads/main", "--force")
		g := &Git{Dir: t.TempDir()}
		if tree, err := g.Checkout(t.Context(), s.URL+"/links.git", commit, "main"); err == nil {
			empty(t, filepath.Join(tree.Dir, "lib"))
			tree.Close()
		} else {
			wantError(t, err, ops.Failed, "git could not check out")
		}
		empty(t, g.Dir)
	})
}

// TestSubmodulesInOneAnother: a repository that has itself as a submodule, again and again.
func TestSubmodulesInOneAnother(t *testing.T) {
	r := newRepo(t)
	commit := r.commit("menu", "x", "One")
	for range 5 {
		commit = r.with(gitlink{"self", commit, module_("self", "../pizza.git")})
	}
	s := r.serve(nil)
	tree, err := (&Git{Dir: t.TempDir()}).Checkout(t.Context(), s.URL+"/pizza.git", commit, "main")
	if err != nil {
		t.Fatal(err)
	}
	tree.Close()
	commit = r.with(gitlink{"self", commit, module_("self", "../pizza.git")})
	g := &Git{Dir: t.TempDir()}
	_, err = g.Checkout(t.Context(), s.URL+"/pizza.git", commit, "main")
	wantError(t, err, ops.Failed, "more than 5 deep")
	empty(t, g.Dir)

	var many []gitlink
	for i := range maxSubmodules + 1 {
		many = append(many, gitlink{fmt.Sprintf("m/%d", i), commit, module_(fmt.Sprintf("m/%d", i), "../empty.git")})
	}
	commit = r.beside("many").with(many...)
	_, err = g.Checkout(t.Context(), s.URL+"/many.git", commit, "main")
	wantError(t, err, ops.Failed, "more than 100 submodules") // before any is asked for
}

func TestSubmoduleAddresses(t *testing.T) {
	for _, c := range []struct{ base, address, want string }{
		{"https://example.com/acme/pizza.git", "../sauce.git", "https://example.com/acme/sauce.git"},
		{"https://example.com/acme/pizza.git/", "../../o/sauce", "https://example.com/o/sauce"},
		{"https://example.com/acme/pizza.git?x=1", "./sauce", "https://example.com/acme/pizza.git/sauce"},
		{"https://example.com/acme/pizza.git", "../../../x", ""},
		{"git@example.com:acme/pizza.git", "../sauce.git", "git@example.com:acme/sauce.git"},
		{"git@example.com:pizza.git", "../sauce.git", "git@example.com:sauce.git"},
		{"git@example.com:/srv/pizza.git", "../sauce.git", "git@example.com:/srv/sauce.git"},
		{"git@example.com:pizza.git", "../../sauce.git", ""},
		{"ssh://git@example.com:2222/a/p.git", "../s.git", "ssh://git@example.com:2222/a/s.git"},
		{"https://example.com/a/p.git", "https://other.example.com/x.git", "https://other.example.com/x.git"},
		{"https://example.com/a/p.git", "..", ".."},
	} {
		got, err := resolve(c.base, c.address)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s from %s is %q, %v; want %q", c.address, c.base, got, err, c.want)
		}
	}
}

// TestSubmoduleGetsItsOwnCredentials, and no other server's.
func TestSubmoduleGetsItsOwnCredentials(t *testing.T) {
	r := newRepo(t)
	sauce := r.beside("sauce")
	red := sauce.commit("tomato", "red", "Sauce")
	first, second, open := r.serve(needAuth("canary-1")), r.serve(needAuth("canary-2")), r.serve(nil)
	commit := r.with(gitlink{"a", red, module_("a", "../sauce.git")}, gitlink{"b", red, module_("b", open.URL+"/sauce.git")})
	g := &Git{Dir: t.TempDir(), Credentials: []Credential{{Host: first.host(), Username: "mia", Token: "canary-1"}, {Host: second.host(), Username: "mia", Token: "canary-2"}}}
	tree, err := g.Checkout(t.Context(), first.URL+"/pizza.git", commit, "main")
	if err != nil {
		t.Fatal(err)
	}
	if read(t, tree.Dir, "a/tomato") != "red" || read(t, tree.Dir, "b/tomato") != "red" {
		t.Error("not both were fetched")
	}
	tree.Close()
	if slices.ContainsFunc(open.auths, func(a string) bool { return a != "" }) {
		t.Errorf("another server was given %q", open.auths)
	}
	// Who can write .gitmodules can not have a token sent in clear to a server that the
	// app itself is not fetched from in clear.
	commit = r.with(gitlink{"a", red, module_("a", second.URL+"/sauce.git")})
	_, err = g.Checkout(t.Context(), first.URL+"/pizza.git", commit, "main")
	wantError(t, err, ops.Failed, "Submodule a: "+second.URL+"/sauce.git does not let Waggle read it")
	if slices.ContainsFunc(second.auths, func(a string) bool { return a != "" }) {
		t.Errorf("the token went in clear: %q", second.auths)
	}
}

func TestQuota(t *testing.T) {
	r := newRepo(t)
	r.commit("menu", "small", "One")
	big := make([]byte, 3<<20)
	for i := range big {
		big[i] = byte(i * i >> 7)
	}
	commit := r.commit("oven", string(big), "Two")
	bomb := r.commit("bomb", strings.Repeat("\x00", 64<<20), "Small as a pack, large as a file")
	s := r.serve(nil)
	g := &Git{Dir: t.TempDir(), Quota: 32 << 20}
	tree, err := g.Checkout(t.Context(), s.URL+"/pizza.git", commit, "main")
	if err != nil {
		t.Fatal(err)
	}
	tree.Close()
	_, err = g.Checkout(t.Context(), s.URL+"/pizza.git", bomb, "main")
	if e := wantError(t, err, ops.Failed, "takes more than 32MiB on disk"); !strings.Contains(e.Next, "git.max_size") {
		t.Errorf("next %q", e.Next)
	}
	empty(t, g.Dir)
	// What submodules take counts too.
	over := r.beside("over")
	many := over.with(gitlink{"a", commit, module_("a", "../pizza.git")}, gitlink{"b", commit, module_("b", "../pizza.git")})
	g.Quota = 5 << 20
	_, err = g.Checkout(t.Context(), s.URL+"/over.git", many, "main")
	wantError(t, err, ops.Failed, "takes more than 5MiB on disk")
	empty(t, g.Dir)
}

// TestQuotaEndsAFetch: a server that never ends is left.
func TestQuotaEndsAFetch(t *testing.T) {
	r := newRepo(t)
	g := &Git{Dir: t.TempDir(), Quota: 4 << 20}
	root := filepath.Join(g.Dir, "x")
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, stop := g.within(t.Context(), root, r.bare)
	if err := os.WriteFile(filepath.Join(root, "pack"), make([]byte, 5<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	run := &runner{remote: &remote{name: "it"}}
	wantError(t, run.failed(ctx, ctx.Err(), "fetch"), ops.Failed, "takes more than 4MiB")
	wantError(t, stop(), ops.Failed, "takes more than 4MiB")
}

// large serves one file as a Git LFS server does.
// Source: https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md
type large struct {
	content, oid string
	elsewhere    string // where the file itself is, "" is here
	gone         bool
}

func newLarge(content string) *large {
	return &large{content: content, oid: fmt.Sprintf("%x", sha256.Sum256([]byte(content)))}
}

func (l *large) pointer() string {
	return fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", l.oid, len(l.content))
}

func (l *large) serve(w http.ResponseWriter, req *http.Request) bool {
	switch {
	case strings.HasSuffix(req.URL.Path, "/info/lfs/objects/batch"):
		at := l.elsewhere
		if at == "" {
			at = "http://" + req.Host
		}
		object := map[string]any{"oid": l.oid, "size": len(l.content), "actions": map[string]any{"download": map[string]any{"href": at + "/large/" + l.oid}}}
		if l.gone {
			object = map[string]any{"oid": l.oid, "size": len(l.content), "error": map[string]any{"code": 404, "message": "gone"}}
		}
		w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
		_ = json.NewEncoder(w).Encode(map[string]any{"transfer": "basic", "objects": []any{object}})
	case req.URL.Path == "/large/"+l.oid:
		_, _ = io.WriteString(w, l.content)
	default:
		return true
	}
	return false
}

func TestLFS(t *testing.T) {
	lab.NeedProgram(t, "git-lfs", "git-lfs")
	l := newLarge(strings.Repeat("flour ", 50_000))
	r := newRepo(t)
	sauce := r.beside("sauce")
	for _, o := range []*repo{r, sauce} {
		o.commit(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n", "Attributes")
		o.commit("flour.bin", l.pointer(), "Flour")
	}
	store := r.serve(l.serve) // only holds files
	auth := needAuth("canary-lfs")
	s := r.serve(func(w http.ResponseWriter, req *http.Request) bool { return auth(w, req) && l.serve(w, req) })
	evil := r.serve(l.serve)
	commit := r.with(gitlink{"lib", sauce.run(sauce.work, "rev-parse", "HEAD"), module_("lib", "../sauce.git")})
	g := &Git{Dir: t.TempDir(), Quota: 64 << 20, Credentials: []Credential{{Host: s.host(), Username: "mia", Token: "canary-lfs"}}}
	fetch := func(commit string) error {
		t.Helper()
		tree, err := g.Checkout(t.Context(), s.URL+"/pizza.git", commit, "main")
		if err != nil {
			return err
		}
		defer tree.Close()
		if read(t, tree.Dir, "flour.bin") != l.content {
			t.Error("the file is another")
		}
		return nil
	}
	if err := fetch(commit); err != nil {
		t.Fatal(err)
	}
	// The server may say that a file is elsewhere: no token goes there.
	l.elsewhere = store.URL
	if err := fetch(commit); err != nil {
		t.Fatal(err)
	}
	// The repository may not say that its files are elsewhere.
	commit = r.commit(".lfsconfig", fmt.Sprintf("[lfs]\n\turl = %s/pizza.git/info/lfs\n\tskipdownloaderrors = true\n[remote \"origin\"]\n\tlfsurl = %s/x\n[http]\n\textraHeader = X-Evil: 1\n", evil.URL, evil.URL), "Elsewhere")
	if err := fetch(commit); err != nil {
		t.Fatal(err)
	}
	if len(evil.auths) > 0 {
		t.Errorf("the server of .lfsconfig was asked, with %q", evil.auths)
	}
	if len(store.auths) == 0 || slices.ContainsFunc(store.auths, func(a string) bool { return a != "" }) {
		t.Errorf("the store was given %q", store.auths)
	}
	l.gone = true
	err := fetch(commit)
	if wantError(t, err, ops.Failed, "files that "+s.URL+"/pizza.git keeps in Git LFS cannot be fetched"); strings.Contains(fmt.Sprint(err, errors.Unwrap(err)), "canary") {
		t.Errorf("the error has the token: %v", err)
	}
	empty(t, g.Dir)
}

// TestLFSIsNotInstalled: what stands for a file is not taken for it.
func TestLFSIsNotInstalled(t *testing.T) {
	r := newRepo(t)
	r.commit(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n", "Attributes")
	commit := r.commit("flour.bin", newLarge("flour").pointer(), "Flour")
	s := r.serve(nil)
	bin := t.TempDir()
	for _, program := range []string{"git", "false"} {
		real := r.run(r.work, "--exec-path") + "/git"
		if program == "false" {
			real = "/bin/false"
		}
		if err := os.Symlink(real, filepath.Join(bin, program)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	_, err := (&Git{Dir: t.TempDir()}).Checkout(t.Context(), s.URL+"/pizza.git", commit, "main")
	if e := wantError(t, err, ops.Failed, "keeps files in Git LFS, and git-lfs is not installed"); e.Next != "install git-lfs there" {
		t.Errorf("next %q", e.Next)
	}
}

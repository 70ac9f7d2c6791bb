// Package arch holds the rules of who may import whom, as a test.
package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// file is one Go file of the project.
type file struct {
	path    string // "ops/swarm/client.go"
	dir     string // "ops/swarm"
	name    string // of the package
	test    bool
	imports []string
	ast     *ast.File
}

// project parses every Go file of the module.
func project(t *testing.T) []file {
	t.Helper()
	const root = "../.."
	var files []file
	set := token.NewFileSet()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if hidden := rel != "." && strings.HasPrefix(d.Name(), "."); hidden || d.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(set, p, nil, parser.SkipObjectResolution|parser.ParseComments)
		if err != nil {
			return err
		}
		f := file{path: rel, dir: path.Dir(rel), name: parsed.Name.Name, test: strings.HasSuffix(rel, "_test.go"), ast: parsed}
		for _, i := range parsed.Imports {
			s, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, s)
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// under says whether an import path or a directory is one of the given ones or
// below it.
func under(p string, tops ...string) bool {
	return slices.ContainsFunc(tops, func(top string) bool { return p == top || strings.HasPrefix(p, top+"/") })
}

// labs are the packages that tests and the demo run on; the service must do
// without them.
var labs = []string{"internal/lab", "internal/workspace", "internal/forge", "internal/rig",
	"internal/labctl", "internal/page", "internal/bench", "internal/demo", "internal/e2e", "internal/simulate", "internal/chaos", "internal/arch"}

// rule forbids some files some imports.
type rule struct {
	says    string
	applies func(file) bool
	forbids func(file, string) bool
}

var rules = []rule{
	{
		"only ops/swarm speaks with Docker",
		func(f file) bool { return !under(f.dir, "ops/swarm") },
		func(_ file, i string) bool {
			return under(i, "github.com/docker/docker", "github.com/moby/buildkit", "github.com/moby/moby", "github.com/tonistiigi/fsutil")
		},
	},
	{
		"only bot speaks with Slack",
		func(f file) bool { return !under(f.dir, append(labs, "bot")...) },
		func(_ file, i string) bool { return under(i, "github.com/slack-go/slack") },
	},
	{
		"ops knows no door",
		func(f file) bool { return under(f.dir, "ops") },
		func(_ file, i string) bool {
			return under(i, "waggle/bot", "waggle/webhooks", "waggle/cmd", "waggle/config", "github.com/go-playground/webhooks")
		},
	},
	{
		"ops serves no HTTP; only its adapters may be a client",
		func(f file) bool {
			return under(f.dir, "ops") && !f.test && !under(f.dir, "ops/swarm", "ops/source", "ops/registry", "ops/node", "ops/commitstatus")
		},
		func(_ file, i string) bool { return under(i, "net/http") },
	},
	{
		"the doors know neither each other nor the settings nor Docker",
		func(f file) bool { return under(f.dir, "bot", "webhooks") },
		func(f file, i string) bool {
			return under(i, "waggle/bot", "waggle/webhooks", "waggle/ops/swarm", "waggle/config", "waggle/cmd") && i != "waggle/"+f.dir
		},
	},
	{
		"the settings know nothing of what they set",
		func(f file) bool { return under(f.dir, "config") && !f.test },
		func(_ file, i string) bool { return under(i, "waggle") && !under(i, "waggle/internal") },
	},
	{
		"only cmd/waggle wires: nobody else imports two of bot, webhooks, config and ops/swarm",
		func(f file) bool { return !under(f.dir, append(labs, "cmd/waggle")...) && !f.test },
		func(f file, i string) bool {
			wired := []string{"waggle/bot", "waggle/webhooks", "waggle/config", "waggle/ops/swarm"}
			return slices.Contains(wired, i) && slices.ContainsFunc(f.imports, func(j string) bool { return j != i && slices.Contains(wired, j) })
		},
	},
	{
		"the lab, the workspace and the forge are for tests, the demo and the bench",
		func(f file) bool { return !f.test && !under(f.dir, labs...) },
		func(f file, i string) bool {
			local, ours := strings.CutPrefix(i, "waggle/")
			if f.dir == "cmd/waggle" && local == "internal/demo" {
				return false
			}
			return ours && under(local, labs...)
		},
	},
	{
		"a small package of internal imports nothing of the project",
		func(f file) bool { return !f.test && under(f.dir, "internal") && !under(f.dir, labs...) },
		func(_ file, i string) bool { return under(i, "waggle") && !under(i, "waggle/internal") },
	},
}

func TestImports(t *testing.T) {
	files := project(t)
	for _, r := range rules {
		for _, f := range files {
			if !r.applies(f) {
				continue
			}
			for _, i := range f.imports {
				if r.forbids(f, i) {
					t.Errorf("%s imports %s: %s", f.path, i, r.says)
				}
			}
		}
	}
	if len(files) < 50 {
		t.Errorf("only %d files were found", len(files))
	}
}

// TestRulesBite gives each rule a file that breaks it, so that a rule that
// forbids nothing any more is noticed.
func TestRulesBite(t *testing.T) {
	breaks := []struct{ path, imports string }{
		{"ops/scale.go", "github.com/docker/docker/client"},
		{"webhooks/github.go", "github.com/slack-go/slack"},
		{"ops/store/store.go", "waggle/bot"},
		{"ops/runner.go", "net/http/httputil"},
		{"bot/http.go", "waggle/ops/swarm"},
		{"config/load.go", "waggle/ops"},
		{"internal/glue/glue.go", "waggle/bot"},
		{"bot/bot.go", "waggle/internal/workspace"},
		{"internal/nearest/nearest.go", "waggle/ops"},
	}
	for i, r := range rules {
		b := breaks[i]
		f := file{path: b.path, dir: path.Dir(b.path), imports: []string{b.imports, "waggle/config"}}
		if !r.applies(f) || !r.forbids(f, b.imports) {
			t.Errorf("%q lets %s import %s", r.says, b.path, b.imports)
		}
	}
}

func TestPackageNames(t *testing.T) {
	for _, f := range project(t) {
		if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "misc", "shared", "base", "types", "interfaces"}, strings.TrimSuffix(f.name, "_test")) {
			t.Errorf("%s: package %s says nothing of what it provides", f.path, f.name)
		}
	}
}

// TestNoPackageState finds the package state that is easy to see: init
// functions, variables without a value, assignments to package variables, and
// values that exist to be changed.
func TestNoPackageState(t *testing.T) {
	files := project(t)
	vars := map[string]map[string]bool{} // by directory
	for _, f := range files {
		if f.test {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has a func init: construct it where it is used", f.path)
			}
			gen, ok := d.(*ast.GenDecl)
			if !ok || gen.Tok != token.VAR {
				continue
			}
			for _, s := range gen.Specs {
				spec := s.(*ast.ValueSpec)
				for _, n := range spec.Names {
					if vars[f.dir] == nil {
						vars[f.dir] = map[string]bool{}
					}
					if n.Name != "_" {
						vars[f.dir][n.Name] = true
					}
				}
				embedded := spec.Doc != nil && strings.HasPrefix(spec.Doc.List[len(spec.Doc.List)-1].Text, "//go:embed ") // the compiler gives it
				if len(spec.Values) == 0 && !embedded {
					t.Errorf("%s: var %s has no value, so it is there to be changed", f.path, spec.Names[0])
				}
				for _, v := range spec.Values {
					if what := mutable(v); what != "" {
						t.Errorf("%s: var %s is %s of the package", f.path, spec.Names[0], what)
					}
				}
			}
		}
	}
	for _, f := range files {
		if f.test {
			continue
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			for _, name := range assigned(fn) {
				if vars[f.dir][name] {
					t.Errorf("%s: %s changes the package's variable %s", f.path, fn.Name, name)
				}
			}
		}
	}
}

// mutable names what an initial value is when it can only be there to be
// changed: a lock, a channel, an empty map, an HTTP client.
func mutable(v ast.Expr) string {
	if u, ok := v.(*ast.UnaryExpr); ok && u.Op == token.AND {
		v = u.X
	}
	switch v := v.(type) {
	case *ast.CompositeLit:
		if sel, ok := v.Type.(*ast.SelectorExpr); ok {
			if pkg, ok := sel.X.(*ast.Ident); ok && (pkg.Name == "sync" || pkg.Name == "atomic" || pkg.Name == "http" && sel.Sel.Name == "Client") {
				return "a " + pkg.Name + "." + sel.Sel.Name
			}
		}
		if _, ok := v.Type.(*ast.MapType); ok && len(v.Elts) == 0 {
			return "an empty map"
		}
	case *ast.CallExpr:
		if fn, ok := v.Fun.(*ast.Ident); ok && (fn.Name == "make" || fn.Name == "new") {
			return "a " + fn.Name + "(…)"
		}
	}
	return ""
}

// assigned returns the names that a function assigns to or into and has not
// declared itself.
func assigned(fn *ast.FuncDecl) []string {
	local := map[string]bool{}
	declare := func(fields *ast.FieldList) {
		if fields != nil {
			for _, f := range fields.List {
				for _, n := range f.Names {
					local[n.Name] = true
				}
			}
		}
	}
	declare(fn.Recv)
	var names []string
	note := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.IndexExpr:
				e = x.X
				continue
			case *ast.SelectorExpr:
				e = x.X
				continue
			case *ast.StarExpr:
				e = x.X
				continue
			case *ast.Ident:
				names = append(names, x.Name)
			}
			return
		}
	}
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncType:
			declare(n.Params)
			declare(n.Results)
		case *ast.ValueSpec:
			for _, id := range n.Names {
				local[id.Name] = true
			}
		case *ast.RangeStmt:
			for _, e := range []ast.Expr{n.Key, n.Value} {
				if id, ok := e.(*ast.Ident); ok {
					local[id.Name] = true
				}
			}
		case *ast.AssignStmt:
			for _, e := range n.Lhs {
				if id, ok := e.(*ast.Ident); ok && n.Tok == token.DEFINE {
					local[id.Name] = true
				} else if n.Tok != token.DEFINE {
					note(e)
				}
			}
		case *ast.IncDecStmt:
			note(n.X)
		}
		return true
	})
	return slices.DeleteFunc(names, func(n string) bool { return local[n] })
}

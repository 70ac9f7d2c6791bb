package arch

import (
	"go/ast"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestEngineTests: each name in the Makefile's ENGINE_TESTS is a test's. A renamed test would
// otherwise not be run on the other engines, without a word.
func TestEngineTests(t *testing.T) {
	text, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^ENGINE_TESTS = \^\((.+)\)\$\$$`).FindSubmatch(text)
	if m == nil {
		t.Fatal("the Makefile has no ENGINE_TESTS = ^(…)$$")
	}
	var tests []string
	for _, f := range project(t) {
		if f.test && (f.dir == "ops/swarm" || f.dir == "ops/registry" || f.dir == "internal/e2e") {
			for _, d := range f.ast.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok {
					tests = append(tests, fn.Name.Name)
				}
			}
		}
	}
	for name := range strings.SplitSeq(string(m[1]), "|") {
		pattern := regexp.MustCompile("^" + name + "$")
		if !slices.ContainsFunc(tests, pattern.MatchString) {
			t.Errorf("no test is called %s", name)
		}
	}
}

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"waggle/internal/lab"
)

var labs = lab.Pool{Options: labOptions}

func TestMain(m *testing.M) { os.Exit(labs.Run(m)) }

// TestChaos is the short form of make chaos: a crash right after each step of a deploy and of a scale,
// and a process that sleeps through its lease in the middle of both.
func TestChaos(t *testing.T) {
	e := &env{lab: labs.Get(t), times: 1}
	var err error
	if e.binary, err = build(t.Context(), t.TempDir(), true); err != nil {
		t.Fatal(err)
	}
	if err := prepare(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var all []trial
	for _, step := range steps {
		all = append(all, trial{step, atFailpoint})
	}
	r := trials(t.Context(), e, append(all, trial{"applied", stoppedAt})...)
	r.name, r.took = "short form", time.Since(began)
	t.Logf("\n%s\n%s", tableHead, r.String())
	for _, w := range r.wrong {
		t.Error(w)
	}
	if t.Failed() {
		t.Log(r.report)
	}
}

// TestSteps: the fail points of the mechanism are the ones that the scenarios know.
func TestSteps(t *testing.T) {
	files, err := filepath.Glob("../../ops/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var found []string
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 1 {
				return true
			}
			if fn, ok := call.Fun.(*ast.SelectorExpr); ok && fn.Sel.Name == "failpoint" {
				text, ok := call.Args[0].(*ast.BasicLit)
				if !ok {
					t.Errorf("%s: a fail point without a name", path)
					return true
				}
				name, _ := strconv.Unquote(text.Value)
				found = append(found, name)
			}
			return true
		})
	}
	slices.Sort(found)
	want := slices.Sorted(slices.Values(steps))
	if found = slices.Compact(found); !slices.Equal(found, want) {
		t.Errorf("ops has the fail points %q, and the scenarios know %q", found, want)
	}
}

// at is a moment of the histories below, in seconds.
func at(s float64) time.Time {
	return time.Unix(1_700_000_000, 0).Add(time.Duration(s * float64(time.Second)))
}

func scaled(id string, n int, asked, told float64) *change {
	return &change{ID: id, App: "a", Kind: "scale", What: id, Absolute: n, Asked: at(asked), Accepted: true, Told: at(told)}
}

func more(id string, delta int, asked, told float64) *change {
	return &change{ID: id, App: "a", Kind: "scale", What: id, Absolute: -1, Delta: delta, Relative: true, Asked: at(asked), Accepted: true, Told: at(told)}
}

func deployed(id string, commit int, asked, told float64) *change {
	return &change{ID: id, App: "a", Kind: "deploy", What: id, Commit: commit, Asked: at(asked), Accepted: true, Told: at(told)}
}

// seen is a version that was read at began and was still there at last.
func seen(began, last float64, replicas int, releases ...release) version {
	return version{App: "a", Began: at(began), Ended: at(began + 0.1), Last: at(last), Replicas: replicas, Releases: releases}
}

func said(id string, lines ...string) message { return message{ID: id, Lines: lines} }

// TestModel gives the model a history for each violation, and good ones that look like it.
func TestModel(t *testing.T) {
	one := release{Number: 1, Commit: "c1", Op: "d1"}
	two := release{Number: 2, Commit: "c2", Op: "d2"}
	again := release{Number: 3, Commit: "c1", Op: "d1"}
	commits := map[string]int{"c1": 1, "c2": 2}
	done := func(ids ...string) (out []entry) {
		for _, id := range ids {
			out = append(out, entry{ID: id, Outcome: "done"})
		}
		return out
	}
	for _, test := range []struct {
		name string
		h    history
		want string // how the only violation begins; "" for none
	}{
		{"two scales", history{Changes: []*change{scaled("s1", 3, 1, 4), scaled("s2", 2, 5, 8)}, Versions: []version{seen(0, 2, 1), seen(2, 6, 3), seen(6, 9, 2)},
			Audit: done("s1", "s2"), Messages: []message{said("s1", "🔄 a", "✅ a runs 3 of 3"), said("s2", "✅ a runs 2 of 2")}}, ""},
		{"an old scale comes back", history{Changes: []*change{scaled("s1", 3, 1, 4), scaled("s2", 2, 5, 8)},
			Versions: []version{seen(0, 2, 1), seen(2, 6, 3), seen(6, 9, 2), seen(10, 11, 3), seen(12, 13, 2)},
			Audit:    done("s1", "s2"), Messages: []message{said("s1", "✅ a runs 3 of 3"), said("s2", "✅ a runs 2 of 2")}}, "backwards: a was set from 2 to 3"},
		{"a scale that was done is not there", history{Changes: []*change{scaled("s1", 3, 1, 4)}, Versions: []version{seen(0, 9, 1)},
			Audit: done("s1"), Messages: []message{said("s1", "✅ a runs 3 of 3")}}, "lost: a s1 (s1) was done"},
		{"a scale that was superseded", history{Changes: []*change{scaled("s1", 3, 1, 9), scaled("s2", 2, 2, 8)}, Versions: []version{seen(0, 2, 1), seen(2, 9, 2)},
			Audit:    []entry{{ID: "s1", Outcome: "superseded"}, {ID: "s2", Outcome: "done"}},
			Messages: []message{said("s1", "⏭️ a"), said("s2", "✅ a runs 2 of 2")}}, ""},
		{"plus one twice", history{Changes: []*change{more("r1", 1, 1, 4)}, Versions: []version{seen(0, 1, 1), seen(2, 3, 2), seen(4, 5, 3)},
			Audit: done("r1"), Messages: []message{said("r1", "✅ a runs 2 of 2")}}, "relative: a runs 3"},
		{"plus one", history{Changes: []*change{more("r1", 1, 1, 4)}, Versions: []version{seen(0, 1, 1), seen(2, 3, 2)},
			Audit: done("r1"), Messages: []message{said("r1", "✅ a runs 2 of 2")}}, ""},
		{"two pushes", history{Changes: []*change{deployed("d1", 1, 1, 4), deployed("d2", 2, 3, 6)},
			Versions: []version{seen(0, 1, 1), seen(2, 3, 1, one), seen(5, 6, 1, two, one)},
			Audit:    done("d1", "d2"), Messages: []message{said("d1", "✅ a"), said("d2", "✅ a")}}, ""},
		{"the older push last", history{Changes: []*change{deployed("d1", 1, 1, 8), deployed("d2", 2, 3, 6)},
			Versions: []version{seen(0, 1, 1), seen(2, 3, 1, two), seen(5, 6, 1, release{Number: 3, Commit: "c1", Op: "d1"}, two), seen(6, 7, 1, release{Number: 4, Commit: "c2", Op: "d2"})},
			Audit:    done("d1", "d2"), Messages: []message{said("d1", "✅ a"), said("d2", "✅ a")}}, "backwards: a runs commit 1 after commit 2"},
		{"a push that is deployed again", history{Changes: []*change{deployed("d1", 1, 1, 4)}, Versions: []version{seen(0, 1, 1), seen(2, 5, 1, one), seen(6, 7, 1, again, one)},
			Audit: done("d1"), Messages: []message{said("d1", "✅ a")}}, "twice: "},
		{"the newest push does not run", history{Changes: []*change{deployed("d1", 1, 1, 4), deployed("d2", 2, 3, 6)}, Versions: []version{seen(0, 1, 1), seen(2, 5, 1, one)},
			Audit: []entry{{ID: "d1", Outcome: "done"}, {ID: "d2", Outcome: "superseded"}}, Messages: []message{said("d1", "✅ a"), said("d2", "⏭️ a")}}, "lost: a d2 (d2) is the newest push"},
		{"no audit entry", history{Changes: []*change{scaled("s1", 3, 1, 4)}, Versions: []version{seen(0, 2, 1), seen(2, 6, 3)},
			Messages: []message{said("s1", "✅ a runs 3 of 3")}}, "lost: a s1 (s1) was accepted"},
		{"two audit entries", history{Changes: []*change{scaled("s1", 3, 1, 4)}, Versions: []version{seen(0, 2, 1), seen(2, 6, 3)},
			Audit: done("s1", "s1"), Messages: []message{said("s1", "✅ a runs 3 of 3")}}, "twice: a s1 (s1) has 2 audit"},
		{"two messages", history{Changes: []*change{scaled("s1", 3, 1, 4)}, Versions: []version{seen(0, 2, 1), seen(2, 6, 3)},
			Audit: done("s1"), Messages: []message{said("s1", "✅ a runs 3 of 3"), said("s1", "✅ a runs 3 of 3")}}, "twice: a s1 (s1) has 2 messages"},
		{"a message that is not final", history{Changes: []*change{scaled("s1", 3, 1, 4)}, Versions: []version{seen(0, 2, 1), seen(2, 6, 3)},
			Audit: done("s1"), Messages: []message{said("s1", "🔄 a")}}, "not final"},
		{"a message that says something else", history{Changes: []*change{scaled("s1", 3, 1, 4)}, Versions: []version{seen(0, 2, 1), seen(2, 6, 3)},
			Audit: done("s1"), Messages: []message{said("s1", "⛔ a")}}, "untrue"},
		{"a message that was final and changed", history{Changes: []*change{scaled("s1", 3, 1, 4)}, Versions: []version{seen(0, 2, 1), seen(2, 6, 3)},
			Audit: done("s1"), Messages: []message{said("s1", "⛔ a", "✅ a runs 3 of 3")}}, "backwards: the message"},
		{"a failure", history{Changes: []*change{scaled("s1", 3, 1, 4)}, Versions: []version{seen(0, 2, 1), seen(2, 6, 3)},
			Audit: []entry{{ID: "s1", Outcome: "failed", Why: "no"}}, Messages: []message{said("s1", "❌ a")}}, "failed: a s1 (s1): no"},
		{"a refusal that nobody saw", history{Changes: []*change{scaled("s1", 3, 1, 4)}, Versions: []version{seen(0, 2, 1)},
			Audit: []entry{{ID: "s1", Outcome: "refused"}}}, "lost: 1 refusals"},
		{"a command that nobody took", history{Changes: []*change{{ID: "s1", App: "a", Kind: "scale", Absolute: 3, Asked: at(1)}}, Versions: []version{seen(0, 9, 1)}}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := test.h
			h.Commits, h.Start = commits, map[string]version{"a": h.Versions[0]}
			got := h.check()
			if test.want == "" && len(got) > 0 || test.want != "" && !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, test.want) }) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

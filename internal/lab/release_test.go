package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseEngines(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "[system]",
		" ":                         "[system]",
		"28+containerd":             "[28+containerd]",
		"20, 26+classic,28":         "[20 26+classic 28]",
		"system+containerd":         "[system+containerd]",
		"/opt/docker-29+containerd": "[/opt/docker-29+containerd]",
		"/opt/docker-28.5.2+dfsg4":  "[/opt/docker-28.5.2+dfsg4]",
	} {
		if got, err := parseEngines(text); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"27", "28+overlay2", "20+containerd", "docker", "28,,20", "28+", "+containerd"} {
		if got, err := parseEngines(text); err == nil || !strings.Contains(err.Error(), "use system, 20, 26, 28") {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
}

// TestOptionsEngine: what the caller asks for comes before the environment.
func TestOptionsEngine(t *testing.T) {
	t.Setenv(EngineEnv, "26+containerd")
	for text, want := range map[string]string{"": "[26+containerd]", "20": "[20]"} {
		if got, err := (Options{Engine: text}).engines(); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	t.Setenv(EngineEnv, "nonsense")
	if _, err := (Options{}).engines(); err == nil || !strings.Contains(err.Error(), EngineEnv) {
		t.Errorf("error is %v", err)
	}
}

// TestMixedEngines starts three engines and both image stores in one swarm.
func TestMixedEngines(t *testing.T) {
	l := New(t, Options{Engine: "28+containerd,20,26", Swarm: true})
	versions, stores := map[string]bool{}, ""
	for _, n := range l.Nodes {
		versions[n.EngineVersion] = true
		stores += n.ImageStore + " "
		if _, err := n.Docker(t.Context(), "run", "--rm", "--network", "none", l.BaseImage, "true"); err != nil {
			t.Errorf("%s: %v", n.Name, err)
		}
	}
	if stores != "containerd classic classic " || !strings.HasPrefix(l.Nodes[1].EngineVersion, "20.10.") || len(versions) < 2 {
		t.Errorf("versions %v, stores %s", versions, stores)
	}
}

// TestStoreThatAnEngineLacks fails rather than test another store than was asked for.
func TestStoreThatAnEngineLacks(t *testing.T) {
	Need(t)
	if err := require(t.Context(), packages, t.Logf); err != nil {
		t.Fatal(err)
	}
	// Under the path of its programs: parseEngines refuses what it knows not to work.
	dir, err := (&Lab{}).programs(t.Context(), release{name: "20"})
	if err != nil {
		t.Fatal(err)
	}
	if dir == "" { // this machine's own
		dir = t.TempDir()
		for _, name := range enginePrograms {
			path, err := lookPath(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	l, err := Start(t.Context(), Options{Nodes: 1, Engine: dir + "+containerd"})
	if err == nil {
		t.Fatalf("an engine started with an image store that it does not have (%v)", l.Close())
	}
	if !strings.Contains(err.Error(), "uses the classic image store") {
		t.Error(err)
	}
}

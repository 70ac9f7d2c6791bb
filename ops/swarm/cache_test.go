package swarm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waggle/ops"
)

// cachedStep says whether the log tells that a step was not run, because its layer was there.
func cachedStep(log, step string) bool {
	number := ""
	for line := range strings.Lines(log) {
		n, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.Contains(rest, step) && strings.HasPrefix(rest, "[") {
			number = n
		}
		if n == number && rest == "CACHED" {
			return true
		}
	}
	return false
}

// TestRealCacheOfAnotherManager: what one manager has built another takes from the
// registry, and only what changed is built.
func TestRealCacheOfAnotherManager(t *testing.T) {
	r := onLab(t)
	engine := func(i int) *Client {
		c, err := Dial(Options{Host: r.lab.Nodes[i].Host()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	other, third := engine(1), engine(2)
	logins := []ops.RegistryLogin{{Domain: r.lab.Private.Addr, Auth: r.auth}}
	name := fmt.Sprintf("cached-%d", time.Now().UnixNano())
	dir := t.TempDir()
	build := func(c *Client, tag, cache, version string) string {
		t.Helper()
		dockerfile := fmt.Sprintf("FROM %s\nRUN echo %s; sleep 1; dd if=/dev/urandom of=/dough bs=1M count=20\nCOPY version /version\n", r.lab.Private.Image("busybox:1"), name)
		for file, text := range map[string]string{"Dockerfile": dockerfile, "version": version} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		var lines []string
		began := time.Now()
		err := c.Build(t.Context(), ops.BuildRequest{Dir: dir, Tag: r.lab.Private.Image(name + ":" + tag), Logins: logins, Cache: cache, KeepCache: true}, func(l string) { lines = append(lines, l) })
		log := strings.Join(lines, "\n")
		if err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		t.Logf("%s with the cache %q took %s", tag, cache, time.Since(began).Round(10*time.Millisecond))
		return log
	}
	const heavy = "RUN echo"
	first := build(r.Client, "1", "", "1")
	digest, err := r.Push(t.Context(), r.lab.Private.Image(name+":1"), r.auth, nil)
	if err != nil {
		t.Fatal(err)
	}
	cache := r.lab.Private.Image(name+":1") + "@" + digest
	if cachedStep(first, heavy) {
		t.Errorf("the first build has it from somewhere:\n%s", first)
	}
	// One that is not there, or whose registry is not, is no error.
	for _, away := range []string{r.lab.Private.Image("nothing:1"), "nowhere.invalid/acme/pizza:1", strings.Replace(cache, digest[7:15], "00000000", 1)} {
		if log := build(r.Client, "1", away, "1"); !cachedStep(log, heavy) {
			t.Errorf("with %s the engine's own cache is not used:\n%s", away, log)
		}
	}
	with := build(other, "2", cache, "2")
	// The key of a step differs by BuildKit's version: another engine's cache is then of no
	// use, and no error.
	same := r.lab.Nodes[1].EngineVersion == r.lab.Manager().EngineVersion
	if same && !cachedStep(with, heavy) {
		t.Errorf("with the cache:\n%s", with)
	}
	if without := build(third, "3", "", "2"); cachedStep(without, heavy) {
		t.Errorf("without the cache:\n%s", without)
	}
	if cachedStep(with, "COPY version") {
		t.Errorf("what changed is not built:\n%s", with)
	}
}

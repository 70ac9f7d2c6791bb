package simulate

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
)

var (
	seeds = flag.Int("seeds", defaultSeeds, "how many seeds TestSeeds runs")
	first = flag.Uint64("first", 1, "the first seed that TestSeeds runs")
	full  = flag.Int("full", 3, "of how many failing seeds TestSeeds prints the history")
	whole = flag.Bool("history", false, "print the history of every seed")
)

// silent discards go-redis' log, which has a line for every broken connection.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(400) // most of the work is short-lived Lua states
	redis.SetLogger(silent{})
	os.Exit(m.Run())
}

// files returns a directory with a repository's files.
func files(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// hangs is the longest real time of one run. Virtual time stops while a goroutine is blocked on
// a mutex that another one holds during a call.
const hangs = 2 * time.Minute

func play(t *testing.T, seed uint64, dir string) (out result) {
	t.Helper()
	watch := time.AfterFunc(hangs, func() {
		debug.SetTraceback("all")
		panic(fmt.Sprintf("seed %d hangs: look for a goroutine that waits for a mutex", seed))
	})
	defer watch.Stop()
	ended := false
	defer func() {
		if !ended {
			fmt.Fprintf(os.Stderr, "seed %d did not come to its end\n", seed)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		var err error
		if out, err = run(newPlan(seed), dir, slog.DiscardHandler); err != nil {
			t.Fatal(err)
		}
	})
	ended = true
	return out
}

// TestSeeds runs many seeds; `make simulate` runs more. Add a failing seed to testdata/seeds.txt.
func TestSeeds(t *testing.T) {
	dir := files(t)
	var next, failed, virtual atomic.Int64
	began := time.Now()
	t.Run("", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for {
					i := next.Add(1) - 1
					if i >= int64(*seeds) {
						return
					}
					r := play(t, *first+uint64(i), dir)
					virtual.Add(int64(r.took))
					switch {
					case len(r.violations) == 0 && *whole:
						t.Logf("%s", r)
					case len(r.violations) == 0:
					case failed.Add(1) <= int64(*full) || *whole:
						t.Errorf("%s", r)
					default:
						t.Errorf("%s", r.short())
					}
				}
			})
		}
	})
	took := time.Since(began)
	t.Logf("%d seeds, %s of virtual time, in %s: %.0f seeds a minute; %d failed", *seeds,
		time.Duration(virtual.Load()).Round(time.Minute),
		took.Round(time.Millisecond), float64(*seeds)/took.Minutes(), failed.Load())
}

// TestKeptSeeds runs the seeds that once failed.
func TestKeptSeeds(t *testing.T) {
	f, err := os.Open("testdata/seeds.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := files(t)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		var seed uint64
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			if r := play(t, seed, dir); len(r.violations) > 0 {
				t.Errorf("it failed before with: %s\n%s", text, r)
			}
		})
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}

// TestPlansHaveEverything: each kind of fault and command occurs in some plan.
func TestPlansHaveEverything(t *testing.T) {
	got := map[string]bool{}
	for seed := range uint64(500) {
		p := newPlan(seed)
		for _, f := range p.faults {
			got[string(f.do)+" at "+string(f.point)] = true
		}
		for _, o := range p.outages {
			got[o.part+" away"] = true
		}
		for _, c := range p.commands {
			got[c.what] = true
		}
	}
	want := []string{askScale, askMore, askPush, askRollback, askCancel, byHandScale, taskDies,
		"lose at " + string(pointUpdate)}
	for _, part := range []string{partLeader, partDocker, partRedis, partSlack, partSlow} {
		want = append(want, part+" away")
	}
	for _, do := range []action{kill, sleep, hold} {
		for _, at := range []point{pointRedis, pointSwarm, pointUpdate, pointFinal, pointCommit} {
			want = append(want, string(do)+" at "+string(at))
		}
	}
	for _, w := range want {
		if !got[w] {
			t.Errorf("no plan has: %s", w)
		}
	}
}

// TestSameSeed: runs of one seed are nearly always the same.
func TestSameSeed(t *testing.T) {
	dir := files(t)
	same, all := 0, 0
	for seed := uint64(1); seed <= 20; seed++ {
		lines := func() (out []string) {
			for _, w := range play(t, seed, dir).history.writes {
				out = append(out, fmt.Sprint(w.at.Truncate(time.Millisecond), w))
			}
			return out
		}
		all++
		if slices.Equal(lines(), lines()) {
			same++
		}
	}
	if same < all*3/4 {
		t.Errorf("%d of %d seeds wrote the same services at the same times when they were run again", same, all)
	}
}

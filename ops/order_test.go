package ops

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/ops/queue"
	"waggle/ops/store"
)

// step is a push in few letters: "A>B" from commit a to commit b, "A>B@5" at the
// forge's time 5, "A>B!" one that led to no deploy, "A>B#other" on another
// branch, "0>B" a new branch.
func step(t *testing.T, text string) pushed {
	t.Helper()
	p := pushed{Branch: "main", At: time.Unix(1000, 0)}
	text, branch, ok := strings.Cut(text, "#")
	if ok {
		p.Branch = branch
	}
	text, skipped := strings.CutSuffix(text, "!")
	text, at, timed := strings.Cut(text, "@")
	if timed {
		var n int64
		if _, err := fmt.Sscan(at, &n); err != nil {
			t.Fatal(err)
		}
		p.PushedAt = time.Unix(n, 0)
	}
	from, to, ok := strings.Cut(text, ">")
	if !ok {
		t.Fatalf("%q is no push", text)
	}
	p.Before, p.After = strings.Repeat(strings.ToLower(from), 40), strings.Repeat(strings.ToLower(to), 40)
	if !skipped {
		p.Job = "job " + text
	}
	return p
}

func TestJudge(t *testing.T) {
	for _, tc := range []struct {
		name  string
		known string // oldest first
		push  string
		want  verdict
	}{
		{"the first", "", "0>A", isNewer},
		{"the next", "0>A A>B", "B>C", isNewer},
		{"twice", "0>A A>B", "A>B", isSame},
		{"an earlier one again, days later", "0>A A>B B>C C>D", "A>B", isSame},
		{"from another hook, with another time", "A>B@5", "A>B@6", isSame},
		{"to where the last one ended", "A>B", "C>B", isSame},
		{"out of order", "B>C", "A>B", isOlder},
		{"far out of order", "B>C C>D", "A>B", isOlder},
		{"out of order over one that was too old", "C>D B>C!", "A>B", isOlder},
		{"out of order over one that asked for nothing", "C>D B>C!", "A>B", isOlder},
		{"after one that asked for no deploy", "A>B B>C!", "C>D", isNewer},
		{"before one that asked for no deploy", "0>A B>C!", "A>B", isNewer},
		{"all asked for no deploy", "A>B!", "0>A", isNewer},
		{"after one that never came", "A>B", "C>D", unclear},
		{"before one that never came", "C>D", "A>B", unclear},
		{"long ago", "W>X X>Y", "A>B", unclear},
		{"the branch made anew", "0>A A>B", "0>C", unclear},
		{"forced back, without a time", "0>A A>B B>C", "C>A", unclear},
		{"forced back and forth, without a time", "0>A A>B B>A", "A>B", unclear},
		{"the same, and nothing begins where the last one ended", "0>A A>B B>A A>C", "A>B", isSame},

		{"newer by time", "A>B@5", "X>Y@6", isNewer},
		{"older by time", "A>B@5", "X>Y@4", isOlder},
		{"older by time though it begins where the last one ended", "B>A@4 A>B@5", "B>C@3", isOlder},
		{"forced back", "0>A@1 A>B@2 B>C@3", "C>A@4", isNewer},
		{"forced back and forth", "0>A@1 A>B@2 B>A@3", "A>B@4", isNewer},
		{"an earlier one again after that", "0>A@1 A>B@2 B>A@3", "A>B@2", isSame},
		{"not the last that came but the newest counts", "A>B@5 X>Y@4!", "Y>Z@5", unclear},
		{"in the same second, the next", "A>B@5", "B>C@5", isNewer},
		{"in the same second, out of order", "B>C@5", "A>B@5", isOlder},
		{"in the same second, with one between", "A>B@5", "C>D@5", unclear},

		{"another branch does not count", "A>B#next B>C#next", "0>A", isNewer},
		{"only that branch counts", "0>A A>B#next B>C#next", "A>D", isNewer},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var known pushes
			for text := range strings.FieldsSeq(tc.known) {
				known = append(known, step(t, text))
			}
			got, which := judge(known, step(t, tc.push))
			if got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
			if got == isSame && known[which].After != step(t, tc.push).After {
				t.Errorf("the same as %+v", known[which])
			}
		})
	}
}

// TestJudgeReleases: what is left when Redis was emptied.
func TestJudgeReleases(t *testing.T) {
	commit := func(c string) string { return strings.Repeat(c, 40) }
	svc := Service{Name: "pizza", Labels: map[string]string{LabelReleases: `[{"number":3,"commit":"` + commit("c") + `"},{"number":2,"commit":""},{"number":1,"commit":"` + commit("a") + `"}]`}}
	for push, want := range map[string]verdict{"C>D": isNewer, "B>C": isSame, "B>C@9": isSame, "0>A": isOlder, "0>A@1": isOlder, "X>Y": unclear, "C>A": unclear} {
		if got, _ := judge(svc.released(), step(t, push)); got != want {
			t.Errorf("%s is %s, want %s", push, got, want)
		}
	}
	if got := (Service{Labels: map[string]string{LabelReleases: "{"}}).released(); got != nil {
		t.Errorf("of an unreadable label: %+v", got)
	}
}

func TestPushesAreBounded(t *testing.T) {
	var l pushes
	for i := range 100 {
		l = l.with(pushed{After: fmt.Sprint(i)})
	}
	if len(l) != pushesMost || l[len(l)-1].After != "99" {
		t.Errorf("%d are kept: %+v", len(l), l)
	}
}

// branchAt is a Source that knows one branch.
type branchAt struct {
	Source
	head string // "" means that the repository does not answer
	asks *int
}

func (b branchAt) Resolve(context.Context, string, string) (string, error) {
	*b.asks++
	if b.head == "" {
		return "", Errorf(Failed, "no answer")
	}
	return b.head, nil
}

// one is a Swarm of one service.
type one struct {
	Swarm
	svc Service
}

func (o one) Services(context.Context) ([]Service, error) { return []Service{o.svc}, nil }

// taking is a Runner that takes pushes and does nothing with them.
func taking(t *testing.T, svc Service, head string) (r *Runner, asks *int) {
	t.Helper()
	redis, err := store.StartEmbedded()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(redis.Close)
	s := store.Open(redis.Options())
	t.Cleanup(func() { _ = s.Close() })
	log, asks := slog.New(slog.DiscardHandler), new(int)
	return &Runner{Store: s, Log: log, Deploys: queue.New(s.Client(), queue.Options{Name: "deploys", Concurrency: 1, Log: log}),
		Env: Env{Now: time.Now, Source: branchAt{head: head, asks: asks}, Swarm: one{svc: svc}}}, asks
}

// app is a linked service; labels are names and values.
func app(labels ...string) Service {
	svc := Service{Name: "pizza", Labels: map[string]string{LabelRepo: "https://git.example/acme/pizza", LabelBranch: "main"}}
	for i := 0; i < len(labels); i += 2 {
		svc.Labels[labels[i]] = labels[i+1]
	}
	return svc
}

// made is a push to app.
func made(t *testing.T, text string) Push {
	p := step(t, text)
	return Push{Branch: p.Branch, Before: p.Before, After: p.After, PushedAt: p.PushedAt, RepoURLs: []string{"https://git.example/acme/pizza.git"}, Name: "acme/pizza"}
}

func take(t *testing.T, r *Runner, p Push) Accepted {
	t.Helper()
	got, err := r.Deploy(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if (len(got.Jobs) > 0) == (got.Reason != "") {
		t.Errorf("neither jobs nor a reason, or both: %+v", got)
	}
	return got
}

func TestDuplicatesAndOrder(t *testing.T) {
	r, asks := taking(t, app(), strings.Repeat("d", 40))
	first := take(t, r, made(t, "A>B"))
	if len(first.Jobs) != 1 {
		t.Fatalf("the first: %+v", first)
	}
	if got := take(t, r, made(t, "A>B")); !got.Duplicate || !strings.Contains(got.Reason, first.Jobs[0].ID) {
		t.Errorf("again: %+v", got)
	}
	if got := take(t, r, made(t, "0>A")); got.Duplicate || got.Reason != "pizza has had a newer push than this one already; `/deploy pizza aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa` deploys it all the same" {
		t.Errorf("an older one: %+v", got)
	}
	r.Env.Now = func() time.Time { return time.Now().Add(8 * 24 * time.Hour) }
	if got := take(t, r, made(t, "A>B")); !got.Duplicate || !strings.Contains(got.Reason, "accepted before, on ") {
		t.Errorf("eight days later: %+v", got)
	}
	r.Env.Now = time.Now
	if *asks > 0 {
		t.Error("the repository was asked what is known")
	}

	// There and back again, where the forge tells no time.
	if got := take(t, r, made(t, "B>A")); len(got.Jobs) > 0 || *asks != 1 {
		t.Errorf("back, but the branch is elsewhere: %+v", got)
	}
	r.Env.Source = branchAt{head: strings.Repeat("a", 40), asks: asks}
	if got := take(t, r, made(t, "B>A")); len(got.Jobs) != 1 {
		t.Errorf("back: %+v", got)
	}
	r.Env.Source = branchAt{head: strings.Repeat("b", 40), asks: asks}
	again := take(t, r, made(t, "A>B"))
	if len(again.Jobs) != 1 || again.Jobs[0].ID == first.Jobs[0].ID {
		t.Errorf("and there: %+v", again)
	}
	r.Env.Source = branchAt{asks: asks}
	if got := take(t, r, made(t, "X>Y")); len(got.Jobs) > 0 || !got.Waits {
		t.Errorf("when nobody can tell: %+v", got)
	}
}

// A push that was judged and not stored, because Waggle or Redis died in
// between, is stored when it is sent again.
func TestPushThatWasNotStored(t *testing.T) {
	r, _ := taking(t, app(), "")
	first := take(t, r, made(t, "A>B@1"))
	rdb := r.Store.Client()
	keys, err := rdb.Keys(t.Context(), "waggle:asynq:*").Result()
	if err != nil || len(keys) == 0 {
		t.Fatalf("%q, %v", keys, err)
	}
	if err := rdb.Del(t.Context(), keys...).Err(); err != nil {
		t.Fatal(err)
	}
	again := take(t, r, made(t, "A>B@1"))
	if len(again.Jobs) != 1 || again.Jobs[0] != first.Jobs[0] {
		t.Errorf("sent again: %+v, want the job %+v", again, first.Jobs)
	}
	if got := take(t, r, made(t, "A>B@1")); !got.Duplicate {
		t.Errorf("and again: %+v", got)
	}
}

func TestPushesAfterAFlush(t *testing.T) {
	label := fmt.Sprintf(`[{"number":2,"commit":"%s"},{"number":1,"commit":"%s"}]`, strings.Repeat("b", 40), strings.Repeat("a", 40))
	r, asks := taking(t, app(LabelReleases, label), "")
	if got := take(t, r, made(t, "A>B@7")); !got.Duplicate || got.Reason != "pizza runs bbbbbbb already, or did" {
		t.Errorf("what runs: %+v", got)
	}
	if got := take(t, r, made(t, "0>A@6")); got.Duplicate || len(got.Jobs) > 0 {
		t.Errorf("what ran before: %+v", got)
	}
	if got := take(t, r, made(t, "B>C@8")); len(got.Jobs) != 1 || *asks > 0 {
		t.Errorf("the next: %+v", got)
	}
	if got := take(t, r, made(t, "0>A@6")); len(got.Jobs) > 0 {
		t.Errorf("what ran before, again: %+v", got)
	}
}

func TestPushThatIsNotWanted(t *testing.T) {
	r, asks := taking(t, app(LabelPaths, "src"), "")
	skip := made(t, "A>B")
	skip.Skip = "the last commit says [skip ci]"
	for range 2 {
		if got := take(t, r, skip); got.Reason != skip.Skip || got.Duplicate {
			t.Errorf("got %+v", got)
		}
	}
	docs := made(t, "B>C")
	docs.Files = []string{"docs/a.md"}
	if got := take(t, r, docs); got.Reason != "only paths outside waggle.paths of pizza were changed: docs/a.md" {
		t.Errorf("got %+v", got)
	}
	code := made(t, "C>D")
	code.Files = []string{"docs/a.md", "src/a.go"}
	if got := take(t, r, code); len(got.Jobs) != 1 {
		t.Errorf("got %+v", got)
	}
	// They are known to be older all the same.
	if got := take(t, r, made(t, "0>A")); len(got.Jobs) > 0 || *asks > 0 {
		t.Errorf("the one before those: %+v", got)
	}
	other := made(t, "D>E#next")
	other.Skip = skip.Skip
	if got := take(t, r, other); !strings.Contains(got.Reason, "is deployed from main, and the push is to next") {
		t.Errorf("to another branch: %+v", got)
	}
	elsewhere := skip
	elsewhere.RepoURLs, elsewhere.Name = []string{"https://git.example/acme/pasta"}, "acme/pasta"
	if got := take(t, r, elsewhere); !strings.Contains(got.Reason, "no app is linked to acme/pasta") {
		t.Errorf("to another repository: %+v", got)
	}
}

// TestPushAtOnce delivers one push and the one before it many times, all at once.
func TestPushAtOnce(t *testing.T) {
	for range 5 {
		r, _ := taking(t, app(), strings.Repeat("c", 40))
		var all sync.WaitGroup
		var mu sync.Mutex
		jobs := map[string]int{}
		for i := range 20 {
			all.Go(func() {
				got, err := r.Deploy(t.Context(), made(t, []string{"A>B@5", "B>C@5"}[i%2]))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, j := range got.Jobs {
					jobs[j.ID]++
				}
			})
		}
		all.Wait()
		at, err := r.readNoted(t.Context(), "pizza")
		if err != nil {
			t.Fatal(err)
		}
		last := slices.MaxFunc(at.all, func(a, b pushed) int { return int(a.Seq - b.Seq) })
		for id, n := range jobs {
			if n != 1 {
				t.Errorf("%s was queued %d times", id, n)
			}
		}
		if last.After != strings.Repeat("c", 40) || jobs[last.Job] != 1 {
			t.Errorf("the last word has %+v of %v", last, jobs)
		}
	}
}

// branchOf is a Source of one branch.
type branchOf struct {
	Source
	head func() string
}

func (b branchOf) Resolve(context.Context, string, string) (string, error) { return b.head(), nil }

// TestNewerWhileLooking: that a push is where its branch is does not count any more when a
// newer one was taken during the look.
func TestNewerWhileLooking(t *testing.T) {
	r, _ := taking(t, app(), "")
	if got := take(t, r, made(t, "A>B@5")); len(got.Jobs) != 1 {
		t.Fatalf("got %+v", got)
	}
	looks := 0
	r.Env.Source = branchOf{head: func() string {
		if looks++; looks > 1 {
			return made(t, "Y>Z").After
		}
		if got := take(t, r, made(t, "Y>Z@9")); len(got.Jobs) != 1 { // the forge tells its time
			t.Errorf("the newer one: %+v", got)
		}
		return made(t, "C>D").After
	}}
	// Known before is A>B@5. Neither leads to the other.
	if got := take(t, r, made(t, "C>D")); len(got.Jobs) > 0 || got.Waits || looks != 2 {
		t.Errorf("after %d looks: %+v", looks, got)
	}
}

// TestPushesInAnyOrder makes pushes to a branch, ones that want no deploy among
// them, and delivers them in any order, some twice: the newest has the last word,
// and none is deployed twice. It forces the branch back, too, where the forge
// tells the time or delivers in order: else nobody could know.
func TestPushesInAnyOrder(t *testing.T) {
	r, asks := taking(t, Service{}, "")
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		timed, inOrder := seed%2 == 0, seed%4 == 1
		app := fmt.Sprintf("app%d", seed)
		// The branch moves on, in some seconds more than once.
		var made []Push
		head, second := strings.Repeat("0", 40), int64(100)
		n := 3 + rnd.IntN(6)
		for i := range n {
			p := Push{Branch: "main", Before: head, After: fmt.Sprintf("%040x", i+1), RepoURLs: []string{"https://git.example/" + app}}
			if timed {
				second += rnd.Int64N(2)
				p.PushedAt = time.Unix(second, 0)
			}
			if i > 1 && rnd.IntN(4) == 0 && (timed || inOrder) { // forced back, in a second of its own
				if back := made[rnd.IntN(i-1)].After; back != head {
					p.After = back
					if timed {
						p.PushedAt = time.Unix(second+1, 0)
						second += 2
					}
				}
			}
			if i > 0 && i < n-1 && rnd.IntN(4) == 0 {
				p.Skip = "the last commit says [skip ci]"
			}
			head = p.After
			made = append(made, p)
		}
		r.Env.Source = branchAt{head: head, asks: asks}
		r.Env.Swarm = one{svc: Service{Name: app, Labels: map[string]string{LabelRepo: "https://git.example/" + app}}}
		order := rnd.Perm(n)
		if inOrder {
			slices.Sort(order)
		}
		for range rnd.IntN(4) {
			order = append(order, rnd.IntN(n))
		}
		jobs := map[string]string{}
		alike := map[string]int{} // pushes that only differ in being made twice
		name := func(p Push) string { return fmt.Sprint(p.Before, p.After, p.PushedAt.Unix()) }
		for _, p := range made {
			alike[name(p)]++
		}
		var said []string
		for _, i := range order {
			got, err := r.Deploy(t.Context(), made[i])
			if err != nil {
				t.Fatal(err)
			}
			said = append(said, fmt.Sprintf("%d: %+v", i, got))
			for _, j := range got.Jobs {
				id := name(made[i])
				if before := jobs[id]; before != "" && alike[id] == 1 {
					t.Errorf("seed %d: push %d is deployed as %s and %s\n%s", seed, i, before, j.ID, strings.Join(said, "\n"))
				}
				jobs[id] = j.ID
			}
			if made[i].Skip != "" && len(got.Jobs) > 0 {
				t.Errorf("seed %d: deployed though it says skip", seed)
			}
		}
		at, err := r.readNoted(t.Context(), app)
		if err != nil {
			t.Fatal(err)
		}
		last := slices.MaxFunc(at.all, func(a, b pushed) int { return int(a.Seq - b.Seq) })
		if last.After != head {
			t.Errorf("seed %d, timed %v: the last word has %s, and the branch is at %s\n%s", seed, timed, last.After, head, strings.Join(said, "\n"))
		}
		if t.Failed() {
			return
		}
	}
}

func TestPaths(t *testing.T) {
	for _, tc := range []struct {
		label, files string
		touched      bool
	}{
		{"", "docs/a.md", true},
		{"src", "", true}, // unknown
		{"src", "src/a/b.go", true},
		{"src/", "src/a/b.go", true},
		{"/src", "src/a", true},
		{"./src", "src/a", true},
		{"src", "srcs/a", false},
		{"src", "docs/src/a", false},
		{"src", "docs/a README.md", false},
		{"src", "docs/a src/b", true},
		{"src, Dockerfile", "Dockerfile", true},
		{"src,Dockerfile", "Dockerfile", true},
		{"src Dockerfile", "x/Dockerfile", false},
		{"src\nDockerfile", "Dockerfile", true},
		{"*.go", "main.go", true},
		{"*.go", "cmd/main.go", false},
		{"**/*.go", "main.go", true},
		{"**/*.go", "cmd/x/main.go", true},
		{"cmd/**/main.go", "cmd/main.go", true},
		{"src/?.go", "src/a.go", true},
		{"src/?.go", "src/ab.go", false},
		{"src/[a-c].go", "src/b.go", true},
		{"{src,lib}/*.go docs", "lib/a.go", true},
		{"{src,lib}/*.go", "docs/a.go", false},
		{"!docs", "docs/a.md", false},
		{"!docs !*.md", "README.md docs/x", false},
		{"!docs", "src/a", true},
		{"src !src/doc", "src/doc/a", false},
		{"src !src/doc", "src/a", true},
		{"src !src/doc src/doc/keep", "src/doc/keep", true},
		{"!docs docs/keep", "docs/keep", true},
		{"**", "a/b/c", true},
		{"[", "docs/a", true}, // no pattern: everything
		{"src !", "docs/a", true},
		{" , ", "docs/a", true},
		{"src/a b", "src/a b", true}, // a directory src/a, or b
		{"SRC", "src/a", false},
	} {
		svc := Service{Name: "pizza", Labels: map[string]string{LabelPaths: tc.label}}
		reason, err := svc.untouched(Push{Files: strings.Fields(tc.files)})
		if (reason == "") != tc.touched {
			t.Errorf("%q with %s: %q, %v", tc.label, tc.files, reason, err)
		}
		if bad := tc.label == "[" || tc.label == "src !"; (err != nil) != bad {
			t.Errorf("%q: %v", tc.label, err)
		}
	}
	svc := Service{Name: "pizza", Labels: map[string]string{LabelPaths: "src"}}
	if got, _ := svc.untouched(Push{Files: []string{"a", "b"}}); got != "only paths outside waggle.paths of pizza were changed: 2 files, such as a" {
		t.Error(got)
	}
}

func FuzzPaths(f *testing.F) {
	f.Add("src, !docs {a,b}/**", "src/a")
	f.Add("[", "!")
	f.Fuzz(func(t *testing.T, label, file string) {
		_, _ = Service{Labels: map[string]string{LabelPaths: label}}.untouched(Push{Files: []string{file}})
	})
}

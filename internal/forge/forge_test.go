package forge

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-playground/webhooks/v6/github"
)

const secret = "nectar"

// receiver is a webhook that checks and decodes events as a consumer would.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	pushes []github.PushPayload
	ids    []string
	status int
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	hook, err := github.New(github.Options.Secret(secret))
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{status: http.StatusAccepted}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		payload, err := hook.Parse(req, github.PushEvent, github.PingEvent)
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		if p, ok := payload.(github.PushPayload); ok {
			r.pushes = append(r.pushes, p)
		}
		r.ids = append(r.ids, req.Header.Get("X-GitHub-Delivery"))
		w.WriteHeader(r.status)
		io.WriteString(w, "thanks")
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) last() github.PushPayload {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pushes[len(r.pushes)-1]
}

func newForge(t *testing.T, opts Options) *Forge {
	t.Helper()
	f, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func newRepo(t *testing.T, f *Forge, opts RepoOptions) *Repo {
	t.Helper()
	r, err := f.Create(t.Context(), "bees/pizza", opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wait(t *testing.T, f *Forge, n int) Delivery {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	all, err := f.Wait(ctx, n)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != n {
		t.Fatalf("%d deliveries, want %d", len(all), n)
	}
	if err := all[n-1].Err; err != nil {
		t.Fatal(err)
	}
	return all[n-1]
}

// The events of a repository's life, as the decoder of a consumer sees them.
func TestEvents(t *testing.T) {
	ctx := t.Context()
	hook := newReceiver(t)
	f := newForge(t, Options{WebhookURL: hook.URL, Secret: secret})
	repo := newRepo(t, f, RepoOptions{})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	first, err := repo.Push(ctx, map[string]string{"Dockerfile": "FROM scratch\n", "src/a b.txt": "1"}, "bake\n\nthe first")
	must(err)
	d := wait(t, f, 1)
	if d.Status != http.StatusAccepted || d.Response != "thanks" || d.Event != "push" {
		t.Errorf("delivery: %+v", d)
	}
	p := hook.last()
	if p.Ref != "refs/heads/main" || !p.Created || p.Before != none || p.After != first || len(p.Commits) != 1 {
		t.Errorf("first push: %+v", p)
	}
	if c := p.Commits[0]; c.Message != "bake\n\nthe first" || !slices.Equal(c.Added, []string{"Dockerfile", "src/a b.txt"}) {
		t.Errorf("commit: %+v", c)
	}
	if r := p.Repository; r.FullName != "bees/pizza" || r.CloneURL != repo.CloneURL() || r.DefaultBranch != "main" ||
		r.Owner.Login != "bees" || time.Since(time.Unix(r.PushedAt, 0)) > time.Minute {
		t.Errorf("repository: %+v", r)
	}
	if p.Sender.Login == "" || p.Pusher.Name == "" || p.HeadCommit.ID != first {
		t.Errorf("sender %+v, pusher %+v, head %+v", p.Sender, p.Pusher, p.HeadCommit)
	}

	second, err := repo.PushCommit(ctx, Commit{Files: map[string]string{"Dockerfile": "FROM busybox\n"}, Remove: []string{"src"}, Message: "slice"})
	must(err)
	wait(t, f, 2)
	p = hook.last()
	if p.Created || p.Forced || p.Before != first || p.After != second || !strings.Contains(p.Compare, first[:12]+"..."+second[:12]) {
		t.Errorf("second push: %+v", p)
	}
	if c := p.HeadCommit; !slices.Equal(c.Modified, []string{"Dockerfile"}) || !slices.Equal(c.Removed, []string{"src/a b.txt"}) {
		t.Errorf("head commit: %+v", c)
	}

	amended, err := repo.PushCommit(ctx, Commit{Files: map[string]string{"x": "y"}, Message: "slice again", Amend: true})
	must(err)
	wait(t, f, 3)
	if p = hook.last(); !p.Forced || p.Before != second || p.After != amended || len(p.Commits) != 1 {
		t.Errorf("forced push: %+v", p)
	}

	side, err := repo.PushCommit(ctx, Commit{Branch: "feature/x", Files: map[string]string{"f": "1"}, Message: "try"})
	must(err)
	wait(t, f, 4)
	if p = hook.last(); p.Ref != "refs/heads/feature/x" || !p.Created || len(p.Commits) != 1 || p.Commits[0].ID != side {
		t.Errorf("new branch: %+v", p)
	}

	must(repo.Tag(ctx, "v1", "HEAD", "the first"))
	wait(t, f, 5)
	if p = hook.last(); p.Ref != "refs/tags/v1" || !p.Created || p.HeadCommit.ID != amended || p.After == amended || len(p.Commits) != 0 {
		t.Errorf("annotated tag: %+v", p)
	}

	must(repo.Delete(ctx, "refs/heads/feature/x"))
	d = wait(t, f, 6)
	if p = hook.last(); !p.Deleted || p.After != none || p.Before != side {
		t.Errorf("deleted branch: %+v", p)
	}
	var raw map[string]json.RawMessage
	must(json.Unmarshal(d.Payload, &raw))
	if string(raw["head_commit"]) != "null" || string(raw["commits"]) != "[]" {
		t.Errorf("deleted branch: head_commit %s, commits %s", raw["head_commit"], raw["commits"])
	}

	repo.Ping()
	if d = wait(t, f, 7); d.Event != "ping" || d.Status != http.StatusAccepted {
		t.Errorf("ping: %d %s", d.Status, d.Response)
	}
}

func TestRedeliver(t *testing.T) {
	hook := newReceiver(t)
	f := newForge(t, Options{WebhookURL: hook.URL, Secret: "wrong"})
	repo := newRepo(t, f, RepoOptions{})
	if _, err := repo.Push(t.Context(), nil, "empty"); err != nil {
		t.Fatal(err)
	}
	d := wait(t, f, 1)
	if d.Status != http.StatusUnauthorized {
		t.Errorf("with a wrong secret: %d", d.Status)
	}
	f.SetWebhook(hook.URL, secret)
	again, err := f.Redeliver(t.Context(), d)
	if err != nil || again.Status != http.StatusAccepted || again.ID != d.ID {
		t.Errorf("redelivery: %+v %v", again, err)
	}
	replay, err := f.Replay(t.Context(), d)
	if err != nil || replay.ID == d.ID || string(replay.Body) != string(d.Body) {
		t.Errorf("replay: %+v %v", replay, err)
	}
	if want := []string{d.ID, replay.ID}; !slices.Equal(hook.ids, want) {
		t.Errorf("ids %v, want %v", hook.ids, want)
	}
}

func TestDeliveryDeadline(t *testing.T) {
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	defer slow.Close()
	f := newForge(t, Options{WebhookURL: slow.URL, Timeout: 50 * time.Millisecond})
	repo := newRepo(t, f, RepoOptions{})
	repo.Ping()
	all, err := f.Wait(t.Context(), 1)
	if err != nil || !errors.Is(all[0].Err, context.DeadlineExceeded) || all[0].Status != 0 {
		t.Errorf("%+v %v", all, err)
	}
	// Close ends what is under way.
	f.opts.Timeout = time.Hour
	repo.Ping()
	begin := time.Now()
	if err := f.Close(); err != nil || time.Since(begin) > 5*time.Second {
		t.Errorf("close: %v after %s", err, time.Since(begin))
	}
}

func TestForm(t *testing.T) {
	var got string
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.FormValue("payload") }))
	defer hook.Close()
	f := newForge(t, Options{WebhookURL: hook.URL, Form: true})
	newRepo(t, f, RepoOptions{}).Ping()
	if d := wait(t, f, 1); got != string(d.Payload) || d.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		t.Errorf("form: %q", got)
	}
}

func TestPrivate(t *testing.T) {
	ctx := t.Context()
	f := newForge(t, Options{User: "bee", Password: "token"})
	repo := newRepo(t, f, RepoOptions{Private: true, DefaultBranch: "trunk"})
	sha, err := repo.Push(ctx, map[string]string{"a": "1"}, "one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Push(ctx, map[string]string{"a": "2"}, "two"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := f.git(ctx, dir, "clone", "-q", repo.CloneURL(), "x"); err == nil {
		t.Error("a private repository was cloned without a password")
	}
	// An exact commit that is no branch's head, as a deploy fetches it.
	withLogin := strings.Replace(repo.CloneURL(), "://", "://bee:token@", 1)
	for _, args := range [][]string{{"init", "-q"}, {"fetch", "-q", "--depth", "1", withLogin, sha}, {"checkout", "-q", "FETCH_HEAD"}} {
		if _, err := f.git(ctx, dir, args...); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(b) != "1" {
		t.Errorf("file at the commit: %q %v", b, err)
	}
}

// Git sends more than 1 MiB in chunks, which CGI cannot take.
func TestLargePush(t *testing.T) {
	f := newForge(t, Options{})
	repo := newRepo(t, f, RepoOptions{})
	big := make([]byte, 3<<20) // does not compress
	_, _ = rand.Read(big)
	sha, err := repo.Push(t.Context(), map[string]string{"big": string(big)}, "big")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := repo.Resolve(t.Context(), "main"); err != nil || got != sha {
		t.Errorf("main is %s, want %s: %v", got, sha, err)
	}
	resp, err := http.Get(repo.HTMLURL() + "/commit/" + sha)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the commit's page: %s", resp.Status)
	}
}

func TestClosedForgeLeavesNothing(t *testing.T) {
	f, err := Start(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(f.dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", f.dir, err)
	}
	if _, err := f.Create(t.Context(), "../x", RepoOptions{}); err == nil {
		t.Error("a repository outside the forge's directory was made")
	}
}

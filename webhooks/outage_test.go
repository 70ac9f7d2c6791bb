package webhooks

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"waggle/internal/secret"
	"waggle/ops"
	"waggle/ops/queue"
	"waggle/ops/store"
)

// pausable is a Redis behind a connection on which nothing passes any more once it is
// paused: it still accepts connections, and never answers.
type pausable struct {
	addr   string
	mu     sync.Mutex
	paused bool
}

func (p *pausable) pause() { p.mu.Lock(); defer p.mu.Unlock(); p.paused = true }

func (p *pausable) passes() bool { p.mu.Lock(); defer p.mu.Unlock(); return !p.paused }

func newPausable(t *testing.T) *pausable {
	t.Helper()
	real, err := store.StartEmbedded()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(real.Close)
	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = door.Close() })
	p := &pausable{addr: door.Addr().String()}
	go func() {
		for {
			in, err := door.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = in.Close() })
			out, err := net.Dial("tcp", real.Options().Addrs[0])
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = out.Close() })
			go p.copy(out, in)
			go p.copy(in, out)
		}
	}()
	return p
}

func (p *pausable) copy(to io.Writer, from io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil || !p.passes() {
			return // neither answered nor closed
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// engine is a Docker with one linked service.
type engine struct {
	ops.Swarm
	mu    sync.Mutex
	hangs bool
}

func (e *engine) Services(context.Context) ([]ops.Service, error) {
	e.mu.Lock()
	hangs := e.hangs
	e.mu.Unlock()
	if hangs {
		select {} // not even for its context
	}
	return []ops.Service{{Name: "pizza", Labels: map[string]string{ops.LabelRepo: "https://github.com/binkkatal/sample_app.git", ops.LabelBranch: "master",
		ops.LabelReleases: `[{"number":1,"image":"i","commit":"0123456789012345678901234567890123456789"}]`}}}, nil
}

// repository is one that never says where its branches are.
type repository struct{ ops.Source }

func (repository) Resolve(ctx context.Context, _, _ string) (string, error) {
	<-ctx.Done()
	return "", ctx.Err()
}

// TestAnswersWithin3s: whatever hangs, the forge has its answer in time: 202 when the push
// is stored, else 503 with Retry-After.
func TestAnswersWithin3s(t *testing.T) {
	for name, tc := range map[string]struct {
		redis, docker, warm bool // what hangs; whether Waggle has worked before
		code                int
	}{
		"the repository":                 {code: 202},
		"Docker":                         {docker: true, code: 202},
		"Redis":                          {redis: true, code: 503},
		"Redis and Docker":               {redis: true, docker: true, code: 503},
		"Redis, after it worked":         {redis: true, warm: true, code: 503},
		"Docker, after it worked":        {docker: true, warm: true, code: 202},
		"Redis and Docker, after it did": {redis: true, docker: true, warm: true, code: 503},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, docker, log := newPausable(t), new(engine), slog.New(slog.DiscardHandler)
			s := store.Open(&redis.UniversalOptions{Addrs: []string{p.addr}})
			t.Cleanup(func() { _ = s.Close() })
			r := &ops.Runner{Store: s, Log: log, Env: ops.Env{Now: time.Now, Swarm: docker, Source: repository{}},
				Deploys: queue.New(s.Client(), queue.Options{Name: "deploys", Concurrency: 1, Log: log})}
			h := New(Options{Secrets: map[string][]secret.Text{"github": {key}}, Deploys: r, Log: log})
			body := fixture(t, "github-push.json")
			if tc.warm {
				if res, a := serve(t, h, fromGitHub(body)); res.StatusCode != 202 {
					t.Fatalf("before: %d %+v", res.StatusCode, a)
				}
			}
			if tc.redis {
				p.pause()
			}
			docker.mu.Lock()
			docker.hangs = tc.docker
			docker.mu.Unlock()
			began := time.Now()
			res, a := serve(t, h, fromGitHub(body))
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("answered after %s", took)
			}
			if res.StatusCode != tc.code || (tc.code == 503) != (res.Header.Get("Retry-After") != "") {
				t.Errorf("got %d %+v, Retry-After %q", res.StatusCode, a, res.Header.Get("Retry-After"))
			}
			if tc.code == 202 && !strings.Contains(a.Reason, "stored") {
				t.Errorf("it says %+v", a)
			}
		})
	}
}

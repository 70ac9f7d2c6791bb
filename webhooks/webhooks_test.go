package webhooks

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	payload "github.com/go-playground/webhooks/v6/github"

	"waggle/internal/secret"
	"waggle/ops"
)

const (
	key    = "canary-hook-7f3a"
	oldKey = "canary-hook-old"
)

// deployer is a Deployer made of a function.
type deployer func(context.Context, ops.Push) (ops.Accepted, error)

func (d deployer) Deploy(ctx context.Context, push ops.Push) (ops.Accepted, error) {
	return d(ctx, push)
}

var pizza = deployer(func(context.Context, ops.Push) (ops.Accepted, error) {
	return ops.Accepted{Jobs: []ops.Job{{App: "pizza", ID: "j1"}}}, nil
})

// saysSkip is a Deployer as it is for a push that asks for no deploy.
var saysSkip = deployer(func(_ context.Context, p ops.Push) (ops.Accepted, error) {
	return ops.Accepted{Reason: p.Skip}, nil
})

func newHandler(d Deployer) http.Handler {
	return New(Options{Secrets: map[string][]secret.Text{"github": {key, oldKey}, "gogs": {""}}, Deploys: d, MaxBody: 100_000})
}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func sign(key string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// fromGitHub is GitHub's delivery of a push, signed.
func fromGitHub(body []byte) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/webhooks/github", bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-GitHub-Event", "push")
	r.Header.Set("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
	r.Header.Set("X-Hub-Signature-256", sign(key, body))
	return r
}

func serve(t testing.TB, h http.Handler, r *http.Request) (*http.Response, answer) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var a answer
	d := json.NewDecoder(w.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		t.Fatalf("the answer is not the JSON it should be: %v", err)
	}
	if a.Jobs == nil {
		t.Error("jobs is null, want a list")
	}
	return w.Result(), a
}

func TestAnswers(t *testing.T) {
	push := fixture(t, "github-push.json")
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	// signed replaces the body, and signs it.
	signed := func(body string) func(*http.Request) {
		return func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
			r.Header.Set("X-Hub-Signature-256", sign(key, []byte(body)))
		}
	}
	form := func(body string) func(*http.Request) {
		return func(r *http.Request) {
			signed(body)(r)
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
	}
	// change edits the fixture.
	change := func(old, new string) func(*http.Request) {
		if !bytes.Contains(push, []byte(old)) {
			t.Fatalf("the fixture has no %s", old)
		}
		return signed(strings.ReplaceAll(string(push), old, new))
	}
	const ref = `"ref": "refs/heads/master"`
	const after = `"after": "fd489864e7642b48eaad6e3f155c10e46810ec72"`

	for _, test := range []struct {
		name   string
		edit   func(*http.Request)
		deploy deployer
		code   int
		status string
		reason string // part of it
	}{
		{"push", func(*http.Request) {}, nil, 202, "queued", ""},
		{"push signed with the old secret", func(r *http.Request) { r.Header.Set("X-Hub-Signature-256", sign(oldKey, push)) }, nil, 202, "queued", ""},
		{"push with charset", header("Content-Type", "application/json; charset=utf-8"), nil, 202, "queued", ""},
		{"push as form", form("payload=" + url.QueryEscape(string(push))), nil, 202, "queued", ""},
		{"push with null head commit", signed(`{"ref":"refs/heads/main","after":"fd489864e7642b48eaad6e3f155c10e46810ec72","head_commit":null,"repository":{"clone_url":"https://x/y"}}`), nil, 202, "queued", ""},
		{"push with SHA-256 hashes", change(after, `"after": "`+strings.Repeat("ab", 32)+`"`), nil, 202, "queued", ""},
		{"push with a text as time", change(`"pushed_at": 1530281075`, `"pushed_at": "2018-06-29T14:04:35Z"`), nil, 202, "queued", ""},

		{"ping", header("X-GitHub-Event", "ping"), nil, 200, "ignored", "the webhook is set up"},
		{"other event", header("X-GitHub-Event", "issues"), nil, 200, "ignored", `"issues" is not a push`},
		{"tag", change(ref, `"ref": "refs/tags/v1"`), nil, 200, "ignored", `"v1" is a tag`},
		{"other ref", change(ref, `"ref": "refs/notes/x"`), nil, 200, "ignored", "is not a branch"},
		{"deleted", change(`"deleted": false`, `"deleted": true`), nil, 200, "ignored", `the branch "master" was deleted`},
		{"zeros", change(after, `"after": "0000000000000000000000000000000000000000"`), nil, 200, "ignored", "was deleted"},
		{"skip ci", change("test a push event", "wip [skip ci]"), saysSkip, 200, "ignored", "the last commit says [skip ci]"},
		{"ci skip", change("test a push event", "[CI SKIP] wip"), saysSkip, 200, "ignored", "[ci skip]"},
		{"skip deploy", change("test a push event", "wip\\n\\n[skip deploy]"), saysSkip, 200, "ignored", "[skip deploy]"},
		{"no app follows", func(*http.Request) {}, func(context.Context, ops.Push) (ops.Accepted, error) {
			return ops.Accepted{Reason: "no app follows main"}, nil
		}, 200, "ignored", "no app follows main"},
		{"duplicate", func(*http.Request) {}, func(context.Context, ops.Push) (ops.Accepted, error) {
			return ops.Accepted{Duplicate: true, Jobs: []ops.Job{{App: "pizza", ID: "j1"}}}, nil
		}, 200, "duplicate", "seen before"},

		{"looked at later", func(*http.Request) {}, func(context.Context, ops.Push) (ops.Accepted, error) {
			return ops.Accepted{Waits: true, Reason: "the swarm does not answer now"}, nil
		}, 202, "queued", "does not answer now"},

		{"no signature", func(r *http.Request) { r.Header.Del("X-Hub-Signature-256") }, nil, 401, "refused", "bad or missing signature"},
		{"SHA-1 only", func(r *http.Request) {
			r.Header.Del("X-Hub-Signature-256")
			r.Header.Set("X-Hub-Signature", "sha1=0000000000000000000000000000000000000000")
		}, nil, 401, "refused", "signature"},
		{"other secret", func(r *http.Request) { r.Header.Set("X-Hub-Signature-256", sign("other", push)) }, nil, 401, "refused", "signature"},
		{"empty secret", func(r *http.Request) { r.Header.Set("X-Hub-Signature-256", sign("", push)) }, nil, 401, "refused", "signature"},
		{"short signature", header("X-Hub-Signature-256", "sha256=00"), nil, 401, "refused", "signature"},
		{"not hexadecimal", header("X-Hub-Signature-256", "sha256="+strings.Repeat("zz", 32)), nil, 401, "refused", "signature"},
		{"signature without prefix", func(r *http.Request) {
			r.Header.Set("X-Hub-Signature-256", strings.TrimPrefix(sign(key, push), "sha256="))
		}, nil, 401, "refused", "signature"},
		{"changed body", func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("{}")) }, nil, 401, "refused", "signature"},
		{"form signed over its payload only", func(r *http.Request) {
			form("payload=" + url.QueryEscape(string(push)))(r)
			r.Header.Set("X-Hub-Signature-256", sign(key, push))
		}, nil, 401, "refused", "signature"},
		{"ping without signature", func(r *http.Request) {
			r.Header.Set("X-GitHub-Event", "ping")
			r.Header.Del("X-Hub-Signature-256")
		}, nil, 401, "refused", "signature"},

		{"no event", func(r *http.Request) { r.Header.Del("X-GitHub-Event") }, nil, 400, "refused", "X-GitHub-Event"},
		{"not JSON", signed("{"), nil, 400, "refused", "not the JSON of a push"},
		{"empty", signed(""), nil, 400, "refused", "not the JSON"},
		{"null", signed("null"), nil, 400, "refused", "names no ref"},
		{"wrong type", change(ref, `"ref": 5`), nil, 400, "refused", "names no ref"},
		{"no after", change(after, `"x": 1`), nil, 400, "refused", "after is not a full commit hash"},
		{"short after", change(after, `"after": "fd48986"`), nil, 400, "refused", "after is not"},
		{"wrong before", change(`"before": "737d38c599c1b2991664dfc6155d6bf516fcce36"`, `"before": "--upload-pack=x"`), nil, 400, "refused", "before is not"},
		{"no repository", signed(`{"ref":"refs/heads/main","after":"fd489864e7642b48eaad6e3f155c10e46810ec72"}`), nil, 400, "refused", "no URL"},
		{"branch Git does not allow", change(ref, `"ref": "refs/heads/-x"`), nil, 400, "refused", "Git allows"},
		{"branch with line break", change(ref, `"ref": "refs/heads/a\nb"`), nil, 400, "refused", "Git allows"},
		{"branch with dots", change(ref, `"ref": "refs/heads/a/../b"`), nil, 400, "refused", "Git allows"},
		{"empty branch", change(ref, `"ref": "refs/heads/"`), nil, 400, "refused", "Git allows"},
		{"form without payload", form("a=b"), nil, 400, "refused", "no payload field"},
		{"form with two payloads", form("payload=%7B%7D&payload=%7B%7D"), nil, 400, "refused", "or several"},
		{"not a form", form("payload=%zz"), nil, 400, "refused", "form cannot be read"},
		{"cut off", func(r *http.Request) {
			r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(push[:10]), errReader{}))
		}, nil, 400, "refused", "did not arrive whole"},

		{"unknown provider", func(r *http.Request) { r.URL.Path = "/webhooks/sourceforge" }, nil, 404, "refused", "no such webhook"},
		{"provider with an empty secret", func(r *http.Request) { r.URL.Path = "/webhooks/gogs" }, nil, 404, "refused", "no such webhook"},
		{"provider without secret", func(r *http.Request) { r.URL.Path = "/webhooks/gitea" }, nil, 404, "refused", "no such webhook"},
		{"no provider", func(r *http.Request) { r.URL.Path = "/webhooks/" }, nil, 404, "refused", "no such webhook"},
		{"below the provider", func(r *http.Request) { r.URL.Path = "/webhooks/github/x" }, nil, 404, "refused", "no such webhook"},
		{"GET", func(r *http.Request) { r.Method = http.MethodGet }, nil, 405, "refused", "POST"},
		{"too large", signed(strings.Repeat(" ", 100_001)), nil, 413, "refused", "larger than 100000 bytes"},
		{"too large, length unknown", func(r *http.Request) {
			signed(strings.Repeat(" ", 100_001))(r)
			r.ContentLength = -1
		}, nil, 413, "refused", "larger than"},
		{"text", header("Content-Type", "text/plain"), nil, 415, "refused", "application/json or application/x-www-form-urlencoded"},
		{"no content type", func(r *http.Request) { r.Header.Del("Content-Type") }, nil, 415, "refused", "content type"},
		{"not stored", func(*http.Request) {}, func(context.Context, ops.Push) (ops.Accepted, error) {
			return ops.Accepted{}, errors.New("redis is away")
		}, 503, "unavailable", "nothing was accepted"},
		{"stored for one of two", func(*http.Request) {}, func(context.Context, ops.Push) (ops.Accepted, error) {
			return ops.Accepted{Jobs: []ops.Job{{App: "pizza", ID: "j1"}}}, errors.New("redis is away")
		}, 503, "unavailable", "not every deploy could be stored"},
	} {
		t.Run(test.name, func(t *testing.T) {
			deployed := false
			h := newHandler(deployer(func(ctx context.Context, p ops.Push) (ops.Accepted, error) {
				deployed = true
				if test.deploy != nil {
					return test.deploy(ctx, p)
				}
				return pizza(ctx, p)
			}))
			r := fromGitHub(push)
			test.edit(r)
			res, a := serve(t, h, r)
			if res.StatusCode != test.code || a.Status != test.status || !strings.Contains(a.Reason, test.reason) {
				t.Errorf("got %d %q %q, want %d %q %q", res.StatusCode, a.Status, a.Reason, test.code, test.status, test.reason)
			}
			if want := test.code == 202 || test.code == 503 || test.deploy != nil; deployed != want {
				t.Errorf("Deploy called: %v, want %v", deployed, want)
			}
			if (test.code == 202) != (a.Status == "queued" && (len(a.Jobs) == 1 || a.Reason != "")) {
				t.Errorf("jobs %v", a.Jobs)
			}
			if test.code == 503 && (res.Header.Get("Retry-After") == "" || len(a.Jobs) > 0) {
				t.Errorf("Retry-After %q, jobs %v", res.Header.Get("Retry-After"), a.Jobs)
			}
			if got := res.Header.Get("Allow"); test.code == 405 && got != "POST" {
				t.Errorf("Allow %q", got)
			}
			if got := res.Header.Get("Content-Type"); got != "application/json" {
				t.Errorf("Content-Type %q", got)
			}
		})
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// What a delivery costs besides what is done with the push.
func TestAllocationsOfADelivery(t *testing.T) {
	push := fixture(t, "github-push.json")
	h := newHandler(pizza)
	got := testing.AllocsPerRun(100, func() {
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, fromGitHub(push)); w.Code != http.StatusAccepted {
			t.Fatal(w.Body)
		}
	})
	making := testing.AllocsPerRun(100, func() { httptest.NewRecorder(); fromGitHub(push) })
	const most = 230 // it was 199 of them
	if got -= making; got > most {
		t.Errorf("%.0f allocations, want at most %d", got, most)
	}
}

// Storing has a deadline of its own.
func TestDeployHasADeadline(t *testing.T) {
	h := newHandler(deployer(func(ctx context.Context, p ops.Push) (ops.Accepted, error) {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("Deploy has no deadline")
		}
		return pizza(ctx, p)
	}))
	serve(t, h, fromGitHub(fixture(t, "github-push.json")))
}

func TestGitHubPushedAt(t *testing.T) {
	for value, want := range map[string]string{
		"1530281075": "2018-06-29T14:04:35Z", `"2018-06-29T16:04:35+02:00"`: "2018-06-29T14:04:35Z",
		"null": "", "0": "", "-5": "", `"soon"`: "", "{}": "",
	} {
		body := []byte(`{"repository":{"pushed_at":` + value + `}}`)
		var p payload.PushPayload
		if err := decode(body, &p); err != nil {
			t.Fatal(err)
		}
		got := githubPushedAt(p.Repository.PushedAt, body)
		if want == "" && !got.IsZero() || want != "" && got.Format(time.RFC3339) != want {
			t.Errorf("pushed_at %s is %v, want %q", value, got, want)
		}
	}
}

// Whoever hangs up after the push is here does not stop it from being stored.
func TestHangingUpDoesNotCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	h := newHandler(deployer(func(ctx context.Context, p ops.Push) (ops.Accepted, error) {
		cancel()
		return ops.Accepted{Jobs: []ops.Job{{App: "pizza", ID: "j1"}}}, ctx.Err()
	}))
	res, _ := serve(t, h, fromGitHub(fixture(t, "github-push.json")).WithContext(ctx))
	if res.StatusCode != http.StatusAccepted {
		t.Errorf("status %d", res.StatusCode)
	}
}

func TestLogNeverHoldsSecretOrSignature(t *testing.T) {
	push := fixture(t, "github-push.json")
	bad := fromGitHub(push)
	bad.Header.Set("X-Hub-Signature-256", sign("other", push))
	for name, test := range map[string]struct {
		r   *http.Request
		err error
	}{"good": {fromGitHub(push), nil}, "not stored": {fromGitHub(push), errors.New("away")}, "bad signature": {bad, nil}} {
		var logged bytes.Buffer
		h := New(Options{
			Secrets: map[string][]secret.Text{"github": {key}},
			Deploys: deployer(func(context.Context, ops.Push) (ops.Accepted, error) { return ops.Accepted{}, test.err }),
			Log:     slog.New(slog.NewTextHandler(&logged, nil)),
		})
		signature := strings.TrimPrefix(test.r.Header.Get("X-Hub-Signature-256"), "sha256=")
		serve(t, h, test.r)
		if got := logged.String(); strings.Contains(got, key) || strings.Contains(got, signature) {
			t.Errorf("%s: the log holds a secret or signature: %s", name, got)
		} else if strings.Count(got, "\n") != 1 || !strings.Contains(got, "provider=github delivery=72d3162e-cc78-11e3-81ab-4c9367dc0958 event=push") {
			t.Errorf("%s: want one line with the delivery, got %s", name, got)
		}
	}
}

// A body that never comes is given up, and one that is refused is not waited for.
func TestSlowBodies(t *testing.T) {
	server := httptest.NewServer(New(Options{
		Secrets: map[string][]secret.Text{"github": {key}}, Deploys: pizza, readTimeout: 20 * time.Millisecond,
	}))
	defer server.Close()
	for _, test := range []struct{ name, path, contentType, length, want string }{
		{"slow", "/webhooks/github", "application/json", "1000", "400 Bad Request"},
		{"unknown provider", "/webhooks/x", "application/json", "1000", "404 Not Found"},
		{"content type", "/webhooks/github", "text/plain", "1000", "415 Unsupported Media Type"},
		{"huge", "/webhooks/github", "application/json", "99999999999", "413 Request Entity Too Large"},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			// The test's own limit, far from being reached.
			_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
			_, err = io.WriteString(conn, "POST "+test.path+" HTTP/1.1\r\nHost: x\r\nContent-Type: "+test.contentType+"\r\nContent-Length: "+test.length+"\r\n\r\n{")
			if err != nil {
				t.Fatal(err)
			}
			all, err := io.ReadAll(conn) // until the server closes the connection
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(string(all), "HTTP/1.1 "+test.want) || !strings.Contains(string(all), "Connection: close") {
				t.Errorf("got %s", all)
			}
		})
	}
}

// After a delivery the connection is good for the next: the deadline for its
// body, which passes while it is stored, is gone.
func TestConnectionIsUsedAgain(t *testing.T) {
	const limit = 20 * time.Millisecond
	push := fixture(t, "github-push.json")
	server := httptest.NewServer(New(Options{
		Secrets: map[string][]secret.Text{"github": {key}}, readTimeout: limit,
		Deploys: deployer(func(ctx context.Context, p ops.Push) (ops.Accepted, error) {
			<-time.After(2 * limit)
			return pizza(ctx, p)
		}),
	}))
	defer server.Close()
	for i := range 2 {
		var reused bool
		trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }}
		r := fromGitHub(push).WithContext(httptrace.WithClientTrace(t.Context(), trace))
		r.RequestURI = ""
		r.URL.Scheme, r.URL.Host = "http", server.Listener.Addr().String()
		res, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode != http.StatusAccepted || reused != (i == 1) {
			t.Errorf("delivery %d: status %d, on a used connection: %v", i, res.StatusCode, reused)
		}
	}
}

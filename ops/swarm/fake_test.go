package swarm

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"waggle/ops"
)

// request is one that the fake engine was sent.
type request struct {
	*http.Request
	body string
}

// engine answers like a Docker engine, with what a test gives it.
type engine struct {
	mu       sync.Mutex
	answers  map[string]http.HandlerFunc // by "GET /services/rich", without the version
	requests []request
}

var versionPrefix = regexp.MustCompile(`^/v(1\.[0-9]+)/`)

func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	path := versionPrefix.ReplaceAllString(r.URL.Path, "/")
	e.mu.Lock()
	answer := e.answers[r.Method+" "+path]
	if path != "/_ping" {
		e.requests = append(e.requests, request{r, string(body)})
	}
	e.mu.Unlock()
	switch {
	case path == "/_ping":
		w.Header().Set("Api-Version", "1.41")
	case answer == nil:
		fail(w, http.StatusNotFound, strings.TrimPrefix(path, "/")+" not found")
	default:
		answer(w, r)
	}
}

// last returns the last request that changes something.
func (e *engine) last(t *testing.T) request {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := len(e.requests) - 1; i >= 0; i-- {
		if e.requests[i].Method == http.MethodPost {
			return e.requests[i]
		}
	}
	t.Fatal("the engine was asked for no change")
	return request{}
}

// writes counts the requests that change something.
func (e *engine) writes() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, r := range e.requests {
		if r.Method == http.MethodPost {
			n++
		}
	}
	return n
}

// fake starts an engine on a unix socket and returns a client of it.
func fake(t *testing.T, answers map[string]http.HandlerFunc) (*Client, *engine) {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{answers: answers}
	s := httptest.NewUnstartedServer(e)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	c, err := Dial(Options{Host: "unix://" + socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, e
}

func fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"message": message})
}

// says answers with a text.
func says(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, body)
	}
}

// fails answers with an error of the engine.
func fails(status int, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fail(w, status, message) }
}

func data(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func wantError(t *testing.T, err error, code ops.Code, sentence string) *ops.Error {
	t.Helper()
	var e *ops.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Sentence, sentence) {
		t.Fatalf("error is %q %v, want %s with %q", ops.CodeOf(err), err, code, sentence)
	}
	return e
}

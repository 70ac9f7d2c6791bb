package bot

import (
	"context"
	"encoding/json"
	"flag"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/internal/secret"
	"waggle/internal/workspace"
	"waggle/ops"
)

const (
	ada     = "U0ADA"   // primary owner
	grace   = "U0GRACE" // admin, in @operators
	linus   = "U0LINUS" // member, in @operators
	gil     = "U0GIL"   // guest
	mallory = "U0MALLORY"

	deploys   = "C0DEPLOYS" // the app is in it
	general   = "C0GENERAL" // the app is not
	operators = "S0OPERATORS"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares got with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (go test ./bot -update writes it)", err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test ./bot -update accepts it). Got:\n%s\nwant:\n%s", file, got, want)
	}
}

// office is a workspace with a bot in it.
type office struct {
	*workspace.Workspace
	bot *Bot
	t   *testing.T
}

// newOffice starts a workspace and a bot that edits without a pause.
func newOffice(t *testing.T, change ...func(*workspace.Options, *Options)) *office {
	t.Helper()
	wo := workspace.Example()
	wo.Limits = workspace.NoLimits()
	wo.App.EscapeEntities = true
	bo := Options{Log: slog.New(slog.DiscardHandler), Now: time.Now}
	for _, c := range change {
		c(&wo, &bo)
	}
	ws, err := workspace.New(wo)
	if err != nil {
		t.Fatal(err)
	}
	if err := ws.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.Close() })
	bo.Token, bo.SigningSecret, bo.APIURL = secret.Text(ws.BotToken()), secret.Text(ws.SigningSecret()), ws.APIURL()
	if bo.AppToken == "" {
		bo.AppToken = secret.Text(ws.AppToken())
	}
	o := &office{Workspace: ws, bot: New(bo), t: t}
	o.bot.every, o.bot.quiet, o.bot.again = time.Millisecond, 30*time.Millisecond, 10*time.Millisecond
	t.Cleanup(o.bot.http.CloseIdleConnections)
	return o
}

// work has the bot hand its requests to s.
func (o *office) work(s *submitter) { o.bot.WorkFor(s) }

// serveHTTP has the workspace send to the bot over HTTP.
func (o *office) serveHTTP(s *submitter) *httptest.Server {
	o.t.Helper()
	o.work(s)
	server := httptest.NewUnstartedServer(o.bot)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.Start()
	o.t.Cleanup(server.Close)
	o.SetEventsURL(server.URL + "/slack/events")
	return server
}

func (o *office) typed(user, channel, line string) workspace.Ack {
	o.t.Helper()
	ack, err := o.Type(o.t.Context(), user, channel, line)
	if err != nil {
		o.t.Fatal(err)
	}
	return ack
}

// visible are the messages that a person sees in #deploys.
func (o *office) visible(user string) []string {
	var out []string
	for _, m := range o.Messages(deploys, user) {
		out = append(out, m.Plain())
	}
	return out
}

// calls counts the answered calls of a method.
func (o *office) calls(method string) int { return len(o.Calls(method)) }

// submitter is a runner that only notes what it is given.
type submitter struct {
	mu   sync.Mutex
	reqs []ops.Request
	ops  []ops.Operation
	do   func(ctx context.Context) error

	decided []decided
	refuse  error // of every decision
	work    []ops.Work
	pending []ops.Waits
	audit   []ops.Entry
	ask     func(context.Context, ops.Question) (ops.Answer, error)
	known   ops.Registry
}

func (s *submitter) Registry(_ context.Context, _ ops.Actor, name string) (ops.Registry, error) {
	if name != s.known.Name {
		return ops.Registry{}, ops.Errorf(ops.NotFound, "There is no registry %q", name)
	}
	return s.known, nil
}

func (s *submitter) Submit(ctx context.Context, req ops.Request, op ops.Operation) error {
	if s.do != nil {
		if err := s.do(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reqs, s.ops = append(s.reqs, req), append(s.ops, op)
	return nil
}

func (s *submitter) Decide(ctx context.Context, req ops.Request, token string, verdict ops.Verdict, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	s.decided = append(s.decided, decided{req, token, verdict, reason})
	return nil
}

func (s *submitter) UnderWay(context.Context) ([]ops.Work, error) { return s.work, nil }

func (s *submitter) PendingOperations(context.Context) ([]ops.Waits, error) { return s.pending, nil }

func (s *submitter) Ask(ctx context.Context, _ ops.Actor, q ops.Question) (ops.Answer, error) {
	if s.ask != nil {
		return s.ask(ctx, q)
	}
	return ops.Answer{Head: "It is so"}, nil
}

func (s *submitter) Audit(context.Context, string, int) ([]ops.Entry, error) { return s.audit, nil }

type decided struct {
	req     ops.Request
	token   string
	verdict ops.Verdict
	reason  string
}

func (s *submitter) taken() []ops.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]ops.Request(nil), s.reqs...)
}

// noGoroutineLeft fails when goroutines of this package go on after f. It sees
// those of all tests, so a test that calls it is not parallel.
func noGoroutineLeft(t *testing.T, f func()) {
	t.Helper()
	f()
	deadline := time.Now().Add(2 * time.Second)
	for {
		buf := make([]byte, 1<<20)
		stacks := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
		var left []string
		for _, s := range stacks[1:] {
			if strings.Contains(s, "bot.(*message)") || strings.Contains(s, "bot.(*Bot).ListenSocket") || strings.Contains(s, "slack-go/slack/socketmode") {
				left = append(left, s)
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// within fails when f takes longer.
func within(t *testing.T, d time.Duration, what string, f func()) {
	t.Helper()
	began := time.Now()
	f()
	if took := time.Since(began); took > d {
		t.Errorf("%s took %s, more than %s", what, took, d)
	}
}

func asJSON(t *testing.T, v any) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var _ http.Handler = (*Bot)(nil)

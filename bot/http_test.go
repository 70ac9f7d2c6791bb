package bot

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/internal/secret"
	"waggle/internal/workspace"
	"waggle/ops"
	"waggle/ops/queue"
)

const form1 = "application/x-www-form-urlencoded"

// signed is a request as Slack makes it.
func signed(key, contentType, body string, at time.Time) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/slack/events", strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	stamp := fmt.Sprint(at.Unix())
	mac := hmac.New(sha256.New, []byte(key))
	fmt.Fprintf(mac, "v0:%s:%s", stamp, body)
	r.Header.Set("X-Slack-Request-Timestamp", stamp)
	r.Header.Set("X-Slack-Signature", "v0="+hex.EncodeToString(mac.Sum(nil)))
	return r
}

func slashBody(text string) string {
	return url.Values{"command": {"/scale"}, "text": {text}, "user_id": {linus}, "user_name": {"linus"}, "team_id": {"T0WAGGLE"},
		"channel_id": {deploys}, "trigger_id": {"1.2.3"}, "response_url": {"http://127.0.0.1:1/"}}.Encode()
}

func TestDoor(t *testing.T) {
	const key = "canary-signing-secret"
	now := time.Now()
	body := slashBody("pizza 6")
	without := func(h string) func(*http.Request) { return func(r *http.Request) { r.Header.Del(h) } }
	for name, tc := range map[string]struct {
		req    *http.Request
		change func(*http.Request)
		status int
		says   string
		taken  int
	}{
		"command":              {signed(key, form1, body, now), nil, 200, "", 1},
		"with a charset":       {signed(key, form1+"; charset=utf-8", body, now), nil, 200, "", 1},
		"a little old":         {signed(key, form1, body, now.Add(-4*time.Minute)), nil, 200, "", 1},
		"wrong key":            {signed("other", form1, body, now), nil, 401, "bad signature", 0},
		"no key":               {signed("", form1, body, now), nil, 401, "bad signature", 0},
		"another body":         {signed(key, form1, body, now), func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(slashBody("pizza 9"))) }, 401, "", 0},
		"no signature":         {signed(key, form1, body, now), without("X-Slack-Signature"), 401, "", 0},
		"no time":              {signed(key, form1, body, now), without("X-Slack-Request-Timestamp"), 401, "", 0},
		"another time":         {signed(key, form1, body, now), func(r *http.Request) { r.Header.Set("X-Slack-Request-Timestamp", fmt.Sprint(now.Unix()-1)) }, 401, "", 0},
		"time is no number":    {signed(key, form1, body, now), func(r *http.Request) { r.Header.Set("X-Slack-Request-Timestamp", "soon") }, 401, "", 0},
		"signature is no hex":  {signed(key, form1, body, now), func(r *http.Request) { r.Header.Set("X-Slack-Signature", "v0=zz") }, 401, "", 0},
		"short signature":      {signed(key, form1, body, now), func(r *http.Request) { r.Header.Set("X-Slack-Signature", "v0=") }, 401, "", 0},
		"old":                  {signed(key, form1, body, now.Add(-6*time.Minute)), nil, 401, "", 0},
		"of the future":        {signed(key, form1, body, now.Add(6*time.Minute)), nil, 401, "", 0},
		"GET":                  {signed(key, form1, body, now), func(r *http.Request) { r.Method = http.MethodGet }, 405, "POST", 0},
		"PUT":                  {signed(key, form1, body, now), func(r *http.Request) { r.Method = http.MethodPut }, 405, "POST", 0},
		"too large":            {signed(key, form1, strings.Repeat("a", maxBody+1), now), nil, 413, "too large", 0},
		"as large as may be":   {signed(key, form1, strings.Repeat("a", maxBody), now), nil, 400, "", 0},
		"text":                 {signed(key, "text/plain", body, now), nil, 415, "", 0},
		"no type":              {signed(key, "", body, now), nil, 415, "", 0},
		"multipart":            {signed(key, "multipart/form-data; boundary=x", "--x--", now), nil, 415, "", 0},
		"broken type":          {signed(key, ";;", body, now), nil, 415, "", 0},
		"empty form":           {signed(key, form1, "", now), nil, 400, "no command", 0},
		"form without command": {signed(key, form1, "text=pizza", now), nil, 400, "no command", 0},
		"ssl check":            {signed(key, form1, "ssl_check=1&token=x", now), nil, 200, "", 0},
		"ssl check, forged":    {signed("other", form1, "ssl_check=1&token=x", now), nil, 401, "bad signature", 0},
		"ssl check, query":     {signed(key, form1, "", now), func(r *http.Request) { r.URL.RawQuery = "ssl_check=1" }, 400, "no command", 0},
		"broken form":          {signed(key, form1, "command=%zz", now), nil, 400, "", 0},
		"command in the query": {signed(key, form1, "", now), func(r *http.Request) { r.URL.RawQuery = body }, 400, "", 0},
		"JSON for a form":      {signed(key, "application/json", body, now), nil, 400, "unreadable", 0},
		"empty JSON":           {signed(key, "application/json", "", now), nil, 400, "", 0},
		"verification":         {signed(key, "application/json", `{"type":"url_verification","challenge":"3eZbrw"}`, now), nil, 200, `{"challenge":"3eZbrw"}`, 0},
		"verification, forged": {signed("other", "application/json", `{"type":"url_verification","challenge":"3eZbrw"}`, now), nil, 401, "", 0},
		"event":                {signed(key, "application/json", `{"type":"event_callback","event":{"type":"app_mention"}}`, now), nil, 200, "", 0},
		"broken payload":       {signed(key, form1, "payload=%7B", now), nil, 400, "", 0},
		"payload of a kind":    {signed(key, form1, "payload=%7B%22type%22%3A%22shortcut%22%7D", now), nil, 200, "", 0},
		"payload in the query": {signed(key, form1, "", now), func(r *http.Request) { r.URL.RawQuery = "payload=%7B%22type%22%3A%22block_actions%22%7D" }, 400, "", 0},
		"unknown command":      {signed(key, form1, "command=%2Fscael&text=x", now), nil, 200, "Did you mean `/scale`?", 0},
	} {
		t.Run(name, func(t *testing.T) {
			b, s := New(Options{SigningSecret: secret.Text(key), Log: quietLog(), Now: time.Now}), &submitter{}
			b.WorkFor(s)
			if tc.change != nil {
				tc.change(tc.req)
			}
			w := httptest.NewRecorder()
			b.ServeHTTP(w, tc.req)
			got := strings.TrimSpace(w.Body.String())
			if w.Code != tc.status || !strings.Contains(got, tc.says) || tc.status == 200 && tc.says == "" && got != "" {
				t.Errorf("%d %q, want %d with %q", w.Code, got, tc.status, tc.says)
			}
			if strings.Contains(got, key) {
				t.Error("the secret is in the answer")
			}
			if n := len(s.taken()); n != tc.taken {
				t.Errorf("%d requests taken, want %d", n, tc.taken)
			}
			if tc.status == 405 && w.Header().Get("Allow") != "POST" {
				t.Errorf("Allow: %q", w.Header().Get("Allow"))
			}
		})
	}
	t.Run("without a secret", func(t *testing.T) {
		b, s := New(Options{Log: quietLog(), Now: time.Now}), &submitter{}
		b.WorkFor(s)
		w := httptest.NewRecorder()
		b.ServeHTTP(w, signed("", form1, body, now))
		if w.Code != 401 || len(s.taken()) > 0 {
			t.Errorf("%d, %d taken", w.Code, len(s.taken()))
		}
	})
	t.Run("the body breaks off", func(t *testing.T) {
		b := New(Options{SigningSecret: key, Log: quietLog(), Now: time.Now})
		r := signed(key, form1, body, now)
		r.Body = io.NopCloser(io.MultiReader(strings.NewReader(body[:5]), broken{}))
		w := httptest.NewRecorder()
		b.ServeHTTP(w, r)
		if w.Code != 400 {
			t.Errorf("%d", w.Code)
		}
	})
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("reset") }

// TestReplay: the same request twice is the same request; the same line typed
// twice is two.
func TestReplay(t *testing.T) {
	t.Parallel()
	const key = "s"
	s := &submitter{}
	b := New(Options{SigningSecret: key, Log: quietLog(), Now: time.Now})
	b.WorkFor(s)
	for _, body := range []string{slashBody("pizza 6"), slashBody("pizza 6"), strings.Replace(slashBody("pizza 6"), "1.2.3", "1.2.4", 1), slashBody("pizza 7")} {
		b.ServeHTTP(httptest.NewRecorder(), signed(key, form1, body, time.Now()))
	}
	ids := map[string]int{}
	for _, r := range s.taken() {
		ids[r.ID]++
	}
	if first := s.taken()[0].ID; len(ids) != 3 || ids[first] != 2 {
		t.Errorf("ids: %v", ids)
	}
	s.do = func(context.Context) error { return queue.ErrDuplicate }
	w := httptest.NewRecorder()
	b.ServeHTTP(w, signed(key, form1, slashBody("pizza 6"), time.Now()))
	if w.Code != 200 || !strings.Contains(w.Body.String(), "taken before") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestCommandFromSlack(t *testing.T) {
	t.Parallel()
	o, s := newOffice(t), &submitter{}
	o.serveHTTP(s)
	if err := o.VerifyURL(t.Context()); err != nil {
		t.Error(err)
	}
	ack := o.typed(linus, deploys, "/scale pizza +2 --dry-run")
	if !ack.OK() || ack.Body != "" {
		t.Errorf("answered with %+v", ack)
	}
	r := s.taken()[0]
	if r.Actor != (ops.Actor{ID: linus, Team: o.TeamID(), Name: "linus", Via: "slack"}) || !r.DryRun || r.Channel != deploys ||
		r.Title != "/scale pizza +2 --dry-run" || !strings.Contains(r.Reply, ack.ResponseURL) {
		t.Errorf("taken: %+v", r)
	}
	// The name of a person is escaped by Slack and comes as an id.
	if ack := o.typed(linus, deploys, "/scale @ada 6"); !ack.OK() || s.taken()[1].Title != "/scale U0ADA 6" {
		t.Errorf("%+v, taken %+v", ack, s.taken()[1:])
	}
	for line, says := range map[string]string{
		"/scale pizza six":       "is not a number of replicas",
		"/scale <!channel> 6":    "&lt;!channel&gt;",
		"/scale pizza 6 --forse": "Unknown flag --forse",
		`/scale "pizza 6`:        "is not closed",
		"/swarm help":            "/scale &lt;app&gt;",
	} {
		ack := o.typed(linus, deploys, line)
		if !ack.OK() || !strings.Contains(ack.Body, strings.NewReplacer("&", `\u0026`).Replace(says)) {
			t.Errorf("%s is answered with %+v", line, ack)
		}
	}
	if n := len(s.taken()); n != 2 {
		t.Errorf("%d taken", n)
	}
	if seen := o.visible(ada); len(seen) != 0 {
		t.Errorf("others see %q", seen)
	}
}

// away is what a Redis that is not there leads to.
var away = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("canary")}

func TestRedisIsAway(t *testing.T) {
	t.Parallel()
	o, s := newOffice(t), &submitter{do: func(context.Context) error { return fmt.Errorf("queue: %w", away) }}
	o.serveHTTP(s)
	for _, line := range []string{"/scale pizza 6", "/scale pizza=6 pasta=2"} {
		ack := o.typed(linus, deploys, line)
		if !ack.OK() || !strings.Contains(ack.Body, "Redis does not answer, so nothing was changed") || strings.Contains(ack.Body, "canary") {
			t.Errorf("%s is answered with %+v", line, ack)
		}
	}
}

// TestRedisHangs answers in the 3 s that Slack waits, and does not say that nothing was
// changed: Redis may do what it was sent.
func TestRedisHangs(t *testing.T) {
	t.Parallel()
	o, s := newOffice(t), &submitter{do: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	o.serveHTTP(s)
	ack := o.typed(linus, deploys, "/scale pizza +2")
	if !ack.OK() || ack.Took > 2900*time.Millisecond || !strings.Contains(ack.Body, "may have been taken") || !strings.Contains(ack.Body, "`/swarm`") || strings.Contains(ack.Body, "nothing was changed") {
		t.Errorf("answered with %+v", ack)
	}
}

// TestRedisGoes in the middle of a line about several apps.
func TestRedisGoes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err  error
		says string
	}{
		"no connection": {away, "Redis does not answer; taken: pizza; not taken: pasta, salad."},
		"no answer":     {context.DeadlineExceeded, "Redis does not answer; taken: pizza; perhaps taken: pasta; not taken: salad."},
		"taken before":  {queue.ErrDuplicate, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			o, s := newOffice(t), &submitter{}
			s.do = func(context.Context) error {
				if calls++; calls == 2 {
					return fmt.Errorf("queue: %w", tc.err)
				}
				return nil
			}
			o.serveHTTP(s)
			ack := o.typed(linus, deploys, "/scale pizza=6 pasta=2 salad=1")
			if !ack.OK() || !strings.Contains(ack.Body, tc.says) || strings.Contains(ack.Body, "nothing was changed") || tc.says == "" && ack.Body != "" {
				t.Errorf("answered with %+v", ack)
			}
		})
	}
}

// TestCancelIsNotStored: whoever cancels reads why, and a repeated cancel is one.
func TestCancelIsNotStored(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err       error
		says, log string
	}{
		"no connection": {away, "Redis does not answer, so nothing was changed", "canary"},
		"no answer":     {context.DeadlineExceeded, "may have been taken", "deadline"},
		"taken before":  {queue.ErrDuplicate, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			o := newOffice(t, func(_ *workspace.Options, b *Options) { b.Log = slog.New(slog.NewTextHandler(&log, nil)) })
			o.serveHTTP(&submitter{refuse: tc.err})
			ack := o.typed(linus, deploys, "/swarm cancel cmd-0123456789ab")
			if !ack.OK() || !strings.Contains(ack.Body, tc.says) || strings.Contains(ack.Body, "in its log") || tc.says == "" && ack.Body != "" {
				t.Errorf("answered with %+v", ack)
			}
			if !strings.Contains(log.String(), tc.log) || tc.log == "" && log.Len() > 0 {
				t.Errorf("logged: %s", log.String())
			}
		})
	}
}

// TestInItsLog: an error that only the log tells is there.
func TestInItsLog(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	o := newOffice(t, func(_ *workspace.Options, b *Options) { b.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	o.serveHTTP(&submitter{ask: func(context.Context, ops.Question) (ops.Answer, error) { return ops.Answer{}, errors.New("canary") }})
	if ack := o.typed(linus, deploys, "/node list"); !strings.Contains(ack.Body, "in its log") || strings.Contains(ack.Body, "canary") || !strings.Contains(log.String(), "canary") {
		t.Errorf("answered with %+v, logged: %s", ack, log.String())
	}
}

func TestPanicEndsOneRequest(t *testing.T) {
	t.Parallel()
	o, s := newOffice(t), &submitter{}
	var once sync.Once
	s.do = func(context.Context) error { once.Do(func() { panic("boom") }); return nil }
	o.serveHTTP(s)
	if ack := o.typed(linus, deploys, "/scale pizza 6"); ack.OK() {
		t.Errorf("answered with %+v", ack)
	}
	if ack := o.typed(linus, deploys, "/scale pizza 7"); !ack.OK() || len(s.taken()) != 1 {
		t.Errorf("the next: %+v", ack)
	}
}

// TestClick clicks the buttons of a waiting plan as different people.
func TestClick(t *testing.T) {
	t.Parallel()
	o, s := newOffice(t), &submitter{}
	o.serveHTTP(s)
	m := o.bot.Open(ops.Request{Channel: deploys}, "", func(string) {})
	m.Show(statuses["pending"])
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
	msg := o.Messages(deploys, grace)[0]
	if ack, err := o.Click(t.Context(), grace, msg, actionApprove); err != nil || !ack.OK() {
		t.Fatalf("%+v, %v", ack, err)
	}
	if ack, err := o.Click(t.Context(), linus, msg, actionReject); err != nil || !ack.OK() {
		t.Fatalf("%+v, %v", ack, err)
	}
	if len(s.decided) != 1 {
		t.Fatalf("the click on Reject decides: %+v", s.decided)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	view, err := o.WaitView(ctx, linus, func(workspace.View) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	if ack, err := o.Submit(t.Context(), linus, view, map[string]string{blockReason: "not <!channel> today"}); err != nil || !ack.OK() {
		t.Fatalf("%+v, %v", ack, err)
	}
	if len(s.decided) != 2 {
		t.Fatalf("decided: %+v", s.decided)
	}
	for i, want := range []decided{
		{ops.Request{Actor: ops.Actor{ID: grace}}, "token-1", ops.Approve, ""},
		{ops.Request{Actor: ops.Actor{ID: linus}}, "token-1", ops.Reject, "not <!channel> today"},
	} {
		got := s.decided[i]
		if got.token != want.token || got.verdict != want.verdict || got.reason != want.reason || got.req.Actor.ID != want.req.Actor.ID ||
			got.req.Actor.Team != o.TeamID() || got.req.Actor.Via != "slack" || got.req.Channel != deploys || got.req.ID == "" {
			t.Errorf("decided: %+v", got)
		}
	}
	if s.decided[0].req.ID == s.decided[1].req.ID {
		t.Error("two clicks are one")
	}
}

// TestManyAtOnce: nothing in the door is shared between requests.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	const key = "s"
	s := &submitter{}
	b := New(Options{SigningSecret: key, Log: quietLog(), Now: time.Now})
	b.WorkFor(s)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			w := httptest.NewRecorder()
			b.ServeHTTP(w, signed(key, form1, slashBody(fmt.Sprintf("pizza %d", i)), time.Now()))
			if w.Code != 200 {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	all.Wait()
	titles := map[string]bool{}
	for _, r := range s.taken() {
		titles[r.Title] = true
	}
	if len(titles) != 50 {
		t.Errorf("%d different requests", len(titles))
	}
}

func FuzzDoor(f *testing.F) {
	f.Add(form1, []byte(slashBody("pizza 6")))
	f.Add(form1, []byte(`payload={"type":"block_actions","actions":[{"action_id":"approve"}]}`))
	f.Add("application/json", []byte(`{"type":"url_verification","challenge":"x"}`))
	f.Add("application/json", []byte(`[]`))
	s := &submitter{}
	b := New(Options{SigningSecret: "s", APIURL: "http://127.0.0.1:1/", // nothing is asked of Slack itself
		Log: quietLog(), Now: time.Now})
	b.WorkFor(s)
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		if bytes.Contains(body, []byte(actionReject)) {
			t.Skip("it opens a form, at Slack's")
		}
		w := httptest.NewRecorder()
		b.ServeHTTP(w, signed("s", kind, string(body), time.Now()))
		if w.Code >= 500 && w.Code != 503 {
			t.Errorf("%d for %s %q", w.Code, kind, body)
		}
	})
}

package page

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"waggle/internal/workspace"
)

// window is the page as a browser asks for it.
type window struct {
	*testing.T
	ws  *workspace.Workspace
	url string
}

// start starts the page of a workspace whose app acknowledges everything.
func start(t *testing.T, answer http.HandlerFunc) *window {
	t.Helper()
	app := httptest.NewServer(answer)
	t.Cleanup(app.Close)
	o := workspace.Example()
	o.EventsURL = app.URL
	ws, err := workspace.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := ws.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.Close() })
	p, err := Start(ws, Options{Addr: "127.0.0.1:0", User: "U0ADA", Channel: "C0DEPLOYS",
		Manifest: []byte(`{"features":{"slash_commands":[{"command":"/scale","description":"sets how many run","usage_hint":"<app> <n>"}]}}`)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return &window{t, ws, p.URL}
}

func (w *window) do(method, path, body string, header map[string]string) (int, string) {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	if host := header["Host"]; host != "" {
		req.Host = host
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// act does what a person does, and returns what they are told.
func (w *window) act(path string, a map[string]any) string {
	w.Helper()
	body, err := json.Marshal(a)
	if err != nil {
		w.Fatal(err)
	}
	code, text := w.do("POST", path, string(body), nil)
	var told struct{ Error string }
	if err := json.Unmarshal([]byte(text), &told); code != http.StatusOK || err != nil {
		w.Fatalf("%s: %d %s", path, code, text)
	}
	return told.Error
}

func (w *window) has(path string, want ...string) {
	w.Helper()
	code, text := w.do("GET", path, "", nil)
	for _, s := range want {
		if code != http.StatusOK || !strings.Contains(text, s) {
			w.Errorf("%s: %d, without %q:\n%s", path, code, s, text)
		}
	}
}

func TestPeopleChannelsAndCommands(t *testing.T) {
	w := start(t, func(http.ResponseWriter, *http.Request) {})
	w.has("/", `data-user="U0ADA" data-channel="C0DEPLOYS"`, `data-user="U0GRACE"`, "grace <small>admin</small>", "gil <small>guest</small>", "&lt;app&gt; &lt;n&gt;")
	if _, text := w.do("GET", "/", "", nil); strings.Contains(text, "mallory") || strings.Contains(text, "U0WAGGLE") {
		t.Error("who is deactivated, or a bot, is somebody to be")
	}
	w.has("/channels?user=U0ADA", `{"id":"C0DEPLOYS","name":"#deploys"}`, `{"id":"C0OPS","name":"🔒ops"}`)
	if _, text := w.do("GET", "/channels?user=U0LINUS", "", nil); strings.Contains(text, "ops\"") || strings.Contains(text, "old") {
		t.Errorf("linus is offered %s", text)
	}
	w.has("/messages?user=U0ADA&channel=C0DEPLOYS", "Nothing here yet")
	w.has("/page.css", "article")
	w.has("/page.js", "EventSource")
}

func TestTypedAndToldToOneAlone(t *testing.T) {
	w := start(t, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(rw, `{"text":"you said *%s*"}`, r.FormValue("text"))
	})
	if told := w.act("/type", map[string]any{"user": "U0ADA", "channel": "C0DEPLOYS", "text": "/scale pizza 6"}); told != "" {
		t.Errorf("told %q", told)
	}
	w.has("/messages?user=U0ADA&channel=C0DEPLOYS", "you said <b>pizza 6</b>", "Only visible to you")
	w.has("/messages?user=U0GRACE&channel=C0DEPLOYS", "Nothing here yet")
	w.act("/type", map[string]any{"user": "U0GRACE", "channel": "C0DEPLOYS", "text": "<b>hello</b>"})
	w.has("/messages?user=U0ADA&channel=C0DEPLOYS", "<b>grace</b>", "&lt;b&gt;hello&lt;/b&gt;")
	for what, want := range map[string]string{
		w.act("/type", map[string]any{"user": "U0NOBODY", "channel": "C0DEPLOYS", "text": "hi"}):           `no user "U0NOBODY"`,
		w.act("/type", map[string]any{"user": "U0LINUS", "channel": "C0OPS", "text": "hi"}):                "linus sees no channel",
		w.act("/type", map[string]any{"user": "U0ADA", "channel": "C0DEPLOYS", "text": " "}):               "there is nothing to send",
		w.act("/click", map[string]any{"user": "U0ADA", "channel": "C0DEPLOYS", "ts": "1", "action": "x"}): "no such message",
		w.act("/submit", map[string]any{"user": "U0ADA", "view": "V1"}):                                    "not open",
	} {
		if !strings.Contains(what, want) {
			t.Errorf("told %q, want %q", what, want)
		}
	}
}

// TestOnlyThisMachinesBrowser: neither the page of another site nor a name that
// somebody points here may act.
func TestOnlyThisMachinesBrowser(t *testing.T) {
	w := start(t, func(http.ResponseWriter, *http.Request) {})
	say := `{"user":"U0ADA","channel":"C0DEPLOYS","text":"hi"}`
	port := w.url[strings.LastIndex(w.url, ":"):]
	for name, tc := range map[string]struct {
		header map[string]string
		code   int
	}{
		"another site":         {map[string]string{"Origin": "https://evil.example"}, http.StatusForbidden},
		"another site, marked": {map[string]string{"Sec-Fetch-Site": "cross-site"}, http.StatusForbidden},
		"another name":         {map[string]string{"Host": "evil.example" + port}, http.StatusForbidden},
		"another address":      {map[string]string{"Host": "10.0.0.1" + port}, http.StatusForbidden},
		"itself":               {map[string]string{"Origin": w.url, "Sec-Fetch-Site": "same-origin"}, http.StatusOK},
		"localhost":            {map[string]string{"Host": "localhost" + port}, http.StatusOK},
		"IPv6":                 {map[string]string{"Host": "[::1]" + port}, http.StatusOK},
	} {
		if code, text := w.do("POST", "/type", say, tc.header); code != tc.code {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
	if code, _ := w.do("POST", "/type", "no json", nil); code != http.StatusBadRequest {
		t.Errorf("what is not JSON: %d", code)
	}
}

// TestEvents: a person hears of what they can see, and of nothing else.
func TestEvents(t *testing.T) {
	w := start(t, func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "for you alone") })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/events?user=U0ADA", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	next := func() string {
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				return data
			}
		}
		return fmt.Sprint("nothing more: ", lines.Err())
	}
	w.act("/type", map[string]any{"user": "U0GRACE", "channel": "C0DEPLOYS", "text": "/scale pizza 6"}) // answered to grace alone
	w.act("/type", map[string]any{"user": "U0GRACE", "channel": "C0GENERAL", "text": "hello"})
	if got := next(); got != "C0GENERAL" {
		t.Errorf("ada hears of %q", got)
	}
}

func TestStartRefuses(t *testing.T) {
	w := start(t, func(http.ResponseWriter, *http.Request) {})
	if _, err := Start(w.ws, Options{Addr: strings.TrimPrefix(w.url, "http://")}); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a port that is taken: %v", err)
	}
	if _, err := Start(w.ws, Options{Addr: "127.0.0.1:0", Manifest: []byte("{")}); err == nil || !strings.Contains(err.Error(), "manifest") {
		t.Errorf("a broken manifest: %v", err)
	}
}

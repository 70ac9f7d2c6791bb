// Package page shows the local workspace in a browser: its channels, messages and
// modals as any of its people sees them, to type in and to click on.
package page

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"strings"
	"time"

	"waggle/internal/workspace"
)

// Addr is where the page is unless something else is asked for.
const Addr = "127.0.0.1:7600"

// Options say what the page shows at first.
type Options struct {
	Addr    string // default [Addr]
	User    string // id of the person that a new window is
	Channel string // id of the channel that is open in it
	// Manifest is the app's, in JSON, for the commands that a person is offered.
	Manifest []byte
}

// Page is a page that is being served.
type Page struct {
	URL    string
	server *http.Server
	ended  context.CancelFunc
	served chan struct{}
}

// Start serves the workspace's page until Close. The listener is open when it returns.
func Start(ws *workspace.Workspace, o Options) (*Page, error) {
	if o.Addr == "" {
		o.Addr = Addr
	}
	handler, err := site{ws: ws, opts: o}.handler()
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return nil, fmt.Errorf("the workspace's page: %w", err)
	}
	ctx, ended := context.WithCancel(context.Background())
	p := &Page{
		URL: "http://" + l.Addr().String(), ended: ended, served: make(chan struct{}),
		server: &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }},
	}
	go func() {
		defer close(p.served)
		_ = p.server.Serve(l) // always http.ErrServerClosed, or what Close caused
	}()
	return p, nil
}

// Close ends the page. It may be called again.
func (p *Page) Close() error {
	p.ended()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := p.server.Shutdown(ctx)
	if err != nil {
		err = p.server.Close()
	}
	<-p.served
	return err
}

var (
	//go:embed page.html
	shellText string
	//go:embed page.css
	css []byte
	//go:embed page.js
	script []byte

	shell    = template.Must(template.New("shell").Parse(shellText))
	messages = template.Must(template.New("messages").Parse(`{{range .}}<article id="m{{.TS}}"{{if .Ephemeral}} class="ephemeral"{{end}}{{if .ThreadTS}} data-thread="{{.ThreadTS}}"{{end}} data-ts="{{.TS}}">
<span class="face" aria-hidden="true">{{.Face}}</span>
<header><b>{{.Who}}</b>{{if .App}} <small class="app">APP</small>{{end}} <time>{{.Time}}</time>{{if .Ephemeral}} <small>Only visible to you</small>{{end}}</header>
<div class="body">{{.HTML}}{{if .Edited}} <small>(edited)</small>{{end}}</div>
</article>
{{else}}<p class="empty">Nothing here yet. Type a slash command, such as <code>/swarm</code>.</p>
{{end}}`))
)

// site is what the page's requests are answered from.
type site struct {
	ws   *workspace.Workspace
	opts Options
	cmds []command
}

// command is a slash command that the app's manifest names.
// Source: https://docs.slack.dev/reference/app-manifest
type command struct {
	Name        string `json:"command"`
	Description string `json:"description"`
	Usage       string `json:"usage_hint"`
}

// handler serves the page. It answers this machine's own browser only: a request for
// another host, or from the page of another site, is refused.
func (s site) handler() (http.Handler, error) {
	if s.opts.Manifest != nil {
		var manifest struct {
			Features struct {
				Commands []command `json:"slash_commands"`
			} `json:"features"`
		}
		if err := json.Unmarshal(s.opts.Manifest, &manifest); err != nil {
			return nil, fmt.Errorf("the app's manifest: %w", err)
		}
		s.cmds = manifest.Features.Commands
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.shell)
	mux.HandleFunc("GET /page.css", file("text/css; charset=utf-8", css))
	mux.HandleFunc("GET /page.js", file("text/javascript; charset=utf-8", script))
	mux.HandleFunc("GET /channels", s.channels)
	mux.HandleFunc("GET /messages", s.messages)
	mux.HandleFunc("GET /view", s.view)
	mux.HandleFunc("GET /events", s.events)
	mux.HandleFunc("POST /type", act(s.typed))
	mux.HandleFunc("POST /click", act(s.clicked))
	mux.HandleFunc("POST /submit", act(s.submitted))
	mux.HandleFunc("POST /close", act(s.closed))
	return local(http.NewCrossOriginProtection().Handler(mux)), nil
}

// local refuses what does not ask for this machine by its own name: a name that
// somebody else's DNS points here is theirs.
func local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if ip := net.ParseIP(strings.Trim(host, "[]")); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "this page is for the browser of this machine: open it at http://"+Addr, http.StatusForbidden)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; form-action 'none'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

func file(kind string, content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write(content) // whoever asked may be gone
	}
}

// person is one of those that a window can be.
type person struct{ ID, Name, RealName, Role string }

func (s site) people() []person {
	var out []person
	for _, u := range s.ws.Users() {
		if u.IsBot || u.Deleted || u.ID == workspace.SlackbotID {
			continue
		}
		role := "member"
		switch {
		case u.IsOwner:
			role = "owner"
		case u.IsAdmin:
			role = "admin"
		case u.IsRestricted || u.IsUltraRestricted:
			role = "guest"
		}
		out = append(out, person{u.ID, u.Name, u.RealName, role})
	}
	return out
}

func (s site) shell(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	err := shell.Execute(w, struct {
		People        []person
		Commands      []command
		User, Channel string
	}{s.people(), s.cmds, s.opts.User, s.opts.Channel})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// channels answers [{"id","name"}]: the conversations that a person can open.
func (s site) channels(w http.ResponseWriter, r *http.Request) {
	type channel struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	}
	out := []channel{}
	for _, c := range s.ws.Channels(r.FormValue("user")) {
		name := "#" + c.Name
		if c.IM {
			name = s.ws.App().Name
		} else if c.Private {
			name = "🔒" + c.Name
		}
		if !c.Archived {
			out = append(out, channel{c.ID, name})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // whoever asked may be gone
}

// shown is a message as the template shows it.
type shown struct {
	TS, ThreadTS, Who, Face, Time string
	App, Ephemeral, Edited        bool
	HTML                          template.HTML
}

// messages answers a channel as a person sees it, replies below their parents.
func (s site) messages(w http.ResponseWriter, r *http.Request) {
	names := map[string]string{}
	for _, u := range s.ws.Users() {
		names[u.ID] = u.Name
	}
	var out []shown
	all := s.ws.Messages(r.FormValue("channel"), r.FormValue("user"))
	add := func(m workspace.Message) {
		who := names[m.User]
		face := strings.ToUpper(who[:min(1, len(who))])
		if m.BotID != "" {
			face = "🐝"
		}
		out = append(out, shown{TS: m.TS, ThreadTS: m.ThreadTS, Who: who, Face: face, Time: m.At.Format("15:04:05"),
			App: m.BotID != "", Ephemeral: m.Ephemeral, Edited: m.MarkedEdited, HTML: m.HTML()})
	}
	for _, t := range workspace.Threads(all) {
		add(t.Message)
		for _, reply := range t.Replies {
			add(reply)
		}
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = messages.Execute(w, out) // whoever asked may be gone
}

// view answers the modal that is open for a person, or 204.
func (s site) view(w http.ResponseWriter, r *http.Request) {
	v, open := s.ws.View(r.FormValue("user"))
	if !open {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write([]byte(v.HTML())) // whoever asked may be gone
}

// events is a stream of what changes for a person: the id of the channel in which a
// message did, or "view".
// Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
func (s site) events(w http.ResponseWriter, r *http.Request) {
	user := r.FormValue("user")
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	changes := s.ws.Subscribe(r.Context())
	alive := time.NewTicker(15 * time.Second)
	defer alive.Stop()
	line := ": here\n\n"
	for {
		if _, err := w.Write([]byte(line)); err != nil || out.Flush() != nil {
			return
		}
		line = ""
		for line == "" {
			select {
			case <-alive.C:
				line = ": still here\n\n"
			case c, more := <-changes:
				switch {
				case !more:
					return
				case c.Kind == workspace.ViewOpened || c.Kind == workspace.ViewClosed:
					if c.View.User == user {
						line = "data: view\n\n"
					}
				case !c.Message.Ephemeral || c.Message.ForUser == user:
					line = "data: " + c.Message.Channel + "\n\n"
				}
			}
		}
	}
}

// action is what a person does.
type action struct {
	User    string            `json:"user"`
	Channel string            `json:"channel"`
	Text    string            `json:"text"`
	TS      string            `json:"ts"`
	Action  string            `json:"action"`
	Value   *string           `json:"value"` // of a menu
	View    string            `json:"view"`
	Values  map[string]string `json:"values"`
}

// act answers {"error"} with what the person is told, "" when all went well.
func act(do func(ctx context.Context, a action) (workspace.Ack, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var a action
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&a); err != nil {
			http.Error(w, "not what the page sends: "+err.Error(), http.StatusBadRequest)
			return
		}
		// It goes on when the window is closed: the person has done it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 10*time.Second)
		defer cancel()
		ack, err := do(ctx, a)
		told := ack.Error
		if err != nil {
			told = strings.TrimPrefix(err.Error(), "workspace: ")
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"error": told}) // whoever asked may be gone
	}
}

func (s site) typed(ctx context.Context, a action) (workspace.Ack, error) {
	_, err := s.ws.Type(ctx, a.User, a.Channel, a.Text)
	return workspace.Ack{}, err // how the app failed the workspace has told in the channel
}

func (s site) clicked(ctx context.Context, a action) (workspace.Ack, error) {
	m, ok := s.ws.Message(a.User, a.Channel, a.TS)
	if !ok {
		return workspace.Ack{}, workspace.ErrNoMessage
	}
	if a.Value != nil {
		return s.ws.Choose(ctx, a.User, m, a.Action, *a.Value)
	}
	return s.ws.Click(ctx, a.User, m, a.Action)
}

func (s site) submitted(ctx context.Context, a action) (workspace.Ack, error) {
	return s.ws.Submit(ctx, a.User, workspace.View{ID: a.View}, a.Values)
}

func (s site) closed(ctx context.Context, a action) (workspace.Ack, error) {
	v, open := s.ws.View(a.User)
	if !open || v.ID != a.View {
		return workspace.Ack{}, nil // it is closed
	}
	return s.ws.CloseView(ctx, a.User, v)
}

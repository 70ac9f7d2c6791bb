package workspace

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// SlackbotID is the id of Slack's own user, who tells people about failed
// commands.
const SlackbotID = "USLACKBOT"

// User is a person or a bot. The flags are those of Slack's user object:
// https://docs.slack.dev/reference/objects/user-object
type User struct {
	ID       string // "U…", or "W…"
	Name     string // what follows @: lower case, unique
	RealName string
	TeamID   string // the workspace's when empty
	TZ       string // IANA name; "Etc/UTC" when empty

	IsAdmin           bool
	IsOwner           bool
	IsPrimaryOwner    bool
	IsBot             bool
	IsRestricted      bool // a guest of several channels
	IsUltraRestricted bool // a guest of one channel
	Deleted           bool // deactivated
}

// Channel is a conversation.
type Channel struct {
	ID       string // "C…"; "D…" for a direct message
	Name     string // without the #; empty for a direct message
	Members  []string
	Private  bool
	Archived bool
	IM       bool // a direct message between the app's bot user and Members[0]
	HasApp   bool // whether the app's bot user is a member
}

// Group is a user group, also called a subteam.
type Group struct {
	ID       string // "S…"
	Handle   string // what follows @
	Name     string
	Users    []string
	Disabled bool
}

// App is the Slack app installed in the workspace.
type App struct {
	ID        string // "A…"
	Name      string
	BotID     string // "B…"
	BotUserID string // "U…"
	BotToken  string // "xoxb-…"
	AppToken  string // "xapp-…", opens Socket Mode connections
	// VerificationToken is the deprecated token sent with each request.
	VerificationToken string
	// Scopes are those granted to the bot token; nil means [DefaultScopes].
	Scopes []string
	// Commands are the slash commands the app registered, with the slash. Nil
	// accepts any.
	Commands []string
	// EscapeEntities is the command setting "Escape channels, users, and links
	// sent to your app".
	// https://docs.slack.dev/interactivity/implementing-slash-commands#creating_commands
	EscapeEntities bool
}

// DefaultScopes are the bot scopes granted when [App.Scopes] is nil: those the
// methods served here need. chat:write.public is not among them.
func DefaultScopes() []string {
	return []string{
		"commands", "chat:write", "users:read", "usergroups:read", "team:read",
		"channels:read", "groups:read", "im:read", "mpim:read", "im:write", "files:write",
		"channels:history", "groups:history", "im:history",
	}
}

// Options describe a workspace. The zero value is a workspace with an app and
// nobody in it; see [Example] for one with people.
type Options struct {
	TeamID     string // "T0WAGGLE"
	TeamName   string // "Waggle"
	TeamDomain string // "waggle"

	Users    []User
	Channels []Channel
	Groups   []Group
	App      App

	// SigningSecret signs what is sent to the app.
	SigningSecret string
	// EventsURL is where commands, clicks and events are posted, such as
	// "http://127.0.0.1:8080/slack/events". It can be set later with
	// [Workspace.SetEventsURL].
	EventsURL string
	// Client posts to EventsURL; nil means one of its own.
	Client *http.Client
	// AckTimeout is how long the app may take to acknowledge; 3 s when zero. It
	// is measured in real time, unlike everything else.
	AckTimeout time.Duration
	// Clock tells the time for timestamps, signatures, rate limits and the
	// expiry of trigger ids and response URLs; nil means time.Now.
	Clock func() time.Time
	// Limits are the rate limits; see [DefaultLimits] for what nil means.
	Limits *Limits
	// Addr is the address [Workspace.Start] listens on; "127.0.0.1:0" when
	// empty.
	Addr string
	// BaseURL is the address others reach [Workspace.Handler] at, for a
	// workspace that is served by somebody else's server and not by Start.
	BaseURL string
}

// Example returns options for a small workspace: ada is its primary owner,
// grace an admin, linus a member, gil a guest and mallory deactivated; the app
// is in #deploys (C0DEPLOYS) and in the private #ops (C0OPS), not in #general
// (C0GENERAL); linus and grace are in the group @operators (S0OPERATORS).
func Example() Options {
	return Options{
		Users: []User{
			{ID: "U0ADA", Name: "ada", RealName: "Ada Lovelace", IsAdmin: true, IsOwner: true, IsPrimaryOwner: true},
			{ID: "U0GRACE", Name: "grace", RealName: "Grace Hopper", IsAdmin: true},
			{ID: "U0LINUS", Name: "linus", RealName: "Linus Torvalds"},
			{ID: "U0GIL", Name: "gil", RealName: "Gil Guest", IsRestricted: true},
			{ID: "U0MALLORY", Name: "mallory", RealName: "Mallory Gone", Deleted: true},
		},
		Channels: []Channel{
			{ID: "C0GENERAL", Name: "general", Members: []string{"U0ADA", "U0GRACE", "U0LINUS"}},
			{ID: "C0DEPLOYS", Name: "deploys", Members: []string{"U0ADA", "U0GRACE", "U0LINUS", "U0GIL"}, HasApp: true},
			{ID: "C0OPS", Name: "ops", Members: []string{"U0ADA", "U0GRACE"}, Private: true, HasApp: true},
			{ID: "C0OLD", Name: "old", Members: []string{"U0ADA"}, Archived: true, HasApp: true},
		},
		Groups: []Group{
			{ID: "S0OPERATORS", Handle: "operators", Name: "Operators", Users: []string{"U0LINUS", "U0GRACE"}},
		},
		SigningSecret: "8f742231b10e8888abcd99yyyzzz85a5",
	}
}

// Workspace is a running workspace. Its methods may be called from several
// goroutines at once.
type Workspace struct {
	opts    Options
	clock   func() time.Time
	client  *http.Client
	handler http.Handler
	limits  *limiter

	closing chan struct{} // closed by Close
	wg      sync.WaitGroup
	server  *http.Server

	mu           sync.Mutex
	closed       bool
	base         string // "http://127.0.0.1:41234", no slash at the end
	eventsURL    string
	users        map[string]*User
	channels     map[string]*Channel
	groups       map[string]*Group
	named        *names // made from the three when nil
	order        struct{ users, channels, groups []string }
	messages     map[string][]*Message // by channel id, oldest first
	changed      chan struct{}         // closed and replaced at each change
	subscribers  map[*subscriber]struct{}
	calls        []*Call
	failures     map[string][]Failure
	outages      []*outage // the newest last
	triggers     map[string]*trigger
	responseURLs map[string]*responseURL
	views        map[string]*View
	stacks       map[string][]string // view ids by user, the topmost last
	files        map[string]*File
	uploads      map[string]*upload // by secret
	lastMicros   int64              // the last timestamp given out
	lastID       int                // the last block or object id given out
	sockets      socketState
}

// New returns a workspace. Missing fields of o get defaults; an error names
// what contradicts itself.
func New(o Options) (*Workspace, error) {
	o.TeamID = cmp.Or(o.TeamID, "T0WAGGLE")
	o.TeamName = cmp.Or(o.TeamName, "Waggle")
	o.TeamDomain = cmp.Or(o.TeamDomain, "waggle")
	o.SigningSecret = cmp.Or(o.SigningSecret, "8f742231b10e8888abcd99yyyzzz85a5")
	o.AckTimeout = cmp.Or(o.AckTimeout, 3*time.Second)
	o.Addr = cmp.Or(o.Addr, "127.0.0.1:0")
	o.App.ID = cmp.Or(o.App.ID, "A0WAGGLE")
	o.App.Name = cmp.Or(o.App.Name, "waggle")
	o.App.BotID = cmp.Or(o.App.BotID, "B0WAGGLE")
	o.App.BotUserID = cmp.Or(o.App.BotUserID, "U0WAGGLE")
	o.App.BotToken = cmp.Or(o.App.BotToken, "xoxb-0-workspace-bot")
	o.App.AppToken = cmp.Or(o.App.AppToken, "xapp-1-A0WAGGLE-workspace-app")
	o.App.VerificationToken = cmp.Or(o.App.VerificationToken, "workspace-verification")
	if o.App.Scopes == nil {
		o.App.Scopes = DefaultScopes()
	}
	limits := DefaultLimits()
	if o.Limits != nil {
		limits = *o.Limits
	}

	w := &Workspace{
		opts:         o,
		clock:        o.Clock,
		client:       o.Client,
		limits:       newLimiter(limits),
		closing:      make(chan struct{}),
		base:         strings.TrimRight(o.BaseURL, "/"),
		eventsURL:    o.EventsURL,
		users:        make(map[string]*User),
		channels:     make(map[string]*Channel),
		groups:       make(map[string]*Group),
		messages:     make(map[string][]*Message),
		changed:      make(chan struct{}),
		subscribers:  make(map[*subscriber]struct{}),
		failures:     make(map[string][]Failure),
		triggers:     make(map[string]*trigger),
		responseURLs: make(map[string]*responseURL),
		views:        make(map[string]*View),
		stacks:       make(map[string][]string),
		files:        make(map[string]*File),
		uploads:      make(map[string]*upload),
	}
	if w.clock == nil {
		w.clock = time.Now
	}
	if w.client == nil {
		// A transport of its own, so that Close can drop its idle connections.
		w.client = &http.Client{Transport: &http.Transport{}}
	}
	w.handler = w.routes()

	bots := []User{
		{ID: SlackbotID, Name: "slackbot", RealName: "Slackbot"},
		{ID: o.App.BotUserID, Name: o.App.Name, RealName: o.App.Name, IsBot: true},
	}
	var errs []error
	for _, u := range slices.Concat(o.Users, bots) {
		errs = append(errs, w.AddUser(u))
	}
	for _, c := range o.Channels {
		errs = append(errs, w.AddChannel(c))
	}
	for _, g := range o.Groups {
		errs = append(errs, w.AddGroup(g))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("workspace: %w", err)
	}
	return w, nil
}

// Start serves the workspace on a loopback port until [Workspace.Close]. The
// listener is open when it returns.
func (w *Workspace) Start() error {
	l, err := net.Listen("tcp", w.opts.Addr)
	if err != nil {
		return fmt.Errorf("workspace: listen: %w", err)
	}
	server := &http.Server{Handler: w.handler, ReadHeaderTimeout: 10 * time.Second}
	w.mu.Lock()
	if w.closed || w.server != nil {
		w.mu.Unlock()
		_ = l.Close()
		return errors.New("workspace: already started or closed")
	}
	w.server = server
	if w.base == "" {
		w.base = "http://" + l.Addr().String()
	}
	w.wg.Add(1)
	w.mu.Unlock()
	go func() {
		defer w.wg.Done()
		_ = server.Serve(l) // always http.ErrServerClosed, or what Close caused
	}()
	return nil
}

// Close ends everything: the server, hanging requests, Socket Mode connections,
// waits and subscriptions. It returns when all of its goroutines have ended, and
// may be called twice.
func (w *Workspace) Close() error {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.closing)
	}
	server := w.server
	w.mu.Unlock()

	w.closeSockets()
	var err error
	if server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err = server.Shutdown(ctx); err != nil {
			err = server.Close()
		}
	}
	w.client.CloseIdleConnections()
	w.wg.Wait()
	return err
}

// Handler serves the workspace: the Web API below /api/, response URLs, uploads
// and Socket Mode.
func (w *Workspace) Handler() http.Handler { return w.handler }

// URL is the base of the workspace, such as "http://127.0.0.1:41234".
func (w *Workspace) URL() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.base
}

// APIURL is the Web API, for slack.OptionAPIURL; it ends in "/api/".
func (w *Workspace) APIURL() string { return w.URL() + "/api/" }

// BotToken is the app's bot token.
func (w *Workspace) BotToken() string { return w.opts.App.BotToken }

// AppToken is the app's app-level token, for Socket Mode.
func (w *Workspace) AppToken() string { return w.opts.App.AppToken }

// SigningSecret is what requests to the app are signed with.
func (w *Workspace) SigningSecret() string { return w.opts.SigningSecret }

// App describes the installed app.
func (w *Workspace) App() App { return w.opts.App }

// TeamID is the workspace's id.
func (w *Workspace) TeamID() string { return w.opts.TeamID }

// SetEventsURL sets where commands, clicks and events are posted.
func (w *Workspace) SetEventsURL(url string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.eventsURL = url
}

// AddUser adds a person, or replaces the one with the same id.
func (w *Workspace) AddUser(u User) error {
	if u.ID == "" || u.Name == "" {
		return fmt.Errorf("user %q (%q): needs an id and a name", u.ID, u.Name)
	}
	u.TeamID = cmp.Or(u.TeamID, w.opts.TeamID)
	u.TZ = cmp.Or(u.TZ, "Etc/UTC")
	u.RealName = cmp.Or(u.RealName, u.Name)
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.users[u.ID]; !ok {
		w.order.users = append(w.order.users, u.ID)
	}
	w.users[u.ID] = &u
	w.named = nil
	return nil
}

// AddChannel adds a channel, or replaces the one with the same id. Its members
// must exist.
func (w *Workspace) AddChannel(c Channel) error {
	if c.ID == "" || c.Name == "" && !c.IM {
		return fmt.Errorf("channel %q (%q): needs an id and a name", c.ID, c.Name)
	}
	c.Members = slices.Clone(c.Members)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range c.Members {
		if w.users[m] == nil {
			return fmt.Errorf("channel %s: member %s is no user", c.ID, m)
		}
	}
	if _, ok := w.channels[c.ID]; !ok {
		w.order.channels = append(w.order.channels, c.ID)
	}
	w.channels[c.ID] = &c
	w.named = nil
	return nil
}

// AddGroup adds a user group, or replaces the one with the same id.
func (w *Workspace) AddGroup(g Group) error {
	if g.ID == "" || g.Handle == "" {
		return fmt.Errorf("user group %q (%q): needs an id and a handle", g.ID, g.Handle)
	}
	g.Users = slices.Clone(g.Users)
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.groups[g.ID]; !ok {
		w.order.groups = append(w.order.groups, g.ID)
	}
	w.groups[g.ID] = &g
	w.named = nil
	return nil
}

// Users lists everybody, bots included, in the order they were added.
func (w *Workspace) Users() []User {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]User, 0, len(w.users))
	for _, id := range w.order.users {
		out = append(out, *w.users[id])
	}
	return out
}

// Channels lists the conversations user can open: public channels, and the
// private channels and direct messages they are in.
func (w *Workspace) Channels(user string) []Channel {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []Channel
	for _, id := range w.order.channels {
		c := w.channels[id]
		if w.canRead(c, user) {
			cc := *c
			cc.Members = slices.Clone(c.Members)
			out = append(out, cc)
		}
	}
	return out
}

// canRead reports whether user may open c. w.mu is held.
func (w *Workspace) canRead(c *Channel, user string) bool {
	if c == nil {
		return false
	}
	if slices.Contains(c.Members, user) || user == w.opts.App.BotUserID && c.HasApp {
		return true
	}
	u := w.users[user]
	guest := u != nil && (u.IsRestricted || u.IsUltraRestricted)
	return !c.Private && !c.IM && !guest
}

// findChannel returns the channel with the given id, or with the given name
// when byName ("#deploys" or "deploys"), or nil. w.mu is held.
func (w *Workspace) findChannel(ref string, byName bool) *Channel {
	if c := w.channels[ref]; c != nil {
		return c
	}
	if !byName {
		return nil
	}
	for _, id := range w.order.channels {
		if c := w.channels[id]; c.Name != "" && c.Name == strings.TrimPrefix(ref, "#") {
			return c
		}
	}
	return nil
}

// openIM returns the direct message between the app and user, opening it if
// need be. w.mu is held.
func (w *Workspace) openIM(user string) *Channel {
	for _, id := range w.order.channels {
		if c := w.channels[id]; c.IM && slices.Contains(c.Members, user) {
			return c
		}
	}
	c := &Channel{ID: "D0" + strings.TrimLeft(user, "UW0"), Members: []string{user}, IM: true, Private: true, HasApp: true}
	for w.channels[c.ID] != nil {
		c.ID += "X"
	}
	w.channels[c.ID] = c
	w.named = nil
	w.order.channels = append(w.order.channels, c.ID)
	return c
}

// nextTS returns a timestamp no message has yet: seconds, a dot and six digits,
// increasing. w.mu is held.
func (w *Workspace) nextTS() string {
	w.lastMicros = max(w.clock().UnixMicro(), w.lastMicros+1)
	return timestamp(time.UnixMicro(w.lastMicros))
}

// timestamp writes t as Slack does: seconds, a dot and six digits.
func timestamp(t time.Time) string {
	us := t.UnixMicro()
	return fmt.Sprintf("%d.%06d", us/1e6, us%1e6)
}

// actError says why somebody cannot do something in Slack's own window.
func actError(format string, args ...any) error {
	return fmt.Errorf("workspace: "+format, args...)
}

// nextID returns a short id that was not given out before, such as "b0001".
// w.mu is held.
func (w *Workspace) nextID(prefix string) string {
	w.lastID++
	return fmt.Sprintf("%s%04d", prefix, w.lastID)
}

// secret returns 32 random hexadecimal digits.
func secret() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// ManualClock is a clock that moves only when told to.
type ManualClock struct {
	mu  sync.Mutex
	now time.Time
}

// NewManualClock returns a clock that stands at t. An app that checks signatures
// against the real time needs a t within five minutes of it.
func NewManualClock(t time.Time) *ManualClock { return &ManualClock{now: t} }

// Now tells the time, for [Options.Clock].
func (c *ManualClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock by d.
func (c *ManualClock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

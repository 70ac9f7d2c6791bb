// Package bot is the Slack door: it turns slash commands into requests for
// operations, and what becomes of them into messages. It changes nothing itself.
package bot

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/slack-go/slack"
	"golang.org/x/time/rate"

	"waggle/internal/secret"
	"waggle/ops"
)

// House does what is asked for at this door. *ops.Runner is one.
type House interface {
	// Submit makes a request durable; its message follows. queue.ErrDuplicate
	// says that it was made before.
	Submit(ctx context.Context, req ops.Request, op ops.Operation) error
	// Decide makes a decision about a waiting operation durable.
	Decide(ctx context.Context, req ops.Request, token string, verdict ops.Verdict, reason string) error
	// UnderWay lists what runs and what waits for its turn.
	UnderWay(ctx context.Context) ([]ops.Work, error)
	// PendingOperations lists what waits for an approval.
	PendingOperations(ctx context.Context) ([]ops.Waits, error)
	// Audit returns the newest entries, of one target unless that is "".
	Audit(ctx context.Context, target string, n int) ([]ops.Entry, error)
	// Ask answers a question of somebody who may ask it.
	Ask(ctx context.Context, who ops.Actor, q ops.Question) (ops.Answer, error)
	// Registry returns a registry to be shown to somebody who may change it.
	Registry(ctx context.Context, who ops.Actor, name string) (ops.Registry, error)
}

// Options configure a Bot.
type Options struct {
	Token         secret.Text
	SigningSecret secret.Text // for HTTP mode
	AppToken      secret.Text // for Socket Mode
	APIURL        string      // "" is Slack's
	Channel       string      // where pushes are announced that name no channel, may be ""
	AuditChannel  string      // gets one line for each change, may be ""
	Roles         Roles
	Log           *slog.Logger
	Now           func() time.Time
}

// Bot speaks with one Slack workspace.
type Bot struct {
	opts        Options
	api         *slack.Client
	http        *http.Client
	house       House
	every       time.Duration // between the edits in a channel
	quiet       time.Duration
	again       time.Duration // before a call that failed is tried again
	followEvery time.Duration
	soon        time.Duration // how long an acknowledgement waits for an answer

	life  context.Context // ends with Close
	end   context.CancelFunc
	reads sync.WaitGroup // answers under way

	mu    sync.Mutex
	team  string // our workspace's id, once known
	self  string // our bot user's id
	paces map[string]*rate.Limiter
	users map[string]cachedUser
	group map[string]cachedGroup

	channelIDs map[string]string // of the channels that the settings have by name, once known
}

// New returns a bot that has not spoken to Slack yet.
func New(o Options) *Bot {
	client := &http.Client{Timeout: 10 * time.Second}
	life, end := context.WithCancel(context.Background())
	return &Bot{
		opts: o, api: o.client(client), http: client,
		every: editEvery, quiet: quiet, again: time.Second, soon: ackWithin, followEvery: 12 * time.Second,
		life: life, end: end,
		paces: map[string]*rate.Limiter{}, users: map[string]cachedUser{}, group: map[string]cachedGroup{},
		channelIDs: map[string]string{},
	}
}

// client speaks with Slack over an HTTP client.
func (o Options) client(over *http.Client, more ...slack.Option) *slack.Client {
	opts := append([]slack.Option{slack.OptionHTTPClient(over), slack.OptionAppLevelToken(o.AppToken.Reveal())}, more...)
	if o.APIURL != "" {
		opts = append(opts, slack.OptionAPIURL(o.APIURL))
	}
	return slack.New(o.Token.Reveal(), opts...)
}

// Close ends the answers that are under way. What Open returned has a Close of
// its own.
func (b *Bot) Close() {
	b.end()
	b.reads.Wait()
}

// WorkFor says who takes the requests. It is called once, before any request
// comes in.
func (b *Bot) WorkFor(h House) { b.house = h }

// Check asks Slack who we are: nil when the token is good.
func (b *Bot) Check(ctx context.Context) error {
	auth, err := b.api.AuthTestContext(ctx)
	if err != nil {
		return fmt.Errorf("auth.test: %w", err)
	}
	b.mu.Lock()
	b.team, b.self = auth.TeamID, auth.UserID
	b.mu.Unlock()
	return nil
}

// workspace returns our workspace's id, asking Slack the first time.
func (b *Bot) workspace(ctx context.Context) (string, error) {
	b.mu.Lock()
	team := b.team
	b.mu.Unlock()
	if team != "" {
		return team, nil
	}
	if err := b.Check(ctx); err != nil {
		return "", err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.team, nil
}

func (b *Bot) permalink(ctx context.Context, channel, ts string) (string, error) {
	return b.api.GetPermalinkContext(ctx, &slack.PermalinkParameters{Channel: channel, Ts: ts})
}

// A channel takes about one message a second, with short bursts; edits a little
// less. Source: https://docs.slack.dev/apis/web-api/rate-limits
const (
	editEvery = 1200 * time.Millisecond
	editBurst = 3
)

func (b *Bot) pace(channel string) *rate.Limiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.paces[channel] == nil {
		b.paces[channel] = rate.NewLimiter(rate.Every(b.every), editBurst)
	}
	return b.paces[channel]
}

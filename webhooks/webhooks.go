// Package webhooks is the door for Git forges: it takes their deliveries,
// checks who sent them, and hands pushes to a Deployer. What a push does is the
// Deployer's matter.
package webhooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"waggle/internal/secret"
	"waggle/ops"
)

const (
	prefix = "/webhooks/"

	jsonType = "application/json"
	formType = "application/x-www-form-urlencoded"

	defaultMaxBody = 25 << 20 // GitHub's own cap on a payload
	// Forges wait about 10 s for the answer (GitHub exactly that), some proxies before
	// them less. Once the body is read the answer comes within 3 s, whatever is away: what
	// can't be known by then is stored and looked at again.
	readTimeout   = 10 * time.Second
	deployTimeout = 2500 * time.Millisecond
	retryAfter    = 10 * time.Second
)

// Deployer stores deploys durably.
type Deployer interface {
	// Deploy stores a deploy job for every app that follows the pushed branch, or
	// the push itself when it cannot be known now which these are. It returns only
	// when they are durable. On an error the result has the jobs that were stored
	// nevertheless; they are duplicates then. It honours ctx.
	Deploy(ctx context.Context, push ops.Push) (ops.Accepted, error)
}

// Options are what New needs.
type Options struct {
	// Secrets by provider. A provider without one is not served; with several
	// any of them is good, as while rotating.
	Secrets map[string][]secret.Text
	Deploys Deployer
	Log     *slog.Logger
	MaxBody int64 // most bytes of a delivery; 0 means 25 MiB

	readTimeout time.Duration    // for tests; 0 means the constant
	now         func() time.Time // for tests; nil means time.Now
}

// delivery is one request of a forge, as it came.
type delivery struct {
	header    http.Header
	mediaType string
	body      []byte
	at        time.Time // when it came, by our clock
}

// payload returns the JSON of a delivery: its body, or the field of that name
// when it is a form.
func (d delivery) payload() ([]byte, error) {
	if d.mediaType != formType {
		return d.body, nil
	}
	form, err := url.ParseQuery(string(d.body))
	if err != nil {
		return nil, errors.New("the form cannot be read")
	}
	if len(form["payload"]) != 1 {
		return nil, errors.New("the form has no payload field, or several")
	}
	return []byte(form.Get("payload")), nil
}

// forge understands the deliveries of one kind of forge.
//
// What verify and pushes return, and how it is answered:
//
//	verify  nil              one of the secrets vouches for the delivery
//	        ignored          never signed, and asks for nothing: 200 with the reason
//	        other error      401 with the error's text
//	pushes  pushes, nil      the branches that were pushed: 202, or 200 with the
//	                         reason if none of them leads to a deploy
//	        nil, ignored     a good delivery with nothing to do: 200 with the reason
//	        nil, other error not readable: 400 with the error's text, which must
//	                         not cite more than names
type forge interface {
	// mediaTypes are the content types that the forge sends.
	mediaTypes() []string
	// about returns the delivery's id and event for the log. They are not
	// signed: nothing may depend on them.
	about(h http.Header) (id, event string)
	// verify looks for one of the secrets, none of which is empty, in a time that
	// does not depend on how nearly one fits.
	verify(d delivery, secrets []secret.Text) error
	// pushes decodes a verified delivery. No bytes may make it panic.
	pushes(d delivery) ([]ops.Push, error)
}

// forges by provider, as in the route.
func forges() map[string]forge {
	return map[string]forge{
		"github":           github{},
		"gitlab":           gitlab{},
		"bitbucket":        bitbucket{},
		"bitbucket-server": bitbucketServer{},
		"gitea":            gitea{},
		"gogs":             gogs{},
		"azure":            azure{},
	}
}

// ignored is why a good delivery leads to nothing.
type ignored string

func (i ignored) Error() string { return string(i) }

// New returns the handler for everything under /webhooks/.
func New(o Options) http.Handler {
	h := &handler{Options: o, doors: map[string]door{}}
	if h.MaxBody <= 0 {
		h.MaxBody = defaultMaxBody
	}
	if h.readTimeout <= 0 {
		h.readTimeout = readTimeout
	}
	if h.now == nil {
		h.now = time.Now
	}
	if h.Log == nil {
		h.Log = slog.New(slog.DiscardHandler)
	}
	for provider, f := range forges() {
		// An empty secret would let everybody sign.
		secrets := slices.DeleteFunc(slices.Clone(o.Secrets[provider]), secret.Text.Empty)
		if len(secrets) > 0 {
			h.doors[provider] = door{f, secrets}
		}
	}
	return h
}

type handler struct {
	Options
	doors map[string]door
}

// door is a forge with the secrets it may sign with.
type door struct {
	forge
	secrets []secret.Text
}

// answer is the body of every response.
type answer struct {
	Status string    `json:"status"`
	Reason string    `json:"reason"`
	Jobs   []ops.Job `json:"jobs"`
}

// The values of answer.Status.
const (
	queued      = "queued"
	ignore      = "ignored"
	duplicate   = "duplicate"
	refused     = "refused"
	unavailable = "unavailable"
)

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	line := []slog.Attr{}
	code, a, err := h.serve(w, r, &line)

	level := slog.LevelInfo
	switch {
	case err != nil:
		level = slog.LevelError
		line = append(line, slog.Any("err", err))
	case code == http.StatusNotFound || code == http.StatusMethodNotAllowed:
		level = slog.LevelDebug // not a delivery: anybody who knocks
	}
	line = append(line, slog.Int("status", code), slog.String("reason", a.Reason), slog.Int("jobs", len(a.Jobs)))
	h.Log.LogAttrs(r.Context(), level, "webhook delivery", line...)

	if a.Jobs == nil {
		a.Jobs = []ops.Job{}
	}
	body, err := json.Marshal(a)
	if err != nil {
		body = []byte(`{"status":"unavailable","reason":"internal","jobs":[]}`) // strings always encode
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n')) // whoever does not listen does not hear
}

// serve decides the answer; err is for the log only.
func (h *handler) serve(w http.ResponseWriter, r *http.Request, line *[]slog.Attr) (code int, a answer, err error) {
	// What is refused unread must stay unread: without this the server would
	// swallow the rest of the body to use the connection again.
	w.Header().Set("Connection", "close")
	refuse := func(code int, reason string) (int, answer, error) {
		return code, answer{Status: refused, Reason: reason}, nil
	}
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(h.readTimeout)) // a recorder has none

	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return refuse(http.StatusMethodNotAllowed, "only POST is understood here")
	}
	provider, _ := strings.CutPrefix(r.URL.Path, prefix)
	d, ok := h.doors[provider]
	if !ok {
		return refuse(http.StatusNotFound, "no such webhook")
	}
	id, event := d.about(r.Header)
	*line = append(*line, slog.String("provider", provider), slog.String("delivery", clip(id)), slog.String("event", clip(event)))

	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if types := d.mediaTypes(); err != nil || !slices.Contains(types, mediaType) {
		return refuse(http.StatusUnsupportedMediaType, "the content type must be "+strings.Join(types, " or "))
	}
	tooLarge := fmt.Sprintf("the body is larger than %d bytes", h.MaxBody)
	if r.ContentLength > h.MaxBody {
		return refuse(http.StatusRequestEntityTooLarge, tooLarge)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.MaxBody))
	var limit *http.MaxBytesError
	switch {
	case errors.As(err, &limit):
		return refuse(http.StatusRequestEntityTooLarge, tooLarge)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(http.StatusBadRequest, "the body did not arrive in time")
	case err != nil:
		return refuse(http.StatusBadRequest, "the body did not arrive whole")
	}
	// The body is here. The deadline would now cancel the request's context.
	_ = deadline.SetReadDeadline(time.Time{})
	w.Header().Del("Connection")

	sent := delivery{header: r.Header, mediaType: mediaType, body: body, at: h.now()}
	var nothing ignored
	err = d.verify(sent, d.secrets)
	if err != nil && !errors.As(err, &nothing) {
		return refuse(http.StatusUnauthorized, err.Error())
	}
	var pushes []ops.Push
	if err == nil {
		pushes, err = d.pushes(sent)
	}
	switch {
	case errors.As(err, &nothing):
		return http.StatusOK, answer{Status: ignore, Reason: string(nothing)}, nil
	case err != nil:
		return refuse(http.StatusBadRequest, err.Error())
	}
	*line = append(*line, slog.String("repo", pushes[0].Name), slog.String("branch", pushes[0].Branch), slog.String("commit", pushes[0].After))
	result, err := h.deploy(r.Context(), pushes)
	if err != nil {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
		reason := "the deploy could not be stored and nothing was accepted, send it again"
		if len(result.Jobs) > 0 || result.Waits {
			reason = "not every deploy could be stored, send it again: those that were are known then"
		}
		return http.StatusServiceUnavailable, answer{Status: unavailable, Reason: reason}, err
	}
	a = answer{Reason: result.Reason, Jobs: result.Jobs}
	switch {
	case result.Duplicate:
		a.Status, code = duplicate, http.StatusOK
	case len(result.Jobs) == 0 && !result.Waits:
		a.Status, code = ignore, http.StatusOK
	default:
		a.Status, code = queued, http.StatusAccepted
	}
	return code, a, nil
}

// deploy hands over the pushes of one delivery and sums up what came of them:
// a duplicate only if all are.
func (h *handler) deploy(ctx context.Context, pushes []ops.Push) (ops.Accepted, error) {
	// A forge that hangs up has still pushed.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deployTimeout)
	defer cancel()
	sum := ops.Accepted{Duplicate: true}
	var reasons []string
	for _, push := range pushes {
		result, err := h.Deploys.Deploy(ctx, push)
		sum.Jobs = append(sum.Jobs, result.Jobs...)
		sum.Waits = sum.Waits || result.Waits
		if err != nil {
			return sum, err
		}
		sum.Duplicate = sum.Duplicate && result.Duplicate
		if result.Reason != "" && !slices.Contains(reasons, result.Reason) {
			reasons = append(reasons, result.Reason)
		}
	}
	sum.Reason = strings.Join(reasons, "; ")
	if sum.Duplicate && sum.Reason == "" {
		sum.Reason = "this push was seen before"
	}
	return sum, nil
}

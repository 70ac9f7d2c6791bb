package bot

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"waggle/internal/secret"
	"waggle/internal/workspace"
	"waggle/ops"
)

// inProcess carries requests to a handler without a network, for a synctest bubble.
type inProcess struct{ http.Handler }

func (p inProcess) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	defer func() {
		if dropped := recover(); dropped != nil {
			resp, err = nil, io.ErrUnexpectedEOF
		}
		if ended := r.Context().Err(); ended != nil {
			resp, err = nil, ended
		}
	}()
	w := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	p.ServeHTTP(w, r)
	return w.Result(), nil
}

// TestFiveMinutesAway: Slack is away for five minutes. The messages of ten operations that
// ended meanwhile are tried again by whoever keeps their last state, at the real pace, and
// are up within half a minute of Slack's return, each of them once.
func TestFiveMinutesAway(t *testing.T) {
	for name, f := range map[string]workspace.Failure{
		"503":  {Status: 503},
		"429":  {Status: 429, RetryAfter: 10 * time.Second},
		"drop": {Drop: true},
		"hang": {Delay: -1},
		"lost": {Drop: true, Applied: true},
		"late": {Delay: -1, Applied: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = 10
				wo := workspace.Example()
				wo.BaseURL = "http://slack"
				ws, err := workspace.New(wo)
				if err != nil {
					t.Fatal(err)
				}
				defer ws.Close()
				b := New(Options{Token: secret.Text(ws.BotToken()), APIURL: ws.APIURL(), Log: slog.New(slog.DiscardHandler), Now: time.Now})
				b.http.Transport = inProcess{ws.Handler()}

				deliver := func(id string) {
					req := ops.Request{ID: id, Channel: deploys, At: time.Now()}
					ref := ""
					for {
						m := b.Open(req, ref, func(r string) { ref = r })
						m.Show(status(ops.Done, func(s *ops.Status) { s.ID, s.Result = id, id+" runs" }))
						ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
						began := time.Now()
						err := m.Close(ctx)
						cancel()
						if late := time.Since(began) - 20*time.Second; late > time.Second {
							t.Errorf("Close returned %s after its context ended", late)
						}
						if err == nil {
							return
						}
						if ref == "" {
							ref = "?"
						}
						time.Sleep(5 * time.Second)
					}
				}
				shown := func() map[string]int {
					seen := map[string]int{}
					for _, m := range ws.Messages(deploys, linus) {
						text, _, _ := strings.Cut(m.Plain(), "\n")
						seen[text]++
					}
					return seen
				}
				ws.Outage("", 5*time.Minute, f)
				began := time.Now()
				for i := range n {
					go deliver(string(rune('a' + i)))
				}
				time.Sleep(5*time.Minute - time.Since(began))
				time.Sleep(30 * time.Second)
				if seen := shown(); len(seen) != n {
					t.Errorf("30 s after Slack came back %d of %d are shown: %v", len(seen), n, seen)
				}
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				for text, times := range shown() {
					if times != 1 || !strings.Contains(text, " runs") {
						t.Errorf("%d times: %s", times, text)
					}
				}
			})
		})
	}
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"waggle/ops"
)

// part is one thing that Waggle needs to work.
type part struct {
	name  string
	check func(context.Context) error
	good  time.Duration // how long a good answer is believed; a bad one at most badFor
}

const badFor = 5 * time.Second

// readiness answers whether every part is there: 200 or 503, each part named in
// JSON: {"ready":false,"parts":{"redis":"ok","swarm":"Docker does not answer"}}.
type readiness struct {
	parts []part
	now   func() time.Time

	mu    sync.Mutex
	known map[string]answered
}

type answered struct {
	text  string
	until time.Time
}

func (h *readiness) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	answers := make([]string, len(h.parts))
	var asking sync.WaitGroup
	for i, p := range h.parts {
		asking.Go(func() { answers[i] = h.ask(ctx, p) })
	}
	asking.Wait()
	out := struct {
		Ready bool              `json:"ready"`
		Parts map[string]string `json:"parts"`
	}{true, map[string]string{}}
	for i, p := range h.parts {
		out.Parts[p.name] = answers[i]
		out.Ready = out.Ready && answers[i] == "ok"
	}
	w.Header().Set("Content-Type", "application/json")
	if !out.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(out) // else the asker has gone
}

func (h *readiness) ask(ctx context.Context, p part) string {
	h.mu.Lock()
	last := h.known[p.name]
	h.mu.Unlock()
	if h.now().Before(last.until) {
		return last.text
	}
	text, keep := "ok", p.good
	if err := p.check(ctx); err != nil {
		text, keep = err.Error(), min(p.good, badFor)
		if e := new(ops.Error); errors.As(err, &e) {
			text = e.Sentence
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known == nil {
		h.known = map[string]answered{}
	}
	h.known[p.name] = answered{text, h.now().Add(keep)}
	return text
}

// ready is the health check of a container: exit code 0 when /readyz says so.
func ready(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("ready", flag.ContinueOnError)
	url := flags.String("url", "http://127.0.0.1:8080/readyz", "the service's readiness page")
	if err := parse(flags, args, stderr); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, *url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s", body)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready (%s)", resp.Status)
	}
	return nil
}

package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"waggle/internal/lab"
	"waggle/internal/secret"
	"waggle/ops"
	"waggle/ops/queue"
	"waggle/ops/store"
	"waggle/ops/swarm"
	"waggle/webhooks"
)

const (
	manySenders = 8
	// deliveries is how many one sender makes in a turn, turns how many there are in
	// a run: short ones, since a machine is not as fast at all times.
	deliveries = 50
	turns      = 4
	hookSecret = "bench"
	// delivered is a push as GitHub sends it, of which each delivery is a copy.
	delivered = "webhooks/testdata/github-push.json"
)

// hooked names what is measured of one door with so many senders: what each
// delivery takes, and how many are answered in a second.
func hooked(door string, senders int) (each, rate figure) {
	return figure(fmt.Sprintf("%s, %d senders", door, senders)), figure(fmt.Sprintf("%s, %d senders, a second", door, senders))
}

// beside is how many the door answers for one that the bare handler does, in turns
// one after the other.
func beside(senders int) figure {
	return figure(fmt.Sprintf("beside the bare one, %d senders", senders))
}

// sender is a repository with an app of its own, whose branch goes on and on.
type sender struct {
	template string
	n        int
	after    string
}

// next is the next push, signed.
func (s *sender) next() (body []byte, signature string) {
	s.n++
	before := s.after
	if before == "" {
		before = strings.Repeat("0", 40)
	}
	s.after = fmt.Sprintf("%x", sha256.Sum256([]byte(s.template[:200]+fmt.Sprint(s.n))))[:40]
	body = []byte(strings.NewReplacer("737d38c599c1b2991664dfc6155d6bf516fcce36", before, "fd489864e7642b48eaad6e3f155c10e46810ec72", s.after,
		"1530281075", fmt.Sprint(1530281075+s.n)).Replace(s.template))
	mac := hmac.New(sha256.New, []byte(hookSecret))
	mac.Write(body)
	return body, "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// webhooks measures the door beside a bare handler, in turns, in this process: the
// queue's workers are not started, so nothing is deployed.
func (b *bench) webhooks(ctx context.Context, runs int) error {
	redisServer, err := lab.StartRedis(ctx, b.dir, lab.AppendOnly())
	if err != nil {
		return err
	}
	defer redisServer.Kill()
	engine, err := swarm.Dial(swarm.Options{Host: b.lab.Manager().Host()})
	if err != nil {
		return err
	}
	defer engine.Close()
	s := store.Open(&redis.UniversalOptions{Addrs: []string{redisServer.Addr}})
	defer s.Close()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	runner := &ops.Runner{
		Env: ops.Env{Swarm: engine, Now: time.Now}, Store: s, Log: log,
		Deploys: queue.New(s.Client(), queue.Options{Name: "deploys", Concurrency: 1, Poll: time.Second, Log: log}),
	}
	text, err := os.ReadFile(delivered)
	if err != nil {
		return fmt.Errorf("%w; this runs where go.mod is", err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		return err
	}
	b.hookBytes = compact.Len()
	var all []*sender
	for i := range manySenders {
		name := fmt.Sprintf("door-%d", i)
		if _, err := b.docker(ctx, "service", "create", "--detach", "--quiet", "--name", name, "--replicas", "0", "--endpoint-mode", "dnsrr", "--no-resolve-image",
			"--label", "waggle.repo=https://github.com/acme/"+name, "--label", "waggle.branch=master", b.lab.BaseImage); err != nil {
			return err
		}
		all = append(all, &sender{template: strings.ReplaceAll(compact.String(), "binkkatal/sample_app", "acme/"+name)})
	}
	ours, err := listen(webhooks.New(webhooks.Options{Secrets: map[string][]secret.Text{"github": {hookSecret}}, Deploys: runner, Log: log}))
	if err != nil {
		return err
	}
	defer ours.close()
	bare, err := listen(bareHandler(s.Client()))
	if err != nil {
		return err
	}
	defer bare.close()
	doors := map[string]*server{"door": ours, "bare": bare}
	order := []string{"door", "bare"}
	for i := range turns*runs + 1 {
		for _, senders := range []int{1, manySenders} {
			rates := map[string]float64{}
			for j := range order {
				name := order[(i+j)%len(order)]
				took, rate, err := deliver(ctx, doors[name].url, all[:senders])
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				if i == 0 {
					continue // to warm up
				}
				rates[name] = rate
				each, perSecond := hooked(name, senders)
				b.got[each] = append(b.got[each], took...)
				b.got[perSecond] = append(b.got[perSecond], rate)
			}
			if i > 0 {
				b.got[beside(senders)] = append(b.got[beside(senders)], rates["door"]/rates["bare"])
			}
		}
	}
	return nil
}

// bareHandler checks the signature, and puts the body into Redis.
func bareHandler(rdb redis.UniversalClient) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 25<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mac := hmac.New(sha256.New, []byte(hookSecret))
		mac.Write(body)
		signature, err := hex.DecodeString(strings.TrimPrefix(r.Header.Get("X-Hub-Signature-256"), "sha256="))
		if err != nil || !hmac.Equal(signature, mac.Sum(nil)) {
			http.Error(w, "bad signature", http.StatusUnauthorized)
			return
		}
		if err := rdb.LPush(r.Context(), "bare", body).Err(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	})
}

// server is a handler on a port of loopback.
type server struct {
	url   string
	close func()
}

func listen(h http.Handler) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	return &server{"http://" + l.Addr().String() + "/webhooks/github", func() { _ = s.Close(); <-served }}, nil
}

// deliver has every sender push again and again, one push after the other. It
// returns what each delivery took, in ms, and how many were answered in a second.
func deliver(ctx context.Context, url string, senders []*sender) (took []float64, rate float64, err error) {
	type push struct {
		body      []byte
		signature string
	}
	pushes := make([][]push, len(senders))
	for i, s := range senders {
		for range deliveries {
			body, signature := s.next()
			pushes[i] = append(pushes[i], push{body, signature})
		}
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: len(senders)}}
	defer client.CloseIdleConnections()
	each, errs := make([][]float64, len(senders)), make([]error, len(senders))
	var sending sync.WaitGroup
	began := time.Now()
	for i := range senders {
		sending.Go(func() {
			for _, p := range pushes[i] {
				sent := time.Now()
				if errs[i] = post(ctx, client, url, p.body, p.signature); errs[i] != nil {
					return
				}
				each[i] = append(each[i], float64(time.Since(sent))/float64(time.Millisecond))
			}
		})
	}
	sending.Wait()
	rate = float64(len(senders)*deliveries) / time.Since(began).Seconds()
	for _, one := range each {
		took = append(took, one...)
	}
	return took, rate, errors.Join(errs...)
}

func post(ctx context.Context, client *http.Client, url string, body []byte, signature string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = http.Header{"Content-Type": {"application/json"}, "X-Github-Event": {"push"}, "X-Github-Delivery": {"72d3162e-cc78-11e3-81ab-4c9367dc0958"},
		"X-Hub-Signature-256": {signature}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusAccepted {
		err = fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return err
}

func (b *bench) printHooks(w io.Writer) {
	if b.hookBytes == 0 {
		return
	}
	fmt.Fprintf(w, `
A push delivered to the webhook until its job is durable, %d bytes each, every push another commit to an app that follows it;
beside a bare handler that checks the signature and writes the body to Redis. In turns of %d deliveries a sender, every sender with
a repository and an app of its own; the ratio is the median, and the quarters, of %d pairs of turns. The engine is real, Redis writes
each command to disk, and the queue's workers are not started.

`, b.hookBytes, deliveries, len(b.got[beside(1)]))
	fmt.Fprint(w, "| | Waggle p50, p99 | a second | bare p50, p99 | a second | ratio, a second | aim |\n|---|---|---|---|---|---|---|\n")
	for _, senders := range []int{1, manySenders} {
		ours, oursRate := hooked("door", senders)
		bare, bareRate := hooked("bare", senders)
		fmt.Fprintf(w, "| %d at once | %.2f ms, %.2f ms | %.0f | %.2f ms, %.2f ms | %.0f | %.2f (%.2f–%.2f) | ≥ 0.7 |\n", senders,
			quantile(b.got[ours], 0.5), quantile(b.got[ours], 0.99), median(b.got[oursRate]),
			quantile(b.got[bare], 0.5), quantile(b.got[bare], 0.99), median(b.got[bareRate]),
			median(b.got[beside(senders)]), quantile(b.got[beside(senders)], 0.25), quantile(b.got[beside(senders)], 0.75))
	}
}

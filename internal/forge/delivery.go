package forge

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Delivery is the record of an event that was sent.
type Delivery struct {
	ID    string // X-GitHub-Delivery
	Event string // "push" or "ping"
	URL   string
	At    time.Time

	Header  http.Header // of the request
	Payload []byte      // the event as JSON
	Body    []byte      // what was sent: Payload, or the form that holds it

	Status   int // of the answer; 0 if there was none
	Response string
	Took     time.Duration
	Err      error // why there was no answer, or no request
}

func (f *Forge) webhook() (url, secret string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.opts.WebhookURL, f.opts.Secret
}

// send delivers an event in the background, as GitHub does: whoever pushed does
// not wait for it.
func (f *Forge) send(event string, payload any) {
	to, _ := f.webhook()
	if to == "" {
		return
	}
	body, err := json.Marshal(payload)
	if err != nil {
		f.fail(event, err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ended {
		f.wg.Go(func() { f.deliver(f.ctx, event, newID(), body) })
	}
}

// deliver sends one event and records how that went.
func (f *Forge) deliver(ctx context.Context, event, id string, payload []byte) Delivery {
	to, secret := f.webhook()
	d := Delivery{ID: id, Event: event, URL: to, At: time.Now(), Payload: payload, Body: payload}
	contentType := "application/json"
	if f.opts.Form {
		contentType = "application/x-www-form-urlencoded"
		d.Body = []byte(url.Values{"payload": {string(payload)}}.Encode())
	}
	d.Header = http.Header{
		"Content-Type": {contentType}, "User-Agent": {"GitHub-Hookshot/f0f06e0"}, "Accept": {"*/*"},
	}
	for k, v := range map[string]string{
		"X-GitHub-Event": event, "X-GitHub-Delivery": id, "X-GitHub-Hook-ID": fmt.Sprint(hookID),
		"X-GitHub-Hook-Installation-Target-Type": "repository", "X-GitHub-Hook-Installation-Target-ID": "1",
	} {
		d.Header.Set(k, v)
	}
	if secret != "" {
		d.Header.Set("X-Hub-Signature", "sha1="+sign(sha1.New, secret, d.Body))
		d.Header.Set("X-Hub-Signature-256", "sha256="+sign(sha256.New, secret, d.Body))
	}
	d.Status, d.Response, d.Err = f.post(ctx, d)
	d.Took = time.Since(d.At)
	f.record(d)
	return d
}

func (f *Forge) post(ctx context.Context, d Delivery) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, f.opts.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.URL, strings.NewReader(string(d.Body)))
	if err != nil {
		return 0, "", fmt.Errorf("delivering an event: %w", err)
	}
	req.Header = d.Header.Clone()
	resp, err := f.client.Do(req)
	if err != nil {
		return 0, "", fmt.Errorf("delivering an event: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(text), err
}

func (f *Forge) fail(event string, err error) {
	f.record(Delivery{Event: event, At: time.Now(), Err: err})
}

func (f *Forge) record(d Delivery) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deliveries = append(f.deliveries, d)
	close(f.changed)
	f.changed = make(chan struct{})
}

// Deliveries returns all deliveries that have ended, oldest first.
func (f *Forge) Deliveries() []Delivery {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.deliveries)
}

// Wait returns the deliveries once there are at least n. They include the
// events that could not be delivered.
func (f *Forge) Wait(ctx context.Context, n int) ([]Delivery, error) {
	for {
		f.mu.Lock()
		have, changed := slices.Clone(f.deliveries), f.changed
		f.mu.Unlock()
		if len(have) >= n {
			return have, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return have, fmt.Errorf("waiting for %d deliveries, have %d: %w", n, len(have), ctx.Err())
		}
	}
}

// Redeliver sends an event again under its own id, as GitHub's button does.
func (f *Forge) Redeliver(ctx context.Context, d Delivery) (Delivery, error) {
	return f.again(ctx, d, d.ID)
}

// Replay sends an event again under a new id. GitHub does not sign the id, so
// this is what somebody can do who has seen a delivery.
func (f *Forge) Replay(ctx context.Context, d Delivery) (Delivery, error) {
	return f.again(ctx, d, newID())
}

func (f *Forge) again(ctx context.Context, d Delivery, id string) (Delivery, error) {
	if d.Payload == nil {
		return Delivery{}, errors.New("this delivery has no event")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(f.ctx, cancel)()
	n := f.deliver(ctx, d.Event, id, d.Payload)
	return n, n.Err
}

func sign(h func() hash.Hash, secret string, body []byte) string {
	m := hmac.New(h, []byte(secret))
	m.Write(body)
	return hex.EncodeToString(m.Sum(nil))
}

// newID makes a GUID of version 1's look, as GitHub's are.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x10, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

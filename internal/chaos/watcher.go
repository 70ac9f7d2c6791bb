package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// watcher writes down how the services of a name prefix change, as one manager shows it: at each of
// its events and between them, through its API and not through Waggle's client.
type watcher struct {
	prefix string
	client *http.Client

	mu   sync.Mutex
	last map[string]version
	all  []version
}

func newWatcher(socket, prefix string) *watcher {
	return &watcher{prefix: prefix, last: map[string]version{}, client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
}

func (w *watcher) run(ctx context.Context) {
	events := make(chan struct{}, 1)
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() {
		for ctx.Err() == nil {
			w.events(ctx, events)
			_ = pause(ctx, look)
		}
	})
	for ctx.Err() == nil {
		w.sync(ctx)
		select {
		case <-ctx.Done():
		case <-events:
		case <-time.After(look):
		}
	}
}

// events sends a token for each event of a service, until the stream ends.
func (w *watcher) events(ctx context.Context, to chan<- struct{}) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/events?filters="+url.QueryEscape(`{"type":["service"]}`), nil)
	if err != nil {
		return
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var event json.RawMessage
		if d.Decode(&event) != nil {
			return
		}
		select {
		case to <- struct{}{}:
		default:
		}
	}
}

// sync reads the services now.
func (w *watcher) sync(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	began := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/services?filters="+url.QueryEscape(`{"name":["`+w.prefix+`"]}`), nil)
	if err != nil {
		return
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	var services []struct {
		Version struct{ Index uint64 }
		Spec    struct {
			Name         string
			Labels       map[string]string
			Mode         struct{ Replicated struct{ Replicas int } }
			TaskTemplate struct{ ContainerSpec struct{ Image string } }
		}
		UpdateStatus struct{ State string }
	}
	if resp.StatusCode != http.StatusOK || json.NewDecoder(resp.Body).Decode(&services) != nil {
		return
	}
	ended := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range services {
		if !strings.HasPrefix(s.Spec.Name, w.prefix) {
			continue
		}
		v := version{Began: began, Ended: ended, Last: began, App: s.Spec.Name, Index: s.Version.Index, Replicas: s.Spec.Mode.Replicated.Replicas,
			Image: s.Spec.TaskTemplate.ContainerSpec.Image, Update: s.UpdateStatus.State}
		if label := s.Spec.Labels["waggle.releases"]; label != "" {
			_ = json.Unmarshal([]byte(label), &v.Releases) // else it has none
		}
		last, known := w.last[v.App]
		if known && v.Index < last.Index {
			continue // this manager was read while it lagged behind
		}
		if known && v.Index == last.Index {
			// Seen again: whoever was told before this moment has not changed it since.
			if i := w.lastOf(v.App); i >= 0 {
				w.all[i].Last = began
			}
			continue
		}
		w.last[v.App] = v
		w.all = append(w.all, v)
	}
}

func (w *watcher) lastOf(app string) int {
	for i, v := range slices.Backward(w.all) {
		if v.App == app {
			return i
		}
	}
	return -1
}

// seen returns all versions so far.
func (w *watcher) seen() []version {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.all)
}

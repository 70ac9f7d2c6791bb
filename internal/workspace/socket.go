package workspace

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// maxSockets is how many Socket Mode connections an app may have.
// https://docs.slack.dev/apis/events-api/using-socket-mode
const maxSockets = 10

// socketState is the app's Socket Mode connections. Workspace.mu guards it.
type socketState struct {
	tickets map[string]bool // given out, not yet used
	open    []*socket
	next    int // whose turn it is
}

// socket is one connection. Slack sends each request to one of them.
type socket struct {
	conn    *websocket.Conn
	writing sync.Mutex

	mu      sync.Mutex
	waiting map[string]chan json.RawMessage // by envelope id
	gone    chan struct{}                   // closed when it was read to the end
}

// https://docs.slack.dev/reference/methods/apps.connections.open
func (w *Workspace) appsConnectionsOpen(*request) (object, *apiError) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sockets.tickets == nil {
		w.sockets.tickets = make(map[string]bool)
	}
	ticket := secret()
	w.sockets.tickets[ticket] = true
	return object{"url": "ws" + strings.TrimPrefix(w.base, "http") + "/link/?ticket=" + ticket + "&app_id=" + w.opts.App.ID}, nil
}

// serveSocket is the WebSocket of one connection, open until either side ends it.
// https://docs.slack.dev/apis/events-api/using-socket-mode
func (w *Workspace) serveSocket(rw http.ResponseWriter, r *http.Request) {
	ticket := r.URL.Query().Get("ticket")
	w.mu.Lock()
	valid := w.sockets.tickets[ticket] && !w.closed && len(w.sockets.open) < maxSockets
	delete(w.sockets.tickets, ticket)
	w.mu.Unlock()
	if !valid {
		http.Error(rw, "invalid ticket", http.StatusNotFound)
		return
	}
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	conn, err := upgrader.Upgrade(rw, r, nil)
	if err != nil {
		return // Upgrade answered
	}
	s := &socket{conn: conn, waiting: make(map[string]chan json.RawMessage), gone: make(chan struct{})}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		_ = conn.Close()
		return
	}
	w.sockets.open = append(w.sockets.open, s)
	n := len(w.sockets.open)
	w.wg.Add(1) // the connection is no longer the server's to wait for
	w.notify()
	w.mu.Unlock()
	defer w.wg.Done()

	_ = s.write(object{
		"type": "hello", "num_connections": n, "connection_info": object{"app_id": w.opts.App.ID},
		"debug_info": object{"host": "applink-local", "started": w.clock().UTC().Format(time.DateTime), "build_number": 1, "approximate_connection_time": 18060},
	})
	s.read()
	w.mu.Lock()
	for i, o := range w.sockets.open {
		if o == s {
			w.sockets.open = append(w.sockets.open[:i:i], w.sockets.open[i+1:]...)
			break
		}
	}
	w.notify()
	w.mu.Unlock()
	_ = conn.Close()
}

func (s *socket) write(v any) error {
	b, err := encode(v)
	if err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	_ = s.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	return s.conn.WriteMessage(websocket.TextMessage, b)
}

// read hands acknowledgements to those who wait for them until the connection
// ends.
func (s *socket) read() {
	defer close(s.gone)
	for {
		_, b, err := s.conn.ReadMessage()
		if err != nil {
			return
		}
		var ack struct {
			EnvelopeID string          `json:"envelope_id"`
			Payload    json.RawMessage `json:"payload"`
		}
		if json.Unmarshal(b, &ack) != nil {
			continue
		}
		s.mu.Lock()
		if c := s.waiting[ack.EnvelopeID]; c != nil {
			c <- ack.Payload
			delete(s.waiting, ack.EnvelopeID)
		}
		s.mu.Unlock()
	}
}

// pickSocket returns the connection whose turn it is, or nil without any.
func (w *Workspace) pickSocket() *socket {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sockets.open) == 0 {
		return nil
	}
	w.sockets.next++
	return w.sockets.open[w.sockets.next%len(w.sockets.open)]
}

// deliverSocket sends d as an envelope and waits for its acknowledgement.
func (w *Workspace) deliverSocket(ctx context.Context, s *socket, d delivery) (Ack, error) {
	id := secret()
	ack := make(chan json.RawMessage, 1)
	s.mu.Lock()
	s.waiting[id] = ack
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waiting, id)
		s.mu.Unlock()
	}()
	envelope := object{"type": d.kind, "envelope_id": id, "payload": d.payload, "accepts_response_payload": d.answers}
	if d.kind == "events_api" {
		envelope["retry_attempt"], envelope["retry_reason"] = d.retry, d.reason
	}
	if err := s.write(envelope); err != nil {
		return Ack{}, err
	}
	select {
	case payload := <-ack:
		body := string(payload)
		if !d.answers || body == "null" {
			body = ""
		}
		return Ack{Status: http.StatusOK, Body: body}, nil
	case <-s.gone:
		return Ack{}, errors.New("the connection ended")
	case <-ctx.Done():
		return Ack{}, ctx.Err()
	case <-w.closing:
		return Ack{}, errors.New("the workspace closed")
	}
}

// WaitSockets waits until the app has n Socket Mode connections.
func (w *Workspace) WaitSockets(ctx context.Context, n int) error {
	if err := w.until(ctx, func() bool { return len(w.sockets.open) == n }); err != nil {
		return errors.Join(errors.New("workspace: not "+strconv.Itoa(n)+" connections"), err)
	}
	return nil
}

// Disconnect tells every connection to reconnect and closes it, as Slack does
// now and then. Reason is "warning", "refresh_requested" or "link_disabled".
func (w *Workspace) Disconnect(reason string) {
	w.mu.Lock()
	open := w.sockets.open
	w.sockets.open = nil // from now on only new connections count
	w.mu.Unlock()
	for _, s := range open {
		_ = s.write(object{"type": "disconnect", "reason": reason, "debug_info": object{"host": "applink-local"}})
		_ = s.conn.Close()
	}
}

// closeSockets drops every connection.
func (w *Workspace) closeSockets() {
	w.mu.Lock()
	open := append([]*socket(nil), w.sockets.open...)
	w.mu.Unlock()
	for _, s := range open {
		_ = s.conn.Close()
	}
}

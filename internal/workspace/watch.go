package workspace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Kind is what happened to a message or a view.
type Kind string

// What a [Change] reports.
const (
	Posted     Kind = "posted"
	Edited     Kind = "edited"
	Deleted    Kind = "deleted"
	ViewOpened Kind = "view_opened" // also when a view was updated
	ViewClosed Kind = "view_closed"
)

// Change is something that people see happen.
type Change struct {
	Kind    Kind
	At      time.Time
	Message Message // as it is now
	View    View    // set for ViewOpened and ViewClosed
}

// subscriber is a queue between the workspace and one receiver.
type subscriber struct {
	queue []Change
	wake  chan struct{} // holds one token while the queue has something new
}

// Subscribe returns a feed of all changes from now on, everybody's ephemeral
// messages included. It never drops or delays one; the channel is closed when
// ctx ends or the workspace closes.
func (w *Workspace) Subscribe(ctx context.Context) <-chan Change {
	s := &subscriber{wake: make(chan struct{}, 1)}
	out := make(chan Change)
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		close(out)
		return out
	}
	w.subscribers[s] = struct{}{}
	w.wg.Add(1)
	w.mu.Unlock()

	go func() {
		defer w.wg.Done()
		defer close(out)
		defer func() {
			w.mu.Lock()
			delete(w.subscribers, s)
			w.mu.Unlock()
		}()
		for {
			w.mu.Lock()
			batch := s.queue
			s.queue = nil
			w.mu.Unlock()
			for _, c := range batch {
				select {
				case out <- c:
				case <-ctx.Done():
					return
				case <-w.closing:
					return
				}
			}
			if len(batch) > 0 {
				continue
			}
			select {
			case <-s.wake:
			case <-ctx.Done():
				return
			case <-w.closing:
				return
			}
		}
	}()
	return out
}

// publish tells everybody of a change to m. w.mu is held.
func (w *Workspace) publish(k Kind, m *Message) {
	w.send(Change{Kind: k, At: w.clock(), Message: w.snapshot(m)})
}

// send hands a change to the subscribers and wakes those who wait. w.mu is held.
func (w *Workspace) send(c Change) {
	for s := range w.subscribers {
		s.queue = append(s.queue, c)
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	w.notify()
}

// notify wakes those who wait for a condition. w.mu is held.
func (w *Workspace) notify() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// until waits until cond, called with w.mu held, is true. It fails when ctx ends
// or the workspace closes first.
func (w *Workspace) until(ctx context.Context, cond func() bool) error {
	for {
		w.mu.Lock()
		ok, changed := cond(), w.changed
		w.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.closing:
			return errors.New("the workspace closed")
		}
	}
}

// Wait returns the first message that user sees in channel and that match
// accepts, as soon as there is one. The error says what they see instead. Match
// must not call the workspace.
func (w *Workspace) Wait(ctx context.Context, channel, user string, match func(Message) bool) (Message, error) {
	var found Message
	err := w.until(ctx, func() bool {
		for _, m := range w.visible(channel, user) {
			if match(m) {
				found = m
				return true
			}
		}
		return false
	})
	if err != nil {
		return Message{}, fmt.Errorf("workspace: no such message for %s in %s: %w\n%s", user, channel, err, w.Screen(channel, user))
	}
	return found, nil
}

// WaitView returns the topmost modal user sees, as soon as match accepts it.
// Match must not call the workspace.
func (w *Workspace) WaitView(ctx context.Context, user string, match func(View) bool) (View, error) {
	var found View
	err := w.until(ctx, func() bool {
		v := w.topView(user)
		if v == nil || !match(v.snapshot()) {
			return false
		}
		found = v.snapshot()
		return true
	})
	if err != nil {
		return View{}, fmt.Errorf("workspace: no such view for %s: %w", user, err)
	}
	return found, nil
}

// WaitCalls waits until the app made n calls of method, or of any when method is
// empty, and they were answered. It returns them.
func (w *Workspace) WaitCalls(ctx context.Context, method string, n int) ([]Call, error) {
	err := w.until(ctx, func() bool {
		done := 0
		for _, c := range w.calls {
			if (method == "" || c.Method == method) && c.Status != 0 {
				done++
			}
		}
		return done >= n
	})
	calls := w.Calls(method)
	if err != nil {
		return calls, fmt.Errorf("workspace: %d calls of %q, not %d: %w", len(calls), method, n, err)
	}
	return calls, nil
}

// Screen is the channel as user sees it, as text: who said it and what, replies
// indented below their parents.
func (w *Workspace) Screen(channel, user string) string {
	messages := w.Messages(channel, user)
	if len(messages) == 0 {
		return "(nothing to see)\n"
	}
	var b strings.Builder
	write := func(m Message, indent string) {
		who := m.names.user(m.User)
		if m.Ephemeral {
			who += " (only visible to you)"
		}
		fmt.Fprintf(&b, "%s%s:\n", indent, who)
		text := m.Plain()
		if m.MarkedEdited {
			text += " (edited)"
		}
		for line := range strings.Lines(text) {
			b.WriteString(strings.TrimRight(indent+"  "+strings.TrimRight(line, "\n"), " ") + "\n")
		}
	}
	for _, t := range Threads(messages) {
		write(t.Message, "")
		for _, r := range t.Replies {
			write(r, "    ")
		}
	}
	return b.String()
}

// Thread is a message with the replies below it.
type Thread struct {
	Message
	Replies []Message
}

// Threads puts replies below their parents. One whose parent is not among the
// messages stands by itself, and a broadcast one does so too.
func Threads(messages []Message) []Thread {
	replies := make(map[string][]Message)
	for _, m := range messages {
		if m.ThreadTS != "" {
			replies[m.ThreadTS] = append(replies[m.ThreadTS], m)
		}
	}
	var out []Thread
	for _, m := range messages {
		if m.ThreadTS != "" && !m.Broadcast && slices.ContainsFunc(messages, func(p Message) bool { return p.TS == m.ThreadTS }) {
			continue
		}
		out = append(out, Thread{m, replies[m.TS]})
	}
	return out
}

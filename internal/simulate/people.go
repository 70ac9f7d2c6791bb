package simulate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"waggle/ops"
	"waggle/ops/queue"
)

func person(name string) ops.Actor { return ops.Actor{ID: "U-" + name, Name: name, Via: "slack"} }

// ask starts the load: every command of the plan at its time.
func (w *world) ask() {
	for i, c := range w.plan.commands {
		w.people.Go(func() {
			time.Sleep(c.at)
			w.command(i, c)
		})
	}
}

func (w *world) command(i int, c command) {
	id := fmt.Sprintf("cmd%d", i+1)
	switch c.what {
	case taskDies:
		w.swarm.killTask(c.app)
	case byHandScale:
		w.swarm.scaleByHand(c.app, c.n)
	case askScale, askMore:
		op := &operation{id: id, kind: "scale", app: c.app, n: c.n, relative: c.what == askMore}
		w.submit(c, op, &ops.Scale{App: c.app, Replicas: c.n, Relative: op.relative})
	case askRollback:
		w.submit(c, &operation{id: id, kind: "rollback", app: c.app}, &ops.Rollback{App: c.app})
	case askPush:
		w.push(c)
	case askCancel:
		w.cancel(c)
	}
}

// submit requests an operation.
func (w *world) submit(c command, op *operation, what ops.Operation) {
	w.mu.Lock()
	op.askedAt = w.since()
	w.history.ops[op.id] = op
	w.log("@ada", "asks: %s %s %s %d", op.id, c.what, c.app, c.n)
	w.mu.Unlock()
	err := w.withRetry(c.on, func(ctx context.Context, r *replica) error {
		err := r.runner.Submit(ctx, ops.Request{ID: op.id, Actor: person("ada"), Title: c.what}, what)
		if errors.Is(err, queue.ErrDuplicate) {
			return nil
		}
		return err
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	op.accepted, op.acceptedAt = err == nil, w.since()
	if err != nil {
		w.log("@ada", "%s was not taken: %v", op.id, err)
	}
}

// push delivers the push of a commit.
func (w *world) push(c command) {
	w.mu.Lock()
	n := c.n
	w.head = max(w.head, n)
	asked := w.since()
	w.pushed[n] = asked
	w.log("@ada", "pushes commit %d", n)
	w.mu.Unlock()
	parent := strings.Repeat("0", 40)
	if n > 1 {
		parent = commit(n - 1)
	}
	url := "https://git.example/acme/pizza.git"
	push := ops.Push{Provider: "github", Repo: url, RepoURLs: []string{url}, Name: "acme/pizza", Branch: "main",
		Default: "main", Before: parent, After: commit(n),
		Pusher: "ada", PushedAt: w.began.Add(asked).Truncate(time.Second), Commits: []ops.Commit{{ID: commit(n),
			Message: fmt.Sprintf("change %d", n)}}, Count: 1}
	err := w.withRetry(c.on, func(ctx context.Context, r *replica) error {
		got, err := r.runner.Deploy(ctx, push)
		if err != nil {
			return err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, job := range got.Jobs {
			op := w.history.op(job.ID, "deploy", job.App)
			op.n, op.askedAt, op.accepted = n, asked, true
		}
		w.log(r.name, "takes the push of commit %d: %v %s", n, got.Jobs, got.Reason)
		return nil
	})
	if err != nil {
		w.note("@ada", "the push of commit %d was not taken: %v", n, err)
	}
}

// cancel cancels the app's last operation.
func (w *world) cancel(c command) {
	w.mu.Lock()
	var last *operation
	for _, op := range w.history.ops {
		if op.app == c.app && op.accepted && (last == nil || op.askedAt > last.askedAt) {
			last = op
		}
	}
	w.mu.Unlock()
	if last != nil {
		w.decide(c.on, last.id, "cancel", ops.CancelToken(last.id), ops.Cancel, "ada")
	}
}

// decide clicks a button.
func (w *world) decide(on int, id, click, token string, verdict ops.Verdict, who string) {
	w.note("@"+who, "clicks %s on %s", verdict, id)
	if verdict == ops.Approve {
		w.mu.Lock()
		w.history.approvals[id] = append(w.history.approvals[id], w.since())
		w.mu.Unlock()
	}
	err := w.withRetry(on, func(ctx context.Context, r *replica) error {
		err := r.runner.Decide(ctx, ops.Request{ID: "click:" + id + "." + click, Actor: person(who)}, token, verdict, "")
		if errors.Is(err, queue.ErrDuplicate) {
			return nil
		}
		return err
	})
	if err != nil {
		w.note("@"+who, "the click on %s was not taken: %v", id, err)
	}
}

// scheduleDecision decides about a pending approval after a while, once for each token. The
// caller holds the lock.
func (w *world) scheduleDecision(s ops.Status) {
	if w.asked[s.Token] {
		return
	}
	w.asked[s.Token] = true
	sum := w.plan.hash("click", s.ID, len(w.asked))
	verdict := ops.Approve
	switch sum % 10 {
	case 0:
		return // it expires
	case 1:
		verdict = ops.Reject
	}
	w.people.Go(func() {
		select {
		case <-time.After(w.duration(500, 12000, "decide", s.ID)):
		case <-w.end:
			return
		}
		w.decide(int(sum%7), s.ID, s.Token, s.Token, verdict, "bob")
	})
}

// reporter is Slack as one replica sees it.
type reporter struct{ r *replica }

func (p reporter) Open(req ops.Request, ref string, save func(string)) ops.Message {
	m := &message{r: p.r, id: req.ID}
	if ref == "" && p.r.pass() == nil {
		w := p.r.w
		w.mu.Lock()
		w.refs++
		ref := fmt.Sprintf("message%d", w.refs)
		w.mu.Unlock()
		save(ref)
	}
	return m
}

func (p reporter) Record(ctx context.Context, _ ops.Entry) error {
	return p.r.pass()
}

// message delivers statuses. Close delivers the final one, and what could not be delivered
// while Slack was unreachable.
type message struct {
	r    *replica
	id   string
	last *ops.Status // that is not shown yet
}

// Show is called with the operation's mutex held, so it must not block at the gate.
func (m *message) Show(s ops.Status) {
	w := m.r.w
	w.mu.Lock()
	defer w.mu.Unlock()
	m.last = &s
	if !s.State.Final() && !w.slackAway() && m.r.alive() && !m.r.asleep() {
		m.last = nil
		w.show(m.r, s)
	}
}

func (m *message) Close(ctx context.Context) error {
	w := m.r.w
	for {
		if err := m.r.pass(); err != nil {
			return err
		}
		w.mu.Lock()
		last, away := m.last, w.slackAway()
		w.mu.Unlock()
		switch {
		case last == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !away:
			return m.show(last)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Second):
		}
	}
}

func (m *message) show(s *ops.Status) error {
	w := m.r.w
	end := s.State.Final()
	if end {
		if err := w.failpoint(m.r, pointFinal, before); err != nil {
			return err
		}
	}
	w.mu.Lock()
	w.show(m.r, *s)
	if m.last == s {
		m.last = nil
	}
	w.mu.Unlock()
	if end {
		return w.failpoint(m.r, pointFinal, after)
	}
	return nil
}

// show records a delivered status. The caller holds the lock.
func (w *world) show(r *replica, s ops.Status) {
	shown := &shown{at: w.since(), on: r.name, status: s}
	w.known(s.ID)
	all := w.history.told[s.ID]
	if n := len(all); n == 0 || all[n-1].status.State != s.State || all[n-1].status.Note != s.Note {
		text := string(s.State)
		if s.Err != nil {
			text += ": " + s.Err.Sentence
		} else if s.Result != "" {
			text += ": " + s.Result
		} else if s.Note != "" {
			text += ": " + s.Note
		}
		w.log(r.name, "tells %s %s", s.ID, text)
	}
	w.history.told[s.ID] = append(all, shown)
	if s.State == ops.Pending && s.Token != "" {
		w.scheduleDecision(s)
	}
}

// forge records commit statuses.
type forge struct{ r *replica }

func (f forge) Report(_ context.Context, s ops.CommitStatus) error {
	w := f.r.w
	if err := f.r.pass(); err != nil {
		return err
	}
	if err := w.failpoint(f.r, pointCommit, before); err != nil {
		return err
	}
	w.mu.Lock()
	w.history.commits[s.Commit] = append(w.history.commits[s.Commit], s.State)
	w.log(f.r.name, "tells the forge: commit %s is %s", s.Commit[:7], s.State)
	w.mu.Unlock()
	return w.failpoint(f.r, pointCommit, after)
}

// source has every commit.
type source struct{ r *replica }

func (s source) Resolve(context.Context, string, string) (string, error) {
	w := s.r.w
	if err := s.r.pass(); err != nil {
		return "", err
	}
	w.mu.Lock()
	head := w.head
	w.mu.Unlock()
	return commit(head), s.r.pass()
}

func (s source) Checkout(ctx context.Context, _, hash, _ string) (string, func(), error) {
	w := s.r.w
	if err := s.r.pass(); err != nil {
		return "", nil, err
	}
	err := (client{r: s.r}).wait(ctx, w.duration(200, 1500, "clone", hash))
	return w.dir, func() {}, err
}

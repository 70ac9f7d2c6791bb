package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"waggle/internal/forge"
	"waggle/internal/lab"
	"waggle/internal/rig"
	"waggle/internal/workspace"
)

const (
	asker    = "U0ADA"
	approver = "U0GRACE"

	webhookSecret = "chaos-webhook"
	// scaleAbove is the number of replicas above which a scale needs an approval.
	scaleAbove = 3
	// look is how often Redis and the swarm are read.
	look = 200 * time.Millisecond
)

// cell is two replicas of Waggle with a Redis, a workspace and a forge of their own. Several share
// one swarm, each with apps of its own.
type cell struct {
	ctx      context.Context
	name     string
	binary   string
	lab      *lab.Lab
	dir      string
	redis    *lab.Redis
	rdb      *redis.Client
	ws       *workspace.Workspace
	forge    *forge.Forge
	settings map[string]string
	replicas []*replica
	swarm    *watcher
	server   *http.Server
	watching sync.WaitGroup
	cancel   context.CancelFunc

	mu      sync.Mutex // guards what follows
	apps    map[string]*app
	changes []*change
	audit   map[string]entry // by id in the stream
	order   []string
	commits map[string]int
	emptied bool
	slowest time.Duration   // acknowledgement
	takeUp  time.Duration   // the slowest
	late    []string        // what was not taken up
	unheard int             // commands and pushes that no replica acknowledged
	clicked map[string]bool // messages, as they were, of which Approve was clicked
}

// app is one service that a cell changes.
type app struct {
	name    string // of the service
	channel string
	repo    *forge.Repo // nil for one that is not deployed

	pushing sync.Mutex // pushes are numbered in order
	pushes  int
}

// newCell starts all but the replicas.
func newCell(ctx context.Context, e *env, name string, replicas int) (_ *cell, err error) {
	l := e.lab
	c := &cell{name: name, binary: e.binary, lab: l, audit: map[string]entry{}, commits: map[string]int{}, clicked: map[string]bool{}, apps: map[string]*app{}}
	c.ctx, c.cancel = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.dir, err = os.MkdirTemp("", "waggle-chaos-"); err != nil {
		return nil, err
	}
	if c.redis, err = lab.StartRedis(ctx, c.dir, lab.AppendOnly()); err != nil {
		return nil, err
	}
	c.rdb = redis.NewClient(&redis.Options{Addr: c.redis.Addr, DialTimeout: time.Second, ReadTimeout: time.Second, MaxRetries: -1})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c.server = &http.Server{Handler: &balancer{cell: c, client: &http.Client{Transport: &http.Transport{}}}}
	c.watching.Go(func() { _ = c.server.Serve(listener) }) // ends with close
	base := "http://" + listener.Addr().String()

	o := workspace.Example()
	o.EventsURL = base + "/slack/events"
	o.App.Scopes = append(workspace.DefaultScopes(), "chat:write.public")
	if c.ws, err = workspace.New(o); err != nil {
		return nil, err
	}
	if err = c.ws.Start(); err != nil {
		return nil, err
	}
	if c.forge, err = forge.Start(ctx, forge.Options{Dir: c.dir + "/forge", WebhookURL: base + "/webhooks/github", Secret: webhookSecret}); err != nil {
		return nil, err
	}
	c.settings = map[string]string{
		"WAGGLE_SLACK_API_URL":          c.ws.APIURL(),
		"WAGGLE_SLACK_BOT_TOKEN":        c.ws.BotToken(),
		"WAGGLE_SLACK_SIGNING_SECRET":   c.ws.SigningSecret(),
		"WAGGLE_SLACK_CHANNEL":          "C0DEPLOYS",
		"WAGGLE_REDIS_URL":              c.redis.URL,
		"WAGGLE_WEBHOOKS_GITHUB_SECRET": webhookSecret,
		"WAGGLE_SECRET_KEY":             e.key,
		"WAGGLE_APPROVALS_SCALE_ABOVE":  fmt.Sprint(scaleAbove),
		"WAGGLE_DEPLOY_TIMEOUT":         "3m",
	}
	for i := range replicas {
		addr, err := rig.FreeAddr()
		if err != nil {
			return nil, err
		}
		c.replicas = append(c.replicas, &replica{cell: c, name: fmt.Sprintf("%s/%d", name, i+1), addr: addr, host: l.Nodes[i%2].Host()})
	}
	c.swarm = newWatcher(l.Nodes[2].Socket, name+"-")
	c.watching.Go(func() { c.swarm.run(c.ctx) })
	c.watching.Go(func() { c.follow() })
	return c, nil
}

// close ends the cell and removes its apps.
func (c *cell) close() {
	for _, r := range c.replicas {
		r.close()
	}
	c.cancel()
	for _, a := range c.allApps() {
		_, _ = c.lab.Nodes[2].Docker(context.Background(), "service", "rm", a.name) // the lab goes too
	}
	if c.forge != nil {
		_ = c.forge.Close()
	}
	if c.ws != nil {
		_ = c.ws.Close()
	}
	if c.server != nil {
		_ = c.server.Close()
	}
	if c.rdb != nil {
		_ = c.rdb.Close()
	}
	if c.redis != nil {
		_ = c.redis.Thaw()
		c.redis.Kill()
	}
	c.watching.Wait()
	_ = os.RemoveAll(c.dir)
}

func (c *cell) service(app string) string { return c.name + "-" + app }

func (c *cell) app(name string) *app {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.apps[name]
}

func (c *cell) allApps() []*app {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.SortedFunc(maps.Values(c.apps), func(a, b *app) int { return cmp.Compare(a.name, b.name) })
}

// create makes a service, with a repository if deployed.
func (c *cell) create(name string, replicas int, deployed bool, labels ...string) error {
	a := &app{name: c.service(name), channel: "C0" + strings.ToUpper(name)}
	err := c.ws.AddChannel(workspace.Channel{ID: a.channel, Name: name, Members: []string{asker, approver}, HasApp: true})
	if err != nil {
		return err
	}
	args := []string{"service", "create", "--detach", "--quiet", "--name", a.name, "--endpoint-mode", "dnsrr", "--no-resolve-image",
		"--stop-grace-period", "1s", "--update-monitor", "500ms", "--replicas", fmt.Sprint(replicas), "--label", "waggle.channel=" + a.channel}
	if deployed {
		if a.repo, err = c.forge.Create(c.ctx, "acme/"+a.name, forge.RepoOptions{}); err != nil {
			return err
		}
		args = append(args, "--label", "waggle.repo="+a.repo.CloneURL())
	}
	for _, l := range labels {
		args = append(args, "--label", l)
	}
	c.mu.Lock()
	c.apps[name] = a
	c.mu.Unlock()
	_, err = c.lab.Nodes[2].Docker(c.ctx, append(args, c.lab.BaseImage, "sleep", "100000")...)
	return err
}

// scale types a scale and returns it, acknowledged or not.
func (c *cell) scale(name string, n int, relative bool) *change {
	a := c.app(name)
	what := fmt.Sprintf("%s %d", a.name, n)
	if relative {
		what = fmt.Sprintf("%s %+d", a.name, n)
	}
	ch := &change{App: a.name, Kind: "scale", What: "/scale " + what, Absolute: n, Relative: relative, Asked: time.Now()}
	if relative {
		ch.Absolute, ch.Delta = -1, n
	}
	ack, err := c.ws.Command(c.ctx, workspace.CommandInput{User: asker, Channel: a.channel, Command: "/scale", Text: what})
	ch.ID = fmt.Sprintf("cmd-%x", sha256.Sum256([]byte(ack.TriggerID+"/scale"+what)))[:16]
	// An answer with a text says that it was not taken.
	ch.Accepted = err == nil && ack.OK() && !strings.Contains(ack.Body, `"text"`)
	c.heard(ack.Took, err == nil && ack.OK())
	c.add(ch)
	return ch
}

func (c *cell) heard(took time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ok {
		c.unheard++
		return
	}
	c.slowest = max(c.slowest, took)
}

func (c *cell) add(ch *change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes = append(c.changes, ch)
}

// push pushes the next commit, and has it delivered again until a replica has taken it.
func (c *cell) push(name string) (*change, error) {
	a := c.app(name)
	a.pushing.Lock()
	defer a.pushing.Unlock()
	a.pushes++
	n := a.pushes
	ch := &change{App: a.name, Kind: "deploy", Commit: n, Asked: time.Now()}
	sha, err := a.repo.Push(c.ctx, map[string]string{
		"Dockerfile": fmt.Sprintf("FROM %s\nCOPY version /version\nCMD [\"sleep\", \"100000\"]\n", c.lab.BaseImage),
		"version":    fmt.Sprintf("%s %d", a.name, n), // equal trees would have equal hashes
	}, fmt.Sprintf("Commit %d", n))
	if err != nil {
		return nil, err
	}
	ch.What = fmt.Sprintf("commit %d %.7s", n, sha)
	c.mu.Lock()
	c.commits[sha] = n
	c.mu.Unlock()
	taken := func(d forge.Delivery) bool {
		var answer struct {
			Jobs []struct{ App, ID string }
		}
		if d.Status/100 != 2 || json.Unmarshal([]byte(d.Response), &answer) != nil {
			return false
		}
		for _, j := range answer.Jobs {
			if j.App == a.name {
				ch.ID = j.ID
			}
		}
		if _, id, ok := strings.Cut(d.Response, "as job "); ok && ch.ID == "" { // a delivery whose answer was lost
			ch.ID = strings.FieldsFunc(id, func(r rune) bool { return strings.ContainsRune("\" ,.}", r) })[0]
		}
		return ch.ID != ""
	}
	var d forge.Delivery
	err = until(c.ctx, 20*time.Second, "the delivery of a push", func() bool {
		all := c.forge.Deliveries()
		i := slices.IndexFunc(all, func(d forge.Delivery) bool { return strings.Contains(string(d.Payload), `"after":"`+sha) })
		if i >= 0 {
			d = all[i]
		}
		return i >= 0
	})
	for tries := 0; err == nil && !taken(d) && tries < 100; tries++ {
		c.heard(d.Took, false)
		if err = pause(c.ctx, time.Second); err == nil {
			d, err = c.forge.Redeliver(c.ctx, d)
		}
	}
	if err != nil {
		return nil, err
	}
	if ch.ID == "" {
		return nil, fmt.Errorf("%s: no replica took %s: %d %s", a.name, ch.What, d.Status, d.Response)
	}
	c.heard(d.Took, true)
	ch.Accepted = true
	c.add(ch)
	return ch, nil
}

// follow reads the audit, and clicks Approve where that is asked for.
func (c *cell) follow() {
	for pause(c.ctx, look) == nil {
		c.readAudit()
		all := c.messages()
		c.noteTold(all)
		for _, m := range all {
			if !strings.HasPrefix(m.line, "🔐") {
				continue
			}
			c.mu.Lock()
			done := c.clicked[m.TS+m.Text]
			c.mu.Unlock()
			if done {
				continue
			}
			if ack, err := c.ws.Click(c.ctx, approver, m.Message, "approve"); err == nil && ack.OK() {
				c.mu.Lock()
				c.clicked[m.TS+m.Text] = true
				c.mu.Unlock()
			}
		}
	}
}

// noteTold notes when the end of each change is first seen.
func (c *cell) noteTold(all []shown) {
	lines := map[string]string{}
	for _, m := range all {
		lines[m.op] = m.line
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	outcomes := map[string]string{}
	for _, e := range c.audit {
		outcomes[e.ID] = e.Outcome
	}
	for _, ch := range c.changes {
		line, posted := lines[ch.ID]
		if ch.Told.IsZero() && outcomes[ch.ID] != "" && (isFinal(line) || !posted && outcomes[ch.ID] == "refused") {
			ch.Told = time.Now()
		}
	}
}

// isTold says whether a change's end was seen.
func (c *cell) isTold(ch *change) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !ch.Told.IsZero()
}

func (c *cell) readAudit() {
	ctx, cancel := context.WithTimeout(c.ctx, time.Second)
	defer cancel()
	from := "-"
	c.mu.Lock()
	if n := len(c.order); n > 0 && !c.emptied {
		from = "(" + c.order[n-1]
	}
	c.mu.Unlock()
	all, err := c.rdb.XRange(ctx, "waggle:audit", from, "+").Result()
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range all {
		var e entry
		text, _ := m.Values["json"].(string)
		if _, known := c.audit[m.ID]; known || json.Unmarshal([]byte(text), &e) != nil {
			continue
		}
		c.audit[m.ID] = e
		c.order = append(c.order, m.ID)
	}
}

func (c *cell) isEmptied() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.emptied
}

func (c *cell) outcome(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.audit {
		if e.ID == id {
			return e.Outcome
		}
	}
	return ""
}

// shown is a message of the workspace, and the operation that it is about.
type shown struct {
	workspace.Message
	op, line string
}

// messages are all messages about operations that somebody sees.
func (c *cell) messages() []shown {
	var out []shown
	for _, a := range c.allApps() {
		for _, m := range c.ws.History(a.channel) {
			var meta struct {
				Payload struct{ Op string } `json:"event_payload"`
			}
			if m.Deleted || m.Metadata == nil || json.Unmarshal(m.Metadata, &meta) != nil || meta.Payload.Op == "" {
				continue
			}
			out = append(out, shown{m, meta.Payload.Op, firstLine(m.Text)})
		}
	}
	return out
}

func (c *cell) whispers() int {
	n := 0
	for _, a := range c.allApps() {
		for _, m := range c.ws.History(a.channel) {
			if m.Ephemeral && strings.HasPrefix(m.Text, "⛔") {
				n++
			}
		}
	}
	return n
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// told says whether a change's end is in the audit and shown.
func (c *cell) told(ch *change) bool {
	outcome := c.outcome(ch.ID)
	if outcome == "" {
		return false
	}
	for _, m := range c.messages() {
		if m.op == ch.ID {
			return isFinal(m.line)
		}
	}
	return outcome == "refused"
}

// await waits until a change is told.
func (c *cell) await(ch *change, within time.Duration) error {
	err := until(c.ctx, within, "the end of "+ch.String(), func() bool { return c.told(ch) })
	if err == nil {
		c.mu.Lock()
		if ch.Told.IsZero() {
			ch.Told = time.Now()
		}
		c.mu.Unlock()
	}
	return err
}

// record is what Redis holds of a change.
type record struct {
	Token  int64  `json:"token"` // grows with each process that takes it up
	State  string `json:"state"`
	Open   bool   `json:"open"` // an attempt of Worker has not ended
	Worker string `json:"worker"`
}

// killed kills a replica, and notes in r how long it takes until what it was doing is taken up.
func (c *cell) killed(p *replica, r *result) {
	worker := c.worker(p)
	p.kill()
	since := time.Now()
	r.done++
	ids, err := c.rdb.SMembers(c.ctx, "waggle:inflight").Result()
	if err != nil || worker == "" {
		return
	}
	for _, id := range ids {
		at, err := c.record(id)
		if err != nil || !at.Open || at.Worker != worker {
			continue
		}
		c.watching.Go(func() {
			took, err := c.takenUp(&change{ID: id}, at, since)
			c.mu.Lock()
			defer c.mu.Unlock()
			if err != nil && c.ctx.Err() == nil {
				c.late = append(c.late, "stuck: "+err.Error())
			}
			c.takeUp = max(c.takeUp, took)
		})
	}
}

// worker is the name of a replica's process in Redis, by when it was started; "" when that could be
// another one's too.
func (c *cell) worker(p *replica) string {
	keys, err := c.rdb.Keys(c.ctx, "waggle:lock:worker:*").Result()
	if err != nil {
		return ""
	}
	var found []string
	for _, k := range keys {
		var claim struct{ Since time.Time }
		text, err := c.rdb.Get(c.ctx, k).Result()
		if err == nil && json.Unmarshal([]byte(text), &claim) == nil && claim.Since.Sub(p.since()).Abs() < time.Second {
			found = append(found, strings.TrimPrefix(k, "waggle:lock:worker:"))
		}
	}
	if len(found) != 1 {
		return ""
	}
	return found[0]
}

func (c *cell) record(id string) (record, error) {
	ctx, cancel := context.WithTimeout(c.ctx, time.Second)
	defer cancel()
	var rec record
	text, err := c.rdb.Get(ctx, "waggle:op:"+id).Result()
	if err == nil {
		err = json.Unmarshal([]byte(text), &rec)
	}
	return rec, err
}

// untold says whether something about a change is still to be told.
func (c *cell) untold(id string) bool {
	all, err := c.rdb.ZRange(c.ctx, "waggle:outbox", 0, -1).Result()
	return err != nil || slices.ContainsFunc(all, func(e string) bool { return strings.HasPrefix(e, id+"|") })
}

// takenUp waits until somebody has gone on with a change that had got so far, and returns how long
// that took since then.
func (c *cell) takenUp(ch *change, at record, since time.Time) (time.Duration, error) {
	err := until(c.ctx, time.Minute, ch.String()+" is taken up", func() bool {
		now, err := c.record(ch.ID)
		if err == nil && at.State != "pending" && !slices.Contains(slices.Collect(maps.Keys(marks)), at.State) {
			return now.Token != at.Token
		}
		return err == nil && (now.Token != at.Token || !c.untold(ch.ID))
	})
	return time.Since(since), err
}

// leftovers are the keys of Redis that have to be gone when nothing is under way.
func (c *cell) leftovers() []string {
	ctx, cancel := context.WithTimeout(c.ctx, 2*time.Second)
	defer cancel()
	keys, err := c.rdb.Keys(ctx, "waggle:*").Result()
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for _, k := range keys {
		switch {
		case strings.HasPrefix(k, "waggle:lock:") && !strings.HasPrefix(k, "waggle:lock:worker:"), strings.HasPrefix(k, "waggle:applying:"):
			value, _ := c.rdb.Get(ctx, k).Result()
			out = append(out, k+" = "+value)
		case k == "waggle:inflight":
			members, _ := c.rdb.SMembers(ctx, k).Result()
			out = append(out, k+" = "+strings.Join(members, " "))
		case k == "waggle:pending", k == "waggle:outbox":
			members, _ := c.rdb.ZRange(ctx, k, 0, -1).Result()
			out = append(out, k+" = "+strings.Join(members, " "))
		}
	}
	slices.Sort(out)
	return out
}

// settle waits until nothing is under way any more, and returns every violation of what must hold.
func (c *cell) settle(within time.Duration) (wrong []string) {
	deadline := time.Now().Add(within)
	c.mu.Lock()
	changes := slices.Clone(c.changes)
	c.mu.Unlock()
	for _, ch := range changes {
		if c.isTold(ch) {
			continue
		}
		if !ch.Accepted {
			if _, err := c.record(ch.ID); errors.Is(err, redis.Nil) && c.outcome(ch.ID) == "" {
				continue
			}
		}
		if err := c.await(ch, max(time.Until(deadline), time.Second)); err != nil && !c.isEmptied() {
			rec, _ := c.record(ch.ID)
			wrong = append(wrong, fmt.Sprintf("stuck: %v; its record is %+v, its audit entry %q", err, rec, c.outcome(ch.ID)))
		}
	}
	// Which of them is not final, the model says.
	_ = until(c.ctx, 30*time.Second, "final messages", func() bool {
		return !slices.ContainsFunc(c.messages(), func(m shown) bool { return !isFinal(m.line) })
	})
	if err := until(c.ctx, max(time.Until(deadline), 40*time.Second), "an empty Redis", func() bool { return len(c.leftovers()) == 0 }); err != nil {
		wrong = append(wrong, "left in Redis: "+strings.Join(c.leftovers(), "; "))
	}
	c.swarm.sync(c.ctx)
	return append(wrong, c.history().check()...)
}

func (c *cell) history() *history {
	h := &history{Start: map[string]version{}, Whispers: c.whispers()}
	h.Versions = c.swarm.seen()
	for _, m := range c.messages() {
		one := message{ID: m.op}
		for _, e := range m.Edits {
			one.Lines = append(one.Lines, firstLine(e.Text))
		}
		one.Lines = append(one.Lines, m.line)
		h.Messages = append(h.Messages, one)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	h.Emptied, h.Commits = c.emptied, maps.Clone(c.commits)
	for _, ch := range c.changes {
		one := *ch
		h.Changes = append(h.Changes, &one)
	}
	for _, id := range c.order {
		h.Audit = append(h.Audit, c.audit[id])
	}
	for _, v := range h.Versions {
		if _, ok := h.Start[v.App]; !ok {
			h.Start[v.App] = v
		}
	}
	return h
}

// report is everything about a cell that has violated something.
func (c *cell) report(wrong []string) string {
	var out strings.Builder
	for _, w := range wrong {
		fmt.Fprintf(&out, "  %s\n", w)
	}
	h := c.history()
	for _, a := range c.allApps() {
		if slices.ContainsFunc(wrong, func(w string) bool { return strings.Contains(w, a.name) }) {
			fmt.Fprintf(&out, "history of %s:\n%s", a.name, h.tail(a.name))
			for _, m := range h.Messages {
				for _, ch := range h.Changes {
					if ch.ID == m.ID && ch.App == a.name {
						fmt.Fprintf(&out, "message of %s: %q\n", m.ID, m.Lines)
					}
				}
			}
		}
	}
	for _, r := range c.replicas {
		fmt.Fprintf(&out, "log of %s:\n%s", r.name, r.log.String())
	}
	return out.String()
}

// until waits for a condition.
func until(ctx context.Context, within time.Duration, what string, ok func() bool) error {
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %s", within.Round(time.Second), what)
		}
		if err := pause(ctx, 50*time.Millisecond+rand.N(50*time.Millisecond)); err != nil {
			return err
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// processState is the state of a process as ps shows it, "" when there is none.
func processState(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) == 0 {
		return ""
	}
	return fields[0]
}

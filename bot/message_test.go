package bot

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/internal/workspace"
	"waggle/ops"
)

// asked is a request of ada's in a channel, with a response_url of a command
// that she really typed.
func (o *office) asked(channel string) ops.Request {
	o.t.Helper()
	s := &submitter{}
	o.serveHTTP(s)
	if ack := o.typed(ada, channel, "/scale pizza 6"); !ack.OK() {
		o.t.Fatalf("not acknowledged: %+v", ack)
	}
	return s.taken()[0]
}

// until waits for something to become true.
func (o *office) until(what func() bool) {
	o.t.Helper()
	for deadline := time.Now().Add(8 * time.Second); !what(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			o.t.Fatalf("waited in vain; shown: %q", o.visible(linus))
		}
	}
}

// saved keeps the references that a message saves.
type saved struct {
	mu   sync.Mutex
	refs []string
}

func (s *saved) save(ref string) { s.mu.Lock(); defer s.mu.Unlock(); s.refs = append(s.refs, ref) }

// closed closes a message and fails when that takes longer than it may.
func closed(t *testing.T, m ops.Message) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	return m.Close(ctx)
}

func running(n int) ops.Status {
	return status(ops.Working, func(s *ops.Status) { s.Replicas = &ops.Replicas{Wanted: 1000, Running: n} })
}

func done() ops.Status {
	return status(ops.Done, func(s *ops.Status) { s.Result = "pizza runs 6 of 6" })
}

// TestManyShowsAreFewEdits shows a thousand statuses at once.
func TestManyShowsAreFewEdits(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.bot.every = 50 * time.Millisecond
	var refs saved
	m := o.bot.Open(ops.Request{Channel: deploys}, "", refs.save)
	within(t, time.Second, "a thousand Shows", func() {
		for i := range 1000 {
			m.Show(running(i))
		}
	})
	time.Sleep(100 * time.Millisecond)
	m.Show(done())
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
	if posts, edits := o.calls("chat.postMessage"), o.calls("chat.update"); posts != 1 || edits > 10 {
		t.Errorf("%d posts and %d edits", posts, edits)
	}
	got := o.Messages(deploys, linus)
	if len(got) != 1 || !strings.Contains(got[0].Plain(), "pizza runs 6 of 6") {
		t.Fatalf("shown: %q", o.visible(linus))
	}
	if want := deploys + "/" + got[0].TS; len(refs.refs) != 1 || refs.refs[0] != want {
		t.Errorf("saved %q, want %q once", refs.refs, want)
	}
	if got[0].UnfurlLinks == nil || *got[0].UnfurlLinks || got[0].UnfurlMedia == nil || *got[0].UnfurlMedia {
		t.Error("its links unfold")
	}
}

// TestPaceIsThatOfTheChannel edits two messages of one channel.
func TestPaceIsThatOfTheChannel(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.bot.every = 60 * time.Millisecond
	began := time.Now()
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			m := o.bot.Open(ops.Request{Channel: deploys}, "", func(string) {})
			for i := range 60 {
				m.Show(running(i))
				time.Sleep(5 * time.Millisecond)
			}
			m.Show(done())
			if err := closed(t, m); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	calls := o.calls("chat.postMessage") + o.calls("chat.update")
	if most := int(time.Since(began)/o.bot.every) + editBurst + 1; calls > most {
		t.Errorf("%d calls in %s; %d are allowed", calls, time.Since(began), most)
	}
}

func TestSameIsNotSentAgain(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	m := o.bot.Open(ops.Request{Channel: deploys}, "", func(string) {})
	for i := range 20 {
		s := running(3)
		s.Took = time.Duration(i) * time.Second // only the time goes on
		m.Show(s)
		time.Sleep(2 * time.Millisecond)
	}
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
	if posts, edits := o.calls("chat.postMessage"), o.calls("chat.update"); posts != 1 || edits != 0 {
		t.Errorf("%d posts and %d edits", posts, edits)
	}
}

// TestPlanningIsQuiet: most operations are past it before anybody could read it.
func TestPlanningIsQuiet(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.bot.quiet = 150 * time.Millisecond
	m := o.bot.Open(ops.Request{Channel: deploys}, "", func(string) {})
	m.Show(status(ops.Planning, nil))
	time.Sleep(50 * time.Millisecond)
	if n := o.calls("chat.postMessage"); n != 0 {
		t.Errorf("%d posts at once", n)
	}
	o.until(func() bool { return len(o.visible(linus)) == 1 })
	m.Show(done())
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
}

// TestFaults has Slack fail at the post and at the edit, in every way.
func TestFaults(t *testing.T) {
	for name, f := range map[string]workspace.Failure{
		"429":         {Status: 429, RetryAfter: time.Second},
		"ratelimited": {Error: "ratelimited"},
		"500":         {Status: 500},
		"503":         {Status: 503},
		"internal":    {Error: "internal_error"},
		"hang":        {Delay: -1},
		"drop":        {Drop: true},
	} {
		for _, method := range []string{"chat.postMessage", "chat.update"} {
			t.Run(name+" at "+method, func(t *testing.T) {
				t.Parallel()
				o := newOffice(t)
				o.bot.http.Timeout = 300 * time.Millisecond
				m := o.bot.Open(ops.Request{Channel: deploys}, "", func(string) {})
				o.FailNext(method, 1, f)
				m.Show(running(1))
				if method == "chat.update" {
					o.until(func() bool { return len(o.visible(linus)) == 1 })
				}
				m.Show(done())
				if err := closed(t, m); err != nil {
					t.Fatal(err)
				}
				if got := o.visible(linus); len(got) != 1 || !strings.Contains(got[0], "pizza runs 6 of 6") {
					t.Errorf("shown: %q", got)
				}
				calls := o.Calls(method)
				if len(calls) < 2 {
					t.Fatalf("%d calls", len(calls))
				}
				if wait := calls[1].At.Sub(calls[0].At); name == "429" && wait < time.Second {
					t.Errorf("tried again after %s, told to wait 1 s", wait)
				}
			})
		}
	}
}

// TestLostAnswer: Slack posts the message and its answer is lost. Slack has no
// key by which a post could be made once only, and to look for it would take the
// permission to read channels, so there is a second message, and the first is
// left behind. An edit can be repeated without harm.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	var refs saved
	m := o.bot.Open(ops.Request{Channel: deploys}, "", refs.save)
	o.FailNext("chat.postMessage", 1, workspace.Failure{Drop: true, Applied: true})
	o.FailNext("chat.update", 1, workspace.Failure{Drop: true, Applied: true})
	m.Show(running(1))
	o.until(func() bool { return len(o.visible(linus)) == 2 })
	m.Show(done())
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
	got := o.visible(linus)
	if len(got) != 2 || !strings.Contains(got[1], "pizza runs 6 of 6") || len(refs.refs) != 1 {
		t.Errorf("shown: %q, saved %q", got, refs.refs)
	}
}

// TestRefusedForGood does not try for ever what cannot work.
func TestRefusedForGood(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.FailNext("chat.postMessage", 100, workspace.Failure{Error: "token_revoked"})
	m := o.bot.Open(ops.Request{Channel: deploys}, "", func(string) {})
	m.Show(done())
	within(t, time.Second, "giving up", func() {
		if err := closed(t, m); err == nil || !strings.Contains(err.Error(), "token_revoked") {
			t.Errorf("it ends with %v", err)
		}
	})
	if n := o.calls("chat.postMessage"); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// TestNotInChannel has a command typed where the bot may not write: the asker is
// told, with no more than Slack's five answers, the end being one of them.
func TestNotInChannel(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	m := o.bot.Open(o.asked(general), "", func(string) {})
	for i := range 12 {
		m.Show(running(i))
		time.Sleep(20 * time.Millisecond)
	}
	m.Show(done())
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
	if n := o.calls("response_url"); n > 5 {
		t.Errorf("%d uses of the response_url", n)
	}
	for _, c := range o.Calls("response_url") {
		if c.Error != "" {
			t.Errorf("refused: %s", c.Error)
		}
	}
	var hers, others []string
	for _, m := range o.Messages(general, ada) {
		hers = append(hers, m.Plain())
	}
	for _, m := range o.Messages(general, linus) {
		others = append(others, m.Plain())
	}
	if len(hers) == 0 || !strings.Contains(hers[len(hers)-1], "pizza runs 6 of 6") || !strings.Contains(hers[0], "only you see this") {
		t.Errorf("she sees %q", hers)
	}
	if len(others) != 0 {
		t.Errorf("others see %q", others)
	}
}

// TestOnlyTheAskerSees what changed nothing.
func TestOnlyTheAskerSees(t *testing.T) {
	for _, state := range []ops.State{ops.Refused, ops.DryRun} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			m := o.bot.Open(o.asked(deploys), "", func(string) {})
			m.Show(status(ops.Planning, nil))
			m.Show(statuses[string(state)])
			if err := closed(t, m); err != nil {
				t.Fatal(err)
			}
			if got := o.visible(ada); len(got) != 1 || !strings.Contains(got[0], "piza") && !strings.Contains(got[0], "nothing was changed") {
				t.Errorf("she sees %q", got)
			}
			if got := o.visible(linus); len(got) != 0 {
				t.Errorf("others see %q", got)
			}
			if n := o.calls("chat.postMessage"); n != 0 {
				t.Errorf("%d posts", n)
			}
		})
	}
}

// TestRefusedAfterItWasShown edits the message: the channel saw it begin.
func TestRefusedAfterItWasShown(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	m := o.bot.Open(o.asked(deploys), "", func(string) {})
	m.Show(running(1))
	o.until(func() bool { return len(o.visible(linus)) == 1 })
	m.Show(statuses["refused"])
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
	if got := o.visible(linus); len(got) != 1 || !strings.Contains(got[0], "There is no app") {
		t.Errorf("shown: %q", got)
	}
}

// TestUsedUpResponseURL answers as an ephemeral message instead.
func TestUsedUpResponseURL(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	req := o.asked(deploys)
	o.FailNext("response_url", 1, workspace.Failure{Status: 404})
	m := o.bot.Open(req, "", func(string) {})
	m.Show(statuses["refused"])
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
	if got := o.visible(ada); len(got) != 1 || o.calls("chat.postEphemeral") != 1 || len(o.visible(linus)) != 0 {
		t.Errorf("she sees %q; %d ephemeral messages", got, o.calls("chat.postEphemeral"))
	}
}

// TestResponseURLFails tries the response_url again.
func TestResponseURLFails(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	req := o.asked(deploys)
	o.FailNext("response_url", 1, workspace.Failure{Status: 500})
	m := o.bot.Open(req, "", func(string) {})
	m.Show(statuses["refused"])
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
	if got := o.visible(ada); len(got) != 1 {
		t.Errorf("she sees %q", got)
	}
}

// TestDeletedMessage posts it again.
func TestDeletedMessage(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	var refs saved
	m := o.bot.Open(ops.Request{Channel: deploys}, "", refs.save)
	m.Show(running(1))
	o.until(func() bool { return len(o.visible(linus)) == 1 })
	first := o.Messages(deploys, linus)[0]
	if _, _, err := o.bot.api.DeleteMessage(deploys, first.TS); err != nil {
		t.Fatal(err)
	}
	m.Show(done())
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
	if got := o.visible(linus); len(got) != 1 || !strings.Contains(got[0], "pizza runs 6 of 6") || len(refs.refs) != 2 {
		t.Errorf("shown: %q, saved %q", got, refs.refs)
	}
}

// TestTakenUpAgain edits the message that an earlier process made.
func TestTakenUpAgain(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	var refs saved
	m := o.bot.Open(ops.Request{Channel: deploys}, "", refs.save)
	m.Show(running(1))
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
	m = o.bot.Open(ops.Request{}, refs.refs[0], refs.save)
	m.Show(done())
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
	if got := o.visible(linus); len(got) != 1 || !strings.Contains(got[0], "pizza runs 6 of 6") || len(refs.refs) != 1 {
		t.Errorf("shown: %q, saved %q", got, refs.refs)
	}
}

// TestNoWhere: a push to an app without a channel is announced in the default
// one, and nowhere when there is none.
func TestNoWhere(t *testing.T) {
	t.Parallel()
	for _, channel := range []string{"", deploys} {
		o := newOffice(t, func(_ *workspace.Options, b *Options) { b.Channel = channel })
		m := o.bot.Open(ops.Request{}, "", func(string) {})
		m.Show(done())
		if err := closed(t, m); err != nil {
			t.Fatal(err)
		}
		if want := len(channel) / len(deploys); len(o.visible(linus)) != want {
			t.Errorf("in %q: %q", channel, o.visible(linus))
		}
	}
}

// TestCloseIsPrompt ends while Slack hangs, waits or refuses, and leaves nothing.
func TestCloseIsPrompt(t *testing.T) { // not parallel: it counts goroutines
	for name, f := range map[string]workspace.Failure{"hangs": {Delay: -1}, "limits": {Status: 429, RetryAfter: 30 * time.Second}, "is broken": {Status: 500}} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t)
			o.FailNext("chat.postMessage", 100, f)
			noGoroutineLeft(t, func() {
				m := o.bot.Open(ops.Request{Channel: deploys}, "", func(string) {})
				m.Show(done())
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				within(t, time.Second, "Close", func() {
					if err := m.Close(ctx); err == nil {
						t.Error("it does not say that the last status is not shown")
					}
				})
				ended, cancel := context.WithCancel(t.Context())
				cancel()
				m = o.bot.Open(ops.Request{Channel: deploys}, "", func(string) {})
				m.Show(running(1))
				within(t, time.Second, "Close with an ended context", func() { _ = m.Close(ended) })
			})
		})
	}
	t.Run("nothing shown", func(t *testing.T) {
		o := newOffice(t)
		noGoroutineLeft(t, func() {
			if err := closed(t, o.bot.Open(ops.Request{Channel: deploys}, "", func(string) {})); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("many", func(t *testing.T) {
		o := newOffice(t)
		noGoroutineLeft(t, func() {
			var all sync.WaitGroup
			for i := range 20 {
				all.Go(func() {
					m := o.bot.Open(ops.Request{ID: fmt.Sprint(i), Channel: deploys}, "", func(string) {})
					m.Show(running(i))
					m.Show(done())
					if err := closed(t, m); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
		})
		if n := len(o.visible(linus)); n != 20 {
			t.Errorf("%d messages", n)
		}
	})
}

// TestShowNeverBlocks while Slack hangs.
func TestShowNeverBlocks(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.FailNext("chat.postMessage", 1, workspace.Failure{Delay: -1})
	m := o.bot.Open(ops.Request{Channel: deploys}, "", func(string) {})
	within(t, time.Second, "a thousand Shows", func() {
		for i := range 1000 {
			m.Show(running(i))
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = m.Close(ctx)
}

// TestUnreadableReply: an unreadable way to answer is no reason not to report.
func TestUnreadableReply(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	m := o.bot.Open(ops.Request{Channel: deploys, Reply: "{"}, "", func(string) {})
	m.Show(done())
	if err := closed(t, m); err != nil || len(o.visible(linus)) != 1 {
		t.Errorf("%v, shown %q", err, o.visible(linus))
	}
}

package bot

import (
	"context"
	"fmt"
	"log/slog"
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

// withLog is a failure with a log that is uploaded.
func withLog() ops.Status {
	return status(ops.Failure, func(s *ops.Status) {
		s.Err = &ops.Error{Code: ops.Failed, Sentence: "The build failed", Whole: "all of it"}
	})
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

// TestLostAnswer: Slack posts the message and its answer is lost. The message is found by
// its metadata and edited, not posted a second time.
func TestLostAnswer(t *testing.T) {
	for name, lost := range map[string]workspace.Failure{
		"connection closed": {Drop: true, Applied: true},
		"timeout":           {Delay: -1, Applied: true},
		"bad gateway":       {Status: 502, Applied: true},
		"internal error":    {Error: "internal_error", Applied: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			o.bot.http.Timeout = 300 * time.Millisecond
			var refs saved
			m := o.bot.Open(ops.Request{ID: "cmd-1", Channel: deploys}, "", refs.save)
			o.FailNext("chat.postMessage", 1, lost)
			o.FailNext("conversations.history", 1, workspace.Failure{Status: 503})
			o.FailNext("chat.update", 1, lost)
			m.Show(running(1))
			o.until(func() bool { return len(o.visible(linus)) == 1 })
			m.Show(done())
			if err := closed(t, m); err != nil {
				t.Fatal(err)
			}
			o.shows("pizza runs 6 of 6")
			if n := o.calls("chat.postMessage"); n != 1 || len(refs.refs) != 1 {
				t.Errorf("%d posts, saved %q", n, refs.refs)
			}
		})
	}
}

// shows fails unless everybody in #deploys sees one message with a text.
func (o *office) shows(text string) {
	o.t.Helper()
	if got := o.visible(linus); len(got) != 1 || !strings.Contains(got[0], text) {
		o.t.Errorf("shown: %q, want one message with %q", got, text)
	}
}

// TestDiedAfterThePost: the process died when Slack had the message, before its name was
// kept. The next one finds it among many others, and edits it.
func TestDiedAfterThePost(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	req := ops.Request{ID: "cmd-1", Channel: deploys, At: time.Now()}
	show := func(req ops.Request, ref string, s ops.Status) []string {
		t.Helper()
		var refs saved
		m := o.bot.Open(req, ref, refs.save)
		m.Show(s)
		if err := closed(t, m); err != nil {
			t.Fatal(err)
		}
		return refs.refs
	}
	first := show(req, "", running(1)) // and dies
	for i := range historyPage + 1 {
		if _, err := o.Say(linus, deploys, "", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	show(ops.Request{ID: "cmd-2", Channel: deploys}, "", running(2))
	if got := show(req, "?", done()); len(got) != 1 || got[0] != first[0] {
		t.Errorf("saved %q, want the message of the first process, %q", got, first)
	}
	if n, pages := o.calls("chat.postMessage"), o.calls("conversations.history"); n != 2 || pages != 2 {
		t.Errorf("%d posts of 2 operations, %d pages of history read", n, pages)
	}
	// Of one that was never posted nothing is found.
	show(ops.Request{ID: "cmd-3", Channel: deploys, At: time.Now()}, "?", done())
	if n := o.calls("chat.postMessage"); n != 3 {
		t.Errorf("%d posts", n)
	}
}

// TestNotPostedIsNotLookedFor: where Slack's answer proves that there is no message, the
// history is not read.
func TestNotPostedIsNotLookedFor(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.FailNext("chat.postMessage", 1, workspace.Failure{Error: "ratelimited"})
	o.FailNext("chat.postMessage", 1, workspace.Failure{Status: 429, RetryAfter: time.Second})
	m := o.bot.Open(ops.Request{ID: "cmd-1", Channel: deploys}, "", func(string) {})
	m.Show(done())
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
	o.shows("pizza runs 6 of 6")
	if n := o.calls("conversations.history"); n != 0 {
		t.Errorf("the history was read %d times", n)
	}
}

// TestHistoryIsClosed: without the right to read a channel's history a message is posted,
// though there may be one.
func TestHistoryIsClosed(t *testing.T) {
	for _, code := range []string{"missing_scope", "not_in_channel", "unknown_method", "channel_not_found"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			o.Outage("conversations.history", 0, workspace.Failure{Error: code})
			m := o.bot.Open(ops.Request{ID: "cmd-1", Channel: deploys}, "?", func(string) {})
			m.Show(done())
			if err := closed(t, m); err != nil {
				t.Fatal(err)
			}
			o.shows("pizza runs 6 of 6")
		})
	}
}

// TestLostInTheDefaultChannel: an approval was asked for in the default channel, which the
// settings have by its name, as Waggle can't write where the command was typed.
func TestLostInTheDefaultChannel(t *testing.T) {
	t.Parallel()
	o := newOffice(t, func(_ *workspace.Options, b *Options) { b.Channel = "#deploys" })
	req := o.asked(general)
	show := func(ref string, s ops.Status) {
		t.Helper()
		m := o.bot.Open(req, ref, func(string) {})
		m.Show(s)
		if err := closed(t, m); err != nil {
			t.Fatal(err)
		}
	}
	show("", statuses["pending"])
	o.shows("Approve")
	show("?", done())
	o.shows("pizza runs 6 of 6")
}

// TestFinalError: what Close returns when Slack refuses for good, and how often it is asked.
func TestFinalError(t *testing.T) {
	for code, tt := range map[string]struct {
		calls int
		later bool // it may be shown later
	}{
		"token_revoked":     {1, true},
		"invalid_auth":      {1, true},
		"account_inactive":  {1, true},
		"missing_scope":     {1, true},
		"channel_not_found": {1, false},
		"not_in_channel":    {1, false},
		"is_archived":       {1, false},
		"msg_too_long":      {3, false}, // each time in a shorter form
		"a_new_code":        {3, false},
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			var log logged
			o := newOffice(t, func(_ *workspace.Options, b *Options) { b.Log = slog.New(slog.NewTextHandler(&log, nil)) })
			o.bot.quiet = time.Hour // else the same status is tried once more
			end := o.Outage("chat.postMessage", 0, workspace.Failure{Error: code})
			m := o.bot.Open(ops.Request{ID: "cmd-1", Channel: deploys}, "", func(string) {})
			m.Show(running(1))
			o.until(func() bool { return o.calls("chat.postMessage") == tt.calls })
			m.Show(done())
			err := closed(t, m)
			if (err != nil) != tt.later || tt.later && !strings.Contains(err.Error(), code) {
				t.Errorf("Close returns %v", err)
			}
			if n := o.calls("chat.postMessage"); n != 2*tt.calls {
				t.Errorf("%d calls for two statuses, want %d for each", n, tt.calls)
			}
			if !tt.later {
				if warns := log.lines("level=WARN"); len(warns) != 1 {
					t.Errorf("%d warnings: %q", len(warns), warns)
				}
				if found := log.lines("op=cmd-1 channel=" + deploys); len(found) != 1 || !strings.Contains(found[0], code) {
					t.Errorf("the warning names not all: %q", found)
				}
				return
			}
			end()
			m = o.bot.Open(ops.Request{ID: "cmd-1", Channel: deploys}, "", func(string) {})
			m.Show(done())
			if err := closed(t, m); err != nil {
				t.Fatal(err)
			}
			o.shows("pizza runs 6 of 6")
		})
	}
}

// logged keeps what is logged.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }

func (l *logged) lines(with string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, with) {
			out = append(out, line)
		}
	}
	return out
}

// TestTooLong: what Slack refuses as too long or malformed is shown in a shorter form,
// which says so, with what it takes to decide and to find the rest.
func TestTooLong(t *testing.T) {
	for _, method := range []string{"chat.postMessage", "chat.update"} {
		for _, state := range []string{"failed", "pending"} {
			for n, code := range []string{"", "invalid_blocks", "msg_blocks_too_long"} {
				t.Run(fmt.Sprint(method, state, n), func(t *testing.T) {
					t.Parallel()
					o := newOffice(t)
					m := o.bot.Open(ops.Request{ID: "cmd-1", Channel: deploys}, "", func(string) {})
					if method == "chat.update" {
						m.Show(running(1))
						o.until(func() bool { return len(o.visible(linus)) == 1 })
					}
					o.FailNext(method, n, workspace.Failure{Error: code})
					s := statuses[state]
					s.ID = "cmd-1"
					m.Show(s)
					if err := closed(t, m); err != nil {
						t.Fatal(err)
					}
					o.shows(s.Target)
					got := o.Messages(deploys, linus)[0]
					if cut := strings.Contains(got.Plain(), "Search Waggle's log for `op=cmd-1`"); cut != (n > 0) {
						t.Errorf("it says that it is cut: %v\n%s", cut, got.Plain())
					}
					buttons := len(got.Controls())
					if state == "pending" && (buttons == 2) != (n < 2) {
						t.Errorf("%d buttons", buttons)
					}
					if state == "pending" && n == 2 && !strings.Contains(got.Plain(), "/swarm pending") {
						t.Errorf("nothing to approve it by: %s", got.Plain())
					}
				})
			}
		}
	}
}

// TestSlackAwayForLong: Slack is away for as long as several messages of the kept last state
// are closed in vain; when it is back the next one shows it, within the time between two tries.
func TestSlackAwayForLong(t *testing.T) {
	for name, f := range map[string]workspace.Failure{
		"503":         {Status: 503},
		"429":         {Status: 429, RetryAfter: time.Second},
		"ratelimited": {Error: "ratelimited"},
		"hang":        {Delay: -1},
		"lost":        {Drop: true, Applied: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			var refs saved
			try := func(within time.Duration) error {
				ctx, cancel := context.WithTimeout(t.Context(), within)
				defer cancel()
				ref := "?"
				if len(refs.refs) > 0 {
					ref = refs.refs[0]
				}
				m := o.bot.Open(ops.Request{ID: "cmd-1", Channel: deploys, At: time.Now()}, ref, refs.save)
				m.Show(done())
				return m.Close(ctx)
			}
			end := o.Outage("", 0, f)
			for range 3 {
				if err := try(100 * time.Millisecond); err == nil {
					t.Fatal("Close says that it is shown")
				}
			}
			end()
			if err := try(8 * time.Second); err != nil {
				t.Fatal(err)
			}
			o.shows("pizza runs 6 of 6")
		})
	}
}

// TestBackWhileItCloses: a Close that is under way when Slack comes back succeeds soon after.
func TestBackWhileItCloses(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	end := o.Outage("", 0, workspace.Failure{Drop: true})
	m := o.bot.Open(ops.Request{ID: "cmd-1", Channel: deploys}, "", func(string) {})
	m.Show(done())
	shown := make(chan error, 1)
	go func() { shown <- closed(t, m) }()
	o.until(func() bool { return o.calls("chat.postMessage") > 0 && o.calls("conversations.history") > 5 })
	end()
	within(t, time.Second, "showing it", func() {
		if err := <-shown; err != nil {
			t.Error(err)
		}
	})
	o.shows("pizza runs 6 of 6")
}

// TestWholeLogFails: a log that can't be uploaded takes nothing from a state that is shown.
func TestWholeLogFails(t *testing.T) {
	for name, f := range map[string]workspace.Failure{
		"refused": {Error: "missing_scope"},
		"500":     {Status: 500},
		"hang":    {Delay: -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			o.bot.http.Timeout = 300 * time.Millisecond
			o.Outage("files.getUploadURLExternal", 0, f)
			m := o.bot.Open(ops.Request{ID: "cmd-1", Channel: deploys}, "", func(string) {})
			m.Show(withLog())
			if err := closed(t, m); err != nil {
				t.Error(err)
			}
			o.shows("The build failed")
			if n := o.calls("files.getUploadURLExternal"); n != 1 {
				t.Errorf("%d uploads", n)
			}
		})
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

// TestResponseURLFails: what Slack did not take is tried again, when it says, and uses up
// none of the five answers.
func TestResponseURLFails(t *testing.T) {
	for name, f := range map[string]workspace.Failure{
		"429":  {Status: 429, RetryAfter: time.Second},
		"500":  {Status: 500},
		"hang": {Delay: -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			o.bot.http.Timeout = 100 * time.Millisecond
			m := o.bot.Open(o.asked(general), "", func(string) {})
			n := 6 // more than there are answers
			if name == "429" {
				n = 1
			}
			o.FailNext("response_url", n, f)
			m.Show(running(0))
			sees := func(text string) func() bool {
				return func() bool {
					all := o.Messages(general, ada)
					return len(all) > 0 && strings.Contains(all[len(all)-1].Plain(), text)
				}
			}
			for i := range responseUses - 1 {
				m.Show(running(i + 1))
				o.until(sees(fmt.Sprintf("%d of 1000", i+1)))
			}
			m.Show(done())
			if err := closed(t, m); err != nil {
				t.Fatal(err)
			}
			o.until(sees("pizza runs 6 of 6"))
			if n := o.calls("chat.postEphemeral"); n != 0 {
				t.Errorf("%d ephemeral messages, though the response_url was good", n)
			}
			calls := o.Calls("response_url")
			if wait := calls[1].At.Sub(calls[0].At); name == "429" && wait < time.Second {
				t.Errorf("tried again after %s, told to wait 1 s", wait)
			}
		})
	}
}

// TestRefusalAfterARestart: a refusal that is told hours later, to its asker alone.
func TestRefusalAfterARestart(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*office, *ops.Request)
		sees   string // the channel where she sees it, "" for nowhere
	}{
		"the response_url is good": {func(*office, *ops.Request) {}, deploys},
		"it has expired":           {func(_ *office, r *ops.Request) { r.At = time.Now().Add(-time.Hour) }, deploys},
		"Slack says so": {func(o *office, _ *ops.Request) {
			o.FailNext("response_url", 1, workspace.Failure{Status: 404})
		}, deploys},
		"she left the channel": {func(o *office, r *ops.Request) {
			r.At = time.Now().Add(-time.Hour)
			o.Outage("chat.postEphemeral", 0, workspace.Failure{Error: "user_not_in_channel"})
		}, "D0ADA"},
		"Waggle is not in it": {func(o *office, r *ops.Request) {
			r.At, r.Channel = time.Now().Add(-time.Hour), general
		}, "D0ADA"},
		"she was deactivated": {func(o *office, r *ops.Request) {
			r.At = time.Now().Add(-time.Hour)
			o.Outage("chat.postEphemeral", 0, workspace.Failure{Error: "user_not_in_channel"})
			o.Outage("conversations.open", 0, workspace.Failure{Error: "user_disabled"})
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			req := o.asked(deploys)
			tt.change(o, &req)
			m := o.bot.Open(req, "?", func(string) {})
			m.Show(statuses["refused"])
			if err := closed(t, m); err != nil {
				t.Fatal(err)
			}
			for _, channel := range []string{deploys, general, "D0ADA"} {
				n := len(o.Messages(channel, ada))
				if want := map[bool]int{true: 1}[channel == tt.sees]; n != want {
					t.Errorf("she sees %d messages in %s, want %d", n, channel, want)
				}
			}
			if n := o.calls("chat.postMessage"); len(o.visible(linus)) != 0 || n > 1 {
				t.Errorf("others see %q; %d posts", o.visible(linus), n)
			}
		})
	}
}

// TestRecord: a line in the audit channel is there once, whatever Slack does.
func TestRecord(t *testing.T) {
	entry := ops.Entry{At: time.Now(), ID: "cmd-1", Who: "ada", Kind: "scale", Target: "pizza", Outcome: ops.Done}
	long := entry
	long.Why = strings.Repeat("x", 200)
	for name, tt := range map[string]struct {
		times int // that the post fails, 0 for each time
		f     workspace.Failure
		entry ops.Entry
		err   bool // that it may be shown later
		lines int
	}{
		"500":              {2, workspace.Failure{Status: 500}, entry, false, 1},
		"answer lost":      {1, workspace.Failure{Drop: true, Applied: true}, entry, false, 1},
		"too long":         {1, workspace.Failure{Error: "msg_too_long"}, long, false, 1},
		"never fits":       {0, workspace.Failure{Error: "msg_too_long"}, long, false, 0},
		"token revoked":    {0, workspace.Failure{Error: "token_revoked"}, entry, true, 0},
		"channel archived": {0, workspace.Failure{Error: "is_archived"}, entry, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, func(_ *workspace.Options, b *Options) { b.AuditChannel = deploys })
			o.FailNext("chat.postMessage", tt.times, tt.f)
			if tt.times == 0 {
				o.Outage("chat.postMessage", 0, tt.f)
			}
			if err := o.bot.Record(t.Context(), tt.entry); (err != nil) != tt.err {
				t.Errorf("it returns %v", err)
			}
			if got := o.visible(linus); len(got) != tt.lines {
				t.Errorf("shown: %q", got)
			}
		})
	}
	t.Run("again after a crash", func(t *testing.T) {
		t.Parallel()
		o := newOffice(t, func(_ *workspace.Options, b *Options) { b.AuditChannel = deploys })
		old := entry
		old.At = time.Now().Add(-time.Minute)
		other := old
		other.At = old.At.Add(time.Millisecond) // of the same operation: a refused decision
		for _, e := range []ops.Entry{old, other, old, other} {
			if err := o.bot.Record(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		if got := o.visible(linus); len(got) != 2 {
			t.Errorf("shown: %q", got)
		}
	})
	t.Run("Slack is away", func(t *testing.T) {
		t.Parallel()
		o := newOffice(t, func(_ *workspace.Options, b *Options) { b.AuditChannel = deploys })
		o.Outage("", 0, workspace.Failure{Delay: -1})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		within(t, time.Second, "Record", func() {
			if err := o.bot.Record(ctx, entry); err == nil {
				t.Error("it says that the line is there")
			}
		})
	})
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

// TestNoLongerEditable: a message that can't be edited any more is not taken for the one
// that was posted in its place without an answer.
func TestNoLongerEditable(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	var refs saved
	req := ops.Request{ID: "cmd-1", Channel: deploys}
	m := o.bot.Open(req, "", refs.save)
	m.Show(running(1))
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
	o.Outage("chat.update", 0, workspace.Failure{Error: "edit_window_closed"})
	o.FailNext("chat.postMessage", 1, workspace.Failure{Drop: true})
	m = o.bot.Open(req, refs.refs[0], refs.save)
	m.Show(done())
	if err := closed(t, m); err != nil {
		t.Fatal(err)
	}
	got := o.visible(linus)
	if len(got) != 2 || !strings.Contains(got[1], "pizza runs 6 of 6") || len(refs.refs) != 2 {
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
	// Wherever Slack hangs, Close returns soon after its ctx ends.
	for method, tt := range map[string]struct {
		ref   string
		reply bool
		s     ops.Status
		shown bool // though Slack hangs
	}{
		"conversations.history":        {ref: "?", s: done()},
		"chat.update":                  {ref: deploys + "/1.000100", s: done()},
		"response_url":                 {reply: true, s: statuses["refused"]},
		"files.getUploadURLExternal":   {s: withLog(), shown: true},
		"upload":                       {s: withLog(), shown: true},
		"files.completeUploadExternal": {s: withLog(), shown: true},
	} {
		t.Run(method+" hangs", func(t *testing.T) {
			o := newOffice(t)
			req := ops.Request{ID: "cmd-1", Channel: deploys}
			if tt.reply {
				req = o.asked(deploys)
			}
			o.Outage(method, 0, workspace.Failure{Delay: -1})
			noGoroutineLeft(t, func() {
				m := o.bot.Open(req, tt.ref, func(string) {})
				m.Show(tt.s)
				ctx, cancel := context.WithCancel(t.Context())
				closed := make(chan error, 1)
				go func() { closed <- m.Close(ctx) }()
				o.until(func() bool { return o.calls(method) > 0 })
				cancel()
				within(t, time.Second, "Close", func() {
					if err := <-closed; (err == nil) != tt.shown {
						t.Errorf("Close returns %v", err)
					}
				})
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

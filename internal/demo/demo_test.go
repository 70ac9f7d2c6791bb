//go:build linux

package demo

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"waggle/internal/lab"
)

// screen is what the demo prints.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// browser is a real one, at the workspace's page.
type browser struct {
	*testing.T
	ctx context.Context
}

func (b *browser) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	read(b, what, chromedp.Steps(steps...))
}

// read is do for what gives a value.
func read[T any](b *browser, what string, a chromedp.Action[T]) T {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 60*time.Second)
	defer cancel()
	got, err := chromedp.Run(ctx, a)
	if err != nil {
		ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
		defer cancel()
		shown, _ := chromedp.Run(ctx, chromedp.Text(chromedp.CSS("body"))) // for whoever reads the failure
		if png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot()); err == nil {
			b.keep("failure", png)
		}
		b.Fatalf("%s: %v; the window shows\n%s", what, err, shown)
	}
	return got
}

// says waits until an element shows a text.
func (b *browser) says(selector, text string) {
	b.Helper()
	read(b, selector+" says "+text, chromedp.PollFunction[bool](`(s, t) => [...document.querySelectorAll(s)].some((e) => e.innerText.includes(t))`,
		chromedp.WithPollingArgs(selector, text), chromedp.WithPollingTimeout(55*time.Second), chromedp.WithPollingMutation()))
}

// types types a line and sends it.
func (b *browser) types(line string) {
	b.Helper()
	b.do("type "+line, chromedp.SendKeys(chromedp.CSS("#text"), line+"\n"))
}

// clicks clicks what is named in the last message that has it.
func (b *browser) clicks(button string) {
	b.Helper()
	b.do("click "+button, chromedp.Click(chromedp.Search(`(//article//button[normalize-space()="`+button+`"])[last()]`)))
}

func (b *browser) is(user string) {
	b.Helper()
	b.do("be "+user, chromedp.Click(chromedp.CSS(`#people [data-user="`+user+`"]`)),
		chromedp.WaitVisible(chromedp.CSS(`#people [data-user="`+user+`"][aria-current]`)))
}

// photograph keeps a picture of the window where WAGGLE_SCREENSHOTS says, for people.
func (b *browser) photograph(name string) {
	b.Helper()
	b.keep(name, read(b, "photograph", chromedp.CaptureScreenshot()))
}

func (b *browser) keep(name string, png []byte) {
	b.Helper()
	dir := os.Getenv("WAGGLE_SCREENSHOTS")
	if dir == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		b.Error(err)
	}
}

func open(t *testing.T, url string) *browser {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.WindowSize(1200, 850),
		chromedp.NoSandbox, // it runs as root here, and shows only what this test serves
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.UserDataDir(t.TempDir()))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &browser{t, ctx}
	if err := chromedp.Do(ctx); err != nil { // starts it, for as long as ctx
		t.Fatal(err)
	}
	messages := chromedp.Console(ctx)
	t.Cleanup(func() {
		cancel()
		for m, err := range messages {
			if err == nil && m.IsException() {
				t.Errorf("the page's script failed: %s", m)
			}
		}
	})
	b.do("open the page", chromedp.Navigate(url), chromedp.WaitVisible(chromedp.CSS("#text")))
	return b
}

// TestDemo watches the whole demo in a browser, and goes on in it as ada and as grace.
func TestDemo(t *testing.T) {
	lab.Need(t)
	lab.NeedProgram(t, "chromium", "chromium")
	binary := filepath.Join(t.TempDir(), "waggle")
	if out, err := exec.Command("go", "build", "-race", "-o", binary, "waggle/cmd/waggle").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	manifest, err := exec.Command(binary, "manifest").Output()
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out := new(screen)
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Options{Binary: binary, Addr: "127.0.0.1:0", Manifest: manifest, In: strings.NewReader(""), Out: out})
	}()
	until := func(what string, found func() bool) {
		t.Helper()
		for !found() {
			select {
			case err := <-ended:
				t.Fatalf("the demo ended before %s: %v\n%s", what, err, out)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	var url string
	address := regexp.MustCompile(`in a browser at (http://\S+):`)
	until("the page", func() bool {
		if m := address.FindStringSubmatch(out.String()); m != nil {
			url = m[1]
		}
		return url != ""
	})
	b := open(t, url)
	b.says("#where", "#deploys")
	until("waggle is ready", func() bool { return strings.Contains(out.String(), "waggle serve is ready") })
	b.types("/scale piza 3") // is no part of the story, and does not end it
	b.says("article.ephemeral", "There is no app")
	until("the story's end", func() bool { return strings.Contains(out.String(), "It is yours now, at "+url) })
	b.says("article b", "pizza runs release 2")
	b.photograph("story")

	// Stopping an app takes two people.
	b.do("be offered a command", chromedp.SendKeys(chromedp.CSS("#text"), "/sc"), chromedp.WaitVisible(chromedp.CSS(`#commands [data-command="/scale"]`)))
	b.photograph("offered")
	b.do("take it", chromedp.SendKeys(chromedp.CSS("#text"), "\t"))
	b.types("pizza 0")
	b.says("article", "replicas 8 → 0")
	b.photograph("asked")
	b.clicks("Approve")
	b.says("article.ephemeral", "You asked for this yourself")
	b.is("U0GRACE")
	b.clicks("Approve")
	b.says("article b", "pizza is stopped")
	if strings.Contains(b.text("#messages"), "You asked for this yourself") {
		t.Error("grace sees what ada alone was told")
	}
	b.photograph("approved")

	// A form, filled in wrongly at first: what was typed stays.
	b.is("U0ADA")
	b.types("/app create pasta")
	b.do("the form opens", chromedp.WaitVisible(chromedp.CSS("dialog[open] form")))
	b.do("fill it in", chromedp.SendKeys(chromedp.CSS(`dialog [name="repo"]`), "file:///etc/passwd"))
	b.photograph("form")
	b.do("submit it", chromedp.Click(chromedp.CSS("dialog [type=submit]")))
	b.says("dialog .wrong", "file")
	b.photograph("wrong")
	if repo := read(b, "what was typed", chromedp.Value(chromedp.CSS(`dialog [name="repo"]`))); repo != "file:///etc/passwd" {
		t.Errorf("of the repository %q is left", repo)
	}
	b.do("close it", chromedp.Click(chromedp.CSS("dialog [data-close]")), chromedp.WaitNotPresent(chromedp.CSS("dialog form")))

	b.types("/swarm")
	b.says("article.ephemeral", "4 of 4 nodes ready")
	b.photograph("swarm")

	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the demo ended with %v", err)
	}
	if !strings.Contains(out.String(), "All of it is gone from this machine again.") {
		t.Errorf("it does not say that all is gone:\n%s", out)
	}
	b.says("#told", "does not answer")
}

func (b *browser) text(selector string) string {
	b.Helper()
	return read(b, "read "+selector, chromedp.Text(chromedp.CSS(selector)))
}

// TestPageIsTaken: that is said before anything is started.
func TestPageIsTaken(t *testing.T) {
	out := new(screen)
	err := Run(t.Context(), Options{Addr: "256.0.0.1:1", Out: out, In: strings.NewReader("")})
	if err == nil || !strings.Contains(err.Error(), "--addr chooses another") || errors.Is(err, context.Canceled) || strings.Contains(out.String(), "engine is up") {
		t.Errorf("%v\n%s", err, out)
	}
}

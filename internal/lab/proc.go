package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// proc is a long-running process of the lab. It dies with the lab's owner.
type proc struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when the process has been reaped
	err  error         // what Wait said; read after done
}

// startProc starts cmd with its output in the file log.
func startProc(name string, cmd *exec.Cmd, log string) (*proc, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	p := &proc{name: name, cmd: cmd, log: log, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends, so that
		// thread is kept for as long as the process lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	return p, nil
}

func (p *proc) pid() int { return p.cmd.Process.Pid }

func (p *proc) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stop signals the process and waits for its end; after grace it is killed.
func (p *proc) stop(sig syscall.Signal, grace time.Duration) {
	_ = p.cmd.Process.Signal(sig) // it may have ended already
	select {
	case <-p.done:
		return
	case <-time.After(grace):
	}
	_ = p.cmd.Process.Kill()
	<-p.done
}

// resume lets go on what has stopped itself: nsenter does when what it started
// is stopped.
func (p *proc) resume() {
	_ = p.cmd.Process.Signal(syscall.SIGCONT) // it may have ended already
}

// until polls check until it succeeds. It gives up when the process ends or
// the time is over, and then says what the process logged last.
func (p *proc) until(ctx context.Context, limit time.Duration, check func(context.Context) error) error {
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(within)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %v\n%s", p.name, p.err, logTail(p.log))
		case <-within.Done():
			if ctx.Err() != nil {
				return fmt.Errorf("waiting for %s: %w", p.name, ctx.Err())
			}
			return fmt.Errorf("%s is not ready after %s: %w\n%s", p.name, limit, err, logTail(p.log))
		case <-tick.C:
		}
	}
}

// poll calls check until it succeeds or the time is over.
func poll(ctx context.Context, limit time.Duration, check func(context.Context) error) error {
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(within)
		if err == nil {
			return nil
		}
		select {
		case <-within.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("gave up after %s: %w", limit, err)
		case <-tick.C:
		}
	}
}

// logTail returns the last lines of a log file, for an error message.
func logTail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return "(no log: " + err.Error() + ")"
	}
	defer f.Close()
	const most = 2000
	if st, err := f.Stat(); err == nil && st.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	b, _ := io.ReadAll(f)
	if len(bytes.TrimSpace(b)) == 0 {
		return "(its log is empty)"
	}
	return "last lines of " + filepath.Base(path) + ":\n" + strings.TrimSpace(string(b))
}

// run runs a short command, by default for at most 30 s, and returns what it
// wrote to stdout. An error holds what it wrote to stderr.
func run(ctx context.Context, stdin string, cmd *exec.Cmd) (string, error) {
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	// A group of its own, so that a cancelled command takes its children along.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err,
			strings.TrimSpace(errOut.String()+" "+out.String()))
	}
	return out.String(), nil
}

// command runs a program of the root namespaces, for at most 30 s.
func command(ctx context.Context, stdin, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	path, err := lookPath(name)
	if err != nil {
		return "", err
	}
	return run(ctx, stdin, exec.Command(path, args...))
}

// lookPath finds a program also where a non-login PATH does not look.
func lookPath(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range strings.Split(searchPath, ":") {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ident names a process for good: a pid alone is used again.
type ident struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // since boot, in clock ticks
}

func identify(pid int) (ident, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ident{}, fmt.Errorf("reading the start of process %d: %w", pid, err)
	}
	// The second field is the name, in brackets, and may hold anything.
	_, rest, ok := strings.Cut(string(b[bytes.LastIndexByte(b, ')'):]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return ident{}, fmt.Errorf("unreadable /proc/%d/stat", pid)
	}
	if fields[0] == "Z" {
		return ident{}, fmt.Errorf("process %d is a zombie: %w", pid, os.ErrNotExist)
	}
	return ident{PID: pid, Start: fields[19]}, nil
}

func (i ident) alive() bool {
	now, err := identify(i.PID)
	return err == nil && now == i
}

// kill ends exactly this process and waits until it is gone.
func (i ident) kill(ctx context.Context) error {
	if !i.alive() {
		return nil
	}
	if err := syscall.Kill(i.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("killing process %s: %w", strconv.Itoa(i.PID), err)
	}
	return i.wait(ctx)
}

func (i ident) wait(ctx context.Context) error {
	return poll(ctx, 15*time.Second, func(context.Context) error {
		if i.alive() {
			return fmt.Errorf("process %d is still there", i.PID)
		}
		return nil
	})
}

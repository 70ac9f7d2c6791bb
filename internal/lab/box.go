package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// box is one node's set of namespaces: network, mount, host name, IPC and
// processes. Nothing of it has a name outside, so the end of its first process
// ends every process in it (containers and their shims too) and takes the
// mounts and the network along, however that end came about.
type box struct {
	init *proc
}

// boxSetup runs as the first process. Its arguments are the directory of the
// node and its name. tini then stays as the reaper of orphaned shims.
const boxSetup = `set -e
mount --make-rprivate /
mount --bind "$1/run" /run
mount --bind "$1/docker" /etc/docker
for f in passwd group shadow; do mount --bind "$1/$f" /etc/$f; done
mount -t proc proc /proc
echo "$2" >/proc/sys/kernel/hostname
ip link set lo up
echo ready >&3
exec 3>&-
exec "$3" -- sleep infinity
`

// startBox makes the namespaces. dir must hold what boxSetup binds.
func startBox(ctx context.Context, dir, name string) (*box, error) {
	tini, err := lookPath("tini")
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("/bin/sh", "-c", boxSetup, "sh", dir, name, tini)
	cmd.Env = cleanEnv()
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID |
			syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	p, err := startProc("the namespaces of "+name, cmd, filepath.Join(dir, "box.log"))
	w.Close()
	if errors.Is(err, syscall.EPERM) {
		err = fmt.Errorf("%w: this machine forbids new namespaces (in a container, it must be a privileged one)", err)
	}
	if err != nil {
		return nil, err
	}
	b := &box{init: p}
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })
	defer stop()
	_ = r.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := r.Read(make([]byte, 16)); n == 0 {
		b.close()
		return nil, fmt.Errorf("making the namespaces of %s: %w\n%s", name, err, logTail(p.log))
	}
	return b, nil
}

// command prepares a program to run inside. Environment and working directory
// are clean: a daemon must not inherit a proxy or a DOCKER_HOST.
func (b *box) command(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{
		"-t", strconv.Itoa(b.init.pid()), "-m", "-u", "-i", "-n", "-p", "--",
	}, args...)...)
	cmd.Env = cleanEnv()
	cmd.Dir = "/"
	return cmd
}

func (b *box) run(ctx context.Context, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if !b.init.running() {
		return "", fmt.Errorf("%s: the node is gone", args[0])
	}
	return run(ctx, stdin, b.command(args...))
}

// close ends everything inside and waits for it, some seconds at most.
func (b *box) close() {
	inside, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", b.init.pid()))
	b.init.stop(syscall.SIGKILL, time.Second)
	if err != nil {
		return // it has ended before, and all inside with it
	}
	// What came in by nsenter is killed with the others but not waited for by them.
	_ = poll(context.Background(), 5*time.Second, func(context.Context) error {
		if left := inNamespace(inside); len(left) > 0 {
			return fmt.Errorf("still there: %s", left)
		}
		return nil
	})
}

// inNamespace lists the processes in a pid namespace, as /proc names it.
func inNamespace(ns string) (processes []string) {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		if in, err := os.Readlink(p + "/ns/pid"); err == nil && in == ns {
			processes = append(processes, p)
		}
	}
	return processes
}

func cleanEnv() []string {
	return []string{"PATH=" + searchPath, "HOME=/root", "LANG=C"}
}

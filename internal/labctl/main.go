// Labctl brings a lab up that stays until it is taken down, to try things by
// hand:
//
//	go run ./internal/labctl up
//	go run ./internal/labctl down
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"waggle/internal/lab"
)

const usage = `usage: labctl up [--nodes 3] [--managers 1] [--spare 0] [--engine 28+containerd,20] [--no-swarm] | show | down`

// ready is the last line the keeper writes when its lab is up.
const ready = "ready"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "labctl:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	switch args[0] {
	case "up":
		return up(ctx, args[1:], out)
	case "keep":
		return keep(ctx, args[1:])
	case "show":
		return show(out)
	case "down":
		return down(ctx, out)
	}
	return errors.New(usage)
}

// up starts a keeper, the process that owns the lab, and waits until the lab
// is up. Without an owner a lab would be taken for a leftover.
func up(ctx context.Context, args []string, out io.Writer) error {
	if kept, err := lab.States(); err != nil || len(kept) > 0 {
		if err == nil {
			fmt.Fprintln(out, "A lab is up already.")
			err = show(out)
		}
		return err
	}
	if _, err := options(args); err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", append([]string{"keep"}, args...)...)
	// In the lab's own session a Ctrl-C here does not reach it later.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/"
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd.Stdout = w
	begin := time.Now()
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("starting the lab's keeper: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if lines.Text() == ready {
			fmt.Fprintf(out, "up in %.1f s\n\n", time.Since(begin).Seconds())
			_ = cmd.Process.Release()
			return show(out)
		}
		fmt.Fprintln(out, lines.Text())
	}
	_ = cmd.Wait()
	return errors.New("the lab did not come up")
}

func options(args []string) (lab.Options, error) {
	o := lab.Options{Keep: true}
	f := flag.NewFlagSet("up", flag.ContinueOnError)
	f.IntVar(&o.Nodes, "nodes", 3, "how many nodes")
	f.IntVar(&o.Managers, "managers", 1, "how many of them are managers")
	f.IntVar(&o.Spare, "spare", 0, "how many stay outside the swarm")
	f.StringVar(&o.Engine, "engine", "", "comma-separated engines, assigned to the nodes in order: system, 20, 26, 28 or a directory of programs, optionally with +classic or +containerd")
	no := f.Bool("no-swarm", false, "leave all nodes outside a swarm")
	err := f.Parse(args)
	o.Swarm = !*no
	return o, err
}

// keep owns a lab until it is told to end.
func keep(ctx context.Context, args []string) error {
	o, err := options(args)
	if err != nil {
		return err
	}
	o.Progress = func(step string) { fmt.Println(step) }
	l, err := lab.Start(ctx, o)
	if err != nil {
		fmt.Println(err)
		return err
	}
	fmt.Println(ready)
	// Nobody reads what is written from now on.
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err == nil {
		for fd := range 3 {
			err = errors.Join(err, syscall.Dup3(int(null.Fd()), fd, 0))
		}
	}
	if err == nil {
		<-ctx.Done()
	}
	return errors.Join(err, l.Close())
}

func show(out io.Writer) error {
	kept, err := lab.States()
	if err != nil {
		return err
	}
	if len(kept) == 0 {
		fmt.Fprintln(out, "No lab is up. Start one: go run ./internal/labctl up")
	}
	for _, st := range kept {
		if !st.Ready {
			fmt.Fprintln(out, "A lab is coming up.")
			continue
		}
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NODE\tROLE\tADDRESS\tDOCKER\tCONNECT")
		for _, n := range st.Nodes {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\texport DOCKER_HOST=%s\n", n.Name, n.Role, n.Addr, n.Engine, n.Host)
		}
		fmt.Fprintf(w, "\nregistry\t%s\n", st.Registry)
		fmt.Fprintf(w, "registry\t%s\tuser %s, password %s\n", st.Private, st.User, st.Password)
		fmt.Fprintf(w, "image\t%s\tbusybox; sleeps unless told otherwise\n", st.BaseImage)
		fmt.Fprintf(w, "\nssh\t%s\n", st.Nodes[0].SSH)
		fmt.Fprintf(w, "shell\t%s\n", st.Nodes[0].Enter)
		fmt.Fprintf(w, "\ntry\tDOCKER_HOST=%s docker service create --name pizza --replicas 3 %s\n", st.Nodes[0].Host, st.BaseImage)
		fmt.Fprintln(w, "end\tgo run ./internal/labctl down")
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func down(ctx context.Context, out io.Writer) error {
	kept, err := lab.States()
	if err != nil {
		return err
	}
	for _, st := range kept {
		err = errors.Join(err, st.Down(ctx))
	}
	if err = errors.Join(err, lab.Sweep(ctx)); err != nil {
		return err
	}
	fmt.Fprintln(out, strings.TrimSpace(fmt.Sprintf("%d lab taken down.", len(kept))))
	return nil
}

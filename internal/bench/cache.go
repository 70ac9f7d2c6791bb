package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"waggle/internal/secret"
	"waggle/ops"
	"waggle/ops/swarm"
)

// What builds take with and without layers from the registry.
const (
	smallPlain  figure = "small app, same manager, no cache from the registry"
	smallCached figure = "small app, same manager, cache from the registry"
	otherPlain  figure = "heavy step, other manager, no cache from the registry"
	otherCached figure = "heavy step, other manager, cache from the registry"
)

// heavy is a step that takes 5 s and makes 50 MB that do not get smaller.
const heavy = "RUN echo %s; sleep 5; dd if=/dev/urandom of=/dough bs=1M count=50\n"

// caches measures builds by two managers' engines, as a deploy has them made.
func (b *bench) caches(ctx context.Context, runs int) error {
	first, err := swarm.Dial(swarm.Options{Host: b.lab.Nodes[0].Host()})
	if err != nil {
		return err
	}
	defer first.Close()
	second, err := swarm.Dial(swarm.Options{Host: b.lab.Nodes[1].Host()})
	if err != nil {
		return err
	}
	defer second.Close()
	last := map[string]string{} // the app's last image, by app
	// build builds and pushes an app that has one step and a changed last layer.
	build := func(c *swarm.Client, app, step string, version int, cached bool, f figure) error {
		dir := filepath.Join(b.dir, "context")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for name, text := range map[string]string{"Dockerfile": "FROM " + b.lab.Private.Image("busybox:1") + "\n" + step + "COPY version /version\n", "version": fmt.Sprint(app, version)} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				return err
			}
		}
		auth := ops.RegistryAuth{Username: b.lab.Private.User, Password: secret.Text(b.lab.Private.Password)}
		req := ops.BuildRequest{Dir: dir, Tag: b.lab.Private.Image(fmt.Sprintf("%s:%d", app, version)), Logins: []ops.RegistryLogin{{Domain: b.lab.Private.Addr, Auth: auth}}}
		if cached {
			req.KeepCache, req.Cache = true, last[app]
		}
		began := time.Now()
		if err := c.Build(ctx, req, nil); err != nil {
			return err
		}
		digest, err := c.Push(ctx, req.Tag, auth, nil)
		if err != nil {
			return err
		}
		last[app] = req.Tag + "@" + digest
		if f != "" {
			b.note(f, time.Since(began))
		}
		return nil
	}
	for _, app := range []string{"plain", "cached"} { // the base image is there, and the connections are
		if err := build(first, app, "", 0, app == "cached", ""); err != nil {
			return err
		}
		if err := build(second, app+"-2", "", 0, false, ""); err != nil {
			return err
		}
	}
	for i := range runs {
		say("run %d of %d", i+1, runs)
		for j := range 2 {
			var err error
			if (i+j)%2 == 0 {
				err = build(first, "plain", "", i+1, false, smallPlain)
			} else {
				err = build(first, "cached", "", i+1, true, smallCached)
			}
			if err != nil {
				return err
			}
		}
		for app, f := range map[string]figure{"heavy": otherPlain, "heavy-cached": otherCached} {
			step := fmt.Sprintf(heavy, fmt.Sprint(app, i))
			if err := build(first, app, step, 2*i, true, ""); err != nil {
				return err
			}
			if err := build(second, app, step, 2*i+1, f == otherCached, f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) printCaches(w io.Writer, runs int) {
	if len(b.got[smallPlain]) == 0 {
		return
	}
	fmt.Fprintf(w, "\nMedians of %d runs (lowest–highest), of build and push.\n\n| | |\n|---|---|\n", runs)
	for _, f := range []figure{smallPlain, smallCached, otherPlain, otherCached} {
		fmt.Fprintf(w, "| %s | %s |\n", f, b.cell(f, "ms"))
	}
}

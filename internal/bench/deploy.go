package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"waggle/internal/forge"
	"waggle/internal/workspace"
)

// commit is a small app of which every version is another.
func (b *bench) commit(version string) map[string]string {
	return map[string]string{
		"Dockerfile": fmt.Sprintf("FROM %s/busybox:1\nCOPY version /version\nCMD [\"sleep\", \"infinity\"]\n", b.lab.Private.Addr),
		"version":    version,
	}
}

// deploys has a commit deployed by Waggle and by hand, in turns.
func (b *bench) deploys(ctx context.Context, repo *forge.Repo, i int) error {
	both := []func(context.Context, *forge.Repo, int) error{b.deploy, b.deployByHand}
	for j := range both {
		if err := both[(i+j)%len(both)](ctx, repo, i); err != nil {
			return err
		}
		if err := sleep(ctx, settle); err != nil {
			return err
		}
	}
	return nil
}

// deploy pushes a commit and looks when the new version runs, by the node's own
// word, and when the message says that it holds.
func (b *bench) deploy(ctx context.Context, repo *forge.Repo, i int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	began := time.Now()
	sha, err := repo.Push(ctx, b.commit(fmt.Sprintf("pushed %d", i)), fmt.Sprintf("Bake number %d", i))
	if err != nil {
		return err
	}
	m, err := b.ws.Wait(ctx, channel, ada, func(m workspace.Message) bool {
		return strings.Contains(m.Plain(), sha[:7]) && (strings.Contains(m.Plain(), app+" runs release") || strings.Contains(m.Plain(), "❌"))
	})
	if err != nil || strings.Contains(m.Plain(), "❌") {
		return fmt.Errorf("deploy: %w\n%s", err, b.ws.Screen(channel, ada))
	}
	b.note(deployed, time.Since(began))
	at, err := b.onlyRunning(ctx)
	if err != nil {
		return err
	}
	b.note(rolledOut, at.Sub(began))
	return nil
}

// deployByHand does the same steps with git and docker, for a repository that no
// app is linked to.
func (b *bench) deployByHand(ctx context.Context, _ *forge.Repo, i int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if b.byHand == nil {
		if err := b.logIn(ctx); err != nil {
			return err
		}
	}
	dir := filepath.Join(b.dir, fmt.Sprintf("clone-%d", i))
	defer os.RemoveAll(dir)
	image := fmt.Sprintf("%s/acme/byhand:%d", b.lab.Private.Addr, i)
	began := time.Now()
	if _, err := b.byHand.Push(ctx, b.commit(fmt.Sprintf("by hand %d", i)), fmt.Sprintf("Bake number %d", i)); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"git", "clone", "--quiet", "--depth", "1", b.byHand.CloneURL(), dir},
		{"docker", "build", "--quiet", "--tag", image, dir},
		{"docker", "push", "--quiet", image},
		{"docker", "service", "update", "--detach", "--quiet", "--with-registry-auth", "--image", image, app},
	} {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		// The builder that needs no plugin of the command line.
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+b.lab.Manager().Host(), "DOCKER_CONFIG="+b.dir, "DOCKER_BUILDKIT=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	for {
		state, err := b.docker(ctx, "service", "inspect", "--format", "{{if .UpdateStatus}}{{.UpdateStatus.State}}: {{.UpdateStatus.Message}}{{end}}", app)
		if err != nil {
			return err
		}
		if strings.HasPrefix(state, "completed") {
			break
		}
		if !strings.HasPrefix(state, "updating") || time.Since(began) > time.Minute {
			tasks, _ := b.docker(ctx, "service", "ps", "--no-trunc", app) // as much as there is to know
			return fmt.Errorf("by hand: %s\n%s", state, tasks)
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	at, err := b.onlyRunning(ctx)
	if err != nil {
		return err
	}
	b.note(handRolled, at.Sub(began))
	return nil
}

// logIn makes the repository of what is done by hand, and the docker command line's
// login.
func (b *bench) logIn(ctx context.Context) error {
	repo, err := b.forge.Create(ctx, "acme/byhand", forge.RepoOptions{})
	if err != nil {
		return err
	}
	auth := base64.StdEncoding.EncodeToString([]byte(b.lab.Private.User + ":" + b.lab.Private.Password))
	config, err := json.Marshal(map[string]any{"auths": map[string]any{b.lab.Private.Addr: map[string]string{"auth": auth}}})
	if err != nil {
		return err
	}
	b.byHand = repo
	return os.WriteFile(filepath.Join(b.dir, "config.json"), config, 0o600)
}

// onlyRunning is when the one task that runs began to.
func (b *bench) onlyRunning(ctx context.Context) (time.Time, error) {
	for {
		times, err := b.runningSince(ctx)
		if err == nil && len(times) == 1 {
			return times[0], nil
		}
		if ended := sleep(ctx, 100*time.Millisecond); ended != nil {
			return time.Time{}, fmt.Errorf("%d tasks run: %w", len(times), ended)
		}
	}
}

package registry

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"waggle/internal/lab"
	"waggle/internal/secret"
	"waggle/ops"
	"waggle/ops/swarm"
)

var labs = lab.Pool{Options: lab.Options{Nodes: 1, Swarm: true}}

func TestMain(m *testing.M) { os.Exit(labs.Run(m)) }

// onLab returns a client beside a real engine, and the logins of its registries.
func onLab(t *testing.T) (c *Client, l *lab.Lab, open, private ops.RegistryLogin) {
	t.Helper()
	l = labs.Get(t)
	engine, err := swarm.Dial(swarm.Options{Host: l.Manager().Host()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.Close() })
	c = client(t, ops.RegistryTrust{}, func(o *Options) { o.Trust = engine.RegistryTrust })
	open = ops.RegistryLogin{Domain: l.Registry.Addr}
	private = ops.RegistryLogin{Domain: l.Private.Addr, Auth: ops.RegistryAuth{Username: l.Private.User, Password: secret.Text(l.Private.Password)}}
	return c, l, open, private
}

func TestRealTry(t *testing.T) {
	c, l, open, private := onLab(t)
	wrong := private
	wrong.Auth.Password = "canary-wrong"
	for name, tc := range map[string]struct {
		login ops.RegistryLogin
		reach string
		says  string
	}{
		"private":                 {private, "true true true", ""},
		"private, wrong password": {wrong, "true false false", "does not take the user " + private.Auth.Username},
		"private, no login":       {ops.RegistryLogin{Domain: l.Private.Addr}, "true false false", "wants a user and a password"},
		"open":                    {ops.RegistryLogin{Domain: open.Domain, Auth: wrong.Auth}, "true true true", ""},
		"nobody there":            {ops.RegistryLogin{Domain: l.Manager().Addr + ":5009"}, "false false false", "cannot be reached"},
	} {
		got := c.Try(t.Context(), tc.login, true)
		if reach(got) != tc.reach || (got.Err == nil) != (tc.says == "") || !strings.Contains(fmt.Sprint(got.Err), tc.says) || strings.Contains(fmt.Sprint(got), "canary") {
			t.Errorf("%s: %s, %v", name, reach(got), got.Err)
		}
	}
	l.Private.Stop()
	got := c.Try(t.Context(), private, true)
	if err := l.Private.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got.Reachable || ops.CodeOf(got.Err) != ops.Unavailable {
		t.Errorf("stopped: %s, %v", reach(got), got.Err)
	}
}

func TestRealImages(t *testing.T) {
	c, l, open, private := onLab(t)
	ctx := t.Context()
	ref, digest, err := l.Registry.Push(ctx, "team/pizza:1", lab.Image{Files: map[string]string{"menu": "margherita"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Digest(ctx, open, ref); err != nil || got != digest {
		t.Errorf("digest %s, %v; want %s", got, err, digest)
	}
	var last string
	as := private.Domain + "/acme/pizza:1"
	got, err := c.Copy(ctx, open, ref+"@"+digest, private, as, func(s string) { last = s })
	if err != nil || got != digest || !strings.Contains(last, " MB") {
		t.Fatalf("copied as %s, %v (%s); want %s", got, err, last, digest)
	}
	if got, err := c.Copy(ctx, open, ref, private, as, func(string) {}); err != nil || got != digest {
		t.Errorf("copied again as %s, %v", got, err)
	}
	if got, err := c.Copy(ctx, private, as, private, private.Domain+"/other/pizza:2", func(string) {}); err != nil || got != digest {
		t.Errorf("copied within the registry as %s, %v", got, err)
	}
	for _, name := range []string{as, as + "@" + digest, private.Domain + "/acme/pizza@" + digest, private.Domain + "/other/pizza:2"} {
		if got, err := c.Digest(ctx, private, name); err != nil || got != digest {
			t.Errorf("%s is %s, %v", name, got, err)
		}
	}
	if names, err := c.Repositories(ctx, private); err != nil || !slices.Contains(names, "acme/pizza") || !slices.Contains(names, "busybox") {
		t.Errorf("repositories %q, %v", names, err)
	}
	if img, err := c.Image(ctx, private, as); err != nil || img.Digest != digest || !img.Created.Equal(time.Unix(0, 0)) {
		t.Errorf("image %+v, %v", img, err)
	}
	if tags, err := c.Tags(ctx, private, private.Domain+"/acme/pizza"); err != nil || !slices.Equal(tags, []string{"1"}) {
		t.Errorf("tags %q, %v", tags, err)
	}
	// An engine takes the copy for what it is.
	config := t.TempDir()
	if _, err := l.Manager().Docker(ctx, "--config", config, "login", "-u", private.Auth.Username, "-p", l.Private.Password, private.Domain); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Manager().Docker(ctx, "--config", config, "pull", "-q", private.Domain+"/acme/pizza@"+digest); err != nil {
		t.Error(err)
	}

	none := private.Domain + "/acme/pizza@sha256:" + strings.Repeat("1", 64)
	for name, ask := range map[string]func() error{
		"digest of no tag":        func() error { _, err := c.Digest(ctx, private, private.Domain+"/acme/pizza:9"); return err },
		"digest of no repository": func() error { _, err := c.Digest(ctx, private, private.Domain+"/acme/none:9"); return err },
		"no such digest":          func() error { _, err := c.Digest(ctx, private, none); return err },
		"image of no tag":         func() error { _, err := c.Image(ctx, private, private.Domain+"/acme/pizza:9"); return err },
		"tags of no repository":   func() error { _, err := c.Tags(ctx, private, private.Domain+"/acme/none"); return err },
		"delete what is not":      func() error { return c.Delete(ctx, private, none) },
		"copy what is not": func() error {
			_, err := c.Copy(ctx, open, open.Domain+"/none", private, as, func(string) {})
			return err
		},
	} {
		if err := ask(); ops.CodeOf(err) != ops.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	wrong := private
	wrong.Auth.Password = "canary-wrong"
	for name, ask := range map[string]func() error{
		"digest": func() error { _, err := c.Digest(ctx, wrong, as); return err },
		"from":   func() error { _, err := c.Copy(ctx, wrong, as, open, open.Domain+"/x", func(string) {}); return err },
		"to":     func() error { _, err := c.Copy(ctx, open, ref, wrong, as, func(string) {}); return err },
	} {
		err := ask()
		if ops.CodeOf(err) != ops.Failed || !strings.Contains(fmt.Sprint(err), "The registry "+private.Domain+" does not let "+private.Auth.Username) || strings.Contains(fmt.Sprint(err), "canary") {
			t.Errorf("%s with a wrong password: %v", name, err)
		}
	}

	if err := c.Delete(ctx, private, as+"@"+digest); err != nil {
		t.Error(err)
	}
	if _, err := c.Digest(ctx, private, as); ops.CodeOf(err) != ops.NotFound {
		t.Errorf("deleted, it is there: %v", err)
	}
	called, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.Copy(called, open, ref, private, as, func(string) {}); ops.CodeOf(err) != ops.Canceled {
		t.Errorf("called off: %v", err)
	}
}

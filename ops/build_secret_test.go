package ops_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"waggle/internal/secret"
	"waggle/ops"
)

func secretive(r *ops.Runner) {
	r.Env.SecretKey = testKey
	r.Kinds["app-build-secret"] = func() ops.Operation { return new(ops.AppBuildSecret) }
}

func TestBuildSecret(t *testing.T) {
	h := startHouse(t, newFakeSwarm(linked("pizza", 1)), secretive)
	n := 0
	set := func(id string, value secret.Text) ops.Status {
		n++
		return h.does(t, fmt.Sprint("op", n), &ops.AppBuildSecret{App: "pizza", ID: id, Value: value})
	}
	says(t, set("npm", "canary-1"), ops.Done, "Builds of pizza are given the secret npm", "build secret npm not set → set", "no task is restarted")
	says(t, set("npm", "canary-2\nline-of-two"), ops.Done, "build secret npm set → another value")
	says(t, set("key.pem", "canary-3"), ops.Done, "Builds of pizza are given the secret key.pem")
	if l := h.swarm.service("pizza").Labels; strings.Contains(fmt.Sprint(l), "canary") || l["other"] != "kept" || secret.SealedWith(l["waggle.build-secret.npm"]) != testKey.ID() {
		t.Errorf("labels %v", l)
	}
	if c := h.swarm.changes()[0]; c.Image != "" || c.Rollback || len(c.Labels) != 1 {
		t.Errorf("change %+v", c)
	}

	var built ops.BuildRequest
	h.swarm.lineOf = func(log func(string)) { log("#1 one line-of-two and canary-2, canary-3") }
	h.swarm.build = func(_ context.Context, req ops.BuildRequest) error {
		built = req
		return &ops.Error{Code: ops.Failed, Sentence: "The build failed at canary-3", Log: "canary-2", Err: errors.New("canary-3")}
	}
	got := h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
	if built.Secrets["npm"] != "canary-2\nline-of-two" || built.Secrets["key.pem"] != "canary-3" || len(built.Secrets) != 2 || len(built.Args) > 0 {
		t.Errorf("the build was given %d secrets and %d arguments", len(built.Secrets), len(built.Args))
	}
	if got.Err.Sentence != "The build failed at <key.pem>" || got.Err.Log != "<npm>" || got.Err.Whole != "#1 one <npm> and <npm>, <key.pem>" {
		t.Errorf("it failed with %q, log %q of %q", got.Err.Sentence, got.Err.Log, got.Err.Whole)
	}

	for _, q := range []ops.Question{ops.BuildSecretList{App: "pizza"}, ops.AppShow{App: "pizza"}} {
		a, err := h.Ask(t.Context(), person("ada"), q)
		if text := fmt.Sprint(a); err != nil || strings.Contains(text, "canary") || strings.Contains(text, "v1.") || !strings.Contains(text, "key.pem") {
			t.Errorf("%s, %v", text, err)
		}
	}
	says(t, h.does(t, "away", &ops.AppBuildSecret{App: "pizza", ID: "npm", Unset: true}), ops.Done, "Builds of pizza are not given the secret npm any more", "build secret npm set → not set")
	if l := h.swarm.service("pizza").Labels; l["waggle.build-secret.npm"] != "" || l["waggle.build-secret.key.pem"] == "" {
		t.Errorf("labels %v", l)
	}
	says(t, h.does(t, "away2", &ops.AppBuildSecret{App: "pizza", ID: "npm", Unset: true}), ops.Refused, "pizza has no build secret npm")
	says(t, h.does(t, "bad", &ops.AppBuildSecret{App: "pizza", ID: "../x", Value: "canary-4"}), ops.Refused, "A build secret's name has letters")

	keys, err := h.Store.Client().Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if dump, err := h.Store.Client().Dump(t.Context(), k).Result(); err == nil && strings.Contains(dump, "canary") {
			t.Errorf("%s has a build secret", k)
		}
	}
}

// TestBuildSecretByID: builds open it by the app's name, however the app was typed.
func TestBuildSecretByID(t *testing.T) {
	h, swarm := lockHouse(t)
	says(t, h.does(t, "op1", &ops.AppBuildSecret{App: "id-pizza", ID: "npm", Value: "canary"}), ops.Done)
	if value, err := testKey.Open(swarm.service("pizza").Labels["waggle.build-secret.npm"], "build-secret pizza/npm"); err != nil || value != "canary" {
		t.Errorf("it does not open: %v", err)
	}
}

func TestBuildSecretThatCannotBeKept(t *testing.T) {
	full := linked("pizza", 1)
	for i := range 16 {
		full.Labels[fmt.Sprintf("waggle.build-secret.s%d", i)] = "x"
	}
	h := startHouse(t, newFakeSwarm(full), secretive)
	says(t, h.does(t, "op1", &ops.AppBuildSecret{App: "pizza", ID: "more", Value: "canary"}), ops.Refused, "pizza has 16 build secrets, and the swarm keeps no more")
	err := h.Submit(t.Context(), asked("op2"), &ops.AppBuildSecret{App: "pizza", ID: "s1", Value: secret.Text(strings.Repeat("x", 33<<10))})
	if ops.CodeOf(err) != ops.Invalid || !strings.Contains(err.Error(), "longer than 32768 bytes") {
		t.Errorf("too long: %v", err)
	}
	keyless := startHouse(t, newFakeSwarm(linked("pizza", 1)), secretive, func(r *ops.Runner) { r.Env.SecretKey = secret.Key{} })
	err = keyless.Submit(t.Context(), asked("op1"), &ops.AppBuildSecret{App: "pizza", ID: "npm", Value: "canary"})
	if ops.CodeOf(err) != ops.Invalid || !strings.Contains(err.Error(), "No secret_key is set") {
		t.Errorf("without a key: %v", err)
	}
}

// TestBuildSecretThatDoesNotOpen: nothing is fetched or built without a secret that the
// build is to have.
func TestBuildSecretThatDoesNotOpen(t *testing.T) {
	seal := func(key secret.Key, place string) string {
		box, err := key.Seal("canary", place)
		if err != nil {
			t.Fatal(err)
		}
		return box
	}
	for name, tc := range map[string]struct {
		label string
		key   secret.Key
		says  string
	}{
		"no key":      {seal(testKey, "build-secret pizza/npm"), secret.Key{}, "The build secret npm of pizza cannot be opened: no secret_key is set"},
		"another key": {seal(keyOf(9), "build-secret pizza/npm"), testKey, "The build secret npm of pizza was sealed with another secret_key than this Waggle has"},
		"another app": {seal(testKey, "build-secret pasta/npm"), testKey, "sealed for another app"},
		"another id":  {seal(testKey, "build-secret pizza/pip"), testKey, "sealed for another app"},
		"in clear":    {"canary", testKey, "it is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			svc := linked("pizza", 1)
			svc.Labels["waggle.build-secret.npm"] = tc.label
			swarm := newFakeSwarm(svc)
			swarm.save(ops.Registries{List: []ops.Registry{{Name: "open", Domain: "open.example.com", Push: true}}, Default: "open"})
			h := startHouse(t, swarm, secretive, func(r *ops.Runner) { r.Env.SecretKey = tc.key })
			got := h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
			if got.State != ops.Refused && got.State != ops.Failure || !strings.Contains(said(got), tc.says) || strings.Contains(said(got), "canary") {
				t.Errorf("%s %s", got.State, said(got))
			}
			if len(h.source.fetched) > 0 || len(h.swarm.built) > 0 {
				t.Error("it was fetched or built")
			}
		})
	}
}

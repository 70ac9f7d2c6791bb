package ops_test

import (
	"errors"
	"strings"
	"testing"

	"waggle/internal/secret"
	"waggle/ops"
)

func TestScaleSendsCredentials(t *testing.T) {
	mia, none := &ops.RegistryAuth{Username: "mia", Password: "canary-reg"}, &ops.RegistryAuth{}
	for name, c := range map[string]struct {
		image string
		key   secret.Key
		want  *ops.RegistryAuth
		warns string
	}{
		"of its registry":              {"reg:5000/acme/pizza:1", testKey, mia, ""},
		"one that lets everybody in":   {"open.example.com/pizza", testKey, none, ""},
		"one that nobody has told of":  {"reg:5000/other/pizza:1", testKey, nil, ""},
		"public":                       {"nginx", testKey, nil, ""},
		"sealed with another key":      {"reg:5000/acme/pizza:1", keyOf(9), nil, "sealed with another secret_key"},
		"no key":                       {"reg:5000/acme/pizza:1", secret.Key{}, nil, "no secret_key is set"},
		"another key, but not needed":  {"nginx", keyOf(9), nil, ""},
		"another key, no login needed": {"open.example.com/pizza", keyOf(9), none, ""},
	} {
		t.Run(name, func(t *testing.T) {
			swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 1, Image: c.image})
			rs := read(t, &swarm.fakeConfigs)
			rs.List = append(rs.List, ops.Registry{Name: "open", Domain: "open.example.com"})
			swarm.save(rs)
			h := startHouse(t, swarm, func(r *ops.Runner) { r.Env.SecretKey = c.key })
			got := h.scale(t, "x", &ops.Scale{App: "pizza", Replicas: 2})
			if got.State != ops.Done || len(swarm.changes()) != 1 {
				t.Fatalf("%s %+v, %d writes", got.State, got.Err, len(swarm.changes()))
			}
			auth := swarm.changes()[0].Auth
			if (auth == nil) != (c.want == nil) || auth != nil && *auth != *c.want {
				t.Errorf("sent %+v, want %+v", auth, c.want)
			}
			warnings := strings.Join(got.Plan.Warnings, "\n")
			if (warnings != "") != (c.warns != "") || !strings.Contains(warnings, c.warns) || strings.Contains(warnings, "canary") {
				t.Errorf("warnings: %q, want %q", warnings, c.warns)
			}
		})
	}
}

func TestDeployNamesTheWrongKey(t *testing.T) {
	h := startHouse(t, newFakeSwarm(linked("pizza", 1)), func(r *ops.Runner) { r.Env.SecretKey = keyOf(9) })
	before := h.swarm.names()
	got := h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
	if got.State != ops.Refused || !strings.Contains(got.Err.Sentence, "reg is sealed with another secret_key: with "+testKey.ID()) {
		t.Errorf("%s %+v", got.State, got.Err)
	}
	if len(h.swarm.built) != 0 || len(h.swarm.changes()) != 0 || h.swarm.names() != before {
		t.Errorf("%d builds, %d writes, configs %s", len(h.swarm.built), len(h.swarm.changes()), h.swarm.names())
	}
}

func TestBuildHasTheLoginsThatOpen(t *testing.T) {
	swarm := newFakeSwarm(linked("pizza", 1))
	rs := read(t, &swarm.fakeConfigs)
	stale := sealed("stale", "stale.example.com", "", "mia", "pw")
	if err := stale.Seal(keyOf(9), "canary-stale"); err != nil {
		t.Fatal(err)
	}
	rs.List = append(rs.List, sealed("bases", "bases.example.com", "team", "eve", "pw-bases"), stale)
	swarm.save(rs)
	h := startHouse(t, swarm)
	got := h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
	if got.State != ops.Done || len(got.Plan.Warnings) != 1 || !strings.Contains(got.Plan.Warnings[0], "stale is sealed with another secret_key") {
		t.Errorf("%s %+v, warnings %q", got.State, got.Err, got.Plan.Warnings)
	}
	logins := swarm.built[0].Logins
	if len(logins) != 2 || logins[0].Auth.Password != "canary-reg" || logins[1] != (ops.RegistryLogin{Domain: "bases.example.com", Prefix: "team", Auth: ops.RegistryAuth{Username: "eve", Password: "pw-bases"}}) {
		t.Errorf("logins: %+v", logins)
	}
}

// A push that moves an app away from a registry takes that registry's
// credentials from the service.
func TestDeployNeverSendsCredentialsElsewhere(t *testing.T) {
	swarm := newFakeSwarm(linked("pizza", 1))
	swarm.save(ops.Registries{List: []ops.Registry{sealed("reg", "reg:5000", "acme", "mia", "canary-reg"), {Name: "open", Domain: "open.example.com", Push: true}}, Default: "open"})
	h := startHouse(t, swarm)
	got := h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
	c := swarm.changes()[0]
	if got.State != ops.Done || c.Auth == nil || *c.Auth != (ops.RegistryAuth{}) || !strings.HasPrefix(c.Image, "open.example.com/pizza:") {
		t.Errorf("%s, change %+v", got.State, c)
	}
	if len(swarm.pushed) != 1 || swarm.pushed[0] != (ops.RegistryAuth{}) {
		t.Errorf("pushed with %+v", swarm.pushed)
	}
}

func TestPushIsTriedAgain(t *testing.T) {
	away := ops.Errorf(ops.Unavailable, "The registry reg:5000 cannot be reached: connection refused")
	for name, c := range map[string]struct {
		errs  []error
		state ops.State
		tries int
	}{
		"away for a moment":  {[]error{away, away}, ops.Done, 3},
		"away for long":      {[]error{away, away, away, away, away, away}, ops.Done, 7},
		"wrong credentials":  {[]error{ops.Errorf(ops.Failed, "The registry reg:5000 does not let mia push")}, ops.Failure, 1},
		"away, then refused": {[]error{away, ops.Errorf(ops.Failed, "The registry reg:5000 does not let mia push")}, ops.Failure, 2},
		"a defect":           {[]error{errors.New("what")}, ops.Failure, 1},
	} {
		t.Run(name, func(t *testing.T) {
			swarm := newFakeSwarm(linked("pizza", 1))
			tries := 0
			swarm.push = func() error {
				if tries++; tries <= len(c.errs) {
					return c.errs[tries-1]
				}
				return nil
			}
			h := startHouse(t, swarm)
			got := h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
			if got.State != c.state || tries != c.tries {
				t.Errorf("%s after %d tries: %+v", got.State, tries, got.Err)
			}
			if got.State == ops.Failure && name != "a defect" && !strings.Contains(got.Err.Sentence, "The registry reg:5000") {
				t.Errorf("the registry is not named: %s", got.Err.Sentence)
			}
			if again := h.seen(func(s ops.Status) bool {
				return len(s.Steps) == 3 && strings.HasPrefix(s.Note, away.Sentence+". Retrying until ")
			}); again != (c.tries > 1) {
				t.Errorf("told that it is tried again: %t", again)
			}
			if built := len(swarm.built); built != 1 {
				t.Errorf("%d builds", built)
			}
		})
	}
}

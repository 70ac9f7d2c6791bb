package ops_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"waggle/internal/secret"
	"waggle/ops"
	"waggle/ops/store"
)

func (h *house) asks(t *testing.T, q ops.Question) ops.Answer {
	t.Helper()
	a, err := h.Ask(t.Context(), person("ada"), q)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// answered is all that a person can read of an answer.
func answered(a ops.Answer) string {
	text := a.Head + "\n"
	for _, p := range a.Parts {
		text += p.Title + "\n"
		for _, row := range p.Table {
			text += strings.Join(row, " | ") + "\n"
		}
		text += strings.Join(p.Lines, "\n") + "\n"
	}
	for _, c := range a.Concerns {
		text += "! " + c.What + ": " + c.Then + "\n"
	}
	return text
}

func tells(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("it does not say %q:\n%s", p, text)
		}
	}
}

func (h *house) registries(t *testing.T) ops.Registries {
	t.Helper()
	return read(t, &h.swarm.fakeConfigs)
}

// noCanary: no password is anywhere but sealed or in what engines are sent.
func (h *house) noCanary(t *testing.T) {
	t.Helper()
	rdb := h.Store.Client()
	keys, err := rdb.Keys(t.Context(), "*").Result()
	if err != nil || len(keys) == 0 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	h.recorder.mu.Lock()
	seen := fmt.Sprintf("%+v", h.recorder.all)
	h.recorder.mu.Unlock()
	for _, c := range h.swarm.configs {
		seen += string(c.Data)
	}
	for _, key := range keys {
		switch kind := rdb.Type(t.Context(), key).Val(); kind {
		case "string":
			seen += rdb.Get(t.Context(), key).Val()
		case "hash":
			seen += fmt.Sprint(rdb.HGetAll(t.Context(), key).Val())
		case "list":
			seen += fmt.Sprint(rdb.LRange(t.Context(), key, 0, -1).Val())
		case "set":
			seen += fmt.Sprint(rdb.SMembers(t.Context(), key).Val())
		case "zset":
			seen += fmt.Sprint(rdb.ZRange(t.Context(), key, 0, -1).Val())
		case "stream":
			seen += fmt.Sprint(rdb.XRange(t.Context(), key, "-", "+").Val())
		case "none": // gone in the meantime
		default:
			t.Errorf("%s is a %s", key, kind)
		}
	}
	if !strings.Contains(seen, "registry-") {
		t.Error("it looks in the wrong place")
	}
	if i := strings.Index(seen, "canary"); i >= 0 {
		t.Errorf("a password is in clear: …%s…", seen[max(0, i-100):min(len(seen), i+50)])
	}
}

func adding(name, domain, prefix, user string, password secret.Text, push bool) *ops.RegistryAdd {
	return ops.NewRegistryAdd(ops.Registry{Name: name, Domain: domain, Prefix: prefix, Username: user, Push: push}, password)
}

func TestRegistryAdd(t *testing.T) {
	swarm := newFakeSwarm(
		ops.Service{Name: "pizza", Replicas: 2, Image: "ghcr.io/acme/pizza:1"},
		ops.Service{Name: "nightly", Mode: ops.ReplicatedJob, Image: "ghcr.io/acme/job:1"},
		ops.Service{Name: "web", Image: "nginx"})
	swarm.save(ops.Registries{})
	h := startHouse(t, swarm)
	plan := h.plans(t, "dry", adding("ghcr", "ghcr.io", "acme", "mia", "canary-1", true))
	says(t, plan, ops.DryRun, "registry ghcr none → ghcr.io/acme as mia", "default push registry none → ghcr", "gets the login without a restart: pizza")
	if len(h.registries(t).List) != 0 {
		t.Error("a dry run has added it")
	}
	got := h.does(t, "add", adding("ghcr", "ghcr.io", "acme", "mia", "canary-1", true))
	says(t, got, ops.Done, "ghcr is added: ghcr.io/acme as mia; built images are pushed there from now on")
	rs := h.registries(t)
	if names(rs) != "ghcr*" || fmt.Sprint(swarm.given) != "map[pizza:mia:canary-1]" {
		t.Errorf("registries %s, given %v", names(rs), swarm.given)
	}
	if login, err := rs.List[0].Login(testKey); err != nil || login.Auth.Password != "canary-1" {
		t.Errorf("login %v", err)
	}
	if c := swarm.changes(); len(c) != 1 || c[0].Replicas != nil || c[0].Image != "" || len(c[0].Labels) != 0 {
		t.Errorf("changes %+v: something but the login was changed", c)
	}
	got = h.does(t, "pull", adding("bases", "ghcr.io", "", "", "", false))
	says(t, got, ops.Done, "bases is added: ghcr.io, pull only")
	says(t, h.does(t, "twice", adding("ghcr", "quay.io", "x", "", "", true)), ops.Refused, "There is a registry ghcr already")
	says(t, h.does(t, "place", adding("other", "ghcr.io", "acme", "", "", true)), ops.Refused, "ghcr.io/acme is there already: it is called ghcr")
	if tried := strings.Join(h.images.tried, ", "); tried != "mia@ghcr.io/acme push, mia@ghcr.io/acme push, @ghcr.io/" {
		t.Errorf("tried %s", tried)
	}
	h.noCanary(t)
}

func TestRegistryAddNamesWhatDoesNotWork(t *testing.T) {
	h := startHouse(t, newFakeSwarm())
	before := h.swarm.names()
	h.images.trial = func(login ops.RegistryLogin, _ bool) ops.Trial {
		return ops.Trial{Reachable: true, Err: ops.Errorf(ops.Failed, "The registry %s does not take the user mia with this password", login.Domain).Then("Check both.")}
	}
	got := h.does(t, "add", adding("ghcr", "ghcr.io", "acme", "mia", "canary-1", true))
	says(t, got, ops.Refused, "does not take the user mia with this password. Check both.")
	h.images.trial = func(ops.RegistryLogin, bool) ops.Trial {
		return ops.Trial{Reachable: true, LoggedIn: true, MayPush: true, Warnings: []string{"It makes no repositories"}}
	}
	says(t, h.plans(t, "warned", adding("ghcr", "ghcr.io", "acme", "mia", "canary-1", true)), ops.DryRun, "It makes no repositories")
	if h.swarm.names() != before {
		t.Errorf("configs %s, before %s", h.swarm.names(), before)
	}
	keyless := startHouse(t, newFakeSwarm(), func(r *ops.Runner) { r.Env.SecretKey = secret.Key{} })
	err := keyless.Submit(t.Context(), asked("add"), adding("ghcr", "ghcr.io", "acme", "mia", "canary-1", true))
	if ops.CodeOf(err) != ops.Invalid || !strings.Contains(err.Error(), "No secret_key is set") {
		t.Errorf("without secret_key: %v", err)
	}
}

func TestRegistryEdit(t *testing.T) {
	pizza := ops.Service{Name: "pizza", Replicas: 2, Image: "reg:5000/acme/pizza:1"}
	edit := func(h *house, change func(*ops.Registry), password secret.Text) *ops.RegistryEdit {
		now := h.registries(t).List[0]
		r := now
		r.Sealed = ""
		change(&r)
		return ops.NewRegistryEdit(r, password, now.Fingerprint())
	}
	nothing := func(*ops.Registry) {}

	h := startHouse(t, newFakeSwarm(pizza, ops.Service{Name: "web", Image: "nginx"}))
	got := h.does(t, "password", edit(h, nothing, "canary-new"))
	says(t, got, ops.Done, "reg is changed: reg:5000/acme as mia; 1 service has the login, and nothing was restarted", "its password the present one → a new one")
	if fmt.Sprint(h.swarm.given) != "map[pizza:mia:canary-new]" || len(h.swarm.changes()) != 1 {
		t.Errorf("given %v", h.swarm.given)
	}
	says(t, h.does(t, "same", edit(h, nothing, "")), ops.Done, "1 service has the login")
	if len(h.swarm.changes()) != 2 {
		t.Error("an edit that changes nothing did not send the login again")
	}
	says(t, h.does(t, "user", edit(h, func(r *ops.Registry) { r.Username = "eve" }, "")), ops.Done, "reg:5000/acme as mia → reg:5000/acme as eve")
	if h.swarm.given["pizza"] != "eve:canary-new" {
		t.Errorf("given %v", h.swarm.given)
	}
	says(t, h.does(t, "domain", edit(h, func(r *ops.Registry) { r.Domain = "other:5000" }, "")), ops.Refused,
		"The password was given for reg:5000, so it is not sent to other:5000")

	// Somebody else has changed it while the form was open.
	mine := edit(h, func(r *ops.Registry) { r.Username = "mine" }, "canary-mine")
	says(t, h.does(t, "theirs", edit(h, func(r *ops.Registry) { r.Username = "theirs" }, "canary-theirs")), ops.Done)
	says(t, h.does(t, "mine", mine), ops.Refused, "reg was changed by somebody else since you were shown it", "/registry edit reg")
	if now := h.registries(t).List[0]; now.Username != "theirs" {
		t.Errorf("it is %s", now)
	}

	// The login is taken away, or its place: on a cluster somebody else has to agree.
	says(t, h.pends(t, "prefix", edit(h, func(r *ops.Registry) { r.Prefix = "elsewhere" }, "")), ops.Pending,
		"pizza pulled with the login of reg → with the same, which nobody renews", "nobody renews the login of 1 service any more")
	says(t, h.pends(t, "push", edit(h, func(r *ops.Registry) { r.Push = false }, "")), ops.Pending, "nothing is pushed to reg any more", "default push registry reg → none")
	says(t, h.does(t, "open", edit(h, func(r *ops.Registry) { r.Username = "" }, "")), ops.Done, "its password the present one → none")
	if h.swarm.given["pizza"] != ":" {
		t.Errorf("given %v, want an explicitly empty login", h.swarm.given)
	}
	h.noCanary(t)
}

// The logins go out though Waggle stops in between.
func TestRegistryEditGoesOn(t *testing.T) {
	swarm := newFakeSwarm(ops.Service{Name: "a", Image: "reg:5000/acme/a:1"}, ops.Service{Name: "b", Image: "reg:5000/acme/b:1"})
	redis := kept(t)
	h := startOn(t, redis, swarm)
	now := h.registries(t).List[0]
	op := ops.NewRegistryEdit(now, "canary-new", now.Fingerprint())
	stopped := make(chan struct{})
	swarm.beforeUpdate = func(f *fakeSwarm) { // the first login, after the change was stored
		f.mu.Unlock()
		go func() { h.Stop(); close(stopped) }()
		time.Sleep(50 * time.Millisecond)
		f.mu.Lock()
	}
	h.submit(t, asked("edit"), op)
	<-stopped
	again := startOn(t, redis, swarm)
	got := again.final(t, "edit")
	says(t, got, ops.Done, "2 services have the login")
	if fmt.Sprint(swarm.given) != "map[a:mia:canary-new b:mia:canary-new]" {
		t.Errorf("given %v", swarm.given)
	}
	if n := len(again.registries(t).List); n != 1 {
		t.Errorf("%d registries", n)
	}
}

// A login never goes out in the middle of a deploy: a second write would take the
// deploy's way back from it.
func TestLoginWaitsForADeploy(t *testing.T) {
	swarm := newFakeSwarm(linked("pizza", 1))
	h := startHouse(t, swarm)
	lease, err := h.Store.Lock(t.Context(), "target:app/pizza", store.Claim{Owner: "bob", Reason: "deploy"})
	if err != nil {
		t.Fatal(err)
	}
	now := h.registries(t).List[0]
	h.submit(t, asked("edit"), ops.NewRegistryEdit(now, "canary-new", now.Fingerprint()))
	h.wait(t, func(s ops.Status) bool {
		return strings.Contains(s.Note, "Waits for bob, who has been changing pizza (deploy)")
	})
	if len(swarm.changes()) != 0 {
		t.Error("it was changed in the middle of a deploy")
	}
	lease.Release()
	says(t, h.final(t, "edit"), ops.Done, "1 service has the login")
}

func TestRegistryDefault(t *testing.T) {
	swarm := newFakeSwarm(
		ops.Service{Name: "pizza", Image: "reg:5000/acme/pizza:1"}, ops.Service{Name: "web", Image: "nginx:1"},
		ops.Service{Name: "local", Image: "local:1"}, ops.Service{Name: "there", Image: "ghcr.io/acme/there:1"},
		ops.Service{Name: "left", Image: "nginx", Labels: map[string]string{ops.LabelMigrate: "no"}})
	rs := read(t, &swarm.fakeConfigs)
	rs.List = append(rs.List, sealed("ghcr", "ghcr.io", "acme", "mia", "canary-g"), ops.Registry{Name: "pull", Domain: "pull.example.com"})
	swarm.save(rs)
	h := startHouse(t, swarm)
	got := h.does(t, "d", &ops.RegistryDefault{Name: "ghcr"})
	says(t, got, ops.Done, "Built images are pushed to ghcr from now on", "default push registry reg → ghcr", "the images of 3 apps are elsewhere: ", "pizza (reg)", "web (", "local (", "/registry migrate")
	if got.Plan.Undo != "/registry default reg" || names(h.registries(t)) != "reg ghcr* pull-" || strings.Contains(told(got), "left") {
		t.Errorf("undo %s, registries %s", got.Plan.Undo, names(h.registries(t)))
	}
	says(t, h.does(t, "same", &ops.RegistryDefault{Name: "ghcr"}), ops.Done)
	says(t, h.does(t, "pull", &ops.RegistryDefault{Name: "pull"}), ops.Refused, "Nothing may be pushed to pull", "/registry enable pull")
	says(t, h.does(t, "none", &ops.RegistryDefault{Name: "ghrc"}), ops.Refused, "Did you mean `ghcr`?")
	tells(t, answered(h.asks(t, ops.RegistryShowDefault{})), "Built images are pushed to ghcr: ghcr.io/acme as mia", "pizza (reg)")
	swarm.save(ops.Registries{})
	tells(t, answered(h.asks(t, ops.RegistryShowDefault{})), "There is no default push registry", "! there are 3 nodes and no default push registry: ")
}

func TestRegistryPush(t *testing.T) {
	swarm := newFakeSwarm(linked("pizza", 1))
	h := startHouse(t, swarm)
	waits := h.pends(t, "off", &ops.RegistryPush{Name: "reg"})
	says(t, waits, ops.Pending, "pushing to reg on → off", "default push registry reg → none", "pushes to the repository of pizza deployed → refused",
		"1 app is deployed from a repository; until another default is chosen, a git push is refused", "nothing is pushed to reg any more")
	swarm.with(func() {
		s := linked("pasta", 1)
		s.ID, s.Version, s.Mode = "id-pasta", 10, ops.Replicated
		swarm.services["pasta"] = &s
	})
	h.decide(t, "early", "bob", waits.Token, ops.Approve, "")
	waits = h.wait(t, func(s ops.Status) bool { return s.ID == "off" && s.Before != nil })
	says(t, waits, ops.Pending, "pushes to the repository of pasta deployed → refused", "2 apps are deployed from a repository")
	if names(h.registries(t)) != "reg*" {
		t.Error("it is off before anybody approved")
	}
	h.decide(t, "click", "bob", waits.Token, ops.Approve, "")
	says(t, h.final(t, "off"), ops.Done, "Nothing is pushed to reg any more; there is no default push registry")
	says(t, h.does(t, "deploy", &ops.Deploy{App: "pizza", Push: pushOf(1)}), ops.Refused, "There is no default registry, and the other 2 nodes could not get the image")
	says(t, h.does(t, "on", &ops.RegistryPush{Name: "reg", On: true}), ops.Done, "reg may be pushed to, and is the default")
	if got := strings.Join(h.images.tried, ", "); got != "mia@reg:5000/acme push" {
		t.Errorf("tried %s", got)
	}
	h.images.trial = func(ops.RegistryLogin, bool) ops.Trial {
		return ops.Trial{Err: ops.Errorf(ops.Failed, "mia may log in, but may not push to reg:5000/acme")}
	}
	says(t, h.approved(t, "off2", &ops.RegistryPush{Name: "reg"}), ops.Done)
	says(t, h.does(t, "on2", &ops.RegistryPush{Name: "reg", On: true}), ops.Refused, "may not push to reg:5000/acme")

	alone := newFakeSwarm(linked("pizza", 1))
	alone.nodes = alone.nodes[:1]
	h = startHouse(t, alone)
	says(t, h.does(t, "off", &ops.RegistryPush{Name: "reg"}), ops.Done, "what is built stays on this manager")
}

func TestRegistryRemove(t *testing.T) {
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Image: "ghcr.io/acme/pizza:1"}, ops.Service{Name: "sub", Image: "ghcr.io/acme/sub/x:1"}, ops.Service{Name: "open", Image: "open.example.com/x"})
	rs := read(t, &swarm.fakeConfigs)
	rs.List = append(rs.List, sealed("ghcr", "ghcr.io", "acme", "mia", "canary-g"), sealed("sub", "ghcr.io", "acme/sub", "subby", "canary-s"), ops.Registry{Name: "open", Domain: "open.example.com"})
	swarm.save(rs)
	h := startHouse(t, swarm)
	says(t, h.does(t, "default", &ops.RegistryRemove{Name: "reg"}), ops.Refused, "reg is the default push registry, so it cannot be removed", "/registry disable reg")
	waits := h.pends(t, "sub", &ops.RegistryRemove{Name: "sub"})
	says(t, waits, ops.Pending, "registry sub ghcr.io/acme/sub as subby → removed", "sub pulled with the login of sub → with that of ghcr", "1 service pulls from it")
	h.decide(t, "c1", "bob", waits.Token, ops.Approve, "")
	says(t, h.final(t, "sub"), ops.Done, "sub is removed, and its password is forgotten")
	if fmt.Sprint(swarm.given) != "map[sub:mia:canary-g]" {
		t.Errorf("given %v", swarm.given)
	}
	waits = h.pends(t, "ghcr", &ops.RegistryRemove{Name: "ghcr"})
	says(t, waits, ops.Pending, "pizza pulled with the login of ghcr → with the same, which nobody renews", "2 services pull from it", "These 2 services keep the login that they have now")
	// One more comes to pull from there: it is asked again.
	swarm.with(func() {
		swarm.services["late"] = &ops.Service{ID: "id-late", Name: "late", Version: 10, Mode: ops.Replicated, Image: "ghcr.io/acme/late:1"}
	})
	h.decide(t, "c2", "bob", waits.Token, ops.Approve, "")
	again := h.wait(t, func(s ops.Status) bool { return s.ID == "ghcr" && s.State == ops.Pending && s.Before != nil })
	says(t, again, ops.Pending, "late pulled with the login of ghcr")
	h.decide(t, "c3", "bob", again.Token, ops.Approve, "")
	says(t, h.final(t, "ghcr"), ops.Done)
	says(t, h.approved(t, "open", &ops.RegistryRemove{Name: "open"}), ops.Done, "open pulled from open without a login → the same, unknown to Waggle")
	if names(h.registries(t)) != "reg*" {
		t.Errorf("registries %s", names(h.registries(t)))
	}
	says(t, h.does(t, "gone", &ops.RegistryRemove{Name: "ghcr"}), ops.Refused, "There is no registry")
}

func TestRegistryList(t *testing.T) {
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Image: "ghcr.io/acme/pizza:1"})
	rs := read(t, &swarm.fakeConfigs)
	stale := sealed("stale", "stale.example.com", "", "eve", "x")
	if err := stale.Seal(keyOf(9), "canary-x"); err != nil {
		t.Fatal(err)
	}
	rs.List = append([]ops.Registry{stale, {Name: "ghcr", Domain: "ghcr.io"}}, rs.List...)
	swarm.save(rs)
	h := startHouse(t, swarm)
	text := answered(h.asks(t, ops.RegistryList{}))
	tells(t, text, "3 registries", "reg | reg:5000/acme | mia | default | 0\nstale | stale.example.com | eve | yes | 0\nghcr | ghcr.io | none | no | 1",
		"! The password of the registry stale is sealed with another secret_key")
	swarm.save(ops.Registries{})
	tells(t, answered(h.asks(t, ops.RegistryList{})), "There is no registry yet", "/registry add", "no default push registry")
	swarm.nodes = swarm.nodes[:1]
	if a := h.asks(t, ops.RegistryList{}); len(a.Concerns) != 0 {
		t.Errorf("one node without a registry is a concern: %+v", a.Concerns)
	}
}

func TestRegistryCheck(t *testing.T) {
	at := func(n int) string { return fmt.Sprintf("@sha256:%064d", n) }
	swarm := newFakeSwarm(
		ops.Service{Name: "pizza", Replicas: 3, Image: "reg:5000/acme/pizza:1" + at(1)}, ops.Service{Name: "pasta", Image: "reg:5000/acme/pasta:1"},
		ops.Service{Name: "gone", Image: "reg:5000/acme/gone:1" + at(2)}, ops.Service{Name: "web", Image: "nginx"}, ops.Service{Name: "job", Mode: ops.ReplicatedJob, Image: "x"})
	rs := read(t, &swarm.fakeConfigs)
	rs.List = append(rs.List, sealed("down", "down.example.com", "", "eve", "canary-d"), ops.Registry{Name: "open", Domain: "open.example.com"})
	swarm.save(rs)
	swarm.tasks = func(s ops.Service) []ops.Task {
		all := swarm.spread(s)
		if s.Name != "pizza" {
			return all
		}
		bad := task(2, "rejected", "No such image: reg:5000/acme/pizza:1", -1)
		bad.Image, bad.ImageMissing = s.Image, true
		return append(all, bad)
	}
	h := startHouse(t, swarm)
	h.images.trial = func(login ops.RegistryLogin, push bool) ops.Trial {
		switch login.Domain {
		case "down.example.com":
			return ops.Trial{Err: ops.Errorf(ops.Unavailable, "The registry down.example.com cannot be reached").Then("See whether it runs")}
		}
		return ops.Trial{Reachable: true, LoggedIn: true, MayPush: push}
	}
	h.images.images["reg:5000/acme/pizza:1"+at(1)] = ops.Image{Digest: at(1)[1:]}
	h.images.images["reg:5000/acme/pasta:1"] = ops.Image{Digest: at(3)[1:]}
	h.images.failing["nginx"] = ops.Errorf(ops.Unavailable, "The registry docker.io did not answer in time")
	text := answered(h.asks(t, ops.RegistryCheck{}))
	tells(t, text, "2 of 3 registries work; 2 of 4 images found",
		"reg | reg:5000/acme | yes | yes | yes", "down | down.example.com | no | no | no", "open | open.example.com | yes | none | off",
		"pizza | reg:5000/acme/pizza:1@sha256:000000000000 | yes | n2", "pasta | reg:5000/acme/pasta:1 | yes, not pinned", "gone | reg:5000/acme/gone:1@sha256:000000000000 | no", "web | nginx | cannot tell",
		"! down: The registry down.example.com cannot be reached: See whether it runs", "! gone: reg:5000/acme/gone:1 is in no registry",
		"! n2 could not pull the image of pizza: No such image")
	if strings.Contains(text, "canary") || strings.Contains(text, "job") {
		t.Error(text)
	}
}

func environment(n ops.NewService) string {
	var out []string
	for _, v := range n.Env {
		out = append(out, v.Name+"="+v.Value.Reveal())
	}
	return strings.Join(out, "\n")
}

func TestRegistrySetup(t *testing.T) {
	swarm := newFakeSwarm()
	swarm.save(ops.Registries{})
	h := startHouse(t, swarm)
	got := h.does(t, "setup", &ops.RegistrySetup{Name: "local"})
	says(t, got, ops.Done, "the routing mesh opens port 5000 on all addresses of every node", "local runs at 127.0.0.1:5000 on n1", "and built images are pushed there", "service waggle-registry none → a registry", "is in the volume waggle-registry on n1", "default push registry none → local")
	if len(swarm.made) != 1 {
		t.Fatalf("%d services made", len(swarm.made))
	}
	n := swarm.made[0]
	if n.Image != "registry:2" || fmt.Sprint(n.Constraints) != "[node.id == id1]" || len(n.Mounts) != 1 || fmt.Sprint(n.Ports) != "[5000:5000]" || len(n.Health.Test) != 2 || n.UpdateOrder != "stop-first" ||
		n.Labels[ops.LabelManagedRegistry] != "127.0.0.1:5000" || len(n.Secrets) != 1 || n.Secrets[0].File != "htpasswd" {
		t.Errorf("made %+v", n)
	}
	tells(t, environment(n), "REGISTRY_STORAGE_DELETE_ENABLED=true", "REGISTRY_AUTH=htpasswd")
	login, err := h.registries(t).List[0].Login(testKey)
	if err != nil {
		t.Fatal(err)
	}
	user, hash, _ := strings.Cut(strings.TrimSpace(swarm.secrets[n.Secrets[0].Name]), ":")
	if user != "waggle" || bcrypt.CompareHashAndPassword([]byte(hash), []byte(login.Auth.Password.Reveal())) != nil || len(login.Auth.Password) < 20 {
		t.Errorf("the login does not fit the htpasswd file %s:%s", user, hash)
	}
	if text := fmt.Sprintf("%+v %s %s", n, environment(n), hash); strings.Contains(text, login.Auth.Password.Reveal()) {
		t.Error("the password is in the service")
	}
	if names(h.registries(t)) != "local*" {
		t.Errorf("registries %s", names(h.registries(t)))
	}

	// Once more: nothing changes, above all no password.
	before := h.registries(t).List[0]
	says(t, h.does(t, "again", &ops.RegistrySetup{Name: "local"}), ops.Done, "local runs at 127.0.0.1:5000")
	if now := h.registries(t).List[0]; now != before || len(swarm.made) != 1 || len(swarm.secrets) != 1 || len(swarm.changes()) != 0 {
		t.Errorf("it is %+v, %d made, %d secrets", now, len(swarm.made), len(swarm.secrets))
	}
	says(t, h.does(t, "elsewhere", &ops.RegistrySetup{Name: "local", Address: "10.0.0.2:5000"}), ops.Refused, "The registry of this swarm is at 127.0.0.1:5000 already")

	// It runs, and is forgotten: the same password is found on it.
	swarm.save(ops.Registries{})
	says(t, h.does(t, "found", &ops.RegistrySetup{Name: "local"}), ops.Done, "registry local runs, but is not known → 127.0.0.1:5000 as waggle")
	if again, err := h.registries(t).List[0].Login(testKey); err != nil || again.Auth != login.Auth {
		t.Errorf("login %v", err)
	}
	swarm.save(ops.Registries{})
	other := startHouse(t, swarm, func(r *ops.Runner) { r.Env.SecretKey = keyOf(9) })
	says(t, other.does(t, "key", &ops.RegistrySetup{Name: "local"}), ops.Refused, "sealed with another secret_key")
}

func TestRegistrySetupElsewhere(t *testing.T) {
	swarm := newFakeSwarm()
	h := startHouse(t, swarm)
	says(t, h.plans(t, "pair", &ops.RegistrySetup{Name: "own", Certificate: "crt"}), ops.Refused, "A certificate needs its key")
	says(t, h.plans(t, "none", &ops.RegistrySetup{Name: "own", Certificate: "crt", Key: "key"}), ops.Refused, "The swarm has no secret")
	says(t, h.plans(t, "port", &ops.RegistrySetup{Name: "own", Address: "10.0.0.2"}), ops.Refused, "The address 10.0.0.2 needs a port")
	says(t, h.plans(t, "path", &ops.RegistrySetup{Name: "own", Address: "10.0.0.2:5000/x"}), ops.Refused, "has no prefix")
	says(t, h.plans(t, "node", &ops.RegistrySetup{Name: "own", Node: "n9"}), ops.Refused, "There is no node")
	says(t, h.plans(t, "name", &ops.RegistrySetup{Name: "reg"}), ops.Refused, "There is a registry reg already")
	says(t, h.plans(t, "trust", &ops.RegistrySetup{Name: "own", Node: "n2", Address: "10.0.0.2:5000"}), ops.DryRun, "it listens on port 5000 of n2 only", "every engine has to list http://10.0.0.2:5000")
	swarm.secrets = map[string]string{"crt": "", "key": "", "keys": "", "waggle-registry-htpasswd-old": ""}
	got := h.does(t, "tls", &ops.RegistrySetup{Name: "own", Node: "n2", Address: "registry.example.com:443", Certificate: "crt", Key: "key"})
	says(t, got, ops.Done, "own runs at registry.example.com:443")
	n := swarm.made[0]
	files := map[string]string{}
	for _, s := range n.Secrets {
		files[s.File] = s.Name
	}
	if files["registry.crt"] != "crt" || files["registry.key"] != "key" || fmt.Sprint(n.Ports) != "[443:5000:host]" || fmt.Sprint(n.Constraints) != "[node.id == id2]" {
		t.Errorf("made %+v", n)
	}
	tells(t, environment(n), "REGISTRY_HTTP_TLS_CERTIFICATE=/run/secrets/registry.crt")
	if gone := strings.Join(swarm.secretsGone, " "); !strings.Contains(gone, "secret-waggle-registry-htpasswd-old") || strings.Contains(gone, "crt") || strings.Contains(gone, "keys") {
		t.Errorf("secrets removed: %s", gone)
	}
	if names(h.registries(t)) != "reg* own" {
		t.Errorf("registries %s", names(h.registries(t)))
	}

	foreign := newFakeSwarm(ops.Service{Name: "waggle-registry", Image: "x"})
	says(t, startHouse(t, foreign).does(t, "x", &ops.RegistrySetup{Name: "own"}), ops.Refused, "There is a service waggle-registry that Waggle did not make")
	keyless := startHouse(t, newFakeSwarm(), func(r *ops.Runner) { r.Env.SecretKey = secret.Key{} })
	says(t, keyless.does(t, "x", &ops.RegistrySetup{Name: "own"}), ops.Refused, "No secret_key is set")
}

func TestRegistrySetupThatDoesNotWork(t *testing.T) {
	swarm := newFakeSwarm()
	h := startHouse(t, swarm, func(r *ops.Runner) { r.Env.JoinTimeout = 200 * time.Millisecond })
	tries := 0
	h.images.trial = func(ops.RegistryLogin, bool) ops.Trial {
		tries++
		return ops.Trial{Err: ops.Errorf(ops.Unavailable, "The registry 127.0.0.1:5000 cannot be reached")}
	}
	says(t, h.does(t, "setup", &ops.RegistrySetup{Name: "local"}), ops.Failure, "The registry runs, but cannot be used: The registry 127.0.0.1:5000 cannot be reached")
	if tries < 2 || names(h.registries(t)) != "reg*" {
		t.Errorf("tried %d times, registries %s", tries, names(h.registries(t)))
	}
	h.images.trial = nil
	says(t, h.does(t, "again", &ops.RegistrySetup{Name: "local"}), ops.Done, "local runs at")
	if len(swarm.made) != 1 || len(swarm.secrets) != 1 || names(h.registries(t)) != "reg* local" {
		t.Errorf("%d made, registries %s", len(swarm.made), names(h.registries(t)))
	}
}

func TestRegistryMigrate(t *testing.T) {
	at := func(n int) string { return fmt.Sprintf("sha256:%064d", n) }
	release, _ := json.Marshal([]ops.Release{{Number: 7, Image: "old.example.com/pasta:1@" + at(2), Commit: "abc"}})
	swarm := newFakeSwarm(
		ops.Service{Name: "data", Replicas: 1, Image: "data:1", Persistent: true},
		ops.Service{Name: "pizza", Replicas: 2, Image: "pizza:111111111111"},
		ops.Service{Name: "pasta", Replicas: 1, Image: "old.example.com/pasta:1@" + at(2), Labels: map[string]string{ops.LabelReleases: string(release)}},
		ops.Service{Name: "lost", Replicas: 1, Image: "lost:1"},
		ops.Service{Name: "there", Replicas: 1, Image: "reg:5000/acme/there:1"},
		ops.Service{Name: "left", Image: "nginx", Labels: map[string]string{ops.LabelMigrate: "no"}},
		ops.Service{Name: "stacked", Image: "old.example.com/s:1", Labels: map[string]string{"com.docker.stack.namespace": "shop"}},
		ops.Service{Name: "own", Image: "registry:2", Labels: map[string]string{ops.LabelManagedRegistry: "127.0.0.1:5000"}},
		ops.Service{Name: "job", Mode: ops.GlobalJob, Image: "job"})
	swarm.local = map[string]bool{"docker.io/library/pizza:111111111111": true, "docker.io/library/data:1": true}
	h := startHouse(t, swarm)
	h.images.images["old.example.com/pasta@"+at(2)] = ops.Image{Digest: at(2)}
	h.images.images["old.example.com/s:1"] = ops.Image{Digest: at(3)}

	plan := h.plans(t, "dry", &ops.RegistryMigrate{})
	says(t, plan, ops.DryRun, "lost lost:1 → reg:5000/acme/lost:1\npasta old.example.com/pasta:1 → reg:5000/acme/pasta:1\npizza pizza:111111111111 → reg:5000/acme/pizza:111111111111\nstacked old.example.com/s:1 → reg:5000/acme/stacked:1\ndata data:1 → reg:5000/acme/data:1",
		"with persistent data, so last, and stopped before it is started again: data", "stacked is of a stack")
	if len(swarm.changes()) != 0 || len(h.images.copies) != 0 {
		t.Error("a dry run has moved something")
	}
	got := h.does(t, "go", &ops.RegistryMigrate{})
	says(t, got, ops.Failure, "4 of 5 apps are in reg now; not moved: lost (", "`/registry migrate` tries it again")
	if s := strings.Join(h.images.copies, ", "); s != "old.example.com/pasta@"+at(2)+" as reg:5000/acme/pasta:1, docker.io/library/s:1" && !strings.HasPrefix(s, "old.example.com/pasta@"+at(2)+" as reg:5000/acme/pasta:1, ") {
		t.Errorf("copied %s", s)
	}
	if s := strings.Join(swarm.tagged, ", "); s != "docker.io/library/pizza:111111111111 as reg:5000/acme/pizza:111111111111, docker.io/library/data:1 as reg:5000/acme/data:1" {
		t.Errorf("tagged %s", s)
	}
	for name, image := range map[string]string{"pizza": "reg:5000/acme/pizza:111111111111@" + digest, "pasta": "reg:5000/acme/pasta:1@" + at(2), "data": "reg:5000/acme/data:1@" + digest, "lost": "lost:1", "there": "reg:5000/acme/there:1"} {
		if s := swarm.service(name); s.Image != image {
			t.Errorf("%s runs %s, want %s", name, s.Image, image)
		}
	}
	changes := swarm.changes()
	for i, c := range changes {
		if !c.Rollback || c.Auth == nil || c.Auth.Username != "mia" || (c.UpdateOrder == "stop-first") != (i == len(changes)-1) {
			t.Errorf("change %d: %+v", i, c)
		}
	}
	if r, err := ops.Service.Releases(swarm.service("pasta")); err != nil || len(r) != 2 || r[0].Number != 8 || r[0].Commit != "abc" || r[0].Image != "reg:5000/acme/pasta:1@"+at(2) {
		t.Errorf("releases %+v, %v", r, err)
	}
	says(t, h.plans(t, "left", &ops.RegistryMigrate{}), ops.DryRun, "lost lost:1 → ")
	swarm.local["docker.io/library/lost:1"] = true
	says(t, h.does(t, "rest", &ops.RegistryMigrate{Apps: []string{"lost"}}), ops.Done, "1 app runs from reg now")
	says(t, h.does(t, "all", &ops.RegistryMigrate{}), ops.Done, "All images are in reg already")
	says(t, h.does(t, "who", &ops.RegistryMigrate{Apps: []string{"pizzza"}}), ops.Refused, "Did you mean `pizza`?")
	swarm.with(func() {
		swarm.services["lost"].Image = "lost:1"
		swarm.services["lost"].Labels = map[string]string{ops.LabelFreeze: "@bob: no"}
	})
	says(t, h.plans(t, "frozen", &ops.RegistryMigrate{}), ops.DryRun, "lost stays where it is: its deploys are frozen (@bob: no)")
	swarm.save(ops.Registries{})
	says(t, h.does(t, "nowhere", &ops.RegistryMigrate{}), ops.Refused, "There is no default registry to bring images to")
}

// A local image is never looked for under its name at Docker Hub first.
func TestMigrateTakesWhatRuns(t *testing.T) {
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 1, Image: "pizza:1"}, ops.Service{Name: "web", Replicas: 1, Image: "nginx:1"})
	swarm.local = map[string]bool{"docker.io/library/pizza:1": true}
	h := startHouse(t, swarm)
	h.images.images["docker.io/library/pizza:1"] = ops.Image{Digest: "sha256:evil"}
	h.images.images["docker.io/library/nginx:1"] = ops.Image{Digest: digest}
	says(t, h.does(t, "go", &ops.RegistryMigrate{}), ops.Done, "2 apps run from reg now")
	if s := strings.Join(h.images.copies, ", "); s != "docker.io/library/nginx:1 as reg:5000/acme/web:1" {
		t.Errorf("copied %s", s)
	}
}

func TestMigrateGoesOnAfterAKill(t *testing.T) {
	t.Parallel()
	swarm := newFakeSwarm(ops.Service{Name: "a", Replicas: 1, Image: "a:1"}, ops.Service{Name: "b", Replicas: 1, Image: "b:1"}, ops.Service{Name: "c", Replicas: 1, Image: "c:1"})
	swarm.local = map[string]bool{"docker.io/library/a:1": true, "docker.io/library/b:1": true, "docker.io/library/c:1": true}
	redis := kept(t)
	h := startOn(t, redis, swarm)
	pushes := 0
	second, stopped := make(chan struct{}), make(chan struct{})
	swarm.push = func() error {
		if pushes++; pushes == 2 {
			close(second)
			<-stopped
			return context.Canceled
		}
		return nil
	}
	h.submit(t, asked("go"), &ops.RegistryMigrate{})
	<-second
	go func() { h.Stop(); close(stopped) }()
	<-stopped
	again := startOn(t, redis, swarm)
	says(t, again.final(t, "go"), ops.Done, "3 apps run from reg now")
	if pushes != 4 { // a, b that was cut off, b, c
		t.Errorf("%d pushes", pushes)
	}
	if n := len(swarm.changes()); n != 3 {
		t.Errorf("%d writes", n)
	}
}

func TestRegistryPrune(t *testing.T) {
	at := func(n int) string { return fmt.Sprintf("sha256:%064d", n) }
	release, _ := json.Marshal([]ops.Release{{Number: 2, Image: "127.0.0.1:5000/pizza:5@" + at(5)}, {Number: 1, Image: "127.0.0.1:5000/pizza:1@" + at(1)}})
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 1, Image: "127.0.0.1:5000/pizza:5@" + at(5), Labels: map[string]string{ops.LabelReleases: string(release)}})
	h := startHouse(t, swarm)
	says(t, h.does(t, "none", &ops.RegistryPrune{Keep: 2}), ops.Refused, "Waggle runs no registry here")
	says(t, h.does(t, "setup", &ops.RegistrySetup{Name: "local"}), ops.Done)
	for i := 1; i <= 6; i++ {
		h.images.images[fmt.Sprintf("127.0.0.1:5000/pizza:%d", i)] = ops.Image{Digest: at(i), Created: time.Unix(int64(i), 0)}
	}
	h.images.images["127.0.0.1:5000/pizza:four"] = h.images.images["127.0.0.1:5000/pizza:4"]
	h.images.images["127.0.0.1:5000/team/old:1"] = ops.Image{Digest: at(9)} // says no date
	plan := h.plans(t, "dry", &ops.RegistryPrune{Keep: 1})
	says(t, plan, ops.DryRun, "images in local all → the newest 1 of each app", "pizza: removes 3 of 6 images")
	swarm.tasks = func(s ops.Service) []ops.Task {
		if s.Name == "waggle-registry-collect" {
			return []ops.Task{{ID: "gc", State: "complete", Desired: "complete"}}
		}
		return swarm.spread(s)
	}
	swarm.log = "waggle before 204800\nwaggle after 51200\n"
	got := h.does(t, "go", &ops.RegistryPrune{Keep: 1})
	says(t, got, ops.Done, "3 images removed from local, 150 MB freed, 50 MB used")
	want := ""
	for _, n := range []int{4, 3, 2} {
		want += "127.0.0.1:5000/pizza@" + at(n) + " "
	}
	if s := strings.Join(h.images.deleted, " ") + " "; s != want {
		t.Errorf("deleted %s", s)
	}
	last := swarm.made[len(swarm.made)-1]
	if !last.Once || fmt.Sprint(last.Mounts) != fmt.Sprint(swarm.made[0].Mounts) || fmt.Sprint(last.Constraints) != "[node.id == id1]" || last.Image != "registry:2" {
		t.Errorf("collected by %+v", last)
	}
	if s := swarm.service("waggle-registry"); s.Replicas != 1 {
		t.Errorf("the registry has %d replicas", s.Replicas)
	}
	if swarm.services["waggle-registry-collect"] != nil {
		t.Error("the collecting service is left")
	}
	swarm.tasks = func(s ops.Service) []ops.Task {
		if s.Name == "waggle-registry-collect" {
			return []ops.Task{{ID: "gc", State: "failed", Desired: "complete", Err: "task: non-zero exit (1)"}}
		}
		return swarm.spread(s)
	}
	swarm.log = "disk is read-only"
	got = h.does(t, "bad", &ops.RegistryPrune{Keep: 1})
	says(t, got, ops.Failure, "The registry's garbage collection failed: non-zero exit (1)")
	if got.Err.Log != "disk is read-only" || swarm.service("waggle-registry").Replicas != 1 {
		t.Errorf("log %q, %d replicas", got.Err.Log, swarm.service("waggle-registry").Replicas)
	}
}

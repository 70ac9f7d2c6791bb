package ops_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"waggle/internal/secret"
	"waggle/ops"
)

const someDigest = "@sha256:2222222222222222222222222222222222222222222222222222222222222222"

// many are registries of every kind, each with a user of its own name.
var many = func() ops.Registries {
	at := func(name, domain, prefix string) ops.Registry {
		return sealed(name, domain, prefix, "user-"+name, secret.Text("pw-"+name))
	}
	return ops.Registries{List: []ops.Registry{
		at("hub", "docker.io", "acme"), at("hub-team", "docker.io", "acme-team"),
		at("ghcr", "ghcr.io", "acme"), at("ghcr-sub", "ghcr.io", "acme/sub"), at("ghcr-deep", "ghcr.io", "acme/sub/deep/er"),
		at("gitlab", "registry.gitlab.com", "group/project"), at("gitlab-self", "gitlab.example.com:5050", "group"),
		at("ecr", "123456789012.dkr.ecr.eu-west-1.amazonaws.com", ""), at("ecr-team", "123456789012.dkr.ecr.eu-west-1.amazonaws.com", "team"),
		at("gar", "europe-docker.pkg.dev", "project/repo"), at("reg", "reg:5000", ""), at("reg2", "reg:5001", "x"),
		at("local", "127.0.0.1:5000", ""), at("localhost", "localhost", ""), at("localhost-port", "localhost:5000", "a"),
		at("v6", "[::1]:5000", ""), at("v6-long", "[2001:db8::5]", "x"), at("idn", "xn--kse-qla.example:443", "brie"),
		at("ip", "10.0.0.11", "a/b"),
		{Name: "open", Domain: "open.example.com"},
	}}
}()

func TestCredentialsOfAnImage(t *testing.T) {
	for _, c := range []struct{ image, want string }{
		// Docker Hub, in all its spellings.
		{"acme/app", "hub"},
		{"acme/app:1", "hub"},
		{"docker.io/acme/app:1", "hub"},
		{"index.docker.io/acme/app", "hub"},
		{"registry-1.docker.io/acme/app", "hub"},
		{"acme/app:1" + someDigest, "hub"},
		{"acme/app" + someDigest, "hub"},
		{"acme/sub/app", "hub"},
		{"acme-team/app", "hub-team"},
		{"acmeteam/app", ""},
		{"nginx", ""},
		{"nginx:1.27", ""},
		{"app:12345", ""}, // a tag, not a port
		{"acme:12345", ""},
		{"library/nginx", ""},
		{"other/app", ""},
		// Longest prefix, by whole parts of the path.
		{"ghcr.io/acme/app", "ghcr"},
		{"ghcr.io/acme/sub/app:1", "ghcr-sub"},
		{"ghcr.io/acme/sub", "ghcr-sub"},
		{"ghcr.io/acme/sub:5000", "ghcr-sub"},
		{"ghcr.io/acme/subway/app", "ghcr"},
		{"ghcr.io/acme/sub/deep/app", "ghcr-sub"},
		{"ghcr.io/acme/sub/deep/er/app", "ghcr-deep"},
		{"ghcr.io/acmeother/app", ""},
		{"ghcr.io/other/acme/app", ""},
		{"GHCR.io/acme/app", "ghcr"},
		{"ghcr.io:443/acme/app", ""}, // engines take it for another registry
		{"ghcr.io.evil.org/acme/app", ""},
		{"evil.org/ghcr.io/acme/app", ""},
		// The project itself is an image at GitLab.
		{"registry.gitlab.com/group/project", "gitlab"},
		{"registry.gitlab.com/group/project/app:main", "gitlab"},
		{"registry.gitlab.com/group/projectile", ""},
		{"gitlab.example.com:5050/group/sub/project/app", "gitlab-self"},
		{"gitlab.example.com/group/project", ""},
		{"123456789012.dkr.ecr.eu-west-1.amazonaws.com/app:1", "ecr"},
		{"123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/app", "ecr-team"},
		{"123456789012.dkr.ecr.eu-west-2.amazonaws.com/app", ""},
		{"999999999999.dkr.ecr.eu-west-1.amazonaws.com/app", ""},
		{"europe-docker.pkg.dev/project/repo/app@sha256:3333333333333333333333333333333333333333333333333333333333333333", "gar"},
		{"europe-docker.pkg.dev/project/other/app", ""},
		// Ports, addresses, names of this machine.
		{"reg:5000/app", "reg"},
		{"reg:5000/app:1" + someDigest, "reg"},
		{"reg:5000/a/b/c/d:v1.2.3-rc.1", "reg"},
		{"reg/app", ""}, // a path on Docker Hub
		{"reg:5001/x/app", "reg2"},
		{"reg:5001/app", ""},
		{"reg:50000/app", ""},
		{"127.0.0.1:5000/app", "local"},
		{"127.0.0.1/app", ""},
		{"localhost/app", "localhost"},
		{"localhost:5000/a/app", "localhost-port"},
		{"localhost:5000/app", ""},
		{"[::1]:5000/x", "v6"},
		{"[0:0:0:0:0:0:0:1]:5000/x:1", "v6"},
		{"[::1]/x", ""},
		{"[2001:DB8:0::5]/x/app", "v6-long"},
		{"xn--kse-qla.example:443/brie/app", "idn"},
		{"10.0.0.11/a/b/app", "ip"},
		{"10.0.0.11/a/app", ""},
		{"10.0.0.111/a/b/app", ""},
		{"open.example.com/app", "open"},
		// What has no name.
		{"sha256:2222222222222222222222222222222222222222222222222222222222222222", ""},
		{"2222222222222222222222222222222222222222222222222222222222222222", ""},
		{"", ""},
		{"ghcr.io/acme/App", ""},
		{"https://ghcr.io/acme/app", ""},
		{"ghcr.io/acme/app:", ""},
		{"ghcr.io/acme/../other/app", ""},
	} {
		t.Run(c.image, func(t *testing.T) {
			got, ok := many.Of(c.image)
			if got.Name != c.want || ok != (c.want != "") {
				t.Fatalf("it is of %q (%t), want %q", got.Name, ok, c.want)
			}
			if !ok {
				return
			}
			login, err := got.Login(testKey)
			want := ops.RegistryAuth{Username: "user-" + c.want, Password: secret.Text("pw-" + c.want)}
			if c.want == "open" {
				want = ops.RegistryAuth{}
			}
			if err != nil || login.Auth != want {
				t.Errorf("login %s:%s, %v", login.Auth.Username, login.Auth.Password.Reveal(), err)
			}
		})
	}
}

func TestCleanRegistry(t *testing.T) {
	for _, c := range []struct{ address, prefix, domain, path string }{
		{"ghcr.io", "acme", "ghcr.io", "acme"},
		{"  https://GHCR.io/  ", " /acme/ ", "ghcr.io", "acme"},
		{"http://reg.example.com:5000//", "", "reg.example.com:5000", ""},
		{"ghcr.io/acme", "", "ghcr.io", "acme"},
		{"https://registry.gitlab.com/group/project/", "", "registry.gitlab.com", "group/project"},
		{"nexus.example.com/docker", "team", "nexus.example.com", "docker/team"},
		{"nexus.example.com/docker", "docker", "nexus.example.com", "docker"},
		{"docker.io", "acme", "docker.io", "acme"},
		{"index.docker.io", "acme", "docker.io", "acme"},
		{"registry-1.docker.io", "acme", "docker.io", "acme"},
		{"https://index.docker.io/v1/", "acme", "docker.io", "acme"},
		{"hub.docker.com", "", "docker.io", ""},
		{"https://registry.example.com/v2/", "", "registry.example.com", ""},
		{"123456789012.dkr.ecr.eu-west-1.amazonaws.com", "", "123456789012.dkr.ecr.eu-west-1.amazonaws.com", ""},
		{"10.0.0.11:5000", "", "10.0.0.11:5000", ""},
		{"127.0.0.1:05000", "", "127.0.0.1:5000", ""},
		{"localhost", "", "localhost", ""},
		{"registry:5000", "", "registry:5000", ""},
		{"[::1]:5000", "", "[::1]:5000", ""},
		{"[2001:DB8:0:0::5]", "", "[2001:db8::5]", ""},
		{"2001:db8::5", "", "[2001:db8::5]", ""},
		{"käse.example:443", "brie", "xn--kse-qla.example:443", "brie"},
		{"XN--KSE-QLA.example", "", "xn--kse-qla.example", ""},
		{"registry.example.com.", "", "registry.example.com", ""},
		{"reg.example.com", "team/apps__old/x-y.z", "reg.example.com", "team/apps__old/x-y.z"},
	} {
		domain, path, err := ops.CleanRegistry(c.address, c.prefix)
		if err != nil || domain != c.domain || path != c.path {
			t.Errorf("%q %q: %q %q, %v; want %q %q", c.address, c.prefix, domain, path, err, c.domain, c.path)
		}
		if again, p, err := ops.CleanRegistry(domain, path); again != domain || p != path || err != nil {
			t.Errorf("%q %q cleaned again: %q %q, %v", domain, path, again, p, err)
		}
	}
	for _, c := range []struct{ address, prefix, says string }{
		{"", "", "A registry needs its domain"},
		{"https://", "", "A registry needs its domain"},
		{"ftp://reg.example.com", "", `not reached by "ftp"`},
		{"https://mia:canary@reg.example.com", "", "There is an @ in the domain"},
		{"reg.example.com/app@sha256:12", "", "There is an @ in the domain"},
		{"registry", "", "without a dot or a port"},
		{"acme/app", "", "without a dot or a port"},
		{"reg example.com", "", "is not the domain"},
		{"reg.example.com?x=1", "", "is not the domain"},
		{"reg.example.com\n", "a\nb", "is not a prefix"},
		{"reg_1.example.com", "", "not a name of the DNS"},
		{"-reg.example.com", "", "not a name of the DNS"},
		{strings.Repeat("a", 64) + ".example.com", "", "not a name of the DNS"},
		{"reg.example.com:", "", "port"},
		{"reg.example.com:0", "", "port"},
		{"reg.example.com:65536", "", "port"},
		{"reg.example.com:+5", "", "port"},
		{"reg.example.com:https", "", "port"},
		{"[::1", "", "write IPv6 as in"},
		{"[reg]:5000", "", "write IPv6 as in"},
		{"fe80::1%eth0", "", "is not the domain"},
		{"::ffff:1.2.3.4", "", "references cannot have"},
		{"1:2:3", "", "not an IPv6 address"},
		{"ghcr.io", "Acme", "The prefix Acme has upper-case letters"},
		{"ghcr.io/Acme/Pizza", "", "The prefix Acme/Pizza has upper-case letters"},
		{"ghcr.io", "acme//x", "is not a prefix"},
		{"ghcr.io", "acme:1", "is not a prefix"},
		{"ghcr.io", "../x", "is not a prefix"},
		{"ghcr.io", "a-", "is not a prefix"},
		{"ghcr.io", strings.Repeat("a", 200), "is not a prefix"},
	} {
		_, _, err := ops.CleanRegistry(c.address, c.prefix)
		e := new(ops.Error)
		if !errors.As(err, &e) || e.Code != ops.Invalid || e.Next == "" || !strings.Contains(e.Sentence, c.says) || strings.Contains(e.Sentence+e.Next, "canary") {
			t.Errorf("%q %q: %v, want %q", c.address, c.prefix, err, c.says)
		}
	}
	if _, _, err := ops.CleanRegistry("ghcr.io", "Acme/Pizza"); !strings.Contains(err.(*ops.Error).Next, "Write acme/pizza") {
		t.Errorf("the lower-case form is not offered: %s", err.(*ops.Error).Next)
	}
}

func FuzzCleanRegistry(f *testing.F) {
	f.Add("https://index.docker.io/v1/", "acme")
	f.Add("[::1]:5000", "")
	f.Add("käse.example:443/x", "/y/")
	f.Fuzz(func(t *testing.T, address, prefix string) {
		domain, path, err := ops.CleanRegistry(address, prefix)
		if err != nil {
			return
		}
		if again, p, err := ops.CleanRegistry(domain, path); err != nil || again != domain || p != path {
			t.Fatalf("%q %q became %q %q, and that %q %q, %v", address, prefix, domain, path, again, p, err)
		}
		image := strings.Trim(domain+"/"+path, "/") + "/app:1"
		r := ops.Registry{Name: "x", Domain: domain, Prefix: path}
		if _, ok := (ops.Registries{List: []ops.Registry{r}}).Of(image); !ok {
			t.Fatalf("%s does not hold %s", r, image)
		}
	})
}

func names(rs ops.Registries) string {
	var out []string
	for _, r := range rs.List {
		name := r.Name
		if r.Name == rs.Default {
			name += "*"
		}
		if !r.Push {
			name += "-"
		}
		out = append(out, name)
	}
	return strings.Join(out, " ")
}

func TestRulesOfRegistries(t *testing.T) {
	hub := sealed("hub", "docker.io", "acme", "mia", "pw")
	ghcr := sealed("ghcr", "ghcr.io", "acme", "mia", "pw")
	pull := ghcr
	pull.Name, pull.Push, pull.Prefix = "pull", false, ""
	var rs ops.Registries
	step := func(what, want, says string, do func() (ops.Registries, error)) {
		t.Helper()
		before := fmt.Sprint(rs)
		next, err := do()
		if fmt.Sprint(rs) != before {
			t.Errorf("%s changed what it was given", what)
		}
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error()+err.(*ops.Error).Next, says) {
			t.Fatalf("%s: %v, want %q", what, err, says)
		}
		if err == nil {
			rs = next
		}
		if got := names(rs); got != want {
			t.Fatalf("%s: %s, want %s", what, got, want)
		}
	}
	add := func(r ops.Registry) func() (ops.Registries, error) {
		return func() (ops.Registries, error) { return rs.Add(r) }
	}
	edit := func(name string, r ops.Registry) func() (ops.Registries, error) {
		return func() (ops.Registries, error) { return rs.Edit(name, r) }
	}
	with := func(r ops.Registry, change func(*ops.Registry)) ops.Registry { change(&r); return r }

	step("a pull-only one first", "pull-", "", add(pull))
	step("the first to push to", "pull- hub*", "", add(hub))
	step("another", "pull- hub* ghcr", "", add(ghcr))
	step("the same name", "pull- hub* ghcr", "There is a registry hub already", add(with(pull, func(r *ops.Registry) { r.Name = "hub" })))
	step("the same place", "pull- hub* ghcr", "ghcr.io/acme is there already: it is called ghcr", add(with(ghcr, func(r *ops.Registry) { r.Name = "again" })))
	step("a bad name", "pull- hub* ghcr", "is not a name for a registry", add(with(hub, func(r *ops.Registry) { r.Name = "Hub 1" })))
	step("a raw domain", "pull- hub* ghcr", "Write docker.io", add(with(hub, func(r *ops.Registry) { r.Name, r.Domain, r.Prefix = "x", "index.docker.io", "x" })))
	step("hub without an account", "pull- hub* ghcr", "every image belongs to an account", add(with(hub, func(r *ops.Registry) { r.Name, r.Prefix = "x", "" })))
	step("half a login", "pull- hub* ghcr", "only one of them is given", add(with(hub, func(r *ops.Registry) { r.Name, r.Prefix, r.Username = "x", "x", "" })))
	step("a user with a colon", "pull- hub* ghcr", "not a user name", add(with(hub, func(r *ops.Registry) { r.Name, r.Prefix, r.Username = "x", "x", "a:b" })))
	step("remove the default", "pull- hub* ghcr", "/registry disable hub", func() (ops.Registries, error) { return rs.Remove("hub") })
	step("pull-only as default", "pull- hub* ghcr", "/registry enable pull", func() (ops.Registries, error) { return rs.Choose("pull") })
	step("unknown", "pull- hub* ghcr", "Did you mean `ghcr`?", func() (ops.Registries, error) { return rs.Choose("ghrc") })
	step("choose", "pull- hub ghcr*", "", func() (ops.Registries, error) { return rs.Choose("ghcr") })
	step("rename the default", "pull- hub ghcr2*", "", edit("ghcr", with(ghcr, func(r *ops.Registry) { r.Name = "ghcr2" })))
	step("edit to another's place", "pull- hub ghcr2*", "it is called hub", edit("ghcr2", with(hub, func(r *ops.Registry) { r.Name = "ghcr2" })))
	step("edit to its own place", "pull- hub ghcr2*", "", edit("ghcr2", with(ghcr, func(r *ops.Registry) { r.Name, r.Username = "ghcr2", "eve" })))
	step("disable the default", "pull- hub ghcr2-", "", edit("ghcr2", with(ghcr, func(r *ops.Registry) { r.Name, r.Push = "ghcr2", false })))
	step("edit does not choose", "pull- hub ghcr2-", "", edit("hub", with(hub, func(r *ops.Registry) { r.Username = "eve" })))
	step("enable when there is none", "pull- hub ghcr2*", "", edit("ghcr2", with(ghcr, func(r *ops.Registry) { r.Name = "ghcr2" })))
	step("remove", "hub ghcr2*", "", func() (ops.Registries, error) { return rs.Remove("pull") })
	step("remove what is not there", "hub ghcr2*", "There is: hub, ghcr2.", func() (ops.Registries, error) { return rs.Remove("somethingelse") })
	if _, err := (ops.Registries{}).Named("x"); !strings.Contains(err.(*ops.Error).Next, "/registry add") {
		t.Errorf("of none: %v", err)
	}
}

func TestPasswordsThatDoNotOpen(t *testing.T) {
	hub := sealed("hub", "docker.io", "acme", "mia", "canary-pw")
	renamed, moved, broken := hub, hub, hub
	renamed.Name, moved.Domain, broken.Sealed = "other", "evil.example.com", "v1."+testKey.ID()+".AAAA"
	other := keyOf(9)
	for name, c := range map[string]struct {
		registry   ops.Registry
		key        secret.Key
		says, next string
	}{
		"no key":             {hub, secret.Key{}, "sealed with the secret_key " + testKey.ID() + ", and no secret_key is set", "Nothing was overwritten"},
		"another key":        {hub, other, "with " + testKey.ID() + ", and the one that is set is " + other.ID(), "/registry edit hub"},
		"under another name": {renamed, testKey, "does not open", "/registry edit other"},
		"for another domain": {moved, testKey, "does not open", "/registry edit hub"},
		"damaged":            {broken, testKey, "does not open", "Nothing was overwritten"},
	} {
		login, err := c.registry.Login(c.key)
		e := new(ops.Error)
		if !errors.As(err, &e) || e.Code != ops.Invalid || !strings.Contains(e.Sentence, c.says) || !strings.Contains(e.Next, c.next) {
			t.Errorf("%s: %v", name, err)
		}
		if login.Auth != (ops.RegistryAuth{}) || strings.Contains(fmt.Sprint(err), "canary") {
			t.Errorf("%s: login %v, %v", name, login, err)
		}
	}
	var r ops.Registry
	if err := r.Seal(secret.Key{}, "pw"); ops.CodeOf(err) != ops.Invalid || !strings.Contains(err.(*ops.Error).Next, "openssl rand -base64 32") {
		t.Errorf("sealing without a key: %v", err)
	}
	if err := r.Seal(testKey, "pw\xff"); ops.CodeOf(err) != ops.Invalid || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("a password that is not UTF-8: %v", err)
	}
	for _, pw := range []secret.Text{" leading and trailing ", "\x00\n\t\"'\\$`:@", "🧀ü", secret.Text(strings.Repeat("p", 5000))} {
		r := ops.Registry{Name: "x", Domain: "x.example.com", Username: "u"}
		if err := r.Seal(testKey, pw); err != nil {
			t.Errorf("%q: %v", pw.Reveal(), err)
		}
		if login, err := r.Login(testKey); err != nil || login.Auth.Password != pw {
			t.Errorf("%q came back as %q, %v", pw.Reveal(), login.Auth.Password.Reveal(), err)
		}
	}
}

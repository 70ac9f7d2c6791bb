package ops

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"golang.org/x/crypto/bcrypt"

	"waggle/internal/secret"
)

const (
	managedService = "waggle-registry" // the service, and the beginning of its secrets' names
	managedVolume  = "waggle-registry"
	managedPath    = "/var/lib/registry"
	managedPort    = 5000 // in the container
	managedUser    = "waggle"

	// ManagedAddress is where a registry of this swarm's own is, unless it is put
	// elsewhere: the routing mesh has it on every node's loopback, which every
	// engine trusts.
	ManagedAddress = "127.0.0.1:5000"
)

// RegistrySetup runs a registry as a service of the swarm, and adds it.
type RegistrySetup struct {
	Name    string `json:"name"`              // of the registry
	Node    string `json:"node,omitempty"`    // where it runs and its data is; "" for the leader
	Address string `json:"address,omitempty"` // host:port; on another host than loopback, of that node; "" for ManagedAddress
	// Certificate and Key are the names of secrets of the swarm with PEM in them;
	// both "" for no TLS.
	Certificate string `json:"certificate,omitempty"`
	Key         string `json:"key,omitempty"`

	// Decided is set once the plan is about to be applied.
	Decided *RegistrySetting `json:"decided,omitempty"`

	reg     Registry
	service Service // as it is; the zero one when there is none
	known   bool    // it is among the registries
	rs      Registries
}

// RegistrySetting is what was decided about a registry that Waggle runs.
type RegistrySetting struct {
	NodeID string `json:"node_id"`
	Sealed string `json:"sealed"` // its password
}

func (*RegistrySetup) Kind() string     { return "registry-setup" }
func (s *RegistrySetup) Target() string { return s.Name }
func (*RegistrySetup) Needs() Role      { return Admin }

// CheckSetup says what is wrong with an address for a registry of the swarm's own.
func CheckSetup(address string) (domain string, port Port, err error) {
	domain, prefix, err := CleanRegistry(address, "")
	if err != nil {
		return "", Port{}, err
	}
	if prefix != "" {
		return "", Port{}, Errorf(Invalid, "A registry of this swarm's own has no prefix").Then("Write %s.", domain)
	}
	u := url.URL{Host: domain}
	n, err := strconv.Atoi(u.Port())
	if err != nil {
		return "", Port{}, Errorf(Invalid, "The address %s needs a port", domain).Then("Write one like %s:5000.", domain)
	}
	addr, err := netip.ParseAddr(u.Hostname())
	mesh := u.Hostname() == "localhost" || err == nil && addr.IsLoopback()
	return domain, Port{Target: managedPort, Published: n, Protocol: "tcp", Host: !mesh}, nil
}

// Plan says where it would be; a second time, that it is there.
func (s *RegistrySetup) Plan(ctx context.Context, run *Run) (Plan, error) {
	if run.SecretKey.ID() == "" {
		return Plan{}, noKey(secret.ErrNoKey)
	}
	var err error
	if s.rs, err = ReadRegistries(ctx, run.Swarm); err != nil {
		return Plan{}, err
	}
	services, err := run.Swarm.Services(ctx)
	if err != nil {
		return Plan{}, err
	}
	s.service, s.known = managedRegistry(services), false
	address := s.Address
	if address == "" {
		address = cmp.Or(s.service.Labels[LabelManagedRegistry], ManagedAddress)
	}
	domain, port, err := CheckSetup(address)
	if err != nil {
		return Plan{}, err
	}
	s.reg = Registry{Name: s.Name, Domain: domain, Username: managedUser, Push: true}
	if s.service.ID != "" {
		return s.again(run)
	}
	if slices.ContainsFunc(services, func(svc Service) bool { return svc.Name == managedService }) {
		return Plan{}, Errorf(Invalid, "There is a service %s that Waggle did not make", managedService).
			Then("Nothing was changed. Rename or remove it.")
	}
	fits := s.reg
	fits.Sealed = "later"
	next, err := s.rs.Add(fits)
	if err != nil {
		return Plan{}, err
	}
	node, err := s.node(ctx, run)
	if err != nil {
		return Plan{}, err
	}
	if s.Decided == nil {
		s.Decided = &RegistrySetting{NodeID: node.ID}
	}
	if _, err := s.pair(ctx, run); err != nil {
		return Plan{}, err
	}
	plan := Plan{
		Diffs: []Diff{
			{What: "service " + managedService, From: "none", To: "a registry" + s.asked(node)},
			{What: "registry " + s.Name, From: "none", To: domain + " as " + managedUser},
		},
		Facts: []string{fmt.Sprintf("its data is in the volume %s on %s, and goes with that node", managedVolume, node.Hostname)},
	}
	if next.Default != s.rs.Default {
		plan.Diffs = append(plan.Diffs, Diff{What: "default push registry", From: "none", To: next.Default})
	}
	if port.Host {
		plan.Facts = append(plan.Facts, fmt.Sprintf("it listens on port %d of %s only", port.Published, node.Hostname))
		if s.Certificate == "" {
			plan.Warnings = append(plan.Warnings, fmt.Sprintf("without a certificate every engine has to list http://%s in its insecure-registries", domain))
		}
	} else if s.Certificate == "" {
		plan.Warnings = append(plan.Warnings, fmt.Sprintf("the routing mesh opens port %d on all addresses of every node, without TLS: let nobody but the nodes reach it", port.Published))
	}
	return plan, nil
}

// managedRegistry is the service of the registry that Waggle runs, the zero one
// when there is none.
func managedRegistry(services []Service) Service {
	for _, s := range services {
		if s.Labels[LabelManagedRegistry] != "" {
			return s
		}
	}
	return Service{}
}

// again is the plan for a registry that is there already.
func (s *RegistrySetup) again(run *Run) (Plan, error) {
	domain := s.service.Labels[LabelManagedRegistry]
	var there Registry
	for _, r := range s.rs.List {
		if r.Domain == domain {
			there, s.known = r, true
		}
	}
	if s.Decided == nil {
		s.Decided = &RegistrySetting{}
	}
	if domain != s.reg.Domain {
		return Plan{}, Errorf(Invalid, "The registry of this swarm is at %s already", domain).
			Then("Nothing was changed. `/registry setup --address %s` sees to that one.", domain)
	}
	if s.known {
		s.reg = there
		return Plan{Diffs: []Diff{{What: "registry " + there.Name, From: "at " + domain, To: "at " + domain}}}, nil
	}
	s.reg.Sealed = s.service.Labels[LabelManagedLogin]
	if _, err := s.reg.Login(run.SecretKey); err != nil {
		return Plan{}, err
	}
	if _, err := s.rs.Add(s.reg); err != nil {
		return Plan{}, err
	}
	return Plan{Diffs: []Diff{{What: "registry " + s.Name, From: "runs, but is not known", To: domain + " as " + managedUser}}}, nil
}

// asked says on which node somebody wants the registry; "" leaves the choice to Waggle.
func (s *RegistrySetup) asked(node Node) string {
	if s.Node == "" {
		return ""
	}
	return " on " + node.Hostname
}

// node finds where the registry is to run.
func (s *RegistrySetup) node(ctx context.Context, run *Run) (Node, error) {
	name := s.Node
	if s.Decided != nil && s.Decided.NodeID != "" {
		name = s.Decided.NodeID
	}
	if name != "" {
		node, _, err := findNode(ctx, run.Swarm, name)
		return node, err
	}
	nodes, err := run.Swarm.Nodes(ctx)
	if err != nil {
		return Node{}, err
	}
	i := slices.IndexFunc(nodes, func(n Node) bool { return n.Leader })
	if i < 0 {
		return Node{}, Errorf(Unavailable, "The swarm has no leader").Then("Name a node: `/registry setup <node>`.")
	}
	return nodes[i], nil
}

// Apply makes the secrets and the service.
func (s *RegistrySetup) Apply(ctx context.Context, run *Run) error {
	if s.service.ID != "" {
		return nil
	}
	if s.Decided.Sealed == "" {
		if err := s.reg.Seal(run.SecretKey, secret.Text(rand.Text())); err != nil {
			return err
		}
		s.Decided.Sealed = s.reg.Sealed
		if err := run.Save(ctx); err != nil {
			return redisAway(err)
		}
	}
	s.reg.Sealed = s.Decided.Sealed
	login, err := s.reg.Login(run.SecretKey)
	if err != nil {
		return err
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(login.Auth.Password.Reveal()), bcrypt.DefaultCost)
	if err != nil {
		return &Error{Code: Internal, Sentence: "The password could not be hashed", Err: err}
	}
	rs, err := ReadRegistries(ctx, run.Swarm)
	if err != nil {
		return err
	}
	image, err := rs.authFrom(run.RegistryImage, run.RegistryImage, run.SecretKey)
	if err != nil {
		return err
	}
	svc, err := s.newService(run.RegistryImage, image)
	if err != nil {
		return err
	}
	// Its name goes with the password, so that an attempt that was cut off is gone
	// on with.
	sum := sha256.Sum256([]byte(s.Decided.Sealed))
	name := managedService + "-htpasswd-" + hex.EncodeToString(sum[:4])
	id, err := run.Swarm.CreateSecret(ctx, name, secret.Text(fmt.Sprintf("%s:%s\n", managedUser, hash)), map[string]string{LabelManagedRegistry: s.reg.Domain})
	if err != nil {
		return err
	}
	pair, err := s.pair(ctx, run)
	if err != nil {
		return err
	}
	svc.Secrets = append(pair, SecretRef{ID: id, Name: name, File: "htpasswd"})
	_, err = run.Swarm.CreateService(ctx, svc)
	if CodeOf(err) == OutOfDate {
		return Errorf(OutOfDate, "Somebody else has made a service %s in the meantime", managedService)
	}
	return err
}

func managedMounts() []Mount {
	return []Mount{{Type: "volume", Source: managedVolume, Target: managedPath}}
}

// pair finds the secrets of the certificate and its key.
func (s *RegistrySetup) pair(ctx context.Context, run *Run) (files []SecretRef, err error) {
	if (s.Certificate == "") != (s.Key == "") {
		return nil, Errorf(Invalid, "A certificate needs its key, and a key its certificate").Then("Give both: `--certificate <secret> --key <secret>`.")
	}
	if s.Certificate == "" {
		return nil, nil
	}
	for file, name := range map[string]string{"registry.crt": s.Certificate, "registry.key": s.Key} {
		all, err := run.Swarm.Secrets(ctx, name)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(all, func(has Secret) bool { return has.Name == name })
		if i < 0 {
			return nil, Errorf(NotFound, "The swarm has no secret %q", name).Then("Make it on a manager: `docker secret create %s <file>`.", name)
		}
		files = append(files, SecretRef{ID: all[i].ID, Name: name, File: file})
	}
	return files, nil
}

// newService is the registry as a service.
func (s *RegistrySetup) newService(image string, auth *RegistryAuth) (NewService, error) {
	_, port, err := CheckSetup(s.reg.Domain)
	if err != nil {
		return NewService{}, err
	}
	n := NewService{
		Name: managedService, Image: image, Auth: auth, Replicas: 1,
		Labels:      map[string]string{LabelManagedRegistry: s.reg.Domain, LabelManagedLogin: s.Decided.Sealed},
		Constraints: []string{"node.id == " + s.Decided.NodeID},
	}
	n.Mounts, n.Ports, n.UpdateOrder = managedMounts(), []Port{port}, "stop-first"
	env := func(name, value string) { n.Env = append(n.Env, EnvVar{Name: name, Value: secret.Text(value)}) }
	// Source: https://distribution.github.io/distribution/about/configuration/
	env("REGISTRY_HTTP_ADDR", fmt.Sprintf(":%d", managedPort))
	env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", managedPath)
	env("REGISTRY_STORAGE_DELETE_ENABLED", "true")
	env("REGISTRY_AUTH", "htpasswd")
	env("REGISTRY_AUTH_HTPASSWD_REALM", "waggle")
	env("REGISTRY_AUTH_HTPASSWD_PATH", "/run/secrets/htpasswd")
	page := fmt.Sprintf("http://127.0.0.1:%d/", managedPort)
	if s.Certificate != "" {
		page = fmt.Sprintf("--no-check-certificate https://127.0.0.1:%d/", managedPort)
		env("REGISTRY_HTTP_TLS_CERTIFICATE", "/run/secrets/registry.crt")
		env("REGISTRY_HTTP_TLS_KEY", "/run/secrets/registry.key")
	}
	n.Health = Health{Test: []string{"CMD-SHELL", "wget -q -O /dev/null " + page}, Interval: 5 * time.Second, Timeout: 5 * time.Second, Start: 10 * time.Second, Retries: 3}
	return n, nil
}

// Converge waits until the registry runs and takes its login, then adds it.
func (s *RegistrySetup) Converge(ctx context.Context, run *Run) (string, error) {
	var svc Service
	err := run.whileAway(ctx, run.Now().Add(run.DeployTimeout), func(ctx context.Context) (err error) {
		svc, err = run.Swarm.Service(ctx, cmp.Or(s.service.Name, managedService))
		return err
	})
	if err != nil {
		return "", err
	}
	got, err := run.converge(ctx, svc)
	if err != nil {
		if e, ok := err.(*Error); ok && e.Code == Failed {
			e.Sentence = "The registry does not run: " + e.Sentence
			return "", e.Then("Mend that, then `/registry setup` again goes on. `docker service rm %s` takes it back; its volume stays.", svc.Name)
		}
		return "", err
	}
	err = run.Step("login", func(func(string)) error { return s.usable(ctx, run) })
	if err != nil {
		return "", err
	}
	err = run.whileAway(ctx, run.Now().Add(run.JoinTimeout), func(ctx context.Context) error { return s.add(ctx, run) })
	if err != nil {
		return "", err
	}
	s.sweep(ctx, run)
	text := fmt.Sprintf("%s runs at %s", s.reg.Name, s.reg.Domain)
	if len(got.Nodes) > 0 {
		text += " on " + got.Nodes[0].Node
	}
	if s.rs.Default == s.reg.Name {
		text += ", and built images are pushed there"
	}
	return text, nil
}

// usable waits until the registry can be logged in to and pushed to.
func (s *RegistrySetup) usable(ctx context.Context, run *Run) error {
	login, err := s.reg.Login(run.SecretKey)
	if err != nil {
		return err
	}
	var last error
	err = run.until(ctx, run.JoinTimeout, func(ctx context.Context) (bool, error) {
		err := run.Images.Try(ctx, login, true).Err
		if ctx.Err() == nil {
			last = err
		}
		return err == nil, err
	})
	if err == errDeadline && last != nil {
		return &Error{Code: Failed, Sentence: "The registry runs, but cannot be used: " + sentenceOf(last), Err: last,
			Next: "If it is this manager alone that does not reach it, add it by hand: `/registry add`. Else mend that, then `/registry setup` again goes on."}
	}
	return err
}

// add adds the registry to the others.
func (s *RegistrySetup) add(ctx context.Context, run *Run) error {
	for range maxPlans {
		var err error
		if s.rs, err = ReadRegistries(ctx, run.Swarm); err != nil {
			return err
		}
		if slices.ContainsFunc(s.rs.List, func(r Registry) bool { return r.Domain == s.reg.Domain }) {
			return nil
		}
		next, err := s.rs.Add(s.reg)
		if err != nil {
			return err
		}
		if err = SaveRegistries(ctx, run.Swarm, next, run.Log); err == nil {
			s.rs = next
			return nil
		}
		if CodeOf(err) != OutOfDate {
			return err
		}
	}
	return Errorf(OutOfDate, "The registries are changed by somebody else all the time").Then("`/registry setup` again adds it.")
}

// sweep removes secrets that attempts without an end have left. Those in use stay:
// the swarm does not remove them.
func (s *RegistrySetup) sweep(ctx context.Context, run *Run) {
	all, err := run.Swarm.Secrets(ctx, managedService+"-htpasswd-")
	if err != nil {
		run.Log.Warn("old secrets of the registry were not looked for", "err", err)
		return
	}
	for _, old := range all {
		_ = run.Swarm.RemoveSecret(ctx, old.ID) // the one in use stays
	}
}

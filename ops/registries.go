package ops

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/distribution/reference"
	"golang.org/x/net/idna"

	"waggle/internal/nearest"
	"waggle/internal/secret"
)

// Registry is one registry that images come from, and may be pushed to.
type Registry struct {
	Name     string `json:"name"`             // what people call it
	Domain   string `json:"domain"`           // host[:port] as in references: docker.io, ghcr.io, [::1]:5000
	Prefix   string `json:"prefix,omitempty"` // path in front of its images' names; "" for all of the domain
	Username string `json:"username,omitempty"`
	// Sealed is the password, sealed with secret_key for this name and domain; ""
	// without a login. The password itself is never kept.
	Sealed string `json:"password,omitempty"`
	Push   bool   `json:"push"` // built images may be pushed to it
}

// Registries are all registries, and the one that built images are pushed to.
type Registries struct {
	List    []Registry
	Default string // name of the default push registry; "" for none

	number int // of the swarm config they were read from; 0 when there was none
}

// RegistryLogin is what it takes to speak to a registry.
type RegistryLogin struct {
	Domain string
	Prefix string
	Auth   RegistryAuth
}

// hub is Docker Hub in references.
const hub = "docker.io"

// idnaHost is the profile for looking names up (RFC 5891, section 5).
var idnaHost = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(true), idna.VerifyDNSLength(true))

var registryName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,38}[a-z0-9])?$`)

// where is the registry as in references, without an image.
func (r Registry) where() string {
	if r.Prefix == "" {
		return r.Domain
	}
	return r.Domain + "/" + r.Prefix
}

// holds says whether an image, by its parsed name, is one of those below a domain
// and prefix.
func holds(domain, prefix string, image reference.Named) bool {
	path := reference.Path(image)
	return normalDomain(reference.Domain(image)) == normalDomain(domain) &&
		(prefix == "" || path == prefix || strings.HasPrefix(path, prefix+"/"))
}

// longest returns the one that holds the image, the one with the longest prefix
// if there are several.
func longest[T any](all []T, image string, at func(T) (domain, prefix string)) (best T, found bool) {
	named, ok := parseImage(image)
	if !ok {
		return best, false
	}
	length := -1
	for _, t := range all {
		if domain, prefix := at(t); holds(domain, prefix, named) && len(prefix) > length {
			best, found, length = t, true, len(prefix)
		}
	}
	return best, found
}

// Of returns the registry of an image: of those that hold it, the one with the
// longest prefix.
func (rs Registries) Of(image string) (Registry, bool) {
	return longest(rs.List, image, func(r Registry) (string, string) { return r.Domain, r.Prefix })
}

// LoginOf returns the login for an image, as Registries.Of does.
func LoginOf(logins []RegistryLogin, image string) (RegistryLogin, bool) {
	return longest(logins, image, func(l RegistryLogin) (string, string) { return l.Domain, l.Prefix })
}

// parseImage returns an image's name; false for what has none, an image id say.
func parseImage(image string) (reference.Named, bool) {
	ref, err := reference.ParseAnyReference(image)
	if err != nil {
		return nil, false
	}
	named, ok := ref.(reference.Named)
	return named, ok
}

// Named returns the registry of that name, or an error with the nearest name.
func (rs Registries) Named(name string) (Registry, error) {
	names := make([]string, len(rs.List))
	for i, r := range rs.List {
		if r.Name == name {
			return r, nil
		}
		names[i] = r.Name
	}
	e := Errorf(NotFound, "There is no registry %q", name)
	switch near := nearest.Of(name, names); {
	case near != "":
		return Registry{}, e.Then("Did you mean `%s`?", near)
	case len(names) == 0:
		return Registry{}, e.Then("There is none at all yet: `/registry add` adds one.")
	}
	return Registry{}, e.Then("There is: %s.", strings.Join(names, ", "))
}

// Pushed returns the default push registry, false when there is none.
func (rs Registries) Pushed() (Registry, bool) {
	for _, r := range rs.List {
		if r.Name == rs.Default && r.Push {
			return r, true
		}
	}
	return Registry{}, false
}

// Add returns the registries with one more. The first that may be pushed to
// becomes the default.
func (rs Registries) Add(r Registry) (Registries, error) {
	if err := rs.fits(r, ""); err != nil {
		return rs, err
	}
	rs.List = append(slices.Clone(rs.List), r)
	if rs.Default == "" && r.Push {
		rs.Default = r.Name
	}
	return rs, nil
}

// Edit returns the registries with the one of that name replaced. One that may be
// pushed to from now on becomes the default if there is none.
func (rs Registries) Edit(name string, r Registry) (Registries, error) {
	before, err := rs.Named(name)
	if err != nil {
		return rs, err
	}
	if err := rs.fits(r, name); err != nil {
		return rs, err
	}
	rs.List = slices.Clone(rs.List)
	for i := range rs.List {
		if rs.List[i].Name == name {
			rs.List[i] = r
		}
	}
	switch {
	case rs.Default == name && r.Push:
		rs.Default = r.Name
	case rs.Default == name:
		rs.Default = ""
	case rs.Default == "" && r.Push && !before.Push:
		rs.Default = r.Name
	}
	return rs, nil
}

// Remove returns the registries without the one of that name. The default has to
// stop being that first.
func (rs Registries) Remove(name string) (Registries, error) {
	if _, err := rs.Named(name); err != nil {
		return rs, err
	}
	if rs.Default == name {
		return rs, Errorf(Invalid, "%s is the default push registry, so it cannot be removed", name).
			Then("Choose another with `/registry default <name>`, or stop pushing to it with `/registry disable %s`.", name)
	}
	rs.List = slices.DeleteFunc(slices.Clone(rs.List), func(r Registry) bool { return r.Name == name })
	return rs, nil
}

// Choose returns the registries with the one of that name as the default.
func (rs Registries) Choose(name string) (Registries, error) {
	r, err := rs.Named(name)
	if err != nil {
		return rs, err
	}
	if !r.Push {
		return rs, Errorf(Invalid, "Nothing may be pushed to %s, so it cannot be the default push registry", name).
			Then("`/registry enable %s` allows it.", name)
	}
	rs.Default = name
	return rs, nil
}

// fits says what is wrong with a registry beside the others; of the one called
// instead it takes the place.
func (rs Registries) fits(r Registry, instead string) error {
	if err := r.check(); err != nil {
		return err
	}
	others := slices.DeleteFunc(slices.Clone(rs.List), func(o Registry) bool { return o.Name == instead })
	for _, o := range others {
		if o.Name == r.Name {
			return Errorf(Invalid, "There is a registry %s already: it is %s", r.Name, o.where()).
				Then("Take another name, or change that one with `/registry edit %s`.", r.Name)
		}
	}
	for _, o := range others {
		if normalDomain(o.Domain) == normalDomain(r.Domain) && o.Prefix == r.Prefix {
			return Errorf(Invalid, "%s is there already: it is called %s", r.where(), o.Name).
				Then("Change it with `/registry edit %s`.", o.Name)
		}
	}
	return nil
}

// check says what is wrong with a registry by itself.
func (r Registry) check() error {
	if !registryName.MatchString(r.Name) {
		return badRegistryName(r.Name)
	}
	domain, prefix, err := CleanRegistry(r.Domain, r.Prefix)
	switch {
	case err != nil:
		return err
	case domain != r.Domain || prefix != r.Prefix:
		return Errorf(Invalid, "%s is not how references have it", r.where()).Then("Write %s.", Registry{Domain: domain, Prefix: prefix}.where())
	case r.checkHub() != nil:
		return r.checkHub()
	case (r.Username == "") != (r.Sealed == ""):
		return Errorf(Invalid, "A login is a user and a password, and only one of them is given").
			Then("Give both, or none for a registry that lets everybody in.")
	}
	return checkUsername(r.Username)
}

func badRegistryName(name string) error {
	return Errorf(Invalid, "%q is not a name for a registry", name).
		Then("Write one like hub or ghcr-acme: at most 40 lower-case letters, digits, - _ and .")
}

func (r Registry) checkHub() error {
	if r.Push && r.Domain == hub && r.Prefix == "" {
		return Errorf(Invalid, "On Docker Hub every image belongs to an account, so images can only be pushed with a prefix").
			Then("Give the account or organization as the prefix, or allow no pushing.")
	}
	return nil
}

func checkUsername(name string) error {
	if strings.ContainsFunc(name, unicode.IsControl) || strings.Contains(name, ":") || len(name) > 256 || !utf8.ValidString(name) {
		// RFC 7617, section 2: a user-id with a colon cannot be sent.
		return Errorf(Invalid, "This is not a user name: it has a colon or a control character, or more than 256 letters")
	}
	return nil
}

// checkPassword says what no registry could be sent.
func checkPassword(p secret.Text) error {
	if !utf8.ValidString(p.Reveal()) {
		// The engines take it as a string of JSON.
		return Errorf(Invalid, "The password is not valid UTF-8, and Docker engines take no other")
	}
	return nil
}

// Seal sets the password, sealed with the key for this name and domain; an empty
// one takes the login away.
func (r *Registry) Seal(key secret.Key, password secret.Text) error {
	if password.Empty() {
		r.Sealed = ""
		return nil
	}
	if err := checkPassword(password); err != nil {
		return err
	}
	sealed, err := key.Seal(password, r.place())
	r.Sealed = sealed
	return noKey(err)
}

// place is what the password is sealed for: it opens for no other registry, so
// nobody can have it sent elsewhere by changing where it is kept.
func (r Registry) place() string { return "registry\x00" + r.Name + "\x00" + r.Domain }

// Login returns what it takes to speak to the registry. When its password cannot
// be opened the error is Invalid and says which secret_key is wrong.
func (r Registry) Login(key secret.Key) (RegistryLogin, error) {
	login := RegistryLogin{Domain: r.Domain, Prefix: r.Prefix}
	if r.Sealed == "" {
		return login, nil
	}
	password, err := key.Open(r.Sealed, r.place())
	other := new(secret.OtherKeyError)
	const again = "or give the password again with `/registry edit %s`. Nothing was overwritten."
	switch {
	case err == nil:
		login.Auth = RegistryAuth{Username: r.Username, Password: password}
		return login, nil
	case errors.Is(err, secret.ErrNoKey):
		e := Errorf(Invalid, "The password of the registry %s is sealed with the secret_key %s, and no secret_key is set", r.Name, secret.SealedWith(r.Sealed))
		return login, e.Then("Set that key again in Waggle's settings. Nothing was overwritten.")
	case errors.As(err, &other):
		e := Errorf(Invalid, "The password of the registry %s is sealed with another secret_key: with %s, and the one that is set is %s", r.Name, other.Sealed, other.Have)
		return login, e.Then("Set the key %s again, "+again, other.Sealed, r.Name)
	}
	e := Errorf(Invalid, "The password of the registry %s does not open: what is stored was changed, or was sealed for another registry", r.Name)
	return login, e.Then("Look who changed the swarm's config, "+again, r.Name)
}

// image returns the reference of an app's image, without a digest.
func (r Registry) image(app, tag string) (string, error) {
	ref := strings.ToLower(app) + ":" + tag
	if r.Domain != "" {
		ref = r.where() + "/" + ref
	}
	if _, ok := parseImage(ref); !ok {
		return "", Errorf(Invalid, "%s cannot be part of an image's name, so nothing can be built for it", app).
			Then("Names of images have letters and digits with single -, _ or . between them.")
	}
	return ref, nil
}

// RegistryInput is a registry as people fill it in.
type RegistryInput struct {
	Name, Address, Prefix, Username string
	Password                        secret.Text
	Push                            bool
	KeepsPassword                   bool // without one, it keeps the one that it has
}

// Registry returns the registry, without a password, or what is wrong by field:
// name, address, prefix, username, password.
func (in RegistryInput) Registry() (Registry, map[string]error) {
	faults := map[string]error{}
	r := Registry{Name: strings.TrimSpace(in.Name), Username: strings.TrimSpace(in.Username), Push: in.Push}
	if !registryName.MatchString(r.Name) {
		faults["name"] = badRegistryName(r.Name)
	}
	var rest string
	var err error
	if r.Domain, rest, err = cleanAddress(in.Address); err != nil {
		faults["address"] = err
	} else if err := checkPrefix(r.Domain, rest); err != nil {
		faults["address"] = err
	} else if r.Prefix = joinPrefix(rest, in.Prefix); checkPrefix(r.Domain, r.Prefix) != nil {
		faults["prefix"] = checkPrefix(r.Domain, r.Prefix)
	} else if err := r.checkHub(); err != nil {
		faults["prefix"] = err
	}
	switch {
	case checkUsername(r.Username) != nil:
		faults["username"] = checkUsername(r.Username)
	case r.Username == "" && !in.Password.Empty():
		faults["username"] = Errorf(Invalid, "A password needs its user")
	case r.Username != "" && in.Password.Empty() && !in.KeepsPassword:
		faults["password"] = Errorf(Invalid, "A user needs a password, or a token in its place")
	case checkPassword(in.Password) != nil:
		faults["password"] = checkPassword(in.Password)
	}
	return r, faults
}

// CleanRegistry brings a registry's address and prefix as people write them to
// the form that references have: without scheme and slashes, the host in lower
// case (RFC 5891 for international names, RFC 5952 for IPv6), what follows it as
// the prefix. Errors are Invalid.
func CleanRegistry(address, prefix string) (domain, path string, err error) {
	domain, rest, err := cleanAddress(address)
	if err != nil {
		return "", "", err
	}
	path = joinPrefix(rest, prefix)
	return domain, path, checkPrefix(domain, path)
}

// joinPrefix is the path in front of images, part of which may be in the address.
func joinPrefix(rest, prefix string) string {
	prefix = strings.Trim(strings.TrimSpace(prefix), "/")
	switch {
	case prefix == "" || prefix == rest:
		return rest
	case rest == "":
		return prefix
	}
	return rest + "/" + prefix
}

// cleanAddress returns the domain, and what follows it.
func cleanAddress(address string) (domain, rest string, err error) {
	const (
		example = "Write one like ghcr.io, registry.example.com or 10.0.0.11:5000."
		long    = 500 // longer than any
	)
	s := strings.TrimSpace(address)
	if scheme, after, ok := strings.Cut(s, "://"); ok {
		if scheme = strings.ToLower(scheme); scheme != "https" && scheme != "http" {
			return "", "", Errorf(Invalid, "A registry is not reached by %q", scheme).Then(example)
		}
		s = after
	}
	switch {
	case s == "":
		return "", "", Errorf(Invalid, "A registry needs its domain").Then(example)
	case len(s) > long:
		return "", "", Errorf(Invalid, "The domain is too long").Then(example)
	case strings.Contains(s, "@"): // not shown: it may be a password
		return "", "", Errorf(Invalid, "There is an @ in the domain").Then("Write the domain alone: the user and the password have their own fields.")
	case strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || r == '?' || r == '#' || r == '%'
	}) || !utf8.ValidString(s):
		return "", "", Errorf(Invalid, "%q is not the domain of a registry", s).Then(example)
	}
	host, rest, _ := strings.Cut(s, "/")
	if domain, err = cleanHost(host); err != nil {
		return "", "", err
	}
	rest = strings.Trim(rest, "/")
	if rest == "v1" || rest == "v2" { // of the registries' own API
		rest = ""
	}
	return domain, rest, nil
}

// cleanHost is CleanRegistry for host[:port].
func cleanHost(host string) (string, error) {
	wrong := func(why string) error {
		return Errorf(Invalid, "%q is not the domain of a registry: %s", host, why).
			Then("Write one like ghcr.io, registry.example.com or 10.0.0.11:5000.")
	}
	name, port := host, ""
	switch {
	case strings.HasPrefix(host, "["):
		inner, after, ok := strings.Cut(host[1:], "]")
		if !ok || after != "" && !strings.HasPrefix(after, ":") {
			return "", wrong("write IPv6 as in [::1]:5000")
		}
		if name = inner; after != "" {
			port = after
		}
		if !strings.Contains(name, ":") {
			return "", wrong("write IPv6 as in [::1]:5000")
		}
	case strings.Count(host, ":") == 1:
		name, port, _ = strings.Cut(host, ":")
		port = ":" + port
	}
	if port != "" {
		n, err := strconv.Atoi(port[1:])
		if err != nil || n < 1 || n > 65535 || strings.HasPrefix(port, ":+") {
			return "", wrong("its port is not a number from 1 to 65535")
		}
		port = ":" + strconv.Itoa(n)
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		if addr.Zone() != "" || addr.Is4In6() {
			return "", wrong("references cannot have such an address")
		}
		if name = addr.String(); addr.Is6() {
			name = "[" + name + "]"
		}
		return name + port, nil
	}
	if strings.Contains(name, ":") {
		return "", wrong("that is not an IPv6 address")
	}
	ascii, err := idnaHost.ToASCII(strings.TrimSuffix(name, "."))
	if err != nil {
		return "", wrong("that is not a name of the DNS")
	}
	domain := normalDomain(ascii + port)
	if port == "" && domain != "localhost" && !strings.Contains(domain, ".") {
		return "", wrong("without a dot or a port Docker takes it for a path on Docker Hub")
	}
	// The parser has the last word.
	named, err := reference.ParseNormalizedNamed(domain + "/x/y")
	if err != nil || reference.Domain(named) != domain || reference.Path(named) != "x/y" {
		return "", wrong("references cannot have it")
	}
	return domain, nil
}

// normalDomain gives the spellings of one registry one form: of Docker Hub (its
// API's and its site's names), of upper case, and of IPv6.
func normalDomain(domain string) string {
	domain = strings.ToLower(domain)
	switch domain {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com":
		return hub
	}
	if inner, after, ok := strings.Cut(domain, "]"); ok && strings.HasPrefix(inner, "[") {
		if addr, err := netip.ParseAddr(inner[1:]); err == nil {
			return "[" + addr.String() + "]" + after
		}
	}
	return domain
}

// checkPrefix says what is wrong with the path in front of images' names.
func checkPrefix(domain, prefix string) error {
	if prefix == "" {
		return nil
	}
	if len(prefix) > 255 {
		return Errorf(Invalid, "The prefix is too long").Then("Write a path like acme or team/apps.")
	}
	// Room for the longest name of a service.
	fits := func(path string) bool {
		ref := domain + "/" + path + "/" + strings.Repeat("x", 63)
		named, err := reference.ParseNormalizedNamed(ref)
		return err == nil && named.Name() == ref
	}
	if fits(prefix) {
		return nil
	}
	if lower := strings.ToLower(prefix); lower != prefix && fits(lower) {
		return Errorf(Invalid, "The prefix %s has upper-case letters, and no image's name may have any", prefix).
			Then("Write %s: the registry takes it for the same.", lower)
	}
	return Errorf(Invalid, "%q is not a prefix for images", prefix).
		Then("Write a path like acme or team/apps: lower-case letters and digits, with single -, _ or . between them.")
}

func (r Registry) String() string { return fmt.Sprintf("%s (%s)", r.Name, r.where()) }

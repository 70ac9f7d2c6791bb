// Package registry speaks to image registries over their HTTP API (the OCI
// Distribution Specification, v1.1), from Waggle's own process.
package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	orasregistry "oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"waggle/ops"
)

const (
	dialTimeout = 5 * time.Second
	callTimeout = 20 * time.Second // of one question to a registry, its token service included
	copyTimeout = 30 * time.Minute // of one image
	// headerTimeout is how long a registry may take over what it was sent: it
	// reads a whole layer again before it answers.
	headerTimeout = time.Minute
)

// Options say how registries are reached.
type Options struct {
	// Trust returns which registries the engines take without a trusted
	// certificate; those are spoken to as the engines do.
	Trust func(context.Context) (ops.RegistryTrust, error)
	// Dial makes connections, and RootCAs are who may vouch for a certificate; nil
	// means as usual on this machine.
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	RootCAs *x509.CertPool
	Log     *slog.Logger
}

// Client speaks to any registry. It is safe for concurrent use. Its errors are
// *ops.Error: Unavailable when a registry, or its token service, does not answer
// or is overloaded; NotFound when it has no such image; Failed with its own words
// for what it refuses. No error has a password in it.
type Client struct {
	Options
	trusted  *http.Transport // certificates are checked
	insecure *http.Transport
}

var _ ops.ImageRegistries = (*Client)(nil)

// New returns a client. Close it when it is no longer used.
func New(o Options) *Client {
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	c := &Client{Options: o}
	transport := func(t *tls.Config) *http.Transport {
		return &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: c.dial, TLSClientConfig: t, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: dialTimeout, ResponseHeaderTimeout: headerTimeout, IdleConnTimeout: 30 * time.Second, MaxIdleConns: 20,
		}
	}
	c.trusted = transport(&tls.Config{RootCAs: o.RootCAs})
	// Only for what the engines themselves take without a certificate.
	c.insecure = transport(&tls.Config{InsecureSkipVerify: true})
	return c
}

// Close drops the idle connections.
func (c *Client) Close() {
	c.trusted.CloseIdleConnections()
	c.insecure.CloseIdleConnections()
}

// dial connects. A registry on loopback is on the engine's: where Waggle has a
// loopback of its own, in a container, it is reached at the engine's address.
func (c *Client) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := c.Dial(ctx, network, addr)
	if err == nil {
		return conn, nil
	}
	host, port, splitErr := net.SplitHostPort(addr)
	if splitErr != nil || !loopback(host) {
		return nil, err
	}
	trust, trustErr := c.Trust(ctx)
	if trustErr != nil || trust.Addr == "" {
		return nil, err
	}
	if conn, again := c.Dial(ctx, network, net.JoinHostPort(trust.Addr, port)); again == nil {
		return conn, nil
	}
	return nil, err
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// session is one registry with one login.
type session struct {
	login     ops.RegistryLogin
	plain     bool // over HTTP
	transport http.RoundTripper
	client    *auth.Client
	log       *slog.Logger
}

// open finds out how the registry is spoken to; it does not send the login.
func (c *Client) open(ctx context.Context, login ops.RegistryLogin) (*session, error) {
	s := &session{login: login, transport: c.trusted, log: c.Log}
	insecure, err := c.isInsecure(ctx, login.Domain)
	if err != nil {
		return nil, err
	}
	if insecure {
		s.transport = routes{host: s.host(), insecure: c.insecure, elsewhere: c.trusted}
		s.plain = !s.speaksTLS(ctx)
	}
	s.client = &auth.Client{
		Client: &http.Client{Transport: s.transport}, Cache: auth.NewCache(), ClientID: "waggle",
		Header: http.Header{"User-Agent": {"waggle"}},
	}
	if a := login.Auth; a.Username != "" || !a.Password.Empty() {
		s.client.Credential = auth.StaticCredential(login.Domain, auth.Credential{Username: a.Username, Password: a.Password.Reveal()})
	}
	return s, nil
}

// isInsecure says whether the engines take the registry without a trusted
// certificate, by the rules of the engine: its domain, with just the port that it
// has, or one of its addresses is listed (moby, registry/config.go, isSecureIndex).
func (c *Client) isInsecure(ctx context.Context, domain string) (bool, error) {
	u := url.URL{Host: domain}
	host := u.Hostname()
	if loopback(host) {
		return true, nil
	}
	trust, err := c.Trust(ctx)
	if err != nil {
		return false, err
	}
	if slices.Contains(trust.Hosts, domain) {
		return true, nil
	}
	if len(trust.Networks) == 0 {
		return false, nil
	}
	var addrs []netip.Addr
	if addr, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, addr)
	} else {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		addrs, _ = net.DefaultResolver.LookupNetIP(ctx, "ip", host) // who cannot be found is not listed
	}
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool {
		return slices.ContainsFunc(trust.Networks, func(n netip.Prefix) bool { return n.Contains(a.Unmap()) })
	}), nil
}

// speaksTLS says whether an insecure registry does; without a port, at 443.
func (s *session) speaksTLS(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	resp, err := s.get(ctx, "https://"+s.host()+"/v2/")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return true
}

// host is where the API is, as host[:port].
func (s *session) host() string { return orasregistry.Reference{Registry: s.login.Domain}.Host() }

// url is a place in the API.
func (s *session) url(path string) string {
	scheme := "https"
	if s.plain {
		scheme = "http"
	}
	return scheme + "://" + s.host() + path
}

// get asks without the login.
func (s *session) get(ctx context.Context, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "waggle")
	return (&http.Client{Transport: s.transport}).Do(req)
}

// repository is the part of the registry that holds an image.
func (s *session) repository(image reference.Named) *remote.Repository {
	return &remote.Repository{
		Client: s.client, PlainHTTP: s.plain, SkipReferrersGC: true, TagListMaxPages: 1000,
		Reference: orasregistry.Reference{Registry: s.login.Domain, Repository: reference.Path(image)},
	}
}

// parse returns an image's name, and the digest or else the tag that it is known
// by. The login must be one for it: it is never used elsewhere.
func parse(login ops.RegistryLogin, image string) (named reference.Named, at string, err error) {
	named, err = reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil, "", ops.Errorf(ops.Invalid, "%q is not an image: %w", image, err)
	}
	if _, ok := ops.LoginOf([]ops.RegistryLogin{login}, image); !ok {
		return nil, "", ops.Errorf(ops.Internal, "%s is not an image of %s", image, login.Domain)
	}
	named = reference.TagNameOnly(named)
	if tagged, ok := named.(reference.Tagged); ok {
		at = tagged.Tag()
	}
	if digested, ok := named.(reference.Digested); ok {
		at = digested.Digest().String()
	}
	return named, at, nil
}

// checked is where pushing is tried. Nothing is ever put there.
func (s *session) checked() string {
	return strings.TrimPrefix(s.login.Prefix+"/waggle-check", "/")
}

// routes sends what is for a registry with no trusted certificate there, and all
// else, to its token service say, with certificates checked.
type routes struct {
	host                string
	insecure, elsewhere http.RoundTripper
}

func (r routes) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == r.host {
		return r.insecure.RoundTrip(req)
	}
	return r.elsewhere.RoundTrip(req)
}

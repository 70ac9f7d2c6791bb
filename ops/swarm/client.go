// Package swarm is the swarm of package ops on a real Docker engine. It is the
// only package that knows the Docker client.
package swarm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/docker/api"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"

	"waggle/ops"
)

// callTimeout bounds each single request to the engine: one that does not
// answer in this time counts as unreachable. Builds, pushes and logs have
// limits of their own.
const callTimeout = 10 * time.Second

// Options say which engine to use.
type Options struct {
	// Host is the engine's address, unix:///path or tcp://host:port. Empty means
	// DOCKER_HOST, and without that the local socket.
	Host string
	// CertDir holds ca.pem, cert.pem and key.pem for a tcp host. Empty means
	// DOCKER_CERT_PATH, and without that no TLS.
	CertDir string
	// Dial, if set, makes the connections instead of dialling Host (over SSH,
	// say). Host is then only a name for messages.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Log receives what goes wrong without failing a call; nil discards it.
	Log *slog.Logger
	// Now is the clock that an engine's is compared with; nil is time.Now.
	Now func() time.Time
}

// APIVersion is the newest version of the Engine API that the client speaks; the
// version in use is negotiated with each engine.
const APIVersion = api.DefaultVersion

// Client is an engine that is a manager of a swarm. It is safe for concurrent
// use and connects when it is first asked something.
type Client struct {
	api  *client.Client
	base url.URL // scheme, host and path that the API's paths are below
	host string  // where the engine is, for messages
	log  *slog.Logger
	now  func() time.Time

	logsTimeout time.Duration
}

var _ ops.Swarm = (*Client)(nil)

// Dial returns a client for the engine. It does not connect yet: it fails only
// when the options themselves are wrong. Close it when it is no longer used.
func Dial(o Options) (*Client, error) {
	host := o.Host
	if host == "" {
		host = os.Getenv(client.EnvOverrideHost)
	}
	if host == "" {
		host = client.DefaultDockerHost
	}
	parsed, err := client.ParseHostURL(host)
	if err != nil && o.Dial == nil {
		return nil, ops.Errorf(ops.Invalid, "docker.host %q is not an address like unix:///var/run/docker.sock or tcp://manager:2376", host)
	}
	var base url.URL
	opts := []client.Opt{client.WithAPIVersionNegotiation(), client.WithUserAgent("waggle")}
	switch {
	case o.Dial != nil:
		base = url.URL{Scheme: "http", Host: client.DummyHost}
		opts = append(opts, client.WithHost("tcp://"+client.DummyHost), client.WithDialContext(o.Dial))
	case parsed.Scheme == "unix":
		base = url.URL{Scheme: "http", Host: client.DummyHost}
		opts = append(opts, client.WithHost(host))
	case parsed.Scheme == "tcp":
		base = url.URL{Scheme: "http", Host: parsed.Host, Path: parsed.Path}
		opts = append(opts, client.WithHost(host))
		dir := o.CertDir
		if dir == "" {
			dir = os.Getenv(client.EnvOverrideCertPath)
		}
		if dir != "" {
			base.Scheme = "https"
			opts = append(opts, client.WithTLSClientConfig(
				filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")))
		}
	case parsed.Scheme == "ssh":
		return nil, ops.Errorf(ops.Invalid, "docker.host %q: SSH needs a dialer", host)
	default:
		return nil, ops.Errorf(ops.Invalid, "docker.host %q: %s is neither unix nor tcp", host, parsed.Scheme)
	}
	api, err := client.NewClientWithOpts(opts...)
	if err != nil {
		return nil, &ops.Error{Code: ops.Invalid, Sentence: fmt.Sprintf("docker.host %s cannot be used", host), Err: err}
	}
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	now := o.Now
	if now == nil {
		now = time.Now
	}
	return &Client{api: api, base: base, host: host, log: log, now: now, logsTimeout: logsTimeout}, nil
}

// Close drops the idle connections to the engine.
func (c *Client) Close() error { return c.api.Close() }

// Info is what a readiness check wants to know of the engine and its swarm.
type Info struct {
	Host          string // the address it is reached at
	EngineVersion string
	APIVersion    string // the version that was negotiated
	ImageStore    string // "classic" or "containerd"
	Hostname      string
	NodeID        string // this engine's id as a node
	SwarmID       string
	Manager       bool   // this engine is a manager of an active swarm
	Problem       string // why it cannot manage a swarm now, in one sentence; "" when it can
}

// Info asks the engine about itself. An engine that answers but is no manager,
// or whose swarm has lost its quorum, is not an error: Info.Problem says so.
// Errors are Unavailable when nothing answers.
func (c *Client) Info(ctx context.Context) (Info, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	i, err := c.api.Info(ctx)
	if err != nil {
		return Info{}, c.failed(err, "ask Docker about itself")
	}
	info := Info{
		Host:          c.host,
		EngineVersion: i.ServerVersion,
		APIVersion:    c.api.ClientVersion(),
		ImageStore:    imageStore(&i),
		Hostname:      i.Name,
		NodeID:        i.Swarm.NodeID,
		Manager:       i.Swarm.ControlAvailable,
	}
	if i.Swarm.Cluster != nil {
		info.SwarmID = i.Swarm.Cluster.ID
	}
	switch state := i.Swarm.LocalNodeState; {
	case state == swarm.LocalNodeStateInactive || state == "":
		info.Problem = "this engine is in no swarm"
	case state == swarm.LocalNodeStateLocked:
		info.Problem = "this engine's swarm is locked"
	case !i.Swarm.ControlAvailable && i.Swarm.Error != "":
		info.Problem = clean(i.Swarm.Error)
	case !i.Swarm.ControlAvailable && state == swarm.LocalNodeStateActive:
		info.Problem = "this engine is a worker, not a manager"
	case i.Swarm.Error != "":
		info.Problem = clean(i.Swarm.Error)
	case state != swarm.LocalNodeStateActive:
		info.Problem = fmt.Sprintf("this engine's swarm is %s", state)
	case i.Swarm.Cluster == nil || i.Swarm.Cluster.ID == "":
		// The engine leaves the cluster out when the managers don't answer it.
		info.Problem = "this swarm has no leader: too few of its managers are up"
	}
	return info, nil
}

// post sends a body to the API as it is and returns the answer's status and at
// most 1 MB of its body. The Docker client would decode and encode a spec with
// the types it knows, and so drop what a newer engine has.
func (c *Client) post(ctx context.Context, path string, query url.Values, header http.Header, body []byte) (int, []byte, error) {
	u := c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + "/v" + c.api.ClientVersion() + path
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(string(body)))
	if err != nil {
		return 0, nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "waggle")
	resp, err := c.api.HTTPClient().Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := readAll(resp.Body, 1<<20)
	return resp.StatusCode, answer, err
}

var errTooLong = errors.New("the engine's answer is too long")

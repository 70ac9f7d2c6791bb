package swarm

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/api/types/versions"

	"waggle/internal/secret"
	"waggle/ops"
)

// membershipTimeout bounds joining and leaving. An engine answers a join after
// 20 s at the latest, done or not, and lets nothing else change its membership
// meanwhile.
const membershipTimeout = 30 * time.Second

// listenAddr is where a node listens as a manager, and the docker CLI's default.
const listenAddr = "0.0.0.0:2377"

// oldestEngine is the oldest release that may join: the API before 1.40 lacks
// what Waggle's service updates need.
const oldestEngine, oldestAPI = "19.03", "1.40"

var majorMinor = regexp.MustCompile(`^v?(\d+)\.(\d+)`)

// Machine reads what the engine tells about itself and the machine it runs on.
// Errors are Unavailable when nothing answers, and Failed when the engine is too
// old or too new.
func (c *Client) Machine(ctx context.Context) (ops.Machine, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ping, err := c.api.Ping(ctx)
	if err != nil {
		return ops.Machine{}, c.unread(err)
	}
	c.api.NegotiateAPIVersionPing(ping)
	asked := c.now()
	i, err := c.api.Info(ctx)
	answered := c.now()
	if err != nil {
		if clientTooOld.in(err.Error()) {
			return ops.Machine{}, (&ops.Error{Code: ops.Failed, Sentence: "Docker at " + c.host + " is newer than what Waggle can speak with", Err: err}).
				Then("Upgrade Waggle")
		}
		return ops.Machine{}, c.unread(err)
	}
	if tooOld(i.ServerVersion, ping.APIVersion) {
		return ops.Machine{}, ops.Errorf(ops.Failed, "Docker %s at %s is too old: %s is the oldest that can join", i.ServerVersion, c.host, oldestEngine).
			Then("Upgrade Docker there")
	}
	m := ops.Machine{
		Hostname:      i.Name,
		EngineVersion: i.ServerVersion,
		APIVersion:    ping.APIVersion,
		ImageStore:    imageStore(&i),
		OS:            i.OperatingSystem,
		OSType:        i.OSType,
		Arch:          i.Architecture,
		CPUs:          i.NCPU,
		Memory:        i.MemTotal,
		Swarm:         membership(&i),
	}
	if there, err := time.Parse(time.RFC3339Nano, i.SystemTime); err == nil {
		m.ClockAhead = there.Sub(asked.Add(answered.Sub(asked) / 2))
	}
	return m, nil
}

// imageStore is where an engine has its images. The containerd image store tells itself by
// the driver's status, as docker info shows it.
func imageStore(i *system.Info) string {
	if slices.Contains(i.DriverStatus, [2]string{"driver-type", "io.containerd.snapshotter.v1"}) {
		return "containerd"
	}
	return "classic"
}

func (c *Client) unread(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return (&ops.Error{Code: ops.Unavailable, Sentence: "Docker at " + c.host + " does not answer: its engine, or the way to it, hangs", Err: err}).
			Then("See there whether `docker info` answers, and restart it with `systemctl restart docker` if not")
	}
	return c.failed(err, "tell about its machine")
}

func membership(i *system.Info) ops.Membership {
	m := ops.Membership{
		State:   string(i.Swarm.LocalNodeState),
		Error:   clean(i.Swarm.Error),
		NodeID:  i.Swarm.NodeID,
		Manager: i.Swarm.ControlAvailable,
	}
	if m.State == "" {
		m.State = string(swarm.LocalNodeStateInactive)
	}
	if i.Swarm.Cluster != nil {
		m.ClusterID = i.Swarm.Cluster.ID
	}
	for _, peer := range i.Swarm.RemoteManagers {
		m.Managers = append(m.Managers, peer.Addr)
	}
	return m
}

// tooOld compares releases; of builds without a number it compares the API.
func tooOld(engine, api string) bool {
	v := majorMinor.FindStringSubmatch(engine)
	if v == nil {
		return api != "" && versions.LessThan(api, oldestAPI)
	}
	least := majorMinor.FindStringSubmatch(oldestEngine)
	for i := 1; i < len(v); i++ {
		have, _ := strconv.Atoi(v[i])
		want, _ := strconv.Atoi(least[i])
		if have != want {
			return have < want
		}
	}
	return false
}

// JoinSwarm has the engine join a swarm. The engine dials only the first of the
// managers. It may return nil before the node is ready. Errors are Unavailable
// when the engine may still be trying, and Failed when it has given up, with the
// cause.
func (c *Client) JoinSwarm(ctx context.Context, j ops.Join) error {
	ctx, cancel := context.WithTimeout(ctx, membershipTimeout)
	defer cancel()
	err := c.api.SwarmJoin(ctx, swarm.JoinRequest{
		ListenAddr:    listenAddr,
		AdvertiseAddr: j.AdvertiseAddr,
		RemoteAddrs:   j.Managers,
		JoinToken:     j.Token.Reveal(),
		Availability:  swarm.NodeAvailabilityActive,
	})
	if err == nil {
		return nil
	}
	return c.joinFailed(err, j)
}

// LeaveSwarm has the engine leave its swarm; nil when it is in none. Without
// force a manager is refused with Failed. It waits for a join that is under way.
func (c *Client) LeaveSwarm(ctx context.Context, force bool) error {
	ctx, cancel := context.WithTimeout(ctx, membershipTimeout)
	defer cancel()
	err := c.api.SwarmLeave(ctx, force)
	if err == nil || notInSwarm.in(err.Error()) {
		return nil
	}
	if isManager.in(err.Error()) {
		return &ops.Error{Code: ops.Failed, Sentence: "Docker at " + c.host + " does not leave its swarm by itself, because it is a manager", Log: clean(err.Error()), Err: err}
	}
	return c.failed(err, "leave its swarm")
}

// joinFailed names why an engine did not join. Its words are kept for the log,
// without the token.
func (c *Client) joinFailed(err error, j ops.Join) error {
	var known *ops.Error
	if errors.As(err, &known) {
		return known
	}
	message := hide(clean(err.Error()), j.Token)
	cause := errors.New(message)
	at := "Docker at " + c.host
	failed := func(code ops.Code, format string, args ...any) *ops.Error {
		return &ops.Error{Code: code, Sentence: fmt.Sprintf(format, args...), Log: message, Err: cause}
	}
	switch {
	case errors.Is(err, context.Canceled):
		return &ops.Error{Code: ops.Canceled, Sentence: "Called off: have " + at + " join", Err: context.Canceled}
	case errors.Is(err, context.DeadlineExceeded):
		return &ops.Error{Code: ops.Unavailable, Sentence: at + " did not say in time whether it joined", Err: context.DeadlineExceeded}
	case alreadyJoined.in(message):
		return failed(ops.Failed, "%s is already part of a swarm", at).Then("Run `docker swarm leave` there first")
	case joinContinues.in(message):
		return failed(ops.Unavailable, "%s has not joined yet, and goes on trying", at)
	case tokenRefused.in(message):
		return failed(ops.Failed, "The swarm does not take this join token: new ones were made since").Then("Try again: the token is read anew each time")
	case certExpired.in(message):
		return failed(ops.Failed, "The swarm's certificates are not valid by the clock of %s: it is off, or they have expired", at).
			Then("Set that machine's clock, `timedatectl set-ntp true`, and try again")
	case certForeign.in(message):
		return failed(ops.Failed, "The manager that %s reached is not of this swarm: its certificate is another", at).
			Then("See that %s is this swarm's manager and nothing in between answers for it", strings.Join(j.Managers, " or "))
	case managerUnreachable.in(message):
		return failed(ops.Failed, "%s does not reach a manager at %s", at, strings.Join(j.Managers, " or ")).
			Then("Open TCP 2377 on the managers to that machine, or set swarm.advertise_addr to an address that it reaches")
	case addressUnknown.in(message):
		return failed(ops.Failed, "%s cannot tell which of its addresses the others reach it at", at).Then("Name it with `--advertise ADDRESS`")
	case liveRestore.in(message):
		return failed(ops.Failed, "%s runs with live-restore, and so cannot be in a swarm", at).
			Then("Take live-restore out of /etc/docker/daemon.json there and restart Docker")
	case portTaken.in(message):
		return failed(ops.Failed, "Something else on that machine uses a port that %s needs", at).Then("Free TCP 2377 and 7946 there")
	}
	if e, ok := c.failed(cause, "join").(*ops.Error); ok && e.Code != ops.Internal && e.Code != ops.NotFound {
		return e
	}
	return failed(ops.Failed, "%s did not join: %s", at, message)
}

// hide removes a token, whole and in its parts, from a text.
func hide(text string, token secret.Text) string {
	if token.Empty() {
		return text
	}
	text = strings.ReplaceAll(text, token.Reveal(), token.String())
	for part := range strings.SplitSeq(token.Reveal(), "-") {
		if len(part) > 8 {
			text = strings.ReplaceAll(text, part, token.String())
		}
	}
	return text
}

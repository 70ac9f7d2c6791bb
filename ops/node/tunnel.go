package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"waggle/ops"
)

// Tunnel is the way to one Docker engine behind SSH, for docker.host. It keeps
// one connection, made when it is first needed and made anew after it broke. The
// server's host key must be in known_hosts. It is safe for concurrent use.
type Tunnel struct {
	servers *Servers
	to      target
	known   []string // files

	turn   chan struct{} // held while connecting, and guards what follows
	link   *link         // the last connection, nil before the first
	closed bool
	tasks  sync.WaitGroup
}

// link is a connection of a tunnel.
type link struct{ *engine }

// Tunnel returns the way to the engine at ssh://user@host:port. Without a user
// in it, it is the one given. It does not connect yet; Close it.
func (s *Servers) Tunnel(host, user string) (*Tunnel, error) {
	u, err := url.Parse(host)
	if err != nil || u.Scheme != "ssh" || u.Hostname() == "" {
		return nil, ops.Errorf(ops.Invalid, "docker.host is not an address like ssh://user@host:22")
	}
	t := &Tunnel{servers: s, known: s.knownHosts, turn: make(chan struct{}, 1)}
	t.to = target{Address: ops.Address{Host: u.Hostname(), Port: 22, User: user}, setting: "docker.host"}
	if name := u.User.Username(); name != "" {
		t.to.User = name
	}
	if p := u.Port(); p != "" {
		if t.to.Port, err = strconv.Atoi(p); err != nil || t.to.Port < 1 || t.to.Port > 65535 {
			return nil, ops.Errorf(ops.Invalid, "docker.host has a wrong port")
		}
	}
	if len(t.known) == 0 {
		if home, err := os.UserHomeDir(); err == nil {
			t.known = append(t.known, filepath.Join(home, ".ssh", "known_hosts"))
		}
		t.known = append(t.known, "/etc/ssh/ssh_known_hosts")
	}
	return t, nil
}

// Dial connects to the engine; it is for swarm.Options.
func (t *Tunnel) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	for {
		l, fresh, err := t.connected(ctx)
		if err != nil {
			return nil, noWay{err}
		}
		conn, err := l.dial(ctx, network, addr)
		if err == nil || fresh || !errors.As(err, new(broken)) {
			return conn, err
		}
		_ = l.ssh.Close() // the next round makes another
		select {
		case <-l.ended:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// connected returns a connection, and whether it was made just now.
func (t *Tunnel) connected(ctx context.Context) (l *link, fresh bool, err error) {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return nil, false, handshakeFailed(ctx, t.to, "", ctx.Err())
	}
	if t.closed {
		return nil, false, &ops.Error{Code: ops.Canceled, Sentence: "Called off: Waggle stops", Err: net.ErrClosed}
	}
	if t.link != nil {
		select {
		case <-t.link.ended:
		default:
			return t.link, false, nil
		}
	}
	client, err := t.connect(ctx)
	if err != nil {
		return nil, false, err
	}
	t.link = &link{newEngine(client, t.to, t.servers.log, t.servers.timeouts)}
	t.tasks.Go(t.link.watch)
	return t.link, true, nil
}

func (t *Tunnel) connect(ctx context.Context) (*ssh.Client, error) {
	check, err := t.hostKeys()
	if err != nil {
		return nil, err
	}
	var shown ssh.PublicKey
	var wrong error
	client, err := t.servers.dialKnown(ctx, t.to, knownAlgorithms(check, t.to), func(name string, remote net.Addr, key ssh.PublicKey) error {
		shown, wrong = key, check(name, remote, key)
		return wrong
	})
	if wrong != nil {
		return nil, t.hostKeyFailed(wrong, shown)
	}
	return client, err
}

// hostKeys reads the files of known hosts that are there.
func (t *Tunnel) hostKeys() (ssh.HostKeyCallback, error) {
	files := slices.DeleteFunc(slices.Clone(t.known), func(f string) bool {
		_, err := os.Stat(f)
		return errors.Is(err, os.ErrNotExist)
	})
	check, err := knownhosts.New(files...)
	if err != nil {
		return nil, &ops.Error{Code: ops.Failed, Sentence: "The known SSH hosts cannot be read", Next: "Correct the file that the log names", Err: err}
	}
	return check, nil
}

// knownAlgorithms are those of the keys that are known of a host, so that it
// does not show another of its keys; of an unknown host all are asked.
func knownAlgorithms(check ssh.HostKeyCallback, to target) []string {
	var known *knownhosts.KeyError
	// No host has this key, so the error lists those that it may have.
	if err := check(to.hostPort(), &net.TCPAddr{IP: net.IPv4zero}, nobodysKey{}); !errors.As(err, &known) || len(known.Want) == 0 {
		return hostKeyAlgorithms()
	}
	var algorithms []string
	for _, a := range hostKeyAlgorithms() {
		if slices.ContainsFunc(known.Want, func(k knownhosts.KnownKey) bool { return slices.Contains(signatures(k.Key.Type()), a) }) {
			algorithms = append(algorithms, a)
		}
	}
	return algorithms
}

// nobodysKey is a public key that is no one's.
type nobodysKey struct{}

func (nobodysKey) Type() string                        { return "nobody" }
func (nobodysKey) Marshal() []byte                     { return []byte("nobody") }
func (nobodysKey) Verify([]byte, *ssh.Signature) error { return errors.New("nobody's key") }

func (t *Tunnel) hostKeyFailed(err error, shown ssh.PublicKey) error {
	host, now := t.to.Host, ssh.FingerprintSHA256(shown)
	var known *knownhosts.KeyError
	if errors.As(err, &known) && len(known.Want) == 0 {
		return (&ops.Error{Code: ops.Failed, Sentence: fmt.Sprintf("The host key of %s, the server in docker.host, is not known: it shows %s", host, now), Err: err}).
			Then("Compare that with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on its own console, then add the line of `ssh-keyscan -p %d %s` to %s", t.to.Port, host, t.known[0])
	}
	if errors.As(err, &known) {
		was := known.Want[0]
		return (&ops.Error{Code: ops.Failed, Sentence: fmt.Sprintf("The host key of %s changed: it was %s, and now it is %s", host, ssh.FingerprintSHA256(was.Key), now), Err: err}).
			Then("Find out why on the server's own console: a new installation changes it, and so does somebody in between. If it is right, replace line %d of %s", was.Line, was.Filename)
	}
	return (&ops.Error{Code: ops.Failed, Sentence: fmt.Sprintf("The host key of %s is refused: %s", host, now), Err: err}).
		Then("See what the files of known hosts say of it: %s", t.known)
}

// watch asks the server now and then whether it is there, and ends the
// connection when it does not say so. It returns when the connection has ended.
func (l *link) watch() {
	tick := time.NewTicker(l.limit.alive)
	defer tick.Stop()
	for {
		select {
		case <-l.ended:
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), l.limit.alive)
		_, err := within(ctx, func() (struct{}, error) {
			_, _, err := l.ssh.SendRequest("keepalive@openssh.com", true, nil)
			return struct{}{}, err
		}, func(struct{}) {})
		cancel()
		if err != nil {
			l.log.Warn("the SSH connection to the Docker engine broke", "server", l.to.String(), "err", err)
			_ = l.ssh.Close()
			<-l.ended
			return
		}
	}
}

// Close ends the connection and all that goes through it.
func (t *Tunnel) Close() error {
	t.turn <- struct{}{}
	defer func() { <-t.turn }()
	t.closed = true
	var err error
	if t.link != nil {
		err = hangUp(t.link.ssh)
	}
	t.tasks.Wait()
	return err
}

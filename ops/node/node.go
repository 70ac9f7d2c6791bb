// Package node reaches servers and their Docker engines over SSH. Engines are
// spoken to by their API, through the connection: nothing that anybody typed,
// and no token, gets to a shell there.
package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"waggle/internal/secret"
	"waggle/ops"
)

// Options say with which key servers are reached.
type Options struct {
	// KeyFile holds the private key: ed25519, RSA or ECDSA, in any format that
	// ssh-keygen writes. Empty means a key of Waggle's own, which is made when it
	// is first needed.
	KeyFile string
	// Passphrase opens KeyFile, if that is encrypted.
	Passphrase secret.Text
	// StateDir is where Waggle's own key is kept. Empty means /var/lib/waggle for
	// root, else $XDG_STATE_HOME/waggle or ~/.local/state/waggle.
	StateDir string
	// KnownHosts are the files with the host keys that a Tunnel accepts; none means
	// ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts.
	KnownHosts []string
	// Log receives what is done without being asked for; nil discards it.
	Log *slog.Logger
	// Now is the clock that the engines' are compared with; nil is time.Now.
	Now func() time.Time
}

// Servers reaches machines over SSH. It is safe for concurrent use.
type Servers struct {
	key        keyring
	knownHosts []string
	timeouts   timeouts
	log        *slog.Logger
	now        func() time.Time
}

var _ ops.Servers = (*Servers)(nil)

// New returns servers to be reached. It neither reads the key nor connects.
func New(o Options) *Servers {
	s := &Servers{knownHosts: o.KnownHosts, log: o.Log, now: o.Now, timeouts: defaultTimeouts()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.key = keyring{file: o.KeyFile, passphrase: o.Passphrase, dir: o.StateDir, log: s.log}
	return s
}

// PublicKey returns Waggle's public key as a line for authorized_keys. Errors
// are Failed and name the file.
func (s *Servers) PublicKey(ctx context.Context) (string, error) {
	signer, err := s.key.signer(ctx)
	if err != nil {
		return "", err
	}
	return authorizedLine(signer.PublicKey()), nil
}

// hostKeyAlgorithms are asked of a server whose key is not known yet, so that a
// server with several shows its best. Certificates are not among them.
func hostKeyAlgorithms() []string {
	return []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
}

// signatures returns the algorithms in which a host key of that type signs.
func signatures(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// errHostKey ends a handshake with a server that has another key.
var errHostKey = errors.New("the host key is another")

// Connect connects to a server; see ops.Servers.
func (s *Servers) Connect(ctx context.Context, addr ops.Address, want ops.HostKey) (ops.Server, error) {
	to := target{Address: addr}
	algorithms := hostKeyAlgorithms()
	if want != (ops.HostKey{}) {
		algorithms = signatures(want.Algorithm)
	}
	var shown ops.HostKey
	check := func(_ string, _ net.Addr, key ssh.PublicKey) error {
		shown = ops.HostKey{Algorithm: key.Type(), Fingerprint: ssh.FingerprintSHA256(key)}
		if want != (ops.HostKey{}) && shown != want {
			return errHostKey
		}
		return nil
	}
	client, err := s.dialKnown(ctx, to, algorithms, check)
	if errors.Is(err, errHostKey) {
		return nil, (&ops.Error{Code: ops.Failed, Err: err,
			Sentence: "The host key of " + addr.Host + " changed: it was " + want.Fingerprint + ", and now it is " + shown.Fingerprint}).
			Then("Find out why, as with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the server's own console: a new installation changes it, and so does somebody in between. If it is right, ask for the join again")
	}
	if err != nil {
		return nil, err
	}
	server, err := s.newServer(client, addr, shown)
	if err != nil {
		_ = client.Close() // the error tells more
		return nil, err
	}
	return server, nil
}

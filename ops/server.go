package ops

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"waggle/internal/secret"
)

// Address is where a server is reached over SSH.
type Address struct {
	Host string `json:"host"` // IPv4, IPv6 without brackets, or a name
	Port int    `json:"port"`
	User string `json:"user"`
}

func (a Address) String() string {
	return fmt.Sprintf("%s@%s", a.User, net.JoinHostPort(a.Host, strconv.Itoa(a.Port)))
}

// HostKey is what identifies a server: the same one is expected every time.
type HostKey struct {
	Algorithm   string `json:"algorithm"`   // of the key, as in authorized_keys: ssh-ed25519, ssh-rsa, ecdsa-sha2-nistp256
	Fingerprint string `json:"fingerprint"` // SHA256:…, as ssh-keygen -l prints it
}

// Servers reaches machines over SSH with Waggle's own key. Errors are *Error,
// each with a sentence that names the cause and what to do: Unavailable when the
// server does not answer, NotFound when nothing has that name, Forbidden when it
// refuses the key, Failed otherwise (the host key changed, Waggle's key cannot
// be read).
type Servers interface {
	// PublicKey returns Waggle's public key as a line for authorized_keys,
	// without a newline. The key is made now if there is none yet.
	PublicKey(ctx context.Context) (string, error)
	// Connect opens a connection. With a zero want any host key is taken, and
	// Server.HostKey tells which it was; else only exactly that one is. It honours
	// ctx until it returns; the caller must Close the Server.
	Connect(ctx context.Context, addr Address, want HostKey) (Server, error)
	// ProbeUDP sees, from this machine, whether datagrams get to a port of a host
	// on which nothing listens yet, as swarm's 7946 and 4789 before a join. It
	// sends one that means nothing. A host that got it says that nothing listens
	// (ICMP port unreachable), or a service answers: then it is nil, the way is
	// open. Unavailable is silence, within a second: a firewall drops the
	// datagrams or the answers, or what listens has nothing to say (so ask before
	// the join). It is a hint and no proof: a firewall that rejects as a closed
	// port would looks open, and others see the host from elsewhere.
	ProbeUDP(ctx context.Context, host string, port int) error
}

// Server is a machine with an open SSH connection, and its Docker engine, which
// is spoken to by its API through that connection.
type Server interface {
	Images
	Volumes
	HostKey() HostKey
	// Machine reads the server's engine. Errors are Forbidden when the user may
	// not use Docker there, Unavailable when the engine does not run, hangs, or
	// the connection broke, Failed when there is no Docker or one too old.
	Machine(ctx context.Context) (Machine, error)
	// Reaches opens, from the server, a TCP connection to host:port and closes it
	// again. Only Unavailable means that the port is closed to the server: it was
	// refused, or there was no answer. Any other code says that it cannot be told:
	// Forbidden when the SSH server does not forward, Failed when the connection
	// broke or ctx left no time.
	Reaches(ctx context.Context, address string) error
	// JoinSwarm has the engine join, through the first of the managers that the
	// server reaches. It may return nil, or an error of the code Unavailable,
	// while the engine goes on trying: Machine.Swarm tells. Failed is final.
	JoinSwarm(ctx context.Context, j Join) error
	// LeaveSwarm has the engine leave its swarm; nil when it is in none.
	LeaveSwarm(ctx context.Context, force bool) error
	Close() error
}

// Join is what an engine needs to join a swarm.
type Join struct {
	Token         secret.Text
	Managers      []string // host:port of each
	AdvertiseAddr string   // the address others reach it at; "" lets the engine choose
}

// Machine is a server's engine as it tells about itself.
type Machine struct {
	Hostname      string
	EngineVersion string // 20.10.24
	APIVersion    string // the newest it speaks: 1.41
	ImageStore    string // "classic" or "containerd"
	OS            string // Debian GNU/Linux 12 (bookworm)
	OSType        string // linux
	Arch          string // x86_64, aarch64
	CPUs          int
	Memory        int64         // bytes
	ClockAhead    time.Duration // how far its clock is ahead of this one, half the way there and back left out
	Swarm         Membership
}

// Membership is how an engine stands to swarms.
type Membership struct {
	State     string   // inactive, pending, active, error or locked, as Docker spells it
	Error     string   // the engine's words for what is wrong; "" when nothing is
	NodeID    string   // its id in its swarm, "" when it is in none
	ClusterID string   // of its swarm; a worker does not know it
	Manager   bool     // it is a manager
	Managers  []string // host:port of the managers that it knows
}

package ops

import "net/netip"

// RegistryTrust is which registries the engines speak to without a certificate
// that they trust: over TLS with any certificate, or over plain HTTP.
type RegistryTrust struct {
	Hosts    []string       // host or host:port
	Networks []netip.Prefix // loopback is always among them
	// Addr is this manager's address as a node. A port that the swarm publishes on
	// the manager's loopback is reached there too, by who has another loopback.
	Addr string
}

// Trial is how far trying a registry came.
type Trial struct {
	Reachable bool     // it answers as a registry does
	LoggedIn  bool     // and takes the login
	MayPush   bool     // and images below the prefix; false too when that was not tried
	Warnings  []string // what works otherwise than one might think
	Err       error    // an *Error that names what did not work; nil when all did
}

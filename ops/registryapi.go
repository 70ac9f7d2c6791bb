package ops

import (
	"context"
	"net/netip"
	"time"
)

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

// ImageRegistries speaks to registries over their own API. Errors are *Error:
// Unavailable when a registry does not answer or is overloaded, NotFound when it
// has no such image, Failed for what it refuses, with its own words. A login is
// only ever sent to its own registry.
type ImageRegistries interface {
	// Try finds out whether a registry can be used with this login, and, if so
	// asked, pushed to.
	Try(ctx context.Context, login RegistryLogin, push bool) Trial
	// Digest returns the digest ("sha256:…") of an image.
	Digest(ctx context.Context, login RegistryLogin, image string) (string, error)
	// Copy copies an image to another registry, or within one, under a new name
	// with a tag, and returns its digest, which stays the same. progress is called
	// from several goroutines.
	Copy(ctx context.Context, from RegistryLogin, image string, to RegistryLogin, as string, progress func(string)) (digest string, err error)
	// Image tells of an image; Created is zero when it does not say.
	Image(ctx context.Context, login RegistryLogin, image string) (Image, error)
	// Tags returns the tags of a repository; NotFound when there is none.
	Tags(ctx context.Context, login RegistryLogin, repository string) ([]string, error)
	// Repositories returns the names of all repositories, without the domain.
	Repositories(ctx context.Context, login RegistryLogin) ([]string, error)
	// Delete removes the image of exactly the digest in its name, with all its tags.
	Delete(ctx context.Context, login RegistryLogin, image string) error
}

// Image is an image as a registry has it.
type Image struct {
	Digest  string
	Created time.Time // when it was built, as it says itself
}

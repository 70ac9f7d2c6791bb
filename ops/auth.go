package ops

import (
	"context"
	"errors"

	"github.com/distribution/reference"

	"waggle/internal/secret"
)

// authFor returns the credentials for a service's image, to be sent with an
// update that leaves the image as it is. They are nil when none are known: the
// service keeps those that it has. So it does, with a warning, when they cannot
// be read, since what runs could be pulled with them.
func (r *Run) authFor(ctx context.Context, image string) (auth *RegistryAuth, warning string, err error) {
	rs, err := ReadRegistries(ctx, r.Swarm)
	if err == nil {
		auth, err = rs.authFrom(image, image, r.SecretKey)
	}
	if e := new(Error); errors.As(err, &e) && e.Code == Invalid {
		r.Log.Warn("an update goes without credentials", "err", err)
		return nil, e.Sentence + ". The credentials that the service has are kept, and new nodes may not get its image with them.", nil
	}
	return auth, "", err
}

// authFrom returns the credentials to send with an update of a service from one
// image to another: those of its registry, explicitly none for an image that no
// registry holds, so that credentials never reach another registry. Nil keeps
// what the service has: somebody gave it by hand for the same domain.
func (rs Registries) authFrom(old, image string, key secret.Key) (*RegistryAuth, error) {
	if r, ok := rs.Of(image); ok {
		login, err := r.Login(key)
		return &login.Auth, err
	}
	if _, ours := rs.Of(old); !ours && sameDomain(old, image) {
		return nil, nil
	}
	return &RegistryAuth{}, nil
}

// sameDomain says whether two images come from the same registry's domain.
func sameDomain(a, b string) bool {
	x, ok := parseImage(a)
	y, also := parseImage(b)
	return ok && also && normalDomain(reference.Domain(x)) == normalDomain(reference.Domain(y))
}

package swarm

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/docker/client"

	"waggle/ops"
)

// ImageDigest asks an image's registry, through this engine, for its digest.
func (c *Client) ImageDigest(ctx context.Context, image string, auth ops.RegistryAuth) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", ops.Errorf(ops.Invalid, "%q is not an image: %w", image, err)
	}
	encoded, err := encodeAuth(image, auth)
	if err != nil {
		return "", err
	}
	got, err := c.api.DistributionInspect(ctx, image, encoded)
	if err == nil {
		return got.Descriptor.Digest.String(), nil
	}
	if ctx.Err() != nil {
		return "", c.failed(ctx.Err(), "ask for %s", image)
	}
	if client.IsErrConnectionFailed(err) || errors.As(err, new(*net.OpError)) {
		return "", c.failed(err, "ask for %s", image) // the engine is away, not the registry
	}
	domain := reference.Domain(named)
	message := scrub(clean(err.Error()), auth)
	short := shortCause(message)
	text := withoutNames(message)
	e := &ops.Error{Code: ops.Failed, Err: errors.New(message)}
	switch {
	case untrusted.in(text):
		e.Sentence = fmt.Sprintf("The engine does not trust the registry %s: %s", domain, short)
		return "", e.Then("Give the registry a certificate that is trusted, or list it in the engine's insecure-registries as http://host:port.")
	case errdefs.IsNotFound(err), notInRegistry.in(text):
		e.Code, e.Sentence = ops.NotFound, fmt.Sprintf("The registry %s has no image %s", domain, reference.FamiliarString(named))
	case refused.in(text), errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		// Registries say the same of what is not there and of what may not be seen.
		e.Sentence = fmt.Sprintf("The registry %s has no image %s, or does not show it: %s", domain, reference.FamiliarString(named), short)
		return "", e.Then("See whether it exists and whether its registry is added with the right login: `/registry list`.")
	case overloaded.in(text):
		e.Code, e.Sentence = ops.Unavailable, fmt.Sprintf("The registry %s failed: %s", domain, short)
	case unreachable.in(text):
		e.Code, e.Sentence = ops.Unavailable, fmt.Sprintf("The registry %s cannot be reached: %s", domain, short)
		return "", e.Then("See whether it runs and whether this manager reaches it: `/registry check`.")
	default:
		if known := c.failed(err, "ask for %s", image); ops.CodeOf(known) != ops.Internal {
			return "", known
		}
		e.Sentence = fmt.Sprintf("Asking the registry %s for %s failed: %s", domain, reference.FamiliarString(named), short)
	}
	return "", e
}

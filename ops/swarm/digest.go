package swarm

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

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
	domain := reference.Domain(named)
	message := scrub(clean(err.Error()), auth)
	words := withoutNames(message)
	e := &ops.Error{Code: ops.Failed, Err: errors.New(message)}
	switch {
	case untrusted.in(words):
		e.Sentence = fmt.Sprintf("The engine does not trust the registry %s: %s", domain, message)
		return "", e.Then("Give the registry a certificate that is trusted, or list it in the engine's insecure-registries as http://host:port.")
	case errdefs.IsNotFound(err), notInRegistry.in(words):
		e.Code, e.Sentence = ops.NotFound, fmt.Sprintf("The registry %s has no image %s", domain, reference.FamiliarString(named))
	case refused.in(words), errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		// Registries say the same of what is not there and of what may not be seen.
		e.Sentence = fmt.Sprintf("The registry %s has no image %s, or does not show it: %s", domain, reference.FamiliarString(named), message)
		return "", e.Then("See whether it exists and whether its registry is added with the right login: `/registry list`.")
	case unreachable.in(words), overloaded.in(words):
		e.Code, e.Sentence = ops.Unavailable, fmt.Sprintf("The registry %s cannot be reached: %s", domain, message)
		return "", e.Then("See whether it runs and whether this manager reaches it: `/registry check`.")
	default:
		return "", c.failed(err, "ask for %s", image)
	}
	return "", e
}

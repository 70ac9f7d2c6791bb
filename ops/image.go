package ops

import (
	"strings"

	"github.com/distribution/reference"
)

// holds says whether an image is one of this registry's, by its parsed name.
func (r Registry) holds(image string) bool {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil || r.Domain == "" || reference.Domain(named) != r.Domain {
		return false
	}
	return r.Prefix == "" || strings.HasPrefix(reference.Path(named), r.Prefix+"/")
}

// authFor returns the credentials for an image, nil when they are not known
// here: then the service keeps those it has.
func (r Registry) authFor(image string) *RegistryAuth {
	if !r.holds(image) {
		return nil
	}
	return &r.Auth
}

// name returns the reference of an app's image without a digest.
func (r Registry) name(app, tag string) string {
	parts := []string{app + ":" + tag}
	if r.Prefix != "" {
		parts = append([]string{r.Prefix}, parts...)
	}
	if r.Domain != "" {
		parts = append([]string{r.Domain}, parts...)
	}
	return strings.Join(parts, "/")
}

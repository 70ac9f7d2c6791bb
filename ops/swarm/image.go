package swarm

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/opencontainers/go-digest"

	"waggle/ops"
)

// TagImage gives an image of this engine one more name; NotFound when the engine
// does not have it.
func (c *Client) TagImage(ctx context.Context, name, as string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := c.api.ImageTag(ctx, name, as)
	if errdefs.IsNotFound(err) {
		return &ops.Error{Code: ops.NotFound, Sentence: "This manager's engine does not have the image " + name, Err: err}
	}
	return c.failed(err, "tag the image %s", name)
}

// Images lists the images of this engine that have a name.
func (c *Client) Images(ctx context.Context) ([]ops.LocalImage, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	containers, err := c.api.ContainerList(ctx, container.ListOptions{All: true})
	if err != nil {
		return nil, c.failed(err, "list the containers")
	}
	used := map[string]bool{}
	for _, k := range containers {
		used[k.ImageID] = true
	}
	list, err := c.api.ImageList(ctx, image.ListOptions{})
	if err != nil {
		return nil, c.failed(err, "list the images")
	}
	var out []ops.LocalImage
	for _, i := range list {
		var names []string
		for _, name := range append(i.RepoTags, i.RepoDigests...) {
			if _, err := digest.Parse(name); err == nil {
				name = atDigest(i.RepoTags, name)
			}
			if name != "" && !strings.HasPrefix(name, "<none>") {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			out = append(out, ops.LocalImage{ID: i.ID, Names: names, Size: i.Size, Used: used[i.ID]})
		}
	}
	return out, nil
}

// atDigest gives a digest without a repository the one of the image's first tag, "" when there
// is none: so the containerd image store lists what swarm pulled as name:tag@digest.
func atDigest(tags []string, bare string) string {
	if len(tags) == 0 {
		return ""
	}
	named, err := reference.ParseNormalizedNamed(tags[0])
	if err != nil {
		return ""
	}
	return reference.FamiliarName(named) + "@" + bare
}

// RemoveImage takes one name off an image, and removes it with its last.
func (c *Client) RemoveImage(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.api.ImageRemove(ctx, name, image.RemoveOptions{PruneChildren: true})
	if errdefs.IsNotFound(err) {
		return nil // with another of its names
	}
	return c.failed(err, "remove the image %s", name)
}

package swarm

import (
	"context"

	"github.com/containerd/errdefs"

	"waggle/ops"
)

// TagImage gives an image of this engine one more name; NotFound when the engine
// does not have it.
func (c *Client) TagImage(ctx context.Context, image, as string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := c.api.ImageTag(ctx, image, as)
	if errdefs.IsNotFound(err) {
		return &ops.Error{Code: ops.NotFound, Sentence: "This manager's engine does not have the image " + image, Err: err}
	}
	return c.failed(err, "tag the image %s", image)
}

package webhooks

import (
	"net/http"

	"waggle/internal/secret"
	"waggle/ops"
)

// gogs sends what Gitea, which came from it, sends too. It does not say how many
// commits were pushed.
// Source: https://github.com/gogs/docs-api/blob/master/Repositories/Webhooks.md
type gogs struct{}

// gogsCommits is the most commits that Gogs lists, unless configured otherwise.
const gogsCommits = 5

func (gogs) mediaTypes() []string { return []string{jsonType, formType} }

func (gogs) about(h http.Header) (id, event string) {
	return h.Get("X-Gogs-Delivery"), h.Get("X-Gogs-Event")
}

func (gogs) verify(d delivery, secrets []secret.Text) error {
	return signedPayload(d, d.header.Get("X-Gogs-Signature"), secrets)
}

func (gogs) pushes(d delivery) ([]ops.Push, error) {
	return giteaPushes(d, "gogs", d.header.Get("X-Gogs-Event"), gogsCommits)
}

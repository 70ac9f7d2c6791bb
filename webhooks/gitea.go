package webhooks

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"

	payload "github.com/go-playground/webhooks/v6/gitea"

	"waggle/internal/secret"
	"waggle/ops"
)

// gitea is Gitea and Forgejo, which sends Gitea's headers beside its own. It
// tells neither the time of a push nor whether it was forced.
// Source: https://docs.gitea.com/usage/webhooks
type gitea struct{}

func (gitea) mediaTypes() []string { return []string{jsonType, formType} }

func (gitea) header(h http.Header, name string) string {
	return cmp.Or(h.Get("X-Gitea-"+name), h.Get("X-Forgejo-"+name))
}

func (g gitea) about(h http.Header) (id, event string) {
	return g.header(h, "Delivery"), g.header(h, "Event")
}

func (g gitea) verify(d delivery, secrets []secret.Text) error {
	return signedPayload(d, g.header(d.header, "Signature"), secrets)
}

func (g gitea) pushes(d delivery) ([]ops.Push, error) {
	return giteaPushes(d, "gitea", g.header(d.header, "Event"), math.MaxInt)
}

// signedPayload checks what Gitea and Gogs sign: the JSON, also when that comes
// in a form.
func signedPayload(d delivery, signature string, secrets []secret.Text) error {
	body, err := d.payload()
	if err != nil {
		return errSignature
	}
	return signedHex(signature, body, secrets)
}

// giteaPushes decodes a push. A list of so many commits, or more, may be cut
// short without the forge saying so.
func giteaPushes(d delivery, provider, event string, listed int) ([]ops.Push, error) {
	switch event {
	case "push":
	case "":
		return nil, errors.New("the header with the event is missing")
	default:
		return nil, ignored(fmt.Sprintf("%q is not a push", clip(event)))
	}
	body, err := d.payload()
	if err != nil {
		return nil, err
	}
	var p struct {
		payload.PushPayload
		Total int `json:"total_commits"`
	}
	if err := decode(body, &p); err != nil {
		return nil, err
	}
	c := change{ref: p.Ref, before: p.Before, after: p.After, total: p.Total}
	if len(p.Commits) >= listed {
		c.total = len(p.Commits) + 1
	}
	if p.HeadCommit != nil && p.HeadCommit.ID == p.After {
		c.head = p.HeadCommit.Message
	}
	for _, one := range p.Commits {
		if one == nil {
			continue
		}
		m := commit{Commit: ops.Commit{ID: one.ID, Message: one.Message, URL: one.URL}, files: slices.Concat(one.Added, one.Removed, one.Modified)}
		if one.Author != nil {
			m.Author = cmp.Or(one.Author.Name, one.Author.UserName)
		}
		c.commits = append(c.commits, m)
	}
	push := ops.Push{Provider: provider, Compare: p.CompareURL}
	if r := p.Repo; r != nil {
		push.RepoURLs, push.Name, push.Default = distinct(r.CloneURL, r.SSHURL, r.HTMLURL), r.FullName, r.DefaultBranch
	}
	for _, u := range []*payload.User{p.Sender, p.Pusher} {
		if u != nil {
			push.Pusher = cmp.Or(u.UserName, u.FullName, push.Pusher)
		}
	}
	return pushes(push, c)
}

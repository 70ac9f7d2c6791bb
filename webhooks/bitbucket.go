package webhooks

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"

	payload "github.com/go-playground/webhooks/v6/bitbucket"

	"waggle/internal/secret"
	"waggle/ops"
)

// bitbucket is Bitbucket Cloud. It tells no default branch, no time of the push
// and no paths.
// Source: https://support.atlassian.com/bitbucket-cloud/docs/event-payloads/#Push
type bitbucket struct{}

func (bitbucket) mediaTypes() []string { return []string{jsonType} }

func (bitbucket) about(h http.Header) (id, event string) {
	return h.Get("X-Request-UUID"), h.Get("X-Event-Key")
}

func (bitbucket) verify(d delivery, secrets []secret.Text) error {
	signature, ok := strings.CutPrefix(d.header.Get("X-Hub-Signature"), "sha256=")
	if !ok {
		return errSignature
	}
	return signedHex(signature, d.body, secrets)
}

func (bitbucket) pushes(d delivery) ([]ops.Push, error) {
	switch event := d.header.Get("X-Event-Key"); event {
	case "repo:push":
	case "":
		return nil, errors.New("the header X-Event-Key is missing")
	default:
		return nil, ignored(fmt.Sprintf("%q is not a push", clip(event)))
	}
	var p payload.RepoPushPayload
	if err := decode(d.body, &p); err != nil {
		return nil, err
	}
	authors, err := bitbucketAuthors(d.body)
	if err != nil {
		return nil, err
	}
	var changes []change
	for _, one := range p.Push.Changes {
		// new is null for a ref that was deleted, old for one that was created.
		kind, name := cmp.Or(one.New.Type, one.Old.Type), cmp.Or(one.New.Name, one.Old.Name)
		c := change{
			before: one.Old.Target.Hash, after: one.New.Target.Hash, deleted: one.New.Type == "", forced: one.Forced,
			head: one.New.Target.Message,
		}
		switch kind {
		case "branch":
			c.ref = "refs/heads/" + name
		case "tag", "annotated_tag":
			c.ref = "refs/tags/" + name
		default: // bookmarks and named branches were Mercurial's
			c.ref = kind + "/" + name
		}
		for _, m := range one.Commits {
			c.commits = append(c.commits, commit{Commit: ops.Commit{ID: m.Hash, Message: m.Message, URL: m.Links.HTML.Href,
				Author: cmp.Or(authors[m.Hash], m.Author.DisplayName, m.Author.NickName)}})
		}
		if c.total = len(c.commits); one.Truncated {
			c.total++ // or more
		}
		changes = append(changes, c)
	}
	r := p.Repository
	push := ops.Push{
		Provider: "bitbucket", Name: r.FullName,
		Pusher: cmp.Or(p.Actor.NickName, p.Actor.DisplayName),
	}
	if r.FullName != "" {
		push.RepoURLs = distinct("https://bitbucket.org/"+r.FullName+".git", "git@bitbucket.org:"+r.FullName+".git", r.Links.HTML.Href)
	}
	if len(p.Push.Changes) == 1 {
		push.Compare = p.Push.Changes[0].Links.HTML.Href
	}
	return pushes(push, changes...)
}

// bitbucketAuthors returns the authors of the commits as Git has them, by hash.
// The payload type only has those whom Bitbucket knows.
func bitbucketAuthors(body []byte) (map[string]string, error) {
	var p struct {
		Push struct {
			Changes []struct {
				Commits []struct {
					Hash   string `json:"hash"`
					Author struct {
						Raw string `json:"raw"` // name <mail>
					} `json:"author"`
				} `json:"commits"`
			} `json:"changes"`
		} `json:"push"`
	}
	if err := decode(body, &p); err != nil {
		return nil, err
	}
	authors := map[string]string{}
	for _, c := range p.Push.Changes {
		for _, m := range c.Commits {
			authors[m.Hash], _, _ = strings.Cut(m.Author.Raw, " <")
		}
	}
	return authors, nil
}

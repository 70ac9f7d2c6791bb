package webhooks

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	payload "github.com/go-playground/webhooks/v6/github"

	"waggle/internal/secret"
	"waggle/ops"
)

// github is github.com and GitHub Enterprise Server.
// Source: https://docs.github.com/webhooks/webhook-events-and-payloads#push
type github struct{}

// githubCommits is the most commits that GitHub lists.
const githubCommits = 2048

func (github) mediaTypes() []string { return []string{jsonType, formType} }

func (github) about(h http.Header) (id, event string) {
	return h.Get("X-GitHub-Delivery"), h.Get("X-GitHub-Event")
}

// verify takes X-Hub-Signature-256 only: X-Hub-Signature is SHA-1.
func (github) verify(d delivery, secrets []secret.Text) error {
	signature, ok := strings.CutPrefix(d.header.Get("X-Hub-Signature-256"), "sha256=")
	if !ok {
		return errSignature
	}
	return signedHex(signature, d.body, secrets)
}

func (github) pushes(d delivery) ([]ops.Push, error) {
	switch event := d.header.Get("X-GitHub-Event"); event {
	case "push":
	case "ping":
		return nil, ignored("the webhook is set up, pushes will deploy")
	case "":
		return nil, errors.New("the header X-GitHub-Event is missing")
	default:
		return nil, ignored(fmt.Sprintf("%q is not a push", clip(event)))
	}
	body, err := d.payload()
	if err != nil {
		return nil, err
	}
	// go-playground's type, but not its Webhook.Parse: that wants a request,
	// whose body it reads again without a limit and does not take as a form, and
	// it has its own idea of the signature, which here is checked already.
	var p payload.PushPayload
	if err := decode(body, &p); err != nil {
		return nil, err
	}
	c := change{ref: p.Ref, before: p.Before, after: p.After, deleted: p.Deleted, forced: p.Forced}
	// head_commit is null when a branch is deleted.
	if p.HeadCommit.ID == p.After {
		c.head = p.HeadCommit.Message
	}
	if len(p.Commits) >= githubCommits {
		c.total = len(p.Commits) + 1 // or more
	}
	for _, one := range p.Commits {
		c.commits = append(c.commits, commit{
			Commit: ops.Commit{ID: cmp.Or(one.ID, one.Sha), Message: one.Message, URL: one.URL, Author: cmp.Or(one.Author.Name, one.Author.Username)},
			files:  slices.Concat(one.Added, one.Removed, one.Modified),
		})
	}
	r := p.Repository
	return pushes(ops.Push{
		Provider: "github",
		RepoURLs: distinct(r.CloneURL, r.SSHURL, r.GitURL, r.HTMLURL), Name: r.FullName,
		Default:  cmp.Or(r.DefaultBranch, r.MasterBranch),
		PushedAt: githubPushedAt(r.PushedAt, body),
		Pusher:   cmp.Or(p.Pusher.Name, p.Sender.Login),
		Compare:  p.Compare,
	}, c)
}

// githubPushedAt returns repository.pushed_at, a Unix time in push events, which
// the payload type knows, and a text in all others; zero if it is neither.
func githubPushedAt(seconds int64, body []byte) time.Time {
	if seconds > 0 {
		return time.Unix(seconds, 0).UTC()
	}
	var p struct {
		Repository struct {
			PushedAt json.RawMessage `json:"pushed_at"`
		} `json:"repository"`
	}
	if json.Unmarshal(body, &p) != nil {
		return time.Time{}
	}
	var at time.Time
	if raw := p.Repository.PushedAt; len(raw) == 0 || json.Unmarshal(raw, &at) != nil {
		return time.Time{}
	}
	return at.UTC()
}

package webhooks

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	payload "github.com/go-playground/webhooks/v6/bitbucket-server"

	"waggle/internal/secret"
	"waggle/ops"
)

// bitbucketServer is Bitbucket Data Center. It tells no default branch and no
// paths.
// Source: https://confluence.atlassian.com/bitbucketserver/event-payload-938025882.html
type bitbucketServer struct{}

func (bitbucketServer) mediaTypes() []string { return []string{jsonType} }

func (bitbucketServer) about(h http.Header) (id, event string) {
	return h.Get("X-Request-Id"), h.Get("X-Event-Key")
}

// verify lets its connection test pass, which is not signed even when the
// webhook has a secret.
func (bitbucketServer) verify(d delivery, secrets []secret.Text) error {
	sent := d.header.Get("X-Hub-Signature")
	if sent == "" && d.header.Get("X-Event-Key") == "diagnostics:ping" {
		return ignored("the test has come; Bitbucket does not sign it, so the secret is checked with the first push")
	}
	signature, ok := strings.CutPrefix(sent, "sha256=")
	if !ok {
		return errSignature
	}
	return signedHex(signature, d.body, secrets)
}

// bitbucketCommit is a commit in a payload of version 8 or newer.
type bitbucketCommit struct {
	ID      string `json:"id"`
	Message string `json:"message"`
	Author  struct {
		Name string `json:"name"`
	} `json:"author"`
}

func (bitbucketServer) pushes(d delivery) ([]ops.Push, error) {
	switch event := d.header.Get("X-Event-Key"); event {
	case "repo:refs_changed":
	case "diagnostics:ping":
		return nil, ignored("the webhook is set up, pushes will deploy")
	case "":
		return nil, errors.New("the header X-Event-Key is missing")
	default:
		return nil, ignored(fmt.Sprintf("%q is not a push", clip(event)))
	}
	var p struct {
		payload.RepositoryReferenceChangedPayload
		// The newest commits of the push, five unless configured otherwise.
		Commits  []bitbucketCommit `json:"commits"`
		ToCommit *bitbucketCommit  `json:"toCommit"`
	}
	if err := decode(d.body, &p); err != nil {
		return nil, err
	}
	var changes []change
	for _, one := range p.Changes {
		c := change{ref: cmp.Or(one.Reference.ID, one.ReferenceID), before: one.FromHash, after: one.ToHash, deleted: one.Type == "DELETE"}
		if p.ToCommit != nil && p.ToCommit.ID == one.ToHash {
			c.head = p.ToCommit.Message
		}
		for _, m := range p.Commits {
			if len(p.Changes) == 1 { // else nobody says to which branch they belong
				c.commits = append(c.commits, commit{Commit: ops.Commit{ID: m.ID, Message: m.Message, Author: m.Author.Name}})
			}
		}
		changes = append(changes, c)
	}
	r := p.Repository
	urls := hrefs(r.Links["clone"])
	// Without the links for cloning, which versions before 7 leave out, the
	// address of the repository's page has all that their HTTP form needs.
	for _, self := range hrefs(r.Links["self"]) {
		if base, _, ok := strings.Cut(self, "/projects/"+r.Project.Key+"/"); ok {
			urls = append(urls, fmt.Sprintf("%s/scm/%s/%s.git", base, strings.ToLower(r.Project.Key), r.Slug))
		}
	}
	if len(urls) == 0 {
		return nil, ignored("Bitbucket does not say the repository's URL, so no app can be found by it")
	}
	return pushes(ops.Push{
		Provider: "bitbucket-server",
		RepoURLs: distinct(urls...),
		Name:     strings.Trim(r.Project.Key+"/"+r.Slug, "/"),
		PushedAt: time.Time(p.Date).UTC(),
		Pusher:   cmp.Or(p.Actor.Name, p.Actor.DisplayName),
	}, changes...)
}

// hrefs returns the addresses in a list of links.
func hrefs(links any) []string {
	var out []string
	list, _ := links.([]any)
	for _, l := range list {
		if m, ok := l.(map[string]any); ok {
			if href, ok := m["href"].(string); ok {
				out = append(out, href)
			}
		}
	}
	return out
}

package webhooks

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	payload "github.com/go-playground/webhooks/v6/azuredevops"

	"waggle/internal/secret"
	"waggle/ops"
)

// azure is Azure DevOps: Services and Server. It tells no paths, and not whether
// a push was forced.
// Source: https://learn.microsoft.com/azure/devops/service-hooks/events#git.push
type azure struct{}

func (azure) mediaTypes() []string { return []string{jsonType} }

// about has no event: that is in the body alone.
func (azure) about(h http.Header) (id, event string) { return h.Get("X-Vss-ActivityId"), "" }

// verify takes basic authentication, which is all that a service hook offers:
// the secret is the password, or "user:password".
func (azure) verify(d delivery, secrets []secret.Text) error {
	r := http.Request{Header: d.header}
	user, password, ok := r.BasicAuth()
	if byPassword, byBoth := equals(password, secrets), equals(user+":"+password, secrets); !ok || !byPassword && !byBoth {
		return errors.New("bad or missing basic authentication")
	}
	return nil
}

func (azure) pushes(d delivery) ([]ops.Push, error) {
	var p struct {
		payload.GitPushEvent
		Resource struct {
			payload.Resource
			Commits []struct {
				payload.Commit
				Comment string `json:"comment"`
				Author  struct {
					Name string `json:"name"`
				} `json:"author"`
			} `json:"commits"`
		} `json:"resource"`
	}
	if err := decode(d.body, &p); err != nil {
		return nil, err
	}
	switch p.EventType {
	case "git.push":
	case "":
		return nil, errors.New("the payload has no eventType")
	default:
		return nil, ignored(fmt.Sprintf("%q is not a push", clip(p.EventType)))
	}
	r := p.Resource.Repository
	urls := azureURLs(r.RemoteURL)
	var changes []change
	for _, one := range p.Resource.RefUpdates {
		c := change{ref: one.Name, before: one.OldObjectID, after: one.NewObjectID}
		for _, m := range p.Resource.Commits {
			// With several branches nobody says to which the others belong.
			if len(p.Resource.RefUpdates) == 1 || m.CommitID == one.NewObjectID {
				page := ""
				if len(urls) > 0 {
					page = urls[0] + "/commit/" + m.CommitID
				}
				c.commits = append(c.commits, commit{Commit: ops.Commit{ID: m.CommitID, Message: m.Comment, Author: m.Author.Name, URL: page}})
			}
		}
		changes = append(changes, c)
	}
	at, err := time.Parse(time.RFC3339Nano, p.Resource.Date)
	if err != nil {
		at = time.Time{}
	}
	return pushes(ops.Push{
		Provider: "azure",
		RepoURLs: urls,
		Name:     strings.Trim(r.Project.Name+"/"+r.Name, "/"),
		Default:  strings.TrimPrefix(r.DefaultBranch, "refs/heads/"),
		PushedAt: at.UTC(),
		Pusher:   cmp.Or(p.Resource.PushedBy.DisplayName, p.Resource.PushedBy.UniqueName),
	}, changes...)
}

// azureURLs returns the address of a repository without a user's name, and the
// others that it has: Azure DevOps Services has an old and a new host, and for
// SSH addresses of another form.
func azureURLs(remote string) []string {
	u, err := url.Parse(remote)
	if err != nil || u.Host == "" {
		return distinct(remote)
	}
	u.User = nil
	self := []string{strings.TrimSuffix(u.String(), "/")}
	parts := strings.Split(strings.Trim(u.EscapedPath(), "/"), "/")
	org, old := strings.CutSuffix(u.Hostname(), ".visualstudio.com")
	switch {
	case old:
	case u.Hostname() == "dev.azure.com" && len(parts) > 1:
		org, parts = parts[0], parts[1:]
	default:
		return self
	}
	if strings.EqualFold(parts[0], "DefaultCollection") {
		parts = parts[1:]
	}
	// project/_git/repository, or _git/repository when both have one name.
	if len(parts) == 2 && parts[0] == "_git" {
		parts = []string{parts[1], "_git", parts[1]}
	}
	if len(parts) != 3 || parts[1] != "_git" {
		return self
	}
	project, repo := parts[0], parts[2]
	urls := self
	for _, base := range []string{"https://dev.azure.com/" + org, "https://" + org + ".visualstudio.com", "https://" + org + ".visualstudio.com/DefaultCollection"} {
		urls = append(urls, base+"/"+project+"/_git/"+repo)
		if project == repo {
			urls = append(urls, base+"/_git/"+repo)
		}
	}
	ssh := "/v3/" + org + "/" + project + "/" + repo
	return distinct(append(urls, "ssh://git@ssh.dev.azure.com"+ssh, "ssh://"+org+"@vs-ssh.visualstudio.com"+ssh)...)
}

// Package commitstatus tells GitHub, GitLab and Gitea how the deploy of a commit
// goes, by their APIs, with the token by which the repository is cloned.
package commitstatus

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"waggle/internal/secret"
	"waggle/ops"
)

const timeout = 5 * time.Second

// Client speaks to the forges whose token it has.
type Client struct {
	tokens map[string]secret.Text // by host, with its port unless that is the usual one
	http   *http.Client
	github string // the API of github.com
}

// New returns a client with the tokens of hosts.
func New(tokens map[string]secret.Text) *Client {
	return &Client{tokens: tokens, github: "https://api.github.com", http: &http.Client{
		Timeout: timeout,
		// A token goes where it is meant to go, and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Report implements ops.CommitStatuses. It does nothing for other forges, and
// without a token.
func (c *Client) Report(ctx context.Context, s ops.CommitStatus) error {
	base, path, token, ok := c.place(s.Repo)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	text := s.Text
	if r := []rune(text); len(r) > 140 { // GitHub's limit
		text = string(r[:139]) + "…"
	}
	name := "waggle/" + s.App
	switch s.Provider {
	case "github":
		// Source: https://docs.github.com/en/rest/commits/statuses#create-a-commit-status
		if base = strings.TrimSuffix(base, "/"); base == "https://github.com" {
			base = c.github
		} else {
			base += "/api/v3"
		}
		return c.post(ctx, base+"/repos/"+path+"/statuses/"+s.Commit, "Authorization", "Bearer "+token.Reveal(),
			map[string]string{"state": s.State, "context": name, "description": text})
	case "gitea":
		// Source: https://docs.gitea.com/api, repoCreateStatus
		return c.post(ctx, base+"/api/v1/repos/"+path+"/statuses/"+s.Commit, "Authorization", "token "+token.Reveal(),
			map[string]string{"state": s.State, "context": name, "description": text})
	case "gitlab":
		// Source: https://docs.gitlab.com/api/commits/#set-commit-pipeline-status
		state := map[string]string{ops.StatusPending: "running", ops.StatusSuccess: "success", ops.StatusFailure: "failed"}[s.State]
		return c.post(ctx, base+"/api/v4/projects/"+url.PathEscape(path)+"/statuses/"+s.Commit, "PRIVATE-TOKEN", token.Reveal(),
			map[string]string{"state": state, "name": name, "description": text})
	}
	return nil
}

// place is where a repository is: the forge, the repository's path there, and the
// token for it. A token goes over plain HTTP only where the clone does.
func (c *Client) place(repo string) (base, path string, token secret.Text, ok bool) {
	scheme, host := "https", ""
	if u, err := url.Parse(repo); err == nil && u.Host != "" {
		if host, path = u.Host, u.Path; u.Scheme == "http" {
			scheme = "http"
		} else if u.Scheme == "ssh" {
			host = u.Hostname() // the port is that of SSH
		}
	} else if before, after, found := strings.Cut(repo, ":"); found {
		_, host, found = strings.Cut(before, "@")
		if !found {
			host = before
		}
		path = after
	}
	path = strings.TrimSuffix(strings.Trim(path, "/"), ".git")
	token, ok = c.tokens[strings.ToLower(host)]
	return scheme + "://" + host, path, token, ok && path != ""
}

func (c *Client) post(ctx context.Context, address, header, value string, body map[string]string) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "waggle")
	req.Header.Set(header, value)
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is used again
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s answered %s", req.URL.Host, resp.Status)
	}
	return nil
}

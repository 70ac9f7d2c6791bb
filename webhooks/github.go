package webhooks

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	payload "github.com/go-playground/webhooks/v6/github"

	"waggle/internal/secret"
	"waggle/ops"
)

const formType = "application/x-www-form-urlencoded"

// github is github.com and GitHub Enterprise Server.
type github struct{}

func (github) mediaTypes() []string { return []string{"application/json", formType} }

func (github) delivery(h http.Header) (id, event string) {
	return h.Get("X-GitHub-Delivery"), h.Get("X-GitHub-Event")
}

// verify takes X-Hub-Signature-256 only: X-Hub-Signature is SHA-1.
func (github) verify(h http.Header, body []byte, secrets []secret.Text) bool {
	signature, ok := strings.CutPrefix(h.Get("X-Hub-Signature-256"), "sha256=")
	return ok && signedBy(signature, body, secrets)
}

func (github) pushes(h http.Header, mediaType string, body []byte) ([]ops.Push, error) {
	switch event := h.Get("X-GitHub-Event"); event {
	case "push":
	case "ping":
		return nil, ignored("the webhook is set up, pushes will deploy")
	case "":
		return nil, errors.New("the header X-GitHub-Event is missing")
	default:
		return nil, ignored(fmt.Sprintf("%q is not a push", clip(event)))
	}
	if mediaType == formType {
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, errors.New("the form cannot be read")
		}
		if len(form["payload"]) != 1 {
			return nil, errors.New("the form has no payload field, or several")
		}
		body = []byte(form.Get("payload"))
	}

	// go-playground's type, but not its Webhook.Parse: that wants a request,
	// whose body it reads again without a limit and does not take as a form, and
	// it has its own idea of the signature, which here is checked already. What
	// is left of Parse is this one call.
	var p payload.PushPayload
	if err := json.Unmarshal(body, &p); err != nil && !wrongTime(err) {
		return nil, errors.New("the payload is not the JSON of a push")
	}

	branch, err := branchOf(p.Ref)
	if err != nil {
		return nil, err
	}
	p.Before, p.After = strings.ToLower(p.Before), strings.ToLower(p.After)
	switch {
	case p.Deleted || isZero(p.After):
		return nil, ignored(fmt.Sprintf("the branch %q was deleted", clip(branch)))
	case !commitHash.MatchString(p.After):
		return nil, errors.New("after is not a commit hash")
	case p.Before != "" && !commitHash.MatchString(p.Before):
		return nil, errors.New("before is not a commit hash")
	}
	r := p.Repository
	urls := distinct(r.CloneURL, r.SSHURL, r.GitURL, r.HTMLURL)
	if len(urls) == 0 {
		return nil, errors.New("the repository has no URL")
	}
	push := ops.Push{
		Provider: "github",
		Repo:     urls[0], RepoURLs: urls, Name: cmp.Or(r.FullName, urls[0]),
		Branch: branch, Default: cmp.Or(r.DefaultBranch, r.MasterBranch),
		Before: p.Before, After: p.After,
		PushedAt: pushedAt(body),
		Pusher:   cmp.Or(p.Pusher.Name, p.Sender.Login),
		Compare:  p.Compare,
	}
	for _, c := range p.Commits {
		push.Commits = append(push.Commits, ops.Commit{
			ID: cmp.Or(c.ID, c.Sha), Message: c.Message, URL: c.URL, Author: cmp.Or(c.Author.Name, c.Author.Username),
		})
	}
	// head_commit is null when a branch moves to a commit the forge knows.
	message := p.HeadCommit.Message
	if n := len(push.Commits); message == "" && n > 0 {
		message = push.Commits[n-1].Message
	}
	if mark := skipMark(message); mark != "" {
		return nil, ignored("the last commit says " + mark)
	}
	return []ops.Push{push}, nil
}

// wrongTime says whether a decoding error is about one of the repository's
// times, which are numbers in a push event and texts in all others. The decoder
// goes on after such an error and leaves the field out.
func wrongTime(err error) bool {
	var wrong *json.UnmarshalTypeError
	return errors.As(err, &wrong) && strings.HasPrefix(wrong.Field, "repository.") && strings.HasSuffix(wrong.Field, "_at")
}

// pushedAt returns repository.pushed_at, a Unix time or a text; zero if it is
// neither.
func pushedAt(body []byte) time.Time {
	var p struct {
		Repository struct {
			PushedAt json.RawMessage `json:"pushed_at"`
		} `json:"repository"`
	}
	if json.Unmarshal(body, &p) != nil {
		return time.Time{}
	}
	var seconds int64
	var at time.Time
	switch raw := p.Repository.PushedAt; {
	case len(raw) == 0 || string(raw) == "null":
		return time.Time{}
	case json.Unmarshal(raw, &seconds) == nil:
		if seconds <= 0 {
			return time.Time{}
		}
		return time.Unix(seconds, 0).UTC()
	case json.Unmarshal(raw, &at) == nil:
		return at.UTC()
	}
	return time.Time{}
}

package webhooks

import (
	"cmp"
	"crypto/hmac"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	payload "github.com/go-playground/webhooks/v6/gitlab"

	"waggle/internal/secret"
	"waggle/ops"
)

// gitlab is gitlab.com and GitLab Self-Managed: hooks of projects and groups,
// and system hooks.
// Source: https://docs.gitlab.com/user/project/integrations/webhook_events/#push-events
type gitlab struct{}

// gitlabSkew is how far a signature's time may be from ours, as the Standard
// Webhooks specification has it.
const gitlabSkew = 5 * time.Minute

// signingToken begins a GitLab signing token; what follows is the key in base64.
const signingToken = "whsec_"

func (gitlab) mediaTypes() []string { return []string{jsonType} }

func (gitlab) about(h http.Header) (id, event string) {
	return cmp.Or(h.Get("X-Gitlab-Event-UUID"), h.Get("Webhook-Id"), h.Get("Idempotency-Key")), h.Get("X-Gitlab-Event")
}

// verify takes a signature by a signing token (whsec_…), or, when there is no
// signature or none of the secrets is a signing token, a secret token. Who signs
// must sign right: a good secret token does not make up for it.
// Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
func (gitlab) verify(d delivery, secrets []secret.Text) error {
	var keys [][]byte
	for _, s := range secrets {
		if text, ok := strings.CutPrefix(s.Reveal(), signingToken); ok {
			if key, err := base64.StdEncoding.DecodeString(text); err == nil && len(key) > 0 {
				keys = append(keys, key)
			}
		}
	}
	if signatures := d.header.Get("Webhook-Signature"); signatures != "" && len(keys) > 0 {
		return signedStandard(d, signatures, keys)
	}
	if !equals(d.header.Get("X-Gitlab-Token"), secrets) {
		return errors.New("bad or missing signature or token")
	}
	return nil
}

// signedStandard checks a signature as Standard Webhooks has it: over the id,
// the time and the body. The header may hold several, "v1,<base64>" each.
func signedStandard(d delivery, signatures string, keys [][]byte) error {
	id, stamp := d.header.Get("Webhook-Id"), d.header.Get("Webhook-Timestamp")
	good := false
	for _, key := range keys {
		want := hmacOf(key, []byte(id+"."+stamp+"."), d.body)
		for one := range strings.FieldsSeq(signatures) {
			got, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(one, "v1,"))
			if strings.HasPrefix(one, "v1,") && err == nil && hmac.Equal(got, want) {
				good = true
			}
		}
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if !good || id == "" || err != nil {
		return errSignature
	}
	if off := d.at.Sub(time.Unix(seconds, 0)); off.Abs() > gitlabSkew {
		return fmt.Errorf("the signature is good, but was made %s from now: it is a replay, or one of the clocks is off", off.Abs().Truncate(time.Second))
	}
	return nil
}

func (gitlab) pushes(d delivery) ([]ops.Push, error) {
	event := d.header.Get("X-Gitlab-Event")
	var p struct {
		payload.PushEventPayload
		EventName string `json:"event_name"` // of a system hook
	}
	switch event {
	case "Push Hook":
	case "System Hook":
	case "Tag Push Hook":
		return nil, ignored("this is a tag, only pushes to a branch deploy")
	case "":
		return nil, errors.New("the header X-Gitlab-Event is missing")
	default:
		return nil, ignored(fmt.Sprintf("%q is not a push", clip(event)))
	}
	if err := decode(d.body, &p); err != nil {
		return nil, err
	}
	if kind := cmp.Or(p.ObjectKind, p.EventName); event == "System Hook" && kind != "push" {
		return nil, ignored(fmt.Sprintf("%q is not a push to a branch", clip(kind)))
	}
	c := change{ref: p.Ref, before: p.Before, after: p.After, total: int(min(p.TotalCommitsCount, 1<<30))}
	for _, one := range p.Commits {
		c.commits = append(c.commits, commit{
			Commit: ops.Commit{ID: one.ID, Message: cmp.Or(one.Message, one.Title), URL: one.URL, Author: one.Author.Name},
			files:  slices.Concat(one.Added, one.Removed, one.Modified),
		})
	}
	r := p.Project
	push := ops.Push{
		Provider: "gitlab",
		RepoURLs: distinct(r.GitHTTPURL, r.GitSSHURL, r.HTTPURL, r.SSHURL, r.WebURL, p.Repository.GitSSHURL, p.Repository.URL),
		Name:     r.PathWithNamespace,
		Default:  r.DefaultBranch,
		Pusher:   cmp.Or(p.UserUsername, p.UserName),
	}
	if r.WebURL != "" && !isZero(p.Before) {
		push.Compare = fmt.Sprintf("%s/-/compare/%s...%s", r.WebURL, p.Before, p.After)
	}
	return pushes(push, c)
}

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	orasregistry "oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"waggle/ops"
)

// Try finds out whether a registry is one, takes the login, and, if so asked,
// images below the prefix. To find out the last it begins an upload and takes it
// back.
func (c *Client) Try(ctx context.Context, login ops.RegistryLogin, push bool) ops.Trial {
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	var t ops.Trial
	s, err := c.open(ctx, login)
	if err != nil {
		t.Err = err
		return t
	}
	open, err := s.isRegistry(ctx)
	if err != nil {
		t.Err = err
		return t
	}
	t.Reachable = true
	switch named := login.Auth.Username != ""; {
	case open && named:
		t.Warnings = append(t.Warnings, fmt.Sprintf("The registry %s lets everybody in: the user and the password were not checked.", login.Domain))
	case open:
	case !named && push:
		t.Err = s.wantsLogin(&ops.Error{})
		return t
	default:
		if t.Err = s.logIn(ctx); t.Err != nil {
			return t
		}
	}
	t.LoggedIn = true
	if push {
		var warning string
		if warning, t.Err = s.beginPush(ctx); t.Err == nil {
			t.MayPush = true
		}
		if warning != "" {
			t.Warnings = append(t.Warnings, warning)
		}
	}
	return t
}

// isRegistry asks without the login whether there is a registry at all, and
// whether it lets everybody in.
func (s *session) isRegistry(ctx context.Context) (open bool, err error) {
	resp, err := s.get(ctx, s.url("/v2/"))
	if err != nil {
		return false, s.failed(err, "answer")
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	challenge := strings.ToLower(resp.Header.Get("Www-Authenticate"))
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	versioned := resp.Header.Get("Docker-Distribution-Api-Version") != ""
	switch {
	case resp.StatusCode == http.StatusOK && (versioned || kind == "application/json" || resp.ContentLength == 0):
		return true, nil
	case resp.StatusCode == http.StatusUnauthorized && (strings.HasPrefix(challenge, "basic") || strings.HasPrefix(challenge, "bearer")):
		return false, nil
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return false, s.failed(answered(resp), "answer")
	}
	return false, s.notARegistry(resp.Status, kind)
}

func (s *session) notARegistry(status, kind string) error {
	if kind != "" {
		status += ", " + kind
	}
	return ops.Errorf(ops.Failed, "%s answers, but not as a registry does (%s at /v2/)", s.login.Domain, status).
		Then("Look whether the domain and the port are a registry's, not a web site's.")
}

// logIn tries the login. Without one it is enough if everybody is given a token:
// what is public can be had with that.
func (s *session) logIn(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url("/v2/"), nil)
	if err != nil {
		return s.failed(err, "answer")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return s.loginFailed(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	switch kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); {
	case resp.StatusCode == http.StatusOK && kind != "text/html":
		return nil
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		if s.login.Auth.Username == "" {
			return nil // it has given a token, which is good for something else
		}
		return s.loginFailed(answered(resp))
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return s.failed(answered(resp), "answer")
	default:
		return s.notARegistry(resp.Status, kind)
	}
}

func (s *session) loginFailed(err error) error {
	answer := new(errcode.ErrorResponse)
	if s.login.Auth.Username == "" || !errors.As(err, &answer) || answer.StatusCode != http.StatusUnauthorized && answer.StatusCode != http.StatusForbidden {
		return s.failed(err, "log in")
	}
	return (&ops.Error{
		Code: ops.Failed, Err: errors.New(s.scrub(err.Error())),
		Sentence: fmt.Sprintf("The registry %s does not take the user %s with this password", s.login.Domain, s.login.Auth.Username),
	}).Then("Check both. Many registries want an access token in place of the password.")
}

// answered is an answer as an error.
func answered(r *http.Response) *errcode.ErrorResponse {
	return &errcode.ErrorResponse{Method: r.Request.Method, URL: r.Request.URL, StatusCode: r.StatusCode}
}

// beginPush begins an upload below the prefix and takes it back.
func (s *session) beginPush(ctx context.Context) (warning string, err error) {
	at := orasregistry.Reference{Registry: s.login.Domain, Repository: s.checked()}
	// "pull" too: some registries give no token for "push" alone.
	ctx = auth.AppendRepositoryScope(ctx, at, auth.ActionPull, auth.ActionPush)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url("/v2/"+at.Repository+"/blobs/uploads/"), nil)
	if err != nil {
		return "", s.failed(err, "take uploads")
	}
	resp, err := s.client.Do(req)
	answer := new(errcode.ErrorResponse)
	switch {
	case errors.As(err, &answer):
	case err != nil:
		return "", s.failed(err, "take uploads")
	default:
		answer = answered(resp)
		defer resp.Body.Close()
	}
	where := s.login.Domain
	if s.login.Prefix != "" {
		where += "/" + s.login.Prefix
	}
	switch answer.StatusCode {
	case http.StatusAccepted, http.StatusCreated:
		return s.takeBack(ctx, resp)
	case http.StatusUnauthorized, http.StatusForbidden:
		e := &ops.Error{Code: ops.Failed, Sentence: fmt.Sprintf("%s may log in, but may not push to %s", who(s.login.Auth), where), Err: errors.New(s.scrub(answer.Error()))}
		return "", e.Then("Give the user that right there, take another prefix, or allow no pushing.")
	case http.StatusNotFound:
		return fmt.Sprintf("The registry %s has no %s and makes none for a push. Where that is so for an app too, its repository has to be made there first.", s.login.Domain, at.Repository), nil
	}
	return "", s.failed(answer, "take uploads below "+where)
}

// takeBack cancels an upload, so that the registry does not keep its beginning, and
// says what a push comes to that goes on without TLS: an engine goes there, but leaves
// the login out.
func (s *session) takeBack(ctx context.Context, begun *http.Response) (warning string, err error) {
	to, err := begun.Location()
	if err != nil {
		return "", nil // it will go by itself
	}
	own, err := url.Parse(s.url("/"))
	if err != nil {
		return "", s.failed(err, "take uploads")
	}
	switch {
	case own.Scheme == "https" && to.Scheme == "http" && to.Hostname() == own.Hostname():
		e := ops.Errorf(ops.Failed, "The registry %s speaks TLS, but has a push go on without it, at http://%s", s.login.Domain, to.Host).
			Then("Have the proxy before it set `X-Forwarded-Proto: https`, or set http.relativeurls of the registry to true.")
		if s.login.Auth.Username != "" {
			return "", e // the registry will want the login there
		}
		return e.Sentence + ": images go there in clear, if at all. " + e.Next, nil
	case to.Scheme != own.Scheme || to.Host != own.Host:
		return "", nil // the login does not go elsewhere
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, to.String(), nil)
	if err != nil {
		return "", nil
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.log.Debug("an upload was not cancelled", "registry", s.login.Domain, "err", s.scrub(err.Error()))
		return "", nil
	}
	resp.Body.Close()
	return "", nil
}

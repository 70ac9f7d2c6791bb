package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"waggle/ops"
)

// failed turns what went wrong with a registry into what a person can act on.
// what says what was tried, as in "does not let mia …".
func (s *session) failed(err error, what string) error {
	if err == nil {
		return nil
	}
	if e := new(ops.Error); errors.As(err, &e) {
		return err
	}
	domain := s.login.Domain
	e := &ops.Error{Code: ops.Unavailable, Err: errors.New(s.scrub(err.Error()))}
	var (
		answer    = new(errcode.ErrorResponse)
		untrusted = new(tls.CertificateVerificationError)
		record    tls.RecordHeaderError
		unknown   x509.UnknownAuthorityError
		dns       = new(net.DNSError)
		op        = new(net.OpError)
		network   net.Error
	)
	switch {
	case errors.Is(err, context.Canceled):
		return &ops.Error{Code: ops.Canceled, Sentence: "Called off: the registry " + domain + " was to " + what, Err: e.Err}
	case errors.As(err, &answer):
		return s.refused(answer, what, e)
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return s.wantsLogin(e)
	case errors.Is(err, errdef.ErrNotFound):
		e.Code, e.Sentence = ops.NotFound, fmt.Sprintf("The registry %s has no such image", domain)
		return e
	case errors.As(err, &untrusted), errors.As(err, &unknown):
		e.Code = ops.Failed
		e.Sentence = fmt.Sprintf("The certificate of the registry %s is not trusted: %s", domain, s.words(err))
		return e.Then("Give it a certificate from an authority that this machine and every engine trust; or have every engine trust it (/etc/docker/certs.d/%s/ca.crt) and Waggle too (SSL_CERT_FILE).", domain)
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		e.Code = ops.Failed
		e.Sentence = fmt.Sprintf("The registry %s speaks HTTP without TLS, and the engines take that from no registry that they do not list", domain)
		return e.Then("Give it a certificate; or list http://%s in the insecure-registries of every engine (/etc/docker/daemon.json).", domain)
	case errors.As(err, &dns) && dns.IsNotFound:
		e.Sentence = fmt.Sprintf("The registry %s cannot be reached: there is no host of that name", domain)
		return e.Then("Look whether it is spelled right.")
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		e.Sentence = fmt.Sprintf("The registry %s did not answer in time", domain)
	case errors.As(err, &op):
		e.Sentence = fmt.Sprintf("The registry %s cannot be reached: %s", domain, s.words(op.Err))
	default:
		e.Sentence = fmt.Sprintf("The registry %s failed: %s", domain, s.words(err))
	}
	return e.Then("See whether it runs, and whether this manager reaches it.")
}

// refused is failed for an answer of the registry or of its token service.
func (s *session) refused(r *errcode.ErrorResponse, what string, e *ops.Error) error {
	domain := s.login.Domain
	words := s.words(r.Errors)
	if len(r.Errors) == 0 {
		words = fmt.Sprintf("%d %s", r.StatusCode, http.StatusText(r.StatusCode))
	}
	switch {
	case r.StatusCode == http.StatusUnauthorized && s.login.Auth == (ops.RegistryAuth{}):
		return s.wantsLogin(e)
	case r.StatusCode == http.StatusUnauthorized, r.StatusCode == http.StatusForbidden:
		e.Code = ops.Failed
		e.Sentence = fmt.Sprintf("The registry %s does not let %s %s: %s", domain, who(s.login.Auth), what, words)
		return e.Then("Check its user and password, and what they may do there.")
	case r.StatusCode == http.StatusNotFound:
		e.Code, e.Sentence = ops.NotFound, fmt.Sprintf("The registry %s has no such image: %s", domain, words)
		return e
	case r.StatusCode == http.StatusTooManyRequests:
		e.Sentence = fmt.Sprintf("The registry %s has had too many requests: %s", domain, words)
		return e.Then("Wait a while, or use a login that may do more.")
	case r.StatusCode >= 500:
		e.Sentence = fmt.Sprintf("The registry %s failed: %s", domain, words)
		return e.Then("See what its own log says.")
	}
	e.Code, e.Sentence = ops.Failed, fmt.Sprintf("The registry %s does not %s: %s", domain, what, words)
	return e
}

func (s *session) wantsLogin(e *ops.Error) error {
	e.Code = ops.Failed
	e.Sentence = fmt.Sprintf("The registry %s wants a user and a password", s.login.Domain)
	return e.Then("Give them, or a token in place of the password.")
}

func who(a ops.RegistryAuth) string {
	if a.Username == "" {
		return "everybody"
	}
	return a.Username
}

// words are somebody else's, on one line and not too many.
func (s *session) words(err error) string {
	text := strings.Join(strings.Fields(s.scrub(err.Error())), " ")
	if r := []rune(text); len(r) > 200 {
		text = string(r[:200]) + "…"
	}
	return text
}

// scrub removes the password, should a registry ever repeat it.
func (s *session) scrub(text string) string {
	if p := s.login.Auth.Password; !p.Empty() {
		text = strings.ReplaceAll(text, p.Reveal(), p.String())
	}
	return text
}

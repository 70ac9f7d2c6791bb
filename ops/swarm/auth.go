package swarm

import (
	"context"
	"strings"

	"github.com/moby/buildkit/session/auth"
	"google.golang.org/grpc"

	"waggle/ops"
)

// baseAuth answers the engine's question for the credentials of a private base
// image, from the request's own and for nothing but the registry asked for.
type baseAuth struct {
	auth.UnimplementedAuthServer
	auths map[string]ops.RegistryAuth // by registry domain
}

// Register offers the answers in a build session.
func (a baseAuth) Register(s *grpc.Server) { auth.RegisterAuthServer(s, a) }

// Credentials returns those for the host, empty ones when there are none.
func (a baseAuth) Credentials(_ context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	asked := hubDomain(req.GetHost())
	for domain, creds := range a.auths {
		if hubDomain(domain) == asked {
			return &auth.CredentialsResponse{Username: creds.Username, Secret: creds.Password.Reveal()}, nil
		}
	}
	return &auth.CredentialsResponse{}, nil
}

// hubDomain gives the spellings of Docker Hub one name and leaves every other
// host as it is.
func hubDomain(host string) string {
	switch strings.TrimSuffix(host, "/") {
	case "https://index.docker.io/v1", "index.docker.io", "registry-1.docker.io", "docker.io":
		return "docker.io"
	}
	return host
}

// refused says whether a registry's words mean wrong or missing credentials.
func refused(message string) bool {
	return containsAny(message, "unauthorized", "no basic auth credentials", "authentication required", "authorization failed",
		"denied", "incorrect username or password", "403 forbidden", "insufficient_scope")
}

// unreachable says whether an engine's words mean that the registry does not
// answer at all.
func unreachable(message string) bool {
	return containsAny(message, "connection refused", "no such host", "i/o timeout", "no route to host", "network is unreachable",
		"dial tcp", "tls handshake timeout", "connection reset", "client.timeout exceeded", "server misbehaving")
}

// untrusted says whether the engine does not trust the registry's connection.
func untrusted(message string) bool {
	return containsAny(message, "x509:", "http response to https client", "certificate signed by")
}

func containsAny(s string, words ...string) bool {
	s = strings.ToLower(s)
	for _, w := range words {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}

// scrub removes the password from a message, should an engine ever repeat it.
func scrub(message string, a ops.RegistryAuth) string {
	if p := a.Password.Reveal(); p != "" {
		message = strings.ReplaceAll(message, p, a.Password.String())
	}
	return message
}

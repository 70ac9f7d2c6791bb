package swarm

import (
	"context"
	"io"
	"os"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/secrets"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"waggle/internal/secret"
	"waggle/ops"
)

// baseAuth answers the engine's question for the credentials of a private base
// image, from the request's own and for nothing but the registry asked for.
type baseAuth struct {
	auth.UnimplementedAuthServer
	logins []ops.RegistryLogin
	images []string // the base images, so far as the Dockerfile says them
	cache  string   // the image whose layers are taken, "" for none
}

// Register offers the answers in a build session.
func (a baseAuth) Register(s *grpc.Server) { auth.RegisterAuthServer(s, a) }

// Credentials returns those for the host, empty ones when there are none.
func (a baseAuth) Credentials(_ context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	creds := a.of(req.GetHost())
	return &auth.CredentialsResponse{Username: creds.Username, Secret: creds.Password.Reveal()}, nil
}

// of returns the credentials for a host. The engine does not say which image it
// is about: it is the first base image there that a login is known for.
func (a baseAuth) of(host string) ops.RegistryAuth {
	host = hubDomain(host)
	var there []ops.RegistryLogin
	for _, l := range a.logins {
		if hubDomain(l.Domain) == host {
			there = append(there, l)
		}
	}
	named := false
	for _, image := range a.images {
		if domain, err := domainOf(image); err != nil || hubDomain(domain) != host {
			continue
		}
		named = true
		if l, ok := ops.LoginOf(there, image); ok {
			return l.Auth
		}
	}
	for _, l := range there {
		// An image that the Dockerfile only names when it is built.
		if !named && (len(there) == 1 || l.Prefix == "") {
			return l.Auth
		}
	}
	if domain, err := domainOf(a.cache); err == nil && hubDomain(domain) == host {
		if l, ok := ops.LoginOf(there, a.cache); ok {
			return l.Auth
		}
	}
	return ops.RegistryAuth{}
}

// buildSecrets answers the engine's question for a secret that a RUN mounts.
type buildSecrets struct {
	secrets.UnimplementedSecretsServer
	values map[string]secret.Text // by id
}

// Register offers the answers in a build session.
func (b buildSecrets) Register(s *grpc.Server) { secrets.RegisterSecretsServer(s, b) }

// GetSecret returns the secret of that id.
func (b buildSecrets) GetSecret(_ context.Context, req *secrets.GetSecretRequest) (*secrets.GetSecretResponse, error) {
	value, ok := b.values[req.GetID()]
	if !ok {
		return nil, status.Error(codes.NotFound, "not found")
	}
	return &secrets.GetSecretResponse{Data: []byte(value.Reveal())}, nil
}

// maxReference is how many bytes an image's name may have, its arguments put in: more
// is none, and could be very much more.
const maxReference = 4 << 10

// baseImages returns the images that a Dockerfile builds from, as far as it says
// so itself: FROM, COPY --from and RUN --mount=from=, with the ARGs before the first
// FROM, which the build's own arguments beat. Names of stages are among them.
func baseImages(dockerfile io.Reader, given map[string]string) []string {
	file, err := parser.Parse(dockerfile)
	if err != nil {
		return nil // the build will say
	}
	var images []string
	args := map[string]string{}
	first := true
	left := maxDockerfile // bytes that all names and arguments may come to
	expand := func(text string) string {
		value := func(arg string) string {
			arg, def, _ := strings.Cut(arg, ":-")
			if value := args[arg]; value != "" {
				return value
			}
			return def
		}
		length := len(text)
		os.Expand(text, func(arg string) string {
			length += len(value(arg))
			return ""
		})
		if length > min(maxReference, left) {
			return ""
		}
		left -= length
		return os.Expand(text, value)
	}
	add := func(name string) {
		if name = expand(name); name != "" {
			images = append(images, name)
		}
	}
	for _, n := range file.AST.Children {
		switch instruction := strings.ToLower(n.Value); {
		case instruction == "arg" && first:
			for v := n.Next; v != nil; v = v.Next {
				name, def, ok := strings.Cut(v.Value, "=")
				if value, given := given[name]; given {
					args[name] = value
				} else if ok {
					args[name] = expand(strings.Trim(def, `"'`))
				}
			}
		case instruction == "from" && n.Next != nil:
			first = false
			add(n.Next.Value)
		}
		for _, flag := range n.Flags {
			if from, ok := strings.CutPrefix(flag, "--from="); ok {
				add(from)
			} else if mount, ok := strings.CutPrefix(flag, "--mount="); ok {
				for option := range strings.SplitSeq(mount, ",") {
					if from, ok := strings.CutPrefix(option, "from="); ok {
						add(from)
					}
				}
			}
		}
	}
	return images
}

// hubDomain gives the spellings of Docker Hub one name and leaves every other
// host as it is.
func hubDomain(host string) string {
	switch strings.TrimSuffix(host, "/") {
	case "https://index.docker.io/v1", "index.docker.io", "registry-1.docker.io", "docker.io":
		return "docker.io"
	}
	return strings.ToLower(host)
}

// scrub removes the password from a message, should an engine ever repeat it.
func scrub(message string, a ops.RegistryAuth) string {
	if p := a.Password.Reveal(); p != "" {
		message = strings.ReplaceAll(message, p, a.Password.String())
	}
	return message
}

package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	orasregistry "oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"

	"waggle/ops"
)

// Digest returns the digest ("sha256:…") of an image as the registry has it;
// NotFound when it does not.
func (c *Client) Digest(ctx context.Context, login ops.RegistryLogin, image string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	named, at, err := parse(login, image)
	if err != nil {
		return "", err
	}
	s, err := c.open(ctx, login)
	if err != nil {
		return "", err
	}
	d, err := s.repository(named).Resolve(ctx, at)
	if err != nil {
		return "", s.failed(err, "read "+named.Name())
	}
	return d.Digest.String(), nil
}

// Copy copies an image, all its platforms included, from one registry to another
// under a new name, and returns its digest, which stays the same. What is there
// already is not sent again. progress is called with what was done so far, from
// several goroutines.
func (c *Client) Copy(ctx context.Context, from ops.RegistryLogin, image string, to ops.RegistryLogin, as string, progress func(string)) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, copyTimeout)
	defer cancel()
	source, at, err := parse(from, image)
	if err != nil {
		return "", err
	}
	target, tag, err := parse(to, as)
	if err != nil {
		return "", err
	}
	src, err := c.open(ctx, from)
	if err != nil {
		return "", err
	}
	dst, err := c.open(ctx, to)
	if err != nil {
		return "", err
	}
	sourceRepo, targetRepo := src.repository(source), dst.repository(target)
	opts := oras.DefaultCopyOptions
	var mu sync.Mutex // parts are copied side by side
	var parts, bytes int64
	done := func(_ context.Context, d ocispec.Descriptor) error {
		mu.Lock()
		defer mu.Unlock()
		parts, bytes = parts+1, bytes+d.Size
		progress(fmt.Sprintf("%d parts, %.1f MB", parts, float64(bytes)/1e6))
		return nil
	}
	opts.PostCopy, opts.OnCopySkipped, opts.OnMounted = done, done, done
	if from.Domain == to.Domain {
		opts.MountFrom = func(context.Context, ocispec.Descriptor) ([]string, error) {
			return []string{sourceRepo.Reference.Repository}, nil
		}
	}
	root, err := oras.Copy(ctx, sourceRepo, at, targetRepo, tag, opts)
	if err != nil {
		failed := new(oras.CopyError)
		if errors.As(err, &failed) && failed.Origin == oras.CopyErrorOriginSource {
			return "", dst.scrubbed(src.failed(err, "read "+source.Name()))
		}
		return "", src.scrubbed(dst.failed(err, "push to "+target.Name()))
	}
	return root.Digest.String(), nil
}

// scrubbed removes this session's password from an error of another's.
func (s *session) scrubbed(err error) error {
	if e := new(ops.Error); errors.As(err, &e) {
		e.Sentence = s.scrub(e.Sentence)
		if e.Err != nil {
			e.Err = errors.New(s.scrub(e.Err.Error()))
		}
	}
	return err
}

// Tags returns the tags of a repository, as the registry sorts them; NotFound
// when there is no such repository.
func (c *Client) Tags(ctx context.Context, login ops.RegistryLogin, repository string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	named, _, err := parse(login, repository)
	if err != nil {
		return nil, err
	}
	s, err := c.open(ctx, login)
	if err != nil {
		return nil, err
	}
	var all []string
	err = s.repository(named).Tags(ctx, "", func(tags []string) error {
		all = append(all, tags...)
		return nil
	})
	return all, s.failed(err, "list "+named.Name())
}

// Delete removes the image of exactly that digest, with all its tags; NotFound
// when it is gone.
func (c *Client) Delete(ctx context.Context, login ops.RegistryLogin, image string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	named, at, err := parse(login, image)
	if err != nil {
		return err
	}
	if !strings.Contains(at, ":") {
		return ops.Errorf(ops.Internal, "%s has no digest, so it is not deleted", image)
	}
	s, err := c.open(ctx, login)
	if err != nil {
		return err
	}
	repo := s.repository(named)
	// A size and media type are asked for, though only the digest is used.
	err = repo.Manifests().Delete(ctx, ocispec.Descriptor{MediaType: "application/vnd.docker.distribution.manifest.v2+json", Digest: digest.Digest(at)})
	return s.failed(err, "delete from "+named.Name())
}

// Image tells of an image. When it was built is in the config of an image for one
// platform; of several, the first is asked.
func (c *Client) Image(ctx context.Context, login ops.RegistryLogin, image string) (ops.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	named, at, err := parse(login, image)
	if err != nil {
		return ops.Image{}, err
	}
	s, err := c.open(ctx, login)
	if err != nil {
		return ops.Image{}, err
	}
	repo := s.repository(named)
	d, err := repo.Resolve(ctx, at)
	if err != nil {
		return ops.Image{}, s.failed(err, "read "+named.Name())
	}
	out := ops.Image{Digest: d.Digest.String()}
	for range 3 { // an index, a manifest, its config
		b, err := content.FetchAll(ctx, repo, d)
		if err != nil {
			return ops.Image{}, s.failed(err, "read "+named.Name())
		}
		// Media types of Docker and of OCI have the same fields.
		var part struct {
			Config    *ocispec.Descriptor  `json:"config"`
			Manifests []ocispec.Descriptor `json:"manifests"`
		}
		if json.Unmarshal(b, &part) != nil {
			break
		}
		switch {
		case part.Config != nil && part.Config.Digest != "":
			d = *part.Config
			continue
		case len(part.Manifests) > 0:
			d = part.Manifests[0]
			continue
		}
		var config struct {
			Created time.Time `json:"created"`
		}
		if json.Unmarshal(b, &config) == nil {
			out.Created = config.Created
		}
		break
	}
	return out, nil
}

// Repositories returns the names of all repositories of a registry.
func (c *Client) Repositories(ctx context.Context, login ops.RegistryLogin) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := c.open(ctx, login)
	if err != nil {
		return nil, err
	}
	registry := &remote.Registry{RepositoryOptions: remote.RepositoryOptions{
		Client: s.client, PlainHTTP: s.plain, Reference: orasregistry.Reference{Registry: login.Domain}}}
	var all []string
	err = registry.Repositories(ctx, "", func(names []string) error {
		if all = append(all, names...); len(all) > 100_000 {
			return fmt.Errorf("it lists more than %d repositories", 100_000)
		}
		return nil
	})
	return all, s.failed(err, "list its repositories")
}

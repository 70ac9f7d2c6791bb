package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"

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
	var parts, bytes atomic.Int64
	done := func(_ context.Context, d ocispec.Descriptor) error {
		progress(fmt.Sprintf("%d parts, %.1f MB", parts.Add(1), float64(bytes.Add(d.Size))/1e6))
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

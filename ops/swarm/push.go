package swarm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

	"waggle/ops"
)

// Push pushes a tagged image and returns its digest ("sha256:…") as the registry
// has it. Errors of the registry are Failed with its own words; log is called
// with each line of progress, from this goroutine.
func (c *Client) Push(ctx context.Context, ref string, auth ops.RegistryAuth, log func(line string)) (string, error) {
	if log == nil {
		log = func(string) {}
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", ops.Errorf(ops.Invalid, "%q is not an image: %w", ref, err)
	}
	encoded, err := encodeAuth(ref, auth)
	if err != nil {
		return "", err
	}
	stream, err := c.api.ImagePush(ctx, ref, image.PushOptions{RegistryAuth: encoded})
	if err != nil {
		return "", c.pushFailed(ctx, err, named, auth)
	}
	defer stream.Close()
	digest, err := followPush(stream, func(line string) { log(scrub(line, auth)) })
	if err != nil {
		return "", c.pushFailed(ctx, err, named, auth)
	}
	return digest, nil
}

// pushError is how a push failed, in the engine's words: mostly what the registry answered.
type pushError string

func (e pushError) Error() string { return string(e) }

// noDigest is a push stream that ended cleanly without a digest: its last status line.
type noDigest string

func (e noDigest) Error() string { return "the engine ended the push without a digest: " + string(e) }

// followPush reads a push's stream to its end and returns the digest it tells.
func followPush(stream io.Reader, log func(string)) (string, error) {
	digest, last := "", ""
	for d := json.NewDecoder(stream); ; {
		var r record
		err := d.Decode(&r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
		if message := r.failure(); message != "" {
			return "", pushError(message)
		}
		var result struct{ Digest string }
		// The containerd image store tells it in the status line alone.
		if len(r.Aux) > 0 && json.Unmarshal(r.Aux, &result) == nil && result.Digest != "" {
			digest = result.Digest
		} else if told := digestOfPush(r.Status); told != "" && r.ID == "" {
			digest = told
		}
		if r.Status != "" {
			last = plain(r.Status)
		}
		// Layers repeat their state many times while they wait and travel.
		switch {
		case r.Status == "" || len(r.Progress) > 2 || r.Status == "Preparing" || r.Status == "Waiting" || r.Status == "Pushing":
		case r.ID != "":
			log(r.ID + ": " + plain(r.Status))
		default:
			log(plain(r.Status))
		}
	}
	if digest == "" {
		return "", noDigest(last)
	}
	return digest, nil
}

// pushFailed turns a push's error into what a person can act on.
func (c *Client) pushFailed(ctx context.Context, err error, named reference.Named, auth ops.RegistryAuth) error {
	if ctx.Err() != nil {
		return c.failed(ctx.Err(), "push %s", named.Name())
	}
	if client.IsErrConnectionFailed(err) || errors.As(err, new(*net.OpError)) {
		return c.failed(err, "push %s", named.Name()) // the engine is away, not the registry
	}
	message := scrub(clean(err.Error()), auth)
	text := withoutNames(message)
	var (
		reported pushError
		missing  noDigest
	)
	domain, short := reference.Domain(named), shortCause(message)
	e := &ops.Error{Code: ops.Failed, Err: errors.New(message)}
	switch {
	case errors.As(err, &missing):
		last := cmp.Or(scrub(string(missing), auth), "none")
		e.Sentence = fmt.Sprintf("Docker finished pushing %s without reporting a digest. Its last line: %s", reference.FamiliarString(named), last)
		return e.Then("See the engine's log: journalctl -u docker")
	case notLocal.in(text):
		e.Sentence = "This engine has no image " + named.String()
	case notWhole.in(text):
		e.Code, e.Sentence = ops.NotFound, fmt.Sprintf("This engine does not have all of the image %s: %s", reference.FamiliarString(named), short)
	case untrusted.in(text):
		e.Sentence = fmt.Sprintf("The engine does not trust the registry %s: %s", domain, short)
		return e.Then("Give the registry a certificate that is trusted, or list it in the engine's insecure-registries as http://host:port")
	case refused.in(text):
		if auth.Username == "" {
			e.Sentence = fmt.Sprintf("The registry %s wants a user and password for %s: %s", domain, reference.Path(named), short)
			return e.Then("Set them with `/registry edit`")
		}
		e.Sentence = fmt.Sprintf("The registry %s does not let %s push to %s: %s", domain, auth.Username, reference.Path(named), short)
		return e.Then("Check its user and password with `/registry check`, and change them with `/registry edit`")
	case unreachable.in(text):
		e.Code = ops.Unavailable
		e.Sentence = fmt.Sprintf("The registry %s cannot be reached: %s", domain, short)
		return e.Then("See whether it runs and whether this manager reaches it: `/registry check`")
	case !errors.As(err, &reported):
		return c.failed(err, "push %s", named.Name())
	case overloaded.in(text):
		e.Code, e.Sentence = ops.Unavailable, fmt.Sprintf("The registry %s failed: %s", domain, short)
	case registryFailed.in(text):
		e.Sentence = fmt.Sprintf("The registry %s failed: %s", domain, short)
	default:
		e.Sentence = fmt.Sprintf("Pushing %s failed: %s", reference.FamiliarString(named), short)
	}
	return e
}

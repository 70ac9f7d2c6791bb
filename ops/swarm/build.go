package swarm

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/build"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"

	"waggle/ops"
)

// Build builds an image with BuildKit on this engine. The engine asks for the
// files it needs through a session, so .dockerignore is honoured and of a
// context seen before only the changed files travel. Log is called from this
// goroutine with lines like "#5 [2/3] RUN make", "#5 0.21 hello" and
// "#5 DONE 0.3s".
//
// A failing build is Failed with the end of the failing step's output as its
// Log; a Dockerfile outside Dir is Invalid; a cancelled ctx is Canceled, and
// stops the build on the engine. An engine that stops in the middle of it is
// Unavailable: the build may be begun again.
func (c *Client) Build(ctx context.Context, req ops.BuildRequest, log func(line string)) error {
	if req.Text != "" {
		// Beside the repository, whose files are as they were committed.
		own, err := os.MkdirTemp("", "waggle-dockerfile-")
		if err != nil {
			return c.failed(err, "write the Dockerfile")
		}
		defer os.RemoveAll(own)
		if err := os.WriteFile(filepath.Join(own, "Dockerfile"), []byte(req.Text), 0o600); err != nil {
			return c.failed(err, "write the Dockerfile")
		}
		return c.build(ctx, req, filepath.Join(own, "Dockerfile"), log)
	}
	return c.build(ctx, req, "", log)
}

// build is Build with a Dockerfile, "" for the one in the context.
func (c *Client) build(ctx context.Context, req ops.BuildRequest, dockerfile string, log func(line string)) error {
	dir, err := contextDir(req)
	if err != nil {
		return err
	}
	if dockerfile == "" {
		if dockerfile, err = dockerfilePath(dir, req.Dockerfile); err != nil {
			return err
		}
	}
	tag, err := reference.ParseNormalizedNamed(req.Tag)
	if err != nil {
		return ops.Errorf(ops.Invalid, "%q is not an image: %w", req.Tag, err)
	}
	source, err := syncedDir(dir)
	if err != nil {
		return c.failed(err, "read the build context")
	}
	files, err := syncedDir(filepath.Dir(dockerfile))
	if err != nil {
		return c.failed(err, "read the Dockerfile")
	}

	text, err := c.readDockerfile(dockerfile)
	if err != nil {
		return err
	}
	images := baseImages(bytes.NewReader(text), req.Args)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The shared key lets the engine find the files of the build before.
	s, err := session.NewSession(ctx, "waggle:"+tag.Name())
	if err != nil {
		return c.failed(err, "prepare the build")
	}
	s.Allow(filesync.NewFSSyncProvider(filesync.StaticDirSource{"context": source, "dockerfile": files}))
	s.Allow(baseAuth{logins: req.Logins, images: images, cache: req.Cache})
	s.Allow(buildSecrets{values: req.Secrets})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Run(ctx, c.dialSession); err != nil {
			cancel(err)
		}
	}()
	defer func() {
		cancel(nil) // Close waits for a session that is still being opened
		s.Close()
		<-ended
	}()

	id := rand.Text()
	// An engine may notice only late that nobody reads a build's progress.
	canceled := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(canceled)
		c.cancelBuild(ctx, id)
	})
	defer func() {
		if !stop() {
			<-canceled
		}
	}()
	args := map[string]*string{}
	for name, value := range req.Args {
		args[name] = &value
	}
	if req.KeepCache {
		on := "1"
		args["BUILDKIT_INLINE_CACHE"] = &on // for the engine alone: no Dockerfile sees what it does not declare
	}
	var cache []string
	if req.Cache != "" {
		cache = []string{req.Cache}
	}
	resp, err := c.api.ImageBuild(ctx, nil, build.ImageBuildOptions{
		Version:       build.BuilderBuildKit,
		BuildID:       id,
		SessionID:     s.ID(),
		RemoteContext: "client-session",
		Dockerfile:    filepath.Base(dockerfile),
		Tags:          []string{req.Tag},
		BuildArgs:     args,
		CacheFrom:     cache,
		Target:        req.Target,
		Platform:      req.Platform,
		Remove:        true,
	})
	if err == nil {
		err = follow(resp.Body, newProgress(log))
		resp.Body.Close()
	}
	return c.buildFailed(ctx, err, req)
}

// dialSession opens the connection by which the engine reaches back to us. The
// Docker client waits for the engine's answer whatever ctx says: a connection that
// comes after its end is closed.
func (c *Client) dialSession(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
	type dialed struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialed, 1)
	go func() {
		conn, err := c.api.DialHijack(ctx, "/session", proto, meta)
		done <- dialed{conn, err}
	}()
	select {
	case d := <-done:
		return d.conn, d.err
	case <-ctx.Done():
		go func() {
			if d := <-done; d.err == nil {
				d.conn.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// cancelBuild stops a build on the engine.
func (c *Client) cancelBuild(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := c.api.BuildCancel(ctx, id); err != nil {
		c.log.Debug("cancelling a build", "err", err)
	}
}

// contextDir returns the context directory with all symbolic links resolved, and
// makes sure that it is in the repository.
func contextDir(req ops.BuildRequest) (string, error) {
	root, err := filepath.EvalSymlinks(req.Dir)
	if err != nil {
		return "", &ops.Error{Code: ops.Failed, Sentence: "The build context cannot be read", Err: err}
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(root, req.Context))
	if err != nil {
		return "", (&ops.Error{Code: ops.Failed, Sentence: fmt.Sprintf("There is no directory %s in the repository", req.Context), Err: err}).
			Then("The label waggle.context says which one is built.")
	}
	if rel, err := filepath.Rel(root, dir); err != nil || !filepath.IsLocal(rel) {
		return "", ops.Errorf(ops.Invalid, "The build context %s is outside the repository", req.Context)
	}
	return dir, nil
}

// dockerfilePath returns the Dockerfile of that name with all symbolic links
// resolved, and makes sure that it is in the context.
func dockerfilePath(dir, name string) (string, error) {
	if name == "" {
		name = "Dockerfile"
	}
	outside := ops.Errorf(ops.Invalid, "The Dockerfile %s is outside the build context", name)
	if !filepath.IsLocal(name) {
		return "", outside
	}
	dockerfile, err := filepath.EvalSymlinks(filepath.Join(dir, name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", (&ops.Error{Code: ops.Failed, Sentence: fmt.Sprintf("There is no %s in the build context", name), Err: err}).
			Then("Add one, or say where it is with the label waggle.dockerfile.")
	case err != nil:
		return "", &ops.Error{Code: ops.Failed, Sentence: fmt.Sprintf("The Dockerfile %s cannot be read", name), Err: err}
	}
	if rel, err := filepath.Rel(dir, dockerfile); err != nil || !filepath.IsLocal(rel) {
		return "", outside
	}
	if info, err := os.Stat(dockerfile); err != nil || !info.Mode().IsRegular() {
		return "", ops.Errorf(ops.Failed, "The Dockerfile %s is not a file", name)
	}
	return dockerfile, nil
}

// maxDockerfile is how many bytes a Dockerfile may have: it is read into memory, and
// whoever pushes has written it.
const maxDockerfile = 1 << 20

func (c *Client) readDockerfile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, c.failed(err, "read the Dockerfile")
	}
	defer f.Close()
	text, err := readAll(f, maxDockerfile)
	if errors.Is(err, errTooLong) {
		return nil, ops.Errorf(ops.Failed, "The Dockerfile is larger than 1 MB").
			Then("Put what it carries into files of the repository, and COPY them.")
	}
	return text, c.failed(err, "read the Dockerfile")
}

// syncedDir offers a directory to the engine, owned by root as a build expects.
func syncedDir(dir string) (fsutil.FS, error) {
	f, err := fsutil.NewFS(dir)
	if err != nil {
		return nil, err
	}
	return fsutil.NewFilterFS(f, &fsutil.FilterOpt{Map: func(_ string, st *fstypes.Stat) fsutil.MapResult {
		st.Uid, st.Gid = 0, 0
		return fsutil.MapResultKeep
	}})
}

// record is one JSON record of a build's or push's stream.
type record struct {
	ID          string          `json:"id"`
	Status      string          `json:"status"`
	Progress    json.RawMessage `json:"progressDetail"`
	Aux         json.RawMessage `json:"aux"`
	Error       string          `json:"error"`
	ErrorDetail *struct {
		Message string `json:"message"`
	} `json:"errorDetail"`
}

// failure is the error that a record tells, "" if none.
func (r *record) failure() string {
	if r.ErrorDetail != nil && r.ErrorDetail.Message != "" {
		return r.ErrorDetail.Message
	}
	return r.Error
}

// endedWithoutImage is a stream that ended cleanly with neither an image nor an error.
const endedWithoutImage = "Docker reported neither an image nor an error"

// stepError is a build that failed in itself.
type stepError struct {
	message string // the engine's words
	step    string // the failing step's name, "" if no step failed
	log     string // the end of its output
}

func (e *stepError) Error() string { return e.message }

// follow reads a build's stream to its end, and fails with a *stepError when
// the stream says that the build failed.
func follow(stream io.Reader, p *progress) error {
	done := false
	for d := json.NewDecoder(stream); ; {
		var r record
		switch err := d.Decode(&r); {
		case err == io.EOF && done:
			p.flush()
			return nil
		case err == io.EOF:
			p.flush()
			step, log := p.lastStep()
			return &stepError{message: endedWithoutImage, step: step, log: log}
		case err != nil:
			return err
		}
		if message := r.failure(); message != "" {
			p.flush()
			step, log := p.failing()
			return &stepError{message: message, step: step, log: log}
		}
		switch r.ID {
		case "moby.image.id":
			done = true
		case "moby.buildkit.trace":
			if err := p.trace(r.Aux); err != nil {
				return err
			}
		}
	}
}

// buildFailed turns a build's error into what a person can act on.
func (c *Client) buildFailed(ctx context.Context, err error, req ops.BuildRequest) error {
	if err == nil {
		return nil
	}
	switch cause := context.Cause(ctx); {
	case cause == nil:
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return (&ops.Error{Code: ops.Failed, Sentence: "The build was not done in time", Err: cause}).
			Then("Make it faster, or raise build.timeout")
	case errors.Is(cause, context.Canceled):
		return &ops.Error{Code: ops.Canceled, Sentence: "The build was called off", Err: cause}
	default: // the session failed
		return c.failed(cause, "open a build session")
	}
	var step *stepError
	if !errors.As(err, &step) {
		return c.failed(err, "build %s", req.Tag)
	}
	message := cleanBuild(step.message)
	if step.step == "" && strings.HasSuffix(message, "context canceled") {
		// Not by us, and no step failed: the engine ends its builds when it is stopped.
		return (&ops.Error{Code: ops.Unavailable, Sentence: "Docker stopped in the middle of the build", Err: errors.New(message)}).
			Then("See the engine's log: journalctl -u docker")
	}
	for _, l := range req.Logins {
		message = scrub(message, l.Auth)
	}
	first, rest, _ := strings.Cut(message, "\n")
	e := &ops.Error{Code: ops.Failed, Log: step.log, Err: errors.New(message)}
	if e.Log == "" {
		e.Log = strings.TrimSpace(rest)
	}
	if message == endedWithoutImage {
		e.Sentence = "The build did not finish: " + message
		if step.step != "" {
			e.Sentence += ". Its last step: " + shorten(step.step, 120)
		}
		return e.Then("See the engine's log: journalctl -u docker")
	}
	base, isBase := strings.CutPrefix(step.step, loadBase)
	switch {
	case isBase:
		e.Sentence = fmt.Sprintf("The base image %s cannot be fetched: %s", base, shortCause(first))
	case step.step != "":
		e.Sentence = fmt.Sprintf("The build failed at %s: %s", shorten(step.step, 120), first)
	default:
		e.Sentence = "The build failed: " + first
	}
	if m := noSecret.FindStringSubmatch(message); m != nil {
		e.Next = fmt.Sprintf("Set the secret %s with `/app build-secret`", m[1])
	}
	text := withoutNames(message)
	fetching := isBase || step.step == "" || strings.Contains(step.step, "FROM ")
	switch {
	case dockerfileImage.in(step.step + message):
		e.Next = "The Dockerfile's `# syntax=` line makes the engine fetch docker/dockerfile from Docker Hub, which failed: remove the line, or let the engine reach Docker Hub"
	case fetching && wrongPlatform.in(text):
		e.Next = "Choose a base image that is built for this machine's platform, or set the platform with the label waggle.platform"
	case fetching && untrusted.in(text):
		e.Next = "Give the registry a certificate that is trusted, or list it in the engine's insecure-registries as http://host:port"
	case fetching && (refused.in(text) || isBase && notInRegistry.in(text)):
		e.Next = "See whether the base image exists and whether its registry is added with the right credentials (`/registry list`)"
	case fetching && unreachable.in(text):
		e.Next = "See whether this manager reaches the base image's registry"
	}
	return e
}

// shorten cuts s to at most n runes and shows that it did.
func shorten(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

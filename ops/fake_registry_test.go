package ops_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"waggle/ops"
)

// fakeMaking is what a fakeSwarm is told about images and logins.
type fakeMaking struct {
	tagged []string          // "from as to"
	local  map[string]bool   // images of this engine
	given  map[string]string // "user:password" that services were given, by service
}

func (f *fakeSwarm) Secrets(_ context.Context, prefix string) ([]ops.Secret, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []ops.Secret
	for _, name := range slices.Sorted(maps.Keys(f.secrets)) {
		if strings.HasPrefix(name, prefix) {
			out = append(out, ops.Secret{ID: "secret-" + name, Name: name})
		}
	}
	return out, nil
}

func (f *fakeSwarm) TagImage(_ context.Context, image, as string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.local[image] {
		return ops.Errorf(ops.NotFound, "This manager's engine does not have the image %s", image)
	}
	f.tagged = append(f.tagged, image+" as "+as)
	return nil
}

// fakeImages are registries that have what a test puts there.
type fakeImages struct {
	mu      sync.Mutex
	trial   func(login ops.RegistryLogin, push bool) ops.Trial // nil: all is well
	images  map[string]ops.Image                               // by reference, with tag or digest
	tried   []string                                           // "user@domain/prefix push"
	copies  []string                                           // "from as to"
	deleted []string
	failing map[string]error // by reference
	stopped func() bool      // nothing can be removed
}

func (f *fakeImages) Try(_ context.Context, login ops.RegistryLogin, push bool) ops.Trial {
	f.mu.Lock()
	what := login.Auth.Username + "@" + login.Domain + "/" + login.Prefix
	if push {
		what += " push"
	}
	f.tried = append(f.tried, what)
	f.mu.Unlock()
	if f.trial != nil {
		return f.trial(login, push)
	}
	return ops.Trial{Reachable: true, LoggedIn: true, MayPush: push}
}

func (f *fakeImages) Image(_ context.Context, login ops.RegistryLogin, image string) (ops.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := ops.LoginOf([]ops.RegistryLogin{login}, image); !ok {
		return ops.Image{}, ops.Errorf(ops.Internal, "%s is not of %s", image, login.Domain)
	}
	if err := f.failing[image]; err != nil {
		return ops.Image{}, err
	}
	img, ok := f.images[image]
	if !ok {
		return img, ops.Errorf(ops.NotFound, "The registry %s has no such image", login.Domain)
	}
	return img, nil
}

func (f *fakeImages) Digest(ctx context.Context, login ops.RegistryLogin, image string) (string, error) {
	img, err := f.Image(ctx, login, image)
	return img.Digest, err
}

func (f *fakeImages) Copy(ctx context.Context, from ops.RegistryLogin, image string, to ops.RegistryLogin, as string, progress func(string)) (string, error) {
	img, err := f.Image(ctx, from, image)
	if err != nil {
		return "", err
	}
	if _, ok := ops.LoginOf([]ops.RegistryLogin{to}, as); !ok {
		return "", ops.Errorf(ops.Internal, "%s is not of %s", as, to.Domain)
	}
	progress("1 part")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.copies = append(f.copies, image+" as "+as)
	f.images[as] = img
	return img.Digest, nil
}

func (f *fakeImages) Tags(_ context.Context, _ ops.RegistryLogin, repository string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, ref := range slices.Sorted(maps.Keys(f.images)) {
		if tag, ok := strings.CutPrefix(ref, repository+":"); ok {
			out = append(out, tag)
		}
	}
	if len(out) == 0 {
		return nil, ops.Errorf(ops.NotFound, "There is no repository %s", repository)
	}
	return out, nil
}

func (f *fakeImages) Repositories(_ context.Context, login ops.RegistryLogin) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, ref := range slices.Sorted(maps.Keys(f.images)) {
		path, ok := strings.CutPrefix(ref, login.Domain+"/")
		name, _, _ := strings.Cut(path, ":")
		if ok && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out, nil
}

func (f *fakeImages) Delete(_ context.Context, _ ops.RegistryLogin, image string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped != nil && f.stopped() {
		return ops.Errorf(ops.Unavailable, "The registry does not answer")
	}
	f.deleted = append(f.deleted, image)
	return nil
}

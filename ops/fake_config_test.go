package ops_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"waggle/internal/secret"
	"waggle/ops"
)

// testKey seals the passwords of tests.
var testKey = keyOf(7)

func keyOf(b byte) secret.Key {
	k, err := secret.NewKey(bytes.Repeat([]byte{b}, secret.KeySize))
	if err != nil {
		panic(err)
	}
	return k
}

// sealed is a registry that may be pushed to, its password sealed with testKey.
func sealed(name, domain, prefix, user string, password secret.Text) ops.Registry {
	r := ops.Registry{Name: name, Domain: domain, Prefix: prefix, Username: user, Push: true}
	if err := r.Seal(testKey, password); err != nil {
		panic(err)
	}
	return r
}

// fakeConfigs are config objects as a swarm keeps them.
type fakeConfigs struct {
	cmu     sync.Mutex
	configs []ops.Config
	index   uint64
	created func(*fakeConfigs) // another hand, just after the next one was created
	broken  error              // every call fails with it
}

func (f *fakeConfigs) Configs(_ context.Context, prefix string) ([]ops.Config, error) {
	f.cmu.Lock()
	defer f.cmu.Unlock()
	var out []ops.Config
	for _, c := range f.configs {
		if strings.HasPrefix(c.Name, prefix) {
			out = append(out, c)
		}
	}
	return out, f.broken
}

func (f *fakeConfigs) CreateConfig(_ context.Context, name string, data []byte) (string, error) {
	f.cmu.Lock()
	if f.broken != nil {
		defer f.cmu.Unlock()
		return "", f.broken
	}
	if slices.ContainsFunc(f.configs, func(c ops.Config) bool { return c.Name == name }) {
		defer f.cmu.Unlock()
		return "", ops.Errorf(ops.OutOfDate, "There is a config %s already", name)
	}
	f.index++
	id := fmt.Sprintf("c%d", f.index)
	f.configs = append(f.configs, ops.Config{ID: id, Name: name, Version: f.index, Data: data})
	hand := f.created
	f.created = nil
	f.cmu.Unlock()
	if hand != nil {
		hand(f)
	}
	return id, nil
}

func (f *fakeConfigs) RemoveConfig(_ context.Context, id string) error {
	f.cmu.Lock()
	defer f.cmu.Unlock()
	before := len(f.configs)
	f.configs = slices.DeleteFunc(f.configs, func(c ops.Config) bool { return c.ID == id })
	if len(f.configs) == before {
		return ops.Errorf(ops.NotFound, "There is no config %s", id)
	}
	return f.broken
}

// save stores registries over those that are there.
func (f *fakeConfigs) save(rs ops.Registries) {
	now, err := ops.ReadRegistries(context.Background(), f)
	if err != nil {
		panic(err)
	}
	now.List, now.Default = rs.List, rs.Default
	if err := ops.SaveRegistries(context.Background(), f, now, slog.New(slog.DiscardHandler)); err != nil {
		panic(err)
	}
}

func (f *fakeConfigs) names() string {
	f.cmu.Lock()
	defer f.cmu.Unlock()
	var names []string
	for _, c := range f.configs {
		names = append(names, c.Name)
	}
	return strings.Join(names, " ")
}

package ops_test

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"waggle/internal/secret"
	"waggle/ops"
)

func (f *fakeSwarm) ServiceLogs(_ context.Context, _ ops.Service, req ops.LogRequest) ([]ops.LogLine, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.logsAsked = req
	return slices.Clone(f.lines), f.partial, nil
}

func (f *fakeSwarm) CreateService(ctx context.Context, n ops.NewService) (id string, err error) {
	err = f.write(ctx, "CreateService", func() error {
		id, err = f.createService(n)
		return err
	})
	return id, err
}

func (f *fakeSwarm) createService(n ops.NewService) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.services[n.Name] != nil {
		return "", ops.Errorf(ops.OutOfDate, "There is a service %s already", n.Name)
	}
	f.made = append(f.made, n)
	f.services[n.Name] = &ops.Service{ID: "id-" + n.Name, Name: n.Name, Version: 10, Mode: ops.Replicated, Replicas: n.Replicas, Image: n.Image,
		Labels: maps.Clone(n.Labels), Constraints: n.Constraints, Settings: n.Settings, Persistent: len(n.Mounts) > 0}
	return "id-" + n.Name, nil
}

func (f *fakeSwarm) RemoveService(ctx context.Context, id string) error {
	return f.write(ctx, "RemoveService", func() error { return f.removeService(id) })
}

func (f *fakeSwarm) removeService(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, s := range f.services {
		if s.ID == id {
			delete(f.services, name)
			return nil
		}
	}
	return ops.Errorf(ops.NotFound, "There is no service %s", id)
}

func (f *fakeSwarm) NetworkID(_ context.Context, name string) (string, error) {
	return "net-" + name, nil
}

func (f *fakeSwarm) RemoveVolume(_ context.Context, name string) error {
	f.with(func() { f.volumesGone = append(f.volumesGone, name) })
	return f.volume
}

func (f *fakeSwarm) CreateSecret(_ context.Context, name string, value secret.Text, _ map[string]string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.secrets == nil {
		f.secrets = map[string]string{}
	}
	f.secrets[name] = value.Reveal()
	return fmt.Sprintf("secret-%s", name), nil
}

func (f *fakeSwarm) RemoveSecret(_ context.Context, id string) error {
	f.with(func() { f.secretsGone = append(f.secretsGone, id) })
	return nil
}

func (f *fakeSwarm) ImageDisk(context.Context) (int64, int64, error) { return 3 << 30, 1 << 30, nil }

func (f *fakeSwarm) Machine(context.Context) (ops.Machine, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return ops.Machine{Hostname: f.nodes[0].Hostname, EngineVersion: f.nodes[0].EngineVersion, APIVersion: "1.41", ImageStore: "classic"}, nil
}

func (f *fakeSwarm) Images(context.Context) ([]ops.LocalImage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.images), nil
}

func (f *fakeSwarm) RemoveImage(_ context.Context, name string) error {
	f.with(func() { f.imagesGone = append(f.imagesGone, name) })
	return nil
}

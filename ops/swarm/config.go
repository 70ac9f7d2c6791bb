package swarm

import (
	"context"
	"sort"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"

	"waggle/ops"
)

// Configs returns the configs whose name begins with prefix, by name.
func (c *Client) Configs(ctx context.Context, prefix string) ([]ops.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// The engine takes the filter "name" for the beginning of a name.
	list, err := c.api.ConfigList(ctx, swarm.ConfigListOptions{Filters: filters.NewArgs(filters.Arg("name", prefix))})
	if err != nil {
		return nil, c.failed(err, "list the configs")
	}
	configs := make([]ops.Config, 0, len(list))
	for _, l := range list {
		configs = append(configs, ops.Config{ID: l.ID, Name: l.Spec.Name, Version: l.Version.Index, Data: l.Spec.Data})
	}
	sort.Slice(configs, func(i, j int) bool { return configs[i].Name < configs[j].Name })
	return configs, nil
}

// CreateConfig makes a config and returns its id; OutOfDate when there is one of
// that name.
func (c *Client) CreateConfig(ctx context.Context, name string, data []byte) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	made, err := c.api.ConfigCreate(ctx, swarm.ConfigSpec{Annotations: swarm.Annotations{Name: name}, Data: data})
	if errdefs.IsConflict(err) {
		return "", &ops.Error{Code: ops.OutOfDate, Sentence: "There is a config " + name + " already", Err: err}
	}
	return made.ID, c.failed(err, "create the config %s", name)
}

// RemoveConfig removes the config of that id; NotFound when it is gone.
func (c *Client) RemoveConfig(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.failed(c.api.ConfigRemove(ctx, id), "remove the config %s", id)
}

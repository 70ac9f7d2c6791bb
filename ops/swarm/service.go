package swarm

import (
	"context"
	"regexp"
	"sort"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/swarm"

	"waggle/internal/secret"
	"waggle/ops"
)

// defaultMonitor is how long the swarm watches a new task when the service
// doesn't say.
const defaultMonitor = 5 * time.Second

// identifier is what the swarm takes as a service's name, and every id. Nothing
// else may get into a path of the API.
var identifier = regexp.MustCompile(`^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$`)

// Services returns all services, by name, with how many of their tasks run.
func (c *Client) Services(ctx context.Context) ([]ops.Service, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := c.api.ServiceList(ctx, swarm.ServiceListOptions{Status: true})
	if err != nil {
		return nil, c.failed(err, "list the services")
	}
	services := make([]ops.Service, 0, len(list))
	for i := range list {
		services = append(services, service(&list[i]))
	}
	sort.Slice(services, func(i, j int) bool { return services[i].Name < services[j].Name })
	return services, nil
}

// Service returns the service of exactly that name or id. Docker would take the
// beginning of an id as well, which could be another service than meant.
func (c *Client) Service(ctx context.Context, name string) (ops.Service, error) {
	s, _, err := c.inspect(ctx, name)
	if err != nil {
		return ops.Service{}, err
	}
	return service(&s), nil
}

// inspect returns a service as the engine has it, decoded and raw.
func (c *Client) inspect(ctx context.Context, name string) (swarm.Service, []byte, error) {
	if !identifier.MatchString(name) {
		return swarm.Service{}, nil, noService(name, nil)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, raw, err := c.api.ServiceInspectWithRaw(ctx, name, swarm.ServiceInspectOptions{})
	switch {
	case errdefs.IsNotFound(err):
		return s, nil, noService(name, err)
	case err != nil:
		return s, nil, c.failed(err, "read the service %s", name)
	case s.ID != name && s.Spec.Name != name:
		return s, nil, noService(name, nil)
	}
	return s, raw, nil
}

func noService(name string, err error) error {
	return (&ops.Error{Code: ops.NotFound, Sentence: "There is no service " + name, Err: err}).
		Then("`/app list` shows what there is")
}

// service makes the operations' view of a service.
func service(s *swarm.Service) ops.Service {
	o := ops.Service{
		ID:      s.ID,
		Name:    s.Spec.Name,
		Version: s.Version.Index,
		Labels:  s.Spec.Labels,
		Monitor: defaultMonitor,
	}
	if o.Labels == nil {
		o.Labels = map[string]string{}
	}
	switch m := s.Spec.Mode; {
	case m.Global != nil:
		o.Mode = ops.Global
	case m.ReplicatedJob != nil:
		o.Mode = ops.ReplicatedJob
	case m.GlobalJob != nil:
		o.Mode = ops.GlobalJob
	default:
		o.Mode, o.Replicas = ops.Replicated, 1
		if m.Replicated != nil && m.Replicated.Replicas != nil {
			o.Replicas = int(*m.Replicated.Replicas)
		}
	}
	if cs := s.Spec.TaskTemplate.ContainerSpec; cs != nil {
		o.Image = cs.Image
		for _, m := range cs.Mounts {
			if m.Type == mount.TypeVolume || m.Type == mount.TypeBind {
				o.Persistent = true
			}
		}
	}
	o.Settings = settings(s)
	if p := s.Spec.TaskTemplate.Placement; p != nil {
		o.MaxPerNode = int(p.MaxReplicas)
		o.Constraints = p.Constraints
		for _, q := range p.Platforms {
			o.Platforms = append(o.Platforms, q.OS+"/"+q.Architecture)
		}
	}
	if r := s.Spec.TaskTemplate.Resources; r != nil && r.Reservations != nil {
		o.ReserveCPU, o.ReserveMemory = r.Reservations.NanoCPUs, r.Reservations.MemoryBytes
	}
	if e := s.Spec.EndpointSpec; e != nil {
		for _, p := range e.Ports {
			if p.PublishMode == swarm.PortConfigPublishModeHost {
				o.HostPorts = true
			}
		}
	}
	if u := s.Spec.UpdateConfig; u != nil && u.Monitor > 0 {
		o.Monitor = u.Monitor
	}
	if u := s.UpdateStatus; u != nil {
		o.Update = ops.UpdateStatus{State: string(u.State), Message: u.Message}
		if u.StartedAt != nil {
			o.Update.StartedAt = *u.StartedAt
		}
	}
	if st := s.ServiceStatus; st != nil {
		o.Running, o.Desired = int(st.RunningTasks), int(st.DesiredTasks)
	}
	return o
}

// settings makes the operations' view of what a service's tasks run with.
func settings(s *swarm.Service) ops.Settings {
	o := ops.Settings{UpdateOrder: swarm.UpdateOrderStopFirst, Parallelism: 1}
	t := s.Spec.TaskTemplate
	if cs := t.ContainerSpec; cs != nil {
		for _, kv := range cs.Env {
			name, value, _ := strings.Cut(kv, "=")
			o.Env = append(o.Env, ops.EnvVar{Name: name, Value: secret.Text(value)})
		}
		for _, m := range cs.Mounts {
			o.Mounts = append(o.Mounts, ops.Mount{Type: string(m.Type), Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly})
		}
		for _, r := range cs.Secrets {
			ref := ops.SecretRef{ID: r.SecretID, Name: r.SecretName}
			if r.File != nil {
				ref.File = r.File.Name
			}
			o.Secrets = append(o.Secrets, ref)
		}
		if h := cs.Healthcheck; h != nil {
			o.Health = ops.Health{Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, Start: h.StartPeriod, Retries: h.Retries}
		}
	}
	for _, n := range t.Networks {
		o.Networks = append(o.Networks, n.Target)
	}
	if r := t.Resources; r != nil && r.Limits != nil {
		o.LimitCPU, o.LimitMemory = r.Limits.NanoCPUs, r.Limits.MemoryBytes
	}
	if e := s.Spec.EndpointSpec; e != nil {
		for _, p := range e.Ports {
			o.Ports = append(o.Ports, ops.Port{Published: int(p.PublishedPort), Target: int(p.TargetPort), Protocol: string(p.Protocol),
				Host: p.PublishMode == swarm.PortConfigPublishModeHost})
		}
	}
	if u := s.Spec.UpdateConfig; u != nil {
		o.Parallelism = int(u.Parallelism)
		if u.Order != "" {
			o.UpdateOrder = u.Order
		}
	}
	return o
}

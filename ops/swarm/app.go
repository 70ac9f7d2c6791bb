package swarm

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/pkg/stdcopy"

	"waggle/internal/secret"
	"waggle/ops"
)

const (
	maxLogLine  = 16 << 10 // bytes of a line that are kept
	maxLogLines = 20000    // of a request, the newest ones
)

// ServiceLogs reads the logs of a service's tasks. The engine waits without end
// for the log of a task whose node is down: what has come by then is the answer.
func (c *Client) ServiceLogs(ctx context.Context, svc ops.Service, req ops.LogRequest) ([]ops.LogLine, bool, error) {
	limited, cancel := context.WithTimeout(ctx, c.logsTimeout)
	defer cancel()
	s, _, err := c.inspect(limited, svc.ID)
	if err != nil {
		return nil, false, err
	}
	o := container.LogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Details: true, Tail: strconv.Itoa(req.Lines)}
	if req.Since > 0 {
		o.Since = req.Since.String()
	}
	stream, err := c.api.ServiceLogs(limited, svc.ID, o)
	if err != nil {
		return nil, false, c.failed(err, "read the log of %s", svc.Name)
	}
	defer stream.Close()
	lines := &logLines{}
	if cs := s.Spec.TaskTemplate.ContainerSpec; cs != nil && cs.TTY {
		_, err = io.Copy(lines, stream)
	} else {
		_, err = stdcopy.StdCopy(lines, lines, stream)
	}
	all := lines.done()
	partial := err != nil
	if partial && ctx.Err() != nil {
		return nil, false, c.failed(ctx.Err(), "read the log of %s", svc.Name)
	}
	if partial && len(all) == 0 && !errors.Is(limited.Err(), context.DeadlineExceeded) && !logIncomplete.in(err.Error()) {
		return nil, false, c.failed(err, "read the log of %s", svc.Name)
	}
	return all, partial, nil
}

// logLines reads lines like
//
//	2026-01-02T15:04:05.000000001Z com.docker.swarm.node.id=…,com.docker.swarm.task.id=… text
//
// as the engine writes them with timestamps and details, one task's among another's.
type logLines struct {
	rest  []byte
	lines []ops.LogLine
}

func (l *logLines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		i := slices.Index(l.rest, '\n')
		if i < 0 {
			if len(l.rest) > 2*maxLogLine {
				l.rest = l.rest[:2*maxLogLine]
			}
			return len(p), nil
		}
		l.add(string(l.rest[:i]))
		l.rest = l.rest[i+1:]
	}
}

func (l *logLines) add(raw string) {
	line, ok := parseLogLine(raw)
	if !ok {
		return
	}
	l.lines = append(l.lines, line)
	if len(l.lines) >= maxLogLines*5/4 {
		l.tidy()
	}
}

// tidy sorts the lines by time and leaves the newest.
func (l *logLines) tidy() {
	slices.SortStableFunc(l.lines, func(a, b ops.LogLine) int { return a.At.Compare(b.At) })
	l.lines = slices.Delete(l.lines, 0, max(0, len(l.lines)-maxLogLines))
}

// done returns the newest lines by time.
func (l *logLines) done() []ops.LogLine {
	if len(l.rest) > 0 {
		l.add(string(l.rest))
	}
	l.tidy()
	return l.lines
}

func parseLogLine(raw string) (ops.LogLine, bool) {
	stamp, rest, ok := strings.Cut(raw, " ")
	at, err := time.Parse(time.RFC3339Nano, stamp)
	if !ok || err != nil {
		return ops.LogLine{}, false
	}
	details, text, _ := strings.Cut(rest, " ")
	line := ops.LogLine{At: at}
	for pair := range strings.SplitSeq(details, ",") {
		k, v, _ := strings.Cut(pair, "=")
		switch k {
		case "com.docker.swarm.task.id":
			line.TaskID = v
		case "com.docker.swarm.node.id":
			line.NodeID = v
		}
	}
	text = strings.TrimSuffix(text, "\r")
	line.Text = plain(text[:min(len(text), maxLogLine)])
	return line, true
}

// CreateService makes a service. Its updates go back by themselves when they fail.
func (c *Client) CreateService(ctx context.Context, n ops.NewService) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	spec := map[string]any{
		"Name":   n.Name,
		"Labels": n.Labels,
		"Mode":   map[string]any{"Replicated": map[string]any{"Replicas": number(n.Replicas)}},
		"TaskTemplate": map[string]any{
			"ContainerSpec": map[string]any{"Image": n.Image},
			"Placement":     map[string]any{"Constraints": n.Constraints},
		},
	}
	container := object(object(spec, "TaskTemplate"), "ContainerSpec")
	var networks, mounts []any
	for _, id := range n.Networks {
		networks = append(networks, map[string]any{"Target": id})
	}
	object(spec, "TaskTemplate")["Networks"] = networks
	for _, m := range n.Mounts {
		mounts = append(mounts, map[string]any{"Type": m.Type, "Source": m.Source, "Target": m.Target, "ReadOnly": m.ReadOnly})
	}
	container["Mounts"] = mounts
	if len(n.Args) > 0 {
		container["Args"] = n.Args
	}
	env := map[string]secret.Text{}
	for _, v := range n.Env {
		env[v.Name] = v.Value
	}
	change := ops.Change{Env: env, Health: &n.Health, AddSecrets: n.Secrets, Ports: &n.Ports, Rollback: !n.Once,
		Limits: &ops.Resources{CPU: &n.LimitCPU, Memory: &n.LimitMemory}}
	view := ops.Service{Name: n.Name, Mode: ops.Replicated, Replicas: n.Replicas, Persistent: len(n.Mounts) > 0}
	for _, p := range n.Ports {
		view.HostPorts = view.HostPorts || p.Host
	}
	if err := apply(spec, view, change); err != nil {
		return "", err
	}
	if n.Once {
		// Not a job: of those an engine of 20.10 leaves the container behind.
		object(spec, "TaskTemplate")["RestartPolicy"] = map[string]any{"Condition": swarm.RestartPolicyConditionNone}
	} else if n.UpdateOrder != "" {
		object(spec, "UpdateConfig")["Order"] = n.UpdateOrder
	}
	body, err := json.Marshal(spec)
	if err != nil {
		return "", c.failed(err, "make the service %s", n.Name)
	}
	header := http.Header{}
	if n.Auth != nil {
		auth, err := encodeAuth(n.Image, *n.Auth)
		if err != nil {
			return "", err
		}
		header.Set(registry.AuthHeader, auth)
	}
	status, answer, err := c.post(ctx, "/services/create", url.Values{}, header, body)
	if err != nil {
		return "", c.failed(err, "make the service %s", n.Name)
	}
	if status == http.StatusConflict {
		return "", ops.Errorf(ops.OutOfDate, "There is a service %s already", n.Name)
	}
	if status < 200 || status > 299 {
		return "", c.failed(answerError(status, answer), "make the service %s", n.Name)
	}
	var made struct{ ID string }
	if err := json.Unmarshal(answer, &made); err != nil {
		return "", c.failed(err, "make the service %s", n.Name)
	}
	return made.ID, nil
}

// RemoveService removes a service; its volumes stay.
func (c *Client) RemoveService(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := c.api.ServiceRemove(ctx, id)
	if errdefs.IsNotFound(err) {
		return noService(id, err)
	}
	return c.failed(err, "remove the service %s", id)
}

// NetworkID returns the id of an overlay network, made if there is none.
func (c *Client) NetworkID(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	n, err := c.api.NetworkInspect(ctx, name, network.InspectOptions{Scope: "swarm"})
	if err == nil {
		if n.Driver != "overlay" {
			return "", ops.Errorf(ops.Invalid, "The network %s is a %s network, and apps on several nodes need an overlay", name, n.Driver).
				Then("Set swarm.network to another name.")
		}
		return n.ID, nil
	}
	if !errdefs.IsNotFound(err) {
		return "", c.failed(err, "read the network %s", name)
	}
	made, err := c.api.NetworkCreate(ctx, name, network.CreateOptions{Driver: "overlay", Scope: "swarm", Attachable: true})
	if err != nil {
		return "", c.failed(err, "make the network %s", name)
	}
	return made.ID, nil
}

// ImageDisk sums up the images on this engine.
func (c *Client) ImageDisk(ctx context.Context) (total, unused int64, err error) {
	usage, err := c.api.DiskUsage(ctx, types.DiskUsageOptions{Types: []types.DiskUsageObject{types.ImageObject}})
	if err != nil {
		return 0, 0, c.failed(err, "ask how much its images take")
	}
	for _, i := range usage.Images {
		own := max(0, i.Size-max(0, i.SharedSize))
		if i.Containers == 0 {
			unused += own
		}
		total += own
	}
	// The containerd image store counts compressed layers in an image's size, and not in this.
	total = max(total, usage.LayersSize)
	return total, min(unused, total), nil
}

// RemoveVolume removes a volume of this engine.
func (c *Client) RemoveVolume(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.failed(c.api.VolumeRemove(ctx, name, false), "remove the volume %s", name)
}

// CreateSecret keeps a swarm secret. One of that name that is there already is taken
// for it: secrets never change.
func (c *Client) CreateSecret(ctx context.Context, name string, value secret.Text, labels map[string]string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	made, err := c.api.SecretCreate(ctx, swarm.SecretSpec{Annotations: swarm.Annotations{Name: name, Labels: labels}, Data: []byte(value.Reveal())})
	if err == nil {
		return made.ID, nil
	}
	if !errdefs.IsConflict(err) && !nameTaken.in(err.Error()) {
		return "", c.failed(err, "keep the secret %s", name)
	}
	old, _, err := c.api.SecretInspectWithRaw(ctx, name)
	return old.ID, c.failed(err, "read the secret %s", name)
}

// Secrets returns the swarm secrets whose name begins with prefix, by name.
func (c *Client) Secrets(ctx context.Context, prefix string) ([]ops.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// The engine takes the filter "name" for the beginning of a name.
	list, err := c.api.SecretList(ctx, swarm.SecretListOptions{Filters: filters.NewArgs(filters.Arg("name", prefix))})
	if err != nil {
		return nil, c.failed(err, "list the secrets")
	}
	var out []ops.Secret
	for _, l := range list {
		out = append(out, ops.Secret{ID: l.ID, Name: l.Spec.Name})
	}
	slices.SortFunc(out, func(a, b ops.Secret) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// RemoveSecret removes a swarm secret that no service uses.
func (c *Client) RemoveSecret(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.failed(c.api.SecretRemove(ctx, id), "remove the secret %s", id)
}

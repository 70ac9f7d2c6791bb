package swarm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strconv"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/api/types/swarm"

	"waggle/ops"
)

// UpdateService makes the change on the version that svc was read at, in one
// write, and returns the warnings of the engine. Only what the change names is
// touched: the spec is changed as the engine wrote it, so fields that this
// program does not know stay as well. A change that changes nothing is not
// written. Where a service says which platforms its image is for, as docker service
// create has it do, another image's are put there, or none if its registry does not
// tell them.
//
// Errors are OutOfDate when the service changed since, NotFound when it is gone,
// and Invalid when it can't have such a change (replicas of a global service).
func (c *Client) UpdateService(ctx context.Context, svc ops.Service, change ops.Change) ([]string, error) {
	header := http.Header{}
	query := url.Values{}
	if change.Auth == nil {
		query.Set("registryAuthFrom", swarm.RegistryAuthFromSpec)
	} else {
		image := change.Image
		if image == "" {
			image = svc.Image
		}
		auth, err := encodeAuth(image, *change.Auth)
		if err != nil {
			return nil, err
		}
		header.Set(registry.AuthHeader, auth)
	}
	another := change.Image != "" && change.Image != svc.Image && len(svc.Platforms) > 0
	var platforms []swarm.Platform
	if another {
		platforms = c.platforms(ctx, change.Image, header.Get(registry.AuthHeader))
	}
	s, raw, err := c.current(ctx, svc)
	if err != nil {
		return nil, err
	}
	spec, err := rawSpec(raw)
	if err != nil {
		return nil, c.failed(err, "read the service %s", svc.Name)
	}
	before, _ := rawSpec(raw)
	if err := apply(spec, service(&s), change); err != nil {
		return nil, err
	}
	if another {
		placement := object(object(spec, "TaskTemplate"), "Placement")
		delete(placement, "Platforms")
		if len(platforms) > 0 {
			placement["Platforms"] = platforms
		}
	}
	if change.Auth == nil && reflect.DeepEqual(before, spec) {
		return nil, nil
	}
	return c.write(ctx, s, spec, query, header)
}

// platforms returns which platforms an image is for, as the docker command has it in a
// service; none when its registry does not tell.
func (c *Client) platforms(ctx context.Context, image, auth string) (out []swarm.Platform) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	about, err := c.api.DistributionInspect(ctx, image, auth)
	if err != nil {
		c.log.Info("which platforms an image is for is not known: any node may be given it", "image", image)
	}
	for _, p := range about.Platforms {
		if p.Architecture == "arm" {
			p.Architecture = "" // nodes say armv7l, which swarm does not take for it
		}
		out = append(out, swarm.Platform{Architecture: p.Architecture, OS: p.OS})
	}
	return out
}

// RollbackService goes back to the service's previous spec, on the version that
// svc was read at. Errors are those of UpdateService; NotFound also when there
// is no previous spec.
func (c *Client) RollbackService(ctx context.Context, svc ops.Service) error {
	s, raw, err := c.current(ctx, svc)
	if err != nil {
		return err
	}
	if s.PreviousSpec == nil {
		return ops.Errorf(ops.NotFound, "%s has no version before this one", s.Spec.Name)
	}
	spec, err := rawSpec(raw)
	if err != nil {
		return c.failed(err, "read the service %s", svc.Name)
	}
	_, err = c.write(ctx, s, spec, url.Values{"rollback": {"previous"}}, http.Header{})
	return err
}

// current reads the service again and makes sure that it is still at the
// version that svc was read at.
func (c *Client) current(ctx context.Context, svc ops.Service) (swarm.Service, []byte, error) {
	s, raw, err := c.inspect(ctx, svc.ID)
	if err != nil {
		if svc.Name != "" && ops.CodeOf(err) == ops.NotFound {
			err = noService(svc.Name, err)
		}
		return s, nil, err
	}
	if s.Version.Index != svc.Version {
		return s, nil, ops.Errorf(ops.OutOfDate, "%s changed since it was read", s.Spec.Name)
	}
	return s, raw, nil
}

// write sends a whole spec as the service's next version.
func (c *Client) write(ctx context.Context, s swarm.Service, spec map[string]any, query url.Values, header http.Header) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	body, err := json.Marshal(spec)
	if err != nil {
		return nil, c.failed(err, "update the service %s", s.Spec.Name)
	}
	query.Set("version", strconv.FormatUint(s.Version.Index, 10))
	status, answer, err := c.post(ctx, "/services/"+s.ID+"/update", query, header, body)
	if err != nil {
		return nil, c.failed(err, "update the service %s", s.Spec.Name)
	}
	if status < 200 || status > 299 {
		err := answerError(status, answer)
		if status == http.StatusNotFound {
			return nil, noService(s.Spec.Name, err)
		}
		return nil, c.failed(err, "update the service %s", s.Spec.Name)
	}
	var response swarm.ServiceUpdateResponse
	if err := json.Unmarshal(answer, &response); err != nil {
		c.log.Warn("unreadable answer to a service update", "service", s.Spec.Name, "err", err)
	}
	return response.Warnings, nil
}

// answerError is the error that an answer of the engine tells.
func answerError(status int, body []byte) error {
	var e struct{ Message string }
	if json.Unmarshal(body, &e) == nil && e.Message != "" {
		return fmt.Errorf("%s", e.Message)
	}
	return fmt.Errorf("%d %s: %s", status, http.StatusText(status), bytes.TrimSpace(body[:min(len(body), 200)]))
}

// rawSpec takes the spec out of a service as the engine sent it, numbers as
// they are written there.
func rawSpec(raw []byte) (map[string]any, error) {
	var s struct{ Spec map[string]any }
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&s); err != nil {
		return nil, err
	}
	if s.Spec == nil {
		return nil, fmt.Errorf("the engine sent no spec")
	}
	return s.Spec, nil
}

// apply makes the change in the spec.
func apply(spec map[string]any, svc ops.Service, change ops.Change) error {
	if change.Replicas != nil {
		if svc.Mode != ops.Replicated {
			return ops.Errorf(ops.Invalid, "%s is a %s service: it has no number of replicas", svc.Name, svc.Mode)
		}
		if *change.Replicas < 0 {
			return ops.Errorf(ops.Invalid, "%s cannot have %d replicas", svc.Name, *change.Replicas)
		}
		if *change.Replicas != svc.Replicas {
			object(object(spec, "Mode"), "Replicated")["Replicas"] = number(*change.Replicas)
		}
	}
	if change.Image != "" {
		template := object(spec, "TaskTemplate")
		if _, ok := template["ContainerSpec"].(map[string]any); !ok {
			return ops.Errorf(ops.Invalid, "%s does not run containers: it has no image", svc.Name)
		}
		object(template, "ContainerSpec")["Image"] = change.Image
	}
	if err := applySettings(spec, svc, change); err != nil {
		return err
	}
	if len(change.Labels) > 0 {
		labels := object(spec, "Labels")
		for k, v := range change.Labels {
			labels[k] = v
		}
	}
	if labels, ok := spec["Labels"].(map[string]any); ok {
		for _, k := range change.Unset {
			delete(labels, k)
		}
	}
	if change.Rollback {
		giveUpdateConfig(spec, svc)
	}
	return nil
}

func number(n int) json.Number { return json.Number(strconv.Itoa(n)) }

// object returns the object at key, made if there is none.
func object(in map[string]any, key string) map[string]any {
	o, ok := in[key].(map[string]any)
	if !ok {
		o = map[string]any{}
		in[key] = o
	}
	return o
}

// encodeAuth makes the X-Registry-Auth header for an image. Empty credentials
// are sent as such: they make the swarm forget those it has.
func encodeAuth(image string, auth ops.RegistryAuth) (string, error) {
	var config registry.AuthConfig
	if auth.Username != "" || !auth.Password.Empty() {
		domain, err := domainOf(image)
		if err != nil {
			return "", err
		}
		config = registry.AuthConfig{Username: auth.Username, Password: auth.Password.Reveal(), ServerAddress: domain}
	}
	return registry.EncodeAuthConfig(config)
}

// domainOf returns the registry that an image comes from.
func domainOf(image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", ops.Errorf(ops.Invalid, "%q is not an image: %w", image, err)
	}
	return reference.Domain(named), nil
}

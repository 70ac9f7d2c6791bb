package swarm

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/swarm"

	"waggle/ops"
)

// applySettings makes the part of a change that is about what tasks run with. As
// in apply, nothing is touched that the change does not name.
func applySettings(spec map[string]any, svc ops.Service, change ops.Change) error {
	template := object(spec, "TaskTemplate")
	container := func() map[string]any { return object(template, "ContainerSpec") }
	if len(change.Env) > 0 || len(change.UnsetEnv) > 0 {
		c := container()
		var out []any
		set := maps.Clone(change.Env)
		old, _ := c["Env"].([]any)
		for _, v := range old {
			kv, _ := v.(string)
			name, _, _ := strings.Cut(kv, "=")
			if slices.Contains(change.UnsetEnv, name) {
				continue
			}
			if value, ok := set[name]; ok {
				kv = name + "=" + value.Reveal()
				delete(set, name)
			}
			out = append(out, kv)
		}
		for _, name := range slices.Sorted(maps.Keys(set)) {
			out = append(out, name+"="+set[name].Reveal())
		}
		c["Env"] = out
	}
	resources := func(kind string, r *ops.Resources) {
		if r == nil {
			return
		}
		o := object(object(template, "Resources"), kind)
		if r.CPU != nil {
			o["NanoCPUs"] = number(int(*r.CPU))
		}
		if r.Memory != nil {
			o["MemoryBytes"] = number(int(*r.Memory))
		}
	}
	resources("Limits", change.Limits)
	resources("Reservations", change.Reserve)
	if h := change.Health; h != nil {
		if len(h.Test) == 0 {
			delete(container(), "Healthcheck")
		} else {
			o := object(container(), "Healthcheck")
			o["Test"] = h.Test
			for name, d := range map[string]time.Duration{"Interval": h.Interval, "Timeout": h.Timeout, "StartPeriod": h.Start} {
				setNumber(o, name, int(d))
			}
			setNumber(o, "Retries", h.Retries)
		}
	}
	if change.Constraints != nil {
		object(template, "Placement")["Constraints"] = *change.Constraints
	}
	if change.Ports != nil {
		object(spec, "EndpointSpec")["Ports"] = portSpecs(*change.Ports)
	}
	if len(change.AddSecrets) > 0 || len(change.DropSecrets) > 0 {
		c := container()
		old, _ := c["Secrets"].([]any)
		var out []any
		for _, v := range old {
			r, _ := v.(map[string]any)
			if id, _ := r["SecretID"].(string); slices.Contains(change.DropSecrets, id) {
				continue
			}
			out = append(out, v)
		}
		for _, r := range change.AddSecrets {
			out = append(out, secretSpec(r))
		}
		c["Secrets"] = out
	}
	if change.UpdateOrder != "" || change.Parallelism != nil {
		made := giveUpdateConfig(spec, svc)
		u := object(spec, "UpdateConfig")
		if made {
			u["Order"] = svc.UpdateOrder // as it was, unless it is set
		}
		if change.UpdateOrder != "" {
			u["Order"] = change.UpdateOrder
		}
		if change.Parallelism != nil {
			u["Parallelism"] = number(*change.Parallelism)
		}
	}
	return nil
}

// giveUpdateConfig gives a service without an update config of its own one by which a failed update
// goes back to the version before, and one for the way back. A config that leaves out the
// parallelism would replace all tasks at once. It reports whether the service had none.
func giveUpdateConfig(spec map[string]any, svc ops.Service) (made bool) {
	if u, _ := spec["UpdateConfig"].(map[string]any); len(u) > 0 {
		return false
	}
	order := swarm.UpdateOrderStartFirst
	if svc.Persistent || svc.HostPorts {
		order = swarm.UpdateOrderStopFirst
	}
	config := func(onFailure string) map[string]any {
		return map[string]any{
			"Parallelism":     number(1),
			"FailureAction":   onFailure,
			"Monitor":         number(int(defaultMonitor / time.Nanosecond)),
			"MaxFailureRatio": number(0),
			"Order":           order,
		}
	}
	spec["UpdateConfig"] = config(swarm.UpdateFailureActionRollback)
	// The way back goes by the config of the spec that it leads to.
	if spec["RollbackConfig"] == nil {
		spec["RollbackConfig"] = config(swarm.UpdateFailureActionPause)
	}
	return true
}

// setNumber sets a number that is left out where it is zero.
func setNumber(o map[string]any, name string, n int) {
	if n == 0 {
		delete(o, name)
		return
	}
	o[name] = number(n)
}

func portSpecs(ports []ops.Port) []any {
	out := []any{}
	for _, p := range ports {
		mode := swarm.PortConfigPublishModeIngress
		if p.Host {
			mode = swarm.PortConfigPublishModeHost
		}
		o := map[string]any{"TargetPort": number(p.Target), "Protocol": p.Protocol, "PublishMode": mode}
		if p.Published > 0 {
			o["PublishedPort"] = number(p.Published)
		}
		out = append(out, o)
	}
	return out
}

func secretSpec(r ops.SecretRef) map[string]any {
	return map[string]any{"SecretID": r.ID, "SecretName": r.Name,
		"File": map[string]any{"Name": r.File, "UID": "0", "GID": "0", "Mode": json.Number("292")}} // 0444, as the docker CLI has it
}

package swarm

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"waggle/ops"
)

// specOf decodes a spec as any JSON, numbers as they are written.
func specOf(t *testing.T, body string) map[string]any {
	t.Helper()
	var spec map[string]any
	d := json.NewDecoder(strings.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

// set changes the value at a path of a spec, "Mode.Replicated.Replicas".
func set(spec map[string]any, path string, value any) {
	keys := strings.Split(path, "/")
	for _, k := range keys[:len(keys)-1] {
		if spec[k] == nil {
			spec[k] = map[string]any{}
		}
		spec = spec[k].(map[string]any)
	}
	if value == nil {
		delete(spec, keys[len(keys)-1])
		return
	}
	spec[keys[len(keys)-1]] = value
}

func richEngine(t *testing.T, raw string, update http.HandlerFunc) (*Client, *engine, ops.Service) {
	t.Helper()
	c, e := fake(t, map[string]http.HandlerFunc{
		"GET /services/" + richID: says(raw), "GET /services/rich": says(raw),
		"POST /services/" + richID + "/update": update,
	})
	s, err := c.Service(t.Context(), "rich")
	if err != nil {
		t.Fatal(err)
	}
	return c, e, s
}

func TestUpdateTouchesOnlyWhatIsAsked(t *testing.T) {
	six, two := 6, 2
	raw := data(t, "service-rich.json")
	const platforms = "TaskTemplate/Placement/Platforms" // the fake engine knows no image's
	for name, c := range map[string]struct {
		change ops.Change
		want   map[string]any // path to value, all that may differ
	}{
		"replicas": {ops.Change{Replicas: &six}, map[string]any{"Mode/Replicated/Replicas": json.Number("6")}},
		"image":    {ops.Change{Image: "r/x:1@sha256:0"}, map[string]any{"TaskTemplate/ContainerSpec/Image": "r/x:1@sha256:0", platforms: nil}},
		"labels": {ops.Change{Labels: map[string]string{"waggle.repo": "r", "a": "c"}},
			map[string]any{"Labels/waggle.repo": "r", "Labels/a": "c"}},
		"unset":                            {ops.Change{Unset: []string{"a", "none"}}, map[string]any{"Labels/a": nil}},
		"own update config stays":          {ops.Change{Image: "r/x:1", Rollback: true}, map[string]any{"TaskTemplate/ContainerSpec/Image": "r/x:1", platforms: nil}},
		"all together":                     {ops.Change{Replicas: &six, Image: "r/x:2", Labels: map[string]string{"b": "1"}}, map[string]any{"Mode/Replicated/Replicas": json.Number("6"), "TaskTemplate/ContainerSpec/Image": "r/x:2", platforms: nil, "Labels/b": "1"}},
		"same replicas with another label": {ops.Change{Replicas: &two, Labels: map[string]string{"b": "1"}}, map[string]any{"Labels/b": "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			client, e, s := richEngine(t, raw, says(`{"Warnings":["careful"]}`))
			warnings, err := client.UpdateService(t.Context(), s, c.change)
			if err != nil {
				t.Fatal(err)
			}
			if len(warnings) != 1 || warnings[0] != "careful" {
				t.Errorf("warnings = %q", warnings)
			}
			want := specOf(t, raw)["Spec"].(map[string]any)
			for path, value := range c.want {
				set(want, path, value)
			}
			r := e.last(t)
			if got := specOf(t, r.body); !reflect.DeepEqual(got, want) {
				a, _ := json.Marshal(want)
				t.Errorf("the engine was sent\n%s\nwant\n%s", r.body, a)
			}
			q := r.URL.Query()
			if q.Get("version") != "27" || q.Get("registryAuthFrom") != "spec" || q.Has("rollback") || r.Header.Get("X-Registry-Auth") != "" {
				t.Errorf("query %v, auth %q", q, r.Header.Get("X-Registry-Auth"))
			}
			if !strings.HasPrefix(r.URL.Path, "/v1.41/") {
				t.Errorf("path %s is not of the negotiated version", r.URL.Path)
			}
		})
	}
}

// Where a service is for its image's platforms, it is for another image's afterwards.
func TestUpdateOfPlatforms(t *testing.T) {
	image := "r.example.com/x:2@sha256:" + strings.Repeat("0", 64)
	mia := &ops.RegistryAuth{Username: "mia", Password: "canary"}
	platform := func(arch string) any { return map[string]any{"Architecture": arch, "OS": "linux"} }
	for name, c := range map[string]struct {
		change ops.Change
		had    any
		answer http.HandlerFunc
		want   any
		asked  int32
	}{
		"another":        {ops.Change{Image: image, Auth: mia}, []any{platform("arm64")}, says(`{"Platforms":[{"architecture":"amd64","os":"linux"}]}`), []any{platform("amd64")}, 1},
		"several":        {ops.Change{Image: image, Auth: mia}, []any{platform("arm64")}, says(`{"Platforms":[{"architecture":"amd64","os":"linux"},{"architecture":"arm","os":"linux","variant":"v7"}]}`), []any{platform("amd64"), map[string]any{"OS": "linux"}}, 1},
		"not told":       {ops.Change{Image: image, Auth: mia}, []any{platform("arm64")}, says(`{}`), nil, 1},
		"no registry":    {ops.Change{Image: image, Auth: mia}, []any{platform("arm64")}, fails(500, "no route to host"), nil, 1},
		"any node":       {ops.Change{Image: image, Auth: mia}, nil, says(`{"Platforms":[{"architecture":"amd64","os":"linux"}]}`), nil, 0},
		"the same image": {ops.Change{Auth: mia}, []any{platform("arm64")}, says(`{}`), []any{platform("arm64")}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			service := specOf(t, data(t, "service-rich.json"))
			set(service["Spec"].(map[string]any), "TaskTemplate/Placement/Platforms", c.had)
			raw, _ := json.Marshal(service)
			client, e, s := richEngine(t, string(raw), says(`{}`))
			var asked atomic.Int32
			e.answers["GET /distribution/"+image+"/json"] = func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				if auth, _ := base64.URLEncoding.DecodeString(r.Header.Get("X-Registry-Auth")); !strings.Contains(string(auth), "canary") {
					t.Errorf("asked with %s", auth)
				}
				c.answer(w, r)
			}
			if _, err := client.UpdateService(t.Context(), s, c.change); err != nil {
				t.Fatal(err)
			}
			placement := specOf(t, e.last(t).body)["TaskTemplate"].(map[string]any)["Placement"].(map[string]any)
			if got := placement["Platforms"]; !reflect.DeepEqual(got, c.want) || asked.Load() != c.asked || placement["MaxReplicas"] == nil {
				t.Errorf("placement %v, asked %d times; want %v", placement, asked.Load(), c.want)
			}
		})
	}
}

func TestUpdateThatChangesNothingIsNotWritten(t *testing.T) {
	client, e, s := richEngine(t, data(t, "service-rich.json"), says(`{}`))
	two := 2
	if _, err := client.UpdateService(t.Context(), s, ops.Change{Replicas: &two, Image: s.Image, Labels: map[string]string{"a": "b"}, Rollback: true}); err != nil {
		t.Fatal(err)
	}
	if e.writes() != 0 {
		t.Error("the service was written")
	}
}

func TestRollbackGivesAnUpdateConfig(t *testing.T) {
	for name, c := range map[string]struct {
		with  func(spec map[string]any)
		order string
	}{
		"plain": {func(map[string]any) {}, "start-first"},
		"volume": {func(s map[string]any) {
			set(s, "TaskTemplate/ContainerSpec/Mounts", []any{map[string]any{"Type": "volume"}})
		}, "stop-first"},
		"bind": {func(s map[string]any) {
			set(s, "TaskTemplate/ContainerSpec/Mounts", []any{map[string]any{"Type": "bind"}})
		}, "stop-first"},
		"tmpfs": {func(s map[string]any) {
			set(s, "TaskTemplate/ContainerSpec/Mounts", []any{map[string]any{"Type": "tmpfs"}})
		}, "start-first"},
		"host port": {func(s map[string]any) { set(s, "EndpointSpec/Ports", []any{map[string]any{"PublishMode": "host"}}) }, "stop-first"},
		"ingress":   {func(s map[string]any) { set(s, "EndpointSpec/Ports", []any{map[string]any{"PublishMode": "ingress"}}) }, "start-first"},
	} {
		t.Run(name, func(t *testing.T) {
			service := specOf(t, data(t, "service-rich.json"))
			spec := service["Spec"].(map[string]any)
			for _, path := range []string{"UpdateConfig", "TaskTemplate/ContainerSpec/Mounts", "EndpointSpec/Ports"} {
				set(spec, path, nil)
			}
			c.with(spec)
			raw, _ := json.Marshal(service)
			client, e, s := richEngine(t, string(raw), says(`{}`))
			if _, err := client.UpdateService(t.Context(), s, ops.Change{Image: "r/x:1", Rollback: true}); err != nil {
				t.Fatal(err)
			}
			want := map[string]any{"Parallelism": json.Number("1"), "FailureAction": "rollback", "Monitor": json.Number("5000000000"),
				"MaxFailureRatio": json.Number("0"), "Order": c.order}
			if got := specOf(t, e.last(t).body)["UpdateConfig"]; !reflect.DeepEqual(got, want) {
				t.Errorf("update config = %v, want %v", got, want)
			}
			if _, err := client.UpdateService(t.Context(), s, ops.Change{Image: "r/x:1"}); err != nil {
				t.Fatal(err)
			}
			if got, ok := specOf(t, e.last(t).body)["UpdateConfig"]; ok {
				t.Errorf("update config without Rollback = %v", got)
			}
		})
	}
}

func TestUpdateCredentials(t *testing.T) {
	raw := data(t, "service-rich.json")
	for name, c := range map[string]struct {
		change ops.Change
		want   map[string]any
	}{
		"given":         {ops.Change{Auth: &ops.RegistryAuth{Username: "mia", Password: "canary"}}, map[string]any{"username": "mia", "password": "canary", "serveraddress": "10.99.7.1:5001"}},
		"new image":     {ops.Change{Image: "r.example.com/x:1", Auth: &ops.RegistryAuth{Username: "mia", Password: "canary"}}, map[string]any{"username": "mia", "password": "canary", "serveraddress": "r.example.com"}},
		"docker hub":    {ops.Change{Image: "mia/x:1", Auth: &ops.RegistryAuth{Username: "mia", Password: "canary"}}, map[string]any{"username": "mia", "password": "canary", "serveraddress": "docker.io"}},
		"none any more": {ops.Change{Auth: &ops.RegistryAuth{}}, map[string]any{}},
	} {
		t.Run(name, func(t *testing.T) {
			client, e, s := richEngine(t, raw, says(`{}`))
			if _, err := client.UpdateService(t.Context(), s, c.change); err != nil {
				t.Fatal(err)
			}
			r := e.last(t)
			header, err := base64.URLEncoding.DecodeString(r.Header.Get("X-Registry-Auth"))
			if err != nil || len(header) == 0 {
				t.Fatalf("X-Registry-Auth: %q, %v", r.Header.Get("X-Registry-Auth"), err)
			}
			if got := specOf(t, string(header)); !reflect.DeepEqual(got, c.want) {
				t.Errorf("credentials = %v", got)
			}
			if q := r.URL.Query(); q.Has("registryAuthFrom") {
				t.Errorf("query %v", q)
			}
			if strings.Contains(r.body, "canary") {
				t.Error("the password is in the spec")
			}
		})
	}
}

func TestUpdateOfAnotherVersion(t *testing.T) {
	raw := data(t, "service-rich.json")
	six := 6
	t.Run("seen when read again", func(t *testing.T) {
		client, e, s := richEngine(t, raw, says(`{}`))
		s.Version = 26
		_, err := client.UpdateService(t.Context(), s, ops.Change{Replicas: &six})
		wantError(t, err, ops.OutOfDate, "rich changed")
		wantError(t, client.RollbackService(t.Context(), s), ops.OutOfDate, "rich changed")
		if e.writes() != 0 {
			t.Error("it was written all the same")
		}
	})
	t.Run("seen by the engine", func(t *testing.T) {
		client, _, s := richEngine(t, raw, fails(500, "rpc error: code = Unknown desc = update out of sequence"))
		_, err := client.UpdateService(t.Context(), s, ops.Change{Replicas: &six})
		wantError(t, err, ops.OutOfDate, "changed since")
	})
	t.Run("gone", func(t *testing.T) {
		client, _, s := richEngine(t, raw, fails(404, "service "+richID+" not found"))
		_, err := client.UpdateService(t.Context(), s, ops.Change{Replicas: &six})
		wantError(t, err, ops.NotFound, "There is no service rich")
		s.ID = "another"
		_, err = client.UpdateService(t.Context(), s, ops.Change{Replicas: &six})
		wantError(t, err, ops.NotFound, "There is no service rich")
	})
}

func TestUpdateThatCannotBe(t *testing.T) {
	service := specOf(t, data(t, "service-rich.json"))
	set(service, "Spec/Mode", map[string]any{"Global": map[string]any{}})
	raw, _ := json.Marshal(service)
	six, less := 6, -1
	client, e, s := richEngine(t, string(raw), says(`{}`))
	_, err := client.UpdateService(t.Context(), s, ops.Change{Replicas: &six})
	wantError(t, err, ops.Invalid, "global")
	client, _, s = richEngine(t, data(t, "service-rich.json"), says(`{}`))
	_, err = client.UpdateService(t.Context(), s, ops.Change{Replicas: &less})
	wantError(t, err, ops.Invalid, "-1 replicas")
	if e.writes() != 0 {
		t.Error("it was written")
	}
}

// TestOrderGivesAnUpdateConfig: a setting of the update alone has a failed update go back too, and
// leaves the rest of what the engine does by default.
func TestOrderGivesAnUpdateConfig(t *testing.T) {
	two := 2
	for name, c := range map[string]struct {
		change      ops.Change
		own         bool // the service has a config
		order       string
		parallelism json.Number
		onFailure   string
	}{
		"order":            {ops.Change{UpdateOrder: "start-first"}, false, "start-first", "1", "rollback"},
		"parallelism":      {ops.Change{Parallelism: &two}, false, "stop-first", "2", "rollback"},
		"both, and deploy": {ops.Change{UpdateOrder: "stop-first", Parallelism: &two, Image: "r/x:1", Rollback: true}, false, "stop-first", "2", "rollback"},
		"its own":          {ops.Change{UpdateOrder: "start-first"}, true, "start-first", "4", "continue"},
	} {
		t.Run(name, func(t *testing.T) {
			service := specOf(t, data(t, "service-rich.json"))
			spec := service["Spec"].(map[string]any)
			set(spec, "UpdateConfig", nil)
			set(spec, "RollbackConfig", nil)
			if c.own {
				set(spec, "UpdateConfig", map[string]any{"Parallelism": 4, "FailureAction": "continue", "Monitor": 5000000000, "MaxFailureRatio": 0, "Order": "stop-first"})
			}
			raw, _ := json.Marshal(service)
			client, e, s := richEngine(t, string(raw), says(`{}`))
			if _, err := client.UpdateService(t.Context(), s, c.change); err != nil {
				t.Fatal(err)
			}
			want := map[string]any{"Parallelism": c.parallelism, "FailureAction": c.onFailure, "Monitor": json.Number("5000000000"),
				"MaxFailureRatio": json.Number("0"), "Order": c.order}
			got := specOf(t, e.last(t).body)
			if !reflect.DeepEqual(got["UpdateConfig"], want) {
				t.Errorf("update config = %v, want %v", got["UpdateConfig"], want)
			}
			if back, _ := got["RollbackConfig"].(map[string]any); (back["FailureAction"] == "pause") == c.own {
				t.Errorf("rollback config = %v", back)
			}
		})
	}
}

func TestRollbackService(t *testing.T) {
	service := specOf(t, data(t, "service-rich.json"))
	client, e, s := richEngine(t, data(t, "service-rich.json"), says(`{}`))
	wantError(t, client.RollbackService(t.Context(), s), ops.NotFound, "no version before")
	if e.writes() != 0 {
		t.Error("it was written")
	}
	service["PreviousSpec"] = service["Spec"]
	raw, _ := json.Marshal(service)
	client, e, s = richEngine(t, string(raw), says(`{}`))
	if err := client.RollbackService(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	r := e.last(t)
	if q := r.URL.Query(); q.Get("rollback") != "previous" || q.Get("version") != "27" {
		t.Errorf("query %v", q)
	}
	if !reflect.DeepEqual(specOf(t, r.body), service["Spec"]) {
		t.Errorf("spec %s", r.body)
	}
}

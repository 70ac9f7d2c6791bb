package swarm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"waggle/ops"
)

func TestConfigs(t *testing.T) {
	c, e := fake(t, map[string]http.HandlerFunc{
		"GET /configs": says(`[
			{"ID":"two","Version":{"Index":20},"Spec":{"Name":"waggle-registries-2","Data":"eyJ9"}},
			{"ID":"one","Version":{"Index":10},"Spec":{"Name":"waggle-registries-1","Data":"e30="}}]`),
		"POST /configs/create": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, `{"ID":"three"}`)
		},
	})
	got, err := c.Configs(t.Context(), "waggle-registries-")
	if err != nil || len(got) != 2 || got[0].Name != "waggle-registries-1" || string(got[0].Data) != "{}" || got[1].Version != 20 || got[1].ID != "two" {
		t.Errorf("configs %+v, %v", got, err)
	}
	if f := e.requests[0].URL.Query().Get("filters"); !strings.Contains(f, `"name":{"waggle-registries-":true}`) {
		t.Errorf("filtered by %s", f)
	}
	id, err := c.CreateConfig(t.Context(), "waggle-registries-3", []byte(`{"x":1}`))
	if err != nil || id != "three" {
		t.Errorf("created %q, %v", id, err)
	}
	var spec struct {
		Name string
		Data []byte
	}
	if err := json.Unmarshal([]byte(e.last(t).body), &spec); err != nil || spec.Name != "waggle-registries-3" || string(spec.Data) != `{"x":1}` {
		t.Errorf("sent %+v, %v", spec, err)
	}
}

func TestConfigErrors(t *testing.T) {
	c, _ := fake(t, map[string]http.HandlerFunc{
		"POST /configs/create":  fails(409, "rpc error: code = AlreadyExists desc = config x already exists"),
		"DELETE /configs/inuse": fails(400, "rpc error: code = InvalidArgument desc = config 'x' is in use by the following service: y"),
		"GET /configs":          fails(503, "This node is not a swarm manager."),
	})
	_, err := c.CreateConfig(t.Context(), "x", nil)
	wantError(t, err, ops.OutOfDate, "There is a config x already")
	wantError(t, c.RemoveConfig(t.Context(), "gone"), ops.NotFound, "")
	wantError(t, c.RemoveConfig(t.Context(), "inuse"), ops.Internal, "in use")
	_, err = c.Configs(t.Context(), "x")
	wantError(t, err, ops.Unavailable, "is not a swarm manager")
}

func TestRealConfigs(t *testing.T) {
	r := onLab(t)
	ctx := t.Context()
	const prefix = "waggle-test-configs-"
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		all, err := r.Configs(ctx, prefix)
		if err != nil {
			t.Error(err)
		}
		for _, c := range all {
			if err := r.RemoveConfig(ctx, c.ID); err != nil {
				t.Error(err)
			}
		}
	})
	ids := map[string]string{}
	for i := range 3 {
		name := fmt.Sprint(prefix, i)
		id, err := r.CreateConfig(ctx, name, []byte("data of "+name))
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = id
	}
	all, err := r.Configs(ctx, prefix)
	if err != nil || len(all) != 3 {
		t.Fatalf("%d configs, %v", len(all), err)
	}
	for i, c := range all {
		if c.Name != fmt.Sprint(prefix, i) || string(c.Data) != "data of "+c.Name || c.ID != ids[c.Name] {
			t.Errorf("config %d: %+v", i, c)
		}
	}
	if !slices.IsSortedFunc(all, func(a, b ops.Config) int { return int(a.Version) - int(b.Version) }) || all[0].Version == all[2].Version {
		t.Errorf("versions %d %d %d, want them to grow", all[0].Version, all[1].Version, all[2].Version)
	}
	_, err = r.CreateConfig(ctx, prefix+"1", []byte("other"))
	wantError(t, err, ops.OutOfDate, "already")
	if err := r.RemoveConfig(ctx, ids[prefix+"1"]); err != nil {
		t.Fatal(err)
	}
	wantError(t, r.RemoveConfig(ctx, ids[prefix+"1"]), ops.NotFound, "")
	if all, err = r.Configs(ctx, prefix); err != nil || len(all) != 2 {
		t.Errorf("%d configs, %v", len(all), err)
	}
	if _, err := r.CreateConfig(ctx, prefix+"big", make([]byte, 450_000)); err != nil {
		t.Errorf("450 KB: %v", err)
	}
}

// The registries themselves, with the compare-and-swap of a real swarm.
func TestRealRegistriesAreKept(t *testing.T) {
	r := onLab(t)
	before, err := ops.ReadRegistries(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	results := make(chan error)
	for i := range 4 {
		rs, err := before.Add(ops.Registry{Name: fmt.Sprint("race", i), Domain: "race.example.com", Prefix: fmt.Sprint("p", i)})
		if err != nil {
			t.Fatal(err)
		}
		go func() { results <- ops.SaveRegistries(t.Context(), r, rs, r.log) }()
	}
	won := 0
	for range 4 {
		switch err := <-results; {
		case err == nil:
			won++
		case ops.CodeOf(err) != ops.OutOfDate:
			t.Errorf("a loser is told %v", err)
		}
	}
	after, err := ops.ReadRegistries(t.Context(), r)
	if err != nil || won != 1 || len(after.List) != len(before.List)+1 {
		t.Fatalf("%d have won, registries %v, %v", won, after.List, err)
	}
	after.List = before.List
	if err := ops.SaveRegistries(t.Context(), r, after, r.log); err != nil {
		t.Error(err)
	}
}

func TestTagImageAndSecrets(t *testing.T) {
	c, e := fake(t, map[string]http.HandlerFunc{
		"POST /images/docker.io/library/pizza:1/tag": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) },
		"GET /secrets": says(`[{"ID":"b","Spec":{"Name":"x-2"}},{"ID":"a","Spec":{"Name":"x-1"}}]`),
	})
	if err := c.TagImage(t.Context(), "docker.io/library/pizza:1", "reg:5000/acme/pizza:1"); err != nil {
		t.Error(err)
	}
	if q := e.last(t).URL.Query(); q.Get("repo") != "reg:5000/acme/pizza" || q.Get("tag") != "1" {
		t.Errorf("tagged %v", q)
	}
	wantError(t, c.TagImage(t.Context(), "none:1", "reg:5000/none:1"), ops.NotFound, "does not have the image none:1")
	got, err := c.Secrets(t.Context(), "x-")
	if err != nil || len(got) != 2 || got[0] != (ops.Secret{ID: "a", Name: "x-1"}) {
		t.Errorf("secrets %+v, %v", got, err)
	}
}

package swarm

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"waggle/ops"
)

const richID = "udnnzk7nxhqc99hixpewux2ye"

func TestServicesOfEveryMode(t *testing.T) {
	c, e := fake(t, map[string]http.HandlerFunc{"GET /services": says(data(t, "services.json"))})
	list, err := c.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := e.requests[0].URL.Query().Get("status"); got != "true" {
		t.Errorf("status = %q", got)
	}
	type row struct {
		mode                       ops.Mode
		replicas, running, desired int
	}
	want := map[string]row{
		"crash": {ops.Replicated, 1, 0, 1}, "gjob": {ops.GlobalJob, 0, 0, 0}, "glob": {ops.Global, 0, 1, 1},
		"job": {ops.ReplicatedJob, 0, 0, 1}, "plain": {ops.Replicated, 2, 2, 2}, "rich": {ops.Replicated, 2, 0, 2}, "tty": {ops.Replicated, 1, 1, 1},
	}
	names := []string{}
	for _, s := range list {
		names = append(names, s.Name)
		if got := (row{s.Mode, s.Replicas, s.Running, s.Desired}); got != want[s.Name] {
			t.Errorf("%s is %+v, want %+v", s.Name, got, want[s.Name])
		}
	}
	if got := strings.Join(names, " "); got != "crash gjob glob job plain rich tty" {
		t.Errorf("services: %s", got)
	}
}

func TestServiceWithEverything(t *testing.T) {
	c, _ := fake(t, map[string]http.HandlerFunc{"GET /services/rich": says(data(t, "service-rich.json"))})
	s, err := c.Service(t.Context(), "rich")
	if err != nil {
		t.Fatal(err)
	}
	if s.ID != richID || s.Version != 27 || s.Labels["a"] != "b" || !s.Persistent || !s.HostPorts ||
		s.Monitor != time.Second || s.MaxPerNode != 5 || !strings.HasPrefix(s.Image, "10.99.7.1:5001/busybox:1@sha256:") {
		t.Errorf("service = %+v", s)
	}
}

func TestServiceIsFoundByItsExactName(t *testing.T) {
	rich := says(data(t, "service-rich.json"))
	c, e := fake(t, map[string]http.HandlerFunc{
		"GET /services/rich": rich, "GET /services/" + richID: rich,
		"GET /services/udnn": rich, // Docker finds services by the beginning of their id
	})
	for name, code := range map[string]ops.Code{
		"rich": "", richID: "", "udnn": ops.NotFound, "other": ops.NotFound, "": ops.NotFound,
		"../nodes/n1": ops.NotFound, "a/b": ops.NotFound, "rich?x=1": ops.NotFound, "..": ops.NotFound,
	} {
		if _, err := c.Service(t.Context(), name); ops.CodeOf(err) != code {
			t.Errorf("Service(%q): %v, want code %q", name, err, code)
		}
	}
	for _, r := range e.requests {
		if !strings.Contains(r.URL.Path, "/services/") {
			t.Errorf("the engine was asked for %s", r.URL)
		}
	}
}

func TestNodes(t *testing.T) {
	c, _ := fake(t, map[string]http.HandlerFunc{"GET /nodes": says(data(t, "nodes.json"))})
	nodes, err := c.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := ops.Node{ID: "o2m76t4vxov1oo5tf2vgoq1ko", Hostname: "node1", Addr: "10.99.7.1", Role: "manager", Leader: true, Availability: "active", State: "ready",
		Version: 30, Labels: map[string]string{}, Manager: true, Reachable: true, ManagerAt: "10.99.7.1:2377", EngineVersion: "20.10.24+dfsg1", OS: "linux", Arch: "x86_64", CPUs: 2000000000, Memory: 25276026880}
	if len(nodes) != 1 || !reflect.DeepEqual(nodes[0], want) {
		t.Errorf("nodes = %+v, want %+v", nodes, want)
	}
}

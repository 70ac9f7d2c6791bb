package swarm

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"waggle/ops"
)

func TestInfo(t *testing.T) {
	for name, c := range map[string]struct{ swarm, problem string }{
		"manager":  {`{"NodeID":"n1","LocalNodeState":"active","ControlAvailable":true,"Cluster":{"ID":"s1"}}`, ""},
		"no swarm": {`{"NodeID":"","LocalNodeState":"inactive","ControlAvailable":false}`, "this engine is in no swarm"},
		"worker":   {`{"NodeID":"n1","LocalNodeState":"active","ControlAvailable":false}`, "this engine is a worker, not a manager"},
		"locked":   {`{"NodeID":"","LocalNodeState":"locked","ControlAvailable":false}`, "this engine's swarm is locked"},
		"no quorum": {`{"NodeID":"n1","LocalNodeState":"active","ControlAvailable":true,"Error":"rpc error: code = Unknown desc = The swarm does not have a leader."}`,
			"The swarm does not have a leader."},
		"no leader": {`{"NodeID":"n1","LocalNodeState":"active","ControlAvailable":true}`, "this swarm has no leader: too few of its managers are up"},
		"pending":   {`{"NodeID":"n1","LocalNodeState":"pending","ControlAvailable":false}`, "this engine's swarm is pending"},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := fake(t, map[string]http.HandlerFunc{"GET /info": says(`{"Name":"node1","ServerVersion":"20.10.24","Swarm":` + c.swarm + `}`)})
			i, err := client.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if i.Problem != c.problem {
				t.Errorf("problem is %q, want %q", i.Problem, c.problem)
			}
			if i.EngineVersion != "20.10.24" || i.APIVersion != "1.41" || i.Hostname != "node1" {
				t.Errorf("info = %+v", i)
			}
		})
	}
}

func TestErrorsOfTheEngine(t *testing.T) {
	for name, c := range map[string]struct {
		status   int
		message  string
		code     ops.Code
		sentence string
	}{
		"out of sequence": {500, "rpc error: code = Unknown desc = update out of sequence", ops.OutOfDate, "changed since"},
		"no manager": {503, "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\".",
			ops.Unavailable, "is not a swarm manager"},
		"no leader": {500, "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are online.",
			ops.Unavailable, "do not agree on a leader"},
		"no quorum": {500, "rpc error: code = DeadlineExceeded desc = context deadline exceeded", ops.Unavailable, "do not agree on a leader"},
		"invalid":   {400, "rpc error: code = InvalidArgument desc = name must be valid", ops.Internal, "refused to list the services: name must be valid"},
		"else":      {500, "something else", ops.Internal, "something else"},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := fake(t, map[string]http.HandlerFunc{"GET /services": fails(c.status, c.message)})
			_, err := client.Services(t.Context())
			wantError(t, err, c.code, c.sentence)
		})
	}
}

func TestEngineThatIsNotThere(t *testing.T) {
	for name, host := range map[string]string{"socket": "unix:///nonexistent/docker.sock", "tcp": "tcp://127.0.0.1:1"} {
		t.Run(name, func(t *testing.T) {
			c, err := Dial(Options{Host: host})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = c.Info(t.Context())
			if e := wantError(t, err, ops.Unavailable, "Docker does not answer at "+host); e.Next == "" {
				t.Error("no next step")
			}
		})
	}
}

func TestEngineThatHangs(t *testing.T) {
	release := make(chan struct{})
	c, _ := fake(t, map[string]http.HandlerFunc{"GET /services": func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}})
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Services(ctx)
	if e := wantError(t, err, ops.Unavailable, "did not answer in time"); e.Next == "" {
		t.Error("no next step")
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	_, err = c.Services(ctx)
	wantError(t, err, ops.Canceled, "Called off")
}

func TestDialRefusesWhatItCannotUse(t *testing.T) {
	for _, host := range []string{"ssh://root@node", "npipe:////./pipe/docker", "nonsense", "unix://"} {
		_, err := Dial(Options{Host: host})
		wantError(t, err, ops.Invalid, "docker.host")
	}
	_, err := Dial(Options{Host: "tcp://node:2376", CertDir: "/nonexistent"})
	wantError(t, err, ops.Invalid, "docker.host")
}

func TestDialWithAnotherDialer(t *testing.T) {
	c, _ := fake(t, map[string]http.HandlerFunc{
		"GET /info":          says(`{"ServerVersion":"20.10.24","Swarm":{"LocalNodeState":"inactive"}}`),
		"GET /services/rich": says(data(t, "service-rich.json")), "POST /services/" + richID + "/update": says(`{}`)})
	dialed := 0
	over, err := Dial(Options{Host: "ssh://root@node", Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		dialed++
		return c.api.Dialer()(ctx)
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer over.Close()
	if i, err := over.Info(t.Context()); err != nil || i.EngineVersion != "20.10.24" || dialed == 0 {
		t.Errorf("info = %+v, %v after %d dials", i, err, dialed)
	}
}

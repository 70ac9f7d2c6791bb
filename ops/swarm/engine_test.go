package swarm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"waggle/ops"
)

func TestMachine(t *testing.T) {
	// It is asked at noon and answers after 200 ms, by a clock that is an hour ahead.
	clock := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	const info = `{"Name":"node1","ServerVersion":"20.10.24+dfsg1","OperatingSystem":"Debian GNU/Linux 12 (bookworm)","OSType":"linux","Architecture":"x86_64",
		"NCPU":4,"MemTotal":8589934592,"SystemTime":"2026-03-01T14:00:00.1+01:00","Swarm":%s}`
	for name, c := range map[string]struct {
		swarm string
		want  ops.Membership
	}{
		"in none":      {`{"LocalNodeState":"inactive"}`, ops.Membership{State: "inactive"}},
		"says nothing": {`{}`, ops.Membership{State: "inactive"}},
		"worker": {`{"LocalNodeState":"active","NodeID":"n2","RemoteManagers":[{"NodeID":"n1","Addr":"10.0.0.11:2377"},{"NodeID":"n3","Addr":"10.0.0.13:2377"}]}`,
			ops.Membership{State: "active", NodeID: "n2", Managers: []string{"10.0.0.11:2377", "10.0.0.13:2377"}}},
		"manager": {`{"LocalNodeState":"active","NodeID":"n1","ControlAvailable":true,"Cluster":{"ID":"c1"},"RemoteManagers":[{"NodeID":"n1","Addr":"10.0.0.11:2377"}]}`,
			ops.Membership{State: "active", NodeID: "n1", Manager: true, ClusterID: "c1", Managers: []string{"10.0.0.11:2377"}}},
		"joining": {`{"LocalNodeState":"pending","Error":"rpc error: code = Unavailable desc = connection refused"}`,
			ops.Membership{State: "pending", Error: "connection refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := fake(t, map[string]http.HandlerFunc{"GET /info": says(fmt.Sprintf(info, c.swarm))})
			asked := 0
			client.now = func() time.Time {
				asked++
				return clock.Add(time.Duration(asked-1) * 200 * time.Millisecond)
			}
			m, err := client.Machine(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			want := ops.Machine{Hostname: "node1", EngineVersion: "20.10.24+dfsg1", APIVersion: "1.41", ImageStore: "classic", OS: "Debian GNU/Linux 12 (bookworm)", OSType: "linux",
				Arch: "x86_64", CPUs: 4, Memory: 8 << 30, ClockAhead: time.Hour, Swarm: c.want}
			if !reflect.DeepEqual(m, want) {
				t.Errorf("got  %+v\nwant %+v", m, want)
			}
		})
	}
}

func TestEnginesThatCannotJoin(t *testing.T) {
	for name, c := range map[string]struct {
		info           http.HandlerFunc
		sentence, next string
	}{
		"old":      {says(`{"ServerVersion":"18.09.1"}`), "Docker 18.09.1 at unix:///", "Upgrade Docker there"},
		"very old": {says(`{"ServerVersion":"1.13.1"}`), "is too old: 19.03 is the oldest that can join", "Upgrade Docker there"},
		"too new": {fails(400, "client version 1.51 is too old. Minimum supported API version is 1.60, please upgrade your client to a newer version"),
			"is newer than what Waggle can speak with", "Upgrade Waggle"},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := fake(t, map[string]http.HandlerFunc{"GET /info": c.info})
			_, err := client.Machine(t.Context())
			if e := wantError(t, err, ops.Failed, c.sentence); !strings.Contains(e.Next, c.next) {
				t.Errorf("next step %q, want %q", e.Next, c.next)
			}
		})
	}
	for _, c := range []struct {
		engine, api string
		old         bool
	}{
		{"20.10.24+dfsg1", "1.41", false}, {"19.03.15", "1.40", false}, {"v29.0.1", "1.52", false}, {"100.0.0", "", false},
		{"18.09.9", "1.39", true}, {"17.12.1-ce", "1.35", true}, {"1.13.1", "1.26", true}, {"19.02.0", "1.40", true},
		{"dev", "1.41", false}, {"library-import", "1.39", true}, {"", "", false},
	} {
		if tooOld(c.engine, c.api) != c.old {
			t.Errorf("Docker %q with API %q: too old is %v", c.engine, c.api, !c.old)
		}
	}
}

func TestJoinSwarm(t *testing.T) {
	join := ops.Join{Token: "SWMTKN-1-canarydigest-canarysecret", Managers: []string{"10.0.0.11:2377", "10.0.0.12:2377"}}
	for name, c := range map[string]struct {
		status         int
		message        string
		code           ops.Code
		sentence, next string
	}{
		"goes on": {503, "Timeout was reached before node joined. The attempt to join the swarm will continue in the background. Use the \"docker info\" command to see the current swarm status of your node.",
			ops.Unavailable, "has not joined yet, and goes on trying", ""},
		"in one already": {503, "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.",
			ops.Failed, "is already part of a swarm", "docker swarm leave"},
		"token of another form": {400, "invalid join token", ops.Failed, "does not take this join token", "Try again"},
		"token that was rotated": {500, "rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster",
			ops.Failed, "does not take this join token", "Try again"},
		"another swarm": {500, "remote CA does not match fingerprint. Expected: 0f3c",
			ops.Failed, "is not of this swarm: its certificate is another", "10.0.0.11:2377 or 10.0.0.12:2377"},
		"clock": {500, `rpc error: code = Unavailable desc = connection error: desc = "transport: authentication handshake failed: x509: certificate has expired or is not yet valid: current time 2015-01-01T00:00:00Z is before 2026-01-01T00:00:00Z"`,
			ops.Failed, "are not valid by the clock of", "timedatectl set-ntp true"},
		"unreachable": {500, `rpc error: code = Unavailable desc = connection error: desc = "transport: Error while dialing dial tcp 10.0.0.11:2377: connect: connection refused"`,
			ops.Failed, "does not reach a manager at 10.0.0.11:2377 or 10.0.0.12:2377", "Open TCP 2377"},
		"no route": {500, `rpc error: code = Unavailable desc = connection error: desc = "transport: Error while dialing dial tcp 10.0.0.11:2377: connect: no route to host"`,
			ops.Failed, "does not reach a manager", ""},
		"several addresses": {400, "could not choose an IP address to advertise since this system has multiple addresses on different interfaces (10.0.0.5 on eth0 and 10.1.0.5 on eth1) - specify one with --advertise-addr",
			ops.Failed, "cannot tell which of its addresses the others reach it at", "--advertise ADDRESS"},
		"live-restore": {400, "--live-restore daemon configuration is incompatible with swarm mode",
			ops.Failed, "runs with live-restore", "daemon.json"},
		"port": {500, "listen tcp 0.0.0.0:2377: bind: address already in use", ops.Failed, "Something else on that machine uses a port", "Free TCP 2377"},
		"else": {500, "disk full with SWMTKN-1-canarydigest-canarysecret", ops.Failed, "did not join: disk full with <secret>", ""},
	} {
		t.Run(name, func(t *testing.T) {
			client, e := fake(t, map[string]http.HandlerFunc{"POST /swarm/join": fails(c.status, c.message)})
			err := client.JoinSwarm(t.Context(), join)
			got := wantError(t, err, c.code, c.sentence)
			if !strings.Contains(got.Next, c.next) {
				t.Errorf("next step %q, want %q", got.Next, c.next)
			}
			for e := err; e != nil; e = errors.Unwrap(e) {
				if strings.Contains(e.Error()+got.Log, "canary") {
					t.Errorf("the token is told: %v", e)
				}
			}
			if body := e.last(t).body; !strings.Contains(body, join.Token.Reveal()) {
				t.Errorf("the engine was sent %s", body)
			}
		})
	}
	client, _ := fake(t, map[string]http.HandlerFunc{"POST /swarm/join": says("")})
	if err := client.JoinSwarm(t.Context(), join); err != nil {
		t.Error(err)
	}
	// An engine that was asked may join even when nobody waits for it any more.
	hang, _ := fake(t, map[string]http.HandlerFunc{"POST /swarm/join": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantError(t, hang.JoinSwarm(ctx, join), ops.Unavailable, "did not say in time whether it joined")
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	wantError(t, hang.JoinSwarm(ctx, join), ops.Canceled, "Called off")
}

func TestLeaveSwarm(t *testing.T) {
	for name, c := range map[string]struct {
		answer   http.HandlerFunc
		code     ops.Code // "" when it left
		sentence string
	}{
		"left":    {says(""), "", ""},
		"in none": {fails(503, "This node is not part of a swarm"), "", ""},
		"manager": {fails(503, "You are attempting to leave the swarm on a node that is participating as a manager. Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. "),
			ops.Failed, "does not leave its swarm by itself, because it is a manager"},
		"locked": {fails(503, "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message."), ops.Failed, "does not leave its swarm by itself"},
		"else":   {fails(500, "containers do not stop"), ops.Internal, "refused to leave its swarm: containers do not stop"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, force := range []bool{false, true} {
				client, e := fake(t, map[string]http.HandlerFunc{"POST /swarm/leave": c.answer})
				err := client.LeaveSwarm(t.Context(), force)
				if forced := e.last(t).URL.Query().Get("force") == "1"; forced != force {
					t.Errorf("forced is %v, want %v", forced, force)
				}
				if c.code == "" && err == nil {
					continue
				}
				wantError(t, err, c.code, c.sentence)
			}
		})
	}
}

package ops_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/ops"
)

func joining(change ...func(*ops.NodeJoin)) *ops.NodeJoin {
	j := &ops.NodeJoin{Server: ops.Address{Host: "10.0.0.12"}}
	for _, c := range change {
		c(j)
	}
	return j
}

// plans submits an operation as a dry run and returns what came of it.
func (h *house) plans(t *testing.T, id string, op ops.Operation) ops.Status {
	t.Helper()
	req := asked(id)
	req.DryRun = true
	h.submit(t, req, op)
	return h.final(t, id)
}

// pends submits an operation and returns it waiting for its approval.
func (h *house) pends(t *testing.T, id string, op ops.Operation) ops.Status {
	t.Helper()
	h.submit(t, asked(id), op)
	s := h.wait(t, func(s ops.Status) bool { return s.ID == id && (s.State == ops.Pending || s.State.Final()) })
	if s.State != ops.Pending {
		t.Fatalf("%s is %s, with %+v", id, s.State, s.Err)
	}
	return s
}

// approved submits an operation, has bob approve it, and returns its end.
func (h *house) approved(t *testing.T, id string, op ops.Operation) ops.Status {
	t.Helper()
	h.decide(t, "click-"+id, "bob", h.pends(t, id, op).Token, ops.Approve, "")
	return h.final(t, id)
}

// told is all that a person can read of a status.
func told(s ops.Status) string {
	text := s.Result + "\n"
	for _, d := range s.Plan.Diffs {
		text += d.String() + "\n"
	}
	text += strings.Join(s.Plan.Facts, "\n") + "\n" + strings.Join(s.Plan.Warnings, "\n") + "\n" + s.Plan.Approval
	if s.Err != nil {
		text += "\n" + s.Err.Sentence + ". " + s.Err.Next
	}
	return text
}

func says(t *testing.T, s ops.Status, state ops.State, parts ...string) {
	t.Helper()
	if s.State != state {
		t.Errorf("it is %s, not %s", s.State, state)
	}
	for _, p := range parts {
		if !strings.Contains(told(s), p) {
			t.Errorf("it does not say %q:\n%s", p, told(s))
		}
	}
}

func TestJoin(t *testing.T) {
	h := startHouse(t, newFakeSwarm())
	waits := h.pends(t, "op1", joining())
	says(t, waits, ops.Pending, "node 10.0.0.12 in no swarm → worker", "SHA256:abc (ssh-ed25519)", "n4: Debian GNU/Linux 12 (bookworm), x86_64, 2 cores, 4.0 GB of memory, Docker 20.10.24 (API 1.41)")
	if len(h.servers.joins) > 0 {
		t.Fatal("it joined before anybody approved")
	}
	h.decide(t, "click1", "bob", waits.Token, ops.Approve, "")
	says(t, h.final(t, "op1"), ops.Done, "10.0.0.12 joined as a worker: n4 is ready")

	h.servers.with(func() {
		if len(h.servers.joins) != 1 || h.servers.joins[0].Token != "canary-worker-token" || fmt.Sprint(h.servers.joins[0].Managers) != "[10.0.0.1:2377]" {
			t.Errorf("joined with %v", h.servers.joins)
		}
		if got := strings.Join(h.servers.asked, ", "); got != "root@10.0.0.12:22 , root@10.0.0.12:22 SHA256:abc" {
			t.Errorf("connected: %s", got)
		}
		if h.servers.open != 0 {
			t.Errorf("%d connections are open", h.servers.open)
		}
	})
	n := h.swarm.nodes[3]
	if n.Labels[ops.LabelSSH] != "root@10.0.0.12:22" || n.Labels[ops.LabelHostKey] != "ssh-ed25519 SHA256:abc" {
		t.Errorf("labels: %v", n.Labels)
	}

	// Once more: it says that it is there, and nobody has to agree.
	h.submit(t, asked("op2"), joining())
	says(t, h.final(t, "op2"), ops.Done, "10.0.0.12 is in this swarm already: n4, worker, ready")
	h.submit(t, asked("op3"), joining(func(j *ops.NodeJoin) { j.Manager = true }))
	says(t, h.final(t, "op3"), ops.Refused, "in this swarm already, as a worker called n4. `/node promote n4` makes it a manager")
}

// TestJoinBeforeTheManagersAgree: until they do, no change goes through.
func TestJoinBeforeTheManagersAgree(t *testing.T) {
	swarm := newFakeSwarm()
	h := startHouse(t, swarm)
	away := ops.Errorf(ops.Unavailable, "The swarm does not have a leader")
	swarm.with(func() { swarm.nodeErrs = []error{away, away} })
	got := h.approved(t, "op1", joining(func(j *ops.NodeJoin) { j.Manager = true }))
	says(t, got, ops.Done, "10.0.0.12 joined as a manager: n4 is ready\n")
	if n := swarm.nodes[3]; n.Labels[ops.LabelSSH] != "root@10.0.0.12:22" {
		t.Errorf("labels: %v", n.Labels)
	}
	if !h.seen(func(s ops.Status) bool {
		return strings.HasPrefix(s.Note, "The swarm does not have a leader. Retrying until ")
	}) {
		t.Error("it does not say what it waits for")
	}
}

// TestJoinOfOneThatHasJustJoined: the managers have its id already and nothing else.
func TestJoinOfOneThatHasJustJoined(t *testing.T) {
	h := startHouse(t, newFakeSwarm())
	says(t, h.approved(t, "op1", joining()), ops.Done, "n4 is ready")
	whole := h.swarm.nodes[3]
	h.swarm.with(func() { h.swarm.nodes[3].Hostname, h.swarm.nodes[3].State = "", "unknown" })
	h.submit(t, asked("op2"), joining())
	h.wait(t, func(s ops.Status) bool { return s.ID == "op2" && s.State == ops.Working })
	h.swarm.with(func() { h.swarm.nodes[3] = whole })
	says(t, h.final(t, "op2"), ops.Done, "10.0.0.12 is in this swarm already: n4, worker, ready")
}

func TestJoinAsManager(t *testing.T) {
	swarm := newFakeSwarm()
	h := startHouse(t, swarm)
	j := joining(func(j *ops.NodeJoin) {
		j.Manager, j.Advertise, j.Server.User, j.Server.Port = true, "192.0.2.7", "deploy", 2222
	})
	waits := h.pends(t, "op1", j)
	says(t, waits, ops.Pending, "its address in the swarm none → 192.0.2.7", "a manager controls the whole swarm",
		"2 managers tolerate no more failures than 1: have an odd number of managers", "now 1 of 1 manager reachable, none may fail; then 2 of 2 managers reachable, none may fail")
	h.decide(t, "click1", "bob", waits.Token, ops.Approve, "")
	says(t, h.final(t, "op1"), ops.Done, "joined as a manager")
	if j := h.servers.joins[0]; j.Token != "canary-manager-token" || j.AdvertiseAddr != "192.0.2.7" {
		t.Errorf("joined with %+v", j)
	}
	if l := h.swarm.nodes[3].Labels[ops.LabelSSH]; l != "deploy@10.0.0.12:2222" {
		t.Errorf("label %s", l)
	}
}

// TestJoinLooksFirst: what stands in the way is said before anybody is asked.
func TestJoinLooksFirst(t *testing.T) {
	for name, tc := range map[string]struct {
		given func(*fakeServers)
		op    *ops.NodeJoin
		house func(*ops.Runner)
		state ops.State
		says  []string
	}{
		"no registry": {house: func(r *ops.Runner) { r.Env.Swarm.(*fakeSwarm).save(ops.Registries{}) }, state: ops.Refused,
			says: []string{"There is no default push registry", "`--no-registry`"}},
		"no registry wanted": {house: func(r *ops.Runner) { r.Env.Swarm.(*fakeSwarm).save(ops.Registries{}) }, op: joining(func(j *ops.NodeJoin) { j.NoRegistry = true }), state: ops.DryRun},
		"no way there": {given: func(f *fakeServers) { f.connect = ops.Errorf(ops.Unavailable, "10.0.0.12 does not answer") }, state: ops.Refused,
			says: []string{"10.0.0.12 does not answer"}},
		"2377 closed": {given: func(f *fakeServers) { f.closed["10.0.0.1:2377"] = true }, state: ops.Refused,
			says: []string{"10.0.0.12 does not reach the manager at 10.0.0.1:2377: port 2377/tcp is closed (connection refused)", "swarm.advertise_addr"}},
		"another address to dial": {house: func(r *ops.Runner) { r.Env.AdvertiseAddr = "192.0.2.1" }, given: func(f *fakeServers) { f.closed["192.0.2.1:2377"] = true }, state: ops.Refused,
			says: []string{"does not reach the manager at 192.0.2.1:2377"}},
		"7946 closed": {given: func(f *fakeServers) { f.closed["10.0.0.1:7946"] = true }, state: ops.DryRun,
			says: []string{"it does not reach 10.0.0.1:7946/tcp"}},
		"udp closed": {given: func(f *fakeServers) { f.udp = ops.Errorf(ops.Unavailable, "no answer") }, state: ops.DryRun,
			says: []string{"its port 7946/udp looks closed", "its port 4789/udp looks closed"}},
		"registry out of reach": {given: func(f *fakeServers) { f.closed["reg:5000"] = true }, state: ops.DryRun,
			says: []string{"it does not reach the registry reg:5000"}},
		"clock a little off": {given: func(f *fakeServers) { f.machine.ClockAhead = -40 * time.Second }, state: ops.DryRun,
			says: []string{"its clock is 40s behind"}},
		"clock off": {given: func(f *fakeServers) { f.machine.ClockAhead = 3 * time.Hour }, state: ops.Refused,
			says: []string{"The clock of 10.0.0.12 is 3h0m0s ahead", "NTP"}},
		"older engine": {given: func(f *fakeServers) { f.machine.EngineVersion = "19.03.15" }, state: ops.DryRun,
			says: []string{"its Docker 19.03.15 is older than 20.10.24 on n1"}},
		"other architecture": {given: func(f *fakeServers) { f.machine.Arch = "aarch64" }, state: ops.DryRun,
			says: []string{"it is aarch64 and the others are x86_64"}},
		"a name twice": {given: func(f *fakeServers) { f.machine.Hostname = "n2" }, state: ops.DryRun,
			says: []string{"there is a node called n2 already (ready, 10.0.0.2)"}},
		"in another swarm": {given: func(f *fakeServers) {
			f.machine.Swarm = ops.Membership{State: "active", NodeID: "other", Managers: []string{"192.0.2.9:2377"}}
		}, state: ops.Refused, says: []string{"is in another swarm already (with managers at 192.0.2.9:2377)", "`docker swarm leave` there"}},
		"manager of another swarm": {given: func(f *fakeServers) {
			f.machine.Swarm = ops.Membership{State: "active", NodeID: "other", Manager: true, Managers: []string{"192.0.2.9:2377"}}
		}, state: ops.Refused, says: []string{"`docker swarm leave --force` there"}},
		"removed from this one": {given: func(f *fakeServers) {
			f.machine.Swarm = ops.Membership{State: "active", NodeID: "old", Managers: []string{"10.0.0.1:2377"}}
		}, state: ops.Refused, says: []string{"was a node of this swarm and was removed", "`docker swarm leave --force`"}},
		"swarm does not work": {given: func(f *fakeServers) { f.machine.Swarm = ops.Membership{State: "error", Error: "x509 something"} }, state: ops.Refused,
			says: []string{"in a swarm that does not work: x509 something"}},
		"locked": {given: func(f *fakeServers) { f.machine.Swarm = ops.Membership{State: "locked"} }, state: ops.Refused,
			says: []string{"locked"}},
		"at it": {given: func(f *fakeServers) { f.machine.Swarm = ops.Membership{State: "pending"} }, state: ops.Refused,
			says: []string{"is trying to join a swarm at this moment"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var change []func(*ops.Runner)
			if tc.house != nil {
				change = append(change, tc.house)
			}
			h := startHouse(t, newFakeSwarm(), change...)
			if tc.given != nil {
				tc.given(h.servers)
			}
			if tc.op == nil {
				tc.op = joining()
			}
			says(t, h.plans(t, "op1", tc.op), tc.state, tc.says...)
			h.servers.with(func() {
				if len(h.servers.joins) > 0 || h.servers.open > 0 {
					t.Errorf("%d joins, %d open connections", len(h.servers.joins), h.servers.open)
				}
			})
		})
	}
}

func TestJoinHostKeyChangedMeanwhile(t *testing.T) {
	h := startHouse(t, newFakeSwarm())
	waits := h.pends(t, "op1", joining())
	h.servers.with(func() { h.servers.key.Fingerprint = "SHA256:other" })
	h.decide(t, "click1", "bob", waits.Token, ops.Approve, "")
	says(t, h.final(t, "op1"), ops.Refused, "The host key of 10.0.0.12 changed")
	if len(h.servers.joins) > 0 {
		t.Error("it joined")
	}
}

// TestJoinFails: the cause is named and nothing is left of it.
func TestJoinFails(t *testing.T) {
	for name, tc := range map[string]struct {
		given func(*fakeServers)
		says  []string
	}{
		"refused by the engine": {func(f *fakeServers) { f.joinErr = ops.Errorf(ops.Failed, "The token is not this swarm's") }, []string{"The token is not this swarm's"}},
		"goes on in the background and never ends": {func(f *fakeServers) {
			f.joinErr = ops.Errorf(ops.Unavailable, "The engine did not join in time")
			f.machine.Swarm = ops.Membership{State: "inactive"}
		}, []string{"The engine of 10.0.0.12 gave up joining"}},
		"never a node": {func(f *fakeServers) { f.never = true }, []string{"10.0.0.12 was not Ready after 2s: it did not appear among the nodes", "7946/tcp+udp"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHouse(t, newFakeSwarm())
			tc.given(h.servers)
			says(t, h.approved(t, "op1", joining()), ops.Failure, tc.says...)
			h.servers.with(func() {
				if h.servers.left != 1 || h.servers.open != 0 {
					t.Errorf("the engine was told to leave %d times, %d connections are open", h.servers.left, h.servers.open)
				}
			})
			if len(h.swarm.nodes) != 3 {
				t.Errorf("%d nodes are left", len(h.swarm.nodes))
			}
		})
	}
}

// TestJoinClickedByTwo: a hundred joins, each approved twice at once on two
// replicas, are a hundred joins.
func TestJoinClickedByTwo(t *testing.T) {
	t.Parallel()
	redis := kept(t)
	swarm := newFakeSwarm()
	one, two := startOn(t, redis, swarm), startOn(t, redis, swarm)
	two.servers = one.servers
	two.Env.Servers = one.servers
	const n = 100
	tokens := make([]string, n)
	for i := range n {
		one.submit(t, asked(fmt.Sprintf("op%d", i)), &ops.NodeJoin{Server: ops.Address{Host: fmt.Sprintf("10.0.1.%d", i+1)}})
	}
	pending := func(i int) func(ops.Status) bool {
		return func(s ops.Status) bool { return s.ID == fmt.Sprintf("op%d", i) && s.State == ops.Pending }
	}
	for i := range n {
		waitFor(t, "all to wait", func() bool { return one.seen(pending(i)) || two.seen(pending(i)) })
		h := one
		if !one.seen(pending(i)) {
			h = two
		}
		tokens[i] = h.wait(t, pending(i)).Token
	}
	var clicks sync.WaitGroup
	for i, token := range tokens {
		for r, h := range []*house{one, two} {
			clicks.Go(func() {
				req := ops.Request{ID: fmt.Sprintf("click%d-%d", i, r), Actor: person(fmt.Sprintf("bob%d", r))}
				if err := h.Decide(t.Context(), req, token, ops.Approve, ""); err != nil {
					t.Error(err)
				}
			})
		}
	}
	clicks.Wait()
	for i := range n {
		done := func(s ops.Status) bool { return s.ID == fmt.Sprintf("op%d", i) && s.State.Final() }
		waitFor(t, "all to end", func() bool { return one.seen(done) || two.seen(done) })
		refused := func(s ops.Status) bool {
			return s.ID == fmt.Sprintf("click%d-0", i) || s.ID == fmt.Sprintf("click%d-1", i)
		}
		waitFor(t, "one of two clicks to be told that it was late", func() bool { return one.seen(refused) || two.seen(refused) })
	}
	one.servers.with(func() {
		if len(one.servers.joins) != n {
			t.Errorf("%d joins", len(one.servers.joins))
		}
	})
}

func TestTokenRotation(t *testing.T) {
	for role, want := range map[string]string{"": "worker true, manager true", "worker": "worker true, manager false", "manager": "worker false, manager true"} {
		h := startHouse(t, newFakeSwarm())
		says(t, h.approved(t, "op1", &ops.TokenRotation{Role: role}), ops.Done, "good for nothing")
		if fmt.Sprint(h.swarm.rotated) != "["+want+"]" {
			t.Errorf("%q: %v", role, h.swarm.rotated)
		}
	}
}

func TestJoinCommand(t *testing.T) {
	redis := kept(t)
	h := startOn(t, redis, newFakeSwarm())
	a, err := h.Ask(t.Context(), person("ada"), ops.JoinCommand{Manager: true})
	if err != nil || a.Parts[0].Code != "docker swarm join --token canary-manager-token 10.0.0.1:2377" {
		t.Errorf("%+v, %v", a, err)
	}
	all, err := h.Audit(t.Context(), "", 5)
	if err != nil || len(all) != 1 || all[0].Kind != "join-command" || all[0].UserID != "U-ada" || strings.Contains(fmt.Sprint(all), "canary") {
		t.Errorf("the audit: %+v, %v", all, err)
	}
	redis.SetError("READONLY You can't write against a read only replica.")
	defer redis.SetError("")
	if a, err := h.Ask(t.Context(), person("ada"), ops.JoinCommand{}); err == nil {
		t.Errorf("it is shown without an entry in the audit: %+v", a)
	}
}

func TestJoinKey(t *testing.T) {
	h := startHouse(t, newFakeSwarm())
	a, err := h.Ask(t.Context(), person("ada"), ops.JoinKey{})
	if err != nil || a.Parts[0].Code != "ssh-ed25519 AAAAkey waggle" || !strings.Contains(a.Parts[1].Code, "'ssh-ed25519 AAAAkey waggle' >> ~root/.ssh/authorized_keys") {
		t.Errorf("%+v, %v", a, err)
	}
}

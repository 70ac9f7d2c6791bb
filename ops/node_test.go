package ops_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/ops"
)

func drain(node string) *ops.NodeAvailability {
	return &ops.NodeAvailability{Node: node, To: ops.Drain}
}

func TestDrain(t *testing.T) {
	pizza := ops.Service{Name: "pizza", Replicas: 6}
	db := ops.Service{Name: "db", Replicas: 1, Constraints: []string{"node.hostname==n2"}, Persistent: true}
	agent := ops.Service{Name: "agent", Mode: ops.Global}
	h := startHouse(t, newFakeSwarm(pizza, db, agent))
	says(t, h.plans(t, "op0", drain("n2")), ops.DryRun, "availability active → drain", "moves to other nodes: pizza",
		"runs on every node and ends here: agent", "db has no other place and stays down until `/node activate n2`: it is pinned to n2")
	h.submit(t, asked("op1"), drain("n2"))
	got := h.final(t, "op1")
	says(t, got, ops.Done, "n2 is drained: pizza runs elsewhere; db is down until it is active again")
	if got.Plan.Undo != "/node activate n2" {
		t.Errorf("undo: %q", got.Plan.Undo)
	}
	if n := h.swarm.nodes[1]; n.Availability != "drain" {
		t.Errorf("n2 is %s", n.Availability)
	}
	h.submit(t, asked("op2"), &ops.NodeAvailability{Node: "10.0.0.2", To: ops.Active})
	says(t, h.final(t, "op2"), ops.Done, "n2 is active and takes tasks")
	h.submit(t, asked("op3"), &ops.NodeAvailability{Node: "id2", To: ops.Pause})
	says(t, h.final(t, "op3"), ops.Done, "n2 is paused: it keeps its tasks and takes no new ones")
}

// TestDrainWaits: a drain is done when nothing runs there any more.
func TestDrainWaits(t *testing.T) {
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3})
	var stuck sync.Mutex
	held := true
	swarm.tasks = func(s ops.Service) []ops.Task {
		stuck.Lock()
		defer stuck.Unlock()
		all := swarm.spread(s)
		if swarm.nodes[1].Availability == "drain" && held {
			old := task(2, "running", "", 5)
			old.NodeID, old.Desired = "id2", "shutdown"
			all = append(all, old)
		}
		return all
	}
	h := startHouse(t, swarm)
	h.submit(t, asked("op1"), drain("n2"))
	h.wait(t, func(s ops.Status) bool {
		return s.ID == "op1" && strings.Contains(s.Note, "0 of 1 task left n2, not yet pizza (running)")
	})
	if h.seen(func(s ops.Status) bool { return s.State == ops.Done }) {
		t.Fatal("it is done while a task still runs there")
	}
	stuck.Lock()
	held = false
	stuck.Unlock()
	says(t, h.final(t, "op1"), ops.Done, "n2 is drained")
}

func TestDrainDoesNotEnd(t *testing.T) {
	t.Parallel()
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3})
	swarm.tasks = func(s ops.Service) []ops.Task {
		return []ops.Task{task(1, "running", "", 0), task(2, "running", "", 0), task(3, "running", "", 0)}
	}
	h := startHouse(t, swarm, func(r *ops.Runner) { r.Env.DeployTimeout = 300 * time.Millisecond })
	h.submit(t, asked("op1"), drain("n2"))
	says(t, h.final(t, "op1"), ops.Failure, "n2 is not empty after 300ms: 1 task still there, pizza (running)", "`/node activate n2` goes back")
	swarm.with(func() { swarm.nodes[1].State = "down" })
	h.submit(t, asked("op2"), drain("n2"))
	says(t, h.final(t, "op2"), ops.Failure, "1 task still there, pizza (running when n2 was heard last, which is down)")

	swarm.with(func() {
		swarm.nodes[2].Availability, swarm.services["pizza"].Replicas = "active", 7
		swarm.tasks = func(s ops.Service) (all []ops.Task) {
			for i, state := range []string{"running", "assigned", "assigned", "preparing", "ready"} {
				all = append(all, task(3*i+3, state, "", 0))
			}
			return all
		}
	})
	h.submit(t, asked("op3"), drain("n3"))
	says(t, h.final(t, "op3"), ops.Failure, "5 tasks still there, 2 of pizza (assigned), pizza (preparing), pizza (ready), 1 more")
}

func TestNodeNames(t *testing.T) {
	swarm := newFakeSwarm()
	swarm.nodes = append(swarm.nodes, ops.Node{ID: "id9", Hostname: "n2", State: "down", Addr: "10.0.0.9"})
	for _, id := range []string{"k3vz8q2m1x", "k3vz9q2m1x"} {
		swarm.nodes = append(swarm.nodes, ops.Node{ID: id, Hostname: "h" + id[4:], State: "ready", Addr: "10.0.1." + id[4:5]})
	}
	h := startHouse(t, swarm)
	says(t, h.plans(t, "op1", drain("n2")), ops.Refused, "2 nodes are called n2. Say which by its id: id2 is ready at 10.0.0.2, id9 is down at 10.0.0.9.")
	says(t, h.plans(t, "op2", drain("n33")), ops.Refused, `There is no node "n33" in this swarm. Did you mean`)
	says(t, h.plans(t, "op3", drain("elephant")), ops.Refused, "There is: n1, n2, n3, n2, h8q2m1x, h9q2m1x.")
	says(t, h.plans(t, "op4", drain("N3")), ops.DryRun)
	says(t, h.plans(t, "op5", drain("k3vz9")), ops.DryRun)
	says(t, h.plans(t, "op6", drain("k3vz")), ops.Refused, "The ids of 2 nodes begin with k3vz. Say which by its id: k3vz8q2m1x is ready at 10.0.1.8")
	says(t, h.plans(t, "op7", drain("id")), ops.Refused, `There is no node "id"`)
}

func TestRoles(t *testing.T) {
	for name, tc := range map[string]struct {
		managers []int // besides the first
		given    func(*fakeSwarm)
		op       ops.Operation
		state    ops.State
		says     []string
	}{
		"promote": {op: &ops.NodeRole{Node: "n2", Manager: true}, state: ops.Done, says: []string{"n2 is a manager: 2 of 2 managers reachable, none may fail",
			"2 managers tolerate no more failures than 1"}},
		"promote to three": {managers: []int{1}, op: &ops.NodeRole{Node: "n3", Manager: true}, state: ops.Done, says: []string{"3 of 3 managers reachable, 1 more may fail"}},
		"promote who is down": {given: func(f *fakeSwarm) { f.nodes[1].State = "down" }, op: &ops.NodeRole{Node: "n2", Manager: true}, state: ops.Refused,
			says: []string{"n2 is down, and a manager has to be up"}},
		"promote again":  {managers: []int{1}, op: &ops.NodeRole{Node: "n2", Manager: true}, state: ops.Done, says: []string{"n2 is a manager"}},
		"demote":         {managers: []int{1, 2}, op: &ops.NodeRole{Node: "n3"}, state: ops.Done, says: []string{"n3 is a worker: 2 of 2", "now 3 of 3 managers reachable, 1 more may fail; then 2 of 2"}},
		"demote of two":  {managers: []int{1}, op: &ops.NodeRole{Node: "n2"}, state: ops.Done, says: []string{"n2 is a worker: 1 of 1 manager reachable"}},
		"the only one":   {op: &ops.NodeRole{Node: "n1"}, state: ops.Refused, says: []string{"n1 is the only manager"}},
		"Waggle's own":   {managers: []int{1, 2}, op: &ops.NodeRole{Node: "n1"}, state: ops.Refused, says: []string{"Waggle works through n1"}},
		"quorum at risk": {managers: []int{1, 2}, given: func(f *fakeSwarm) { f.nodes[2].Reachable = false }, op: &ops.NodeRole{Node: "n2"}, state: ops.Refused, says: []string{"Without n2 only 1 of 2 managers would be reachable, and 2 must be"}},
		"the dead one":   {managers: []int{1, 2}, given: func(f *fakeSwarm) { f.nodes[2].Reachable = false }, op: &ops.NodeRole{Node: "n3"}, state: ops.Done, says: []string{"n3 is a worker: 2 of 2"}},
		"only on managers": {managers: []int{1, 2}, given: func(f *fakeSwarm) {
			f.services["gate"] = &ops.Service{ID: "id-gate", Name: "gate", Mode: ops.Replicated, Replicas: 3, Constraints: []string{"node.role == manager"}}
			f.tasks = func(ops.Service) []ops.Task {
				return []ops.Task{task(1, "running", "", 0), task(2, "running", "", 0), task(3, "running", "", 0)}
			}
		}, op: &ops.NodeRole{Node: "n3"}, state: ops.Done, says: []string{"gate moves to another manager"}},
		"remove a manager of two": {managers: []int{1}, op: &ops.NodeRemove{Node: "n2"}, state: ops.Done, says: []string{"n2 is removed"}},
		"remove, quorum at risk": {managers: []int{1, 2}, given: func(f *fakeSwarm) { f.nodes[2].Reachable = false }, op: &ops.NodeRemove{Node: "n2"}, state: ops.Refused,
			says: []string{"Without n2 only 1 of 2"}},
		"remove Waggle's own": {managers: []int{1, 2}, op: &ops.NodeRemove{Node: "n1"}, state: ops.Refused, says: []string{"Waggle works through n1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			swarm := newFakeSwarm()
			for _, i := range tc.managers {
				swarm.manager(i)
			}
			if tc.given != nil {
				tc.given(swarm)
			}
			h := startHouse(t, swarm)
			for i := range 3 {
				h.servers.member[fmt.Sprintf("10.0.0.%d", i+1)] = ops.Membership{State: "active", NodeID: fmt.Sprintf("id%d", i+1)}
			}
			h.submit(t, asked("op1"), tc.op)
			s := h.wait(t, func(s ops.Status) bool { return s.ID == "op1" && (s.State == ops.Pending || s.State.Final()) })
			if s.State == ops.Pending {
				h.decide(t, "click1", "bob", s.Token, ops.Approve, "")
				s = h.final(t, "op1")
			}
			says(t, s, tc.state, tc.says...)
		})
	}
}

// TestTwoDemotions: each alone is harmless, both together would lose the quorum.
func TestTwoDemotions(t *testing.T) {
	swarm := newFakeSwarm()
	for i := 3; i < 5; i++ {
		swarm.nodes = append(swarm.nodes, ops.Node{ID: fmt.Sprintf("id%d", i+1), Hostname: fmt.Sprintf("n%d", i+1), State: "ready", Availability: "active"})
	}
	for i := 1; i < 5; i++ {
		swarm.manager(i)
	}
	swarm.nodes[3].Reachable, swarm.nodes[4].Reachable = false, false
	h := startHouse(t, swarm)
	says(t, h.plans(t, "op0", &ops.NodeRole{Node: "n2"}), ops.Refused, "Without n2 only 2 of 4 managers would be reachable, and 3 must be")
}

func TestRemove(t *testing.T) {
	pizza := ops.Service{Name: "pizza", Replicas: 6}
	db := ops.Service{Name: "db", Replicas: 1, Constraints: []string{"node.hostname==n2"}, Persistent: true}
	h := startHouse(t, newFakeSwarm(pizza, db))
	h.servers.member["10.0.0.2"] = ops.Membership{State: "active", NodeID: "id2"}
	waits := h.pends(t, "op1", &ops.NodeRemove{Node: "n2"})
	says(t, waits, ops.Pending, "node n2 worker → removed", "db pinned to n2 → no node may run it", "the data of db is on n2 and is not moved",
		"moves to other nodes: pizza", "db has no other place and stays down", "it takes n2 (10.0.0.2) out of the swarm")
	h.decide(t, "click1", "bob", waits.Token, ops.Approve, "")
	got := h.final(t, "op1")
	says(t, got, ops.Done, "n2 is removed; its engine left; db is without a place")
	var steps []string
	for _, s := range got.Steps {
		steps = append(steps, s.Name)
	}
	if fmt.Sprint(steps) != "[drain leave remove]" || h.servers.left != 1 || len(h.swarm.nodes) != 2 {
		t.Errorf("steps %v, left %d, %d nodes", steps, h.servers.left, len(h.swarm.nodes))
	}
	if got := h.servers.asked[len(h.servers.asked)-1]; got != "root@10.0.0.2:22 SHA256:abc" {
		t.Errorf("the key of the first look is not the one that is expected later: %s", got)
	}
}

func TestRemoveWhatDoesNotAnswer(t *testing.T) {
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 6})
	swarm.nodes[1].State = "down"
	h := startHouse(t, swarm)
	says(t, h.plans(t, "op1", &ops.NodeRemove{Node: "n2"}), ops.Refused, "n2 is down, so its tasks cannot be moved in good order. Bring it back, or type `/node remove n2 --force`")
	waits := h.pends(t, "op2", &ops.NodeRemove{Node: "n2", Force: true})
	says(t, waits, ops.Pending, "node n2 worker → removed", "n2 is down: what it ran is given up")
	h.decide(t, "click2", "bob", waits.Token, ops.Approve, "")
	says(t, h.final(t, "op2"), ops.Done, "n2 is removed; should it come back, type `docker swarm leave --force` on it")
	if len(h.servers.asked) > 0 || len(h.swarm.nodes) != 2 {
		t.Errorf("connected %v, %d nodes", h.servers.asked, len(h.swarm.nodes))
	}
}

// TestRemoveWithoutSSH: a node that Waggle cannot log in to is removed all the same.
func TestRemoveWithoutSSH(t *testing.T) {
	h := startHouse(t, newFakeSwarm())
	h.servers.connect = ops.Errorf(ops.Forbidden, "10.0.0.2 refuses Waggle's key")
	waits := h.pends(t, "op1", &ops.NodeRemove{Node: "n2"})
	says(t, waits, ops.Pending, "Waggle cannot log in to n2 to have it leave (10.0.0.2 refuses Waggle's key): type `docker swarm leave` there")
	h.decide(t, "click1", "bob", waits.Token, ops.Approve, "")
	says(t, h.final(t, "op1"), ops.Done, "n2 is removed; its engine could not be told", "type `docker swarm leave` on it")
	if len(h.swarm.nodes) != 2 {
		t.Errorf("%d nodes", len(h.swarm.nodes))
	}
}

func TestRemoveWrongServer(t *testing.T) {
	h := startHouse(t, newFakeSwarm())
	h.servers.member["10.0.0.2"] = ops.Membership{State: "active", NodeID: "another"}
	h.submit(t, asked("op1"), &ops.NodeRemove{Node: "n2"})
	says(t, h.final(t, "op1"), ops.Refused, "The server at root@10.0.0.2:22 is not n2")
}

func TestLabel(t *testing.T) {
	swarm := newFakeSwarm(ops.Service{Name: "db", Replicas: 3, Constraints: []string{"node.labels.disk == ssd"}})
	for i := range swarm.nodes {
		swarm.nodes[i].Labels = map[string]string{"disk": "ssd"}
	}
	swarm.tasks = func(ops.Service) []ops.Task { return []ops.Task{task(2, "running", "", 0)} }
	h := startHouse(t, swarm)
	l := &ops.NodeLabel{Node: "n2", Set: map[string]string{"zone": "b"}, Unset: []string{"disk"}}
	h.submit(t, asked("op1"), l)
	says(t, h.final(t, "op1"), ops.Done, `label disk "ssd" → none`, `label zone none → "b"`, "db may not run on n2 then", "n2 is labelled zone=b, without disk")
	if l := h.swarm.nodes[1].Labels; fmt.Sprint(l) != "map[zone:b]" {
		t.Errorf("labels %v", l)
	}
	h.submit(t, asked("op2"), &ops.NodeLabel{Node: "n2", Set: map[string]string{"waggle.ssh": "x"}})
	says(t, h.final(t, "op2"), ops.Refused, "are Waggle's own")
}

// TestNodeChangedByAnotherHand: a change of the node between plan and write is
// built on, not overwritten.
func TestNodeChangedByAnotherHand(t *testing.T) {
	swarm := newFakeSwarm()
	swarm.beforeNode = func(f *fakeSwarm) { f.nodes[1].Version++; f.nodes[1].Labels = map[string]string{"theirs": "1"} }
	h := startHouse(t, swarm)
	h.submit(t, asked("op1"), &ops.NodeLabel{Node: "n2", Set: map[string]string{"zone": "b"}})
	says(t, h.final(t, "op1"), ops.Done)
	if l := h.swarm.nodes[1].Labels; fmt.Sprint(l) != "map[theirs:1 zone:b]" {
		t.Errorf("labels %v", l)
	}
}

func TestNodeListAndShow(t *testing.T) {
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 6, ReserveCPU: 5e8, ReserveMemory: 256 << 20},
		ops.Service{Name: "db", Replicas: 1, Constraints: []string{"node.hostname==n3"}})
	swarm.manager(1)
	swarm.nodes[1].Availability = "drain"
	swarm.nodes[2].State, swarm.nodes[2].Message = "down", "heartbeat failure"
	swarm.nodes[0].Labels = map[string]string{"zone": "b"}
	h := startHouse(t, swarm)
	a, err := h.Ask(t.Context(), person("ada"), ops.NodeList{})
	if err != nil {
		t.Fatal(err)
	}
	rows := fmt.Sprint(a.Parts[0].Table)
	for _, want := range []string{"[n1 leader ready 10.0.0.1 20.10.24 2 4.0 GB 6]", "[n2 manager ready, drained 10.0.0.2 20.10.24 2 4.0 GB 0]", "[n3 worker down 10.0.0.3"} {
		if !strings.Contains(rows, want) {
			t.Errorf("no %s in %s", want, rows)
		}
	}
	if a.Head != "2 of 3 nodes ready; 2 of 2 managers reachable, none may fail" {
		t.Error(a.Head)
	}
	concerns := fmt.Sprint(a.Concerns)
	for _, want := range []string{"n3 is down: heartbeat failure", "`/node remove n3 --force`", "n2 takes no tasks `/node activate n2`", "no more manager may fail", "have an odd number"} {
		if !strings.Contains(concerns, want) {
			t.Errorf("no %q in %s", want, concerns)
		}
	}
	a, err = h.Ask(t.Context(), person("ada"), ops.NodeShow{Node: "n1"})
	if err != nil || a.Head != "n1 is ready: leader, 10.0.0.1" || !strings.Contains(fmt.Sprint(a.Parts), "3 of 2 cores and 1.5 GB of 4.0 GB of memory are reserved") ||
		!strings.Contains(fmt.Sprint(a.Parts), "labels: zone=b") || !strings.Contains(fmt.Sprint(a.Parts), "[pizza 6  ]") {
		t.Errorf("%+v, %v", a, err)
	}
	a, err = h.Ask(t.Context(), person("ada"), ops.NodeShow{Node: "n3"})
	if err != nil || !strings.Contains(fmt.Sprint(a.Parts), "No task of any service is here.") {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestClean removes what is an app's and needed by nothing, where Waggle gets to.
func TestClean(t *testing.T) {
	at := func(d string) string { return "sha256:" + strings.Repeat(d, 64) }
	label := fmt.Sprintf(`[{"number":2,"image":"reg:5000/acme/pizza:two@%s"},{"number":1,"image":"reg:5000/acme/pizza:one@%s"}]`, at("2"), at("1"))
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 1, Image: "reg:5000/acme/pizza:two@" + at("2"), Labels: map[string]string{"waggle.releases": label}},
		ops.Service{Name: "web", Replicas: 1, Image: "nginx:1.27"})
	images := []ops.LocalImage{
		{ID: "a", Names: []string{"reg:5000/acme/pizza:two", "reg:5000/acme/pizza@" + at("2")}, Size: 1},
		{ID: "b", Names: []string{"reg:5000/acme/pizza@" + at("1")}, Size: 1},
		{ID: "c", Names: []string{"reg:5000/acme/pizza:old", "reg:5000/acme/pizza@" + at("3")}, Size: 512 << 20},
		{ID: "d", Names: []string{"reg:5000/acme/pizza:older"}, Size: 1 << 30, Used: true},
		{ID: "e", Names: []string{"nginx:1.26"}, Size: 1 << 30},
		{ID: "f", Names: []string{"postgres:17"}, Size: 1 << 30},
		{ID: "h", Names: []string{"reg:5000/acme/pizza:older", "kept/elsewhere:1"}, Size: 1 << 30},
		// As the containerd image store has what swarm pulled: by name:tag@digest, with the
		// digest under one of its names, which may be another repository's.
		{ID: at("1"), Names: []string{"reg:5000/acme/pizza:one@" + at("1"), "reg:5000/acme/staging@" + at("1")}, Size: 1 << 30},
		{ID: "g", Names: []string{"reg:5000/acme/pizza:one@" + at("1")}, Size: 1 << 30},
	}
	swarm.images = images
	swarm.nodes[1].Labels = map[string]string{ops.LabelSSH: "root@10.0.0.2:22", ops.LabelHostKey: "ssh-ed25519 SHA256:abc"}
	h := startHouse(t, swarm)
	h.servers.images = map[string][]ops.LocalImage{"10.0.0.2": images}
	s := h.does(t, "op1", &ops.NodeClean{Node: ops.AllNodes})
	says(t, s, ops.Done, "old images on all nodes kept → removed", "n1: 1 old image, 512 MB", "n2: 1 old image, 512 MB", "n3 is left out (it was joined by hand, so its host key is not known here)",
		"2 old images, 1.0 GB at most, removed from 2 nodes")
	want := "[reg:5000/acme/pizza:old reg:5000/acme/pizza@" + at("3") + "]"
	if fmt.Sprint(swarm.imagesGone) != want || len(h.servers.imagesGone) != 2 || h.servers.open != 0 {
		t.Errorf("gone: %v, over SSH %v; %d connections are open", swarm.imagesGone, h.servers.imagesGone, h.servers.open)
	}
}

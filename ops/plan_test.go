package ops_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"waggle/internal/secret"
	"waggle/ops"
)

// TestDiffsAreWhatIsAskedFor: what only changes by itself (tasks, the states of nodes, who is
// the leader, what is on disks) is in no Diff of any operation, or the plan would be another
// each time somebody approves it.
func TestDiffsAreWhatIsAskedFor(t *testing.T) {
	all := func(state, err string) func(*house) {
		return func(h *house) {
			h.swarm.tasks = func(s ops.Service) (out []ops.Task) {
				for i := range max(1, s.Replicas) {
					out = append(out, task(i+1, state, err, 0))
				}
				return out
			}
		}
	}
	down := func(state string) func(*house) {
		return func(h *house) { h.swarm.nodes[1].State, h.swarm.nodes[1].Reachable = state, false }
	}
	worlds := map[string]func(*house){
		"running":           func(*house) {},
		"failed":            all("failed", "task: non-zero exit (1)"),
		"rejected":          all("rejected", "no such image"),
		"pending":           all("pending", "no suitable node"),
		"starting":          all("starting", ""),
		"no tasks":          func(h *house) { h.swarm.tasks = func(ops.Service) []ops.Task { return nil } },
		"node down":         down("down"),
		"node disconnected": down("disconnected"),
		"another leader":    func(h *house) { h.swarm.nodes[0].Leader, h.swarm.nodes[2].Leader = false, true },
		"the node is busy": func(h *house) {
			h.swarm.services["other"] = &ops.Service{ID: "id-other", Name: "other", Mode: ops.Replicated, Replicas: 2, Constraints: []string{"node.hostname==n3"}}
		},
		"other images": func(h *house) {
			h.images.images["127.0.0.1:5000/pizza:9"] = ops.Image{Digest: digest, Created: time.Unix(9, 0)}
			h.swarm.images = []ops.LocalImage{{ID: "a", Names: []string{"reg:5000/acme/pizza:ancient"}, Size: 1 << 30}}
		},
	}
	volume := []ops.Mount{{Type: "volume", Source: "data", Target: "/data"}}
	managed := func(h *house) {
		h.swarm.services["waggle-registry"] = &ops.Service{ID: "id-waggle-registry", Name: "waggle-registry", Mode: ops.Replicated, Replicas: 1, Image: "registry:2",
			Labels: map[string]string{ops.LabelManagedRegistry: "127.0.0.1:5000"}}
		h.swarm.save(ops.Registries{Default: "reg", List: []ops.Registry{sealed("reg", "reg:5000", "acme", "mia", "canary-reg"), sealed("local", "127.0.0.1:5000", "", "waggle", "canary-local")}})
		for i := range 3 {
			h.images.images[fmt.Sprintf("127.0.0.1:5000/pizza:%d", i)] = ops.Image{Digest: fmt.Sprintf("sha256:%064d", i), Created: time.Unix(int64(i), 0)}
		}
	}
	pizza := linked("pizza", 2)
	releases, err := json.Marshal([]ops.Release{{Number: 2, Image: pizza.Image}, {Number: 1, Image: "reg:5000/acme/pizza:first@" + digest}})
	if err != nil {
		t.Fatal(err)
	}
	pizza.Labels[ops.LabelReleases], pizza.Mounts, pizza.Persistent = string(releases), []ops.Mount{{Type: "volume", Source: "pizza-data", Target: "/data"}}, true
	for name, tc := range map[string]struct {
		op      ops.Operation
		given   func(*house)
		refused string // how the worlds begin in which it cannot be done
	}{
		"scale":            {op: &ops.Scale{App: "pizza", Replicas: 1, Relative: true}},
		"deploy":           {op: &ops.Deploy{App: "pizza", Hand: true}},
		"rollback":         {op: &ops.Rollback{App: "pizza"}},
		"env":              {op: &ops.AppEnv{App: "pizza", Set: map[string]secret.Text{"A": "1"}}},
		"set":              {op: &ops.AppSet{App: "pizza", Values: map[string]string{"constraints": "node.hostname==n2", "limit-memory": "1g"}}},
		"link":             {op: &ops.AppLink{App: "pizza", Repo: "https://git.example/other.git"}},
		"unlink":           {op: &ops.AppLink{App: "pizza"}},
		"build secret":     {op: &ops.AppBuildSecret{App: "pizza", ID: "npm", Value: "x"}},
		"create":           {op: &ops.AppCreate{App: "pasta", Image: "x", Replicas: 2, Volumes: volume}},
		"create on a node": {op: &ops.AppCreate{App: "pasta", Image: "x", Replicas: 2, Volumes: volume, Node: "n2"}},
		"remove an app":    {op: &ops.AppRemove{App: "pizza", Volumes: []string{"pizza-data"}}},
		"freeze all":       {op: &ops.Freeze{App: ops.AllApps, Lift: true}, given: func(h *house) { h.swarm.labels = map[string]string{ops.LabelFreeze: "ada"} }},
		"drain":            {op: drain("n2")},
		"activate":         {op: &ops.NodeAvailability{Node: "n2", To: ops.Active}},
		"label":            {op: &ops.NodeLabel{Node: "n2", Set: map[string]string{"zone": "b"}}},
		"clean":            {op: &ops.NodeClean{Node: ops.AllNodes}},
		"promote":          {op: &ops.NodeRole{Node: "n2", Manager: true}, refused: "node d"},
		"demote":           {op: &ops.NodeRole{Node: "n2"}, given: func(h *house) { h.swarm.manager(1); h.swarm.manager(2) }},
		"remove a node":    {op: &ops.NodeRemove{Node: "n2", Force: true}},
		"join":             {op: joining()},
		"join as manager":  {op: joining(func(j *ops.NodeJoin) { j.Manager = true })},
		"rotate":           {op: &ops.TokenRotation{}},
		"registry add":     {op: adding("new", "new:5000", "", "", "", true)},
		"registry disable": {op: &ops.RegistryPush{Name: "reg"}},
		"registry default": {op: &ops.RegistryDefault{Name: "local"}, given: managed},
		"registry remove":  {op: &ops.RegistryRemove{Name: "local"}, given: managed},
		"registry setup":   {op: &ops.RegistrySetup{Name: "local"}},
		"registry prune":   {op: &ops.RegistryPrune{Keep: 1}, given: managed},
		"registry migrate": {op: &ops.RegistryMigrate{}, given: func(h *house) { managed(h); h.swarm.services["pizza"].Image = "127.0.0.1:5000/pizza:2@" + digest }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHouse(t, newFakeSwarm(), withKey(t), secretive)
			h.source.heads = map[string]string{"": pushOf(3).After}
			h.servers.member["10.0.0.2"] = ops.Membership{State: "active", NodeID: "id2"}
			plan := func(world string) ops.Status {
				fresh := newFakeSwarm(pizza)
				h.swarm.with(func() {
					h.swarm.services, h.swarm.nodes, h.swarm.tasks, h.swarm.images, h.swarm.labels = fresh.services, fresh.nodes, nil, nil, nil
					h.images.images = map[string]ops.Image{}
					worlds[world](h)
					if tc.given != nil {
						tc.given(h)
					}
				})
				return h.plans(t, "in the world "+world, tc.op)
			}
			want := plan("running")
			if want.State != ops.DryRun || len(want.Plan.Diffs) == 0 {
				t.Fatalf("%s: %s", want.State, told(want))
			}
			for world := range worlds {
				if world == "running" {
					continue
				}
				got := plan(world)
				if got.State == ops.Refused && tc.refused != "" && strings.HasPrefix(world, tc.refused) {
					continue
				}
				if !reflect.DeepEqual(got.Plan.Diffs, want.Plan.Diffs) {
					t.Errorf("%s: %s with %v, and when all runs %v", world, got.State, told(got), want.Plan.Diffs)
				}
			}
		})
	}
}

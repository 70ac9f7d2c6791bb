package ops_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waggle/internal/secret"
	"waggle/ops"
	"waggle/ops/store"
)

// lockedSwarm calls wrote before each change, and knows services by their ids too.
type lockedSwarm struct {
	*fakeSwarm
	wrote func(what string)
}

func (s *lockedSwarm) Service(ctx context.Context, name string) (ops.Service, error) {
	return s.fakeSwarm.Service(ctx, strings.TrimPrefix(name, "id-"))
}

func (s *lockedSwarm) UpdateService(ctx context.Context, svc ops.Service, c ops.Change) ([]string, error) {
	s.wrote("update " + svc.Name)
	return s.fakeSwarm.UpdateService(ctx, svc, c)
}

func (s *lockedSwarm) CreateService(ctx context.Context, n ops.NewService) (string, error) {
	s.wrote("create " + n.Name)
	return s.fakeSwarm.CreateService(ctx, n)
}

func (s *lockedSwarm) RemoveService(ctx context.Context, id string) error {
	s.wrote("remove " + id)
	return s.fakeSwarm.RemoveService(ctx, id)
}

func (s *lockedSwarm) UpdateNode(ctx context.Context, n ops.Node, c ops.NodeChange) error {
	s.wrote("update " + n.Hostname)
	return s.fakeSwarm.UpdateNode(ctx, n, c)
}

func (s *lockedSwarm) RemoveNode(ctx context.Context, id string, force bool) error {
	s.wrote("remove " + id)
	return s.fakeSwarm.RemoveNode(ctx, id, force)
}

func (s *lockedSwarm) CreateConfig(ctx context.Context, name string, data []byte) (string, error) {
	s.wrote("create " + name)
	return s.fakeSwarm.CreateConfig(ctx, name, data)
}

func (s *lockedSwarm) LabelSwarm(ctx context.Context, c ops.Cluster, set map[string]string, unset []string) error {
	s.wrote("label the swarm")
	return s.fakeSwarm.LabelSwarm(ctx, c, set, unset)
}

func (s *lockedSwarm) RotateTokens(ctx context.Context, c ops.Cluster, worker, manager bool) error {
	s.wrote("rotate tokens")
	return s.fakeSwarm.RotateTokens(ctx, c, worker, manager)
}

const nodeID = "k3vz8q2m1x" // of n2 in lockHouse

// lockHouse has the app pizza with two releases, two registries and three managers.
func lockHouse(t *testing.T) (*house, *lockedSwarm) {
	t.Helper()
	pizza := linked("pizza", 2)
	releases, err := json.Marshal([]ops.Release{{Number: 2, Image: pizza.Image}, {Number: 1, Image: "reg:5000/acme/pizza:first@" + digest}})
	if err != nil {
		t.Fatal(err)
	}
	pizza.Labels[ops.LabelReleases], pizza.Labels[ops.LabelFreeze] = string(releases), ""
	swarm := &lockedSwarm{fakeSwarm: newFakeSwarm(pizza), wrote: func(string) {}}
	swarm.nodes[1].ID = nodeID
	swarm.manager(1)
	swarm.manager(2)
	swarm.save(ops.Registries{Default: "reg", List: []ops.Registry{sealed("reg", "reg:5000", "acme", "mia", "canary-reg"), sealed("spare", "spare:5000", "", "mia", "canary-spare")}})
	h := startHouse(t, swarm.fakeSwarm, withKey(t), secretive, func(r *ops.Runner) { r.Env.Swarm = swarm })
	h.source.heads = map[string]string{"": pushOf(3).After}
	h.servers.member["10.0.0.2"] = ops.Membership{State: "active", NodeID: nodeID}
	return h, swarm
}

// TestLocks: each operation on a thing waits for whoever holds the lock of that thing, by
// whatever name it was typed, and holds it itself whenever it writes. So no two of them
// apply at the same time.
func TestLocks(t *testing.T) {
	var (
		app      = "app/pizza"
		node     = "node/" + nodeID
		managers = "managers"
		machine  = "machine/SHA256:abc"
		images   = "images"
		spare    = "registry/spare"
		local    = "registry/local"
		own      = "app/waggle-registry"
	)
	type on []string
	edit := ops.NewRegistryEdit(ops.Registry{Name: "spare", Domain: "spare:5000", Username: "mia", Push: true}, "canary-new", "")
	frozen := func(_ *testing.T, h *house) {
		h.swarm.with(func() {
			h.swarm.services["pizza"].Labels[ops.LabelFreeze] = "ada"
			h.swarm.labels = map[string]string{ops.LabelFreeze: "ada"}
		})
	}
	setUp := func(t *testing.T, h *house) {
		says(t, h.does(t, "setup", &ops.RegistrySetup{Name: "local"}), ops.Done)
		h.swarm.with(func() {
			h.swarm.tasks = func(s ops.Service) []ops.Task {
				if s.Name == "waggle-registry-collect" {
					return []ops.Task{{ID: "gc", State: "complete", Desired: "complete"}}
				}
				return h.swarm.spread(s)
			}
		})
	}
	for name, tc := range map[string]struct {
		op     ops.Operation
		locks  on
		target string // as messages and the audit show it
		given  func(*testing.T, *house)
	}{
		"scale":              {&ops.Scale{App: "pizza", Replicas: 3}, on{app}, "pizza", nil},
		"scale by id":        {&ops.Scale{App: "id-pizza", Replicas: 3}, on{app}, "pizza", nil},
		"deploy":             {&ops.Deploy{App: "pizza", Hand: true}, on{app}, "pizza", nil},
		"rollback":           {&ops.Rollback{App: "pizza"}, on{app}, "pizza", nil},
		"env":                {&ops.AppEnv{App: "pizza", Set: map[string]secret.Text{"A": "1"}}, on{app}, "pizza", nil},
		"set":                {&ops.AppSet{App: "id-pizza", Values: map[string]string{"channel": "C1"}}, on{app}, "pizza", nil},
		"link":               {&ops.AppLink{App: "pizza", Repo: "https://git.example/other.git"}, on{app}, "pizza", nil},
		"unlink":             {&ops.AppLink{App: "id-pizza"}, on{app}, "pizza", nil},
		"build secret":       {&ops.AppBuildSecret{App: "pizza", ID: "npm", Value: "x"}, on{app}, "pizza", nil},
		"build secret by id": {&ops.AppBuildSecret{App: "id-pizza", ID: "npm", Value: "x"}, on{app}, "pizza", nil},
		"freeze":             {&ops.Freeze{App: "id-pizza"}, on{app}, "pizza", nil},
		"unfreeze":           {&ops.Freeze{App: "pizza", Lift: true}, on{app}, "pizza", frozen},
		"remove an app":      {&ops.AppRemove{App: "pizza"}, on{app}, "pizza", nil},
		"create":             {&ops.AppCreate{App: "pasta", Image: "nginx:1", Replicas: 1}, on{"app/pasta"}, "pasta", nil},
		"freeze all":         {&ops.Freeze{App: ops.AllApps}, on{"apps"}, "all apps", nil},
		"unfreeze all":       {&ops.Freeze{App: ops.AllApps, Lift: true}, on{"apps"}, "all apps", frozen},

		"drain":         {drain("N2"), on{node}, "n2", nil},
		"activate":      {&ops.NodeAvailability{Node: "10.0.0.2", To: ops.Active}, on{node}, "n2", nil},
		"pause":         {&ops.NodeAvailability{Node: nodeID, To: ops.Pause}, on{node}, "n2", nil},
		"label":         {&ops.NodeLabel{Node: nodeID[:5], Set: map[string]string{"zone": "b"}}, on{node}, "n2", nil},
		"promote":       {&ops.NodeRole{Node: "N2", Manager: true}, on{node, managers}, "n2", nil},
		"demote":        {&ops.NodeRole{Node: nodeID[:5]}, on{node, managers}, "n2", nil},
		"remove a node": {&ops.NodeRemove{Node: "10.0.0.2"}, on{node, managers}, "n2", nil},

		"join":              {joining(), on{machine}, "10.0.0.12", nil},
		"join as a manager": {joining(func(j *ops.NodeJoin) { j.Server.Host, j.Manager = "n4.example", true }), on{machine, managers}, "n4.example", nil},
		"rotate":            {&ops.TokenRotation{}, on{"tokens"}, "join tokens", nil},

		"registry add":        {adding("new", "new:5000", "", "", "", true), on{"registry/new"}, "new", nil},
		"registry enable":     {&ops.RegistryPush{Name: "spare", On: true}, on{spare}, "spare", func(t *testing.T, h *house) { h.approved(t, "off", &ops.RegistryPush{Name: "spare"}) }},
		"registry disable":    {&ops.RegistryPush{Name: "spare"}, on{spare}, "spare", nil},
		"registry default":    {&ops.RegistryDefault{Name: "spare"}, on{spare, "default-registry"}, "spare", nil},
		"registry remove":     {&ops.RegistryRemove{Name: "spare"}, on{spare}, "spare", nil},
		"registry edit":       {edit, on{spare}, "spare", func(t *testing.T, h *house) { edit.Seen = h.registries(t).List[1].Fingerprint() }},
		"registry setup":      {&ops.RegistrySetup{Name: "local"}, on{local, own}, "local", nil},
		"registry prune":      {&ops.RegistryPrune{Keep: 1}, on{images, local, own}, "images", setUp},
		"scale of a registry": {&ops.Scale{App: "waggle-registry", Replicas: 2}, on{own}, "waggle-registry", setUp},
		"registry migrate": {&ops.RegistryMigrate{}, on{images, spare}, "images", func(t *testing.T, h *house) {
			says(t, h.does(t, "choose", &ops.RegistryDefault{Name: "spare"}), ops.Done)
			h.images.images["reg:5000/acme/pizza@"+digest] = ops.Image{Digest: digest}
		}},
	} {
		for _, lock := range tc.locks {
			t.Run(name+", "+lock, func(t *testing.T) {
				t.Parallel()
				h, swarm := lockHouse(t)
				if tc.given != nil {
					tc.given(t, h)
				}
				var mu sync.Mutex
				var writes, without []string
				swarm.with(func() {
					swarm.wrote = func(what string) {
						mu.Lock()
						defer mu.Unlock()
						writes = append(writes, what)
						if holder, err := h.Store.Holder(context.Background(), "target:"+lock); err != nil || holder.ID != "op1" {
							without = append(without, fmt.Sprintf("%s: %+v %v", what, holder, err))
						}
					}
				})
				lease, err := h.Store.Lock(t.Context(), "target:"+lock, store.Claim{Owner: "@bob", Reason: "test"})
				if err != nil {
					t.Fatal(err)
				}
				h.submit(t, asked("op1"), tc.op)
				waits := func(s ops.Status) bool {
					return s.ID == "op1" && (s.State.Final() || s.State == ops.Waiting && strings.HasPrefix(s.Note, "@bob has been changing"))
				}
				s := h.wait(t, func(s ops.Status) bool { return waits(s) || s.ID == "op1" && s.State == ops.Pending })
				if s.State == ops.Pending {
					h.decide(t, "click", "carl", s.Token, ops.Approve, "")
					s = h.wait(t, waits)
				}
				if s.State != ops.Waiting || s.Target != tc.target {
					t.Fatalf("%s, of %q: %s", s.State, s.Target, told(s))
				}
				mu.Lock()
				if len(writes) > 0 {
					t.Errorf("%v while somebody else has the lock", writes)
				}
				mu.Unlock()
				lease.Release()
				if s = h.final(t, "op1"); s.State != ops.Done {
					t.Errorf("%s: %s", s.State, told(s))
				}
				mu.Lock()
				defer mu.Unlock()
				if len(writes) == 0 || len(without) > 0 {
					t.Errorf("%d changes, without the lock: %v", len(writes), without)
				}
				waitFor(t, "an entry of "+tc.target+" in the audit", func() bool {
					entries, err := h.Audit(t.Context(), tc.target, 1)
					return err == nil && len(entries) > 0 && entries[0].ID == "op1"
				})
			})
		}
	}
}

// TestLocksAllOrNone: what cannot have all its locks holds none while it waits.
func TestLocksAllOrNone(t *testing.T) {
	h, _ := lockHouse(t)
	lease, err := h.Store.Lock(t.Context(), "target:node/"+nodeID, store.Claim{Owner: "@bob", Reason: "node-drain"})
	if err != nil {
		t.Fatal(err)
	}
	h.decide(t, "click", "bob", h.pends(t, "op1", &ops.NodeRole{Node: "n2"}).Token, ops.Approve, "")
	h.wait(t, func(s ops.Status) bool {
		return s.ID == "op1" && s.State == ops.Waiting && strings.HasPrefix(s.Note, "@bob has been changing n2 (node-drain)")
	})
	waitFor(t, "the managers are free", func() bool {
		_, err := h.Store.Holder(t.Context(), "target:managers")
		return errors.Is(err, store.ErrNotFound)
	})
	says(t, h.approved(t, "op2", &ops.NodeRole{Node: "n3"}), ops.Done, "n3 is a worker")
	lease.Release()
	says(t, h.final(t, "op1"), ops.Done, "n2 is a worker")
}

// TestLocksOfNamesakes: an app called like a node, or all, is locked by itself.
func TestLocksOfNamesakes(t *testing.T) {
	h := startHouse(t, newFakeSwarm(ops.Service{Name: "n2", Replicas: 1}, ops.Service{Name: "all", Replicas: 1}))
	for _, name := range []string{"node/id2", "apps"} {
		lease, err := h.Store.Lock(t.Context(), "target:"+name, store.Claim{Owner: "@bob", Reason: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer lease.Release()
	}
	for _, app := range []string{"n2", "all"} {
		says(t, h.scale(t, "scale-"+app, &ops.Scale{App: app, Replicas: 2}), ops.Done, app+" runs 2 of 2")
	}
}

// TestPlannedAgainAfterALock: what an approved operation waits for may change its plan.
func TestPlannedAgainAfterALock(t *testing.T) {
	h, swarm := lockHouse(t)
	lease, err := h.Store.Lock(t.Context(), "target:app/pizza", store.Claim{Owner: "@bob", Reason: "scale"})
	if err != nil {
		t.Fatal(err)
	}
	h.decide(t, "click", "bob", h.pends(t, "op1", &ops.Scale{App: "pizza"}).Token, ops.Approve, "")
	h.wait(t, func(s ops.Status) bool { return s.ID == "op1" && s.State == ops.Waiting })
	swarm.with(func() { swarm.services["pizza"].Replicas = 9; swarm.services["pizza"].Version++ })
	lease.Release()
	s := h.wait(t, func(s ops.Status) bool { return s.ID == "op1" && (s.State.Final() || s.Before != nil) })
	says(t, s, ops.Pending, "replicas 9 → 0")
}

// TestApprovedWaitsForItsTurn: what somebody approved is never refused because another change
// takes long.
func TestApprovedWaitsForItsTurn(t *testing.T) {
	var ahead atomic.Int64 // of the clock
	h := pizzaHouse(t, func(r *ops.Runner) {
		r.Env.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	hold := func(owner string) *store.Lease { // one after the other, without a moment in between
		t.Helper()
		lease, err := h.Store.Lock(t.Context(), "target:app/pizza", store.Claim{ID: "others", Owner: owner, Reason: "deploy"})
		if err != nil {
			t.Fatal(err)
		}
		return lease
	}
	defer hold("@bob").Release()
	h.decide(t, "click", "bob", h.ask(t, "op1").Token, ops.Approve, "")
	waits := func(note string) {
		t.Helper()
		h.wait(t, func(s ops.Status) bool {
			return s.ID == "op1" && (s.State.Final() || s.State == ops.Waiting && strings.HasPrefix(s.Note, note))
		})
	}
	waits("@bob has been changing pizza (deploy)")
	ahead.Store(int64(time.Hour))
	lease := hold("@eve")
	waits("@eve has been changing pizza (deploy)")
	lease.Release()
	if got := h.final(t, "op1"); got.State != ops.Done {
		t.Errorf("%s %s", got.State, told(got))
	}
}

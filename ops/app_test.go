package ops_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"waggle/internal/secret"
	"waggle/ops"
)

func withKey(*testing.T) func(*ops.Runner) {
	return func(r *ops.Runner) {
		r.Env.SecretKey, r.Env.Network = testKey, "waggle"
		for _, op := range []ops.Operation{new(ops.AppSet), new(ops.AppEnv), new(ops.AppCreate), new(ops.AppRemove), &ops.AppLink{Repo: "x"}, new(ops.AppLink)} {
			r.Kinds[op.Kind()] = func() ops.Operation {
				switch op.(type) {
				case *ops.AppSet:
					return new(ops.AppSet)
				case *ops.AppEnv:
					return new(ops.AppEnv)
				case *ops.AppCreate:
					return new(ops.AppCreate)
				case *ops.AppRemove:
					return new(ops.AppRemove)
				}
				return new(ops.AppLink)
			}
		}
	}
}

func TestLink(t *testing.T) {
	h := startHouse(t, newFakeSwarm(ops.Service{Name: "pizza", Replicas: 2, Labels: map[string]string{"mine": "1"}}), withKey(t))
	s := h.does(t, "op1", &ops.AppLink{App: "pizza", Repo: "https://git.example.com/acme/pizza.git", Branch: "main"})
	says(t, s, ops.Done, "A push to main of https://git.example.com/acme/pizza.git deploys pizza", "waggle.repo none → https://git.example.com/acme/pizza.git", "no task is restarted")
	if l := h.swarm.service("pizza").Labels; l["waggle.branch"] != "main" || l["mine"] != "1" {
		t.Errorf("labels %v", l)
	}
	s = h.does(t, "op2", &ops.AppLink{App: "pizza"})
	says(t, s, ops.Done, "pizza is not deployed by pushes any more")
	if c := h.swarm.changes()[1]; fmt.Sprint(c.Unset) != "[waggle.repo waggle.branch]" || s.Plan.Undo != "/app link pizza https://git.example.com/acme/pizza.git main" {
		t.Errorf("change %+v, undo %s", c, s.Plan.Undo)
	}
	h.swarm.with(func() { delete(h.swarm.services["pizza"].Labels, "waggle.repo") })
	says(t, h.does(t, "op3", &ops.AppLink{App: "pizza"}), ops.Refused, "pizza is not linked to a repository")

	// What has a meaning without a repository stays.
	h.swarm.with(func() {
		h.swarm.services["pizza"].Labels = map[string]string{"waggle.repo": "r", "waggle.target": "last", "waggle.platform": "linux/amd64", "waggle.build-arg.B": "1", "waggle.build-arg.A": "2",
			"waggle.channel": "C1", "waggle.freeze": "ada", "waggle.releases": "[]", "waggle.replicas": "3", "waggle.migrate": "no", "mine": "1"}
	})
	h.does(t, "op4", &ops.AppLink{App: "pizza"})
	if c := h.swarm.changes()[2]; fmt.Sprint(c.Unset) != "[waggle.repo waggle.target waggle.platform waggle.build-arg.A waggle.build-arg.B]" {
		t.Errorf("change %+v", c)
	}
}

// TestGate: whoever an approval of pushes restrains does not take it off alone.
func TestGate(t *testing.T) {
	const repo = "https://git.example.com/acme/pizza.git"
	for name, tc := range map[string]struct {
		op       ops.Operation
		approval string // "" when nobody has to agree
	}{
		"gate off":                   {op: &ops.AppSet{App: "pizza", Values: map[string]string{"approve": "none"}}, approval: "pushes to pizza would deploy without an approval"},
		"gate on":                    {op: &ops.AppSet{App: "pizza", Values: map[string]string{"approve": "push"}}},
		"another branch":             {op: &ops.AppSet{App: "pizza", Values: map[string]string{"branch": "mine"}}, approval: "this changes which ones deploy"},
		"any branch":                 {op: &ops.AppSet{App: "pizza", Values: map[string]string{"branch": "none"}}, approval: "this changes which ones deploy"},
		"same branch":                {op: &ops.AppSet{App: "pizza", Values: map[string]string{"branch": "main"}}},
		"off and away":               {op: &ops.AppSet{App: "pizza", Values: map[string]string{"branch": "mine", "approve": "none"}}, approval: "pushes to pizza would deploy without an approval"},
		"something else":             {op: &ops.AppSet{App: "pizza", Values: map[string]string{"channel": "C1"}}},
		"unlink":                     {op: &ops.AppLink{App: "pizza"}, approval: "once it is linked again, pushes to pizza would deploy without an approval"},
		"link elsewhere":             {op: &ops.AppLink{App: "pizza", Repo: "https://git.example.com/mine.git", Branch: "main"}, approval: "this changes which ones deploy"},
		"link to another branch":     {op: &ops.AppLink{App: "pizza", Repo: repo, Branch: "mine"}, approval: "this changes which ones deploy"},
		"link to the default branch": {op: &ops.AppLink{App: "pizza", Repo: repo}, approval: "this changes which ones deploy"},
		"link as it is":              {op: &ops.AppLink{App: "pizza", Repo: repo, Branch: "main"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			labels := map[string]string{ops.LabelRepo: repo, ops.LabelBranch: "main", ops.LabelApprove: "push"}
			h := startHouse(t, newFakeSwarm(ops.Service{Name: "pizza", Replicas: 1, Labels: labels}), withKey(t))
			if tc.approval == "" {
				says(t, h.does(t, "op1", tc.op), ops.Done)
			} else {
				s := h.pends(t, "op1", tc.op)
				if !strings.HasSuffix(s.Plan.Approval, tc.approval) || len(h.swarm.changes()) > 0 {
					t.Errorf("%q, after %d changes", s.Plan.Approval, len(h.swarm.changes()))
				}
				h.decide(t, "click1", "ada", s.Token, ops.Approve, "")
				says(t, h.final(t, "click1"), ops.Refused, "somebody else has to approve it")
				h.decide(t, "click2", "bob", s.Token, ops.Approve, "")
				says(t, h.final(t, "op1"), ops.Done)
			}
			labels = map[string]string{ops.LabelRepo: repo, ops.LabelBranch: "main"}
			says(t, startHouse(t, newFakeSwarm(ops.Service{Name: "pizza", Replicas: 1, Labels: labels}), withKey(t)).does(t, "op1", tc.op), ops.Done)
		})
	}
}

func TestSet(t *testing.T) {
	pizza := ops.Service{Name: "pizza", Replicas: 2, Image: "pizza:1", Settings: ops.Settings{UpdateOrder: "stop-first", Parallelism: 1, LimitMemory: 256 << 20,
		Health: ops.Health{Test: []string{"CMD-SHELL", "true"}}}}
	db := ops.Service{Name: "db", Replicas: 1, Persistent: true, Constraints: []string{"node.id == id2"}, Settings: ops.Settings{Mounts: []ops.Mount{{Type: "volume", Source: "db-data", Target: "/data"}}, Ports: []ops.Port{{Published: 5432, Target: 5432, Protocol: "tcp"}}}}
	for name, tc := range map[string]struct {
		app    string
		values map[string]string
		state  ops.State
		says   []string
		check  func(ops.Change) bool
	}{
		"a label":      {values: map[string]string{"branch": "release"}, state: ops.Done, says: []string{"branch none → release", "no task is restarted", "branch of pizza is set"}, check: func(c ops.Change) bool { return c.Labels["waggle.branch"] == "release" }},
		"a label away": {values: map[string]string{"channel": "none"}, state: ops.Done, check: func(c ops.Change) bool { return fmt.Sprint(c.Unset) == "[waggle.channel]" }},
		"approve":      {values: map[string]string{"approve": "always"}, state: ops.Refused, says: []string{"it is push or none, not \"always\""}},
		"memory": {values: map[string]string{"limit-memory": "512m"}, state: ops.Done, says: []string{"limit-memory 256 MB → 512 MB", "its tasks are restarted, 1 at a time, stop-first", "2 of 2 run with it"}, check: func(c ops.Change) bool {
			return *c.Limits.Memory == 512<<20 && c.Limits.CPU == nil && c.Reserve == nil && !c.Rollback
		}},
		"cores away": {values: map[string]string{"limit-cpu": "none"}, state: ops.Done, check: func(c ops.Change) bool { return *c.Limits.CPU == 0 && c.Limits.Memory == nil }},
		"bad memory": {values: map[string]string{"limit-memory": "lots"}, state: ops.Refused, says: []string{`limit-memory cannot be set: "lots" is no amount of memory`, "It takes memory, like 512m, or none."}},
		"bad cores":  {values: map[string]string{"reserve-cpu": "NaN"}, state: ops.Refused, says: []string{`"NaN" is no number of cores`}},
		"health": {values: map[string]string{"health": "wget -qO- localhost", "health-interval": "10s", "health-retries": "3"}, state: ops.Done, says: []string{"health true → wget -qO- localhost"}, check: func(c ops.Change) bool {
			return fmt.Sprint(c.Health.Test) == "[CMD-SHELL wget -qO- localhost]" && c.Health.Interval == 10*time.Second && c.Health.Retries == 3
		}},
		"no health":            {values: map[string]string{"health": "none"}, state: ops.Done, check: func(c ops.Change) bool { return fmt.Sprint(c.Health.Test) == "[NONE]" }},
		"bad interval":         {values: map[string]string{"health-interval": "often"}, state: ops.Refused, says: []string{`"often" is no time`}},
		"order":                {values: map[string]string{"order": "start-first", "parallelism": "2"}, state: ops.Done, says: []string{"order stop-first → start-first", "no task is restarted"}, check: func(c ops.Change) bool { return c.UpdateOrder == "start-first" && *c.Parallelism == 2 }},
		"order of data":        {app: "db", values: map[string]string{"order": "start-first"}, state: ops.Refused, says: []string{"two versions would use at once"}},
		"constraints":          {values: map[string]string{"constraints": "node.role==worker,node.labels.disk != ssd"}, state: ops.Done, check: func(c ops.Change) bool { return len(*c.Constraints) == 2 }},
		"nowhere":              {values: map[string]string{"constraints": "node.labels.disk==ssd"}, state: ops.Done, says: []string{"only 0 of 2 will find a place: n1 is not node.labels.disk==ssd"}},
		"bad constraint":       {values: map[string]string{"constraints": "disk=ssd"}, state: ops.Refused, says: []string{`"disk=ssd" is no constraint`}},
		"data moves":           {app: "db", values: map[string]string{"constraints": "none"}, state: ops.Refused, says: []string{"constraints cannot be set: its data is on n2", "copy its volumes (db-data) to the other node", "--constraint-rm 'node.id == id2'"}},
		"the same, and more":   {app: "db", values: map[string]string{"constraints": "node.id==id2,node.role==worker"}, state: ops.Done},
		"data of another node": {app: "db", values: map[string]string{"node": "n1"}, state: ops.Refused, says: []string{"node cannot be set: its data is on n2", "copy its volumes"}},
		"no data":              {values: map[string]string{"node": "n1"}, state: ops.Refused, says: []string{"node cannot be set: the app has no persistent data", "`/app set pizza constraints=node.hostname==n1` places it"}},
		"by default":           {values: map[string]string{"health": "image", "health-retries": "default"}, state: ops.Refused, says: []string{"set health too"}},
		"the nodes' own":       {values: map[string]string{"ports": "22:22"}, state: ops.Refused, says: []string{"22 is the nodes' own, for SSH"}},
		"ports":                {values: map[string]string{"ports": "8080:80,53:53/udp:host"}, state: ops.Done, says: []string{"ports none → 8080:80, 53:53/udp:host"}, check: func(c ops.Change) bool { return len(*c.Ports) == 2 && (*c.Ports)[1].Host }},
		"a port taken":         {values: map[string]string{"ports": "5432:80"}, state: ops.Refused, says: []string{"the port 5432/tcp is published by db already"}},
		"a bad port":           {values: map[string]string{"ports": "80:99999"}, state: ops.Refused, says: []string{"ports are 1 to 65535"}},
		"unknown":              {values: map[string]string{"limit-memry": "1g"}, state: ops.Refused, says: []string{"Did you mean `limit-memory`?"}},
		"outside":              {values: map[string]string{"dockerfile": "../Dockerfile"}, state: ops.Refused, says: []string{"leads out of the repository"}},
		"too long":             {values: map[string]string{"channel": strings.Repeat("x", 5000)}, state: ops.Refused, says: []string{"longer than 4096 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHouse(t, newFakeSwarm(pizza, db), withKey(t))
			if tc.app == "" {
				tc.app = "pizza"
			}
			s := h.does(t, "op1", &ops.AppSet{App: tc.app, Values: tc.values})
			says(t, s, tc.state, tc.says...)
			if tc.check != nil && !tc.check(h.swarm.changes()[0]) {
				t.Errorf("change %+v", h.swarm.changes()[0])
			}
			if tc.state == ops.Refused && len(h.swarm.changes()) > 0 {
				t.Error("something was changed")
			}
		})
	}
}

// TestLinkInClear warns of an address whose token could be read on the way.
func TestLinkInClear(t *testing.T) {
	h := startHouse(t, newFakeSwarm(ops.Service{Name: "pizza", Replicas: 1, Image: "pizza:1"}), withKey(t))
	says(t, h.plans(t, "http", &ops.AppLink{App: "pizza", Repo: "http://git.example/acme/pizza.git"}), ops.DryRun, "can be read on the way: use https://")
	if got := h.plans(t, "https", &ops.AppLink{App: "pizza", Repo: "https://git.example/acme/pizza.git"}); len(got.Plan.Warnings) > 0 {
		t.Errorf("warned: %v", got.Plan.Warnings)
	}
}

// TestSetGoesBack: a change with which tasks do not run is taken back.
func TestSetGoesBack(t *testing.T) {
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 1, Image: "pizza:1", Settings: ops.Settings{Parallelism: 1}})
	looks := 0
	swarm.afterUpdate = func(s *ops.Service) {
		s.Update.State = "updating"
		swarm.tasks = func(s ops.Service) []ops.Task {
			if looks++; looks > 3 {
				swarm.services["pizza"].Update = ops.UpdateStatus{State: "rollback_completed"}
				return swarm.spread(s)
			}
			return []ops.Task{task(1, "failed", "task: non-zero exit (137)", 0)}
		}
	}
	h := startHouse(t, swarm, withKey(t))
	s := h.does(t, "op1", &ops.AppSet{App: "pizza", Values: map[string]string{"limit-memory": "6m"}})
	says(t, s, ops.Failure, "pizza did not come up: non-zero exit (137)", "Nothing of the change is left")
}

func TestEnv(t *testing.T) {
	pizza := ops.Service{Name: "pizza", Replicas: 2, Image: "pizza:1", Settings: ops.Settings{Parallelism: 1, Env: []ops.EnvVar{{Name: "OVEN", Value: "canary-old"}, {Name: "SIZE", Value: "big"}},
		Secrets: []ops.SecretRef{{ID: "s1", Name: "pizza.TOKEN.1", File: "TOKEN"}}}}
	h := startHouse(t, newFakeSwarm(pizza), withKey(t))
	s := h.does(t, "op1", &ops.AppEnv{App: "pizza", Set: map[string]secret.Text{"OVEN": "canary-hot", "NEW": "canary-new"}, Unset: []string{"SIZE"}})
	says(t, s, ops.Done, "OVEN set → another value", "NEW not set → set", "SIZE set → not set", "NEW, OVEN, SIZE of pizza changed, 2 of 2 run with it")
	if c := h.swarm.changes()[0]; c.Env["OVEN"] != "canary-hot" || fmt.Sprint(c.UnsetEnv) != "[SIZE]" || c.Image != "" || c.Replicas != nil {
		t.Errorf("change %+v", c)
	}
	s = h.does(t, "op-12345678", &ops.AppEnv{App: "pizza", Secrets: map[string]secret.Text{"TOKEN": "canary-token"}})
	says(t, s, ops.Done, "secret TOKEN set → /run/secrets/TOKEN")
	if c := h.swarm.changes()[1]; len(c.AddSecrets) != 1 || c.AddSecrets[0].Name != "pizza.TOKEN.12345678" || fmt.Sprint(c.DropSecrets) != "[s1]" || c.Env["TOKEN_FILE"] != "/run/secrets/TOKEN" {
		t.Errorf("change %+v", c)
	}
	if h.swarm.secrets["pizza.TOKEN.12345678"] != "canary-token" || fmt.Sprint(h.swarm.secretsGone) != "[s1]" {
		t.Errorf("secrets %v, gone %v", h.swarm.secrets, h.swarm.secretsGone)
	}
	h.swarm.with(func() { h.swarm.services["pizza"].Update.State = "rollback_completed" }) // of long ago
	says(t, h.does(t, "same", &ops.AppEnv{App: "pizza", Set: map[string]secret.Text{"OVEN": "canary-old"}}), ops.Done, "OVEN set → the same value", "no task is restarted", "OVEN of pizza has that value already")
	h.swarm.with(func() { h.swarm.updates = h.swarm.updates[:2] })
	says(t, h.does(t, "op3", &ops.AppEnv{App: "pizza", Unset: []string{"NOPE"}}), ops.Refused, "pizza has no variable and no secret NOPE")
	h.swarm.with(func() {
		h.swarm.services["pizza"].Secrets = []ops.SecretRef{{ID: "s9", Name: "shared", File: "shared"}}
	})
	says(t, h.does(t, "op4", &ops.AppEnv{App: "pizza", Unset: []string{"shared"}}), ops.Done, "secret shared set → not set", "the swarm secret shared stays: Waggle did not make it")
	if c := h.swarm.changes()[2]; fmt.Sprint(c.DropSecrets) != "[s9]" || fmt.Sprint(h.swarm.secretsGone) != "[s1]" {
		t.Errorf("change %+v, gone %v", c, h.swarm.secretsGone)
	}

	a, err := h.Ask(t.Context(), person("ada"), ops.AppEnvList{App: "pizza"})
	if text := fmt.Sprint(a); err != nil || strings.Contains(text, "canary") || !strings.Contains(text, "[OVEN hidden]") {
		t.Errorf("%s, %v", text, err)
	}
	keys, err := h.Store.Client().Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if dump, err := h.Store.Client().Dump(t.Context(), k).Result(); err == nil && strings.Contains(dump, "canary") {
			t.Errorf("%s has a value of the environment", k)
		}
		if v, err := h.Store.Client().Get(t.Context(), k).Result(); err == nil && strings.Contains(v, "canary") {
			t.Errorf("%s has a value of the environment", k)
		}
	}
}

// TestEnvLongSecretName: what Docker would refuse is said in the plan.
func TestEnvLongSecretName(t *testing.T) {
	h := startHouse(t, newFakeSwarm(ops.Service{Name: "pizza", Replicas: 1}), withKey(t))
	set := func(id string, length int) ops.Status {
		return h.plans(t, id, &ops.AppEnv{App: "pizza", Secrets: map[string]secret.Text{strings.Repeat("N", length): "canary"}})
	}
	const fits = 64 - len("pizza..op-00001")
	says(t, set("op-00001", fits), ops.DryRun)
	says(t, set("op-00002", fits+2), ops.Refused, "would have 66 characters, and Docker allows 64. Use a name that is 2 characters shorter")
}

func TestEnvWithoutAKey(t *testing.T) {
	h := startHouse(t, newFakeSwarm(ops.Service{Name: "pizza", Replicas: 2}), withKey(t), func(r *ops.Runner) { r.Env.SecretKey = secret.Key{} })
	err := h.Submit(t.Context(), asked("op1"), &ops.AppEnv{App: "pizza", Set: map[string]secret.Text{"A": "b"}})
	if err == nil || !strings.Contains(err.Error(), "No secret_key is set") {
		t.Errorf("%v", err)
	}
}

func TestCreate(t *testing.T) {
	repo := "https://github.com/acme/pizza.git"
	for name, tc := range map[string]struct {
		op    *ops.AppCreate
		state ops.State
		says  []string
		check func(ops.NewService) bool
	}{
		"from a repository": {op: &ops.AppCreate{App: "pizza", Repo: repo, Branch: "main", Replicas: 3, Env: map[string]secret.Text{"A": "b"}}, state: ops.Done,
			says: []string{"app pizza none → deployed by pushes to main of " + repo, "the first deploy starts 3 replicas", "POST to /webhooks/github", "`/deploy pizza`"},
			check: func(n ops.NewService) bool {
				return n.Replicas == 0 && n.Labels["waggle.repo"] == repo && n.Labels["waggle.replicas"] == "3" && n.Env[0].Value == "b" && fmt.Sprint(n.Networks) == "[net-waggle]" && n.UpdateOrder == "start-first"
			}},
		"of an image": {op: &ops.AppCreate{App: "pizza", Image: "nginx:1.27", Replicas: 2, Ports: []ops.Port{{Published: 80, Target: 80, Protocol: "tcp"}}}, state: ops.Done,
			says: []string{"app pizza none → 2 replicas of nginx:1.27", "pizza runs 2 of 2", "it has no health check of its own"}, check: func(n ops.NewService) bool { return n.Image == "nginx:1.27" && n.Replicas == 2 }},
		"with data": {op: &ops.AppCreate{App: "pizza", Repo: repo, Replicas: 1, Node: "n3", Volumes: []ops.Mount{{Type: "volume", Source: "data", Target: "/data"}}}, state: ops.Done,
			says: []string{"its data none → data:/data", "runs on n3 only and its updates stop the old task first"}, check: func(n ops.NewService) bool {
				return fmt.Sprint(n.Constraints) == "[node.id == id3]" && n.UpdateOrder == "stop-first"
			}},
		"shared data waits": {op: &ops.AppCreate{App: "pizza", Image: "x", Replicas: 2, Volumes: []ops.Mount{{Type: "volume", Source: "data", Target: "/data"}}}, state: ops.Pending, says: []string{"which its replicas would share"}},
		"many wait":         {op: &ops.AppCreate{App: "pizza", Image: "x", Replicas: 21}, state: ops.Pending, says: []string{"21 is above 20 replicas"}},
		"taken":             {op: &ops.AppCreate{App: "old", Repo: repo}, state: ops.Refused, says: []string{"There is an app old already", "`/app link old " + repo + "`"}},
		"its port is taken": {op: &ops.AppCreate{App: "pizza", Image: "x", Replicas: 1, Ports: []ops.Port{{Published: 8080, Target: 80, Protocol: "tcp"}}}, state: ops.Refused, says: []string{"the port 8080/tcp is published by old already"}},
		"no such node":      {op: &ops.AppCreate{App: "pizza", Image: "x", Node: "n9", Volumes: []ops.Mount{{Type: "volume", Source: "data", Target: "/data"}}}, state: ops.Refused, says: []string{`There is no node "n9"`}},
		"host ports, too many": {op: &ops.AppCreate{App: "pizza", Image: "x", Replicas: 5, Ports: []ops.Port{{Published: 90, Target: 80, Protocol: "tcp", Host: true}}}, state: ops.Done,
			says: []string{"only 3 of 5 will find a place", "one replica a node"}, check: func(n ops.NewService) bool { return n.UpdateOrder == "stop-first" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHouse(t, newFakeSwarm(ops.Service{Name: "old", Replicas: 1, Settings: ops.Settings{Ports: []ops.Port{{Published: 8080, Target: 80, Protocol: "tcp"}}}}), withKey(t))
			h.submit(t, asked("op1"), tc.op)
			s := h.wait(t, func(s ops.Status) bool { return s.ID == "op1" && (s.State == ops.Pending || s.State.Final()) })
			says(t, s, tc.state, tc.says...)
			if tc.check != nil && (len(h.swarm.made) != 1 || !tc.check(h.swarm.made[0])) {
				t.Errorf("made %+v", h.swarm.made)
			}
			if tc.state != ops.Done && len(h.swarm.made) > 0 {
				t.Error("it was made all the same")
			}
		})
	}
}

func TestRemoveApp(t *testing.T) {
	db := ops.Service{Name: "db", Replicas: 1, Image: "db:1@" + digest, Persistent: true, Settings: ops.Settings{
		Mounts:  []ops.Mount{{Type: "volume", Source: "db-data", Target: "/data"}, {Type: "volume", Source: "db-log", Target: "/log"}},
		Secrets: []ops.SecretRef{{ID: "s1", Name: "db.PASSWORD.1", File: "PASSWORD"}, {ID: "s2", Name: "shared", File: "shared"}}}}
	h := startHouse(t, newFakeSwarm(db, ops.Service{Name: "web", Replicas: 1, Labels: map[string]string{"com.docker.stack.namespace": "shop"}}), withKey(t))
	waits := h.pends(t, "op1", &ops.AppRemove{App: "db", Volumes: []string{"db-data"}})
	says(t, waits, ops.Pending, "app db a service → removed", "its image is db:1, 1/1 running now", "volume db-data the data of db → removed, for good", "the volume db-data is on n1", "the volume db-log stays on n1", "1 secret of its own is removed")
	h.decide(t, "click1", "bob", waits.Token, ops.Approve, "")
	says(t, h.final(t, "op1"), ops.Done, "db is removed, and with it the volume db-data on n1")
	if h.swarm.services["db"] != nil || fmt.Sprint(h.swarm.volumesGone) != "[db-data]" || fmt.Sprint(h.swarm.secretsGone) != "[s1]" {
		t.Errorf("volumes %v, secrets %v", h.swarm.volumesGone, h.swarm.secretsGone)
	}
	says(t, h.does(t, "op2", &ops.AppRemove{App: "web", Volumes: []string{"x"}}), ops.Refused, "web belongs to the stack shop")
}

func TestCapacity(t *testing.T) {
	pizza := ops.Service{Name: "pizza", Replicas: 1, ReserveMemory: 1 << 30, Settings: ops.Settings{Ports: []ops.Port{{Published: 80, Target: 80}}}}
	swarm := newFakeSwarm(pizza)
	swarm.nodes[1].Memory = 1200 << 20
	swarm.nodes[2].Availability = "drain"
	h := startHouse(t, swarm)
	says(t, h.plans(t, "op1", &ops.Scale{App: "pizza", Replicas: 6}), ops.DryRun,
		"only 5 of 6 will find a place: n1 has 3.0 GB left, n2 has 1.2 GB left, n3 is drained", "it has no health check of its own")
	a, err := h.Ask(t.Context(), person("ada"), ops.AppShow{App: "pizza"})
	if err != nil || !strings.Contains(fmt.Sprint(a), "4 more would find a place") {
		t.Errorf("%+v, %v", a, err)
	}
	if s := h.plans(t, "op2", &ops.Scale{App: "pizza", Replicas: 5}); strings.Contains(told(s), "will find a place") {
		t.Errorf("%s", told(s))
	}
}

func TestAppQuestions(t *testing.T) {
	at := time.Now().Add(-2 * time.Hour).UTC()
	label := fmt.Sprintf(`[{"number":2,"image":"reg:5000/acme/pizza:abc@%s","commit":"abcdef1234","by":"grace","at":"%s"},{"number":1,"image":"reg:5000/acme/pizza:000@%s","commit":"0000001","by":"ada","at":"%s"}]`,
		digest, at.Format(time.RFC3339), digest, at.Format(time.RFC3339))
	pizza := ops.Service{Name: "pizza", Replicas: 6, Image: "reg:5000/acme/pizza:abc@" + digest, Labels: map[string]string{"waggle.releases": label, "waggle.freeze": "@ada: holidays", "waggle.repo": "https://x/y"},
		Settings: ops.Settings{Env: []ops.EnvVar{{Name: "DB_PASSWORD", Value: "canary-db"}}}}
	db := ops.Service{Name: "db", Replicas: 1, Persistent: true, Constraints: []string{"node.hostname==n2"}}
	swarm := newFakeSwarm(pizza, db, ops.Service{Name: "agent", Mode: ops.Global})
	swarm.nodes[1].State = "down"
	swarm.lines = []ops.LogLine{
		{At: at, TaskID: "t1-running-0", NodeID: "id1", Text: "connecting with canary-db"},
		{At: at.Add(time.Second), TaskID: "t2-running-0", NodeID: "id3", Text: "an ERROR"},
	}
	h := startHouse(t, swarm, withKey(t))
	ask := func(q ops.Question) string {
		t.Helper()
		a, err := h.Ask(t.Context(), person("ada"), q)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("%+v", a)
		if strings.Contains(text, "canary") {
			t.Errorf("a secret is in %s", text)
		}
		return text
	}
	for name, tc := range map[string]struct {
		q    ops.Question
		want []string
	}{
		"list":     {ops.AppList{}, []string{"3 apps, 1 not at their count", "[pizza 6/6 unchecked 2 abcdef1 n1 n3 frozen]", "[db 0/1 failing -  data]", "[agent 2/2 global", "db runs 0 of 1", "`/app show db`"}},
		"show":     {ops.AppShow{App: "pizza"}, []string{"pizza runs 6/6, release 2 (abcdef1) since 2 h ago", "environment DB_PASSWORD (values are hidden)", "Any number more would find a place", "deploys are frozen by @ada: holidays"}},
		"show db":  {ops.AppShow{App: "db"}, []string{"it is pinned to n2, which is down"}},
		"history":  {ops.AppHistory{App: "pizza"}, []string{"pizza runs release 2; 2 releases are kept", "[1 0000001 ada 2 h ago reg:5000/acme/pizza:000@sha256:111111111111]", "`/rollback pizza <number>`"}},
		"logs":     {ops.AppLogs{App: "pizza", Lines: 50}, []string{"The last 2 lines of pizza", "1@n1 connecting with <DB_PASSWORD>", "2@n3 an ERROR"}},
		"grep":     {ops.AppLogs{App: "pizza", Lines: 50, Grep: "error"}, []string{"The last 1 line of pizza"}},
		"task":     {ops.AppLogs{App: "pizza", Lines: 50, Task: "9"}, []string{"pizza printed nothing that fits"}},
		"overview": {ops.Overview{}, []string{"2 of 3 nodes ready, 1 of 1 manager reachable, none may fail, 1 of 3 apps not at their count", "n2 is down", "db is pinned to n2, which is down", "deploys are frozen: pizza", "Images take 3.0 GB on this manager"}},
	} {
		t.Run(name, func(t *testing.T) {
			text := ask(tc.q)
			for _, want := range tc.want {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in\n%s", want, text)
				}
			}
		})
	}
}

// TestTargetDown: each plan says that the app's only node is away.
func TestTargetDown(t *testing.T) {
	swarm := newFakeSwarm(ops.Service{Name: "db", Replicas: 1, Constraints: []string{"node.hostname == n2"}})
	swarm.nodes[1].State = "down"
	h := startHouse(t, swarm, withKey(t))
	for i, op := range []ops.Operation{&ops.AppSet{App: "db", Values: map[string]string{"channel": "C1"}}, &ops.AppLink{App: "db", Repo: "https://git.example.com/acme/db.git"}} {
		s := h.does(t, fmt.Sprint("op", i), op)
		if want := "it is pinned to n2, which is down: nothing of it runs until n2 is back"; fmt.Sprint(s.Plan.Warnings) != "["+want+"]" {
			t.Errorf("warnings %q", s.Plan.Warnings)
		}
	}
	// A node of the same name is another thing.
	swarm.nodes[0].Hostname = "db"
	if s := h.does(t, "node", &ops.NodeAvailability{Node: "db", To: ops.Pause}); s.State != ops.Done || len(s.Plan.Warnings) > 0 {
		t.Errorf("%s, and a node is told to be pinned: %q", s.State, s.Plan.Warnings)
	}
}

// TestLogsOfOneTask: a number is a slot, also when another task's id begins with it.
func TestLogsOfOneTask(t *testing.T) {
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 2})
	first, second := task(1, "running", "", 0), task(2, "running", "", 0)
	first.ID, second.ID = "2abc", "1xyz"
	swarm.tasks = func(ops.Service) []ops.Task { return []ops.Task{first, second} }
	swarm.lines = []ops.LogLine{{TaskID: first.ID, NodeID: first.NodeID, Text: "margherita"}, {TaskID: second.ID, NodeID: second.NodeID, Text: "funghi"}}
	h := startHouse(t, swarm)
	for name, want := range map[string]string{"1": "margherita", "2": "funghi", "n1": "margherita", "n2": "funghi", "2ab": "margherita", "1xyz": "funghi"} {
		text := fmt.Sprint(h.asks(t, ops.AppLogs{App: "pizza", Lines: 50, Task: name}).Parts)
		if !strings.Contains(text, want) || strings.Contains(text, "margherita") == strings.Contains(text, "funghi") {
			t.Errorf("--task %s:\n%s", name, text)
		}
	}
}

package ops_test

import (
	"fmt"
	"testing"

	"waggle/ops"
)

func TestObserve(t *testing.T) {
	nodes := []ops.Node{{ID: "id1", Hostname: "n1", State: "ready"}, {ID: "id2", Hostname: "n2", State: "ready"}, {ID: "id3", Hostname: "n3", State: "down"}}
	stopping := task(2, "running", "", 5)
	stopping.Desired = "shutdown"
	unplaced := task(2, "pending", "no suitable node (max replicas per node limit exceed)", 0)
	unplaced.NodeID = ""
	silent := task(3, "pending", "", 0)
	silent.NodeID = ""
	everywhere := []ops.Task{task(1, "running", "", 0), task(2, "running", "", 0)}
	for i := range everywhere {
		everywhere[i].Slot = 0
	}
	crashed := task(1, "failed", "task: non-zero exit (1)", 1)

	for name, tc := range map[string]struct {
		wanted    int
		tasks     []ops.Task
		want      string
		converged bool
	}{
		"nothing wanted, nothing there": {0, nil, "0 of 0 running  []", true},
		"all run":                       {2, []ops.Task{task(1, "running", "", 0), task(2, "running", "", 0)}, "2 of 2 running n1 1 · n2 1 []", true},
		"one starts":                    {2, []ops.Task{task(1, "running", "", 0), task(2, "starting", "", 0)}, "1 of 2 running n1 1 []", false},
		"none made yet":                 {2, nil, "0 of 2 running  []", false},
		"on a node that is down":        {1, []ops.Task{task(3, "running", "", 0)}, "0 of 1 running  []", false},
		"replaced on another node":      {1, []ops.Task{task(3, "running", "", 5), replacing(3, "id1")}, "1 of 1 running n1 1 []", true},
		"one slot, two tasks":           {1, []ops.Task{task(1, "running", "", 5), task(1, "preparing", "", 0)}, "1 of 1 running n1 1 []", true},
		"too many still stop":           {1, []ops.Task{task(1, "running", "", 0), stopping}, "1 of 1 running n1 1 []", false},
		"no suitable node":              {2, []ops.Task{task(1, "running", "", 0), unplaced}, "1 of 2 running n1 1 [1× no suitable node (max replicas per node limit exceed)]", false},
		"one of two says why":           {3, []ops.Task{task(1, "running", "", 0), unplaced, silent}, "1 of 3 running n1 1 [2× no suitable node (max replicas per node limit exceed)]", false},
		"none says why":                 {2, []ops.Task{task(1, "running", "", 0), silent}, "1 of 2 running n1 1 []", false},
		"crash loop":                    {1, []ops.Task{crashed, task(1, "ready", "", 0)}, "0 of 1 running  [1× n1: non-zero exit (1)]", false},
		"crashed once, runs again":      {1, []ops.Task{crashed, task(1, "running", "", 0)}, "1 of 1 running n1 1 []", true},
		"global":                        {-1, everywhere, "2 of 2 running n1 1 · n2 1 []", true},
	} {
		t.Run(name, func(t *testing.T) {
			got := ops.Observe(tc.wanted, tc.tasks, nodes)
			var problems []string
			for _, p := range got.Problems {
				problems = append(problems, fmt.Sprintf("%d× %s", p.Count, p))
			}
			if s := fmt.Sprintf("%s %s %v", got, got.Where(), problems); s != tc.want {
				t.Errorf("got  %s\nwant %s", s, tc.want)
			}
			if got.Converged() != tc.converged {
				t.Errorf("converged = %v", got.Converged())
			}
		})
	}
}

func replacing(slot int, node string) ops.Task {
	t := task(slot, "running", "", 0)
	t.NodeID = node
	return t
}

func TestSameRepo(t *testing.T) {
	same := []string{
		"https://git.example/Acme/pizza.git", "https://git.example/acme/pizza", "http://git.example:80/acme/pizza/",
		"git@git.example:acme/pizza.git", "ssh://git@git.example/acme/pizza.git", "ssh://git@git.example:22/acme/pizza",
		"https://user@git.example:443/acme/pizza.git", "git://git.example/acme/pizza",
	}
	for _, a := range same {
		for _, b := range same {
			if !ops.SameRepo(a, b) {
				t.Errorf("%s and %s are the same", a, b)
			}
		}
	}
	other := []string{"", "https://git.example", "https://git.example/acme/pizza2", "https://evil.example/acme/pizza", "https://git.example:8443/acme/pizza",
		"https://git.example/x/acme/pizza", "/srv/acme/pizza.git"}
	for _, o := range other {
		if ops.SameRepo(same[0], o) {
			t.Errorf("%s is another one", o)
		}
	}
	if !ops.SameRepo("git@ssh.dev.azure.com:v3/acme/My%20Shop/pizza", "ssh://git@ssh.dev.azure.com/v3/acme/My%20Shop/pizza") {
		t.Error("escaped spaces")
	}
	if !ops.SameRepo("/srv/pizza.git", "file:///srv/pizza.git") || ops.SameRepo("", "") {
		t.Error("local paths")
	}
}

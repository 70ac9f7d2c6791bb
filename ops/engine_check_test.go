package ops_test

import (
	"strings"
	"testing"

	"waggle/ops"
)

// TestEngineCheck asks the engines that Waggle reaches, and knows of the others what the
// swarm tells.
func TestEngineCheck(t *testing.T) {
	swarm := newFakeSwarm()
	swarm.nodes[0].EngineVersion, swarm.nodes[0].Role = "20.10.24+dfsg1", "manager"
	swarm.nodes[1].EngineVersion, swarm.nodes[1].Role = "29.8.2", "worker"
	swarm.nodes[1].Labels = map[string]string{ops.LabelSSH: "root@10.0.0.2:22", ops.LabelHostKey: "ssh-ed25519 SHA256:abc"}
	swarm.nodes[2].EngineVersion, swarm.nodes[2].Role = "19.03.15", "worker"
	h := startHouse(t, swarm)
	h.servers.machine = ops.Machine{EngineVersion: "29.8.2", APIVersion: "1.55", ImageStore: "containerd"}
	text := answered(h.asks(t, ops.EngineCheck{}))
	tells(t, text, "3 engines, 2 queried",
		"n1 | 20.10.24+dfsg1 | 1.41 | classic\nn2 | 29.8.2 | 1.55 | containerd\nn3 | 19.03.15 | - | not queried: it was joined by hand",
		"! n3 (19.03.15): Waggle is tested on Docker 20.10 and later",
		"! n1 (20.10.24+dfsg1): BuildKit is vulnerable: a Dockerfile can read", "CVE-2024-23651, CVE-2024-23652, CVE-2024-23653; fixed in Docker 25.0.2",
		"! the nodes have different Docker versions: 19.03.15 on n3; 20.10.24+dfsg1 on n1; 29.8.2 on n2",
		"! the nodes have different image stores: classic on n1; containerd on n2")
	if h.servers.open != 0 {
		t.Errorf("%d connections are open", h.servers.open)
	}
}

// TestEngineAdvisories are the versions that the check warns of, each for its oldest advisory.
func TestEngineAdvisories(t *testing.T) {
	for version, want := range map[string]string{
		"20.10.24+dfsg1": "CVE-2024-23651", "24.0.9": "CVE-2024-23651", "25.0.1": "CVE-2024-23651", "25.0": "CVE-2024-23651",
		"25.0.2": "CVE-2026-33747", "28.5.2+dfsg4": "CVE-2026-33747", "v29.3.0": "CVE-2026-33747",
		"29.3.1": "GHSA-mgqf-486f-49vp", "29.8.1": "GHSA-mgqf-486f-49vp",
		"29.8.2": "", "29.10.0": "", "30.0.0-rc.1": "", "dev": "", "": "", "0.0.0-20240816132030": "",
	} {
		swarm := newFakeSwarm()
		swarm.nodes = swarm.nodes[:1]
		swarm.nodes[0].EngineVersion, swarm.nodes[0].Role = version, "manager"
		a := startHouse(t, swarm).asks(t, ops.EngineCheck{})
		text := answered(a)
		if want == "" && len(a.Concerns) > 0 || want != "" && (len(a.Concerns) != 1 || !strings.Contains(text, want)) {
			t.Errorf("%s: want %q in\n%s", version, want, text)
		}
	}
}

// TestScaleWarnsOfImagesInNoRegistry asks the registry: with the containerd image store each
// image has a digest, whether it was pulled or built there.
func TestScaleWarnsOfImagesInNoRegistry(t *testing.T) {
	const (
		missing = "its image was built on a manager and is in no registry: other nodes cannot get it; `/registry migrate` brings it to one"
		unknown = "can't check whether its registry has the image (The registry docker.io did not answer in time). If not, other nodes can't pull it: `/registry migrate` pushes it to one"
	)
	digest := "sha256:" + strings.Repeat("1", 64)
	away := ops.Errorf(ops.Unavailable, "The registry docker.io did not answer in time")
	for name, c := range map[string]struct {
		image string
		local []string // names of the image on this manager's engine
		there bool     // in its registry
		fails error    // what its registry answers
		want  string
	}{
		"containerd, built here":               {"reg:5000/acme/pizza:1", []string{"reg:5000/acme/pizza:1", "reg:5000/acme/pizza@" + digest}, false, nil, missing},
		"containerd, pushed":                   {"reg:5000/acme/pizza:1", []string{"reg:5000/acme/pizza:1", "reg:5000/acme/pizza@" + digest}, true, nil, ""},
		"containerd, no answer":                {"pizza:1", []string{"docker.io/library/pizza:1", "pizza@" + digest}, false, away, unknown},
		"classic, built here":                  {"reg:5000/acme/pizza:1", []string{"reg:5000/acme/pizza:1"}, false, nil, missing},
		"classic, built here, no answer":       {"pizza", []string{"pizza:latest"}, false, away, missing},
		"classic, brought there by others":     {"reg:5000/acme/pizza:1", []string{"reg:5000/acme/pizza:1"}, true, nil, ""},
		"not on this manager":                  {"reg:5000/acme/pizza:1", []string{"reg:5000/acme/pasta:1"}, false, nil, ""},
		"pinned, so it came from a registry":   {"reg:5000/acme/pizza:1@" + digest, []string{"reg:5000/acme/pizza:1"}, false, nil, ""},
		"another tag of the same, by a digest": {"reg:5000/acme/pizza:2", []string{"reg:5000/acme/pizza:1", "reg:5000/acme/pizza:2@" + digest}, false, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 1, Image: c.image})
			swarm.images = []ops.LocalImage{{ID: digest, Names: c.local}}
			h := startHouse(t, swarm)
			if c.there {
				h.images.images[c.image] = ops.Image{Digest: digest}
			}
			if c.fails != nil {
				h.images.failing[c.image] = c.fails
			}
			warnings := strings.Join(h.plans(t, "op1", &ops.Scale{App: "pizza", Replicas: 2}).Plan.Warnings, "\n")
			if c.want == "" && strings.Contains(warnings, "registry") || !strings.Contains(warnings, c.want) {
				t.Errorf("warns %q, want %q", warnings, c.want)
			}
		})
	}
}

package swarm

import (
	"bufio"
	"os"
	"strings"
	"testing"
)

var causeNames = map[string]cause{
	"refused": refused, "unreachable": unreachable, "overloaded": overloaded, "untrusted": untrusted, "notInRegistry": notInRegistry,
	"notLocal": notLocal, "outOfSequence": outOfSequence, "noPreviousSpec": noPreviousSpec, "notManager": notManager, "noLeader": noLeader,
}

// TestWords reads what engines were seen to say, each as the code that meets it there does:
// the first cause that matches counts.
func TestWords(t *testing.T) {
	order := map[string][]cause{
		"push":         {notLocal, untrusted, refused, unreachable, overloaded},
		"distribution": {untrusted, notInRegistry, refused, unreachable, overloaded},
		"service":      {outOfSequence, noPreviousSpec, notManager, noLeader},
	}
	f, err := os.Open("testdata/words.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	read := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		col := strings.Split(line, "\t")
		if len(col) != 4 || order[col[0]] == nil || causeNames[col[1]] == 0 {
			t.Fatalf("unreadable line %q", line)
		}
		read++
		var got cause
		for _, c := range order[col[0]] {
			if c.in(withoutNames(clean(col[3]))) {
				got = c
				break
			}
		}
		if got != causeNames[col[1]] {
			t.Errorf("%s, on %s: %q is taken for %d, not for %s", col[0], col[2], col[3], got, col[1])
		}
	}
	if read < 20 {
		t.Errorf("only %d lines", read)
	}
}

// TestPullErrors are the errors of tasks, as engines tell them, and how they are shown: the
// cause first, for lines are cut at their end.
func TestPullErrors(t *testing.T) {
	const (
		image = "10.99.7.1:5001/acme/pizza:1@sha256:83d9e776cd7d90eab0e73dcb13f165ffd4d45d078a77b1c5e697148099b82547"
		short = "10.99.7.1:5001/acme/pizza:1"
	)
	for message, want := range map[string]string{
		// Up to 29.6, classic and containerd, whatever the cause.
		"No such image: " + image: "No such image: " + short,
		// From 29.7 on, classic.
		"unauthorized: authentication required":                                                                                                                                   "unauthorized: authentication required (pulling " + short + ")",
		"manifest for " + image + " not found: manifest unknown: manifest unknown":                                                                                                "manifest not found: manifest unknown: manifest unknown (pulling " + short + ")",
		`Head "http://10.99.7.1:5001/v2/acme/pizza/manifests/1": no basic auth credentials`:                                                                                       "no basic auth credentials (pulling " + short + ")",
		`Get "http://10.99.7.1:5001/v2/": dial tcp 10.99.7.1:5001: connect: connection refused`:                                                                                   "dial tcp 10.99.7.1:5001: connect: connection refused (pulling " + short + ")",
		"pull access denied for acme/pizza, repository does not exist or may require 'docker login': denied: requested access to the resource is denied":                          "pull access denied, repository does not exist or may require 'docker login': denied: requested access to the resource is denied (pulling " + short + ")",
		`Get "https://registry.example.com/v2/": net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)`:                        "request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers) (pulling " + short + ")",
		`Get "https://registry.example.com/v2/": x509: certificate signed by unknown authority`:                                                                                   "x509: certificate signed by unknown authority (pulling " + short + ")",
		"no matching manifest for linux/arm64/v8 in the manifest list entries":                                                                                                    "no matching manifest for linux/arm64/v8 in the manifest list entries (pulling " + short + ")",
		"toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating: https://www.docker.com/increase-rate-limit":                        "toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating (pulling " + short + ")",
		`failed to resolve reference "` + image + `": unexpected status from HEAD request to http://10.99.7.1:5001/v2/acme/pizza/manifests/sha256:83d9e776cd7d: 401 Unauthorized`: "401 Unauthorized (pulling " + short + ")",
		`failed to resolve reference "` + image + `": ` + image + `: not found`:                                                                                                   "not found (pulling " + short + ")",
		`failed to resolve reference "` + image + `": failed to do request: Head "https://10.99.7.1:5001/v2/acme/pizza/manifests/1": dial tcp 10.99.7.1:5001: i/o timeout`:        "dial tcp 10.99.7.1:5001: i/o timeout (pulling " + short + ")",
	} {
		if !imageMissing(message) {
			t.Errorf("%q is no error of a pull", message)
		}
		if got := pullError(message, image); got != want {
			t.Errorf("%q\n is %q\nnot %q", message, got, want)
		}
	}
	for _, message := range []string{
		`invalid mount config for type "bind": bind source path does not exist: /nonexist`,
		`starting container failed: failed to create task for container: exec: "/nonexist": stat /nonexist: no such file or directory: unknown`,
		"task: non-zero exit (3)",
		"task: non-zero exit (137): dockerexec: unhealthy container",
		"no suitable node (insufficient resources on 3 nodes)",
		"network waggle not found",
		"host-mode port already in use on 1 node",
		"",
	} {
		if imageMissing(message) {
			t.Errorf("%q is taken for an error of a pull", message)
		}
	}
}

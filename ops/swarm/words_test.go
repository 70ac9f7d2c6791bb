package swarm

import (
	"bufio"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"

	"waggle/ops"
)

// TestWords has each sentence of testdata/words.txt from an engine, where it was seen, and
// expects what a person is told.
func TestWords(t *testing.T) {
	f, err := os.Open("testdata/words.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mia := ops.RegistryAuth{Username: "mia", Password: "canary"}
	read := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		col := strings.Split(line, "\t")
		if len(col) != 5 {
			t.Fatalf("unreadable line %q", line)
		}
		read++
		where, code, want, seen, message := col[0], ops.Code(col[1]), col[2], col[3], strings.ReplaceAll(col[4], `\n`, "\n")
		answer, err := json.Marshal(map[string]string{"message": message})
		if err != nil {
			t.Fatal(err)
		}
		switch where {
		case "push":
			stream, _ := json.Marshal(map[string]any{"errorDetail": map[string]string{"message": message}, "error": message})
			_, _, _, err = push(t, says(string(stream)), mia)
		case "distribution":
			c, _ := fake(t, map[string]http.HandlerFunc{"GET /distribution/" + pizza + "/json": fails(500, message)})
			_, err = c.ImageDigest(t.Context(), pizza, mia)
		case "service":
			c, _ := fake(t, map[string]http.HandlerFunc{"GET /services/pizza": func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusInternalServerError)
				_, _ = w.Write(answer)
			}})
			_, err = c.Service(t.Context(), "pizza")
		default:
			t.Fatalf("unreadable line %q", line)
		}
		var e *ops.Error
		if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Sentence, want) {
			t.Errorf("%s, on %s: %q is told as %v, not as %s %q", where, seen, message, err, code, want)
		}
	}
	if read < 35 {
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
		"unauthorized: authentication required":                                                                                                                                   "unauthorized: authentication required (image " + short + ")",
		"manifest for " + image + " not found: manifest unknown: manifest unknown":                                                                                                "manifest not found: manifest unknown: manifest unknown (image " + short + ")",
		`Head "http://10.99.7.1:5001/v2/acme/pizza/manifests/1": no basic auth credentials`:                                                                                       "no basic auth credentials (image " + short + ")",
		`Get "http://10.99.7.1:5001/v2/": dial tcp 10.99.7.1:5001: connect: connection refused`:                                                                                   "dial tcp 10.99.7.1:5001: connect: connection refused (image " + short + ")",
		"pull access denied for acme/pizza, repository does not exist or may require 'docker login': denied: requested access to the resource is denied":                          "pull access denied, repository does not exist or may require 'docker login': denied: requested access to the resource is denied (image " + short + ")",
		`Get "https://registry.example.com/v2/": net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)`:                        "request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers) (image " + short + ")",
		`Get "https://registry.example.com/v2/": dial tcp: lookup registry.example.com on 10.0.0.1:53: dial udp 10.0.0.1:53: connect: network is unreachable`:                     "dial tcp: lookup registry.example.com on 10.0.0.1:53: dial udp 10.0.0.1:53: connect: network is unreachable (image " + short + ")",
		`Head "https://registry.example.com/v2/acme/volume-mount/manifests/1": unauthorized`:                                                                                      "unauthorized (image " + short + ")",
		`Get "https://registry.example.com/v2/": x509: certificate signed by unknown authority`:                                                                                   "x509: certificate signed by unknown authority (image " + short + ")",
		"no matching manifest for linux/arm64/v8 in the manifest list entries":                                                                                                    "no matching manifest for linux/arm64/v8 in the manifest list entries (image " + short + ")",
		"toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating: https://www.docker.com/increase-rate-limit":                        "toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating: https://www.docker.com/increase-rate-limit (image " + short + ")",
		`failed to resolve reference "` + image + `": unexpected status from HEAD request to http://10.99.7.1:5001/v2/acme/pizza/manifests/sha256:83d9e776cd7d: 401 Unauthorized`: "401 Unauthorized (image " + short + ")",
		"repository r:5000/acme/pizza not found: name unknown: repository name not known to registry":                                                                             "repository not found: name unknown: repository name not known to registry (image " + short + ")",
		"image with reference docker.io/acme/pizza:1 was found but does not provide the specified platform (linux/arm64)":                                                         "image with reference docker.io/acme/pizza:1 was found but does not provide the specified platform (linux/arm64) (image " + short + ")",
		`failed to resolve reference "` + image + `": error from registry: access forbidden`:                                                                                      "access forbidden (image " + short + ")",
		"manifest for pizza@sha256:83d9e776cd7d90eab0e73dcb13f165ffd4d45d078a77b1c5e697148099b82547 not found: manifest unknown":                                                  "manifest not found: manifest unknown (image " + short + ")",
		`failed to resolve reference "` + image + `": ` + image + `: not found`:                                                                                                   "not found (image " + short + ")",
		`failed to resolve reference "` + image + `": failed to do request: Head "https://10.99.7.1:5001/v2/acme/pizza/manifests/1": dial tcp 10.99.7.1:5001: i/o timeout`:        "dial tcp 10.99.7.1:5001: i/o timeout (image " + short + ")",
	} {
		if !imageMissing(message) {
			t.Errorf("%q is no error of a pull", message)
		}
		if got := pullError(message, image); got != want {
			t.Errorf("%q\n is %q\nnot %q", message, got, want)
		}
	}
	for _, message := range []string{
		// As 28.5 tells of pulls, which a task has from 29.7 on.
		"failed to copy: httpReadSeeker: failed open: could not fetch content descriptor sha256:83d9e776cd7d90eab0e73dcb13f165ffd4d45d078a77b1c5e697148099b82547 (application/vnd.oci.image.layer.v1.tar+gzip) from remote: not found",
		`failed commit on ref "layer-sha256:83d9e776": commit failed: unexpected commit digest sha256:1, expected sha256:2: failed precondition`,
		"failed to unpack image on snapshotter overlayfs: unexpected media type text/html for sha256:83d9e776: not found",
		"unknown blob",
		"filesystem layer verification failed for digest sha256:83d9e776",
		"received unexpected HTTP status: 507 Insufficient Storage",
		"unknown: artifact acme/pizza:1 not found",
		"error unmarshalling content: invalid character '<' looking for beginning of value",
		`Get "/v2/": stopped after 10 redirects`,
		"failed to register layer: write /usr/bin/pizza: no space left on device",
		"failed to extract layer sha256:83d9e776: mount callback failed on /tmp: write /tmp/x: no space left on device",
		`Head "https://registry.example.com/v2/acme/pizza/manifests/1": context deadline exceeded`,
		`Get "https://registry.example.com/v2/": remote error: tls: handshake failure`,
		`image operating system "windows" cannot be used on this platform`,
	} {
		if !imageMissing(message) {
			t.Errorf("%q is no error of a pull", message)
		}
	}
	for message, want := range map[string]string{
		"failed to copy: httpReadSeeker: failed open: unexpected status from GET request to http://10.99.7.1:5001/v2/acme/pizza/blobs/sha256:83d9e776cd7d90eab0e73dcb13f165ffd4d45d078a77b1c5e697148099b82547: 403 Forbidden": "403 Forbidden (image " + short + ")",
		"error from registry: denied\ndenied": "denied (image " + short + ")",
	} {
		if got := pullError(message, image); got != want {
			t.Errorf("%q\n is %q\nnot %q", message, got, want)
		}
	}
	for _, message := range []string{
		"invalid containerConfig: user \"denied\" not found",
		"secret reference denied not found",
		"rpc error: code = PermissionDenied desc = network x not manually attachable",
		`invalid mount config for type "bind": bind source path does not exist: /nonexist`,
		`starting container failed: failed to create task for container: exec: "/nonexist": stat /nonexist: no such file or directory: unknown`,
		"task: non-zero exit (3)",
		"task: non-zero exit (137): dockerexec: unhealthy container",
		"no suitable node (insufficient resources on 3 nodes)",
		"network waggle not found",
		"host-mode port already in use on 1 node",
		"failed to mount local volume: mount :/export/pizza:/var/lib/docker/volumes/pizza/_data, data: addr=10.0.0.5: permission denied",
		"failed to mount local volume: mount :/export/pizza:/var/lib/docker/volumes/pizza/_data, data: addr=10.0.0.5: connection refused",
		`invalid mount config for type "bind": stat /srv/pizza: permission denied`,
		"failed to copy file info for /var/lib/docker/volumes/pizza/_data: failed to chown /var/lib/docker/volumes/pizza/_data: lchown /var/lib/docker/volumes/pizza/_data: operation not permitted",
		`create pizza_data: Post "http://%2Frun%2Fdocker%2Fplugins%2Fnfs.sock/VolumeDriver.Create": dial unix /run/docker/plugins/nfs.sock: connect: connection refused`,
		"error resolving passed in network volume address: lookup nfs.example.com: no such host",
		"",
	} {
		if imageMissing(message) {
			t.Errorf("%q is taken for an error of a pull", message)
		}
	}
}

// TestShortCause is what is told of a base image that BuildKit could not fetch.
func TestShortCause(t *testing.T) {
	for message, want := range map[string]string{
		"python:3.99: failed to resolve source metadata for docker.io/library/python:3.99: docker.io/library/python:3.99: not found":                                                                                     "not found",
		"pulling from host r failed with status code [manifests 1]: 401 Unauthorized":                                                                                                                                    "pulling from host r failed with status code [manifests 1]: 401 Unauthorized",
		"acme/base:1: failed to resolve source metadata for docker.io/acme/base:1: pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed": "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
		"failed to resolve source metadata for r/base:1: no match for platform in manifest: not found":                                                                                                                   "no match for platform in manifest: not found",
		"exit code: 3": "exit code: 3",
		"":             "",
	} {
		if got := shortCause(message); got != want {
			t.Errorf("%q\n is %q\nnot %q", message, got, want)
		}
	}
}

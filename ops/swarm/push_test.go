package swarm

import (
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"testing"

	"waggle/ops"
)

const pizza = "10.99.7.1:5000/pizza:1"

// push pushes pizza to an engine that answers so.
func push(t *testing.T, answer http.HandlerFunc, auth ops.RegistryAuth) (string, []string, *engine, error) {
	t.Helper()
	c, e := fake(t, map[string]http.HandlerFunc{"POST /images/10.99.7.1:5000/pizza/push": answer})
	var lines []string
	digest, err := c.Push(t.Context(), pizza, auth, func(l string) { lines = append(lines, l) })
	return digest, lines, e, err
}

func TestPush(t *testing.T) {
	digest, lines, e, err := push(t, says(data(t, "push-ok.json")), ops.RegistryAuth{Username: "mia", Password: "canary"})
	if err != nil || digest != "sha256:f359a3da0ec1a0be71554e05f496a9b49c2618e4b4fb252149989fa85662c45c" {
		t.Errorf("digest %s, %v", digest, err)
	}
	want := []string{"The push refers to repository [10.99.7.1:5000/pizza]", "9a189829b080: Mounted from app", "9e9a96f4a145: Pushed",
		"061938ca01f7: Pushed", "1: digest: " + digest + " size: 941"}
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("lines %q", lines)
	}
	r := e.last(t)
	auth, _ := base64.URLEncoding.DecodeString(r.Header.Get("X-Registry-Auth"))
	if r.URL.Query().Get("tag") != "1" || string(auth) != `{"username":"mia","password":"canary","serveraddress":"10.99.7.1:5000"}` {
		t.Errorf("query %v, auth %s", r.URL.Query(), auth)
	}
}

// TestPushDigest reads the digest from the streams of real pushes, as each engine and
// image store tells it.
func TestPushDigest(t *testing.T) {
	for file, want := range map[string]string{
		"push-ok.json":               "sha256:f359a3da0ec1a0be71554e05f496a9b49c2618e4b4fb252149989fa85662c45c", // 20.10
		"push-ok-26-classic.json":    "sha256:e420b8dc6a2bab2d21a5e3807e201d2cc1f03c59ef638ff159df734fdab84021",
		"push-ok-26-containerd.json": "sha256:83d9e776cd7d90eab0e73dcb13f165ffd4d45d078a77b1c5e697148099b82547",
		"push-ok-28-containerd.json": "sha256:83d9e776cd7d90eab0e73dcb13f165ffd4d45d078a77b1c5e697148099b82547",
	} {
		if got, _, _, err := push(t, says(data(t, file)), ops.RegistryAuth{}); err != nil || got != want {
			t.Errorf("%s: digest %q, %v", file, got, err)
		}
	}
	for line, want := range map[string]string{
		"v1.2: digest: sha256:83d9e776cd7d90eab0e73dcb13f165ffd4d45d078a77b1c5e697148099b82547 size: 1049": "sha256:83d9e776cd7d90eab0e73dcb13f165ffd4d45d078a77b1c5e697148099b82547",
		"1: digest: sha256:83d9 size: 1": "",
		"digest: sha256:83d9e776cd7d90eab0e73dcb13f165ffd4d45d078a77b1c5e697148099b82547 size: 1": "",
		"Pushed": "",
	} {
		if got := digestOfPush(line); got != want {
			t.Errorf("%q tells %q, not %q", line, got, want)
		}
	}
}

// cutOff answers as an engine does that dies in the middle of an answer.
func cutOff(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, body)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

func TestWhyAPushFailed(t *testing.T) {
	stream := func(message string) http.HandlerFunc {
		return says(`{"status":"The push refers to repository [x]"}{"errorDetail":{"message":"` + message + `"},"error":"` + message + `"}`)
	}
	mia := ops.RegistryAuth{Username: "mia", Password: "canary"}
	for name, c := range map[string]struct {
		answer   http.HandlerFunc
		auth     ops.RegistryAuth
		code     ops.Code
		sentence string
		next     string
	}{
		"wrong password": {says(data(t, "push-unauthorized.json")), mia, ops.Failed,
			"The registry 10.99.7.1:5000 does not let mia push to pizza: unauthorized: authentication required", "/registry edit"},
		"no user":      {stream("no basic auth credentials"), ops.RegistryAuth{}, ops.Failed, "wants a user and password for pizza", "/registry edit"},
		"denied":       {stream("denied: requested access to the resource is denied"), mia, ops.Failed, "does not let mia push", "/registry check"},
		"unreachable":  {stream("dial tcp 10.99.7.1:5000: connect: connection refused"), mia, ops.Unavailable, "cannot be reached: dial tcp", "/registry check"},
		"overloaded":   {stream("received unexpected HTTP status: 503 Service Unavailable"), mia, ops.Unavailable, "failed: received unexpected HTTP status: 503", ""},
		"went away":    {stream("Put http://10.99.7.1:5000/v2/pizza/blobs/uploads/x: EOF"), mia, ops.Unavailable, "failed: Put", ""},
		"untrusted":    {stream("x509: certificate signed by unknown authority"), mia, ops.Failed, "does not trust the registry", "insecure-registries"},
		"registry":     {stream("received unexpected HTTP status: 507 Insufficient Storage"), mia, ops.Failed, "The registry 10.99.7.1:5000 failed: received unexpected HTTP status: 507", ""},
		"leak":         {stream("bad password canary"), mia, ops.Failed, "bad password <secret>", ""},
		"no image":     {fails(404, "An image does not exist locally with the tag: 10.99.7.1:5000/pizza"), mia, ops.Failed, "This engine has no image", ""},
		"refused, 500": {fails(500, "unauthorized: authentication required"), mia, ops.Failed, "does not let mia push", "/registry check"},
		"no tag":       {stream("tag does not exist: 10.99.7.1:5000/pizza:1"), mia, ops.Failed, "This engine has no image 10.99.7.1:5000/pizza:1", ""},
		"wrong password, containerd": {says(data(t, "push-unauthorized-28-containerd.json")), mia, ops.Failed,
			"The registry 10.99.7.1:5000 does not let mia push to pizza: 401 Unauthorized", "/registry edit"},
		// Nothing says that the engine is away, so nothing is gained by trying again.
		"no digest": {says(`{"status":"Preparing"}{"status":"1: pushed canary"}`), mia, ops.Failed, "Docker finished pushing 10.99.7.1:5000/pizza:1 without reporting a digest. Its last line: 1: pushed <secret>", "journalctl"},
		"no words":  {says(``), mia, ops.Failed, "Its last line: none", "journalctl"},
		"cut off":   {cutOff(`{"status":"Preparing"}`), mia, ops.Unavailable, "Docker does not answer", "engine"},
		"engine":    {fails(500, "disk full"), mia, ops.Internal, "disk full", ""},
	} {
		t.Run(name, func(t *testing.T) {
			digest, lines, _, err := push(t, c.answer, c.auth)
			e := wantError(t, err, c.code, c.sentence)
			if digest != "" || !strings.Contains(e.Next, c.next) {
				t.Errorf("digest %q, next %q", digest, e.Next)
			}
			if all := err.Error() + e.Log + e.Next + strings.Join(lines, ""); strings.Contains(all, "canary") {
				t.Errorf("the password is in %s", all)
			}
		})
	}
}

func TestPushOfNoImage(t *testing.T) {
	c, _ := fake(t, nil)
	for _, ref := range []string{"", "UPPER", "http://r/x"} {
		_, err := c.Push(t.Context(), ref, ops.RegistryAuth{}, nil)
		wantError(t, err, ops.Invalid, "is not an image")
	}
}

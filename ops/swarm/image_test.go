package swarm

import (
	"fmt"
	"net/http"
	"testing"
)

// TestImages has the lists of real engines: of 26 with the classic image store, of 28 with the
// containerd store, and of 28 for an image that only swarm pulled, whose digest has no name.
func TestImages(t *testing.T) {
	const d = "sha256:48f38ceb8cdcb115ecc604e8ef3f9dcd8e5a80dd5783d66e053686a6654a2585"
	c, _ := fake(t, map[string]http.HandlerFunc{
		"GET /containers/json": says(`[{"Image":"r:5000/acme/pizza:2@` + d + `","ImageID":"` + d + `"}]`),
		"GET /images/json": says(`[
			{"Id":"sha256:df39","RepoDigests":["r:5000/busybox@` + d + `","r:5000/acme/x@` + d + `"],"RepoTags":["r:5000/busybox:1"],"Size":2},
			{"Id":"sha256:143b","RepoDigests":["r:5000/acme/pizza@` + d + `"],"RepoTags":[],"Size":2},
			{"Id":"sha256:83d9","RepoDigests":["r:5000/acme/x@` + d + `"],"RepoTags":["r:5000/busybox:1","r:5000/acme/x:1"],"Size":2},
			{"Id":"` + d + `","RepoDigests":["` + d + `"],"RepoTags":["r:5000/acme/pizza:2@` + d + `"],"Size":2},
			{"Id":"sha256:0000","RepoDigests":["` + d + `"],"RepoTags":[],"Size":2},
			{"Id":"sha256:0001","RepoDigests":["<none>@<none>"],"RepoTags":["<none>:<none>"],"Size":2}]`),
	})
	images, err := c.Images(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"[r:5000/busybox:1 r:5000/busybox@" + d + " r:5000/acme/x@" + d + "] false",
		"[r:5000/acme/pizza@" + d + "] false",
		"[r:5000/busybox:1 r:5000/acme/x:1 r:5000/acme/x@" + d + "] false",
		"[r:5000/acme/pizza:2@" + d + " r:5000/acme/pizza@" + d + "] true",
	}
	var got []string
	for _, i := range images {
		got = append(got, fmt.Sprintf("%v %t", i.Names, i.Used))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

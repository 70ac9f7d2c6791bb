package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// files are the texts of all files that were sent to the channel.
func (b *bench) files(user string) string {
	var all strings.Builder
	for _, m := range b.ws.Messages(channel, user) {
		for _, f := range m.Files {
			all.Write(f.Content)
		}
	}
	return all.String()
}

// TestBuildSecret is given to the build that mounts it, and is nowhere else.
func TestBuildSecret(t *testing.T) {
	b := start(t)
	repo := b.linked("pizza", 1, brief)
	const canary = "canary-npm-4b7e"
	value := "//registry.example.com/:_authToken=" + canary + "\nalways-auth=true"
	b.fill(ada, b.form(ada, "/app build-secret pizza set npm"), map[string]string{"value": value})
	b.sees(ada, "Builds of pizza are given the secret npm")
	b.say(ada, "/app build-secret pizza set npm=canary-npm-typed")
	b.say(linus, "/app build-secret pizza")
	b.sees(linus, "Builds of pizza are given 1 secret")
	b.say(linus, "/app show pizza")
	contains(t, "/app show", b.sees(linus, "pizza runs ").Plain(), "build secrets npm (values are hidden)")

	// The build sees exactly the value, and says it.
	dockerfile := func(then string) map[string]string {
		return map[string]string{"Dockerfile": fmt.Sprintf(`FROM %s/busybox:1
RUN --mount=type=secret,id=npm,required=true cat /run/secrets/npm; echo; test "$(sha256sum </run/secrets/npm)" = "%x  -"%s
CMD ["sleep", "100000"]
`, b.lab.Private.Addr, sha256.Sum256([]byte(value)), then)}
	}
	sha := b.push(repo, dockerfile(""), "Bake with a secret")
	b.sees(ada, "pizza runs release 1 ("+sha[:7]+"), 1 of 1")
	image, _, _ := strings.Cut(b.image("pizza"), "@")
	saved := filepath.Join(t.TempDir(), "image.tar")
	b.docker("save", "--output", saved, image)
	layers, err := os.ReadFile(saved)
	b.must(err)
	if !strings.Contains(string(layers), "Dockerfile") && !strings.Contains(string(layers), "sha256sum") {
		t.Errorf("the image was not saved: %d bytes", len(layers))
	}
	for where, text := range map[string]string{
		"the history": b.docker("history", "--no-trunc", image), "the image's config": b.docker("image", "inspect", image),
		"a layer": string(layers), "the service": b.docker("service", "inspect", "pizza"),
	} {
		if strings.Contains(text, canary) {
			t.Errorf("%s tells the secret", where)
		}
	}

	// A failing build's log is told, the secret is not.
	b.push(repo, dockerfile("; echo oh no; exit 7"), "Burn it")
	b.sees(ada, "The build failed at")
	b.eventually("the log is in the thread", 20*time.Second, func() bool { return strings.Contains(b.files(ada), "oh no") })
	contains(t, "the log", b.files(ada), "<npm>")

	b.say(ada, "/app build-secret pizza unset npm")
	b.sees(ada, "Builds of pizza are not given the secret npm any more")
	b.push(repo, dockerfile("; true"), "Bake without")
	m := b.seesAbout("/app build-secret", "The build failed at")
	contains(t, "the message", m.Plain(), "Set the secret npm with")

	var said strings.Builder
	for _, user := range []string{ada, linus} {
		for _, m := range b.ws.Messages(channel, user) {
			said.WriteString(history(m))
		}
	}
	for where, text := range map[string]string{
		"a message": said.String() + b.ws.Screen(channel, ada), "a file": b.files(ada), "Redis": b.redisValues(), "Waggle's log": b.waggle.Log(),
	} {
		for _, secret := range []string{canary, "canary-npm-typed"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s has %s", where, secret)
			}
		}
	}
}

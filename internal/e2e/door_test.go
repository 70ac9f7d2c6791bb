package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"waggle/internal/rig"
)

// TestPushWhileTheEngineIsFrozen: the forge is told that the push is stored; the
// Waggle that took it is killed, and another one deploys it, once, when the engine
// goes on.
func TestPushWhileTheEngineIsFrozen(t *testing.T) {
	b := start(t)
	repo := b.linked("pizza", 1, brief)
	frozen := true
	b.must(b.lab.Manager().Freeze(b.ctx))
	thaw := func() {
		if frozen {
			frozen = false
			b.noError(b.lab.Manager().Thaw(b.ctx))
		}
	}
	defer thaw()

	sha := b.push(repo, b.dockerfile("1"), "Bake a pizza")
	all, err := b.forge.Wait(b.ctx, 1)
	b.must(err)
	first := all[0]
	if first.Status != http.StatusAccepted || first.Took > 8*time.Second {
		t.Errorf("the push was answered %d after %s: %s", first.Status, first.Took, first.Response)
	}
	contains(t, "the answer", first.Response, `"status":"queued"`, "the swarm does not answer now", `"jobs":[]`)
	again, err := b.forge.Replay(b.ctx, first)
	b.must(err)
	if again.Status != http.StatusAccepted {
		t.Errorf("once more: %d %s", again.Status, again.Response)
	}

	b.waggle.Kill()
	b.waggle, err = rig.Start(b.ctx, binary, b.addr, b.settings, nil, false)
	b.must(err)
	if screen := b.ws.Screen(channel, ada); strings.Contains(screen, sha[:7]) {
		t.Errorf("a message about what nobody has looked at:\n%s", screen)
	}
	thaw()
	m := b.seesWithin(60*time.Second, ada, "pizza runs release 1 ("+sha[:7]+"), 1 of 1")
	contains(t, "the message", m.Plain(), "Bake a pizza")
	late, err := b.forge.Replay(b.ctx, first)
	b.must(err)
	contains(t, "the answer when it is deployed", late.Response, `"status":"duplicate"`)
	if r := b.releases("pizza"); len(r) != 1 || r[0].Commit != sha {
		t.Errorf("releases %+v", r)
	}
}

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"

	"waggle/internal/rig"
)

// TestDoctor has the doctor look at a Waggle that can work, and at some that cannot.
func TestDoctor(t *testing.T) {
	b := start(t)
	b.service("pizza", "--replicas", "1")
	manager := b.lab.Manager()
	healthy := maps.Clone(b.settings)
	healthy["WAGGLE_SSH_KEY_FILE"] = b.lab.SSHKey
	for _, tc := range []struct {
		name string
		set  map[string]string
		code int
		says []string
	}{
		{"all is well", nil, 0, []string{fmt.Sprintf(" docker      engine %s, API 1.", manager.EngineVersion), fmt.Sprintf(", %s image store, on node-1", manager.ImageStore),
			"NODE    DOCKER", "node-2  " + b.lab.Nodes[1].EngineVersion, "not queried: it was joined by hand", "ok    swarm       3 of 3 nodes ready", "ok    redis", "ok    slack       waggle in ",
			"ok    secret key  set", "registries  2 of 2 registries work; 1 of 1 image found", "ok    ssh key     ssh-", "ok    git         git version"}},
		{"a wrong token", map[string]string{"WAGGLE_SLACK_BOT_TOKEN": "xoxb-1-2-wrong"}, 1, []string{"FAIL  slack       Slack refuses slack.bot_token: invalid_auth", "→ Take the bot token", "1 of 8 checks failed"}},
		{"another secret key", map[string]string{"WAGGLE_SECRET_KEY": rig.SecretKey()}, 1, []string{"FAIL  registries  0 of 2 registries work", "another secret_key", "1 of 8 checks failed"}},
		{"Redis away, an engine that is no manager, a key that is not there", map[string]string{"WAGGLE_REDIS_URL": "redis://127.0.0.1:1/0", "WAGGLE_DOCKER_HOST": b.lab.Nodes[1].Host(), "WAGGLE_SSH_KEY_FILE": "/nowhere/key"}, 1,
			[]string{"FAIL  redis       Redis does not take a write", "FAIL  swarm       this engine is a worker, not a manager", "→ `docker swarm init`", "FAIL  ssh key", "/nowhere/key"}},
	} {
		set := maps.Clone(healthy)
		maps.Copy(set, tc.set)
		cmd := exec.CommandContext(b.ctx, binary, "doctor")
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
		for k, v := range set {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		out, err := cmd.CombinedOutput()
		if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		text := string(out)
		if code := cmd.ProcessState.ExitCode(); code != tc.code {
			t.Errorf("%s: exit code %d, want %d", tc.name, code, tc.code)
		}
		contains(t, tc.name, text, tc.says...)
		for k, v := range set {
			if (strings.Contains(k, "TOKEN") || strings.Contains(k, "SECRET")) && strings.Contains(text, v) {
				t.Errorf("%s: it tells %s", tc.name, k)
			}
		}
	}
}

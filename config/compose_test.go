package config_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// What compose.yaml sets is understood, and complete with its secrets alone.
func TestComposeFileSetsGoodSettings(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var compose struct {
		Services map[string]struct {
			Environment map[string]string
			Secrets     []string
		}
		Secrets map[string]struct{ File string }
	}
	if err := yaml.Unmarshal(data, &compose); err != nil {
		t.Fatal(err)
	}
	var env []string
	for name, value := range compose.Services["waggle"].Environment {
		if strings.HasPrefix(value, "${") {
			value = "" // from the person's shell, empty unless set
		}
		env = append(env, name+"="+value)
	}
	// Only what the service gets can be read.
	files := map[string]string{}
	for _, name := range compose.Services["waggle"].Secrets {
		if compose.Secrets[name].File == "" {
			t.Errorf("the secret %s has no file", name)
		}
		files["/run/secrets/"+name] = map[string]string{
			"slack_bot_token": "xoxb-1\n", "slack_app_token": "xapp-1\n", "secret_key": base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n",
		}[name]
	}
	s, err := load("", env, files)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := files[s.SSH.KeyFile]; !ok || s.Listen != "0.0.0.0:8080" || s.Redis.Embedded() {
		t.Errorf("ssh.key_file %s, listen %s, embedded Redis %v", s.SSH.KeyFile, s.Listen, s.Redis.Embedded())
	}
}

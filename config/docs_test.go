package config_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"waggle/config"
)

var update = flag.Bool("update", false, "write docs/settings.md anew")

func TestDocsAreCurrent(t *testing.T) {
	path := filepath.Join("..", "docs", "settings.md")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(config.Docs()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != config.Docs() {
		t.Errorf("docs/settings.md is not what the Settings struct says: go test ./config -run Docs -update")
	}
}

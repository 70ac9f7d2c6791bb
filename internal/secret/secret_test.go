package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"waggle/internal/secret"
)

func TestTextNeverPrints(t *testing.T) {
	const canary = "canary-7f3a"
	s := secret.Text(canary)
	holder := struct{ Token secret.Text }{s}

	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "token", s, "holder", holder)
	encoded, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]string{
		"%v": fmt.Sprintf("%v", s), "%s": fmt.Sprintf("token %s", s), "%q": fmt.Sprintf("%q", s),
		"%+v in a struct": fmt.Sprintf("%+v", holder), "%#v in a struct": fmt.Sprintf("%#v", holder),
		"error": fmt.Errorf("with %v", s).Error(), "json": string(encoded), "slog": logged.String(),
	} {
		if strings.Contains(got, canary) {
			t.Errorf("%s prints the secret: %s", name, got)
		}
		if !strings.Contains(got, "secret") {
			t.Errorf("%s does not say that a secret is there: %s", name, got)
		}
	}
	if s.Reveal() != canary {
		t.Errorf("Reveal() = %q", s.Reveal())
	}
	if got := fmt.Sprint(secret.Text("")); got != "" {
		t.Errorf("an empty secret prints %q", got)
	}
}

package nearest_test

import (
	"testing"

	"waggle/internal/nearest"
)

func TestOf(t *testing.T) {
	names := []string{"pizza", "pasta", "slack.bot_token"}
	for word, want := range map[string]string{
		"piza": "pizza", "PIZZA": "pizza", "pzzia": "pizza", "pasat": "pasta",
		"slack.bot_tokn": "slack.bot_token", "": "", "calzone": "", "x": "",
	} {
		if got := nearest.Of(word, names); got != want {
			t.Errorf("Of(%q) = %q, want %q", word, got, want)
		}
	}
}

package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestBadUsage: exit code 2 and what is wrong, on the standard error.
func TestBadUsage(t *testing.T) {
	for line, says := range map[string]string{
		"manifest --url http://waggle.example.com": "must be like https://waggle.example.com",
		"manifest --usl x":                         "usl",
		"sevre":                                    `did you mean "serve"?`,
		"":                                         "serve",
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), strings.Fields(line), &stdout, &stderr); code != exitUsage || stdout.Len() > 0 || !strings.Contains(stderr.String(), says) {
			t.Errorf("waggle %s: exit %d\n%s%s", line, code, stdout.String(), stderr.String())
		}
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"manifest", "--url", "https://waggle.example.com"}, &stdout, &stderr); code != exitOK || !strings.Contains(stdout.String(), "https://waggle.example.com/slack/events") {
		t.Errorf("exit %d: %s", code, stderr.String())
	}
}

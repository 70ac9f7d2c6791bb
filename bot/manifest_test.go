package bot

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestManifest(t *testing.T) {
	for name, base := range map[string]string{"socket": "", "http": "https://waggle.example.com"} {
		got, err := Manifest(base)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, filepath.Join("manifest", name+".json"), string(got))
	}
}

func TestManifestURL(t *testing.T) {
	want, err := Manifest("https://waggle.example.com/hooks")
	if err != nil {
		t.Fatal(err)
	}
	for _, same := range []string{"https://waggle.example.com/hooks/", "https://waggle.example.com/hooks/slack/events"} {
		got, err := Manifest(same)
		if err != nil || string(got) != string(want) {
			t.Errorf("%s: %v\n%s", same, err, got)
		}
	}
	for _, bad := range []string{"http://waggle.example.com", "waggle.example.com", "https://", "https://u:p@x.io", "https://x.io?a=b", "https://x.io#a", "%", "ftp://x.io"} {
		if got, err := Manifest(bad); err == nil {
			t.Errorf("%s is taken:\n%s", bad, got)
		}
	}
}

// TestScopes finds every method of Slack's that the code calls, so that none
// lacks its scope, and no scope is asked for that nothing needs.
func TestScopes(t *testing.T) {
	needs := map[string][]string{
		"AuthTestContext":               nil,
		"OpenViewContext":               nil,
		"GetPermalinkContext":           nil,
		"UpdateViewContext":             nil,
		"PushViewContext":               nil,
		"GetUserInfoContext":            {"users:read"},
		"GetUserGroupMembersContext":    {"usergroups:read"},
		"GetUserGroupsContext":          {"usergroups:read"},
		"PostMessageContext":            {"chat:write"},
		"PostEphemeralContext":          {"chat:write"},
		"UpdateMessageContext":          {"chat:write"},
		"DeleteMessageContext":          {"chat:write"},
		"UploadFileContext":             {"files:write"},
		"GetConversationHistoryContext": historyScopes(),
		"OpenConversationContext":       {"im:write"},
	}
	want := []string{"commands", "chat:write.public"}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\.api\.(\w+)\(`).FindAllStringSubmatch(string(b), -1) {
			needed, known := needs[m[1]]
			if !known {
				t.Errorf("%s calls %s: which scope does it need?", f, m[1])
			}
			want = append(want, needed...)
		}
	}
	slices.Sort(want)
	want = slices.Compact(want)
	got := scopes()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the manifest asks for %v, and the code needs %v", got, want)
	}
}

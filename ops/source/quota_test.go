package source

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"waggle/ops"
)

// mktree writes a tree of entries and returns its hash.
func mktree(t *testing.T, git string, n int, entry func(i int) string) string {
	t.Helper()
	var text strings.Builder
	for i := range n {
		fmt.Fprintln(&text, entry(i))
	}
	cmd := exec.Command("git", "--git-dir="+git, "mktree", "--missing")
	cmd.Stdin = strings.NewReader(text.String())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestListOfVeryManyFiles(t *testing.T) {
	run := &runner{remote: &remote{name: "acme/pizza", scheme: "file"}, dir: t.TempDir(), tree: t.TempDir(), log: slog.New(slog.DiscardHandler)}
	if err := run.init(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	git := filepath.Join(run.dir, "git")
	name := strings.Repeat("x", 200)
	files := mktree(t, git, 500, func(i int) string { return fmt.Sprintf("100644 blob %040x\t%s%d", 1, name, i) })
	all := mktree(t, git, 500, func(i int) string { return fmt.Sprintf("040000 tree %s\t%s%d", files, name, i) })
	out, err := run.git(t.Context(), "ls-tree", "-r", "-z", files)
	if err != nil || strings.Count(out, "\x00") != 500 {
		t.Fatalf("%d bytes, %v", len(out), err)
	}
	out, err = run.git(t.Context(), "ls-tree", "-r", "-z", all) // more than 100 MB
	e := wantError(t, run.failed(t.Context(), err, "list its files"), ops.Failed, "acme/pizza has too many files")
	if out != "" || e.Next == "" {
		t.Errorf("%d bytes, next %q", len(out), e.Next)
	}
}

func TestEmptyFilesCount(t *testing.T) {
	dir := t.TempDir()
	for i := range 100 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := sizeOf(t.Context(), dir); got < 100*block {
		t.Errorf("100 empty files take %d bytes", got)
	}
}

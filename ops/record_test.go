package ops

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"testing"
	"time"
)

var updateGolden = flag.Bool("update", false, "write the golden records anew")

// storedRecord has every field set, as this version stores it.
func storedRecord() record {
	at := time.Date(2026, 11, 27, 10, 0, 0, 0, time.UTC)
	ada := Actor{ID: "U0ADA", Name: "ada", Via: "slack"}
	plan := Plan{Diffs: []Diff{{What: "replicas", From: "3", To: "30"}}, Facts: []string{"a fact"}, Warnings: []string{"a warning"}, Approval: "30 is above 20 replicas", Undo: "/scale pizza 3"}
	decision := Decision{Verdict: Approve, By: Actor{ID: "U0GRACE", Name: "grace", Via: "slack"}, Reason: "go", At: at}
	entry := Entry{At: at, ID: "cmd-1", Who: "@ada", UserID: "U0ADA", Kind: "scale", Target: "pizza", Diffs: plan.Diffs, Outcome: Failure, Why: "why", Decider: "@grace", DeciderID: "U0GRACE", Took: time.Second}
	return record{
		Request: Request{Format: recordFormat, ID: "cmd-1", Kind: "scale", Op: json.RawMessage(`{"app":"pizza","replicas":30}`), Actor: ada, Title: "scale pizza 30",
			Channel: "C0DEPLOYS", Reply: `{"user":"U0ADA"}`, DryRun: true, At: at, Seq: 7, Asked: true},
		Token: 1764237600000000, State: Pending, Message: "C0DEPLOYS/1.2", Begun: 2, Open: true, Worker: "w", Crashes: 1, Plan: &plan, Deadline: at.Add(time.Hour), Round: 3,
		Approved: &decision, Applying: true, Planned: &plan, Applied: true, Locks: []string{"app/pizza"}, Changed: []string{"app/pizza"}, Note: "a note", Away: at, Told: 4,
		Status: &Status{ID: "cmd-1", Kind: "scale", Target: "pizza", Title: "scale pizza 30", Actor: ada, State: Failure, Began: at, Took: time.Second, Plan: plan, Decision: &decision,
			Steps: []Step{{Name: "update", Detail: "d", State: Done, Began: at, Took: time.Second}}, Replicas: &Replicas{Wanted: 3, Running: 2, Nodes: []NodeCount{{"n1", 2}}, Problems: []Problem{{1, "n2", "no"}}},
			Err: &Error{Code: Failed, Sentence: "failed", Next: "next", Log: "log"}},
		Audit: &entry, Forge: &CommitStatus{Provider: "github", Repo: "https://x/y", Commit: "abc", App: "pizza", State: StatusFailure, Text: "t"},
	}
}

// TestGoldenRecord: what this version stores is what is in the golden file, which later versions have
// to read. A field that is renamed or means something else needs a new recordFormat, and the old
// file stays.
func TestGoldenRecord(t *testing.T) {
	const file = "testdata/records/format-1.json"
	want := storedRecord()
	now, err := json.MarshalIndent(want, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	now = append(now, '\n')
	if *updateGolden {
		if err := os.WriteFile(file, now, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(golden, now) {
		t.Errorf("a record is stored as\n%s", now)
	}
	var got record
	if err := json.Unmarshal(golden, &got); err != nil {
		t.Fatal(err)
	}
	var op bytes.Buffer // indented in the file
	if err := json.Compact(&op, got.Op); err != nil {
		t.Fatal(err)
	}
	got.Op = op.Bytes()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read\n%+v\nwant\n%+v", got, want)
	}
}

// TestRecordOfTheVersionBefore: what waited when Waggle was updated goes on waiting.
func TestRecordOfTheVersionBefore(t *testing.T) {
	golden, err := os.ReadFile("testdata/records/format-0.json")
	if err != nil {
		t.Fatal(err)
	}
	var got record
	if err := json.Unmarshal(golden, &got); err != nil {
		t.Fatal(err)
	}
	if got.ID != "cmd-1" || got.State != Pending || got.Round != 1 || got.Plan == nil || got.Message != "C0DEPLOYS/1.2" || got.Deadline.IsZero() || got.Begun != 1 {
		t.Errorf("read %+v", got)
	}
}

package swarm

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/pkg/stdcopy"

	"waggle/ops"
)

func TestTasks(t *testing.T) {
	c, e := fake(t, map[string]http.HandlerFunc{"GET /tasks": says(data(t, "tasks.json"))})
	for _, upToDate := range []bool{false, true} {
		tasks, err := c.Tasks(t.Context(), "svc", upToDate)
		if err != nil {
			t.Fatal(err)
		}
		got := e.requests[len(e.requests)-1].URL.Query().Get("filters")
		if !strings.Contains(got, `"service":{"svc":true}`) || strings.Contains(got, `"_up-to-date":{"true":true}`) != upToDate {
			t.Errorf("filters %s", got)
		}
		failed := 0
		for i, k := range tasks {
			if i > 0 && (k.Slot < tasks[i-1].Slot || k.Slot > 0 && k.Slot == tasks[i-1].Slot && k.Created.After(tasks[i-1].Created)) {
				t.Errorf("task %d is out of order", i)
			}
			if k.State == "failed" {
				failed++
				if k.ExitCode != 3 || k.Err != "task: non-zero exit (3)" || k.Desired != "shutdown" || k.Updated.IsZero() || k.Image == "" || k.NodeID == "" {
					t.Errorf("failed task = %+v", k)
				}
			}
		}
		if len(tasks) == 0 || failed == 0 {
			t.Errorf("%d tasks, %d failed", len(tasks), failed)
		}
	}
}

func logEngine(t *testing.T, task string, log http.HandlerFunc) *Client {
	c, _ := fake(t, map[string]http.HandlerFunc{"GET /tasks/t1": says(task), "GET /tasks/t1/logs": log})
	return c
}

func TestTaskLogs(t *testing.T) {
	const ran = `{"ID":"t1","NodeID":"n1","Spec":{"ContainerSpec":{"TTY":%v}},"Status":{"ContainerStatus":{"ContainerID":"c1"}}}`
	demux := logEngine(t, fmt.Sprintf(ran, false), says(data(t, "task-log.bin")))
	if got, err := demux.TaskLogs(t.Context(), "t1", 10); err != nil || got != "4\n5\nerr" {
		t.Errorf("log = %q, %v", got, err)
	}
	if got, err := demux.TaskLogs(t.Context(), "t1", 2); err != nil || got != "5\nerr" {
		t.Errorf("log = %q, %v", got, err)
	}
	if got, err := demux.TaskLogs(t.Context(), "t1", 0); err != nil || got != "" {
		t.Errorf("log = %q, %v", got, err)
	}
	tty := logEngine(t, fmt.Sprintf(ran, true), says("one\r\ntwo\r\n"))
	if got, err := tty.TaskLogs(t.Context(), "t1", 10); err != nil || got != "one\r\ntwo" {
		t.Errorf("log = %q, %v", got, err)
	}
	never := logEngine(t, `{"ID":"t1","NodeID":"n1","Status":{}}`, fails(500, "must not be asked"))
	if got, err := never.TaskLogs(t.Context(), "t1", 10); err != nil || got != "" {
		t.Errorf("log = %q, %v", got, err)
	}
	for _, id := range []string{"other", "../nodes", ""} {
		_, err := demux.TaskLogs(t.Context(), id, 10)
		wantError(t, err, ops.NotFound, "There is no task")
	}
}

// The engine waits without end for the log of a node that is down.
func TestTaskLogsOfANodeThatHangs(t *testing.T) {
	const task = `{"ID":"t1","NodeID":"n1","Spec":{"ContainerSpec":{}},"Status":{"ContainerStatus":{"ContainerID":"c1"}}}`
	log := data(t, "task-log.bin")
	for name, sent := range map[string]string{"nothing": "", "half": log[:20]} {
		t.Run(name, func(t *testing.T) {
			c := logEngine(t, task, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, sent)
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			})
			c.logsTimeout = 100 * time.Millisecond
			began := time.Now()
			got, err := c.TaskLogs(t.Context(), "t1", 10)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
			if sent == "" {
				wantError(t, err, ops.Unavailable, "did not answer in time")
			} else if err != nil || got != "4\n5" {
				t.Errorf("log = %q, %v", got, err)
			}
		})
	}
}

// Of very many lines the newest are given, whichever task's come first.
func TestServiceLogsAreTheNewest(t *testing.T) {
	raw := data(t, "service-rich.json")
	began := time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)
	c, _ := fake(t, map[string]http.HandlerFunc{
		"GET /services/" + richID: says(raw),
		"GET /services/" + richID + "/logs": func(w http.ResponseWriter, _ *http.Request) {
			out := stdcopy.NewStdWriter(w, stdcopy.Stdout)
			say := func(task string, n int, from time.Duration) {
				var lines strings.Builder
				for i := range n {
					fmt.Fprintf(&lines, "%s com.docker.swarm.node.id=n,com.docker.swarm.task.id=%s %d\n", began.Add(from+time.Duration(i)*time.Millisecond).Format(time.RFC3339Nano), task, i)
				}
				if _, err := io.WriteString(out, lines.String()); err != nil {
					t.Error(err)
				}
			}
			say("old", 2*maxLogLines, 0)
			say("new", 100, time.Hour)
			say("old", maxLogLines, -time.Hour)
		},
	})
	lines, partial, err := c.ServiceLogs(t.Context(), ops.Service{ID: richID}, ops.LogRequest{Lines: 5000})
	if err != nil || partial || len(lines) != maxLogLines {
		t.Fatalf("%d lines, %t, %v", len(lines), partial, err)
	}
	if !slices.IsSortedFunc(lines, func(a, b ops.LogLine) int { return a.At.Compare(b.At) }) {
		t.Error("they are not in order")
	}
	for i, l := range lines[maxLogLines-100:] {
		if l.TaskID != "new" || l.Text != fmt.Sprint(i) {
			t.Fatalf("line %d from the end is %+v", 100-i, l)
		}
	}
	if first := lines[0]; first.TaskID != "old" || first.Text != fmt.Sprint(maxLogLines+100) {
		t.Errorf("the first is %+v", first)
	}
}

func TestLastLines(t *testing.T) {
	for _, c := range []struct {
		in   string
		n    int
		want string
	}{{"", 3, ""}, {"a", 1, "a"}, {"a\nb\nc\n", 2, "b\nc"}, {"a\nb\nc", 3, "a\nb\nc"}, {"a\nb", 9, "a\nb"}, {"\n\na", 2, "\na"}} {
		if got := lastLines(c.in, c.n); got != c.want {
			t.Errorf("lastLines(%q, %d) = %q, want %q", c.in, c.n, got, c.want)
		}
	}
}

package swarm

import (
	"context"
	"io"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/pkg/stdcopy"

	"waggle/ops"
)

const (
	// logsTimeout bounds the reading of a task's log. The engine waits without
	// end for the log of a task whose node is down.
	logsTimeout = 5 * time.Second
	// logsLimit bounds what is kept of it, in bytes.
	logsLimit = 256 << 10
)

// Tasks returns the tasks of a service by slot, the newest first in each. The
// tasks of a global service have no slot and come by node. With upToDate only
// those made from the current task spec are returned.
func (c *Client) Tasks(ctx context.Context, serviceID string, upToDate bool) ([]ops.Task, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	f := filters.NewArgs(filters.Arg("service", serviceID))
	if upToDate {
		f.Add("_up-to-date", "true")
	}
	list, err := c.api.TaskList(ctx, swarm.TaskListOptions{Filters: f})
	if errdefs.IsNotFound(err) {
		return nil, noService(serviceID, err)
	}
	if err != nil {
		return nil, c.failed(err, "list the tasks of %s", serviceID)
	}
	tasks := make([]ops.Task, 0, len(list))
	for i := range list {
		tasks = append(tasks, task(&list[i]))
	}
	sort.SliceStable(tasks, func(i, j int) bool {
		a, b := &tasks[i], &tasks[j]
		switch {
		case a.Slot != b.Slot:
			return a.Slot < b.Slot
		case a.Slot == 0 && a.NodeID != b.NodeID:
			return a.NodeID < b.NodeID
		}
		return a.Created.After(b.Created)
	})
	return tasks, nil
}

// task makes the operations' view of a task.
func task(t *swarm.Task) ops.Task {
	o := ops.Task{
		ID:        t.ID,
		ServiceID: t.ServiceID,
		NodeID:    t.NodeID,
		Slot:      t.Slot,
		State:     string(t.Status.State),
		Desired:   string(t.DesiredState),
		Err:       t.Status.Err,
		Created:   t.CreatedAt,
		Updated:   t.Status.Timestamp,
	}
	if t.Spec.ContainerSpec != nil {
		o.Image = t.Spec.ContainerSpec.Image
	}
	if t.Status.State == swarm.TaskStateRejected && imageMissing(o.Err) {
		o.ImageMissing, o.Err = true, pullError(o.Err, o.Image)
	}
	if t.Status.ContainerStatus != nil {
		o.ExitCode = t.Status.ContainerStatus.ExitCode
	}
	return o
}

// TaskLogs returns the last lines that a task printed, stdout and stderr
// together; "" when there are none. What was read until the time limit is
// returned without an error; Unavailable means the task's node sent nothing.
func (c *Client) TaskLogs(ctx context.Context, taskID string, lines int) (string, error) {
	if !identifier.MatchString(taskID) {
		return "", ops.Errorf(ops.NotFound, "There is no task %s", taskID)
	}
	if lines <= 0 {
		return "", nil
	}
	limited, cancel := context.WithTimeout(ctx, c.logsTimeout)
	defer cancel()
	t, _, err := c.api.TaskInspectWithRaw(limited, taskID)
	if errdefs.IsNotFound(err) {
		return "", &ops.Error{Code: ops.NotFound, Sentence: "There is no task " + taskID + " any more", Err: err}
	}
	if err != nil {
		return "", c.failed(err, "read the task %s", taskID)
	}
	if t.NodeID == "" || t.Status.ContainerStatus == nil {
		return "", nil // never had a container
	}
	stream, err := c.api.TaskLogs(limited, t.ID, container.LogsOptions{
		ShowStdout: true, ShowStderr: true, Tail: strconv.Itoa(lines),
	})
	if err != nil {
		return "", c.failed(err, "read the log of task %s", taskID)
	}
	defer stream.Close()
	kept := &tail{max: logsLimit}
	if t.Spec.ContainerSpec != nil && t.Spec.ContainerSpec.TTY {
		_, err = io.Copy(kept, stream)
	} else {
		_, err = stdcopy.StdCopy(kept, kept, stream)
	}
	text := lastLines(kept.String(), lines)
	if err != nil && text == "" && logIncomplete.in(err.Error()) {
		return "", (&ops.Error{Code: ops.Unavailable, Sentence: "The node that task " + taskID + " ran on does not give its log", Err: err}).
			Then("See with `/node list` whether the node is up")
	}
	if err != nil && text == "" {
		return "", c.failed(err, "read the log of task %s", taskID)
	}
	if err != nil {
		c.log.Warn("task log cut short", "task", taskID, "err", err)
	}
	return text, nil
}

// tail is a writer that keeps the last max bytes.
type tail struct {
	max int
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.max; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.ToValidUTF8(string(t.buf), "\uFFFD") }

// lastLines returns at most n lines from the end of s, without the last newline.
func lastLines(s string, n int) string {
	s = strings.TrimRight(s, "\r\n")
	for i := len(s); i > 0; {
		i = strings.LastIndexByte(s[:i], '\n')
		if i < 0 {
			break
		}
		if n--; n == 0 {
			return s[i+1:]
		}
	}
	return s
}

package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/client"

	"waggle/ops"
)

// failed turns an error of the engine into an *ops.Error. What says what was
// tried, as in "could not …".
func (c *Client) failed(err error, what string, args ...any) error {
	if err == nil {
		return nil
	}
	var e *ops.Error
	if errors.As(err, &e) {
		return e
	}
	what = fmt.Sprintf(what, args...)
	message := clean(err.Error())
	var network net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return &ops.Error{Code: ops.Canceled, Sentence: "Called off: " + what, Err: err}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return (&ops.Error{Code: ops.Unavailable, Sentence: "Docker did not answer in time to " + what, Err: err}).
			Then("Try again in a minute; if it stays so, look at the engine's log: journalctl -u docker")
	case client.IsErrConnectionFailed(err), errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return (&ops.Error{Code: ops.Unavailable, Sentence: "Docker does not answer at " + c.host, Err: err}).
			Then("See whether the engine runs there and whether Waggle may use its socket")
	case outOfSequence.in(message):
		return &ops.Error{Code: ops.OutOfDate, Sentence: "It changed since it was read", Err: err}
	case noPreviousSpec.in(message): // the swarm was faster in going back
		return &ops.Error{Code: ops.OutOfDate, Sentence: "It has gone back already", Err: err}
	case notManager.in(message):
		return (&ops.Error{Code: ops.Unavailable, Sentence: "The Docker engine at " + c.host + " is not a swarm manager", Err: err}).
			Then("Run Waggle on a manager, or set docker.host to one")
	case noLeader.in(message), strings.Contains(err.Error(), "code = Unavailable"), errdefs.IsUnavailable(err):
		return (&ops.Error{Code: ops.Unavailable, Sentence: "The swarm's managers do not agree on a leader", Err: err}).
			Then("Bring back the managers that are down: more than half of them must be up")
	case errdefs.IsNotFound(err):
		return &ops.Error{Code: ops.NotFound, Sentence: "Docker has nothing of that name: " + message, Err: err}
	}
	return &ops.Error{Code: ops.Internal, Sentence: fmt.Sprintf("Docker refused to %s: %s", what, message), Err: err}
}

var prefixes = regexp.MustCompile(`^(Error response from daemon: |rpc error: code = \w+ desc = )+`)

// clean removes what the client and gRPC put before the engine's own words.
func clean(message string) string {
	return prefixes.ReplaceAllString(strings.TrimSpace(message), "")
}

// readAll reads at most limit bytes and fails if there are more.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = errTooLong
	}
	return b, err
}

package ops_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"waggle/ops"
)

// moody is a Source that is away for the first checkouts.
type moody struct {
	ops.Source
	left atomic.Int32
}

func (m *moody) Checkout(ctx context.Context, url, commit, branch string) (string, func(), error) {
	if m.left.Add(-1) >= 0 {
		return "", nil, ops.Errorf(ops.Unavailable, "git.example cannot be reached")
	}
	return m.Source.Checkout(ctx, url, commit, branch)
}

// TestPushOutlivesWhatItNeeds: a step of a deploy is begun again while the forge, the engine or the
// registry is away.
func TestPushOutlivesWhatItNeeds(t *testing.T) {
	for name, tc := range map[string]struct {
		given  func(h *house)
		builds int
		note   string
	}{
		"the forge": {func(h *house) {
			m := &moody{Source: h.source}
			m.left.Store(3)
			h.Env.Source = m
		}, 1, "git.example cannot be reached. Retrying until "},
		"the engine, while it builds": {func(h *house) {
			left := 3
			h.swarm.build = func(context.Context, ops.BuildRequest) error {
				if left--; left >= 0 {
					return dockerAway
				}
				return nil
			}
		}, 4, dockerAway.Sentence + ". Retrying until "},
		"the registry of an image that is named": {func(h *house) {
			h.source.files = map[string]string{"captain-definition": `{"schemaVersion": 2, "imageName": "nginx:1.27"}`}
			left := 3
			h.swarm.registry = func(string) (string, error) {
				if left--; left >= 0 {
					return "", ops.Errorf(ops.Unavailable, "docker.io cannot be reached")
				}
				return digest, nil
			}
		}, 0, "docker.io cannot be reached. Retrying until "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHouse(t, newFakeSwarm(linked("pizza", 2)))
			tc.given(h)
			got := h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
			if got.State != ops.Done || len(h.swarm.built) != tc.builds {
				t.Errorf("%s %+v after %d builds", got.State, got.Err, len(h.swarm.built))
			}
			if !h.seen(noted(tc.note)) {
				t.Errorf("no note was %q", tc.note)
			}
		})
	}
}

// TestPushEndsAtTheBuildTimeout: what does not answer until then is the verdict, with its name.
func TestPushEndsAtTheBuildTimeout(t *testing.T) {
	swarm := newFakeSwarm(linked("pizza", 2))
	swarm.build = func(context.Context, ops.BuildRequest) error { return dockerAway }
	h := startHouse(t, swarm, func(r *ops.Runner) { r.Env.BuildTimeout = 600 * time.Millisecond })
	got := h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
	if got.State != ops.Failure || !strings.HasPrefix(got.Err.Sentence, dockerAway.Sentence+" (retried until ") {
		t.Errorf("%s %+v", got.State, got.Err)
	}
}

// TestFailedBuildIsNotRetried: only what does not answer is.
func TestFailedBuildIsNotRetried(t *testing.T) {
	swarm := newFakeSwarm(linked("pizza", 2))
	swarm.build = func(context.Context, ops.BuildRequest) error {
		if len(swarm.built) == 1 {
			return dockerAway
		}
		return ops.Errorf(ops.Failed, "The build failed: exit code 7")
	}
	swarm.lineOf = func(log func(string)) { log("#1 the oven") }
	h := startHouse(t, swarm)
	got := h.final(t, h.push(t, pushOf(1)).Jobs[0].ID)
	if got.State != ops.Failure || got.Err.Sentence != "The build failed: exit code 7" || len(swarm.built) != 2 || got.Err.Whole != "#1 the oven" {
		t.Errorf("%s %+v after %d builds", got.State, got.Err, len(swarm.built))
	}
}

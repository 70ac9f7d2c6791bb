package ops_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"waggle/ops"
)

// loses executes the first write that contains a text, and loses its answer.
type loses struct {
	text string
	lost atomic.Bool
	then func()
}

func (*loses) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l *loses) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		var text strings.Builder
		for _, arg := range cmd.Args() {
			if b, ok := arg.([]byte); ok {
				text.Write(b)
			}
		}
		if err == nil && strings.Contains(text.String(), l.text) && l.lost.CompareAndSwap(false, true) {
			l.then()
			err = errors.New("i/o timeout")
			cmd.SetErr(err)
		}
		return err
	}
}

func (*loses) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// TestAnswerOfARecordIsLost: the record says already that the scale is written and only watched, and
// somebody else scales. The first must not go back to before, and write again.
func TestAnswerOfARecordIsLost(t *testing.T) {
	t.Parallel()
	swarm := newFakeSwarm(ops.Service{Name: "pizza", Replicas: 3})
	var h *house
	h = startHouse(t, swarm, func(r *ops.Runner) {
		r.Store.Client().AddHook(&loses{text: `"applied":true`, then: func() {
			h.submit(t, asked("op2"), &ops.Scale{App: "pizza", Replicas: 3})
		}})
	})
	h.submit(t, asked("op1"), &ops.Scale{App: "pizza", Replicas: 5})
	waitFor(t, "both scales", func() bool { return len(swarm.changes()) >= 2 })
	h.settled(t, "op1", "op2")
	var got []string
	for _, c := range swarm.changes() {
		got = append(got, fmt.Sprint(*c.Replicas))
	}
	if order := strings.Join(got, " "); order != "5 3" {
		t.Errorf("scaled to %s", order)
	}
}

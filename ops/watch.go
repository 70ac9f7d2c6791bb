package ops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"waggle/ops/store"
)

// watchEvery is how often a Watcher looks whether a later change has taken over.
const watchEvery = time.Second

// watch runs converge, which only watches, until it ends or overtaken returns an error: a later
// change has taken over.
func (r *Run) watch(ctx context.Context, overtaken, converge func(context.Context) error) error {
	watching, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for {
			select {
			case <-watching.Done():
				return
			case <-tick.C:
			}
			if err := overtaken(watching); CodeOf(err) == Canceled {
				stop(err)
				return
			}
		}
	}()
	err := converge(watching)
	cause := context.Cause(watching)
	stop(nil)
	<-done
	if e := new(Error); errors.As(cause, &e) && e.Code == Canceled {
		return e
	}
	return err
}

// lastChange says which operation has changed something last, for those whose change was replaced.
type lastChange struct {
	ID    string `json:"id"`
	By    string `json:"by"`
	Title string `json:"title"`
}

const lastChangeKept = 24 * time.Hour

func lastChangeKey(lock string) string { return "changed:" + lock }

// lastChanges are the commands that note run as the last one that has changed what it locks.
func (r *Run) lastChanges() []store.Command {
	text := jsonText(lastChange{r.ID, r.Actor.String(), r.Title})
	var out []store.Command
	for _, lock := range r.locks {
		out = append(out, store.Command{Do: "SET", Name: lastChangeKey(lock), Args: []any{text, "EX", int64(lastChangeKept.Seconds())}})
	}
	return out
}

// successor names who changed last what this operation has changed, as well as that is known.
func (r *Run) successor(ctx context.Context) string {
	for _, lock := range r.w.record().Changed {
		var last lastChange
		if err := r.w.store.Get(ctx, lastChangeKey(lock), &last); err == nil && last.ID != r.ID {
			if last.Title == "" {
				return last.By
			}
			return fmt.Sprintf("%s (%s)", last.By, last.Title)
		}
	}
	return "a change made outside Waggle"
}

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

// lastChange says which operation has changed a setting of something last.
type lastChange struct {
	ID    string    `json:"id"`
	By    string    `json:"by"`
	Title string    `json:"title"`
	Asked time.Time `json:"asked"` // or approved, if that was needed
}

const lastChangeKept = 24 * time.Hour

func lastChangeKey(lock, setting string) string { return "changed:" + lock + ":" + setting }

// setting is what the operation sets, "" when it is no Setter.
func (r *Run) setting() string {
	if s, ok := r.op.(Setter); ok {
		return s.Setting()
	}
	return ""
}

// asked is when somebody last wanted the operation: asked for it, or approved it.
func (r *Run) asked() time.Time {
	if d := r.snapshot().Decision; d != nil && d.Verdict == Approve {
		return d.At
	}
	return r.At
}

// lastChanges are the commands that note run as the last one that has changed its setting.
func (r *Run) lastChanges() []store.Command {
	if r.setting() == "" {
		return nil
	}
	text := jsonText(lastChange{r.ID, r.Actor.String(), r.Title, r.asked()})
	var out []store.Command
	for _, lock := range r.locks {
		out = append(out, store.Command{Do: "SET", Name: lastChangeKey(lock, r.setting()), Args: []any{text, "EX", int64(lastChangeKept.Seconds())}})
	}
	return out
}

// overtaken returns an error when an operation that was asked for later has set
// what this one would set: a Setter that waited or was interrupted does not undo it.
func (r *Runner) overtaken(ctx context.Context, run *Run) error {
	if s, ok := run.op.(Setter); !ok || !s.Sets() {
		return nil
	}
	for _, lock := range run.locks {
		var last lastChange
		err := r.Store.Get(ctx, lastChangeKey(lock, run.setting()), &last)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return redisAway(err)
		case last.ID != run.ID && last.Asked.After(run.asked()):
			return Errorf(Canceled, "Superseded by %s, asked for later", last)
		}
	}
	return nil
}

func (c lastChange) String() string {
	if c.Title == "" {
		return c.By
	}
	return fmt.Sprintf("%s (%s)", c.By, c.Title)
}

// successor names who changed last what this operation has changed, as well as that is known.
func (r *Run) successor(ctx context.Context) string {
	for _, lock := range r.w.record().Changed {
		var last lastChange
		if err := r.w.store.Get(ctx, lastChangeKey(lock, r.setting()), &last); err == nil && last.ID != r.ID {
			return last.String()
		}
	}
	return "a change made outside Waggle"
}

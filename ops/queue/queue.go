// Package queue is the durable job queue, asynq on Redis. A job is an id and a
// payload; what it means is the handler's matter.
package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"waggle/ops/store"
)

// Retention is how long a finished job's id is remembered, so that the same job
// cannot be added again.
const Retention = 7 * 24 * time.Hour

const (
	taskType = "operation"
	// maxRetry never ends: asynq counts what was only put back, too, and archives a job after the
	// last one.
	maxRetry = math.MaxInt32
	longest  = 4 * time.Hour // every step has a shorter deadline of its own
)

var (
	// ErrDuplicate says that a job of that id is there already, or was in the last Retention.
	ErrDuplicate = errors.New("a job of that id is queued or was done already")
	// ErrBusy, from a handler, puts the job back for about a second. It is no failure.
	ErrBusy = errors.New("not its turn yet")
	// ErrInterrupted, from a handler, puts the job back at once. It is no failure.
	ErrInterrupted = errors.New("interrupted")
)

// Handler does one job. It is called again after an error, so it must know from
// its own records what is done already.
type Handler func(ctx context.Context, payload []byte) error

// Queue is one named queue: jobs of any process, workers of this one.
type Queue struct {
	name    string
	log     *slog.Logger
	client  *asynq.Client
	asking  *asynq.Client // only says what it would do, see Adding
	looking *asynq.Inspector
	server  *asynq.Server
	running context.Context // ends when the running jobs are to be interrupted
	stop    context.CancelFunc
}

// Options configure a queue's workers in this process.
type Options struct {
	Name        string
	Concurrency int // jobs side by side
	// Poll is how soon an idle worker sees a new job. Each look is one call of Redis.
	Poll time.Duration
	Log  *slog.Logger
	// Away says that Redis is known not to answer, which is logged elsewhere: what asynq
	// logs then is for debugging. nil is never.
	Away func() bool
}

// New returns the queue on rdb; no job is taken before Start.
func New(rdb redis.UniversalClient, o Options) *Queue {
	running, stop := context.WithCancel(context.Background())
	return &Queue{
		name:    o.Name,
		log:     o.Log,
		client:  asynq.NewClientFromRedisClient(heard{rdb}),
		asking:  asynq.NewClientFromRedisClient(asked{rdb}),
		looking: asynq.NewInspectorFromRedisClient(rdb),
		running: running,
		stop:    stop,
		server: asynq.NewServerFromRedisClient(rdb, asynq.Config{
			Concurrency:              o.Concurrency,
			Queues:                   map[string]int{o.Name: 1},
			TaskCheckInterval:        o.Poll,
			DelayedTaskCheckInterval: 500 * time.Millisecond,
			ShutdownTimeout:          8 * time.Second,
			RetryDelayFunc:           retryDelay,
			IsFailure:                func(err error) bool { return !putBack(err) },
			Logger:                   logger{o.Log.With("queue", o.Name), o.Away},
		}),
	}
}

// putBack says whether an error only means that the job waits.
func putBack(err error) bool { return errors.Is(err, ErrBusy) || errors.Is(err, ErrInterrupted) }

func retryDelay(n int, err error, _ *asynq.Task) time.Duration {
	switch {
	case errors.Is(err, ErrBusy):
		return time.Second
	case errors.Is(err, ErrInterrupted), errors.Is(err, asynq.ErrLeaseExpired):
		return 0
	default:
		return min(time.Duration(n+1)*2*time.Second, 30*time.Second)
	}
}

// Add stores a job. When it returns nil the job is durable in Redis.
func (q *Queue) Add(ctx context.Context, id string, payload []byte) error {
	return q.add(ctx, q.client, id, payload)
}

func (q *Queue) add(ctx context.Context, client *asynq.Client, id string, payload []byte) error {
	var cause error
	_, err := client.EnqueueContext(context.WithValue(ctx, causeKey{}, &cause), asynq.NewTask(taskType, payload),
		asynq.TaskID(id), asynq.Queue(q.name), asynq.Retention(Retention), asynq.MaxRetry(maxRetry), asynq.Timeout(longest))
	if errors.Is(err, asynq.ErrTaskIDConflict) {
		return ErrDuplicate
	}
	if err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		return fmt.Errorf("queue %s: %w", id, err)
	}
	return nil
}

// heard is a Redis that notes in the *error of the context what a script ended with:
// of that asynq keeps no more than the text.
type heard struct{ redis.UniversalClient }

type causeKey struct{}

func (h heard) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	return noted(ctx, h.UniversalClient.EvalSha(ctx, sha, keys, args...))
}

func (h heard) Eval(ctx context.Context, text string, keys []string, args ...any) *redis.Cmd {
	return noted(ctx, h.UniversalClient.Eval(ctx, text, keys, args...))
}

func noted(ctx context.Context, cmd *redis.Cmd) *redis.Cmd {
	if cause, ok := ctx.Value(causeKey{}).(*error); ok {
		*cause = cmd.Err()
	}
	return cmd
}

// Adding is what Add does, for somebody who does more in the same step: a script
// that returns 0 when the job is a duplicate.
func (q *Queue) Adding(ctx context.Context, id string, payload []byte) (*store.Script, error) {
	script := new(store.Script)
	if err := q.add(context.WithValue(ctx, scriptKey{}, script), q.asking, id, payload); err != nil {
		return nil, err
	}
	if script.Text == "" {
		return nil, fmt.Errorf("queue %s: asynq did not say how", id)
	}
	return script, nil
}

// asked is a Redis that runs no script: it notes it in the *store.Script of the
// context. What asynq does once for a queue it does.
type asked struct{ redis.UniversalClient }

type scriptKey struct{}

func (asked) EvalSha(ctx context.Context, _ string, _ []string, _ ...any) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(redis.ErrNoScript) // so it says the script itself
	return cmd
}

func (asked) Eval(ctx context.Context, text string, keys []string, args ...any) *redis.Cmd {
	*ctx.Value(scriptKey{}).(*store.Script) = store.Script{Text: text, Keys: keys, Args: args}
	cmd := redis.NewCmd(ctx)
	cmd.SetVal(int64(1))
	return cmd
}

// Start begins to take jobs.
func (q *Queue) Start(handle Handler) error {
	return q.server.Start(asynq.HandlerFunc(func(ctx context.Context, t *asynq.Task) error {
		// asynq forgets a handler whose context it ended itself, so the context
		// that Stop ends is a child: the handler is waited for.
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(q.running, cancel)()
		err := handle(ctx, t.Payload())
		if err != nil && !putBack(err) {
			q.log.Error("a job could not be done and will be tried again", "queue", q.name, "err", err)
		}
		return err
	}))
}

// TakeUp adds the jobs again whose process died while it did them, and returns their
// ids. It can tell when asynq's lease on them has ended, which is at most 30 s after
// the death. asynq itself puts them back too, up to two minutes after it: a handler
// is then called for what is done already.
func (q *Queue) TakeUp(ctx context.Context) ([]string, error) {
	active, err := q.looking.ListActiveTasks(q.name, asynq.PageSize(1000))
	if errors.Is(err, asynq.ErrQueueNotFound) {
		return nil, nil // it never had a job
	}
	if err != nil {
		return nil, fmt.Errorf("queue %s: %w", q.name, err)
	}
	var taken []string
	for _, job := range active {
		if !job.IsOrphaned {
			continue
		}
		// The same new id from every replica: one of them adds it.
		err := q.Add(ctx, fmt.Sprintf("%s.again%d", job.ID, job.Retried), job.Payload)
		switch {
		case err == nil:
			taken = append(taken, job.ID)
		case !errors.Is(err, ErrDuplicate):
			return taken, err
		}
	}
	return taken, nil
}

// listed is how many jobs of each state Unfinished returns.
const listed = 100

// Unfinished returns the payloads of the jobs that are not done: that run, that wait for
// a worker, and that were put back. One may be there twice.
func (q *Queue) Unfinished(ctx context.Context) ([][]byte, error) {
	type answer struct {
		jobs [][]byte
		err  error
	}
	answers := make(chan answer, 1)
	go func() { // asynq takes no context here
		jobs, err := q.unfinished()
		answers <- answer{jobs, err}
	}()
	select {
	case a := <-answers:
		return a.jobs, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("queue %s: %w", q.name, ctx.Err())
	}
}

func (q *Queue) unfinished() ([][]byte, error) {
	var jobs [][]byte
	// One that waits goes round in these, so the first is looked at again.
	for _, list := range []func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
		q.looking.ListRetryTasks, q.looking.ListPendingTasks, q.looking.ListActiveTasks, q.looking.ListRetryTasks} {
		all, err := list(q.name, asynq.PageSize(listed))
		if errors.Is(err, asynq.ErrQueueNotFound) {
			return nil, nil // it never had a job
		}
		if err != nil {
			return nil, fmt.Errorf("queue %s: %w", q.name, err)
		}
		for _, job := range all {
			jobs = append(jobs, job.Payload)
		}
	}
	return jobs, nil
}

// Stop interrupts the running jobs by their contexts, waits up to 8 s for them,
// and leaves what is not done in the queue.
func (q *Queue) Stop() {
	q.stop()
	q.server.Shutdown()
}

// logger passes asynq's log on. Its info lines are of no use to an operator, nor is what
// it logs several times a second while Redis is away.
type logger struct {
	log  *slog.Logger
	away func() bool
}

func (l logger) Debug(args ...any) { l.log.Debug(fmt.Sprint(args...)) }
func (l logger) Info(args ...any)  { l.log.Debug(fmt.Sprint(args...)) }
func (l logger) Warn(args ...any)  { l.pass(slog.LevelWarn, args) }
func (l logger) Error(args ...any) { l.pass(slog.LevelError, args) }
func (l logger) Fatal(args ...any) { l.log.Error(fmt.Sprint(args...)) }

func (l logger) pass(level slog.Level, args []any) {
	if l.away != nil && l.away() {
		level = slog.LevelDebug
	}
	l.log.Log(context.Background(), level, fmt.Sprint(args...))
}

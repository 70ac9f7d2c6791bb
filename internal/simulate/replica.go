package simulate

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"waggle/ops"
	"waggle/ops/queue"
	"waggle/ops/store"
)

const (
	scaleAbove  = 10
	approvalTTL = 30 * time.Second
)

// replica is one process of Waggle.
type replica struct {
	*gate
	w      *world
	name   string
	store  *store.Store
	runner *ops.Runner
	queues []*queue.Queue

	channel *redis.Client // see subscribing
	started bool          // guarded by the world's mutex
}

// subscribing is a Redis client whose subscriptions are not gated: go-redis holds a mutex while
// it writes to one, and a goroutine blocked on a mutex stops virtual time. The queue library
// subscribes to cancelled jobs only, of which there are none.
type subscribing struct {
	redis.UniversalClient
	channel *redis.Client
}

func (s subscribing) Subscribe(ctx context.Context, names ...string) *redis.PubSub {
	return s.channel.Subscribe(ctx, names...)
}

type allow struct{}

func (allow) Authorise(context.Context, ops.Actor, ops.Role) error { return nil }

// start starts one more replica. If Start fails the process exits, and the service manager
// starts the next one.
func (w *world) start() {
	w.mu.Lock()
	r := &replica{gate: &gate{end: w.end}, w: w, name: fmt.Sprintf("r%d", len(w.replicas)+1)}
	w.replicas = append(w.replicas, r)
	w.log(r.name, "starts")
	w.mu.Unlock()
	r.wire()
	err := r.runner.Start()
	w.mu.Lock()
	r.started = err == nil
	w.mu.Unlock()
	if err == nil || !r.alive() {
		return
	}
	w.note(r.name, "does not start: %v", err)
	r.kill()
	select {
	case <-time.After(time.Second):
		w.start()
	case <-w.end:
	}
}

// limit is a hook of the Redis client that allows fewer concurrent calls than the pool has
// connections. go-redis waits for a free connection with a timer of a package-wide sync.Pool,
// which another bubble may have created: that panics.
type limit struct {
	*gate
	calls chan struct{}
}

func (l limit) take(ctx context.Context) (put func(), err error) {
	if err := l.pass(); err != nil {
		return nil, err
	}
	select {
	case l.calls <- struct{}{}:
		return func() { <-l.calls }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.end:
		time.Sleep(time.Millisecond)
		return nil, errEnd
	}
}

func (limit) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l limit) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		put, err := l.take(ctx)
		if err != nil {
			cmd.SetErr(err)
			return err
		}
		defer put()
		return next(ctx, cmd)
	}
}

func (l limit) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		put, err := l.take(ctx)
		if err != nil {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
			return err
		}
		defer put()
		return next(ctx, cmds)
	}
}

// wire makes the Runner as cmd/waggle does, with gated dependencies. It is the only place that
// knows how the engine is put together.
func (r *replica) wire() {
	r.store = store.Open(&redis.UniversalOptions{
		// No host name: the resolver uses goroutines outside of the bubble.
		Addrs:           []string{"192.0.2.1:6379"},
		Dialer:          func(context.Context, string, string) (net.Conn, error) { return r.dial() },
		DisableIdentity: true,
		ReadBufferSize:  4 << 10, WriteBufferSize: 4 << 10, // the default of 32 kB costs more than the rest of a connection
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	r.store.Client().AddHook(limit{r.gate, make(chan struct{}, 16)})
	log := slog.New(r.w.handler).With("replica", r.name)
	r.channel = redis.NewClient(&redis.Options{
		Addr:            "192.0.2.1:6379",
		Dialer:          func(context.Context, string, string) (net.Conn, error) { return r.conn(true), nil },
		DisableIdentity: true,
		ReadBufferSize:  4 << 10, WriteBufferSize: 4 << 10,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	newQueue := func(name string) *queue.Queue {
		q := queue.New(subscribing{r.store.Client(), r.channel}, queue.Options{Name: name, Concurrency: 4,
			Poll: time.Millisecond, Log: log})
		r.queues = append(r.queues, q)
		return q
	}
	swarm := client{r: r}
	r.runner = &ops.Runner{
		Env: ops.Env{Swarm: swarm, Source: source{r}, ScaleAbove: scaleAbove, Builds: ops.NewSlots(2),
			BuildTimeout: time.Minute, DeployTimeout: time.Minute,
			JoinTimeout: time.Minute, Now: time.Now},
		Kinds: map[string]func() ops.Operation{
			"scale":    func() ops.Operation { return new(ops.Scale) },
			"deploy":   func() ops.Operation { return new(ops.Deploy) },
			"rollback": func() ops.Operation { return new(ops.Rollback) },
		},
		Failpoint: func(step string) { _ = r.w.failpoint(r, pointStep(step), before) },
		Store:     r.store, Authoriser: allow{}, Reporter: reporter{r}, Statuses: forge{r}, Log: log,
		Metrics:   ops.NewMetrics(prometheus.NewRegistry()),
		Decisions: newQueue("decisions"), Changes: newQueue("changes"), Deploys: newQueue("deploys"), ApprovalTTL: approvalTTL,
	}
}

// latency is the duration of a call. It differs from call to call, so that virtual time and not
// Go's scheduler decides the order.
func (r *replica) latency(what string) time.Duration {
	return 100*time.Microsecond + time.Duration(r.w.plan.hash(r.name, what, r.w.now())%900_000)
}

func (r *replica) stop() {
	r.w.mu.Lock()
	started := r.started
	r.w.mu.Unlock()
	if started {
		r.runner.Stop()
	} else {
		for _, q := range r.queues {
			q.Stop() // the first may have started
		}
	}
	_ = r.store.Close()
	_ = r.channel.Close()
}

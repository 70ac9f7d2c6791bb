package ops

import (
	"context"
	"log/slog"
	"time"
)

// NewRun returns a run that has begun, for tests of what it waits for without the mechanism around
// it, so that they can be in a bubble of testing/synctest.
func NewRun(env Env, message Message) *Run {
	return &Run{Env: env, Log: slog.New(slog.DiscardHandler), show: message.Show, status: Status{State: Working}}
}

func (r *Run) WhileAway(ctx context.Context, deadline time.Time, do func(context.Context) error) error {
	return r.whileAway(ctx, deadline, do)
}

func (r *Run) Until(ctx context.Context, limit time.Duration, done func(context.Context) (bool, error)) error {
	return r.until(ctx, limit, done)
}

func (r *Run) FollowScale(ctx context.Context, svc Service) (Replicas, error) {
	return r.converge(ctx, svc)
}

func (r *Run) FollowUpdate(ctx context.Context, name, image string) (Replicas, error) {
	return r.followUpdate(ctx, name, image, "Try again.")
}

func (r *Run) Evacuated(ctx context.Context, node Node, moves []string) error {
	return r.evacuated(ctx, node, moves)
}

func (r *Run) Shown() Status { return r.status }

// StartRegistry starts the service of a registry as the end of a prune does.
func (r *Run) StartRegistry(ctx context.Context, service string) error {
	return (&RegistryPrune{service: Service{Name: service}}).start(ctx, r)
}

package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// outage notices, as a go-redis hook, when Redis stops answering and when it answers again.
// Each is one line in the log, however many calls fail in between: dozens a second do, of
// the queues alone.
type outage struct {
	now func() time.Time

	mu       sync.Mutex
	log      *slog.Logger
	began    time.Time // zero while Redis answers
	answered time.Time // the last time
}

// LogOutages has the beginning and the end of an outage of Redis logged. What go-redis
// logs by itself, a line for each connection that fails, is for debugging from then on, in
// the whole process: go-redis has one logger.
func (s *Store) LogOutages(log *slog.Logger) {
	s.outage.mu.Lock()
	defer s.outage.mu.Unlock()
	s.outage.log = log
	redis.SetLogger(clientLog{log})
}

// Away says whether Redis is known not to answer. That is logged already: what fails by it
// need not log each try.
func (s *Store) Away() bool {
	s.outage.mu.Lock()
	defer s.outage.mu.Unlock()
	return !s.outage.began.IsZero()
}

// clientLog is what go-redis logs to.
type clientLog struct{ log *slog.Logger }

func (c clientLog) Printf(ctx context.Context, format string, args ...any) {
	c.log.DebugContext(ctx, fmt.Sprintf(format, args...))
}

func (o *outage) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		began := o.now()
		conn, err := next(ctx, network, addr)
		if err != nil { // a connection alone is no answer
			o.note(began, err)
		}
		return conn, err
	}
}

func (o *outage) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		began := o.now()
		err := next(ctx, cmd)
		o.note(began, err)
		return err
	}
}

func (o *outage) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		began := o.now()
		err := next(ctx, cmds)
		o.note(began, err)
		return err
	}
}

// note takes in how a call ended that began then.
func (o *outage) note(began time.Time, err error) {
	switch {
	case err == nil, errors.As(err, new(redis.Error)) && !starting(err):
		o.answer()
	case errors.Is(err, context.Canceled), errors.Is(err, redis.ErrClosed), errors.Is(err, redis.ErrPoolTimeout):
		// It says nothing about Redis.
	default:
		o.fail(began, err)
	}
}

// starting says whether Redis answers only that it does not serve anybody yet.
func starting(err error) bool {
	return redis.IsLoadingError(err) || redis.IsMasterDownError(err) || redis.IsClusterDownError(err)
}

func (o *outage) answer() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answered = o.now()
	if o.began.IsZero() {
		return
	}
	if o.log != nil {
		o.log.Info("Redis answers again after " + o.answered.Sub(o.began).Round(time.Second).String())
	}
	o.began = time.Time{}
}

// fail begins an outage, unless another call was answered since this one began: then this
// one was only slow or unlucky.
func (o *outage) fail(began time.Time, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.began.IsZero() || o.answered.After(began) {
		return
	}
	o.began = o.now()
	if o.log != nil {
		o.log.Warn(fmt.Sprintf("can't reach Redis: %v; trying again", err))
	}
}

package workspace

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limit is a token bucket: Burst calls at once, then PerMinute calls a minute.
// A zero PerMinute never refuses.
type Limit struct {
	PerMinute float64
	Burst     int
}

// Limits are the rate limits of the Web API. Slack publishes the rates and not
// the bursts; the bursts are ours.
// https://docs.slack.dev/apis/web-api/rate-limits
type Limits struct {
	// Post holds for each channel: chat.postMessage, chat.postEphemeral and
	// messages with files, together. Slack: "1 message per second per channel.
	// Short bursts […] are allowed".
	Post Limit
	// Tiers hold for each method in the whole workspace; index 1 is Tier 1.
	// chat.update is Tier 3.
	Tiers [5]Limit
	// Methods replaces the tier's limit for single methods.
	Methods map[string]Limit
}

// DefaultLimits are the published rates with bursts of a few seconds.
func DefaultLimits() Limits {
	return Limits{
		Post: Limit{PerMinute: 60, Burst: 5},
		Tiers: [5]Limit{
			1: {PerMinute: 1, Burst: 5},
			2: {PerMinute: 20, Burst: 20},
			3: {PerMinute: 50, Burst: 25},
			4: {PerMinute: 100, Burst: 50},
		},
	}
}

// NoLimits never refuses, for tests that are about something else.
func NoLimits() *Limits { return &Limits{} }

// limiter keeps the buckets, by method, or by channel for posts.
type limiter struct {
	limits Limits

	mu      sync.Mutex
	buckets map[string]*rate.Limiter
}

func newLimiter(l Limits) *limiter {
	return &limiter{limits: l, buckets: make(map[string]*rate.Limiter)}
}

// method takes a token of method's bucket at now. It returns how long to wait
// when there is none.
func (l *limiter) method(name string, tier int, now time.Time) time.Duration {
	limit, ok := l.limits.Methods[name]
	if !ok {
		limit = l.limits.Tiers[tier]
	}
	return l.take("method "+name, limit, now)
}

// post takes a token of a channel's bucket at now.
func (l *limiter) post(channel string, now time.Time) time.Duration {
	return l.take("post "+channel, l.limits.Post, now)
}

func (l *limiter) take(key string, limit Limit, now time.Time) time.Duration {
	if limit.PerMinute == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[key]
	if b == nil {
		b = rate.NewLimiter(rate.Limit(limit.PerMinute/60), max(1, limit.Burst))
		l.buckets[key] = b
	}
	r := b.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// retryAfter is the value of the Retry-After header: whole seconds, at least 1.
func retryAfter(wait time.Duration) int {
	return max(1, int(math.Ceil(wait.Seconds())))
}

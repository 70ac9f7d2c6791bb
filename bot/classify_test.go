package bot

import (
	"context"
	"errors"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/slack-go/slack"
)

func TestClassify(t *testing.T) {
	code := func(c string) error { return slack.SlackErrorResponse{Err: c} }
	dial := &url.Error{Op: "Post", Err: &net.OpError{Op: "dial", Err: errors.New("connection refused")}}
	read := &url.Error{Op: "Post", Err: &net.OpError{Op: "read", Err: errors.New("connection reset by peer")}}
	for name, tt := range map[string]struct {
		err     error
		want    fate
		wait    time.Duration
		notDone bool
	}{
		"429":                   {&slack.RateLimitedError{RetryAfter: 7 * time.Second}, retry, 7 * time.Second, true},
		"429 without its time":  {slack.StatusCodeError{Code: 429}, retry, 0, true},
		"ratelimited":           {code("ratelimited"), retry, 0, true},
		"502":                   {slack.StatusCodeError{Code: 502}, retry, 0, false},
		"internal error":        {code("internal_error"), retry, 0, false},
		"refused connection":    {dial, retry, 0, true},
		"reset connection":      {read, retry, 0, false},
		"timeout":               {context.DeadlineExceeded, retry, 0, false},
		"a proxy's 407":         {slack.StatusCodeError{Code: 407}, later, 0, true},
		"a proxy's 413":         {slack.StatusCodeError{Code: 413}, shorten, 0, true},
		"revoked token":         {code("token_revoked"), later, 0, true},
		"too long":              {code("msg_too_long"), shorten, 0, true},
		"unknown code":          {code("a_new_code"), shorten, 0, true},
		"archived":              {code("is_archived"), never, 0, true},
		"of a try that ended":   {errors.Join(context.Canceled, code("internal_error")), retry, 0, false},
		"of a try that may not": {errors.Join(context.Canceled, code("not_in_channel")), never, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			what, wait := classify(tt.err)
			if what != tt.want || wait != tt.wait || notDone(tt.err) != tt.notDone {
				t.Errorf("%v, after %s, not done: %v; want %+v", what, wait, notDone(tt.err), tt)
			}
		})
	}
	seen := map[string]bool{}
	for _, codes := range fates {
		for _, c := range codes {
			if seen[c] {
				t.Errorf("%s is listed twice", c)
			}
			seen[c] = true
		}
	}
}

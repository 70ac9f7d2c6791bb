package bot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/slack-go/slack"
)

// fate is what can be done about a call to Slack that failed.
type fate int

const (
	retry   fate = iota // Slack is away or busy: the same call again, soon
	later               // the token or the network has to be fixed first: again after minutes
	shorten             // Slack refuses the content: a shorter message may be accepted
	never               // this conversation or person cannot be written to
)

// Slack's error codes by what to do about them. Any other one is about the content, or
// is unknown: then a plainer message is tried, and nothing after that.
// Source: https://docs.slack.dev/reference/methods/chat.postMessage#errors
var fates = map[fate][]string{
	retry: {"ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable", "request_timeout",
		"team_added_to_org"},
	// A rotated token, a reinstalled app or a renewed plan heals all of these.
	later: {"not_authed", "invalid_auth", "account_inactive", "token_revoked", "token_expired", "missing_scope",
		"no_permission", "not_allowed_token_type", "access_denied", "accesslimited", "org_login_required",
		"ekm_access_denied", "enterprise_is_restricted", "team_access_not_granted", "team_not_found",
		"two_factor_setup_required", "message_limit_exceeded"},
	never: {"channel_not_found", "not_in_channel", "is_archived", "is_inactive", "restricted_action",
		"restricted_action_read_only_channel", "restricted_action_non_threadable_channel",
		"restricted_action_thread_only_channel", "messages_tab_disabled", "user_not_in_channel", "user_not_found",
		"users_not_found", "user_disabled", "user_not_visible", "cannot_dm_bot", "action_prohibited", "no_channel"},
}

// uneditable are Slack's codes for a message that was deleted or cannot be edited any more.
var uneditable = []string{"message_not_found", "cant_update_message", "edit_window_closed"}

// classify says what to do after a call to Slack failed, and how long Slack wants to be
// left alone (Retry-After), if it says.
func classify(err error) (fate, time.Duration) {
	if limited, ok := errors.AsType[*slack.RateLimitedError](err); ok {
		return retry, limited.RetryAfter
	}
	if status, ok := errors.AsType[slack.StatusCodeError](err); ok {
		switch {
		case status.Code >= 500, status.Code == http.StatusTooManyRequests, status.Code == http.StatusRequestTimeout:
			return retry, 0
		case status.Code == http.StatusRequestEntityTooLarge:
			return shorten, 0
		}
		return later, 0 // a proxy: Slack itself answers 200
	}
	if refused, ok := errors.AsType[slack.SlackErrorResponse](err); ok {
		for what, codes := range fates {
			if slices.Contains(codes, refused.Err) {
				return what, 0
			}
		}
		return shorten, 0
	}
	return retry, 0 // the network
}

// notDone says whether an error proves that Slack did not carry out the call. After a
// timeout, a lost connection or a 5xx it may have.
func notDone(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true
	}
	if _, ok := errors.AsType[*slack.RateLimitedError](err); ok {
		return true
	}
	if status, ok := errors.AsType[slack.StatusCodeError](err); ok {
		return status.Code < 500
	}
	if refused(err, "ratelimited", "rate_limited") {
		return true
	}
	_, ok := errors.AsType[slack.SlackErrorResponse](err)
	return ok && !refused(err, fates[retry]...)
}

func refused(err error, codes ...string) bool {
	e, ok := errors.AsType[slack.SlackErrorResponse](err)
	return ok && slices.Contains(codes, e.Err)
}

// maxBackoff bounds the time between two tries, in multiples of the first. It is short
// enough that a message is up soon after Slack is back.
const maxBackoff = 8

// insist calls do until it succeeds, Slack refuses it or ctx ends.
func (b *Bot) insist(ctx context.Context, do func() error) error {
	for backoff := b.again; ; backoff = min(2*backoff, maxBackoff*b.again) {
		err := do()
		if err == nil {
			return nil
		}
		what, wait := classify(err)
		if what != retry {
			return err
		}
		if err := rest(ctx, max(wait, backoff), err); err != nil {
			return err
		}
	}
}

// rest waits before the next try. It returns an error when ctx ends first, with the one
// that is waited about.
func rest(ctx context.Context, d time.Duration, about error) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w, after %w", ctx.Err(), about)
	case <-t.C:
		return nil
	}
}

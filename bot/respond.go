package bot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"waggle/ops"
)

// A response_url takes five messages in thirty minutes; what Slack did not accept does not
// count. Source: https://docs.slack.dev/interactivity/handling-user-interaction#message_responses
const (
	responseUses = 5
	responseLife = 30 * time.Minute
)

// urlGone is the code of a response_url that is used up or expired.
const urlGone = "response_url_gone"

// respond answers the asker alone through a response_url, in place of the answer before
// if replace. Its errors are those of a Slack method.
func (b *Bot) respond(ctx context.Context, address string, msg rendered, replace bool) error {
	if address == "" {
		return slack.SlackErrorResponse{Err: urlGone}
	}
	body, err := json.Marshal(slack.Msg{ResponseType: slack.ResponseTypeEphemeral, Text: msg.text,
		Blocks: slack.Blocks{BlockSet: msg.blocks}, ReplaceOriginal: replace})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return slack.SlackErrorResponse{Err: urlGone} // without the address: whoever reads that in the log could answer
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := b.http.Do(req)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return failed.Err // without the address, too
	} else if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		return nil
	case code == http.StatusNotFound, code == http.StatusGone:
		return slack.SlackErrorResponse{Err: urlGone}
	case code == http.StatusTooManyRequests:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After")) // else as soon as after any failure
		return &slack.RateLimitedError{RetryAfter: time.Duration(seconds) * time.Second}
	case code == http.StatusBadRequest, code == http.StatusForbidden:
		answer, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // else the status has to do
		if code := errorCode(answer); code != "" {
			return slack.SlackErrorResponse{Err: code}
		}
	}
	return slack.StatusCodeError{Code: resp.StatusCode, Status: resp.Status}
}

// errorCode reads a refusal of a response_url: JSON for a click, plain text for a command.
func errorCode(answer []byte) string {
	var refusal struct{ Error string }
	if json.Unmarshal(answer, &refusal) == nil {
		return refusal.Error
	}
	code := strings.TrimSpace(string(answer))
	if strings.Trim(code, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return ""
	}
	return code
}

// sendPrivately answers a person alone where no response_url does: as an ephemeral message, or as
// a direct message when the person or Waggle is not in the channel.
func (b *Bot) sendPrivately(ctx context.Context, channel, user string, msg rendered) error {
	_, err := b.api.PostEphemeralContext(ctx, channel, user, options(msg)...)
	if err == nil {
		return nil
	}
	if what, _ := classify(err); what != never {
		return err
	}
	im, _, _, err := b.api.OpenConversationContext(ctx, &slack.OpenConversationParameters{Users: []string{user}})
	if err != nil {
		return err
	}
	_, _, err = b.api.PostMessageContext(ctx, im.ID, options(msg)...)
	return err
}

// answerAsker answers a request to its asker alone, in place of the answer before if
// replace, and tries again until ctx ends.
func (b *Bot) answerAsker(ctx context.Context, asked ops.Request, msg rendered, replace bool) error {
	var to reply
	if err := json.Unmarshal([]byte(asked.Reply), &to); err != nil {
		return fmt.Errorf("read how to answer: %w", err)
	}
	plain := false
	return b.insist(ctx, func() error {
		for {
			err := b.respond(ctx, to.URL, msg, replace)
			if refused(err, urlGone) {
				err = b.sendPrivately(ctx, asked.Channel, to.User, msg)
			}
			if what, _ := classify(err); err == nil || what != shorten || plain {
				return err
			}
			plain, msg = true, msg.plain("_Cut, as Slack refused the whole answer._")
		}
	})
}

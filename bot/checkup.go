package bot

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/slack-go/slack"

	"waggle/ops"
)

// Checkup asks Slack whose the tokens are and whether they may do all that Waggle
// does. It returns who we are there, and what works less well; errors are *ops.Error with
// what to do.
func (b *Bot) Checkup(ctx context.Context) (ops.Answer, error) {
	granted := ""
	api := b.opts.client(b.http, slack.OptionOnResponseHeaders(func(_ string, h http.Header) {
		granted = h.Get("X-OAuth-Scopes") // source: https://docs.slack.dev/authentication/installing-with-oauth
	}))
	auth, err := api.AuthTestContext(ctx)
	switch refused := new(slack.SlackErrorResponse); {
	case errors.As(err, refused):
		return ops.Answer{}, ops.Errorf(ops.Failed, "Slack refuses slack.bot_token: %s", refused.Err).
			Then("Take the bot token (xoxb-…) from the app's page, OAuth & Permissions; `waggle manifest` prints what the app is made of.")
	case err != nil:
		return ops.Answer{}, (&ops.Error{Code: ops.Unavailable, Sentence: fmt.Sprintf("Slack does not answer: %s", err), Err: err}).
			Then("See whether this machine reaches slack.com by HTTPS, or slack.api_url.")
	}
	has := strings.Split(strings.ReplaceAll(granted, " ", ""), ",")
	var missing, unread []string
	for _, scope := range scopes() {
		switch {
		case slices.Contains(has, scope):
		case slices.Contains(historyScopes(), scope):
			unread = append(unread, scope)
		default:
			missing = append(missing, scope)
		}
	}
	const reinstall = "Paste what `waggle manifest` prints into the app's manifest and install the app again."
	if len(missing) > 0 {
		return ops.Answer{}, ops.Errorf(ops.Failed, "The bot token lacks %s", strings.Join(missing, ", ")).Then(reinstall)
	}
	who := ops.Answer{Head: fmt.Sprintf("%s in %s", auth.User, auth.Team)}
	if len(unread) > 0 {
		who.Concern(fmt.Sprintf("the bot token lacks %s: a message may be posted twice when Slack's answer is lost",
			strings.Join(unread, ", ")), reinstall)
	}
	if b.opts.AppToken.Empty() {
		return who, nil
	}
	if _, _, err := api.StartSocketModeContext(ctx); err != nil {
		return ops.Answer{}, &ops.Error{Code: ops.Failed, Sentence: refusedSocket(err).Error(), Err: err}
	}
	who.Head += ", by Socket Mode"
	return who, nil
}

package bot

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/slack-go/slack"

	"waggle/ops"
	"waggle/ops/queue"
)

// Buttons and fields of a message that waits for an approval. A button's value
// is the opaque token of ops.Status, never the command.
const (
	actionApprove = "approve"
	actionReject  = "reject"
	actionCancel  = "cancel" // of a deploy that runs or waits: its value is the operation's id
	// Below a deploy that is done; the values are JSON.
	actionRollback = "rollback"
	actionLogs     = "logs"
	viewReject     = "reject"
	blockReason    = "reason"
	inputReason    = "text"
)

// decisionButtons are below a plan that waits.
func decisionButtons(token string) slack.Block {
	return slack.NewActionBlock("decision",
		slack.NewButtonBlockElement(actionApprove, token, plainText("Approve")).WithStyle(slack.StylePrimary),
		slack.NewButtonBlockElement(actionReject, token, plainText("Reject")).WithStyle(slack.StyleDanger))
}

// interaction takes a click or a submitted form. What comes of a click is an edit
// of the message, or a word to the clicker alone. What it returns is Slack's
// acknowledgement, nil for an empty one.
// Source: https://docs.slack.dev/reference/interaction-payloads/block_actions-payload
func (b *Bot) interaction(ctx context.Context, in slack.InteractionCallback) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, ackWithin)
	defer cancel()
	asked := ops.Request{
		Actor:   ops.Actor{ID: in.User.ID, Team: in.User.TeamID, Name: in.User.Name, Via: "slack"},
		Channel: in.Channel.ID,
	}
	switch in.Type {
	case slack.InteractionTypeBlockActions:
		for _, a := range in.ActionCallback.BlockActions {
			where, err := json.Marshal(reply{User: in.User.ID, URL: in.ResponseURL})
			if err != nil {
				return nil, err
			}
			asked.Reply = string(where)
			asked.ID = clickID(in.User.ID, a.Value, a.ActionTs)
			switch a.ActionID {
			case actionApprove:
				return nil, b.decide(ctx, asked, a.Value, ops.Approve, "")
			case actionCancel:
				return nil, b.decide(ctx, asked, ops.CancelToken(a.Value), ops.Cancel, "")
			case actionRollback:
				return nil, b.clickedRollback(ctx, asked, a.Value)
			case actionLogs:
				return nil, b.clickedLogs(asked, a.Value)
			case actionFollow:
				return nil, b.follow(asked, a.Value)
			case actionReject:
				return nil, b.askReason(ctx, in.TriggerID, form{Token: a.Value, Channel: in.Channel.ID})
			}
		}
	case slack.InteractionTypeViewSubmission:
		switch in.View.CallbackID {
		case viewCommand:
			return b.filledForm(ctx, in, asked)
		case viewReject:
			return nil, b.rejected(ctx, in, asked)
		}
	}
	return nil, nil
}

// rejected takes the form with the reason.
func (b *Bot) rejected(ctx context.Context, in slack.InteractionCallback, asked ops.Request) error {
	var f form
	if err := json.Unmarshal([]byte(in.View.PrivateMetadata), &f); err != nil {
		return fmt.Errorf("read a form: %w", err)
	}
	where, err := json.Marshal(reply{User: in.User.ID})
	if err != nil {
		return err
	}
	asked.Channel, asked.Reply, asked.ID = f.Channel, string(where), clickID(in.User.ID, f.Token, in.View.ID)
	reason := ""
	if in.View.State != nil {
		reason = in.View.State.Values[blockReason][inputReason].Value
	}
	return b.decide(ctx, asked, f.Token, ops.Reject, cut(reason, 300))
}

// form is what the rejection form remembers.
type form struct {
	Token   string `json:"token"`
	Channel string `json:"channel"`
}

// clickID is the same for the same click, however often it is delivered.
func clickID(user, token, at string) string {
	return fmt.Sprintf("click-%x", sha256.Sum256([]byte(user+"\x00"+token+"\x00"+at)))[:22]
}

func (b *Bot) decide(ctx context.Context, asked ops.Request, token string, verdict ops.Verdict, reason string) error {
	return once(b.house.Decide(ctx, asked, token, verdict, reason))
}

// once is err, unless that only says that the same was taken before.
func once(err error) error {
	if errors.Is(err, queue.ErrDuplicate) {
		return nil
	}
	return err
}

// askReason opens the form for a reason. Only the submitted form rejects.
func (b *Bot) askReason(ctx context.Context, trigger string, f form) error {
	meta, err := json.Marshal(f)
	if err != nil {
		return err
	}
	input := slack.NewPlainTextInputBlockElement(plainText("Why not now?"), inputReason).WithMaxLength(300)
	reason := slack.NewInputBlock(blockReason, plainText("Reason"), nil, input).WithOptional(true)
	_, err = b.api.OpenViewContext(ctx, trigger, slack.ModalViewRequest{
		Type: slack.VTModal, CallbackID: viewReject, PrivateMetadata: string(meta),
		Title: plainText("Reject"), Submit: plainText("Reject"), Close: plainText("Back"),
		Blocks: slack.Blocks{BlockSet: []slack.Block{reason}},
	})
	return err
}

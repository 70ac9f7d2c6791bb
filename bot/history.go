package bot

import (
	"context"
	"fmt"
	"time"

	"github.com/slack-go/slack"
)

// The event types of the metadata with which messages are posted, to find them again
// when the answer to the post was lost.
const (
	operationEvent = "waggle_operation"
	auditEvent     = "waggle_audit"
)

const (
	historyPage  = 200 // messages. Source: https://docs.slack.dev/reference/methods/conversations.history
	historyPages = 5
	// clockSkew is how far Slack's clock may be behind ours.
	clockSkew = time.Minute
)

// mark is the metadata of a message about one thing, such as an operation.
func mark(event, id string) slack.SlackMetadata {
	return slack.SlackMetadata{EventType: event, EventPayload: map[string]any{"op": id}}
}

// post posts a message that can be found again by its mark.
func (b *Bot) post(ctx context.Context, channel string, msg rendered, with slack.SlackMetadata,
) (id, ts string, err error) {
	opts := options(msg)
	if len(msg.blocks) > 0 { // else Slack has refused the whole message: it may have been for the mark
		opts = append(opts, slack.MsgOptionMetadata(with))
	}
	id, ts, err = b.api.PostMessageContext(ctx, channel, opts...)
	if err == nil && id != channel {
		b.mu.Lock()
		b.channelIDs[channel] = id
		b.mu.Unlock()
	}
	return id, ts, err
}

// posted looks for a message by its mark, not farther back than since. It returns "" when
// there is none, or when Waggle may not read the channel's history: then a second message
// is the lesser evil. An error says that Slack is away. The message except is passed over.
func (b *Bot) posted(ctx context.Context, channel string, with slack.SlackMetadata, since time.Time, except string,
) (id, ts string, err error) {
	id = channel
	b.mu.Lock()
	if known := b.channelIDs[channel]; known != "" {
		id = known // the history is not served by a channel's name
	}
	b.mu.Unlock()
	log := b.opts.Log.With("op", with.EventPayload["op"], "channel", channel)
	p := slack.GetConversationHistoryParameters{ChannelID: id, Limit: historyPage, IncludeAllMetadata: true}
	if !since.IsZero() {
		p.Oldest = fmt.Sprintf("%d.000000", since.Add(-clockSkew).Unix())
	}
	for range historyPages {
		got, err := b.api.GetConversationHistoryContext(ctx, &p)
		if err != nil {
			if what, _ := classify(err); what == retry {
				return "", "", err
			}
			log.Info("could not look for an earlier message, so a new one is posted", "err", err)
			return "", "", nil
		}
		for _, m := range got.Messages {
			found := m.Metadata.EventType == with.EventType && m.Metadata.EventPayload["op"] == with.EventPayload["op"]
			if found && m.Timestamp != except {
				return id, m.Timestamp, nil
			}
		}
		p.Cursor = got.ResponseMetaData.NextCursor
		if p.Cursor == "" {
			return "", "", nil
		}
	}
	log.Info("no earlier message among the latest ones, so a new one is posted", "messages", historyPages*historyPage)
	return "", "", nil
}

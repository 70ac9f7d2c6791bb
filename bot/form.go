package bot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/slack-go/slack"

	"waggle/ops"
	"waggle/ops/queue"
)

// Form is a modal that asks for what a command's line does not say.
type Form struct {
	Title  string // 24 characters at most
	Submit string // what the button says
	// Fields are what it asks for. Slack waits 3 s for the modal, so reading for
	// them must be quick.
	Fields func(ctx context.Context, b *Bot, who ops.Actor, args Args) ([]Field, error)
	// Read makes the operation of what was filled in. Faults are sentences by
	// field: the form stays open and shows them. An error closes it.
	Read func(ctx context.Context, b *Bot, args Args, filled map[string]string) (op ops.Operation, faults map[string]string, err error)
}

// Field is one thing that a form asks for.
type Field struct {
	Name        string // unique in its form
	Label       string
	Hint        string // below the field
	Placeholder string
	Value       string // filled in already
	Optional    bool
	Lines       bool     // several lines may be typed
	Choices     []string // one of these is chosen; the first, unless Value says another
}

// errForm, from a row's Parse, says that the line is right and the rest has to be
// asked for in the row's form.
var errForm = errors.New("ask in a form")

// viewCommand is the callback id of a form of the command table.
const viewCommand = "command"

// filling is what a form remembers of its command.
type filling struct {
	Name    string `json:"name"`
	Verb    string `json:"verb"`
	Args    Args   `json:"args"`
	Title   string `json:"title"`
	Channel string `json:"channel"`
	URL     string `json:"url,omitempty"` // the command's response_url: a form has none
}

// maxMetadata is how much a form may remember. Source: https://docs.slack.dev/reference/views/modal-views
const maxMetadata = 3000

// openForm asks for the rest of a command.
func (b *Bot) openForm(ctx context.Context, cmd slack.SlashCommand, row Command, asked ops.Request, args Args) error {
	ctx, cancel := context.WithTimeout(ctx, ackWithin)
	defer cancel()
	if err := b.Authorise(ctx, asked.Actor, row.New().Needs()); err != nil {
		return err
	}
	fields, err := row.Form.Fields(ctx, b, asked.Actor, args)
	if err != nil {
		return err
	}
	f := filling{row.Name, row.Verb, args, asked.Title, asked.Channel, cmd.ResponseURL}
	meta, err := json.Marshal(f)
	if len(meta) > maxMetadata {
		f.URL = "" // better a form without it than none
		meta, err = json.Marshal(f)
	}
	if err != nil {
		return err
	}
	view := slack.ModalViewRequest{Type: slack.VTModal, CallbackID: viewCommand, PrivateMetadata: string(meta),
		Title: plainText(row.Form.Title), Submit: plainText(row.Form.Submit), Close: plainText("Cancel")}
	for _, f := range fields {
		view.Blocks.BlockSet = append(view.Blocks.BlockSet, f.block())
	}
	if _, err := b.api.OpenViewContext(ctx, cmd.TriggerID, view); err != nil {
		return &ops.Error{Code: ops.Unavailable, Sentence: "Slack did not show the form in time", Next: "Type the command again.", Err: err}
	}
	return nil
}

func plainText(s string) *slack.TextBlockObject {
	return slack.NewTextBlockObject(slack.PlainTextType, s, false, false)
}

// block is the field as Slack shows it; its block and its element have its name.
// Source: https://docs.slack.dev/reference/block-kit/blocks/input-block
func (f Field) block() slack.Block {
	var element slack.BlockElement
	if len(f.Choices) > 0 {
		var options []*slack.OptionBlockObject
		for _, c := range f.Choices {
			options = append(options, slack.NewOptionBlockObject(c, plainText(cut(c, 75)), nil))
		}
		choice := slack.NewOptionsSelectBlockElement(slack.OptTypeStatic, nil, f.Name, options...)
		choice.InitialOption = options[0]
		for _, o := range options {
			if o.Value == f.Value {
				choice.InitialOption = o
			}
		}
		element = choice
	} else {
		var placeholder *slack.TextBlockObject
		if f.Placeholder != "" {
			placeholder = plainText(cut(f.Placeholder, 150))
		}
		input := slack.NewPlainTextInputBlockElement(placeholder, f.Name).WithMultiline(f.Lines)
		input.InitialValue = f.Value
		element = input
	}
	var hint *slack.TextBlockObject
	if f.Hint != "" {
		hint = plainText(f.Hint)
	}
	return slack.NewInputBlock(f.Name, plainText(f.Label), hint, element).WithOptional(f.Optional)
}

// filledForm takes a form of a command that was filled in. What it returns is the
// acknowledgement: faults to show in the form, or nil, which closes it.
func (b *Bot) filledForm(ctx context.Context, in slack.InteractionCallback, asked ops.Request) (any, error) {
	var f filling
	if err := json.Unmarshal([]byte(in.View.PrivateMetadata), &f); err != nil {
		return nil, fmt.Errorf("read a form: %w", err)
	}
	words := []string{}
	if f.Verb != "" {
		words = append(words, f.Verb)
	}
	row, _, err := find(f.Name, words)
	if err != nil || row.Form == nil {
		return nil, fmt.Errorf("a form of %s %s: %w", f.Name, f.Verb, err)
	}
	where, err := json.Marshal(reply{User: in.User.ID, URL: f.URL})
	if err != nil {
		return nil, err
	}
	asked.Channel, asked.Reply, asked.Title = f.Channel, string(where), f.Title
	asked.ID = clickID(in.User.ID, f.Name+f.Verb, in.View.ID)
	asked.DryRun = f.Args.Flags[dryRun]
	filled := map[string]string{}
	if in.View.State != nil {
		for name, block := range in.View.State.Values {
			v := block[name]
			filled[name] = v.Value // as it is: spaces are part of a password
			if v.SelectedOption.Value != "" {
				filled[name] = v.SelectedOption.Value
			}
		}
	}
	op, faults, err := row.Form.Read(ctx, b, f.Args, filled)
	if err != nil {
		b.tell(asked, sentence(b.noted(asked, err)))
		return nil, nil
	}
	if len(faults) > 0 {
		for name, fault := range faults {
			faults[name] = cut(fault, 300)
		}
		return slack.NewErrorsViewSubmissionResponse(faults), nil
	}
	if err := b.submit(ctx, asked, op); errors.Is(err, queue.ErrDuplicate) {
		b.tell(asked, takenBefore)
	} else if err != nil {
		b.tell(asked, sentence(err))
	}
	return nil, nil
}

// tell says why nothing comes of a form, to who filled it in, when Slack has its
// acknowledgement.
func (b *Bot) tell(asked ops.Request, why string) {
	late := rendered{text: why, blocks: []slack.Block{section(why)}}
	b.reads.Go(func() {
		ctx, cancel := context.WithTimeout(b.life, askWithin)
		defer cancel()
		if err := b.answerAsker(ctx, asked, late, false); err != nil {
			b.opts.Log.Warn("an answer did not reach its asker", "question", asked.Title, "user", asked.Actor.ID, "err", err)
		}
	})
}

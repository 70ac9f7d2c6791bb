// Package workspace is a local Slack workspace: people, channels, messages and
// modals, the Web API an app calls, and the requests Slack sends to an app. It
// stands in for Slack in tests and in the demo, where the real one cannot be
// had, and it is strict: what Slack refuses is refused here, with Slack's own
// error codes and limits.
//
// A test starts one, points the app's Slack client at [Workspace.APIURL] and
// the workspace at the app with [Workspace.SetEventsURL]. It then acts as a
// person ([Workspace.Command], [Workspace.Click], [Workspace.Submit]) and reads
// what that person sees ([Workspace.Messages], [Workspace.Wait],
// [Message.Plain]).
//
// Each method and limit names the page of Slack's documentation it follows.
// Where Slack documents nothing, the comment says "not documented" and what was
// chosen instead.
package workspace

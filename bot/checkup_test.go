package bot

import (
	"slices"
	"strings"
	"testing"

	"waggle/internal/workspace"
	"waggle/ops"
)

func TestCheckup(t *testing.T) {
	all := func(w *workspace.Options, _ *Options) { w.App.Scopes = scopes() }
	for name, tc := range map[string]struct {
		change func(*workspace.Options, *Options)
		fails  string // the method, before it is asked
		with   workspace.Failure
		says   string
		then   string
	}{
		"all is well": {change: all, says: "waggle in Waggle, by Socket Mode"},
		"a scope is missing": {change: func(w *workspace.Options, _ *Options) {
			w.App.Scopes = []string{"chat:write", "commands", "users:read"}
		}, says: "lacks chat:write.public, files:write, im:write, usergroups:read", then: "waggle manifest"},
		"no history": {change: func(w *workspace.Options, _ *Options) {
			w.App.Scopes = slices.DeleteFunc(scopes(), func(s string) bool { return s == "groups:history" })
		}, says: "by Socket Mode; the bot token lacks groups:history: a message may be posted twice", then: "waggle manifest"},
		"the token is revoked": {change: all, fails: "auth.test", with: workspace.Failure{Error: "token_revoked"}, says: "token_revoked", then: "bot token (xoxb-…)"},
		"Slack is away":        {change: all, fails: "auth.test", with: workspace.Failure{Drop: true}, says: "Slack does not answer", then: "slack.com"},
		"no Socket Mode":       {change: all, fails: "apps.connections.open", with: workspace.Failure{Error: "missing_scope"}, says: "connections:write"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t, tc.change)
			if tc.fails != "" {
				o.FailNext(tc.fails, 1, tc.with)
			}
			got, err := o.bot.Checkup(t.Context())
			says, then := got.Head, ""
			for _, c := range got.Concerns {
				says, then = says+"; "+c.What, c.Then
			}
			if err != nil {
				e, ok := err.(*ops.Error)
				if !ok {
					t.Fatalf("it fails with %T %v", err, err)
				}
				says, then = e.Sentence, e.Next
			}
			if !strings.Contains(says, tc.says) || !strings.Contains(then, tc.then) || (err == nil) != (name == "all is well" || name == "no history") {
				t.Errorf("it says %q, then %q, %v", says, then, err)
			}
		})
	}
}

package bot

import (
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
		"all is well":          {change: all, says: "waggle in Waggle, by Socket Mode"},
		"a scope is missing":   {change: func(w *workspace.Options, _ *Options) { w.App.Scopes = scopes()[:3] }, says: "lacks files:write, im:write, usergroups:read, users:read", then: "waggle manifest"},
		"the token is revoked": {change: all, fails: "auth.test", with: workspace.Failure{Error: "token_revoked"}, says: "token_revoked", then: "bot token (xoxb-…)"},
		"Slack is away":        {change: all, fails: "auth.test", with: workspace.Failure{Drop: true}, says: "Slack does not answer", then: "slack.com"},
		"no Socket Mode":       {change: all, fails: "apps.connections.open", with: workspace.Failure{Error: "missing_scope"}, says: "connections:write"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t, tc.change)
			if tc.fails != "" {
				o.FailNext(tc.fails, 1, tc.with)
			}
			says, err := o.bot.Checkup(t.Context())
			then := ""
			if err != nil {
				e, ok := err.(*ops.Error)
				if !ok {
					t.Fatalf("it fails with %T %v", err, err)
				}
				says, then = e.Sentence, e.Next
			}
			if !strings.Contains(says, tc.says) || !strings.Contains(then, tc.then) || (err == nil) != (name == "all is well") {
				t.Errorf("it says %q, then %q, %v", says, then, err)
			}
		})
	}
}

package bot

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/internal/workspace"
	"waggle/ops"
)

func quietLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

func person(id string) ops.Actor {
	return ops.Actor{ID: id, Team: "T0WAGGLE", Name: "whoever", Via: "slack"}
}

func TestAuthorise(t *testing.T) {
	t.Parallel()
	people := func(w *workspace.Options, _ *Options) {
		w.Users = append(w.Users,
			workspace.User{ID: "U0OWNER", Name: "owner", IsOwner: true},
			workspace.User{ID: "U0ROBOT", Name: "robot", IsBot: true},
			workspace.User{ID: "U0SINGLE", Name: "single", IsUltraRestricted: true, IsRestricted: true},
			workspace.User{ID: "U0STRANGE", Name: "strange", TeamID: "T0OTHER", IsAdmin: true},
			workspace.User{ID: "U0GADMIN", Name: "gadmin", IsAdmin: true, IsRestricted: true})
		w.Groups = append(w.Groups, workspace.Group{ID: "S0OFF", Handle: "off", Name: "Off", Users: []string{linus}, Disabled: true})
	}
	listed := Roles{Admins: []string{linus}, Operators: []string{operators}, Viewers: []string{ada}}
	for name, tc := range map[string]struct {
		roles Roles
		actor ops.Actor
		may   ops.Role // the highest
		says  string   // in the refusal of the next role
	}{
		// By default the workspace's admins are admins, and everybody may look.
		"primary owner": {Roles{}, person(ada), ops.Admin, ""},
		"owner":         {Roles{}, person("U0OWNER"), ops.Admin, ""},
		"admin":         {Roles{}, person(grace), ops.Admin, ""},
		"member":        {Roles{}, person(linus), ops.Viewer, "You are a viewer here, and this needs an operator. the workspace's admins may do it."},

		"listed admin":              {listed, person(linus), ops.Admin, ""},
		"operator by group":         {listed, person(grace), ops.Operator, "You are an operator here, and this needs an admin. @linus may do it."},
		"owner who is not listed":   {listed, person(ada), ops.Viewer, "needs an operator. the group S0OPERATORS, @linus may do it."},
		"nobody":                    {listed, person("U0OWNER"), ops.Nobody, "You are nobody here, and this needs a viewer"},
		"operator by id":            {Roles{Operators: []string{linus}}, person(linus), ops.Operator, "the workspace's admins may do it."},
		"admin by group":            {Roles{Admins: []string{operators}}, person(linus), ops.Admin, ""},
		"viewer by group":           {Roles{Admins: []string{ada}, Viewers: []string{operators}}, person(linus), ops.Viewer, "@ada may do it."},
		"admin and in a lower list": {Roles{Admins: []string{linus}, Viewers: []string{linus}}, person(linus), ops.Admin, ""},
		"id in another case":        {Roles{Admins: []string{"u0linus"}}, person(linus), ops.Viewer, "needs an operator"},

		"guest":                 {Roles{Admins: []string{gil}}, person(gil), -1, "Guests may not do this"},
		"guest of one channel":  {Roles{Admins: []string{"U0SINGLE"}}, person("U0SINGLE"), -1, "Guests may not do this"},
		"guest and admin":       {Roles{}, person("U0GADMIN"), -1, "Guests may not do this"},
		"deactivated":           {Roles{Admins: []string{mallory}}, person(mallory), -1, "deactivated"},
		"bot":                   {Roles{Admins: []string{"U0ROBOT"}}, person("U0ROBOT"), -1, "Bots may not do this"},
		"of another workspace":  {Roles{}, ops.Actor{ID: ada, Team: "T0OTHER", Via: "slack"}, -1, "another workspace"},
		"without a workspace":   {Roles{}, ops.Actor{ID: ada, Via: "slack"}, -1, "another workspace"},
		"stranger of a channel": {Roles{Admins: []string{"U0STRANGE"}}, person("U0STRANGE"), -1, "another workspace"},
		"unheard of":            {Roles{}, person("U0NOBODY"), -1, "Slack does not say who you are"},
		"no id":                 {Roles{}, person(""), -1, "Slack does not say who you are"},
		"group is gone":         {Roles{Admins: []string{"S0GONE"}}, person(linus), -1, "Slack does not say who you are"},
		"group is disabled":     {Roles{Admins: []string{"S0OFF"}}, person(linus), -1, "Slack does not say who you are"},
		"a push":                {Roles{}, ops.Actor{Name: "linus", Via: "github"}, ops.Operator, "A push may not do this"},
		"a push in ada's name":  {Roles{}, ops.Actor{ID: ada, Team: "T0WAGGLE", Name: "ada", Via: "github"}, ops.Operator, "A push may not do this"},
		"no door":               {Roles{}, ops.Actor{ID: ada, Team: "T0WAGGLE"}, ops.Operator, "A push may not do this"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, people, func(_ *workspace.Options, b *Options) { b.Roles = tc.roles })
			for need := ops.Viewer; need <= ops.Admin; need++ {
				err := o.bot.Authorise(t.Context(), tc.actor, need)
				if (err == nil) != (need <= tc.may) {
					t.Errorf("as %s: %v", need, err)
				}
				if err != nil && need == max(tc.may+1, ops.Viewer) {
					text := strings.NewReplacer("*", "", "⛔ ", "", "\n", " ").Replace(sentence(err))
					if !strings.Contains(text, tc.says) {
						t.Errorf("it says %q, want %q", text, tc.says)
					}
					if code := ops.CodeOf(err); code != ops.Forbidden && code != ops.Unavailable {
						t.Errorf("code %q", code)
					}
				}
			}
		})
	}
}

// TestSlackIsAway refuses everybody, and says so.
func TestSlackIsAway(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]workspace.Failure{"drop": {Drop: true}, "500": {Status: 500}, "429": {Status: 429}, "hang": {Delay: -1},
		"no scope": {Error: "missing_scope"}, "revoked": {Error: "token_revoked"}} {
		for _, method := range []string{"auth.test", "users.info", "usergroups.users.list"} {
			t.Run(name+" at "+method, func(t *testing.T) {
				t.Parallel()
				o := newOffice(t, func(_ *workspace.Options, b *Options) { b.Roles = Roles{Operators: []string{operators}} })
				o.bot.http.Timeout = 200 * time.Millisecond
				o.FailNext(method, 1, f)
				err := o.bot.Authorise(t.Context(), person(linus), ops.Operator)
				if ops.CodeOf(err) != ops.Unavailable || !strings.Contains(sentence(err), "nothing was done") {
					t.Errorf("it says %v", err)
				}
				if err := o.bot.Authorise(t.Context(), person(linus), ops.Operator); err != nil {
					t.Errorf("when Slack is back: %v", err)
				}
			})
		}
	}
}

// TestRolesAreForgotten: what Slack said is good for a few minutes.
func TestRolesAreForgotten(t *testing.T) {
	t.Parallel()
	clock := workspace.NewManualClock(time.Now())
	o := newOffice(t, func(_ *workspace.Options, b *Options) {
		b.Now, b.Roles = clock.Now, Roles{Operators: []string{operators}}
	})
	may := func() error { return o.bot.Authorise(t.Context(), person(linus), ops.Operator) }
	for range 3 {
		if err := may(); err != nil {
			t.Fatal(err)
		}
	}
	if u, g, a := o.calls("users.info"), o.calls("usergroups.users.list"), o.calls("auth.test"); u != 1 || g != 1 || a != 1 {
		t.Errorf("%d, %d and %d questions", u, g, a)
	}
	if err := o.AddGroup(workspace.Group{ID: operators, Handle: "operators", Name: "Operators", Users: []string{grace}}); err != nil {
		t.Fatal(err)
	}
	if err := may(); err != nil {
		t.Errorf("remembered: %v", err)
	}
	clock.Advance(remembered)
	if err := may(); ops.CodeOf(err) != ops.Forbidden {
		t.Errorf("out of the group, and %v", err)
	}
	if err := o.AddUser(workspace.User{ID: grace, Name: "grace", Deleted: true}); err != nil {
		t.Fatal(err)
	}
	if err := o.bot.Authorise(t.Context(), person(grace), ops.Operator); ops.CodeOf(err) != ops.Forbidden {
		t.Errorf("deactivated, and %v", err)
	}
	// An answer that is too old is not used when Slack is away.
	clock.Advance(remembered)
	o.FailNext("users.info", 1, workspace.Failure{Status: 500})
	if err := may(); ops.CodeOf(err) != ops.Unavailable {
		t.Errorf("with Slack away: %v", err)
	}
}

func TestWhoMay(t *testing.T) {
	t.Parallel()
	var ids []string
	o := newOffice(t, func(w *workspace.Options, b *Options) {
		for _, n := range []string{"a", "b", "c", "d", "e", "f"} {
			w.Users = append(w.Users, workspace.User{ID: "U0" + strings.ToUpper(n), Name: n})
			ids = append(ids, "U0"+strings.ToUpper(n))
		}
		b.Roles.Admins = slices.Clone(ids)
	})
	if got := o.bot.whoMay(t.Context(), ops.Admin); got != "@a, @b, @c, @d, @e, others" {
		t.Error(got)
	}
}

func TestAuthoriseAtOnce(t *testing.T) {
	t.Parallel()
	o := newOffice(t, func(_ *workspace.Options, b *Options) { b.Roles = Roles{Operators: []string{operators}} })
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() {
			if err := o.bot.Authorise(t.Context(), person(linus), ops.Operator); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

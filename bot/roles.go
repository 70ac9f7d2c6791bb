package bot

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"waggle/ops"
)

// Roles say who may do what: ids of people (U…, W…) and of user groups (S…).
type Roles struct {
	Admins    []string // empty: the workspace's owners and admins
	Operators []string
	Viewers   []string // empty: everyone
}

// remembered is how long Slack's word on a person or group is good.
const remembered = 3 * time.Minute

type cachedUser struct {
	*slack.User
	at time.Time
}

type cachedGroup struct {
	members []string
	at      time.Time
}

// Authorise implements ops.Authoriser. Who Slack does not vouch for may nothing.
func (b *Bot) Authorise(ctx context.Context, actor ops.Actor, need ops.Role) error {
	if actor.Via != "slack" {
		// The forge's signature vouches for a push; it may do what an operator may.
		if need <= ops.Operator {
			return nil
		}
		return ops.Errorf(ops.Forbidden, "A push may not do this")
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	team, err := b.workspace(ctx)
	if err != nil {
		return unknown(err)
	}
	if actor.Team != team {
		return ops.Errorf(ops.Forbidden, "You are of another workspace, and only people of this one may do this")
	}
	user, err := b.user(ctx, actor.ID)
	if err != nil {
		return unknown(err)
	}
	switch {
	case user.TeamID != "" && user.TeamID != team, user.IsStranger:
		return ops.Errorf(ops.Forbidden, "You are of another workspace, and only people of this one may do this")
	case user.Deleted:
		return ops.Errorf(ops.Forbidden, "Your account is deactivated")
	case user.IsBot:
		return ops.Errorf(ops.Forbidden, "Bots may not do this")
	case user.IsRestricted, user.IsUltraRestricted:
		return ops.Errorf(ops.Forbidden, "Guests may not do this")
	}
	role, err := b.role(ctx, user)
	if err != nil {
		return unknown(err)
	}
	if role >= need {
		return nil
	}
	return ops.Errorf(ops.Forbidden, "You are %s here, and this needs %s", article(role), article(need)).
		Then("%s may do it.", b.whoMay(ctx, need))
}

func unknown(err error) error {
	return &ops.Error{Code: ops.Unavailable, Sentence: "Slack does not say who you are, so nothing was done",
		Next: "Try again in a minute.", Err: err}
}

func article(r ops.Role) string {
	switch r {
	case ops.Nobody:
		return "nobody"
	case ops.Viewer:
		return "a " + r.String()
	}
	return "an " + r.String()
}

// role returns the highest role of a person.
func (b *Bot) role(ctx context.Context, user *slack.User) (ops.Role, error) {
	roles := b.opts.Roles
	isOne := func(list []string) (bool, error) {
		for _, id := range list {
			if id == user.ID {
				return true, nil
			}
			if strings.HasPrefix(id, "S") {
				members, err := b.members(ctx, id)
				if err != nil {
					return false, err
				}
				if slices.Contains(members, user.ID) {
					return true, nil
				}
			}
		}
		return false, nil
	}
	if len(roles.Admins) == 0 && (user.IsAdmin || user.IsOwner || user.IsPrimaryOwner) {
		return ops.Admin, nil
	}
	for _, level := range []struct {
		list []string
		role ops.Role
	}{{roles.Admins, ops.Admin}, {roles.Operators, ops.Operator}, {roles.Viewers, ops.Viewer}} {
		if yes, err := isOne(level.list); err != nil || yes {
			return level.role, err
		}
	}
	if len(roles.Viewers) == 0 {
		return ops.Viewer, nil
	}
	return ops.Nobody, nil
}

// whoMay names those who have the role.
func (b *Bot) whoMay(ctx context.Context, need ops.Role) string {
	ids := b.opts.Roles.Admins
	if need <= ops.Operator {
		ids = append(slices.Clone(b.opts.Roles.Operators), ids...)
	}
	var names []string
	for _, id := range ids {
		if strings.HasPrefix(id, "S") {
			names = append(names, "the group "+id)
		} else if u, err := b.user(ctx, id); err == nil {
			names = append(names, "@"+u.Name)
		}
	}
	if len(b.opts.Roles.Admins) == 0 {
		names = append(names, "the workspace's admins")
	}
	if len(names) > 5 {
		names = append(names[:5], "others")
	}
	return strings.Join(names, ", ")
}

func (b *Bot) user(ctx context.Context, id string) (*slack.User, error) {
	b.mu.Lock()
	known, ok := b.users[id]
	b.mu.Unlock()
	if ok && b.opts.Now().Sub(known.at) < remembered {
		return known.User, nil
	}
	u, err := b.api.GetUserInfoContext(ctx, id)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.users[id] = cachedUser{u, b.opts.Now()}
	b.mu.Unlock()
	return u, nil
}

func (b *Bot) members(ctx context.Context, group string) ([]string, error) {
	b.mu.Lock()
	known, ok := b.group[group]
	b.mu.Unlock()
	if ok && b.opts.Now().Sub(known.at) < remembered {
		return known.members, nil
	}
	members, err := b.api.GetUserGroupMembersContext(ctx, group)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.group[group] = cachedGroup{members, b.opts.Now()}
	b.mu.Unlock()
	return members, nil
}

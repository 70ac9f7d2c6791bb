package forge

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// pushEvent and what it consists of are GitHub's, down to the null of
// head_commit and the two forms of time.
type pushEvent struct {
	Ref        string     `json:"ref"`
	Before     string     `json:"before"`
	After      string     `json:"after"`
	Repository repository `json:"repository"`
	Pusher     person     `json:"pusher"`
	Sender     account    `json:"sender"`
	Created    bool       `json:"created"`
	Deleted    bool       `json:"deleted"`
	Forced     bool       `json:"forced"`
	BaseRef    *string    `json:"base_ref"`
	Compare    string     `json:"compare"`
	Commits    []commit   `json:"commits"`
	HeadCommit *commit    `json:"head_commit"`
}

type person struct {
	Name     string `json:"name"`
	Email    string `json:"email"`
	Username string `json:"username,omitempty"`
	Date     string `json:"date,omitempty"`
}

type account struct {
	Name      string `json:"name,omitempty"`
	Email     string `json:"email,omitempty"`
	Login     string `json:"login"`
	ID        int64  `json:"id"`
	HTMLURL   string `json:"html_url"`
	Type      string `json:"type"`
	SiteAdmin bool   `json:"site_admin"`
}

type commit struct {
	ID        string   `json:"id"`
	TreeID    string   `json:"tree_id"`
	Distinct  bool     `json:"distinct"`
	Message   string   `json:"message"`
	Timestamp string   `json:"timestamp"`
	URL       string   `json:"url"`
	Author    person   `json:"author"`
	Committer person   `json:"committer"`
	Added     []string `json:"added"`
	Removed   []string `json:"removed"`
	Modified  []string `json:"modified"`
}

type repository struct {
	ID            int64     `json:"id"`
	Name          string    `json:"name"`
	FullName      string    `json:"full_name"`
	Private       bool      `json:"private"`
	Owner         account   `json:"owner"`
	HTMLURL       string    `json:"html_url"`
	Description   *string   `json:"description"`
	Fork          bool      `json:"fork"`
	URL           string    `json:"url"`
	CreatedAt     any       `json:"created_at"` // seconds in a push, a string in all other events
	UpdatedAt     time.Time `json:"updated_at"`
	PushedAt      any       `json:"pushed_at"` // likewise
	GitURL        string    `json:"git_url"`
	SSHURL        string    `json:"ssh_url"`
	CloneURL      string    `json:"clone_url"`
	Visibility    string    `json:"visibility"`
	DefaultBranch string    `json:"default_branch"`
	MasterBranch  string    `json:"master_branch"`
}

const none = "0000000000000000000000000000000000000000"

// change is what a push did to one ref.
type change struct{ ref, before, after string }

func changes(before, after map[string]string) []change {
	all := maps.Clone(before)
	maps.Copy(all, after)
	var out []change
	for _, ref := range slices.Sorted(maps.Keys(all)) {
		c := change{ref, none, none}
		if sha, ok := before[ref]; ok {
			c.before = sha
		}
		if sha, ok := after[ref]; ok {
			c.after = sha
		}
		if c.before != c.after {
			out = append(out, c)
		}
	}
	return out
}

// pushEvent describes a change; refs are those before it.
func (r *Repo) pushEvent(ctx context.Context, pusher string, c change, refs map[string]string) (pushEvent, error) {
	e := pushEvent{
		Ref: c.ref, Before: c.before, After: c.after, Created: c.before == none, Deleted: c.after == none,
		Repository: r.describe(),
		Pusher:     person{Name: pusher, Email: pusher + "@example.com"},
		Sender:     r.forge.account(pusher),
		Commits:    []commit{},
	}
	_, short, _ := strings.Cut(strings.TrimPrefix(c.ref, "refs/"), "/")
	e.Compare = fmt.Sprintf("%s/compare/%.12s...%.12s", r.HTMLURL(), c.before, c.after)
	if e.Created {
		e.Compare = r.HTMLURL() + "/compare/" + short
	}
	if e.Deleted {
		return e, nil
	}
	head, err := r.Resolve(ctx, c.after) // an annotated tag is not itself a commit
	if err != nil {
		return e, err
	}
	last, err := r.commit(ctx, head)
	if err != nil {
		return e, err
	}
	e.HeadCommit = &last
	if !strings.HasPrefix(c.ref, "refs/heads/") {
		return e, nil
	}
	list := []string{"rev-list", "--reverse", "--topo-order", c.after}
	if e.Created {
		list = append(append(list, "--not"), slices.Sorted(maps.Values(refs))...)
	} else {
		list = append(list, "^"+c.before)
		base, _ := r.forge.git(ctx, r.bare, "merge-base", c.before, c.after) // fails when they share nothing
		e.Forced = base != c.before
	}
	out, err := r.forge.git(ctx, r.bare, list...)
	if err != nil {
		return e, err
	}
	for _, sha := range strings.Fields(out) {
		one, err := r.commit(ctx, sha)
		if err != nil {
			return e, err
		}
		e.Commits = append(e.Commits, one)
	}
	return e, nil
}

func (r *Repo) commit(ctx context.Context, sha string) (commit, error) {
	out, err := r.forge.git(ctx, r.bare, "show", "-s", "--format=%T%x00%cI%x00%an%x00%ae%x00%aI%x00%cn%x00%ce%x00%B", sha)
	if err != nil {
		return commit{}, err
	}
	f := strings.SplitN(out, "\x00", 8)
	if len(f) != 8 {
		return commit{}, fmt.Errorf("unreadable commit %s", sha)
	}
	c := commit{
		ID: sha, TreeID: f[0], Distinct: true, Message: strings.TrimSpace(f[7]), Timestamp: f[1],
		URL:       r.HTMLURL() + "/commit/" + sha,
		Author:    person{Name: f[2], Email: f[3], Username: strings.ToLower(f[2]), Date: f[4]},
		Committer: person{Name: f[5], Email: f[6], Username: strings.ToLower(f[5]), Date: f[1]},
		Added:     []string{}, Removed: []string{}, Modified: []string{},
	}
	out, err = r.forge.git(ctx, r.bare, "diff-tree", "--no-commit-id", "--name-status", "--no-renames", "-r", "-z", "--root", sha)
	if err != nil {
		return commit{}, err
	}
	names := strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
	for i := 0; i+1 < len(names); i += 2 {
		switch names[i] {
		case "A":
			c.Added = append(c.Added, names[i+1])
		case "D":
			c.Removed = append(c.Removed, names[i+1])
		default:
			c.Modified = append(c.Modified, names[i+1])
		}
	}
	return c, nil
}

func (r *Repo) describe() repository {
	owner, name, _ := strings.Cut(r.Name, "/")
	host := strings.TrimPrefix(r.forge.url, "http://")
	o := r.forge.account(owner)
	o.Name, o.Email = owner, owner+"@example.com"
	visibility := "public"
	if r.Private {
		visibility = "private"
	}
	return repository{
		ID: r.id, Name: name, FullName: r.Name, Private: r.Private, Owner: o, HTMLURL: r.HTMLURL(), URL: r.HTMLURL(),
		CreatedAt: r.created.Unix(), UpdatedAt: r.created.UTC().Truncate(time.Second), PushedAt: time.Now().Unix(),
		GitURL: "git://" + host + "/" + r.Name + ".git", SSHURL: r.SSHURL(), CloneURL: r.CloneURL(),
		Visibility: visibility, DefaultBranch: r.DefaultBranch, MasterBranch: r.DefaultBranch,
	}
}

// account makes up an account with a number that stays the same.
func (f *Forge) account(login string) account {
	var id uint32
	for _, c := range login {
		id = id*31 + uint32(c)
	}
	return account{Login: login, ID: int64(id%1e6) + 1, HTMLURL: f.url + "/" + login, Type: "User"}
}

// pingEvent is what GitHub sends when a hook is added.
type pingEvent struct {
	Zen        string     `json:"zen"`
	HookID     int        `json:"hook_id"`
	Hook       hook       `json:"hook"`
	Repository repository `json:"repository"`
	Sender     account    `json:"sender"`
}

type hook struct {
	Type   string            `json:"type"`
	ID     int               `json:"id"`
	Name   string            `json:"name"`
	Active bool              `json:"active"`
	Events []string          `json:"events"`
	Config map[string]string `json:"config"`
}

const hookID = 7

// Ping sends the event that GitHub sends when a hook is added.
func (r *Repo) Ping() {
	owner, _, _ := strings.Cut(r.Name, "/")
	url, _ := r.forge.webhook()
	about := r.describe()
	about.CreatedAt, about.PushedAt = about.UpdatedAt, about.UpdatedAt
	r.forge.send("ping", pingEvent{
		Zen: "Keep it logically awesome.", HookID: hookID, Repository: about, Sender: r.forge.account(owner),
		Hook: hook{Type: "Repository", ID: hookID, Name: "web", Active: true, Events: []string{"push"},
			Config: map[string]string{"content_type": "json", "insecure_ssl": strconv.Itoa(0), "url": url}},
	})
}

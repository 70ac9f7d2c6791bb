package ops

import "time"

// Push is one push of commits to one branch, as a forge told it.
type Push struct {
	Provider string    // github, gitlab…: the route it came by
	Repo     string    // clone URL, as the forge gives it
	RepoURLs []string  // every URL under which the forge knows the repository, Repo included
	Name     string    // owner/name, for people
	Branch   string    // without refs/heads/
	Default  string    // the repository's default branch; "" if the forge does not say
	Before   string    // full commit hash before, all zeros for a new branch
	After    string    // full commit hash that was pushed, never all zeros
	Forced   bool      // the forge says that After does not follow from Before; not all say
	PushedAt time.Time // as the forge's clock says; zero if unknown
	Pusher   string    // who pushed, as the forge names them
	Compare  string    // link to the difference, may be empty
	Commits  []Commit  // the newest of them, oldest first
	Count    int       // how many commits were pushed; more than Commits when the list is cut short
	// Skip says why the pusher wants no deploy of it, "" when one is wanted.
	Skip string
	// Files are the paths that the push changed; nil when the forge does not tell
	// all of them. They are not kept.
	Files []string `json:"-"`
}

// Commit is one commit of a push.
type Commit struct {
	ID      string
	Message string // subject and body
	Author  string
	URL     string
}

package webhooks

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/v1"

	"waggle/ops"
)

// What is kept of a push: it is stored with its job, and a payload may have 25 MiB.
const (
	maxCommits = 30   // the newest
	maxMessage = 1000 // bytes of a commit message
	maxText    = 300  // bytes of a name or link
	maxBranch  = 1000 // bytes of a branch
	maxURL     = 2000 // bytes of a repository's address
	maxURLs    = 10
)

// decode is json.Unmarshal for payload types that are older or newer than the
// forge: a field of another type than expected is left out. It is that of what
// becomes encoding/json/v2, which does the same in a third of the time.
func decode(payload []byte, into any) error {
	var other *json.UnmarshalTypeError
	if err := json.Unmarshal(payload, into); err != nil && !(errors.As(err, &other) && other.Field != "") {
		return errors.New("the payload is not the JSON of a push")
	}
	return nil
}

// change is what a push did to one ref, in the words that forges share.
type change struct {
	ref           string // refs/heads/main
	before, after string // commit hashes; no before, or all zeros, for a new ref
	deleted       bool
	forced        bool
	commits       []commit // oldest first or newest first
	total         int      // how many commits were pushed; 0 if the forge does not say
	head          string   // message of the commit after, for when it is not in commits
}

// commit is a commit with the paths that it changed, none if the forge does not
// tell them.
type commit struct {
	ops.Commit
	files []string
}

// pushes completes p, which says what the changes of one delivery have in
// common, for each branch. When there is none it returns why, as ignored.
func pushes(p ops.Push, changes ...change) ([]ops.Push, error) {
	p.RepoURLs = slices.DeleteFunc(p.RepoURLs, func(u string) bool { return len(u) > maxURL })
	p.RepoURLs = p.RepoURLs[:min(len(p.RepoURLs), maxURLs)]
	if len(p.RepoURLs) > 0 {
		p.Repo = p.RepoURLs[0]
	}
	if len(p.Default) > maxBranch {
		p.Default = ""
	}
	if p.Name == "" {
		p.Name = p.Repo
	}
	p.Name, p.Pusher = cut(p.Name, maxText), cut(p.Pusher, maxText)
	var all []ops.Push
	var reasons []string
	for _, c := range changes {
		one, err := c.push(p)
		var nothing ignored
		switch {
		case errors.As(err, &nothing):
			reasons = append(reasons, string(nothing))
		case err != nil:
			return nil, err
		default:
			all = append(all, one)
		}
	}
	switch {
	case len(all) > 0 && len(p.RepoURLs) == 0:
		return nil, errors.New("the repository has no URL")
	case len(all) > 0:
		return all, nil
	}
	if len(reasons) > 5 {
		reasons = append(reasons[:5], "and so on")
	}
	if len(reasons) == 0 {
		return nil, ignored("nothing was pushed")
	}
	return nil, ignored(strings.Join(reasons, "; "))
}

func (c change) push(p ops.Push) (ops.Push, error) {
	branch, err := branchOf(c.ref)
	if err != nil {
		return p, err
	}
	before, after := strings.ToLower(c.before), strings.ToLower(c.after)
	switch {
	case c.deleted || isZero(after):
		return p, ignored(fmt.Sprintf("the branch %q was deleted", clip(branch)))
	case !commitHash.MatchString(after):
		return p, errors.New("after is not a full commit hash")
	case before == "":
		before = strings.Repeat("0", len(after))
	case !commitHash.MatchString(before):
		return p, errors.New("before is not a full commit hash")
	case before == after:
		return p, ignored(fmt.Sprintf("nothing was pushed to %q: this is a test", clip(branch)))
	}
	commits := slices.Clone(c.commits)
	if n := len(commits); n > 1 && strings.EqualFold(commits[0].ID, after) {
		slices.Reverse(commits)
	}
	message := c.head
	for _, one := range commits {
		if strings.EqualFold(one.ID, after) {
			message = one.Message
		}
	}
	if mark := skipMark(message); mark != "" {
		p.Skip = "the last commit says " + mark
	}
	p.Branch, p.Before, p.After, p.Forced = branch, before, after, c.forced
	p.Count = max(c.total, len(commits))
	p.Files = c.files(commits, before, after)
	p.Commits = nil
	for _, one := range commits[max(0, len(commits)-maxCommits):] {
		p.Commits = append(p.Commits, ops.Commit{ID: cut(one.ID, maxText), Message: cut(one.Message, maxMessage),
			Author: cut(one.Author, maxText), URL: link(one.URL)})
	}
	p.Compare = link(p.Compare)
	return p, nil
}

// files returns the paths that the push changed, nil unless all are known: not
// after a forced push or for a new branch, whose difference to what runs is in
// no commit of the list; not when the list is cut short; and not when a commit
// is said to change nothing, which forges also say of one that is too large.
func (c change) files(commits []commit, before, after string) []string {
	n := len(commits)
	if c.forced || isZero(before) || n == 0 || c.total > n || !strings.EqualFold(commits[n-1].ID, after) {
		return nil
	}
	var all []string
	for _, one := range commits {
		if len(one.files) == 0 {
			return nil
		}
		all = append(all, one.files...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

var commitHash = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// isZero says whether a hash is all zeros: there is no commit.
func isZero(hash string) bool { return hash != "" && strings.Trim(hash, "0") == "" }

// branchOf returns the branch of a ref. Other refs are ignored; what Git itself
// would not take as a name is an error.
func branchOf(ref string) (string, error) {
	if ref == "" {
		return "", errors.New("the push names no ref")
	}
	if tag, ok := strings.CutPrefix(ref, "refs/tags/"); ok {
		return "", ignored(fmt.Sprintf("%q is a tag, only pushes to a branch deploy", clip(tag)))
	}
	branch, ok := strings.CutPrefix(ref, "refs/heads/")
	if !ok {
		return "", ignored(fmt.Sprintf("%q is not a branch", clip(ref)))
	}
	bad := branch == "" || len(branch) > maxBranch || branch == "@" || branch[0] == '-' || branch[0] == '/' ||
		strings.HasSuffix(branch, "/") || strings.HasSuffix(branch, ".") ||
		strings.Contains(branch, "..") || strings.Contains(branch, "//") || strings.Contains(branch, "@{") ||
		strings.ContainsFunc(branch, func(r rune) bool {
			return r <= ' ' || r == 0x7f || r == '\uFFFD' || strings.ContainsRune(`~^:?*[\`, r)
		})
	for part := range strings.SplitSeq(branch, "/") {
		bad = bad || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock")
	}
	if bad {
		return "", fmt.Errorf("%q is not a name that Git allows for a branch", clip(branch))
	}
	return branch, nil
}

var skipMarks = []string{"[skip ci]", "[ci skip]", "[skip deploy]"}

// skipMark returns the mark in a commit message that asks for no deploy, "" if
// there is none.
func skipMark(message string) string {
	message = strings.ToLower(message)
	i := slices.IndexFunc(skipMarks, func(mark string) bool { return strings.Contains(message, mark) })
	if i < 0 {
		return ""
	}
	return skipMarks[i]
}

// distinct returns the texts that are not empty, each once, in order.
func distinct(texts ...string) []string {
	var out []string
	for _, t := range texts {
		if t != "" && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}

// cut shortens s to n bytes and says so.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// clip shortens what a sender says for the log and for reasons.
func clip(s string) string { return cut(s, 64) }

// link returns url, or "" when it is too long to be followed.
func link(url string) string {
	if len(url) > maxText {
		return ""
	}
	return url
}

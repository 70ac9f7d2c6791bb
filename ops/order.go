package ops

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"
)

// pushed is one push to the branch that an app is deployed from.
type pushed struct {
	Branch   string    `json:"branch,omitempty"` // "" for a release
	Before   string    `json:"before"`
	After    string    `json:"after"`
	PushedAt time.Time `json:"pushed_at,omitzero"`
	Job      string    `json:"job,omitempty"` // its deploy; "" if it led to none
	Seq      int64     `json:"seq,omitempty"` // of its deploy
	At       time.Time `json:"at,omitzero"`   // when it came; zero for a release

	encoded []byte // as it is kept, once it was encoded or read
}

// pushes are the last pushes of an app, in the order in which they came. They
// are kept in Redis, see pushesKey.
type pushes []pushed

const (
	pushesMost = 20
	pushesKept = 90 * 24 * time.Hour // after the last one
)

// with returns the list with one more.
func (l pushes) with(p pushed) pushes {
	l = append(slices.Clone(l), p)
	return l[max(0, len(l)-pushesMost):]
}

// encode returns the pushes as they are kept. What it did once for a push it keeps.
func (l pushes) encode() ([][]byte, error) {
	var out [][]byte
	for i := range l {
		if l[i].encoded == nil {
			b, err := json.Marshal(l[i])
			if err != nil {
				return nil, err
			}
			l[i].encoded = b
		}
		out = append(out, l[i].encoded)
	}
	return out, nil
}

// last is the highest Seq.
func (l pushes) last() int64 {
	var n int64
	for _, p := range l {
		n = max(n, p.Seq)
	}
	return n
}

// has says whether a push like p is in the list.
func (l pushes) has(p pushed) bool {
	return slices.ContainsFunc(l, func(q pushed) bool { return q.alike(p) })
}

func (p pushed) alike(q pushed) bool {
	return p.Before == q.Before && p.After == q.After && p.PushedAt.Equal(q.PushedAt) && p.on(q.Branch)
}

// on says whether the push could be to that branch.
func (p pushed) on(branch string) bool { return p.Branch == branch || p.Branch == "" }

// released are the service's releases as pushes: what is left to know when Redis
// has lost the pushes.
func (s Service) released() pushes {
	all, err := s.Releases()
	if err != nil {
		return nil // the deploy will say so
	}
	var out pushes
	before := ""
	for _, r := range slices.Backward(all) {
		if r.Commit != "" && r.Commit != before && r.From == 0 {
			out = append(out, pushed{Before: before, After: r.Commit, Job: r.Commit})
			before = r.Commit
		}
	}
	return out
}

// verdict is how a push stands to those that came before it.
type verdict string

const (
	isNewer verdict = "newer"   // it is to be deployed
	isSame  verdict = "same"    // the one that was accepted last, or an earlier one, again
	isOlder verdict = "older"   // a newer one was accepted
	unclear verdict = "unclear" // only the repository can tell
)

// judge says how a push stands to those that are known, and of which it is the
// same. Forges deliver the same push more than once (two hooks, a redelivery
// days later), and pushes in another order than they were made. L is the one
// that was accepted last:
//
//  1. No push was accepted: it is newer.
//  2. Before, after and the forge's time are those of an accepted push: it is the
//     same. But where the forge tells no time, the branch may have gone there
//     again (A→B, B→A, A→B); that is possible only if it begins where L ended,
//     and then it is unclear.
//  3. It ends where L ended: it is the same.
//  4. The forge tells when it was pushed: older than the newest that is known is
//     older, newer is newer.
//  5. The commits tell. Every known push leads from before to after, those that
//     led to no deploy too. When the known pushes lead from where L ended to where
//     it begins, it is newer; when they lead from where it ends to where L ended,
//     it is older; when both, or neither, it is unclear.
//
// When it is unclear, where the branch is decides: there, it is newer, else older.
// Only pushes to the same branch count: an app's branch can be changed.
//
// Of what is looked at here the forge signs everything, so a delivery that
// somebody has seen cannot be made to deploy again.
func judge(known pushes, p pushed) (verdict, int) {
	last := -1
	newest := time.Time{}
	for i, k := range known {
		if k.Job == "" || !k.on(p.Branch) {
			continue
		}
		last = i
		if k.PushedAt.After(newest) {
			newest = k.PushedAt
		}
	}
	if last < 0 {
		return isNewer, 0
	}
	end := known[last].After
	for i, k := range known {
		if k.Job == "" || !k.alike(p) {
			continue
		}
		if p.PushedAt.IsZero() && i != last && p.Before == end {
			return unclear, 0
		}
		return isSame, i
	}
	if p.After == end {
		return isSame, last
	}
	if !p.PushedAt.IsZero() && !newest.IsZero() {
		switch p.PushedAt.Compare(newest) {
		case -1:
			return isOlder, 0
		case 1:
			return isNewer, 0
		}
	}
	follows, precedes := known.lead(p.Branch, end, p.Before), known.lead(p.Branch, p.After, end)
	switch {
	case follows && !precedes:
		return isNewer, 0
	case precedes && !follows:
		return isOlder, 0
	}
	return unclear, 0
}

// lead says whether pushes of the branch lead from one commit to another.
func (l pushes) lead(branch, from, to string) bool {
	seen := map[string]bool{from: true}
	for next := []string{from}; len(next) > 0; next = next[1:] {
		if next[0] == to {
			return true
		}
		for _, p := range l {
			if p.on(branch) && p.Before == next[0] && !seen[p.After] {
				seen[p.After] = true
				next = append(next, p.After)
			}
		}
	}
	return false
}

// noted is what Redis has of an app's pushes.
type noted struct {
	all    pushes
	newest int64 // the highest Seq of the app
}

// last is the newest push as it is kept, nil when there is none.
func (n noted) last() []byte {
	if len(n.all) == 0 {
		return nil
	}
	return n.all[len(n.all)-1].encoded
}

func (r *Runner) readNoted(ctx context.Context, app string) (noted, error) {
	kept, newest, err := r.Store.ListAndNumber(ctx, pushesKey(app), newestKey(app))
	if err != nil {
		return noted{}, err
	}
	at := noted{newest: newest}
	for _, b := range kept {
		p := pushed{encoded: b}
		if err := json.Unmarshal(b, &p); err != nil {
			return noted{}, fmt.Errorf("decode the pushes of %s: %w", app, err)
		}
		at.all = append(at.all, p)
	}
	return at, nil
}

// notes are what this process noted last of each app.
type notes struct {
	mu   sync.Mutex
	last map[string]noted
}

func (n *notes) of(app string) (noted, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	at, ok := n.last[app]
	return at, ok
}

func (n *notes) put(app string, at noted) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last == nil {
		n.last = map[string]noted{}
	}
	n.last[app] = at
}

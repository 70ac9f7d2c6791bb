package ops

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// links are the services that are linked to a repository, by its normal form: of
// each its name and labels.
type links map[string][]Service

func linksOf(services []Service) links {
	out := links{}
	for _, s := range services {
		if repo := normalRepo(s.Labels[LabelRepo]); repo != "" {
			out[repo] = append(out[repo], Service{Name: s.Name, Labels: s.Labels})
		}
	}
	return out
}

// of returns the services that are linked to the repository of a push, by name.
func (l links) of(p Push) []Service {
	var out []Service
	var seen []string
	for _, url := range p.RepoURLs {
		repo := normalRepo(url)
		if repo == "" || slices.Contains(seen, repo) {
			continue
		}
		seen = append(seen, repo)
		out = append(out, l[repo]...)
	}
	slices.SortFunc(out, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	return out
}

const (
	// linksGood is how long what was read of the links may say yes to a push.
	linksGood = 30 * time.Second
	// lookTimeout bounds one reading.
	lookTimeout = 3 * time.Second
)

// linkReader reads the links, and keeps what it read for a while.
type linkReader struct {
	mu    sync.Mutex
	last  links
	read  time.Time
	round int // how often forget was called
	calls sharedCalls[links]
}

// readLinks asks Docker, once for all who ask at the same time.
func (r *Runner) readLinks(ctx context.Context) (links, error) {
	limit := 2 * lookTimeout // for the reading that runs and for the next
	if end, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(end)/2) // a forge waits, and the push has still to be stored
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return r.links.calls.do(ctx, "", lookTimeout, r.askLinks)
}

func (r *Runner) askLinks(ctx context.Context) (links, error) {
	k, began := &r.links, r.Env.Now()
	k.mu.Lock()
	round := k.round
	k.mu.Unlock()
	services, err := r.Env.Swarm.Services(ctx)
	if err != nil {
		return nil, err
	}
	now := linksOf(services)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.round == round {
		k.last, k.read = now, began
	}
	return now, nil
}

// known returns what was read a short while ago; false when there is no such.
func (k *linkReader) known(now time.Time) (links, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.last, k.last != nil && now.Sub(k.read) < linksGood
}

// forget is called when services were changed.
func (k *linkReader) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last, k.round = nil, k.round+1
}

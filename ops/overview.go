package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"waggle/ops/queue"
	"waggle/ops/store"
)

// Overview asks for the whole swarm on one screen: what is wrong first.
type Overview struct{}

func (Overview) Needs() Role { return Viewer }

// Ask tells how nodes and apps stand, and what runs and waits.
func (Overview) Ask(ctx context.Context, r *Runner, _ Actor) (Answer, error) {
	w, err := readWorld(ctx, r.Env.Swarm)
	if err != nil {
		return Answer{}, err
	}
	q := quorumOf(w.nodes)
	up, short, frozen := 0, 0, []string{}
	a := Answer{}
	for _, n := range w.nodes {
		if n.up() {
			up++
		}
	}
	if q.spare() < 0 {
		a.Concern("the managers have no quorum: nothing can be changed", "bring managers back: `/node list`")
	}
	for _, n := range w.nodes {
		concerns(&a, n)
	}
	for _, s := range w.services {
		got := w.observe(s)
		if problem := s.problem(got); problem != "" {
			if short++; short <= 10 {
				a.Concern(problem, fmt.Sprintf("`/app show %s`", s.Name))
			}
		}
		if n, down := s.downHome(w.nodes); down {
			a.Concern(fmt.Sprintf("%s is pinned to %s, which is %s: it runs nowhere else", s.Name, n.Hostname, n.State), fmt.Sprintf("bring %s back; `/node show %[1]s`", n.Hostname))
		}
		if s.Labels[LabelFreeze] != "" {
			frozen = append(frozen, s.Name)
		}
	}
	if short > 10 {
		a.Concern(fmt.Sprintf("%d more apps are not at their count", short-10), "`/app list`")
	}
	if q.managers > 1 && q.spare() == 0 {
		a.Concern("no more manager may fail", "`/node promote <node>`")
	}
	if len(frozen) > 0 {
		a.Concern("deploys are frozen: "+strings.Join(frozen, ", "), "`/unfreeze <app>`")
	}
	if c, err := r.Env.Swarm.Cluster(ctx); err == nil && c.Labels[LabelFreeze] != "" {
		a.Concern("deploys of all apps are frozen by "+c.Labels[LabelFreeze], "`/unfreeze all`")
	}
	registries, err := ReadRegistries(ctx, r.Env.Swarm)
	if err != nil {
		a.Concern(sentenceOf(err), "")
	} else {
		registries.concerns(w.nodes, r.Env.SecretKey, &a)
	}
	a.Head = fmt.Sprintf("%d of %s ready, %s, ", up, many(len(w.nodes), "node"), q)
	if short == 0 {
		a.Head += fmt.Sprintf(oneOrMore(len(w.services), "%s at its count", "all %s at their count"), many(len(w.services), "app"))
	} else {
		a.Head += fmt.Sprintf("%d of %s not at their count", short, many(len(w.services), "app"))
	}
	work := r.underWay(ctx)
	if len(work) > 0 {
		a.Parts = append(a.Parts, Part{Title: "Under way", Lines: work})
	}
	disk, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if total, unused, err := r.Env.Swarm.ImageDisk(disk); err == nil {
		a.Parts = append(a.Parts, Part{Lines: []string{fmt.Sprintf("Images take %s on this manager, %s of it by images that no container uses.", bytesText(total), bytesText(unused))}})
	}
	return a, nil
}

// Work is an operation that runs or waits for its turn.
type Work struct {
	ID      string
	Kind    string
	Target  string
	Title   string
	Actor   Actor
	Asked   time.Time
	Waits   string // why it does not run; "" when it does
	Cancels bool   // it can be called off
	Message string // the Reporter's name of its message
}

// UnderWay lists what runs and what waits for its turn, the oldest first. What waits for
// an approval is not in it.
func (r *Runner) UnderWay(ctx context.Context) ([]Work, error) {
	ids, err := r.Store.Members(ctx, inflight)
	if err != nil {
		return nil, err
	}
	asked := map[string]Request{}                            // those that no worker has looked at have no record
	for _, q := range []*queue.Queue{r.Changes, r.Deploys} { // decisions are no work
		jobs, err := q.Unfinished(ctx)
		if err != nil {
			return nil, err
		}
		for _, job := range jobs {
			var req Request
			if err := json.Unmarshal(job, &req); err == nil {
				ids, asked[req.ID] = append(ids, req.ID), req
			}
		}
	}
	slices.Sort(ids)
	var out []Work
	for _, id := range slices.Compact(ids) {
		rec, err := r.read(ctx, id)
		known := err == nil
		switch {
		case errors.Is(err, store.ErrNotFound):
			rec = record{Request: asked[id]}
		case errors.Is(err, errUndecodable):
			continue
		case err != nil:
			return nil, err
		}
		if rec.State.Final() || rec.State == Pending {
			continue
		}
		op, err := r.decode(rec.Request)
		if err != nil {
			continue // it is no operation, but a click or the like
		}
		_, slow := op.(Preparer)
		ref, err := r.messageRef(ctx, rec)
		if err != nil {
			return nil, err
		}
		w := Work{ID: id, Kind: rec.Kind, Target: op.Target(), Title: rec.Title, Actor: rec.Actor, Asked: rec.At, Message: ref, Cancels: known && (slow || rec.State == Waiting) && !rec.Applying}
		switch {
		case !known:
			w.Waits = "has not begun yet"
		case rec.State == Waiting:
			w.Waits = rec.Note
		}
		out = append(out, w)
	}
	slices.SortStableFunc(out, func(a, b Work) int { return a.Asked.Compare(b.Asked) })
	return out, nil
}

// underWay tells what runs and what waits.
func (r *Runner) underWay(ctx context.Context) []string {
	work, err := r.UnderWay(ctx)
	if err != nil {
		return []string{"Redis does not answer, so what runs is not known"}
	}
	var out []string
	for _, w := range work {
		text := fmt.Sprintf("%s %s of %s, asked for %s", w.Target, w.Kind, w.Actor, ago(r.Env.Now(), w.Asked))
		if w.Waits != "" {
			text += ", " + w.Waits
		}
		if w.Cancels {
			text += fmt.Sprintf(" · `/swarm cancel %s`", w.ID)
		}
		out = append(out, text)
	}
	pending, err := r.PendingOperations(ctx)
	if err != nil {
		return append(out, "what waits for an approval is not known")
	}
	for _, p := range pending {
		out = append(out, fmt.Sprintf("%s %s of %s waits for an approval · `/swarm pending`", p.Target, p.Kind, p.Actor))
	}
	return out
}

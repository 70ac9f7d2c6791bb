package ops

import "context"

// Question reads, and changes nothing of the cluster. Its Answer is for the asker
// alone.
type Question interface {
	// Needs is the least role that may ask.
	Needs() Role
	// Ask reads and answers. An *Error says why it cannot be answered.
	Ask(ctx context.Context, r *Runner, who Actor) (Answer, error)
}

// Answer is what a question comes to.
type Answer struct {
	Head     string // the first line; enough by itself
	Parts    []Part
	Concerns []Concern // what is wrong, the worst first
	Moves    bool      // it is another one soon, and worth following for a minute
}

// Part is one part of an answer; each of its fields may be empty.
type Part struct {
	Title string
	Table [][]string // by rows; the first has the names of the columns
	Lines []string
	Code  string // to be copied as it stands
	File  string // the name of a file for Code, should it be too long to be shown
}

// Concern is something wrong, and the command that helps.
type Concern struct {
	What string // one sentence, without a period
	Then string // what to type or do, may be empty
	// Fails says that something does not work at all.
	Fails bool
}

// Concern adds one to the answer.
func (a *Answer) Concern(what, then string) {
	a.Concerns = append(a.Concerns, Concern{What: what, Then: then})
}

// Ask answers a question of somebody who may ask it.
func (r *Runner) Ask(ctx context.Context, who Actor, q Question) (Answer, error) {
	if err := r.Authoriser.Authorise(ctx, who, q.Needs()); err != nil {
		return Answer{}, err
	}
	return q.Ask(ctx, r, who)
}

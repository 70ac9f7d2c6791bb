package ops

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
)

// TokenRotation makes new join tokens; the old ones are good for nothing then.
// Nodes that have joined stay.
type TokenRotation struct {
	Role string `json:"role,omitempty"` // "worker", "manager" or "" for both

	// Old is the digest of the tokens that end, once the change is about to be written:
	// it keeps them from being made twice.
	Old string `json:"old,omitempty"`

	cluster Cluster
}

func (*TokenRotation) Kind() string   { return "join-rotate" }
func (*TokenRotation) Target() string { return "join tokens" }
func (*TokenRotation) Needs() Role    { return Admin }

// Plan says which tokens end.
func (r *TokenRotation) Plan(ctx context.Context, run *Run) (Plan, error) {
	var err error
	if r.cluster, err = run.Swarm.Cluster(ctx); err != nil {
		return Plan{}, err
	}
	what := r.Role
	if what == "" {
		what = "worker and manager"
	}
	return Plan{
		Diffs:    []Diff{{What: what + " token", From: "the present one", To: "a new one"}},
		Facts:    []string{"nodes that have joined stay"},
		Approval: "who was given the present token cannot join with it any more",
	}, nil
}

// Apply makes the new tokens, once.
func (r *TokenRotation) Apply(ctx context.Context, run *Run) error {
	if run.resumed && r.Old != "" && r.Old != r.digest(r.cluster) {
		return nil // done by an attempt that was cut off
	}
	r.Old = r.digest(r.cluster)
	if err := run.Save(ctx); err != nil {
		return redisAway(err)
	}
	return run.Swarm.RotateTokens(ctx, r.cluster, r.Role != "manager", r.Role != "worker")
}

// Converge sees that the tokens are others.
func (r *TokenRotation) Converge(ctx context.Context, run *Run) (string, error) {
	var now Cluster
	err := run.whileAway(ctx, run.Now().Add(run.JoinTimeout), func(ctx context.Context) (err error) {
		now, err = run.Swarm.Cluster(ctx)
		return err
	})
	if err != nil {
		return "", err
	}
	if r.digest(now) == r.Old {
		return "", Errorf(Failed, "The swarm has the same tokens as before").Then("Try again.")
	}
	return "The old join token is good for nothing any more; `/join-node command` shows the new one", nil
}

// digest names the tokens that are made anew without telling them.
func (r *TokenRotation) digest(c Cluster) string {
	var tokens string
	if r.Role != "manager" {
		tokens += c.WorkerToken.Reveal() + " "
	}
	if r.Role != "worker" {
		tokens += c.ManagerToken.Reveal()
	}
	return fmt.Sprintf("%x", sha256.Sum256([]byte(tokens)))
}

// JoinKey asks for Waggle's public SSH key.
type JoinKey struct{}

func (JoinKey) Needs() Role { return Viewer }

// Ask shows the key and the line to run on a new server.
func (JoinKey) Ask(ctx context.Context, r *Runner, _ Actor) (Answer, error) {
	key, err := r.Env.Servers.PublicKey(ctx)
	if err != nil {
		return Answer{}, err
	}
	home := "~" + r.Env.SSH.User
	return Answer{
		Head: fmt.Sprintf("Waggle logs in to new servers as %s with this key", r.Env.SSH.User),
		Parts: []Part{
			{Code: key},
			{Lines: []string{"To let it in, run this on the new server as root; then type /join-node <address> here:"},
				Code: fmt.Sprintf("install -d -m 700 -o %[1]s %[2]s/.ssh && echo '%[3]s' >> %[2]s/.ssh/authorized_keys && chmod 600 %[2]s/.ssh/authorized_keys && chown %[1]s: %[2]s/.ssh/authorized_keys", r.Env.SSH.User, home, key)},
		},
	}, nil
}

// JoinCommand asks for the command that joins a node by hand.
type JoinCommand struct{ Manager bool }

func (JoinCommand) Needs() Role { return Admin }

// Ask shows the command with its token, and puts into the audit that it did.
func (q JoinCommand) Ask(ctx context.Context, r *Runner, who Actor) (Answer, error) {
	cluster, err := r.Env.Swarm.Cluster(ctx)
	if err != nil {
		return Answer{}, err
	}
	nodes, err := r.Env.Swarm.Nodes(ctx)
	if err != nil {
		return Answer{}, err
	}
	at := managersAt(&Run{Env: r.Env}, nodes, cluster)
	if len(at) == 0 {
		return Answer{}, Errorf(Unavailable, "No manager of this swarm is reachable").Then("`/node list` shows how they stand.")
	}
	role := "worker"
	if q.Manager {
		role = "manager"
	}
	now := r.Env.Now()
	entry := Entry{At: now, ID: "token-" + now.UTC().Format("20060102T150405.000"), Who: who.String(), UserID: who.ID, Kind: "join-command",
		Target: "join tokens", Diffs: []Diff{{What: role + " token", From: "hidden", To: "shown to " + who.String()}}, Outcome: Done}
	if err := r.record(ctx, entry); err != nil {
		return Answer{}, redisAway(err) // unaudited, it is not shown
	}
	return Answer{
		Head: fmt.Sprintf("Run this on the server that is to join as a %s", role),
		Parts: []Part{
			{Code: fmt.Sprintf("docker swarm join --token %s %s", strings.TrimSpace(cluster.Token(q.Manager).Reveal()), at[0])},
			{Lines: []string{"Whoever has this token can join the swarm: it is shown to you alone, and that is in the audit. `/join-node rotate` makes it good for nothing."}},
		},
	}, nil
}

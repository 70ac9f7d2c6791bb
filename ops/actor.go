package ops

import (
	"context"
	"fmt"
)

// Role is what somebody may do; each includes the ones before it.
type Role int

const (
	Nobody   Role = iota
	Viewer        // read
	Operator      // change apps
	Admin         // change nodes, registries and tokens
)

func (r Role) String() string {
	return [...]string{"nobody", "viewer", "operator", "admin"}[r]
}

// Actor is who asks for an operation.
type Actor struct {
	ID   string `json:"id,omitempty"`   // Slack user id; "" for a forge's pusher
	Team string `json:"team,omitempty"` // Slack workspace id
	Name string `json:"name"`           // for people and the audit, never to decide on
	Via  string `json:"via"`            // "slack", or the forge whose signature vouches for the push
}

func (a Actor) String() string {
	if a.Via == "slack" {
		return "@" + a.Name
	}
	return fmt.Sprintf("%s (push)", a.Name)
}

// Authoriser decides who may do what. Authorise returns nil when the actor has
// at least the role, else an *Error: Forbidden, with a sentence that says why
// and who could; Unavailable when it could not be found out, which refuses too.
type Authoriser interface {
	Authorise(ctx context.Context, actor Actor, need Role) error
}

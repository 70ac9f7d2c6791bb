package ops

import "context"

// Config is a config object of the swarm. Its data never changes.
type Config struct {
	ID      string
	Name    string
	Version uint64 // Docker's version index when it was created: a later one has a higher
	Data    []byte
}

// Configs are the swarm's config objects. Errors are those of Swarm.
type Configs interface {
	// Configs returns those whose name begins with prefix, with their data.
	Configs(ctx context.Context, prefix string) ([]Config, error)
	// CreateConfig makes one and returns its id. OutOfDate when there is one of
	// that name: of all who create it, one succeeds.
	CreateConfig(ctx context.Context, name string, data []byte) (id string, err error)
	// RemoveConfig removes the one of that id; NotFound when it is gone.
	RemoveConfig(ctx context.Context, id string) error
}

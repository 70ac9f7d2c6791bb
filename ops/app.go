package ops

import (
	"context"
	"fmt"
	"strings"
	"time"

	"waggle/internal/secret"
)

// Settings are what a service's tasks run with, apart from its image.
type Settings struct {
	Env         []EnvVar
	Mounts      []Mount
	Ports       []Port
	Secrets     []SecretRef
	Networks    []string // ids
	Health      Health
	LimitCPU    int64  // in 1e-9 cores, 0 = no limit
	LimitMemory int64  // in bytes, 0 = no limit
	UpdateOrder string // start-first or stop-first
	Parallelism int    // tasks that an update replaces at once, 0 = all
}

// EnvVar is one environment variable of a service. Its value is shown to nobody.
type EnvVar struct {
	Name  string
	Value secret.Text
}

// Mount is one mount of a service.
type Mount struct {
	Type     string // volume, bind, tmpfs…
	Source   string // name of the volume, or path on the node
	Target   string // path in the container
	ReadOnly bool
}

func (m Mount) String() string { return m.Source + ":" + m.Target }

// Port is one published port of a service.
type Port struct {
	Published int // 0 = the swarm chooses
	Target    int
	Protocol  string // tcp, udp or sctp
	Host      bool   // on the node of each task, instead of the routing mesh
}

// String is the port as ParsePorts reads it.
func (p Port) String() string {
	text := fmt.Sprintf("%d:%d", p.Published, p.Target)
	if p.Protocol != "" && p.Protocol != "tcp" {
		text += "/" + p.Protocol
	}
	if p.Host {
		text += ":host"
	}
	return text
}

// SecretRef is a swarm secret in a service's tasks.
type SecretRef struct {
	ID, Name string
	File     string // its name below /run/secrets
}

// Health is a service's health check; zero fields are the image's, or Docker's own
// defaults.
type Health struct {
	Test     []string // as Docker has it: CMD-SHELL and the command, NONE, or empty for the image's
	Interval time.Duration
	Timeout  time.Duration
	Start    time.Duration // how long a failure does not count after the start
	Retries  int
}

// own says whether the service itself says how its health is checked.
func (h Health) own() bool { return len(h.Test) > 0 && h.Test[0] != "NONE" }

func (h Health) String() string {
	switch {
	case len(h.Test) == 0:
		return "the image's, if it has one"
	case h.Test[0] == "NONE":
		return "none"
	}
	return strings.Join(h.Test[1:], " ")
}

// LogLine is one line that a task printed.
type LogLine struct {
	At     time.Time
	TaskID string
	NodeID string
	Text   string
}

// LogRequest says which lines of a service's log are wanted.
type LogRequest struct {
	Lines int           // the last ones of each task
	Since time.Duration // not older; 0 = all
}

// Apps is the part of a Swarm that is about services as apps. Errors are those of
// Swarm.
type Apps interface {
	Volumes // of the manager's own engine
	// ServiceLogs reads what the tasks of a service printed, from all nodes, by
	// time. Nodes that do not give their logs in a few seconds are left out; partial
	// says that there were such.
	ServiceLogs(ctx context.Context, svc Service, req LogRequest) (lines []LogLine, partial bool, err error)
	// CreateService makes a service and returns its id.
	CreateService(ctx context.Context, s NewService) (id string, err error)
	// RemoveService removes a service; its volumes stay.
	RemoveService(ctx context.Context, id string) error
	// NetworkID returns the id of an attachable overlay network of that name, made if
	// there is none.
	NetworkID(ctx context.Context, name string) (string, error)
	// ImageDisk is how many bytes the images on this manager's engine take, and how
	// many of them are of images that no container uses.
	ImageDisk(ctx context.Context) (total, unused int64, err error)
	// CreateSecret keeps a swarm secret and returns its id, that of the one of this
	// name if there is one.
	CreateSecret(ctx context.Context, name string, value secret.Text, labels map[string]string) (id string, err error)
	// Secrets returns the swarm secrets whose name begins with prefix, by name.
	Secrets(ctx context.Context, prefix string) ([]Secret, error)
	// RemoveSecret removes a swarm secret that no service uses.
	RemoveSecret(ctx context.Context, id string) error
}

// Volumes are the volumes of one engine.
type Volumes interface {
	// RemoveVolume removes a volume; NotFound when there is none of that name.
	RemoveVolume(ctx context.Context, name string) error
}

// Secret is a secret of the swarm. Nobody reads its value again.
type Secret struct {
	ID   string
	Name string
}

// NewService is a service to be made.
type NewService struct {
	Name        string
	Image       string
	Replicas    int
	Labels      map[string]string
	Constraints []string
	Settings
	Auth *RegistryAuth
	Args []string // in place of the image's own command
	Once bool     // it is not started again when it ends
}

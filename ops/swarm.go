package ops

import (
	"context"
	"time"

	"waggle/internal/secret"
)

// Mode is a service's scheduling mode, spelled as the docker CLI prints it.
type Mode string

const (
	Replicated    Mode = "replicated"
	Global        Mode = "global"
	ReplicatedJob Mode = "replicated-job"
	GlobalJob     Mode = "global-job"
)

// Service is a swarm service as operations see it: one reading, at one version.
type Service struct {
	ID       string
	Name     string
	Version  uint64 // Docker's version index; every write carries the one it was planned on
	Mode     Mode
	Replicas int    // 0 unless Mode is Replicated
	Image    string // as in the task spec: name:tag, with @digest when pinned
	Labels   map[string]string

	Persistent bool          // has a volume or bind mount: its data stays on a node
	HostPorts  bool          // publishes a port in host mode
	Update     UpdateStatus  // of the last update that replaced tasks
	Monitor    time.Duration // how long the swarm watches a new task before it trusts it (5 s unless set)
	MaxPerNode int           // max_replicas_per_node, 0 = no limit

	Settings // what its tasks run with

	Constraints   []string // as they are written: "node.role == manager"
	Platforms     []string // os/arch of its image, empty when any will do
	ReserveCPU    int64    // what each task reserves, in 1e-9 cores
	ReserveMemory int64    // in bytes

	Running, Desired int // tasks that run, and that should; only Services tells
}

// UpdateStatus is how the swarm's own rolling update goes. State is "" when
// there was none, else updating, paused, completed, rollback_started,
// rollback_paused or rollback_completed.
type UpdateStatus struct {
	State     string
	Message   string
	StartedAt time.Time
}

// Task is one task of a service.
type Task struct {
	ID        string
	ServiceID string
	NodeID    string // "" until it is assigned
	Slot      int    // 0 for a global service
	State     string // as Docker spells it: new, pending, assigned, preparing, starting, running, complete, failed, rejected, shutdown, orphaned…
	Desired   string // running, shutdown, ready…
	Err       string // the task's own error: "no suitable node (…)", "task: non-zero exit (1)"…
	ExitCode  int
	Image     string
	// ImageMissing: the task was rejected because its node has no copy of the image and
	// could not pull one. Err then begins with the cause and ends with the image.
	ImageMissing bool

	Created time.Time
	Updated time.Time // when State was reached
}

// RegistryAuth is what it takes to log in to a registry.
type RegistryAuth struct {
	Username string
	Password secret.Text
}

// Resources are what each task may use or reserves.
type Resources struct {
	CPU    *int64 // in 1e-9 cores; nil leaves it as it is, 0 takes it away
	Memory *int64 // in bytes
}

// Change is what one update of a service changes; a nil or empty field leaves
// that part of the service as it is.
type Change struct {
	Replicas *int
	Image    string            // the new image, pinned by digest
	Labels   map[string]string // set these; others stay
	Unset    []string          // labels to remove
	// What follows restarts the tasks, the update's own order and parallelism
	// excepted.
	Env         map[string]secret.Text // set these; others stay
	UnsetEnv    []string
	Limits      *Resources
	Reserve     *Resources
	Health      *Health
	Constraints *[]string
	Ports       *[]Port
	AddSecrets  []SecretRef
	DropSecrets []string // ids
	UpdateOrder string
	Parallelism *int
	// Rollback asks that a failed update goes back to the version before: where
	// the service has no update config of its own, it gets one, and one for the
	// way back (one task at a time, start-first, or stop-first when Persistent or
	// HostPorts).
	Rollback bool
	// Auth are the credentials for the service's image; nil keeps what the
	// service has.
	Auth *RegistryAuth
}

// BuildRequest describes one image build.
type BuildRequest struct {
	Dir        string // the repository's files
	Context    string // build context, a directory inside Dir; "" is Dir itself
	Dockerfile string // path inside the context; "" is "Dockerfile"
	Text       string // the Dockerfile itself, instead of a file
	Tag        string // full reference to tag the image with
	Args       map[string]string
	Secrets    map[string]secret.Text // by id, for RUN --mount=type=secret; in no layer of the image
	Target     string                 // stage of the Dockerfile; "" is the last one
	Platform   string                 // os/arch; "" is the engine's own
	// Logins are the credentials for private base images. A registry is only ever
	// given its own; of several at one domain, the one whose prefix is the longest
	// of those that hold a base image.
	Logins []RegistryLogin
	// Cache is an image of a build before, whose layers are taken from its registry where
	// this engine does not have them; "" is none. One that cannot be fetched is no error.
	Cache string
	// KeepCache has the image say which steps made its layers, to be another build's Cache.
	KeepCache bool
}

// Swarm is what operations need of a Docker Swarm. Errors are *Error: NotFound
// when what is named does not exist, OutOfDate when a write's version is stale,
// Unavailable when no manager answers; anything else is Internal. Every call
// honours ctx.
type Swarm interface {
	Nodes
	Apps
	Images // of the manager's own engine
	Configs

	// Services returns all services, by name.
	Services(ctx context.Context) ([]Service, error)
	// Service returns the service of exactly that name (or id).
	Service(ctx context.Context, name string) (Service, error)
	// Tasks returns the tasks of a service: all the swarm still knows, or only
	// those made from the service's current task spec.
	Tasks(ctx context.Context, serviceID string, upToDate bool) ([]Task, error)
	// UpdateService makes the change on the version that svc was read at, in
	// one write, and returns the warnings of the engine.
	UpdateService(ctx context.Context, svc Service, change Change) ([]string, error)
	// RollbackService goes back to the service's previous spec, on the version
	// that svc was read at.
	RollbackService(ctx context.Context, svc Service) error
	// TaskLogs returns the last lines that a task printed, stdout and stderr
	// together; "" when there are none.
	TaskLogs(ctx context.Context, taskID string, lines int) (string, error)

	// Machine is what this manager's engine tells about itself.
	Machine(ctx context.Context) (Machine, error)

	// Build builds an image with BuildKit on this manager's engine; log is
	// called with each line of progress, in order. A failing build is Failed,
	// with the end of the failing step's output as its Log.
	Build(ctx context.Context, req BuildRequest, log func(line string)) error
	// TagImage gives an image of this manager's engine one more name; NotFound when
	// the engine does not have it.
	TagImage(ctx context.Context, image, as string) error
	// Push pushes a tagged image and returns its digest ("sha256:…") as the
	// registry has it. Wrong credentials and what the registry refuses are Failed
	// with its own words; a registry that is away or overloaded is Unavailable.
	Push(ctx context.Context, ref string, auth RegistryAuth, log func(line string)) (digest string, err error)
	// ImageDigest asks an image's registry for its digest ("sha256:…"): NotFound
	// when it has no such image, Failed when it refuses to tell, Unavailable when it
	// is away.
	ImageDigest(ctx context.Context, image string, auth RegistryAuth) (digest string, err error)
}

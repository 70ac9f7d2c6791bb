package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"waggle/bot"
	"waggle/config"
	"waggle/internal/secret"
	"waggle/ops"
	"waggle/ops/commitstatus"
	"waggle/ops/node"
	"waggle/ops/queue"
	"waggle/ops/registry"
	"waggle/ops/source"
	"waggle/ops/store"
	"waggle/ops/swarm"
	"waggle/webhooks"
)

const (
	// quickOperations is how many operations without slow work may run side by side.
	quickOperations = 16
	// decisionsAtOnce is how many approvals and cancels may be carried out side by side.
	decisionsAtOnce = 8
	// deploysAtOnce is how many deploys may be under way; of them build.concurrency
	// build, and the others wait for that or for their tasks.
	deploysAtOnce = 32
	// lostTimeout bounds the telling of what is lost with an embedded Redis.
	lostTimeout = 5 * time.Second
)

func serve(ctx context.Context, args []string, _, stderr io.Writer) error {
	settings, err := load("serve", args, stderr)
	if err != nil {
		return err
	}
	s, err := newService(settings, newLog(settings.Log, stderr))
	if err != nil {
		return err
	}
	defer s.close()
	if s.listener, err = net.Listen("tcp", settings.Listen); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return s.run(ctx)
}

// load reads the settings of a subcommand that has no other arguments.
func load(subcommand string, args []string, stderr io.Writer) (config.Settings, error) {
	flags := flag.NewFlagSet(subcommand, flag.ContinueOnError)
	file := flags.String("config", "", "settings file (default waggle.yaml if there is one)")
	if err := parse(flags, args, stderr); err != nil {
		return config.Settings{}, err
	}
	o := config.Options{File: *file, Explicit: *file != "", Env: os.Environ()}
	if o.File == "" {
		o.File = "waggle.yaml"
	}
	return config.Load(o)
}

func newLog(l config.Log, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: l.SlogLevel()}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// service is everything of `waggle serve`, wired.
type service struct {
	log        *slog.Logger
	embedded   *store.Embedded // nil with a real Redis
	store      *store.Store
	servers    *node.Servers
	tunnel     *node.Tunnel // nil unless docker.host is behind SSH
	swarm      *swarm.Client
	registries *registry.Client
	bot        *bot.Bot
	runner     *ops.Runner
	socket     bool // take requests over Socket Mode
	listener   net.Listener
	server     *http.Server
}

// newService wires the parts. It connects to nothing: parts that are away are
// waited for, and /readyz says which they are. The caller closes it.
func newService(c config.Settings, log *slog.Logger) (_ *service, err error) {
	s := &service{log: log, socket: c.Slack.SocketMode()}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	redisOptions, err := c.Redis.Options()
	if err != nil {
		return nil, fmt.Errorf("redis.url: %w", err)
	}
	if redisOptions == nil {
		if s.embedded, err = store.StartEmbedded(); err != nil {
			return nil, err
		}
		redisOptions = s.embedded.Options()
		log.Warn("redis.url is not set: using an embedded Redis in memory, which is new and empty. Requests from before this start are LOST, and those of now will be when Waggle stops. Set redis.url for real use.")
	}
	s.store = store.Open(redisOptions)
	s.store.LogOutages(log)
	s.servers = node.New(node.Options{KeyFile: c.SSH.KeyFile, Passphrase: c.SSH.Passphrase, Log: log, Now: time.Now})
	docker := swarm.Options{Host: c.Docker.Host, Log: log, Now: time.Now}
	if strings.HasPrefix(c.Docker.Host, "ssh://") {
		if s.tunnel, err = s.servers.Tunnel(c.Docker.Host, c.SSH.User); err != nil {
			return nil, err
		}
		docker.Dial = s.tunnel.Dial
	}
	if s.swarm, err = swarm.Dial(docker); err != nil {
		return nil, err
	}
	key, err := sealingKey(c)
	if err != nil {
		return nil, err
	}
	s.registries = registry.New(registry.Options{Trust: s.swarm.RegistryTrust, Log: log})
	git, err := newGit(c.Git, log)
	if err != nil {
		return nil, err
	}
	s.bot = bot.New(bot.Options{
		Token: c.Slack.BotToken, SigningSecret: c.Slack.SigningSecret, AppToken: c.Slack.AppToken, APIURL: c.Slack.APIURL, Channel: c.Slack.Channel, AuditChannel: c.Slack.AuditChannel,
		Roles: bot.Roles{Admins: c.Roles.Admins, Operators: c.Roles.Operators, Viewers: c.Roles.Viewers},
		Log:   log, Now: time.Now,
	})
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.runner = &ops.Runner{
		Env: ops.Env{
			Swarm: s.swarm, Source: checkouts{git}, ScaleAbove: c.Approvals.ScaleAbove,
			JoinTimeout: c.Join.Timeout, Servers: s.servers, SSH: ops.Address{User: c.SSH.User, Port: c.SSH.Port}, AdvertiseAddr: c.Swarm.AdvertiseAddr, Network: c.Swarm.Network,
			SecretKey: key, Images: s.registries, RegistryImage: c.Registry.Image, Builds: ops.NewSlots(c.Build.Concurrency),
			BuildTimeout: c.Build.Timeout, DeployTimeout: c.Deploy.Timeout, Now: time.Now,
		},
		Failpoint: failpoint(), Kinds: bot.Kinds(), Store: s.store, Authoriser: s.bot, Reporter: s.bot, Statuses: commitstatus.New(gitTokens(c.Git)), Log: log, Metrics: ops.NewMetrics(metrics),
		ApprovalTTL: c.Approvals.TTL, ApproveOwn: c.Approvals.Self,
		Decisions: queue.New(s.store.Client(), queue.Options{Name: "decisions", Concurrency: decisionsAtOnce, Poll: 25 * time.Millisecond, Log: log, Away: s.store.Away}),
		Changes:   queue.New(s.store.Client(), queue.Options{Name: "changes", Concurrency: quickOperations, Poll: 25 * time.Millisecond, Log: log, Away: s.store.Away}),
		Deploys:   queue.New(s.store.Client(), queue.Options{Name: "deploys", Concurrency: deploysAtOnce, Poll: 25 * time.Millisecond, Log: log, Away: s.store.Away}),
	}
	s.bot.WorkFor(s.runner)

	mux := http.NewServeMux()
	if c.Slack.HTTPMode() {
		mux.Handle("/slack/events", s.bot)
	}
	mux.Handle("/webhooks/", webhooks.New(webhooks.Options{Secrets: c.Webhooks.Secrets(), Deploys: s.runner, Log: log}))
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "alive\n") })
	mux.Handle("GET /readyz", &readiness{parts: []part{
		{"redis", s.store.Ping, 0},
		{"swarm", s.swarmReady, 0},
		{"slack", s.bot.Check, 30 * time.Second},
	}, now: time.Now})
	s.server = &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	return s, nil
}

// sealingKey returns what secret_key is, the zero key when it is not set.
func sealingKey(c config.Settings) (secret.Key, error) {
	b, err := c.SealKey()
	if err != nil || b == nil {
		return secret.Key{}, err
	}
	return secret.NewKey(b)
}

func newGit(c config.Git, log *slog.Logger) (*source.Git, error) {
	git := &source.Git{
		// The same place for every run, so that what a killed one left is found.
		Dir:        filepath.Join(os.TempDir(), "waggle-"+strconv.Itoa(os.Getuid())),
		Quota:      int64(c.MaxSize) << 20,
		KnownHosts: c.KnownHosts,
		Log:        log,
	}
	for _, g := range c.Credentials {
		git.Credentials = append(git.Credentials, source.Credential{Host: g.Host, Username: g.Username, Token: g.Token, KeyFile: g.SSHKeyFile})
	}
	if err := git.Sweep(); err != nil {
		return nil, err
	}
	return git, nil
}

// gitTokens are the tokens for repositories by host.
func gitTokens(c config.Git) map[string]secret.Text {
	tokens := map[string]secret.Text{}
	for _, g := range c.Credentials {
		if !g.Token.Empty() {
			tokens[strings.ToLower(g.Host)] = g.Token
		}
	}
	return tokens
}

// checkouts is Git as operations see it.
type checkouts struct{ *source.Git }

func (c checkouts) Checkout(ctx context.Context, url, commit, branch string) (string, func(), error) {
	tree, err := c.Git.Checkout(ctx, url, commit, branch)
	if err != nil {
		return "", nil, err
	}
	return tree.Dir, func() {
		if err := tree.Close(); err != nil {
			c.Log.Warn("a checkout could not be removed", "dir", tree.Dir, "err", err)
		}
	}, nil
}

// run serves until ctx ends, then stops in good order: no new requests, running
// operations put back where they can be taken up.
func (s *service) run(ctx context.Context) error {
	if err := s.runner.Start(); err != nil {
		return fmt.Errorf("start the queue: %w", err)
	}
	doors, ctx := errgroup.WithContext(ctx)
	doors.Go(func() error {
		if err := s.server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	doors.Go(func() error {
		<-ctx.Done()
		s.log.Info("stopping")
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return s.server.Shutdown(ctx)
	})
	if s.socket {
		doors.Go(func() error { return s.bot.ListenSocket(ctx) })
	}
	s.log.Info("listening", "addr", s.listener.Addr().String(), "socket_mode", s.socket)
	err := doors.Wait()
	s.bot.Close()
	s.runner.Stop()
	if s.embedded != nil {
		ctx, cancel := context.WithTimeout(context.Background(), lostTimeout)
		defer cancel()
		s.runner.TellLost(ctx)
	}
	return err
}

// close ends what newService began.
func (s *service) close() {
	if s.listener != nil {
		_ = s.listener.Close() // the server may have
	}
	if s.registries != nil {
		s.registries.Close()
	}
	if s.swarm != nil {
		_ = s.swarm.Close()
	}
	if s.tunnel != nil {
		_ = s.tunnel.Close()
	}
	if s.store != nil {
		_ = s.store.Close()
	}
	if s.embedded != nil {
		s.embedded.Close()
	}
}

func (s *service) swarmReady(ctx context.Context) error {
	info, err := s.swarm.Info(ctx)
	if err != nil {
		return err
	}
	if info.Problem != "" {
		return ops.Errorf(ops.Unavailable, "%s", info.Problem).
			Then("`docker swarm init` makes a swarm; or set docker.host to the engine of a manager whose swarm has its quorum.")
	}
	return nil
}

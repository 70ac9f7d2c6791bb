// Package config reads Waggle's settings: defaults, a YAML file and the
// environment, in that order, each beating the one before.
//
// The Settings struct is the single source of keys, environment names, defaults
// and documentation: see schema.go for how its tags are read.
package config

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"waggle/internal/secret"
)

// Settings are all settings of Waggle, checked.
//
// A field's tags: koanf is its key within its section, default its default as
// one would write it, shown what the docs say for the default where that is not
// it, doc its meaning; that of a section is put before those of its fields.
type Settings struct {
	Listen    string      `koanf:"listen" default:"127.0.0.1:8080" doc:"address and port of the HTTP server"`
	Slack     Slack       `koanf:"slack"`
	Redis     Redis       `koanf:"redis"`
	Docker    Docker      `koanf:"docker"`
	SecretKey secret.Text `koanf:"secret_key" shown:"" doc:"32 random bytes in base64 (openssl rand -base64 32); seals registry passwords and build secrets, required before the first of them is added"`
	Swarm     Swarm       `koanf:"swarm"`
	SSH       SSH         `koanf:"ssh"`
	Webhooks  Webhooks    `koanf:"webhooks"`
	Git       Git         `koanf:"git"`
	Build     Build       `koanf:"build"`
	Deploy    Deploy      `koanf:"deploy"`
	Join      Join        `koanf:"join"`
	Roles     Roles       `koanf:"roles"`
	Approvals Approvals   `koanf:"approvals"`
	Registry  Registry    `koanf:"registry"`
	Log       Log         `koanf:"log"`
}

// Slack is how Waggle talks to Slack.
type Slack struct {
	BotToken      secret.Text `koanf:"bot_token" shown:"required" doc:"the app's bot token, xoxb-…"`
	AppToken      secret.Text `koanf:"app_token" doc:"an app-level token, xapp-…: use Socket Mode; this or the signing secret is required"`
	SigningSecret secret.Text `koanf:"signing_secret" doc:"the app's signing secret: take requests at /slack/events; with an app token too, both ways work"`
	APIURL        string      `koanf:"api_url" default:"https://slack.com/api/" doc:"Slack's API, for GovSlack, proxies and tests"`
	Channel       string      `koanf:"channel" doc:"where pushes and cluster events are announced: a channel id, or a name in quotes (\"#ops\")"`
	AuditChannel  string      `koanf:"audit_channel" shown:"none" doc:"gets one line for each change: a channel id, or a name in quotes"`
}

// SocketMode says whether Waggle connects to Slack by Socket Mode.
func (s Slack) SocketMode() bool { return !s.AppToken.Empty() }

// HTTPMode says whether Waggle takes Slack's requests over HTTP.
func (s Slack) HTTPMode() bool { return !s.SigningSecret.Empty() }

// Redis is where what is in flight is kept; see its Options.
type Redis struct {
	URL secret.Text `koanf:"url" shown:"empty = embedded, in memory, with a warning" doc:"redis://[user:password@]host:port/0, rediss:// for TLS, several hosts with commas for a cluster, or redis-sentinel://[user:password@]host:port,host:port/0?master=NAME (rediss-sentinel:// for TLS; sentinel_username and sentinel_password when the Sentinels have their own)"`
}

// Docker is the engine of the swarm manager that Waggle talks to.
type Docker struct {
	Host string `koanf:"host" default:"unix:///var/run/docker.sock" shown:"DOCKER_HOST, else the local socket" doc:"unix:///path, tcp://host:port (TLS as the docker CLI does it: DOCKER_TLS_VERIFY, DOCKER_CERT_PATH) or ssh://user@host:port (with Waggle's own SSH key, and a host key in known_hosts)"`
}

// Swarm is about nodes and networks.
type Swarm struct {
	AdvertiseAddr string `koanf:"advertise_addr" shown:"this manager's" doc:"the address that new nodes dial, without a port"`
	Network       string `koanf:"network" default:"waggle" doc:"overlay network that new apps join"`
}

// SSH is how Waggle reaches servers that are to join.
type SSH struct {
	User       string      `koanf:"user" default:"root" doc:"user on servers that join"`
	Port       int         `koanf:"port" default:"22" doc:"SSH port of servers that join"`
	KeyFile    string      `koanf:"key_file" shown:"one that Waggle makes at first use, in /var/lib/waggle for root" doc:"Waggle's own private key: ed25519, RSA or ECDSA, for nobody else to read; /join-node key shows its public half; set it when there are several replicas"`
	Passphrase secret.Text `koanf:"passphrase" doc:"opens ssh.key_file, if that is encrypted"`
}

// Webhook is one forge that may send pushes.
type Webhook struct {
	Secret []secret.Text `koanf:"secret" doc:"a list while rotating (in the environment one per line)"`
}

// Webhooks are the forges that may send pushes. A forge without a secret may
// not. The docs of each are those of its secret.
type Webhooks struct {
	GitHub          Webhook `koanf:"github" doc:"secret of GitHub's webhooks"`
	GitLab          Webhook `koanf:"gitlab" doc:"secret token or signing token (whsec_…) of GitLab's webhooks"`
	Bitbucket       Webhook `koanf:"bitbucket" doc:"secret of Bitbucket Cloud's webhooks"`
	BitbucketServer Webhook `koanf:"bitbucket-server" doc:"secret of Bitbucket Data Center's webhooks"`
	Gitea           Webhook `koanf:"gitea" doc:"secret of Gitea's or Forgejo's webhooks"`
	Gogs            Webhook `koanf:"gogs" doc:"secret of Gogs' webhooks"`
	Azure           Webhook `koanf:"azure" doc:"password for basic authentication of Azure DevOps' service hooks, or user:password"`
}

// Secrets returns the secrets by provider, without providers that have none.
func (w Webhooks) Secrets() map[string][]secret.Text {
	all := map[string][]secret.Text{
		"github": w.GitHub.Secret, "gitlab": w.GitLab.Secret, "bitbucket": w.Bitbucket.Secret,
		"bitbucket-server": w.BitbucketServer.Secret, "gitea": w.Gitea.Secret, "gogs": w.Gogs.Secret, "azure": w.Azure.Secret,
	}
	for provider, secrets := range all {
		if len(secrets) == 0 {
			delete(all, provider)
		}
	}
	return all
}

// Git is how private repositories are read.
type Git struct {
	KnownHosts  string          `koanf:"known_hosts_file" doc:"host keys of the forges that are reached by SSH, as ssh-keyscan prints them" shown:"~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts"`
	Credentials []GitCredential `koanf:"credentials" doc:"for private repositories: a list of host, username, and token or ssh_key_file (in the environment as YAML or JSON)"`
	MaxSize     int             `koanf:"max_size" default:"4096" doc:"most that one checkout takes on disk, in MB, with its submodules and its files in Git LFS"`
}

// GitCredential is what it takes to read the repositories of one host: a token
// for https, or a key for ssh.
type GitCredential struct {
	Host       string      `koanf:"host"`
	Username   string      `koanf:"username"`
	Token      secret.Text `koanf:"token"`
	SSHKeyFile string      `koanf:"ssh_key_file"`
}

// Build is about image builds.
type Build struct {
	Concurrency int           `koanf:"concurrency" default:"2" doc:"builds at once, 1 to 64; one app never builds twice at once"`
	Timeout     time.Duration `koanf:"timeout" default:"20m" doc:"longest build"`
}

// Deploy is about bringing an image into service.
type Deploy struct {
	Timeout time.Duration `koanf:"timeout" default:"10m" doc:"longest wait for a service to converge"`
}

// Join is about new nodes.
type Join struct {
	Timeout time.Duration `koanf:"timeout" default:"2m" doc:"longest wait for a new node to be Ready"`
}

// Roles are who may do what: Slack ids of users and user groups. Nobody listed
// means what the docs show as the default.
type Roles struct {
	Admins    []string `koanf:"admins" shown:"the workspace's admins" doc:"may change nodes, registries and tokens: Slack user (U…) or user-group (S…) ids"`
	Operators []string `koanf:"operators" shown:"nobody" doc:"may change apps: Slack user or user-group ids"`
	Viewers   []string `koanf:"viewers" shown:"everyone" doc:"may read: Slack user or user-group ids"`
}

// Approvals are about changes that wait for somebody else.
type Approvals struct {
	TTL        time.Duration `koanf:"ttl" default:"30m" doc:"how long a change waits for its approval, at most 167h"`
	Self       bool          `koanf:"self" default:"false" doc:"whether the asker may approve: true or false"`
	ScaleAbove int           `koanf:"scale_above" default:"20" doc:"scaling above this many replicas needs an approval"`
}

// Registry is about the registry that /registry setup makes.
type Registry struct {
	Image string `koanf:"image" default:"registry:2.8.3" doc:"image of the registry that /registry setup makes"`
}

// Log is what Waggle prints.
type Log struct {
	Level  string `koanf:"level" default:"info" doc:"debug, info, warn or error"`
	Format string `koanf:"format" default:"text" doc:"text or json"`
}

// SlogLevel returns the level for a slog handler.
func (l Log) SlogLevel() slog.Level {
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.Level)) // checked by Load; info otherwise
	return level
}

// SealKey returns the 32 bytes of secret_key, or nil when none is set.
func (s Settings) SealKey() ([]byte, error) {
	if s.SecretKey.Empty() {
		return nil, nil
	}
	key, err := base64.StdEncoding.DecodeString(s.SecretKey.Reveal())
	if err != nil || len(key) != 32 {
		// The decoder's error is dropped: it would tell about the secret.
		return nil, fmt.Errorf("must be 32 bytes in base64: make one with openssl rand -base64 32")
	}
	return key, nil
}

// Redacted returns every key with its value as text, "<secret>" for secrets
// that are set.
func (s Settings) Redacted() map[string]string {
	out := make(map[string]string, len(schema))
	for _, f := range schema {
		out[f.key] = fmt.Sprint(f.value(&s).Interface())
	}
	return out
}

// String lists every key with its value, secrets hidden.
func (s Settings) String() string {
	values := s.Redacted()
	var b strings.Builder
	for i, f := range schema {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s=%q", f.key, values[f.key])
	}
	return b.String()
}

// GoString hides secrets from %#v.
func (s Settings) GoString() string { return s.String() }

// LogValue logs every key with its value, secrets hidden.
func (s Settings) LogValue() slog.Value {
	values := s.Redacted()
	attrs := make([]slog.Attr, 0, len(schema))
	for _, f := range schema {
		attrs = append(attrs, slog.String(f.key, values[f.key]))
	}
	return slog.GroupValue(attrs...)
}

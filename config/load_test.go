package config_test

import (
	"encoding/base64"
	"errors"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"waggle/config"
	"waggle/internal/secret"
)

var required = []string{"WAGGLE_SLACK_BOT_TOKEN=xoxb-1", "WAGGLE_SLACK_APP_TOKEN=xapp-1"}

// load loads a settings file and an environment; files are what secrets' files
// hold.
func load(yaml string, env []string, files map[string]string) (config.Settings, error) {
	return config.Load(config.Options{
		File: "waggle.yaml", Explicit: true, Env: env,
		ReadFile: func(name string) ([]byte, error) {
			if name == "waggle.yaml" {
				return []byte(yaml), nil
			}
			if text, ok := files[name]; ok {
				return []byte(text), nil
			}
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		},
	})
}

func TestDefaults(t *testing.T) {
	s, err := load("", required, nil)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"listen": "127.0.0.1:8080", "slack.api_url": "https://slack.com/api/", "docker.host": "unix:///var/run/docker.sock",
		"swarm.network": "waggle", "ssh.user": "root", "ssh.port": "22", "build.concurrency": "2", "build.timeout": "20m0s",
		"deploy.timeout": "10m0s", "join.timeout": "2m0s", "approvals.ttl": "30m0s", "approvals.self": "false",
		"approvals.scale_above": "20", "roles.admins": "[]", "redis.url": "", "log.level": "info", "log.format": "text",
	} {
		if got := s.Redacted()[key]; got != want {
			t.Errorf("%s = %q, want %q", key, got, want)
		}
	}
	if !s.Slack.SocketMode() || s.Slack.HTTPMode() {
		t.Error("an app token alone must mean Socket Mode")
	}
	if o, err := s.Redis.Options(); o != nil || err != nil || !s.Redis.Embedded() {
		t.Errorf("Redis.Options() = %v, %v, want nil for the embedded one", o, err)
	}
}

func TestEveryKeyFromFileAndEnvironment(t *testing.T) {
	key := base64.StdEncoding.EncodeToString(make([]byte, 32))
	yaml := `
listen: "[::]:9000"
slack:
  bot_token: xoxb-file
  app_token: xapp-file
  signing_secret: 0123
  api_url: http://127.0.0.1:7600/api
  channel: "#ops"
  audit_channel: C024BE91L
redis: {url: "rediss://:pw@redis:6380/1"}
docker.host: ssh://root@manager
secret_key: ` + key + `
swarm: {advertise_addr: 10.0.0.11, network: apps}
ssh: {user: waggle, port: 2222, key_file: /keys/id, passphrase: open}
webhooks:
  github: {secret: [new, old]}
  bitbucket-server: {secret: one}
git:
  max_size: 512
  credentials:
  - {host: GitHub.com, username: bot, token: ghp_1}
  - {host: "git.example.com:3000", ssh_key_file: /keys/git}
build: {concurrency: 4, timeout: 1h30m}
deploy: {timeout: 90s}
join: {timeout: 30s}
roles: {admins: [U0AAA], operators: [W0BBB, S0CCC], viewers: U0DDD}
approvals: {ttl: 5m, self: true, scale_above: 0}
registry: {image: "10.0.0.11:5000/registry:2"}
log: {level: debug, format: json}
`
	var want config.Settings
	want.Listen = "[::]:9000"
	want.Slack = config.Slack{BotToken: "xoxb-file", AppToken: "xapp-file", SigningSecret: "0123", APIURL: "http://127.0.0.1:7600/api/", Channel: "#ops", AuditChannel: "C024BE91L"}
	want.Redis.URL = "rediss://:pw@redis:6380/1"
	want.Docker.Host = "ssh://root@manager"
	want.SecretKey = secret.Text(key)
	want.Swarm = config.Swarm{AdvertiseAddr: "10.0.0.11", Network: "apps"}
	want.SSH = config.SSH{User: "waggle", Port: 2222, KeyFile: "/keys/id", Passphrase: "open"}
	want.Webhooks.GitHub.Secret = []secret.Text{"new", "old"}
	want.Webhooks.BitbucketServer.Secret = []secret.Text{"one"}
	want.Git.MaxSize = 512
	want.Git.Credentials = []config.GitCredential{{Host: "github.com", Username: "bot", Token: "ghp_1"}, {Host: "git.example.com:3000", SSHKeyFile: "/keys/git"}}
	want.Build = config.Build{Concurrency: 4, Timeout: 90 * time.Minute}
	want.Deploy.Timeout = 90 * time.Second
	want.Join.Timeout = 30 * time.Second
	want.Roles = config.Roles{Admins: []string{"U0AAA"}, Operators: []string{"W0BBB", "S0CCC"}, Viewers: []string{"U0DDD"}}
	want.Approvals = config.Approvals{TTL: 5 * time.Minute, Self: true}
	want.Registry = config.Registry{Image: "10.0.0.11:5000/registry:2"}
	want.Log = config.Log{Level: "debug", Format: "json"}
	env := []string{
		"PATH=/bin", "WAGGLE_LAB=1", "WAGGLE_LISTEN=[::]:9000", "WAGGLE_SLACK_BOT_TOKEN=xoxb-file", "WAGGLE_SLACK_APP_TOKEN_FILE=/run/secrets/app",
		"WAGGLE_SLACK_SIGNING_SECRET=0123", "WAGGLE_SLACK_API_URL=http://127.0.0.1:7600/api", "WAGGLE_SLACK_CHANNEL=#ops",
		"WAGGLE_SLACK_AUDIT_CHANNEL=C024BE91L", "WAGGLE_REDIS_URL=rediss://:pw@redis:6380/1", "WAGGLE_DOCKER_HOST=ssh://root@manager",
		"WAGGLE_SECRET_KEY=" + key, "WAGGLE_SWARM_ADVERTISE_ADDR=10.0.0.11", "WAGGLE_SWARM_NETWORK=apps",
		"WAGGLE_SSH_USER=waggle", "WAGGLE_SSH_PORT=2222", "WAGGLE_SSH_KEY_FILE=/keys/id", "WAGGLE_SSH_PASSPHRASE=open",
		"WAGGLE_WEBHOOKS_GITHUB_SECRET_FILE=/run/secrets/github", "WAGGLE_WEBHOOKS_BITBUCKET_SERVER_SECRET=one",
		`WAGGLE_GIT_CREDENTIALS=[{"host":"GitHub.com","username":"bot","token":"ghp_1"},{"host":"git.example.com:3000","ssh_key_file":"/keys/git"}]`,
		"WAGGLE_GIT_MAX_SIZE=512", "WAGGLE_BUILD_CONCURRENCY=4", "WAGGLE_BUILD_TIMEOUT=1h30m", "WAGGLE_DEPLOY_TIMEOUT=90s", "WAGGLE_JOIN_TIMEOUT=30s",
		"WAGGLE_ROLES_ADMINS=U0AAA", "WAGGLE_ROLES_OPERATORS=W0BBB, S0CCC", "WAGGLE_ROLES_VIEWERS=U0DDD",
		"WAGGLE_APPROVALS_TTL=5m", "WAGGLE_APPROVALS_SELF=true", "WAGGLE_APPROVALS_SCALE_ABOVE=0",
		"WAGGLE_REGISTRY_IMAGE=10.0.0.11:5000/registry:2", "WAGGLE_REGISTRY_DOMAIN=",
		"WAGGLE_LOG_LEVEL=debug", "WAGGLE_LOG_FORMAT=json",
	}
	files := map[string]string{"/run/secrets/app": "xapp-file\n", "/run/secrets/github": "new\r\nold\n"}

	for name, test := range map[string]struct {
		yaml string
		env  []string
	}{"file": {yaml: yaml}, "environment": {env: env}, "both": {yaml, env}} {
		got, err := load(test.yaml, test.env, files)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
	wantSecrets := map[string][]secret.Text{"github": {"new", "old"}, "bitbucket-server": {"one"}}
	if got := want.Webhooks.Secrets(); !maps.EqualFunc(got, wantSecrets, slices.Equal) {
		t.Errorf("Secrets() has keys %v", slices.Collect(maps.Keys(got)))
	}
}

func TestPrecedence(t *testing.T) {
	for _, test := range []struct {
		name, yaml string
		env        []string
		key, want  string
	}{
		{"environment beats file", "build: {concurrency: 3}", []string{"WAGGLE_BUILD_CONCURRENCY=5"}, "build.concurrency", "5"},
		{"an empty variable is not set", "build: {concurrency: 3}", []string{"WAGGLE_BUILD_CONCURRENCY="}, "build.concurrency", "3"},
		{"an empty key is not set", "build: {concurrency: }", nil, "build.concurrency", "2"},
		{"the longest wait for an approval", "approvals: {ttl: 167h}", nil, "approvals.ttl", "167h0m0s"},
		{"DOCKER_HOST", "", []string{"DOCKER_HOST=tcp://10.0.0.1:2376"}, "docker.host", "tcp://10.0.0.1:2376"},
		{"file beats DOCKER_HOST", "docker: {host: unix:///run/d.sock}", []string{"DOCKER_HOST=tcp://10.0.0.1:2376"}, "docker.host", "unix:///run/d.sock"},
		{"own variable beats DOCKER_HOST", "", []string{"DOCKER_HOST=tcp://10.0.0.1:2376", "WAGGLE_DOCKER_HOST=unix:///run/d.sock"}, "docker.host", "unix:///run/d.sock"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := load(test.yaml, append(test.env, required...), nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Redacted()[test.key]; got != test.want {
				t.Errorf("%s = %q, want %q", test.key, got, test.want)
			}
		})
	}
}

func TestMissingFile(t *testing.T) {
	missing := func(string) ([]byte, error) { return nil, &fs.PathError{Op: "open", Path: "x", Err: fs.ErrNotExist} }
	if _, err := config.Load(config.Options{File: "waggle.yaml", Env: required, ReadFile: missing}); err != nil {
		t.Errorf("a default file that does not exist: %v", err)
	}
	_, err := config.Load(config.Options{File: "other.yaml", Explicit: true, ReadFile: missing})
	if want := "other.yaml: cannot be read: file does not exist"; err == nil || err.Error() != want {
		t.Errorf("a named file that does not exist: %v, want %s", err, want)
	}
}

func TestProblems(t *testing.T) {
	for _, test := range []struct {
		name, yaml string
		env        []string
		want       string // in the one problem
	}{
		{"unknown key", "slack: {bot_tokn: xoxb-1}", nil, "slack.bot_tokn: unknown key, did you mean slack.bot_token? (waggle.yaml line 1)"},
		{"unknown key near no other", "frobnicate: {volume: 11}", nil, "frobnicate.volume: unknown key, all are listed in docs/settings.md"},
		{"unknown key of a known section", "ssh: {nonsense: 1}", nil, "ssh.nonsense: unknown key, there are ssh.user, ssh.port, ssh.key_file, ssh.passphrase ("},
		{"unknown dotted key", "ssh.prt: 1", nil, "did you mean ssh.port?"},
		{"unknown section", "\n\nslak:\n  channel: x", nil, "slak.channel: unknown key, did you mean slack.channel? (waggle.yaml line 4)"},
		{"unknown empty section", "slak:", nil, "slak: unknown key"},
		{"part of a signing token", "webhooks: {gitlab: {secret: [plain, whsec_Y2FuYXJ5, whsec_cut]}}", nil, "webhooks.gitlab.secret: begins with whsec_"},
		{"unknown provider", "webhooks: {githb: {secret: x}}", nil, "did you mean webhooks.github.secret?"},
		{"section with a value", "build: 3", nil, "build: is a section, write its keys under it"},
		{"key with keys", "listen: {host: x}", nil, "listen.host: unknown key"},
		{"twice", "listen: :1\nlisten: :2", nil, "listen: is set twice, on lines 1 and 2 of waggle.yaml: keep one"},
		{"twice, dotted", "ssh: {port: 1}\nssh.port: 2", nil, "ssh.port: is set twice"},
		{"a comment for a value", "slack:\n  channel: #ops", nil, `slack.channel: has no value, only the comment "#ops": if that is the value, put it in quotes`},
		{"not YAML", "slack: {", nil, "waggle.yaml: is not YAML: line"},
		{"not a mapping", "- listen", nil, "waggle.yaml: must be a list of keys and values"},
		{"alias", "listen: &a :1\nslack: {channel: *a}", nil, "line 2: anchors and aliases are not understood"},
		{"merge", "x: &a {port: 2}\nssh:\n  <<: *a", nil, "only plain keys"},
		{"unknown variable", "", []string{"WAGGLE_SLACK_BOTTOKEN=x"}, "WAGGLE_SLACK_BOTTOKEN: unknown variable, did you mean WAGGLE_SLACK_BOT_TOKEN?"},
		{"file variable of what is no secret", "", []string{"WAGGLE_LISTEN_FILE=x"}, "WAGGLE_LISTEN_FILE: unknown variable, did you mean WAGGLE_LISTEN?"},
		{"both variables", "", []string{"WAGGLE_SECRET_KEY=x", "WAGGLE_SECRET_KEY_FILE=y"}, "secret_key: WAGGLE_SECRET_KEY and WAGGLE_SECRET_KEY_FILE are both set: keep one"},
		{"secret file missing", "", []string{"WAGGLE_SECRET_KEY_FILE=/nope"}, `secret_key: "/nope" cannot be read: file does not exist (WAGGLE_SECRET_KEY_FILE)`},

		{"listen", "listen: 8080", nil, `listen: "8080" is not host:port, write one like 127.0.0.1:8080 or :8080`},
		{"listen port", "listen: ':99999'", nil, "has a wrong port"},
		{"listen host", "listen: 'http://x:80'", nil, "is not host:port"},
		{"api url", "slack: {api_url: slack.com/api}", nil, "slack.api_url: "},
		{"api url with password", "slack: {api_url: 'https://u:p@x/'}", nil, "slack.api_url: the value is not"},
		{"channel", "slack: {channel: ops}", nil, `slack.channel: "ops" is not a channel`},
		{"audit channel", "slack: {audit_channel: '#a b'}", nil, "slack.audit_channel: "},
		{"redis", "redis: {url: 'redis:6379'}", nil, "redis.url: must begin with redis://"},
		{"docker scheme", "docker: {host: 'npipe:////./pipe/x'}", nil, "docker.host: "},
		{"docker socket", "docker: {host: 'unix://docker.sock'}", nil, "has no absolute path"},
		{"docker tcp", "docker: {host: 'tcp://10.0.0.1'}", nil, "is not host:port"},
		{"docker ssh path", "docker: {host: 'ssh://root@manager/run/docker.sock'}", nil, "must be only a user, host and port"},
		{"docker ssh port", "docker: {host: 'ssh://root@manager:70000'}", nil, "has a wrong port"},
		{"docker from DOCKER_HOST", "", []string{"DOCKER_HOST=10.0.0.1"}, "(DOCKER_HOST)"},
		{"secret key", "secret_key: dG9vIHNob3J0", nil, "secret_key: must be 32 bytes in base64: make one with openssl rand -base64 32 (waggle.yaml line 1)"},
		{"advertise address", "swarm: {advertise_addr: '10.0.0.1:2377'}", nil, "without a port"},
		{"network", "swarm: {network: 'a b'}", nil, "swarm.network: "},
		{"ssh user", "ssh: {user: 'a b'}", nil, "ssh.user: "},
		{"ssh passphrase alone", "ssh: {passphrase: x}", nil, "ssh.passphrase: is of no use without ssh.key_file"},
		{"ssh port", "ssh: {port: 0}", nil, "ssh.port: 0 is not a port"},
		{"int", "build: {concurrency: 2.0}", nil, `build.concurrency: "2.0" is not a whole number`},
		{"int with list", "build: {concurrency: [2]}", nil, "build.concurrency: must be one value, not a list"},
		{"concurrency", "build: {concurrency: 65}", nil, "build.concurrency: 65 is out of range, write 1 to 64"},
		{"duration", "", []string{"WAGGLE_BUILD_TIMEOUT=20"}, `build.timeout: "20" is not a duration, write one like 90s, 20m or 1h30m (WAGGLE_BUILD_TIMEOUT)`},
		{"approvals too long", "approvals: {ttl: 168h}", nil, "approvals.ttl: 168h0m0s is too long: what waits is kept in Redis for 7 days, write at most 167h (waggle.yaml line 1)"},
		{"duration zero", "approvals: {ttl: 0s}", nil, "approvals.ttl: must be longer than nothing"},
		{"bool", "approvals: {self: yes}", nil, `approvals.self: "yes" is neither true nor false`},
		{"scale above", "approvals: {scale_above: -1}", nil, "approvals.scale_above: "},
		{"role", "roles: {admins: [ann]}", nil, `roles.admins: "ann" is not a Slack id`},
		{"role of mappings", "roles: {admins: [{id: U0AAA}]}", nil, "roles.admins: must be a list of plain values"},
		{"webhook of mappings", "webhooks: {github: {secret: [{a: b}]}}", nil, "must be one secret or a list of secrets"},
		{"registry image", "registry: {image: 'Registry'}", nil, "registry.image: \"Registry\" is not an image"},
		{"registry of the settings", "registry: {domain: r.example.com}", nil, "registry.domain: is no setting any more: set secret_key, and add the registry with `/registry add`"},
		{"registry of the environment", "", []string{"WAGGLE_REGISTRY_PASSWORD=x"}, "WAGGLE_REGISTRY_PASSWORD: is no setting any more"},
		{"registry in a file", "", []string{"WAGGLE_REGISTRY_PASSWORD_FILE=/x"}, "WAGGLE_REGISTRY_PASSWORD_FILE: is no setting any more"},
		{"log level", "log: {level: loud}", nil, "log.level: "},
		{"log format", "log: {format: xml}", nil, "log.format: "},
		{"credential without host", "git: {credentials: [{token: x}]}", nil, "git.credentials[0].host: is required"},
		{"credential host", "git: {credentials: [{host: 'https://github.com', token: x}]}", nil, "without https:// (waggle.yaml line 1)"},
		{"credential without token", "git: {credentials: [{host: github.com}]}", nil, "git.credentials[0].token: or ssh_key_file is required"},
		{"credential with both", "git: {credentials: [{host: github.com, token: x, ssh_key_file: y}]}", nil, "are both set"},
		{"credential twice", "git: {credentials: [{host: g.com, token: x},{host: G.com, token: y}]}", nil, "git.credentials[1].host: is the same as in git.credentials[0]"},
		{"credential's unknown key", "git: {credentials: [{host: g.com, token: x, usrname: y}]}", nil, "git.credentials[0].usrname: unknown key, did you mean git.credentials[0].username?"},
		{"no size of a checkout", "git: {max_size: 0}", nil, "git.max_size: 0 is out of range"},
		{"credentials not a list", "", []string{"WAGGLE_GIT_CREDENTIALS=github.com"}, "git.credentials: must be a list"},
		{"credentials not YAML", "", []string{"WAGGLE_GIT_CREDENTIALS=[{"}, "git.credentials: is not YAML"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := load(test.yaml, append(test.env, required...), nil)
			var problems *config.Problems
			if !errors.As(err, &problems) {
				t.Fatalf("error %v, want problems", err)
			}
			if len(problems.List) != 1 || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got\n%v\nwant one with %s", err, test.want)
			}
		})
	}
}

func TestSlackTokens(t *testing.T) {
	for _, test := range []struct {
		name string
		env  []string
		want string // "" for no problem
	}{
		{"nothing", nil, "slack.bot_token: is required"},
		{"neither mode", []string{"WAGGLE_SLACK_BOT_TOKEN=xoxb-1"}, "slack.app_token: or slack.signing_secret is required"},
		{"HTTP", []string{"WAGGLE_SLACK_BOT_TOKEN=xoxb-1", "WAGGLE_SLACK_SIGNING_SECRET=abc"}, ""},
		{"both modes", []string{"WAGGLE_SLACK_BOT_TOKEN=xoxb-1", "WAGGLE_SLACK_APP_TOKEN=xapp-1", "WAGGLE_SLACK_SIGNING_SECRET=abc"}, ""},
		{"rotated bot token", []string{"WAGGLE_SLACK_BOT_TOKEN=xoxe.xoxb-1", "WAGGLE_SLACK_SIGNING_SECRET=abc"}, ""},
		{"swapped", []string{"WAGGLE_SLACK_BOT_TOKEN=xapp-1", "WAGGLE_SLACK_APP_TOKEN=xapp-1"}, "slack.bot_token: is an app token: it needs the bot token"},
		{"swapped app token", []string{"WAGGLE_SLACK_BOT_TOKEN=xoxb-1", "WAGGLE_SLACK_APP_TOKEN=xoxb-1"}, "slack.app_token: is a bot token"},
		{"token as signing secret", []string{"WAGGLE_SLACK_BOT_TOKEN=xoxb-1", "WAGGLE_SLACK_SIGNING_SECRET=xapp-1"}, "slack.signing_secret: is a token"},
		{"broken line", []string{"WAGGLE_SLACK_BOT_TOKEN=xoxb-1\n2", "WAGGLE_SLACK_SIGNING_SECRET=abc"}, "slack.bot_token: contains a space, line break"},
		{"unreadable secret is not a missing one", []string{"WAGGLE_SLACK_BOT_TOKEN=xoxb-1", "WAGGLE_SLACK_SIGNING_SECRET_FILE=/nope"}, "slack.signing_secret: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := load("", test.env, nil)
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if test.name != "nothing" && strings.Count(err.Error(), "\n") > 0 {
				t.Errorf("more than one problem:\n%v", err)
			}
		})
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	_, err := load("listn: x\nbuild: {concurrency: 0, timeout: soon}", []string{"WAGGLE_FOO=1", "WAGGLE_SSH_PORT=x"}, nil)
	var got []string
	for line := range strings.Lines(err.Error()) {
		key, _, _ := strings.Cut(line, ":")
		got = append(got, key)
	}
	want := []string{"listn", "WAGGLE_FOO", "ssh.port", "build.timeout", "slack.bot_token", "slack.app_token", "build.concurrency"}
	if !slices.Equal(got, want) {
		t.Errorf("problems with %v, want %v\n%v", got, want, err)
	}
}

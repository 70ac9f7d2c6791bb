package config

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"

	"waggle/internal/secret"
)

// maxApprovalTTL is shorter than records live in Redis (queue.Retention), by an hour in
// which the expiry is told.
const maxApprovalTTL = 7*24*time.Hour - time.Hour

var (
	hostName    = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$`)
	networkName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
	userName    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
	channel     = regexp.MustCompile(`^([CG][A-Z0-9]{2,}|#[^\s#@,<>]{1,80})$`)
	roleID      = regexp.MustCompile(`^[UWS][A-Z0-9]{2,}$`)
)

// check looks at every value and brings some to their normal form. A key that is
// bad already was left empty, so nothing that follows from that is said.
func check(s *Settings, add adder, bad map[string]bool) {
	if problem := hostPort(s.Listen, true); problem != "" {
		add("listen", "%s %s, write one like 127.0.0.1:8080 or :8080", show(s.Listen), problem)
	}
	checkSlack(&s.Slack, add, bad)
	if _, err := s.Redis.Options(); err != nil {
		add("redis.url", "%s", err)
	}
	if problem := dockerHost(s.Docker.Host); problem != "" {
		add("docker.host", "%s %s, write unix:///var/run/docker.sock, tcp://host:2376 or ssh://user@host", show(s.Docker.Host), problem)
	}
	if _, err := s.SealKey(); err != nil {
		add("secret_key", "%s", err)
	}
	if a := s.Swarm.AdvertiseAddr; a != "" && net.ParseIP(a) == nil && !hostName.MatchString(a) {
		add("swarm.advertise_addr", "%s is not an address, write one like 10.0.0.11, without a port", show(a))
	}
	if !networkName.MatchString(s.Swarm.Network) {
		add("swarm.network", "%s is not a network name: letters, digits, - _ and .", show(s.Swarm.Network))
	}
	if !userName.MatchString(s.SSH.User) {
		add("ssh.user", "%s is not a user name", show(s.SSH.User))
	}
	if s.SSH.Port < 1 || s.SSH.Port > 65535 {
		add("ssh.port", "%d is not a port, write one from 1 to 65535", s.SSH.Port)
	}
	if s.SSH.KeyFile == "" && !s.SSH.Passphrase.Empty() {
		add("ssh.passphrase", "is of no use without ssh.key_file: set that too")
	}
	for _, t := range s.Webhooks.GitLab.Secret {
		key, signs := strings.CutPrefix(t.Reveal(), "whsec_")
		if _, err := base64.StdEncoding.DecodeString(key); signs && (err != nil || key == "") {
			add("webhooks.gitlab.secret", "begins with whsec_ as a signing token does, and is not a whole one: copy it again")
		}
	}
	checkCredentials(s.Git.Credentials, add)
	if s.Git.MaxSize < 1 || s.Git.MaxSize > 1<<20 {
		add("git.max_size", "%d is out of range, write 1 to 1048576", s.Git.MaxSize)
	}
	if s.Build.Concurrency < 1 || s.Build.Concurrency > 64 {
		add("build.concurrency", "%d is out of range, write 1 to 64", s.Build.Concurrency)
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{
		{"build.timeout", s.Build.Timeout}, {"deploy.timeout", s.Deploy.Timeout},
		{"join.timeout", s.Join.Timeout}, {"approvals.ttl", s.Approvals.TTL},
	} {
		if d.value <= 0 {
			add(d.key, "must be longer than nothing, write one like 20m")
		}
	}
	if s.Approvals.TTL > maxApprovalTTL {
		add("approvals.ttl", "%s is too long: what waits is kept in Redis for 7 days, write at most %dh", s.Approvals.TTL, maxApprovalTTL/time.Hour)
	}
	if s.Approvals.ScaleAbove < 0 {
		add("approvals.scale_above", "%d is less than 0", s.Approvals.ScaleAbove)
	}
	for _, r := range []struct {
		key string
		ids []string
	}{{"roles.admins", s.Roles.Admins}, {"roles.operators", s.Roles.Operators}, {"roles.viewers", s.Roles.Viewers}} {
		for _, id := range r.ids {
			if !roleID.MatchString(id) {
				add(r.key, "%s is not a Slack id, write a user's (U024BE7LH, from the profile's \"Copy member ID\") or a user group's (S0604QSJC)", show(id))
			}
		}
	}
	if _, err := reference.ParseNormalizedNamed(s.Registry.Image); err != nil {
		add("registry.image", "%s is not an image, write one like registry:2.8.3", show(s.Registry.Image))
	}
	switch s.Log.Level {
	case "debug", "info", "warn", "error":
	default:
		add("log.level", "%s is not a level, write debug, info, warn or error", show(s.Log.Level))
	}
	switch s.Log.Format {
	case "text", "json":
	default:
		add("log.format", "%s is not a format, write text or json", show(s.Log.Format))
	}
}

func checkSlack(s *Slack, add adder, bad map[string]bool) {
	switch {
	case s.BotToken.Empty():
		add("slack.bot_token", "is required: the app's page at api.slack.com/apps shows it under OAuth & Permissions (xoxb-…)")
	case oneLine("slack.bot_token", s.BotToken, add):
		token(s.BotToken, "slack.bot_token", "xoxb-", "the bot token, under OAuth & Permissions", add, "xoxb-", "xoxe.xoxb-")
	}
	switch {
	case s.AppToken.Empty() && s.SigningSecret.Empty():
		if bad["slack.signing_secret"] {
			break
		}
		add("slack.app_token", "or slack.signing_secret is required: an app token (xapp-…, under Basic Information) for Socket Mode, the signing secret for HTTP")
	case !s.AppToken.Empty() && oneLine("slack.app_token", s.AppToken, add):
		token(s.AppToken, "slack.app_token", "xapp-", "an app-level token, under Basic Information", add, "xapp-")
	}
	if !s.SigningSecret.Empty() && oneLine("slack.signing_secret", s.SigningSecret, add) {
		if strings.HasPrefix(s.SigningSecret.Reveal(), "xox") || strings.HasPrefix(s.SigningSecret.Reveal(), "xapp-") {
			add("slack.signing_secret", "is a token: the signing secret is under Basic Information, App Credentials")
		}
	}
	if u, err := url.Parse(s.APIURL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" ||
		u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		add("slack.api_url", "%s is not an http or https URL like https://slack.com/api/", show(s.APIURL))
	}
	s.APIURL = strings.TrimRight(s.APIURL, "/") + "/"
	for _, c := range []struct{ key, value string }{{"slack.channel", s.Channel}, {"slack.audit_channel", s.AuditChannel}} {
		if c.value != "" && !channel.MatchString(c.value) {
			add(c.key, "%s is not a channel, write its id (C024BE91L) or its name with # in quotes (\"#ops\")", show(c.value))
		}
	}
}

// token checks the prefix of a Slack token, and says which token is there instead.
func token(t secret.Text, key, prefix, where string, add adder, prefixes ...string) {
	for _, p := range prefixes {
		if strings.HasPrefix(t.Reveal(), p) && len(t.Reveal()) > len(p) {
			return
		}
	}
	is := "does not begin with " + prefix
	for p, kind := range map[string]string{"xoxb-": "a bot token", "xapp-": "an app token", "xoxp-": "a user token"} {
		if strings.HasPrefix(t.Reveal(), p) && p != prefix {
			is = "is " + kind
		}
	}
	add(key, "%s: it needs %s (%s…)", is, where, prefix)
}

// oneLine checks that a secret is one word of visible characters, as all tokens
// are.
func oneLine(key string, t secret.Text, add adder) bool {
	for _, r := range t.Reveal() {
		if r <= ' ' || r == 0x7f {
			add(key, "contains a space, line break or control character: copy it again")
			return false
		}
	}
	return true
}

// hostPort says what is wrong with a host:port, "" when nothing is.
func hostPort(value string, anyHost bool) string {
	host, port, err := net.SplitHostPort(value)
	if err != nil {
		return "is not host:port"
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 || n == 0 && !anyHost {
		return "has a wrong port"
	}
	if host == "" && anyHost || net.ParseIP(host) != nil || hostName.MatchString(host) {
		return ""
	}
	return "has a wrong host"
}

func dockerHost(value string) string {
	u, err := url.Parse(value)
	switch {
	case err != nil:
		return "is not a URL"
	case u.Scheme == "unix":
		if u.Host != "" || !strings.HasPrefix(u.Path, "/") || u.Path == "/" {
			return "has no absolute path to a socket"
		}
	case u.Scheme == "tcp":
		if u.User != nil || u.Path != "" && u.Path != "/" {
			return "must be only a host and port"
		}
		return hostPort(u.Host, false)
	case u.Scheme == "ssh":
		if _, withPassword := u.User.Password(); withPassword {
			return "has a password in it"
		}
		if u.Hostname() == "" {
			return "has no host"
		}
		if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
			return "must be only a user, host and port"
		}
		if u.Port() != "" {
			return hostPort(u.Host, false)
		}
	default:
		return "does not begin with unix://, tcp:// or ssh://"
	}
	return ""
}

func checkCredentials(list []GitCredential, add adder) {
	seen := map[string]int{}
	for i, c := range list {
		key := func(name string) string { return fmt.Sprintf("git.credentials[%d].%s", i, name) }
		host := strings.ToLower(c.Host)
		list[i].Host = host
		switch {
		case host == "":
			add(key("host"), "is required, write one like github.com")
		case !hostName.MatchString(host) && hostPort(host, false) != "":
			add(key("host"), "%s is not a host, write one like github.com or git.example.com:3000, without https://", show(c.Host))
		}
		kind := "ssh"
		switch {
		case c.Token.Empty() && c.SSHKeyFile == "":
			add(key("token"), "or ssh_key_file is required")
		case !c.Token.Empty() && c.SSHKeyFile != "":
			add(key("token"), "and ssh_key_file are both set: write an entry for each")
		case !c.Token.Empty():
			kind = "token"
			oneLine(key("token"), c.Token, add)
		}
		id := kind + " " + host
		if before, twice := seen[id]; twice && host != "" {
			add(key("host"), "is the same as in git.credentials[%d]: keep one", before)
		} else {
			seen[id] = i
		}
	}
}

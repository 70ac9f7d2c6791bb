package source

import (
	"cmp"
	"encoding/base64"
	"net/url"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"waggle/ops"
)

// remote is a repository's address and how to log in to it.
type remote struct {
	url   string
	name  string // the address as messages show it
	host  string
	ssh   bool
	creds *Credential // nil when there are none for the host
	known string      // file of known hosts, "" for ssh's own

	scheme string // of a URL
}

// scpLike is ssh's short form: git@host:owner/repo.git
var scpLike = regexp.MustCompile(`^(?:([A-Za-z0-9_][A-Za-z0-9_.-]*)@)?([A-Za-z0-9][A-Za-z0-9.-]*):([^:].*)$`)

// remote checks the address and finds the credentials for its host. No error
// repeats an address that may carry a password.
func (g *Git) remote(address string) (*remote, error) {
	for _, r := range address {
		if r <= ' ' || r == 0x7f {
			return nil, ops.Errorf(ops.Invalid, "The repository's address has a space or control character in it")
		}
	}
	r := &remote{url: address, name: address, known: g.KnownHosts}
	if !strings.Contains(address, "://") {
		m := scpLike.FindStringSubmatch(address)
		if m == nil || strings.HasPrefix(m[3], "-") || strings.Contains(address, "::") {
			return nil, notAnAddress()
		}
		r.host, r.ssh = m[2], true
	} else {
		u, err := url.Parse(address)
		if err != nil {
			return nil, notAnAddress()
		}
		_, password := u.User.Password()
		switch u.Scheme {
		case "https", "http", "git":
			password = u.User != nil
		case "ssh":
			r.ssh = true
		case "file":
			if u.Host != "" || u.Path == "" {
				return nil, notAnAddress()
			}
		default:
			return nil, notAnAddress()
		}
		if password {
			return nil, ops.Errorf(ops.Invalid, "The repository's address carries a password or token").
				Then("Take it out of the address and put it into git.credentials")
		}
		if u.Scheme != "file" && (u.Host == "" || strings.HasPrefix(u.Host, "-")) || strings.HasPrefix(u.Path, "/-") || u.Fragment != "" {
			return nil, notAnAddress()
		}
		if strings.HasPrefix(u.User.Username(), "-") {
			return nil, notAnAddress()
		}
		r.scheme, r.host = u.Scheme, u.Host
		shown := *u
		shown.RawQuery = ""
		r.name = shown.String()
	}
	for i := range g.Credentials {
		if sameHost(g.Credentials[i].Host, r.host) && (g.Credentials[i].KeyFile != "") == r.ssh {
			r.creds = &g.Credentials[i]
			break
		}
	}
	return r, nil
}

func notAnAddress() error {
	return ops.Errorf(ops.Invalid, "The repository's address is not one that can be fetched from").
		Then("Use https://host/owner/name.git or git@host:owner/name.git")
}

func sameHost(a, b string) bool { return a != "" && strings.EqualFold(a, b) }

// protocols are what git may speak to get at the remote.
func (r *remote) protocols() string {
	switch {
	case r.ssh:
		return "ssh"
	case r.scheme == "http" || r.scheme == "https":
		return "https:http"
	}
	return r.scheme
}

// config is the Git configuration that a run gets by its environment, where
// other processes' users can't read it.
func (r *remote) config() []string {
	config := []string{
		"core.hooksPath", "/dev/null",
		"core.fsmonitor", "false",
		"gc.auto", "0",
		"maintenance.auto", "false",
		"advice.detachedHead", "false",
		"fetch.recurseSubmodules", "false",
		"log.showSignature", "false",
		"http.lowSpeedLimit", "1000", // bytes a second,
		"http.lowSpeedTime", "30", // for that many seconds: the server hangs
	}
	config = append(config, r.lfs()...)
	if token := r.basic(); token != "" {
		config = append(config,
			"http."+r.scheme+"://"+r.host+"/.extraHeader", "Authorization: Basic "+token,
			// Git would send the header to wherever the server redirects.
			"http.followRedirects", "false")
	}
	return config
}

// lfs is the configuration for files in Git LFS, which git has its own program for. The
// address is fixed: a .lfsconfig in the repository could name any server. Without the
// program a checkout of such files fails, for the few lines that stand for a large file
// would make a wrong image.
// Source: https://github.com/git-lfs/git-lfs/blob/main/docs/api/server-discovery.md
func (r *remote) lfs() []string {
	if _, err := exec.LookPath("git-lfs"); err != nil {
		return []string{"filter.lfs.smudge", "false", "filter.lfs.required", "true"}
	}
	url := r.url
	if r.scheme == "http" || r.scheme == "https" {
		at, query, _ := strings.Cut(strings.TrimSuffix(url, "/"), "?")
		if url = strings.TrimSuffix(at, ".git") + ".git/info/lfs"; query != "" {
			url += "?" + query
		}
	}
	return []string{
		"filter.lfs.process", "git-lfs filter-process",
		"filter.lfs.smudge", "git-lfs smudge -- %f",
		"filter.lfs.required", "true",
		"lfs.url", url,
		"lfs.skipDownloadErrors", "false",
	}
}

// basic is the value of the Authorization header, "" without a token.
func (r *remote) basic() string {
	if r.creds == nil || r.ssh || r.creds.Token.Empty() || r.scheme != "https" && r.scheme != "http" {
		return ""
	}
	user := r.creds.Username
	if user == "" {
		user = "git"
	}
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + r.creds.Token.Reveal()))
}

// scrub removes the credentials from a text.
func (r *remote) scrub(s string) string {
	if b := r.basic(); b != "" {
		s = strings.ReplaceAll(s, b, r.creds.Token.String())
		s = strings.ReplaceAll(s, r.creds.Token.Reveal(), r.creds.Token.String())
	}
	return s
}

// sshCommand is the ssh that Git uses: no agent, no configuration, no
// questions, and no server whose key is not known. key is the file of the deploy key,
// "" without one.
func (r *remote) sshCommand(key string) string {
	args := []string{"ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
		"-o", "IdentityAgent=none", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=15",
		"-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"}
	if r.known != "" {
		args = append(args, "-o", "UserKnownHostsFile="+strconv.Quote(r.known), "-o", "GlobalKnownHostsFile=/dev/null")
	}
	args = append(args, "-i", cmp.Or(key, "/dev/null"))
	for i := range args {
		args[i] = "'" + strings.ReplaceAll(args[i], "'", `'\''`) + "'"
	}
	return strings.Join(args, " ")
}

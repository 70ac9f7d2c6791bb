package ops

import (
	"net/url"
	"regexp"
	"strings"
)

// scp is git's short form of an SSH URL: git@host:owner/name.git.
var scp = regexp.MustCompile(`^(?:[^@/:]+@)?([^/:\[\]]+):([^/].*|/.+)$`)

// SameRepo says whether two clone URLs mean the same repository: scheme, user,
// default port, case, a trailing slash and ".git" make no difference.
func SameRepo(a, b string) bool {
	x, y := normalRepo(a), normalRepo(b)
	return x != "" && x == y
}

func normalRepo(raw string) string {
	raw = strings.TrimSpace(raw)
	host, path := "", raw
	if u, err := url.Parse(raw); err == nil && u.Scheme != "" && (u.Host != "" || u.Scheme == "file") {
		host, path = u.Host, u.Path
		if p := u.Port(); p == "" || p == map[string]string{"https": "443", "http": "80", "ssh": "22", "git": "9418"}[u.Scheme] {
			host = u.Hostname()
		}
	} else if m := scp.FindStringSubmatch(raw); m != nil {
		host, path = m[1], m[2]
		if p, err := url.PathUnescape(path); err == nil {
			path = p // as it is in a URL; Azure DevOps has spaces in paths
		}
	}
	path = strings.TrimSuffix(strings.Trim(path, "/"), ".git")
	if path == "" {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(host, ".") + "/" + path)
}

// branchName is stricter than Git's own rule: what it lets through can mean
// nothing but a branch or tag.
var branchName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_./@#=,-]{0,199}$`)

// CheckBranch says why a name can be no branch's.
// Source: https://git-scm.com/docs/git-check-ref-format
func CheckBranch(name string) error {
	if !branchName.MatchString(name) || strings.Contains(name, "..") || strings.Contains(name, "//") || strings.HasSuffix(name, "/") ||
		strings.HasSuffix(name, ".lock") || strings.HasSuffix(name, ".") || strings.Contains(name, "@{") {
		return Errorf(Invalid, "%q is not a branch", name).Then("Give its name as Git has it, like main or release/1.2.")
	}
	return nil
}

// inClear warns of an address that is fetched from without TLS, "" for all others.
func inClear(address string) string {
	if !strings.HasPrefix(address, "http://") {
		return ""
	}
	return "what is fetched from http://, and the token for it if there is one, can be read on the way: use https:// where the server has it"
}

// CheckRepo says why an address is none that an app can be deployed from.
func CheckRepo(address string) error {
	next := "Give its clone URL: https://host/owner/name.git or git@host:owner/name.git."
	bad := func(why string) error {
		return Errorf(Invalid, "This is no repository's address: %s", why).Then("%s", next)
	}
	if len(address) > 500 {
		return bad("it is longer than 500 characters")
	}
	for _, r := range address {
		if r <= ' ' || r > '~' {
			return bad("it has a space or a letter in it that addresses do not have")
		}
	}
	if !strings.Contains(address, "://") {
		m := scp.FindStringSubmatch(address)
		if m == nil || strings.HasPrefix(m[1], "-") || strings.HasPrefix(address, "-") || strings.Contains(address, "::") || strings.Contains(address, ":-") {
			return bad("it has neither a scheme nor the form user@host:path")
		}
		return nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return bad("it cannot be read")
	}
	switch u.Scheme {
	case "https", "http", "ssh":
	default:
		return bad(u.Scheme + ":// cannot be cloned from")
	}
	if _, password := u.User.Password(); password || u.User != nil && u.Scheme != "ssh" {
		// The address itself is not repeated: it carries a secret.
		return Errorf(Invalid, "This address carries a user or a password, and everybody could read it").
			Then("Take it out and put the credentials into git.credentials of Waggle's settings.")
	}
	if u.Hostname() == "" || strings.HasPrefix(u.Host, "-") || strings.HasPrefix(u.User.Username(), "-") || strings.Trim(u.Path, "/") == "" || strings.HasPrefix(u.Path, "/-") ||
		u.RawQuery != "" || u.Fragment != "" {
		return bad("it needs a host and a path, and nothing after that")
	}
	return nil
}

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
	}
	path = strings.TrimSuffix(strings.Trim(path, "/"), ".git")
	if path == "" {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(host, ".") + "/" + path)
}

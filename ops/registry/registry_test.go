package registry

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/ops"
)

const canary = "canary \"pässwörd\" 🧀:%&+"

// stub is a registry that answers as a test wants it to.
type stub struct {
	t       *testing.T
	server  *httptest.Server
	domain  string // "registry.test:port": not loopback by its name
	handler http.HandlerFunc

	mu   sync.Mutex
	seen []string // "GET /v2/ mia", with the user if there is a login
}

func newStub(t *testing.T, tls bool, handler http.HandlerFunc) *stub {
	t.Helper()
	s := &stub{t: t, handler: handler}
	s.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, _, _ := r.BasicAuth()
		if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
			user = bearer
		}
		s.mu.Lock()
		s.seen = append(s.seen, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+user))
		s.mu.Unlock()
		s.handler(w, r)
	}))
	s.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if tls {
		s.server.StartTLS()
	} else {
		s.server.Start()
	}
	t.Cleanup(s.server.Close)
	_, port, _ := net.SplitHostPort(s.server.Listener.Addr().String())
	s.domain = "registry.test:" + port
	return s
}

func (s *stub) requests() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.seen, ", ")
}

// client finds registry.test and its like on this machine. What trust lists is
// insecure.
func client(t *testing.T, trust ops.RegistryTrust, change ...func(*Options)) *Client {
	t.Helper()
	o := Options{
		Trust: func(context.Context) (ops.RegistryTrust, error) { return trust, nil },
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			host, port, _ := net.SplitHostPort(addr)
			if strings.HasSuffix(host, ".test") {
				addr = net.JoinHostPort("127.0.0.1", port)
			}
			return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, addr)
		},
		Log: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&o)
	}
	c := New(o)
	t.Cleanup(c.Close)
	return c
}

func mia(domain, prefix string) ops.RegistryLogin {
	return ops.RegistryLogin{Domain: domain, Prefix: prefix, Auth: ops.RegistryAuth{Username: "mia", Password: canary}}
}

// basic is a registry that wants mia's login and takes uploads below "acme/".
func basic(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("Content-Type", "application/json")
	user, password, _ := r.BasicAuth()
	switch {
	case user == "" || password != canary:
		w.Header().Set("Www-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required, not `+strings.ReplaceAll(password, `"`, `\"`)+`"}]}`)
	case r.URL.Path == "/v2/":
		_, _ = io.WriteString(w, "{}")
	case r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/v2/acme/") && strings.HasSuffix(r.URL.Path, "/blobs/uploads/"):
		w.Header().Set("Location", r.URL.Path+"some-id?_state=x")
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/v2/none/"):
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"errors":[{"code":"NAME_UNKNOWN","message":"The repository does not exist"}]}`)
	case r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/v2/full/"):
		w.WriteHeader(http.StatusInsufficientStorage)
	case r.Method == http.MethodPost:
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"errors":[{"code":"DENIED","message":"requested access is denied to `+strings.ReplaceAll(password, `"`, `\"`)+`"}]}`)
	case r.Method == http.MethodDelete:
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// tokens is a registry whose tokens are given out by itself.
func tokens(s **stub) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); {
		case r.URL.Path == "/token" && user != "" && password != canary:
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"details":"incorrect username or password"}`)
		case r.URL.Path == "/token":
			scope := r.URL.Query().Get("scope")
			if user == "" || !strings.Contains(scope, "repository:acme/") {
				scope = "nothing"
			}
			fmt.Fprintf(w, `{"token":%q}`, strings.ReplaceAll(scope, " ", "+"))
		case bearer == "" || strings.Contains(r.URL.Path, "/blobs/") && !strings.Contains(bearer, "push"):
			w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test"`, "http://"+(*s).domain))
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodPost:
			w.Header().Set("Location", "/v2/upload/1")
			w.WriteHeader(http.StatusAccepted)
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		default:
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "{}")
		}
	}
}

func answers(status int, kind, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func reach(t ops.Trial) string {
	return fmt.Sprintf("%t %t %t", t.Reachable, t.LoggedIn, t.MayPush)
}

func TestTry(t *testing.T) {
	var s *stub
	for _, c := range []struct {
		name    string
		handler http.HandlerFunc
		login   func(domain string) ops.RegistryLogin
		push    bool
		reach   string // reachable, logged in, may push
		code    ops.Code
		says    string
		warns   string
		sent    string // to the registry
	}{
		{name: "good", handler: basic, push: true, reach: "true true true",
			sent: "GET /v2/, GET /v2/, GET /v2/ mia, POST /v2/acme/waggle-check/blobs/uploads/ mia, DELETE /v2/acme/waggle-check/blobs/uploads/some-id mia"},
		{name: "pull only", handler: basic, reach: "true true false"},
		{name: "wrong password", handler: basic, login: func(d string) ops.RegistryLogin {
			return ops.RegistryLogin{Domain: d, Auth: ops.RegistryAuth{Username: "mia", Password: "canary-wrong"}}
		}, push: true, reach: "true false false", code: ops.Failed, says: "does not take the user mia with this password"},
		{name: "no login", handler: basic, login: func(d string) ops.RegistryLogin { return ops.RegistryLogin{Domain: d} },
			reach: "true false false", code: ops.Failed, says: "wants a user and a password"},
		{name: "no right there", handler: basic, login: func(d string) ops.RegistryLogin { return mia(d, "other/team") }, push: true,
			reach: "true true false", code: ops.Failed, says: "mia may log in, but may not push to registry.test:PORT/other/team"},
		{name: "no right at all", handler: basic, login: func(d string) ops.RegistryLogin { return mia(d, "") }, push: true,
			reach: "true true false", code: ops.Failed, says: "may not push to registry.test:PORT"},
		{name: "makes no repositories", handler: basic, login: func(d string) ops.RegistryLogin { return mia(d, "none") }, push: true,
			reach: "true true true", warns: "has no none/waggle-check and makes none"},
		{name: "full", handler: basic, login: func(d string) ops.RegistryLogin { return mia(d, "full") }, push: true,
			reach: "true true false", code: ops.Unavailable, says: "failed: 507 Insufficient Storage"},
		{name: "lets everybody in", handler: answers(200, "application/json; charset=utf-8", "{}"), reach: "true true false", warns: "lets everybody in"},
		{name: "tokens", handler: tokens(&s), push: true, reach: "true true true"},
		{name: "tokens, wrong password", handler: tokens(&s), login: func(d string) ops.RegistryLogin {
			return ops.RegistryLogin{Domain: d, Prefix: "acme", Auth: ops.RegistryAuth{Username: "mia", Password: "canary-wrong"}}
		}, push: true, reach: "true false false", code: ops.Failed, says: "does not take the user mia with this password"},
		{name: "tokens, no right there", handler: tokens(&s), login: func(d string) ops.RegistryLogin { return mia(d, "other") }, push: true,
			reach: "true true false", code: ops.Failed, says: "mia may log in, but may not push to registry.test:PORT/other"},
		{name: "tokens for everybody", handler: tokens(&s), login: func(d string) ops.RegistryLogin { return ops.RegistryLogin{Domain: d} }, reach: "true true false"},
		{name: "tokens, push without a login", handler: tokens(&s), login: func(d string) ops.RegistryLogin { return ops.RegistryLogin{Domain: d} }, push: true,
			reach: "true false false", code: ops.Failed, says: "wants a user and a password"},
		{name: "a web site", handler: answers(200, "text/html", "<html>"), reach: "false false false", code: ops.Failed,
			says: "answers, but not as a registry does (200 OK, text/html at /v2/)", sent: "GET /v2/, GET /v2/"},
		{name: "a web server", handler: answers(404, "text/html", "404"), reach: "false false false", code: ops.Failed, says: "not as a registry does (404 Not Found"},
		{name: "a guarded web site", handler: func(w http.ResponseWriter, r *http.Request) {
			if _, _, ok := r.BasicAuth(); !ok {
				w.Header().Set("Www-Authenticate", "Basic")
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			answers(200, "text/html", "<html>")(w, r)
		}, reach: "true false false", code: ops.Failed, says: "not as a registry does"},
		{name: "unauthorized, without saying how", handler: answers(401, "", ""), reach: "false false false", code: ops.Failed, says: "not as a registry does (401"},
		{name: "overloaded", handler: answers(503, "", "busy"), reach: "false false false", code: ops.Unavailable, says: "failed: 503 Service Unavailable"},
		{name: "too many requests", handler: answers(429, "", ""), reach: "false false false", code: ops.Unavailable, says: "too many requests"},
		{name: "closes", handler: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, reach: "false false false", code: ops.Unavailable, says: "registry.test:PORT failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s = newStub(t, false, c.handler)
			login := mia(s.domain, "acme")
			if c.login != nil {
				login = c.login(s.domain)
			}
			got := client(t, ops.RegistryTrust{Hosts: []string{s.domain}}).Try(t.Context(), login, c.push)
			if reach(got) != c.reach || ops.CodeOf(got.Err) != c.code {
				t.Errorf("%s, %v; want %s %s", reach(got), got.Err, c.reach, c.code)
			}
			e := new(ops.Error)
			port := s.domain[strings.Index(s.domain, ":")+1:]
			if says := strings.ReplaceAll(c.says, "PORT", port); errors.As(got.Err, &e) && (!strings.Contains(e.Sentence, says) || e.Next == "") {
				t.Errorf("%q then %q, want %q", e.Sentence, e.Next, says)
			}
			warnings := strings.Join(got.Warnings, "\n")
			if (warnings == "") != (c.warns == "") || !strings.Contains(warnings, c.warns) {
				t.Errorf("warnings %q, want %q", warnings, c.warns)
			}
			if all := fmt.Sprint(got, got.Err, e.Next); strings.Contains(all, "canary") || strings.Contains(all, "pässwörd") {
				t.Errorf("the password is in %s", all)
			}
			// The question whether it speaks TLS is no request.
			if sent := s.requests(); c.sent != "" && sent != c.sent && "GET /v2/, "+sent != c.sent {
				t.Errorf("sent %s, want %s", sent, c.sent)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	hangs := newStub(t, false, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for name, c := range map[string]struct{ domain, says string }{
		"nothing listens": {closed, "cannot be reached: connect: connection refused"},
		"no such host":    {"no-such-host.invalid", "there is no host of that name"},
		"does not answer": {hangs.domain, "did not answer in time"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			got := client(t, ops.RegistryTrust{Hosts: []string{c.domain}}, func(o *Options) {
				if name == "no such host" {
					o.Dial = func(context.Context, string, string) (net.Conn, error) {
						return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "no-such-host.invalid", IsNotFound: true}}
					}
				}
			}).Try(ctx, mia(c.domain, ""), false)
			if reach(got) != "false false false" || ops.CodeOf(got.Err) != ops.Unavailable || !strings.Contains(got.Err.Error(), c.says) {
				t.Errorf("%s, %v; want %q", reach(got), got.Err, c.says)
			}
		})
	}
}

func TestCertificates(t *testing.T) {
	s := newStub(t, true, basic)
	plain := newStub(t, false, basic)
	ours := x509.NewCertPool()
	ours.AddCert(s.server.Certificate())
	example := strings.Replace(s.domain, "registry.test", "example.com", 1) // as the certificate says
	toStub := func(o *Options) {
		o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.server.Listener.Addr().String())
		}
	}
	for name, c := range map[string]struct {
		domain string
		trust  ops.RegistryTrust
		change func(*Options)
		says   string
	}{
		"unknown authority":        {domain: example, change: toStub, says: "The certificate of the registry " + example + " is not trusted"},
		"known authority":          {domain: example, change: func(o *Options) { toStub(o); o.RootCAs = ours }},
		"another name":             {domain: s.domain, change: func(o *Options) { o.RootCAs = ours }, says: "is not trusted"},
		"listed":                   {domain: s.domain, trust: ops.RegistryTrust{Hosts: []string{s.domain}}},
		"listed without the port":  {domain: s.domain, trust: ops.RegistryTrust{Hosts: []string{"registry.test"}}, says: "is not trusted"},
		"another port is listed":   {domain: s.domain, trust: ops.RegistryTrust{Hosts: []string{"registry.test:1"}}, says: "is not trusted"},
		"loopback":                 {domain: s.server.Listener.Addr().String()},
		"no TLS":                   {domain: plain.domain, says: "speaks HTTP without TLS"},
		"no TLS, without the port": {domain: plain.domain, trust: ops.RegistryTrust{Hosts: []string{"registry.test"}}, says: "speaks HTTP without TLS"},
		"no TLS, on loopback":      {domain: plain.server.Listener.Addr().String()},
		"no TLS, in a network":     {domain: plain.server.Listener.Addr().String(), trust: ops.RegistryTrust{Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}},
	} {
		t.Run(name, func(t *testing.T) {
			var change []func(*Options)
			if c.change != nil {
				change = append(change, c.change)
			}
			got := client(t, c.trust, change...).Try(t.Context(), mia(c.domain, "acme"), true)
			if c.says == "" && (got.Err != nil || !got.MayPush) {
				t.Errorf("%s, %v", reach(got), got.Err)
			}
			if e := new(ops.Error); c.says != "" && (!errors.As(got.Err, &e) || e.Code != ops.Failed || !strings.Contains(e.Sentence, c.says) || e.Next == "" || got.Reachable) {
				t.Errorf("%s, %v; want %q", reach(got), got.Err, c.says)
			}
		})
	}
	if sent := plain.requests(); strings.Count(sent, "POST") != 2 {
		t.Errorf("a registry without TLS that is not listed was sent %s", sent)
	}
}

// A registry must not have the password sent to another server, neither by a
// redirect nor by the place of an upload.
func TestPasswordStaysWithItsRegistry(t *testing.T) {
	thief := newStub(t, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Www-Authenticate", `Basic realm="give"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	thief.domain = strings.Replace(thief.domain, "registry", "thief", 1)
	for name, handler := range map[string]http.HandlerFunc{
		"redirects": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+thief.domain+r.URL.Path, http.StatusTemporaryRedirect)
		},
		"redirects who is logged in": func(w http.ResponseWriter, r *http.Request) {
			if _, _, ok := r.BasicAuth(); ok {
				http.Redirect(w, r, "http://"+thief.domain+r.URL.Path, http.StatusTemporaryRedirect)
				return
			}
			basic(w, r)
		},
		"uploads elsewhere": func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				w.Header().Set("Location", "http://"+thief.domain+"/upload")
				w.WriteHeader(http.StatusAccepted)
				return
			}
			basic(w, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStub(t, false, handler)
			c := client(t, ops.RegistryTrust{Hosts: []string{s.domain, thief.domain}})
			c.Try(t.Context(), mia(s.domain, "acme"), true)
			if sent := thief.requests(); strings.Contains(sent, "mia") {
				t.Errorf("the thief was sent %s", sent)
			}
		})
	}
}

// A registry behind a proxy that does not tell it of TLS has uploads go on without. No
// engine sends the login there.
func TestUploadWithoutTLS(t *testing.T) {
	for name, c := range map[string]struct {
		login ops.RegistryLogin
		reach string
		err   string
		warns string
	}{
		"with a login": {mia("registry.test", "acme"), "true true false", "registry.test speaks TLS, but has a push go on without it, at http://registry.test", ""},
		"open":         {ops.RegistryLogin{Domain: "registry.test", Prefix: "acme"}, "true true true", "", "in clear, if at all. Have the proxy before it set `X-Forwarded-Proto: https`"},
	} {
		t.Run(name, func(t *testing.T) {
			clear := newStub(t, false, basic)
			s := newStub(t, true, func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method == http.MethodPost:
					w.Header().Set("Location", "http://"+r.Host+r.URL.Path+"some-id")
					w.WriteHeader(http.StatusAccepted)
				case c.login.Auth.Username == "":
					answers(200, "application/json", "{}")(w, r)
				default:
					basic(w, r)
				}
			})
			got := client(t, ops.RegistryTrust{Hosts: []string{"registry.test"}}, func(o *Options) {
				o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					to := map[string]*stub{"registry.test:443": s, "registry.test:80": clear}[addr]
					return new(net.Dialer).DialContext(ctx, network, to.server.Listener.Addr().String())
				}
			}).Try(t.Context(), c.login, true)
			e := new(ops.Error)
			if errors.As(got.Err, &e); reach(got) != c.reach || !strings.Contains(e.Sentence, c.err) || (got.Err == nil) != (c.err == "") || got.Err != nil && e.Next == "" {
				t.Errorf("%s, %v; want %s %q", reach(got), got.Err, c.reach, c.err)
			}
			if warnings := strings.Join(got.Warnings, "\n"); !strings.Contains(warnings, c.warns) || (warnings == "") != (c.warns == "") {
				t.Errorf("warnings %q, want %q", warnings, c.warns)
			}
			if sent := clear.requests(); sent != "" {
				t.Errorf("in clear was sent %s", sent)
			}
		})
	}
}

// What a registry with an untrusted certificate says of its token service does
// not make that trusted.
func TestTokenServiceIsVerified(t *testing.T) {
	service := newStub(t, true, answers(200, "application/json", `{"token":"x"}`))
	s := newStub(t, true, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm="https://%s/token"`, strings.Replace(service.domain, "registry", "tokens", 1)))
		w.WriteHeader(http.StatusUnauthorized)
	})
	got := client(t, ops.RegistryTrust{Hosts: []string{s.domain}}).Try(t.Context(), mia(s.domain, ""), false)
	if got.LoggedIn || !strings.Contains(fmt.Sprint(got.Err), "not trusted") || service.requests() != "" {
		t.Errorf("%s, %v; the token service was sent %q", reach(got), got.Err, service.requests())
	}
}

// In a container loopback is not the engine's.
func TestLoopbackIsTheEngines(t *testing.T) {
	s := newStub(t, false, basic)
	_, port, _ := net.SplitHostPort(s.server.Listener.Addr().String())
	trust := ops.RegistryTrust{Addr: "10.1.2.3"}
	got := client(t, trust, func(o *Options) {
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr != "10.1.2.3:"+port {
				return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
			}
			return new(net.Dialer).DialContext(ctx, network, s.server.Listener.Addr().String())
		}
	}).Try(t.Context(), mia("127.0.0.1:"+port, "acme"), true)
	if !got.MayPush {
		t.Errorf("%s, %v", reach(got), got.Err)
	}
}

func TestImagesOfOthersAreRefused(t *testing.T) {
	s := newStub(t, false, basic)
	c := client(t, ops.RegistryTrust{Hosts: []string{s.domain}})
	login := mia(s.domain, "acme")
	for _, image := range []string{"nginx", "other.test/acme/app", s.domain + "/other/app", "no image"} {
		if _, err := c.Digest(t.Context(), login, image); err == nil || ops.CodeOf(err) != ops.Internal && ops.CodeOf(err) != ops.Invalid {
			t.Errorf("digest of %s: %v", image, err)
		}
		if err := c.Delete(t.Context(), login, image); err == nil {
			t.Errorf("%s was deleted", image)
		}
		if _, err := c.Copy(t.Context(), login, s.domain+"/acme/app:1", login, image, func(string) {}); err == nil {
			t.Errorf("copied as %s", image)
		}
	}
	if err := c.Delete(t.Context(), login, s.domain+"/acme/app:1"); err == nil || !strings.Contains(err.Error(), "has no digest") {
		t.Errorf("deleting a tag: %v", err)
	}
	if sent := s.requests(); sent != "" {
		t.Errorf("the registry was sent %s", sent)
	}
}

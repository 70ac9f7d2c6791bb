package webhooks

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"waggle/internal/secret"
	"waggle/ops"
)

var update = flag.Bool("update", false, "write the golden files anew")

// signKey and oldSignKey are GitLab signing tokens.
var (
	signKey    = "whsec_" + base64.StdEncoding.EncodeToString([]byte("canary-signing-key-of-32-bytes!!"))
	oldSignKey = "whsec_" + base64.StdEncoding.EncodeToString([]byte("canary-signing-key-that-is-older"))
)

// sender is how one forge sends.
type sender struct {
	provider string
	push     string // a fixture
	event    string // header of the event, "" when it is in the body
	pushes   string // its value for a push
	others   []string
	form     bool
	// keys are the current secret, the one before and one that is not known.
	keys [3]string
	sign func(h http.Header, key string, body []byte)
}

func hexHMAC(key string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// standard signs as Standard Webhooks has it.
func standard(h http.Header, key string, body []byte, at time.Time) {
	raw, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(key, "whsec_"))
	stamp := fmt.Sprint(at.Unix())
	mac := hmac.New(sha256.New, raw)
	fmt.Fprintf(mac, "msg_1.%s.%s", stamp, body)
	h.Set("webhook-id", "msg_1")
	h.Set("webhook-timestamp", stamp)
	h.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

func in(header, prefix string) func(http.Header, string, []byte) {
	return func(h http.Header, key string, body []byte) { h.Set(header, prefix+hexHMAC(key, body)) }
}

var plainKeys = [3]string{key, oldKey, "canary-hook-unknown"}

// now is the time of all tests here.
var now = time.Date(2024, 6, 1, 12, 0, 0, 0, time.UTC)

var senders = []sender{
	{"github", "github-push.json", "X-GitHub-Event", "push", []string{"issues", "create", "delete"}, true, plainKeys, in("X-Hub-Signature-256", "sha256=")},
	{"gitlab", "gitlab-push.json", "X-Gitlab-Event", "Push Hook", []string{"Note Hook", "Tag Push Hook"}, false, plainKeys,
		func(h http.Header, key string, _ []byte) { h.Set("X-Gitlab-Token", key) }},
	{"gitlab", "gitlab-push.json", "X-Gitlab-Event", "Push Hook", []string{"Note Hook"}, false,
		[3]string{signKey, oldSignKey, "whsec_" + base64.StdEncoding.EncodeToString([]byte("unknown"))},
		func(h http.Header, key string, body []byte) { standard(h, key, body, now) }},
	{"bitbucket", "bitbucket-push.json", "X-Event-Key", "repo:push", []string{"repo:fork", "pullrequest:created"}, false, plainKeys, in("X-Hub-Signature", "sha256=")},
	{"bitbucket-server", "bitbucket-server-push.json", "X-Event-Key", "repo:refs_changed", []string{"pr:opened", "diagnostics:ping"}, false, plainKeys, in("X-Hub-Signature", "sha256=")},
	{"gitea", "gitea-push.json", "X-Gitea-Event", "push", []string{"create", "delete"}, true, plainKeys, in("X-Gitea-Signature", "")},
	{"gitea", "gitea-push-forgejo.json", "X-Forgejo-Event", "push", []string{"create", "release"}, true, plainKeys, in("X-Forgejo-Signature", "")},
	{"gogs", "gogs-push.json", "X-Gogs-Event", "push", []string{"create", "delete"}, true, plainKeys, in("X-Gogs-Signature", "")},
	{"azure", "azure-push.json", "", "", nil, false, plainKeys, func(h http.Header, key string, _ []byte) {
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("waggle:"+key)))
	}},
}

func (s sender) name() string { return s.provider + " " + s.keys[0] + " " + s.event }

// request is a delivery of body by that event, signed with key unless that is "".
func (s sender) request(body []byte, event, key string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/webhooks/"+s.provider, bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	if s.event != "" {
		r.Header.Set(s.event, event)
	}
	if key != "" {
		s.sign(r.Header, key, body)
	}
	return r
}

// allForges is a handler with secrets for all forges.
func allForges(d Deployer) http.Handler {
	secrets := map[string][]secret.Text{}
	for provider := range forges() {
		secrets[provider] = []secret.Text{key, oldKey}
	}
	secrets["gitlab"] = append(secrets["gitlab"], secret.Text(signKey), secret.Text(oldSignKey), "whsec_no base64")
	return New(Options{Secrets: secrets, Deploys: d, MaxBody: 200_000, now: func() time.Time { return now }})
}

func TestEveryForge(t *testing.T) {
	providers := map[string]bool{}
	for _, s := range senders {
		providers[s.provider] = true
		t.Run(s.name(), func(t *testing.T) {
			push := fixture(t, s.push)
			var got []ops.Push
			h := allForges(deployer(func(ctx context.Context, p ops.Push) (ops.Accepted, error) {
				got = append(got, p)
				return pizza(ctx, p)
			}))
			send := func(code int, reason string, r *http.Request) {
				t.Helper()
				res, a := serve(t, h, r)
				if res.StatusCode != code || !strings.Contains(a.Reason, reason) {
					t.Errorf("got %d %q, want %d %q", res.StatusCode, a.Reason, code, reason)
				}
			}
			for _, good := range s.keys[:2] {
				got = nil
				send(202, "", s.request(push, s.pushes, good))
				if len(got) == 0 || got[0].Provider != s.provider {
					t.Errorf("pushes: %+v", got)
				}
			}
			got = nil
			send(401, "bad or missing", s.request(push, s.pushes, s.keys[2]))
			send(401, "bad or missing", s.request(push, s.pushes, ""))
			empty := s.request(push, s.pushes, "")
			s.sign(empty.Header, "", push)
			send(401, "bad or missing", empty)
			if tokens := s.provider == "azure" || s.keys[0] == key && s.provider == "gitlab"; !tokens { // they sign no body
				changed := s.request(push, s.pushes, key)
				s.sign(changed.Header, s.keys[0], push)
				changed.Body = io.NopCloser(bytes.NewReader(append([]byte(" "), push...)))
				changed.ContentLength = -1
				send(401, "bad or missing", changed)
			}
			for _, other := range s.others {
				send(200, "", s.request([]byte("{}"), other, s.keys[0]))
			}
			if len(got) > 0 {
				t.Errorf("what should not deploy does: %+v", got)
			}
			send(400, "", s.request([]byte("{"), s.pushes, s.keys[0]))
			send(400, "", s.request([]byte("[]"), s.pushes, s.keys[0]))
			if s.event != "" {
				r := s.request(push, "", s.keys[0])
				r.Header.Del(s.event)
				send(400, "header", r)
			}
			form := s.request(push, s.pushes, s.keys[0])
			form.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if !s.form {
				send(415, "application/json", form)
				return
			}
			body := []byte("payload=" + url.QueryEscape(string(push)))
			signed := push // Gitea and Gogs sign the JSON
			if s.provider == "github" {
				signed = body
			}
			form = s.request(body, s.pushes, "")
			form.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			s.sign(form.Header, s.keys[0], signed)
			send(202, "", form)
		})
	}
	if len(providers) != len(forges()) {
		t.Errorf("%d of %d forges are tested", len(providers), len(forges()))
	}
	for provider := range forges() {
		t.Run(provider+" without secret", func(t *testing.T) {
			h := New(Options{Deploys: pizza})
			if res, _ := serve(t, h, httptest.NewRequest(http.MethodPost, "/webhooks/"+provider, strings.NewReader("{}"))); res.StatusCode != http.StatusNotFound {
				t.Errorf("status %d", res.StatusCode)
			}
		})
	}
}

// decoded is what came of a fixture, as the golden files have it.
func decoded(t *testing.T, s sender, event string, body []byte) string {
	t.Helper()
	f := forges()[s.provider]
	pushes, err := f.pushes(delivery{header: s.request(body, event, "").Header, mediaType: jsonType, body: body, at: now})
	if err != nil {
		kind := "refused"
		if errors.As(err, new(ignored)) {
			kind = "ignored"
		}
		return kind + ": " + err.Error() + "\n"
	}
	var out strings.Builder
	for _, p := range pushes {
		files := p.Files
		b, err := json.MarshalIndent(p, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s\nfiles: %q\n", b, files)
	}
	return out.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

func TestFixtures(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range senders {
		seen[s.push] = true
		golden(t, strings.TrimSuffix(s.push, ".json")+".golden", decoded(t, s, s.pushes, fixture(t, s.push)))
	}
	files, err := filepath.Glob("testdata/*-push*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !seen[filepath.Base(f)] {
			t.Errorf("%s is in no test", f)
		}
	}
}

// TestUpstreamFixtures decodes everything that go-playground/webhooks tests
// itself with: its pushes are what they are, and nothing else is one.
func TestUpstreamFixtures(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/go-playground/webhooks/v6").Output()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(strings.TrimSpace(string(dir)), "testdata")
	events := map[string]string{"gitlab/system-push-event.json": "System Hook", "gitlab/system-tag-event.json": "System Hook"}
	pushed := []string{"github/push.json", "gitlab/push-event.json", "gitlab/system-push-event.json", "bitbucket/repo-push.json",
		"bitbucket-server/repo-refs-changed.json", "gitea/push-event.json", "gogs/push-event.json", "azuredevops/git.push.json"}
	n := 0
	for _, s := range senders {
		folder := strings.Replace(s.provider, "azure", "azuredevops", 1)
		files, err := filepath.Glob(filepath.Join(root, folder, "*.json"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", folder, len(files), err)
		}
		for _, file := range files {
			n++
			name := folder + "/" + filepath.Base(file)
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			event := s.pushes
			if e := events[name]; e != "" {
				event = e
			}
			got := decoded(t, s, event, body)
			if slices.Contains(pushed, name) {
				golden(t, "upstream-"+strings.ReplaceAll(strings.TrimSuffix(name, ".json"), "/", "-")+".golden", got)
			} else if !strings.HasPrefix(got, "ignored: ") && !strings.HasPrefix(got, "refused: ") {
				t.Errorf("%s, delivered as a push, is one:\n%s", name, got)
			}
			for _, event := range s.others {
				if got := decoded(t, s, event, body); !strings.HasPrefix(got, "ignored: ") {
					t.Errorf("%s, delivered as %s: %s", name, event, got)
				}
			}
		}
	}
	if n < 130 {
		t.Errorf("only %d fixtures", n)
	}
}

// edit is a fixture with some texts replaced, each of which it has.
func edit(t *testing.T, name string, oldnew ...string) []byte {
	t.Helper()
	text := string(fixture(t, name))
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(text, oldnew[i]) {
			t.Fatalf("%s has no %s", name, oldnew[i])
		}
		text = strings.ReplaceAll(text, oldnew[i], oldnew[i+1])
	}
	return []byte(text)
}

const zeros = "0000000000000000000000000000000000000000"

// TestSpecialPushes is about pushes that are not simply a few more commits.
func TestSpecialPushes(t *testing.T) {
	const (
		gitlabAfter  = "da1560886d4f094c3e6c9ef40349f7d38b5d27d7"
		gitlabBefore = "95790bf891e76fee5e1747ab589903a6a1f80f22"
		giteaBefore  = "28e1879d029cb852e4844d9c718537df08844e03"
		giteaAfter   = "bffeb74224043ba2feb48d137756c8a9331c449a"
		githubAfter  = "fd489864e7642b48eaad6e3f155c10e46810ec72"
		serverBefore = "197a3e0d2f9a2b3ed1c4fe5923d5dd701bee9fdd"
		serverAfter  = "a00945762949b7787503e2b1b0b1b4c0ca5b7a9c"
		azureBefore  = "aad331d8d3b131fa9ae03cf5e53965b51942618a"
		azureAfter   = "33b55f7cb7e7e245323987634f960cf4a6e6bc74"
	)
	for _, test := range []struct {
		name, provider, event string
		body                  []byte
		says                  string // the whole outcome, or the first push in short
	}{
		{"gitlab", "gitlab", "Push Hook", fixture(t, "gitlab-push.json"), "release/2.0 9579..da15 2 of 2 commits, 4 files"},
		{"gitlab, list cut short", "gitlab", "Push Hook", edit(t, "gitlab-push.json", `"total_commits_count": 2`, `"total_commits_count": 21`), "release/2.0 9579..da15 2 of 21 commits, files unknown"},
		{"gitlab, new branch", "gitlab", "Push Hook", edit(t, "gitlab-push.json", gitlabBefore, zeros), "release/2.0 0000..da15 2 of 2 commits, files unknown"},
		{"gitlab, deleted", "gitlab", "Push Hook", edit(t, "gitlab-push.json", `"after": "`+gitlabAfter, `"after": "`+zeros, `"checkout_sha": "`+gitlabAfter+`"`, `"checkout_sha": null`), `ignored: the branch "release/2.0" was deleted`},
		{"gitlab, reset to an older commit", "gitlab", "Push Hook", []byte(`{"object_kind":"push","ref":"refs/heads/main","before":"` + gitlabAfter + `","after":"` + gitlabBefore + `","commits":[],"total_commits_count":0,"project":{"git_http_url":"https://x/y.git"}}`), "main da15..9579 0 of 0 commits, files unknown"},
		{"gitlab, tag", "gitlab", "Tag Push Hook", edit(t, "gitlab-push.json", "refs/heads/release/2.0", "refs/tags/v2"), "ignored: this is a tag, only pushes to a branch deploy"},
		{"gitlab, tag as a push", "gitlab", "Push Hook", edit(t, "gitlab-push.json", "refs/heads/release/2.0", "refs/tags/v2"), `ignored: "v2" is a tag, only pushes to a branch deploy`},
		{"gitlab, skip", "gitlab", "Push Hook", edit(t, "gitlab-push.json", "fixed readme", "[skip ci] fixed readme"), "release/2.0 9579..da15 2 of 2 commits, 4 files, skip: the last commit says [skip ci]"},
		{"gitlab, an older commit says skip", "gitlab", "Push Hook", edit(t, "gitlab-push.json", "Update Catalan", "[skip ci] Update Catalan"), "release/2.0 9579..da15 2 of 2 commits, 4 files"},
		{"gitlab, system hook of something else", "gitlab", "System Hook", []byte(`{"event_name":"project_create"}`), `ignored: "project_create" is not a push to a branch`},
		{"gitlab, repository update", "gitlab", "System Hook", []byte(`{"event_name":"repository_update"}`), `ignored: "repository_update" is not a push to a branch`},

		{"gitea, newest first", "gitea", "push", fixture(t, "gitea-push.json"), "develop 28e1..bffe 2 of 2 commits, 4 files"},
		{"gitea, list cut short", "gitea", "push", edit(t, "gitea-push.json", `"total_commits": 2`, `"total_commits": 20`), "develop 28e1..bffe 2 of 20 commits, files unknown"},
		{"gitea, test of the webhook", "gitea", "push", edit(t, "gitea-push.json", giteaBefore, giteaAfter), `ignored: nothing was pushed to "develop": this is a test`},
		{"gitea, nulls", "gitea", "push", []byte(`{"ref":"refs/heads/main","before":"` + giteaBefore + `","after":"` + giteaAfter + `","commits":[null],"head_commit":null,"repository":null,"pusher":null,"sender":null}`), "refused: the repository has no URL"},
		{"gitea, null commits", "gitea", "push", []byte(`{"ref":"refs/heads/main","before":"` + giteaBefore + `","after":"` + giteaAfter + `","commits":null,"head_commit":null,"repository":{"clone_url":"https://x/y"}}`), "main 28e1..bffe 0 of 0 commits, files unknown"},
		{"gitea, only the head commit says skip", "gitea", "push", []byte(`{"ref":"refs/heads/main","before":"` + giteaBefore + `","after":"` + giteaAfter + `","commits":[],"head_commit":{"id":"` + giteaAfter + `","message":"x [skip deploy]"},"repository":{"clone_url":"https://x/y"}}`), "main 28e1..bffe 0 of 0 commits, files unknown, skip: the last commit says [skip deploy]"},
		{"gogs", "gogs", "push", fixture(t, "gogs-push.json"), "develop 28e1..bffe 2 of 2 commits, 4 files"},

		{"github, forced", "github", "push", edit(t, "github-push.json", `"forced": false`, `"forced": true`), "master 737d..fd48 1 of 1 commits, files unknown, forced"},
		{"github, a commit that is too large for its list of paths", "github", "push", edit(t, "github-push.json", `".razorops.yaml"`, ``, `"app/controllers/application_controller.rb"`, ``), "master 737d..fd48 1 of 1 commits, files unknown"},
		{"github, moved to a commit that is there", "github", "push", []byte(`{"ref":"refs/heads/main","before":"` + zeros + `","after":"` + githubAfter + `","created":true,"commits":[],"head_commit":{"id":"` + githubAfter + `","message":"[ci skip]"},"repository":{"clone_url":"https://x/y"}}`), "main 0000..fd48 0 of 0 commits, files unknown, skip: the last commit says [ci skip]"},
		{"github, a field of another type", "github", "push", edit(t, "github-push.json", `"pushed_at": 1530281075`, `"pushed_at": 1530281075, "open_issues": "three"`), "master 737d..fd48 1 of 1 commits, 2 files"},
		{"github, upper case", "github", "push", edit(t, "github-push.json", githubAfter, strings.ToUpper(githubAfter)), "master 737d..fd48 1 of 1 commits, 2 files"},
		{"github, before is cut", "github", "push", edit(t, "github-push.json", `"before": "737d38c599c1b2991664dfc6155d6bf516fcce36"`, `"before": "737d38c"`), "refused: before is not a full commit hash"},

		{"bitbucket, no changes", "bitbucket", "repo:push", []byte(`{"push":{"changes":[]},"repository":{"full_name":"a/b"}}`), "ignored: nothing was pushed"},
		{"bitbucket, only deleted and tagged", "bitbucket", "repo:push", []byte(`{"push":{"changes":[{"new":null,"old":{"type":"branch","name":"x","target":{"hash":"` + giteaAfter + `"}}},{"old":null,"new":{"type":"tag","name":"v1","target":{"hash":"` + giteaAfter + `"}}},{"old":null,"new":{"type":"named_branch","name":"hg","target":{"hash":"` + giteaAfter + `"}}}]},"repository":{"full_name":"a/b"}}`),
			`ignored: the branch "x" was deleted; "v1" is a tag, only pushes to a branch deploy; "named_branch/hg" is not a branch`},
		{"bitbucket, both null", "bitbucket", "repo:push", []byte(`{"push":{"changes":[{"new":null,"old":null}]},"repository":{"full_name":"a/b"}}`), `ignored: "/" is not a branch`},

		{"bitbucket-server, deleted", "bitbucket-server", "repo:refs_changed", edit(t, "bitbucket-server-push.json", `"toHash": "`+serverAfter, `"toHash": "`+zeros, `"type": "UPDATE"`, `"type": "DELETE"`), `ignored: the branch "master" was deleted`},
		{"bitbucket-server, new branch", "bitbucket-server", "repo:refs_changed", edit(t, "bitbucket-server-push.json", `"fromHash": "`+serverBefore, `"fromHash": "`+zeros, `"type": "UPDATE"`, `"type": "ADD"`), "master 0000..a009 2 of 2 commits, files unknown"},
		{"bitbucket-server, skip", "bitbucket-server", "repo:refs_changed", edit(t, "bitbucket-server-push.json", "Add olives", "Add olives [skip ci]"), "master 197a..a009 2 of 2 commits, files unknown, skip: the last commit says [skip ci]"},
		{"bitbucket-server, no links", "bitbucket-server", "repo:refs_changed", []byte(`{"eventKey":"repo:refs_changed","date":"2017-09-19T09:45:32+1000","repository":{"slug":"r","project":{"key":"P"}},"changes":[{"ref":{"id":"refs/heads/master"},"fromHash":"` + serverBefore + `","toHash":"` + serverAfter + `","type":"UPDATE"}]}`), "ignored: Bitbucket does not say the repository's URL, so no app can be found by it"},
		{"bitbucket-server, odd links", "bitbucket-server", "repo:refs_changed", edit(t, "bitbucket-server-push.json", `"clone": [`, `"clone": [7, {"href": 7}, `), "master 197a..a009 2 of 2 commits, files unknown"},

		{"azure, deleted", "azure", "", edit(t, "azure-push.json", `"newObjectId": "`+azureAfter, `"newObjectId": "`+zeros), `ignored: the branch "main" was deleted`},
		{"azure, new branch", "azure", "", edit(t, "azure-push.json", azureBefore, zeros), "main 0000..33b5 1 of 1 commits, files unknown"},
		{"azure, tag", "azure", "", edit(t, "azure-push.json", "refs/heads/main", "refs/tags/v1"), `ignored: "v1" is a tag, only pushes to a branch deploy`},
		{"azure, skip", "azure", "", edit(t, "azure-push.json", "Fixed bug in web.config file\"", "Fixed bug [skip ci]\""), "main aad3..33b5 1 of 1 commits, files unknown, skip: the last commit says [skip ci]"},
		{"azure, other event", "azure", "", edit(t, "azure-push.json", "git.push", "git.pullrequest.created"), `ignored: "git.pullrequest.created" is not a push`},
		{"azure, no event", "azure", "", []byte("{}"), "refused: the payload has no eventType"},
		{"azure, odd time", "azure", "", edit(t, "azure-push.json", "2024-05-02T19:17:13.3309587Z", "yesterday"), "main aad3..33b5 1 of 1 commits, files unknown"},
	} {
		t.Run(test.name, func(t *testing.T) {
			i := slices.IndexFunc(senders, func(s sender) bool { return s.provider == test.provider })
			s := senders[i]
			pushes, err := forges()[s.provider].pushes(delivery{header: s.request(test.body, test.event, "").Header, mediaType: jsonType, body: test.body})
			got := ""
			switch {
			case errors.As(err, new(ignored)):
				got = "ignored: " + err.Error()
			case err != nil:
				got = "refused: " + err.Error()
			default:
				got = inShort(pushes[0])
			}
			if got != test.says {
				t.Errorf("got  %s\nwant %s", got, test.says)
			}
		})
	}
}

func inShort(p ops.Push) string {
	out := fmt.Sprintf("%s %.4s..%.4s %d of %d commits, ", p.Branch, p.Before, p.After, len(p.Commits), p.Count)
	if p.Files == nil {
		out += "files unknown"
	} else {
		out += fmt.Sprintf("%d files", len(p.Files))
	}
	if p.Forced {
		out += ", forced"
	}
	if p.Skip != "" {
		out += ", skip: " + p.Skip
	}
	return out
}

// What is kept of a push has a limit, however much the forge tells.
func TestHugePushIsCut(t *testing.T) {
	var commits []map[string]any
	for i := range 500 {
		commits = append(commits, map[string]any{"id": fmt.Sprintf("%040x", i+1), "message": strings.Repeat("ö", 100_000/2), "url": "https://" + strings.Repeat("x", 5000),
			"author": map[string]any{"name": strings.Repeat("a", 5000)}, "modified": []string{fmt.Sprintf("file-%d", i)}})
	}
	body, err := json.Marshal(map[string]any{"ref": "refs/heads/main", "before": strings.Repeat("a", 40), "after": fmt.Sprintf("%040x", 500), "commits": commits,
		"compare": strings.Repeat("c", 5000), "pusher": map[string]any{"name": strings.Repeat("p", 100_000)},
		"repository": map[string]any{"clone_url": "https://x/y", "html_url": "https://" + strings.Repeat("h", 100_000), "full_name": strings.Repeat("n", 100_000), "default_branch": strings.Repeat("d", 100_000)}})
	if err != nil {
		t.Fatal(err)
	}
	s := senders[0]
	pushes, err := github{}.pushes(delivery{header: s.request(body, "push", "").Header, mediaType: jsonType, body: body})
	if err != nil {
		t.Fatal(err)
	}
	kept, err := json.Marshal(pushes[0])
	if err != nil {
		t.Fatal(err)
	}
	if p := pushes[0]; len(kept) > 60_000 || p.Count != 500 || len(p.Files) != 500 || p.Commits[len(p.Commits)-1].ID != p.After {
		t.Errorf("%d bytes are kept, %d of %d commits, %d files", len(kept), len(p.Commits), p.Count, len(p.Files))
	}
}

func TestGitLabSignatures(t *testing.T) {
	push := fixture(t, "gitlab-push.json")
	h := allForges(pizza)
	for _, test := range []struct {
		name string
		edit func(http.Header)
		code int
		says string
	}{
		{"good", func(http.Header) {}, 202, ""},
		{"several signatures", func(h http.Header) {
			h.Set("webhook-signature", "v1a,AAAA v1,AAAA v1,! "+h.Get("webhook-signature"))
		}, 202, ""},
		{"signed a little ago", func(h http.Header) { standard(h, signKey, push, now.Add(-4*time.Minute)) }, 202, ""},
		{"signed a little ahead", func(h http.Header) { standard(h, signKey, push, now.Add(4*time.Minute)) }, 202, ""},
		{"signed long ago", func(h http.Header) { standard(h, signKey, push, now.Add(-6*time.Minute)) }, 401, "was made 6m0s from now"},
		{"signed far ahead", func(h http.Header) { standard(h, signKey, push, now.Add(6*time.Minute)) }, 401, "one of the clocks is off"},
		{"another id", func(h http.Header) { h.Set("webhook-id", "msg_2") }, 401, "bad or missing"},
		{"another time", func(h http.Header) { h.Set("webhook-timestamp", fmt.Sprint(now.Unix()+1)) }, 401, "bad or missing"},
		{"no id", func(h http.Header) { h.Del("webhook-id") }, 401, "bad or missing"},
		{"no time", func(h http.Header) { h.Del("webhook-timestamp") }, 401, "bad or missing"},
		{"another version", func(h http.Header) {
			h.Set("webhook-signature", strings.Replace(h.Get("webhook-signature"), "v1,", "v2,", 1))
		}, 401, "bad or missing"},
		{"bad signature and a good token", func(h http.Header) {
			h.Set("webhook-signature", "v1,AAAA")
			h.Set("X-Gitlab-Token", key)
		}, 401, "bad or missing"},
		{"good signature and a bad token", func(h http.Header) { h.Set("X-Gitlab-Token", "no") }, 202, ""},
		{"only a token", func(h http.Header) { h.Del("webhook-signature"); h.Set("X-Gitlab-Token", key) }, 202, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := senders[2].request(push, "Push Hook", signKey)
			test.edit(r.Header)
			if res, a := serve(t, h, r); res.StatusCode != test.code || !strings.Contains(a.Reason, test.says) {
				t.Errorf("got %d %q, want %d %q", res.StatusCode, a.Reason, test.code, test.says)
			}
		})
	}
	// A hook may have both tokens while only the secret token is known here.
	onlyToken := New(Options{Secrets: map[string][]secret.Text{"gitlab": {key}}, Deploys: pizza})
	r := senders[2].request(push, "Push Hook", signKey)
	r.Header.Set("X-Gitlab-Token", key)
	if res, _ := serve(t, onlyToken, r); res.StatusCode != 202 {
		t.Errorf("a token that is known, with a signature that cannot be checked: %d", res.StatusCode)
	}
}

func TestBitbucketServerPing(t *testing.T) {
	h := allForges(pizza)
	s := senders[4]
	ping := []byte(`{"test": true}`)
	for name, test := range map[string]struct {
		r    *http.Request
		code int
		says string
	}{
		"not signed": {s.request(ping, "diagnostics:ping", ""), 200, "Bitbucket does not sign it"},
		"signed":     {s.request(ping, "diagnostics:ping", key), 200, "pushes will deploy"},
		"badly":      {s.request(ping, "diagnostics:ping", "other"), 401, "bad or missing"},
	} {
		if res, a := serve(t, h, test.r); res.StatusCode != test.code || !strings.Contains(a.Reason, test.says) {
			t.Errorf("%s: got %d %q", name, res.StatusCode, a.Reason)
		}
	}
}

func TestAzurePasswords(t *testing.T) {
	push := fixture(t, "azure-push.json")
	h := New(Options{Secrets: map[string][]secret.Text{"azure": {"ada:pass:word", "word"}}, Deploys: pizza})
	for userinfo, code := range map[string]int{
		"ada:pass:word": 202, "any:word": 202, ":word": 202,
		"bob:pass:word": 401, "ada:": 401, "word:": 401, ":": 401, "ada:pass": 401,
	} {
		r := senders[len(senders)-1].request(push, "", "")
		r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(userinfo)))
		if res, _ := serve(t, h, r); res.StatusCode != code {
			t.Errorf("%s: got %d, want %d", userinfo, res.StatusCode, code)
		}
	}
}

func TestAzureAddresses(t *testing.T) {
	for remote, others := range map[string][]string{
		"https://fabrikam@dev.azure.com/fabrikam/Fabrikam%20Fiber/_git/Pizza": {
			"git@ssh.dev.azure.com:v3/fabrikam/Fabrikam%20Fiber/Pizza", "https://dev.azure.com/fabrikam/Fabrikam%20Fiber/_git/Pizza",
			"https://fabrikam.visualstudio.com/Fabrikam%20Fiber/_git/Pizza", "https://fabrikam.visualstudio.com/DefaultCollection/Fabrikam%20Fiber/_git/Pizza",
			"fabrikam@vs-ssh.visualstudio.com:v3/fabrikam/Fabrikam%20Fiber/Pizza"},
		"https://dev.azure.com/acme/_git/pizza":                            {"git@ssh.dev.azure.com:v3/acme/pizza/pizza", "https://acme.visualstudio.com/_git/pizza"},
		"https://acme.visualstudio.com/DefaultCollection/pizza/_git/pizza": {"https://dev.azure.com/acme/_git/pizza"},
		"https://tfs.example.com/tfs/Collection/Pizzeria/_git/pizza":       {"https://tfs.example.com/tfs/Collection/Pizzeria/_git/pizza"},
		"https://dev.azure.com/":                                           {"https://dev.azure.com/"},
	} {
		urls := azureURLs(remote)
		for _, want := range others {
			if want != remote && !slices.ContainsFunc(urls, func(u string) bool { return ops.SameRepo(u, want) }) {
				t.Errorf("%s has the address %s, got %q", remote, want, urls)
			}
		}
		if slices.ContainsFunc(urls, func(u string) bool {
			return ops.SameRepo(u, "https://dev.azure.com/other/_git/pizza") || ops.SameRepo(u, "https://dev.azure.com/acme/other/_git/pizza")
		}) {
			t.Errorf("%s has the address of another: %q", remote, urls)
		}
	}
}

// Several branches in one push are several jobs.
func TestSeveralBranches(t *testing.T) {
	body := fixture(t, "bitbucket-push.json")
	h := allForges(deployer(func(_ context.Context, p ops.Push) (ops.Accepted, error) {
		if p.Skip != "" {
			return ops.Accepted{Reason: p.Skip}, nil
		}
		return ops.Accepted{Jobs: []ops.Job{{App: "pizza-" + p.Branch, ID: p.After[:7]}}}, nil
	}))
	res, a := serve(t, h, senders[3].request(body, "repo:push", key))
	if want := "[{pizza-main 709d658} {pizza-staging c4b2b79}]"; res.StatusCode != 202 || fmt.Sprint(a.Jobs) != want {
		t.Errorf("got %d %v, want %s", res.StatusCode, a.Jobs, want)
	}
}

func fuzz(f *testing.F, of ...int) {
	h := allForges(pizza)
	for n, i := range of {
		s := senders[i]
		f.Add(n, fixture(f, s.push), s.pushes, "", "", true)
		f.Add(n, []byte("payload="+url.QueryEscape(string(fixture(f, s.push)))), s.pushes, formType, "", true)
		f.Add(n, []byte(`{"push":{"changes":[null]},"changes":[null],"commits":[null],"resource":{"refUpdates":[null],"commits":[null]},"repository":{"links":{"clone":[null]}}}`), s.pushes, "", "", true)
		f.Add(n, []byte("{}"), "", "", "sha256=00", false)
	}
	f.Fuzz(func(t *testing.T, which int, body []byte, event, contentType, signature string, signed bool) {
		s := senders[of[abs(which)%len(of)]]
		r := s.request(body, event, "")
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		if signed {
			s.sign(r.Header, s.keys[0], body)
		} else {
			for _, name := range []string{"X-Hub-Signature", "X-Hub-Signature-256", "X-Gitlab-Token", "webhook-signature", "webhook-id", "webhook-timestamp",
				"X-Gitea-Signature", "X-Forgejo-Signature", "X-Gogs-Signature", "Authorization"} {
				r.Header.Set(name, signature)
			}
		}
		res, a := serve(t, h, r)
		if res.StatusCode >= 500 {
			t.Errorf("status %d", res.StatusCode)
		}
		if !signed && res.StatusCode < 400 && !vouched(signature, body) {
			t.Errorf("status %d %v without a good signature", res.StatusCode, a)
		}
	})
}

func abs(n int) int { return max(n, -n, 0) }

// vouched says whether the fuzzer has found a signature or secret by itself.
func vouched(signature string, body []byte) bool {
	for _, k := range []string{key, oldKey} {
		if strings.HasSuffix(strings.ToLower(signature), hexHMAC(k, body)) || signature == k {
			return true
		}
	}
	return false
}

func FuzzGitHub(f *testing.F)          { fuzz(f, 0) }
func FuzzGitLab(f *testing.F)          { fuzz(f, 1, 2) }
func FuzzBitbucket(f *testing.F)       { fuzz(f, 3) }
func FuzzBitbucketServer(f *testing.F) { fuzz(f, 4) }
func FuzzGitea(f *testing.F)           { fuzz(f, 5, 6) }
func FuzzGogs(f *testing.F)            { fuzz(f, 7) }
func FuzzAzure(f *testing.F)           { fuzz(f, 8) }

package commitstatus

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"waggle/internal/secret"
	"waggle/ops"
)

func TestReport(t *testing.T) {
	var got string
	answer := http.StatusCreated
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = fmt.Sprintf("%s %s %s%s %s", r.Method, r.URL.EscapedPath(), r.Header.Get("Authorization"), r.Header.Get("PRIVATE-TOKEN"), body)
		if answer == http.StatusFound {
			http.Redirect(w, r, "/elsewhere", answer)
			return
		}
		w.WriteHeader(answer)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	c := New(map[string]secret.Text{host: "canary", "github.com": "hub"})
	c.github = server.URL
	status := func(provider, repo, state string) ops.CommitStatus {
		return ops.CommitStatus{Provider: provider, Repo: repo, Commit: "c0ffee", App: "pizza", State: state, Text: "release 1"}
	}
	for name, tc := range map[string]struct {
		status ops.CommitStatus
		want   string
	}{
		"GitHub":            {status("github", "git@github.com:acme/pizza.git", "success"), `POST /repos/acme/pizza/statuses/c0ffee Bearer hub {"context":"waggle/pizza","description":"release 1","state":"success"}`},
		"GitHub Enterprise": {status("github", server.URL+"/acme/pizza", "failure"), `POST /api/v3/repos/acme/pizza/statuses/c0ffee Bearer canary {"context":"waggle/pizza","description":"release 1","state":"failure"}`},
		"Gitea":             {status("gitea", server.URL+"/acme/pizza.git", "pending"), `POST /api/v1/repos/acme/pizza/statuses/c0ffee token canary {"context":"waggle/pizza","description":"release 1","state":"pending"}`},
		"GitLab":            {status("gitlab", server.URL+"/group/sub/pizza.git", "pending"), `POST /api/v4/projects/group%2Fsub%2Fpizza/statuses/c0ffee canary {"description":"release 1","name":"waggle/pizza","state":"running"}`},
		"another forge":     {status("bitbucket", server.URL+"/acme/pizza.git", "pending"), ""},
		"no token":          {status("github", "https://git.example/acme/pizza.git", "pending"), ""},
		"nonsense":          {status("github", ":", "pending"), ""},
	} {
		got = ""
		if err := c.Report(t.Context(), tc.status); err != nil || got != tc.want {
			t.Errorf("%s: sent %s, %v; want %s", name, got, err, tc.want)
		}
	}
	for _, answer = range []int{http.StatusForbidden, http.StatusFound} {
		err := c.Report(t.Context(), status("gitea", server.URL+"/acme/pizza.git", "pending"))
		if err == nil || strings.Contains(err.Error(), "canary") || strings.Contains(got, "elsewhere") {
			t.Errorf("%d: %v, %s", answer, err, got)
		}
	}
}

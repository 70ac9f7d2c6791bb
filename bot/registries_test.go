package bot

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"time"

	"waggle/internal/workspace"
	"waggle/ops"
)

// opens types a line and returns the form that opens.
func (o *office) opens(user, line string) workspace.View {
	o.t.Helper()
	if ack := o.typed(user, deploys, line); !ack.OK() || ack.Body != "" {
		o.t.Fatalf("%s is answered %+v", line, ack)
	}
	ctx, cancel := context.WithTimeout(o.t.Context(), 5*time.Second)
	defer cancel()
	v, err := o.WaitView(ctx, user, func(workspace.View) bool { return true })
	if err != nil {
		o.t.Fatal(err)
	}
	return v
}

func (o *office) fills(user string, v workspace.View, values map[string]string) workspace.Ack {
	o.t.Helper()
	ack, err := o.Submit(o.t.Context(), user, v, values)
	if err != nil {
		o.t.Fatal(err)
	}
	return ack
}

func TestRegistryAddForm(t *testing.T) {
	t.Parallel()
	o, s := newOffice(t), &submitter{}
	o.serveHTTP(s)
	v := o.opens(ada, "/registry add GHCR --dry-run")
	if v.Title != "Add a registry" || !strings.Contains(string(v.Blocks), `"initial_value":"ghcr"`) {
		t.Errorf("the form is %q: %s", v.Title, v.Blocks)
	}

	// What is wrong is said at its field, and the form stays open.
	ack := o.fills(ada, v, map[string]string{"address": "registry", "prefix": "Acme", "username": "a:b", "password": "canary"})
	for field, says := range map[string]string{"address": "without a dot or a port", "username": "not a user name"} {
		if !strings.Contains(ack.Body, `"`+field+`"`) || !strings.Contains(ack.Body, says) {
			t.Errorf("%s is answered %s, want %q", field, ack.Body, says)
		}
	}
	ack = o.fills(ada, v, map[string]string{"address": "https://GHCR.io/", "prefix": "Acme", "username": "mia", "password": "canary"})
	if !strings.Contains(ack.Body, "The prefix Acme has upper-case letters") || !strings.Contains(ack.Body, "Write acme") {
		t.Errorf("answered %s", ack.Body)
	}
	ack = o.fills(ada, v, map[string]string{"address": "ghcr.io", "prefix": "acme", "username": "mia"})
	if !strings.Contains(ack.Body, `"password"`) {
		t.Errorf("answered %s", ack.Body)
	}
	if len(s.ops) != 0 {
		t.Fatalf("it made %+v", s.ops)
	}

	o.fills(ada, v, map[string]string{"address": "https://GHCR.io/", "prefix": "/acme/", "username": " mia ", "password": "  canary with spaces "})
	if len(s.ops) != 1 {
		t.Fatalf("%d operations", len(s.ops))
	}
	op := s.ops[0].(*ops.RegistryAdd)
	if want := (ops.Registry{Name: "ghcr", Domain: "ghcr.io", Prefix: "acme", Username: "mia", Push: true}); op.Registry != want {
		t.Errorf("it makes %+v, want %+v", op.Registry, want)
	}
	if got := reflect.ValueOf(op).Elem().FieldByName("password").String(); got != "  canary with spaces " {
		t.Errorf("the password is %q, not as it was typed", got)
	}
	if r := s.reqs[0]; !r.DryRun || r.Actor.ID != ada || r.Channel != deploys || strings.Contains(r.Title+string(r.Op), "canary") {
		t.Errorf("the request is %+v", r)
	}
}

func TestRegistryEditForm(t *testing.T) {
	t.Parallel()
	o, s := newOffice(t), &submitter{known: ops.Registry{Name: "hub", Domain: "docker.io", Prefix: "acme", Username: "mia", Sealed: "v1.x.canary", Push: false}}
	o.serveHTTP(s)
	v := o.opens(ada, "/registry edit hub")
	for _, part := range []string{`"initial_value":"docker.io"`, `"initial_value":"acme"`, `"initial_value":"mia"`, "Empty keeps the one it has"} {
		if !strings.Contains(string(v.Blocks), part) {
			t.Errorf("the form does not have %s: %s", part, v.Blocks)
		}
	}
	if strings.Contains(string(v.Blocks)+v.PrivateMetadata, "canary") {
		t.Error("the form has the password")
	}
	o.fills(ada, v, map[string]string{"prefix": "acme-team", "push": yes})
	op := s.ops[0].(*ops.RegistryEdit)
	if want := (ops.Registry{Name: "hub", Domain: "docker.io", Prefix: "acme-team", Username: "mia", Push: true}); op.Registry != want || !op.Keep || op.Seen != s.known.Fingerprint() {
		t.Errorf("it makes %+v", op)
	}

	if ack := o.typed(ada, deploys, "/registry edit none"); !strings.Contains(ack.Body, "There is no registry") {
		t.Errorf("answered %s", ack.Body)
	}
	if ack := o.typed(linus, deploys, "/registry edit hub"); !strings.Contains(ack.Body, "needs an admin") {
		t.Errorf("a member is answered %s", ack.Body)
	}
}

func TestRegistryDefaultShowsOrChooses(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	s := &submitter{ask: func(_ context.Context, q ops.Question) (ops.Answer, error) {
		if _, ok := q.(ops.RegistryShowDefault); !ok {
			t.Errorf("asked %T", q)
		}
		return ops.Answer{Head: "Built images are pushed to hub"}, nil
	}}
	o.serveHTTP(s)
	if ack := o.typed(ada, deploys, "/registry default"); !strings.Contains(ack.Body, "Built images are pushed to hub") || len(s.ops) != 0 {
		t.Errorf("answered %s, %d operations", ack.Body, len(s.ops))
	}
	o.typed(ada, deploys, "/registry default GHCR")
	if len(s.ops) != 1 || s.ops[0].(*ops.RegistryDefault).Name != "ghcr" {
		t.Errorf("made %+v", s.ops)
	}
}

func TestRegistryLines(t *testing.T) {
	for line, says := range map[string]string{
		"/registry":                                  "needs to know what",
		"/registry remove":                           "takes the name of one registry, and was given nothing",
		"/registry remove a b":                       "was given 2 words",
		"/registry enable a/b":                       "is no name of a registry",
		"/registry add a b":                          "was given 2 words",
		"/registry edit":                             "was given nothing",
		"/registry list x":                           "takes nothing",
		"/registry setup a b":                        "takes one node",
		"/registry setup --address registry":         "without a dot or a port",
		"/registry setup --address 10.0.0.1":         "needs a port",
		"/registry setup --name Local/x":             "is no name of a registry",
		"/registry prune --keep 0":                   "is no number of images",
		"/registry prune --keep many":                "is no number of images",
		"/registry migrate pizza/x":                  "",
		"/registry setpu":                            "Did you mean `/registry setup`?",
		"/registry setup n1 --adress 10.0.0.11:5000": "Did you mean `--address`?",
	} {
		name, text, _ := strings.Cut(line, " ")
		row, words, err := find(name, strings.Fields(text))
		if err == nil {
			var args Args
			if args, err = parseArgs(words, row.flags(), row.Options); err == nil && row.Ask != nil {
				_, err = row.Ask(args)
			} else if err == nil {
				_, err = row.parse(args)
			}
		}
		e, ok := err.(*ops.Error)
		if !ok || e.Code != ops.Invalid || !strings.Contains(e.Sentence+" "+e.Next, says) {
			t.Errorf("%s: %v, want %q", line, err, says)
		}
	}
}

package ops_test

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"waggle/internal/secret"
	"waggle/ops"
)

var quiet = slog.New(slog.DiscardHandler)

func read(t *testing.T, f *fakeConfigs) ops.Registries {
	t.Helper()
	rs, err := ops.ReadRegistries(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func TestRegistriesAreKept(t *testing.T) {
	f := new(fakeConfigs)
	if rs := read(t, f); len(rs.List) != 0 || rs.Default != "" {
		t.Errorf("of an empty swarm: %+v", rs)
	}
	for i := range 4 {
		rs, err := read(t, f).Add(sealed(fmt.Sprintf("r%d", i), fmt.Sprintf("r%d.example.com", i), "", "mia", "canary-pw"))
		if err != nil {
			t.Fatal(err)
		}
		if err := ops.SaveRegistries(t.Context(), f, rs, quiet); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.names(); got != "waggle-registries-3 waggle-registries-4" {
		t.Errorf("configs: %s", got)
	}
	rs := read(t, f)
	if names(rs) != "r0* r1 r2 r3" {
		t.Errorf("registries: %s", names(rs))
	}
	if login, err := rs.List[2].Login(testKey); err != nil || login.Auth != (ops.RegistryAuth{Username: "mia", Password: "canary-pw"}) {
		t.Errorf("login: %+v, %v", login, err)
	}
	for _, c := range f.configs {
		if strings.Contains(string(c.Data), "canary") {
			t.Errorf("a password is in clear in %s", c.Data)
		}
	}
}

func TestConfigsOfOthersDoNotCount(t *testing.T) {
	f := new(fakeConfigs)
	f.save(ops.Registries{List: []ops.Registry{{Name: "good", Domain: "good.example.com"}}})
	for _, name := range []string{"waggle-registries-x", "waggle-registries-99x", "waggle-registries-", "waggle-registries-007", "waggle-registries--5", "waggle-registries-99999999999999999999", "other"} {
		if _, err := f.CreateConfig(t.Context(), name, []byte("no JSON")); err != nil {
			t.Fatal(err)
		}
	}
	if rs := read(t, f); names(rs) != "good-" {
		t.Errorf("registries: %s", names(rs))
	}
}

func TestTwoEditAtOnce(t *testing.T) {
	f := new(fakeConfigs)
	f.save(ops.Registries{List: []ops.Registry{{Name: "old", Domain: "old.example.com"}}})
	var both sync.WaitGroup
	results := make([]error, 8)
	start := make(chan struct{})
	for i := range results {
		rs, err := read(t, f).Add(ops.Registry{Name: fmt.Sprintf("new%d", i), Domain: fmt.Sprintf("new%d.example.com", i)})
		if err != nil {
			t.Fatal(err)
		}
		both.Go(func() {
			<-start
			results[i] = ops.SaveRegistries(t.Context(), f, rs, quiet)
		})
	}
	close(start)
	both.Wait()
	won := ""
	for i, err := range results {
		switch {
		case err == nil && won == "":
			won = fmt.Sprintf("old- new%d-", i)
		case err == nil:
			t.Error("two have won")
		case ops.CodeOf(err) != ops.OutOfDate:
			t.Errorf("the loser is told %v", err)
		}
	}
	if got := names(read(t, f)); got != won {
		t.Errorf("registries: %s, want %s", got, won)
	}
}

// A writer that is so late that its number was removed must not think it won.
func TestLateWriter(t *testing.T) {
	f := new(fakeConfigs)
	f.save(ops.Registries{})
	late := read(t, f)
	late.List = []ops.Registry{{Name: "late", Domain: "late.example.com"}}
	for i := range 5 {
		f.save(ops.Registries{List: []ops.Registry{{Name: fmt.Sprintf("r%d", i), Domain: "r.example.com"}}})
	}
	if err := ops.SaveRegistries(t.Context(), f, late, quiet); ops.CodeOf(err) != ops.OutOfDate {
		t.Errorf("the late writer is told %v", err)
	}
	if got := f.names(); got != "waggle-registries-5 waggle-registries-6" || names(read(t, f)) != "r4-" {
		t.Errorf("configs: %s, registries: %s", got, names(read(t, f)))
	}
}

// One that has won is not taken back because somebody builds on it at once.
func TestWinnerIsBuiltOnAtOnce(t *testing.T) {
	f := new(fakeConfigs)
	f.created = func(f *fakeConfigs) {
		rs := read(t, f)
		rs.List = append(rs.List, ops.Registry{Name: "second", Domain: "second.example.com"})
		if err := ops.SaveRegistries(t.Context(), f, rs, quiet); err != nil {
			t.Error(err)
		}
	}
	err := ops.SaveRegistries(t.Context(), f, ops.Registries{List: []ops.Registry{{Name: "first", Domain: "first.example.com"}}}, quiet)
	if err != nil || names(read(t, f)) != "first- second-" {
		t.Errorf("%v, registries: %s", err, names(read(t, f)))
	}
}

func TestBadRegistriesConfig(t *testing.T) {
	for name, data := range map[string]string{
		"no JSON": "canary", "a later format": `{"format":2,"registries":[]}`, "an unknown field": `{"format":1,"mirrors":[],"registries":[]}`,
		"two documents": `{"format":1,"registries":[]}{}`, "empty": "",
	} {
		f := new(fakeConfigs)
		if _, err := f.CreateConfig(t.Context(), "waggle-registries-3", []byte(data)); err != nil {
			t.Fatal(err)
		}
		_, err := ops.ReadRegistries(t.Context(), f)
		if ops.CodeOf(err) != ops.Invalid || !strings.Contains(err.Error(), "waggle-registries-3 is not what this Waggle wrote") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTooManyRegistries(t *testing.T) {
	f := new(fakeConfigs)
	var rs ops.Registries
	for i := range 30 {
		rs.List = append(rs.List, sealed(fmt.Sprintf("r%d", i), fmt.Sprintf("r%d.example.com", i), "", "mia", secret.Text(strings.Repeat("p", 15_000))))
	}
	err := ops.SaveRegistries(t.Context(), f, rs, quiet)
	if ops.CodeOf(err) != ops.Invalid || !strings.Contains(err.Error(), "at most 500 KB") || f.names() != "" {
		t.Errorf("%v, configs: %q", err, f.names())
	}
}

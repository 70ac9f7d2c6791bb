package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"waggle/config"
	"waggle/ops"
)

// checkupTimeout bounds each check of the doctor.
const checkupTimeout = 15 * time.Second

// doctor checks all that serve needs, and changes nothing. It fails when Waggle
// could not do its work; warnings are for reading.
func doctor(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	settings, err := load("doctor", args, stderr)
	if err != nil {
		return err
	}
	s, err := newService(settings, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer s.close()
	checkups := s.checkups(settings)
	found := make([]finding, len(checkups))
	var all sync.WaitGroup
	for i, c := range checkups {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, checkupTimeout)
			defer cancel()
			found[i] = c.look(ctx)
		})
	}
	all.Wait()
	failed := 0
	for i, c := range checkups {
		if found[i].err != nil {
			failed++
		}
		if err := found[i].print(stdout, c.part); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed", failed, len(checkups))
	}
	return nil
}

// checkup is one row of the doctor's table.
type checkup struct {
	part string
	look func(context.Context) finding
}

// finding is what a check came to.
type finding struct {
	says string
	warn []ops.Concern
	err  error // why Waggle could not work so
}

// asked is the finding of a question, as one asks it from Slack.
func asked(a ops.Answer, err error) finding {
	return finding{says: a.Head, warn: a.Concerns, err: err}
}

func (s *service) checkups(c config.Settings) []checkup {
	return []checkup{
		{"docker", func(ctx context.Context) finding {
			info, err := s.swarm.Info(ctx)
			return finding{says: fmt.Sprintf("engine %s, API %s, on %s", info.EngineVersion, info.APIVersion, info.Hostname), err: err}
		}},
		{"swarm", func(ctx context.Context) finding {
			if err := s.swarmReady(ctx); err != nil {
				return finding{err: err}
			}
			return asked(ops.NodeList{}.Ask(ctx, s.runner, ops.Actor{}))
		}},
		{"redis", func(ctx context.Context) finding {
			if s.embedded != nil {
				return finding{says: "none, so one in memory", warn: []ops.Concern{{What: "what waits or runs is lost when Waggle stops", Then: "set redis.url"}}}
			}
			if err := s.store.Ping(ctx); err != nil {
				return finding{err: (&ops.Error{Sentence: fmt.Sprintf("Redis does not take a write: %s", err)}).Then("See whether redis.url is right and its Redis is up.")}
			}
			return finding{says: "answers and takes writes"}
		}},
		{"slack", func(ctx context.Context) finding {
			who, err := s.bot.Checkup(ctx)
			return finding{says: who, err: err}
		}},
		{"secret key", func(context.Context) finding {
			if c.SecretKey.Empty() {
				return finding{says: "none", warn: []ops.Concern{{What: "no registry can be added without it", Then: "set secret_key to what `openssl rand -base64 32` prints"}}}
			}
			return finding{says: "set"}
		}},
		{"registries", func(ctx context.Context) finding {
			return asked(ops.RegistryCheck{}.Ask(ctx, s.runner, ops.Actor{}))
		}},
		{"ssh key", func(ctx context.Context) finding {
			if c.SSH.KeyFile == "" {
				return finding{says: "none set: Waggle makes one of its own when it first needs one"}
			}
			line, err := s.servers.PublicKey(ctx)
			return finding{says: line, err: err}
		}},
		{"git", func(ctx context.Context) finding { return gitCheckup(ctx, c.Git) }},
	}
}

// gitCheckup looks for the programs and files that a checkout needs.
func gitCheckup(ctx context.Context, c config.Git) finding {
	out, err := exec.CommandContext(ctx, "git", "version").Output()
	if err != nil {
		return finding{err: (&ops.Error{Sentence: fmt.Sprintf("git does not run: %s", err)}).Then("Install git where Waggle runs.")}
	}
	f := finding{says: strings.TrimSpace(string(out))}
	files, ssh := []string{c.KnownHosts}, false
	for _, g := range c.Credentials {
		files = append(files, g.SSHKeyFile)
		ssh = ssh || g.SSHKeyFile != ""
	}
	for _, path := range files {
		if path == "" {
			continue
		}
		if file, err := os.Open(path); err != nil {
			f.err = errors.Join(f.err, (&ops.Error{Sentence: fmt.Sprintf("A file of the git settings cannot be read: %s", err)}).Then("Put it there, or mend the settings."))
		} else {
			_ = file.Close() // only read
		}
	}
	if _, err := exec.LookPath("ssh"); ssh && err != nil {
		f.err = errors.Join(f.err, (&ops.Error{Sentence: "A deploy key is set, and there is no ssh"}).Then("Install openssh-client where Waggle runs."))
	}
	return f
}

// print writes the row, and below it what is wrong and what to do.
func (f finding) print(w io.Writer, part string) error {
	verdict, says := "ok", f.says
	var below []ops.Concern
	switch {
	case f.err != nil:
		verdict, says = "FAIL", ""
		for _, err := range each(f.err) {
			concern := ops.Concern{What: err.Error()}
			if e := new(ops.Error); errors.As(err, &e) {
				concern = ops.Concern{What: e.Sentence, Then: e.Next}
			}
			below = append(below, concern)
		}
		says, below[0].What = below[0].What, ""
	case len(f.warn) > 0:
		verdict, below = "warn", f.warn
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-5s %-11s %s\n", verdict, part, says)
	for _, c := range below {
		for _, line := range []string{c.What, c.Then} {
			if line == "" {
				continue
			}
			if line == c.Then {
				line = "→ " + line
			}
			fmt.Fprintf(&b, "%18s%s\n", "", line)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// each takes errors that were joined apart.
func each(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

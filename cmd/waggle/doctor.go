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
	"text/tabwriter"
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
	all := make([]finding, len(checkups))
	var looking sync.WaitGroup
	for i, c := range checkups {
		looking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, checkupTimeout)
			defer cancel()
			all[i] = c.look(ctx)
		})
	}
	looking.Wait()
	failed := 0
	for i, c := range checkups {
		if len(all[i].fail) > 0 {
			failed++
		}
		if err := all[i].print(stdout, c.part); err != nil {
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
	says string // "" when nothing but what failed is known
	// table is printed below the line; its first row is the header.
	table [][]string
	warn  []ops.Concern
	fail  []error // why Waggle could not work so
}

// found is what a check says, unless it failed.
func found(says string, err error) finding {
	if err != nil {
		return finding{fail: []error{err}}
	}
	return finding{says: says}
}

// asked is the finding of a question, as one asks it from Slack.
func asked(a ops.Answer, err error) finding {
	f := found(a.Head, err)
	for _, c := range a.Concerns {
		if c.Fails {
			f.fail = append(f.fail, wrong(c.Then, "%s", c.What))
		} else {
			f.warn = append(f.warn, c)
		}
	}
	return f
}

// wrong is an error that says what to do.
func wrong(next, sentence string, args ...any) error {
	return ops.Errorf(ops.Failed, sentence, args...).Then("%s", next)
}

func (s *service) checkups(c config.Settings) []checkup {
	return []checkup{
		{"docker", s.dockerCheckup},
		{"swarm", func(ctx context.Context) finding {
			if err := s.swarmReady(ctx); err != nil {
				return found("", err)
			}
			return asked(ops.NodeList{}.Ask(ctx, s.runner, ops.Actor{}))
		}},
		{"redis", func(ctx context.Context) finding {
			if s.embedded != nil {
				return finding{says: "none, so one in memory", warn: []ops.Concern{{What: "what waits or runs is lost when Waggle stops", Then: "set redis.url"}}}
			}
			if err := s.store.Ping(ctx); err != nil {
				return found("", wrong("See whether redis.url is right and its Redis is up.", "Redis does not take a write: %s", err))
			}
			return finding{says: "answers and takes writes"}
		}},
		{"slack", func(ctx context.Context) finding {
			return asked(s.bot.Checkup(ctx))
		}},
		{"secret key", func(context.Context) finding {
			if c.SecretKey.Empty() {
				return finding{says: "none", warn: []ops.Concern{{What: "no registry and no build secret can be kept without it", Then: "set secret_key to what `openssl rand -base64 32` prints"}}}
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
			return found(s.servers.PublicKey(ctx))
		}},
		{"git", func(ctx context.Context) finding { return gitCheckup(ctx, c.Git) }},
	}
}

// dockerCheckup checks Waggle's engine and, on a manager, the engines of all nodes.
func (s *service) dockerCheckup(ctx context.Context) finding {
	info, err := s.swarm.Info(ctx)
	if err != nil {
		return found("", err)
	}
	says := fmt.Sprintf("engine %s, API %s, %s image store, on %s", info.EngineVersion, info.APIVersion, info.ImageStore, info.Hostname)
	if info.Problem != "" {
		return finding{says: says} // the swarm check reports it
	}
	answer, err := ops.EngineCheck{}.Ask(ctx, s.runner, ops.Actor{})
	f := asked(answer, err)
	f.says = says
	if err == nil {
		f.says += "; " + answer.Head
	}
	for _, part := range answer.Parts {
		f.table = append(f.table, part.Table...)
	}
	return f
}

// gitCheckup looks for the programs and files that a checkout needs.
func gitCheckup(ctx context.Context, c config.Git) finding {
	out, err := exec.CommandContext(ctx, "git", "version").Output()
	if err != nil {
		return found("", wrong("Install git where Waggle runs.", "git does not run: %s", err))
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
			f.fail = append(f.fail, wrong("Put it there, or mend the settings.", "A file of the git settings cannot be read: %s", err))
		} else {
			_ = file.Close() // only read
		}
	}
	if _, err := exec.LookPath("ssh"); ssh && err != nil {
		f.fail = append(f.fail, wrong("Install openssh-client where Waggle runs.", "A deploy key is set, and there is no ssh"))
	}
	return f
}

// print writes the row, and below it what is wrong and what to do.
func (f finding) print(w io.Writer, part string) error {
	verdict, says, below := "ok", f.says, f.warn
	switch {
	case len(f.fail) > 0:
		verdict, below = "FAIL", nil
		for _, err := range f.fail {
			c := ops.Concern{What: err.Error()}
			if e := new(ops.Error); errors.As(err, &e) {
				c = ops.Concern{What: e.Sentence, Then: e.Next}
			}
			below = append(below, c)
		}
		below = append(below, f.warn...)
		if says == "" {
			says, below[0].What = below[0].What, ""
		}
	case len(f.warn) > 0:
		verdict = "warn"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-5s %-11s %s\n", verdict, part, says)
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range f.table {
		fmt.Fprintf(table, "%18s%s\n", "", strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, c := range below {
		if c.What != "" {
			fmt.Fprintf(&b, "%18s%s\n", "", c.What)
		}
		if c.Then != "" {
			fmt.Fprintf(&b, "%18s→ %s\n", "", c.Then)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

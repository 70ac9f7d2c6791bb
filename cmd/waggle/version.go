package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"runtime/debug"

	"waggle/ops/swarm"
)

// release is set by the build: -ldflags "-X main.release=v1.2.3".
var release = "development"

func version(_ context.Context, args []string, stdout, stderr io.Writer) error {
	if err := parse(flag.NewFlagSet("version", flag.ContinueOnError), args, stderr); err != nil {
		return err
	}
	commit, dirty, goVersion := "unknown", "", "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		goVersion = info.GoVersion
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				commit = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = " (with changes)"
			}
		}
	}
	_, err := fmt.Fprintf(stdout, "waggle %s\ncommit %s%s\n%s\nDocker Engine API up to %s, negotiated\nSlack Web API\n",
		release, commit, dirty, goVersion, swarm.APIVersion)
	return err
}

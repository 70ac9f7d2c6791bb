package lab

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// tool is a program and Debian's package that has it.
type tool struct{ program, pkg string }

// packages is what a lab needs.
var packages = []tool{
	{"dockerd", "docker.io"}, {"tini", "tini"}, {"containerd", "containerd"}, {"runc", "runc"},
	{"docker", "docker-cli"},
	{"docker-registry", "docker-registry"},
	{"sshd", "openssh-server"},
	{"busybox", "busybox-static"},
	{"ip", "iproute2"}, {"iptables", "iptables"},
	{"nsenter", "util-linux"}, {"mount", "mount"},
}

// installDir is locked by the process that installs packages.
const installDir = base + "/waggle-install"

// require installs what is missing. Without root it says what to install.
func require(ctx context.Context, tools []tool, step func(string, ...any)) error {
	missing := missingPackages(tools)
	if os.Geteuid() != 0 {
		return needsRoot(missing)
	}
	if len(missing) == 0 {
		return nil
	}
	// Tests of several packages start labs at the same time, and apt waits for no other
	// apt that reads its lists.
	unlock, err := lockDir(ctx, installDir)
	if err != nil {
		return err
	}
	defer unlock()
	if missing = missingPackages(tools); len(missing) == 0 {
		return nil // the other has installed them
	}
	if err := install(ctx, missing, step); err != nil {
		return fmt.Errorf("%w\ninstall by hand: apt-get install --no-install-recommends %s", err, strings.Join(missing, " "))
	}
	if left := missingPackages(tools); len(left) > 0 {
		return fmt.Errorf("still missing after their installation: %s", strings.Join(left, " "))
	}
	return nil
}

// needsRoot says what somebody without root has to do.
func needsRoot(missing []string) error {
	msg := "the lab needs root, for namespaces: run it with sudo"
	if len(missing) > 0 {
		msg += ", after: apt-get install --no-install-recommends " + strings.Join(missing, " ")
	}
	return errors.New(msg)
}

func missingPackages(tools []tool) []string {
	var missing []string
	for _, t := range tools {
		path, err := lookPath(t.program)
		if err == nil && (t.program != "busybox" || isStatic(path)) {
			continue
		}
		if !slices.Contains(missing, t.pkg) {
			missing = append(missing, t.pkg)
		}
	}
	return missing
}

// isStatic tells Debian's busybox-static from its busybox, which needs a libc.
func isStatic(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// install runs apt-get so that no package starts its daemon.
func install(ctx context.Context, pkgs []string, step func(string, ...any)) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	apt, err := lookPath("apt-get")
	if err != nil {
		return fmt.Errorf("this is no Debian: %w", err)
	}
	remove, err := denyServices()
	if err != nil {
		return err
	}
	defer remove()
	step("installing %s", strings.Join(pkgs, " "))
	for _, args := range [][]string{{"update"}, append([]string{"install", "--no-install-recommends"}, availableNames(pkgs)...)} {
		cmd := exec.Command(apt, append([]string{"-q", "-y", "-o", "DPkg::Lock::Timeout=120"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C") // its proxy settings are wanted here
		if _, err := run(ctx, "", cmd); err != nil {
			return fmt.Errorf("installing packages: %w", err)
		}
	}
	return nil
}

// availableNames replaces a package by the one that holds its program in older
// releases: the client was part of docker.io up to Debian 12.
func availableNames(pkgs []string) []string {
	release, _ := os.ReadFile("/etc/debian_version")
	if !strings.HasPrefix(string(release), "12") {
		return pkgs
	}
	out := slices.Clone(pkgs)
	for i, p := range out {
		if p == "docker-cli" {
			out[i] = "docker.io"
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// denyServices keeps Debian's packages from starting their services. A policy
// that the machine already has is left alone, unless a killed lab left it.
func denyServices() (remove func(), err error) {
	const (
		policy = "/usr/sbin/policy-rc.d"
		text   = "#!/bin/sh\n# Made by a waggle lab while it installs packages.\nexit 101\n"
	)
	have, err := os.ReadFile(policy)
	if err == nil && string(have) != text {
		return func() {}, nil
	}
	if err := os.WriteFile(policy, []byte(text), 0o755); err != nil {
		return nil, fmt.Errorf("keeping services from starting: %w", err)
	}
	return func() { os.Remove(policy) }, nil
}

package lab

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// suitesOf are Debian's suites that have a release of the engine, the best first.
// A suite's version moves: the lab takes what the suite has, and says which.
var suitesOf = map[string][]string{
	"20": {"bookworm"},
	"26": {"trixie", "forky"},
	"28": {"forky", "trixie"},
}

// enginePackages are what an unpacked engine needs: the programs, and the libraries that
// these and their libraries load. Not every suite has all of them.
var enginePackages = []string{
	"docker.io", "containerd", "runc", "tini", "docker-init",
	"libc6", "libseccomp2", "libsystemd0", "libdevmapper1.02.1", "libcap2", "libudev1", "libselinux1", "libpcre2-8-0",
}

// enginePrograms are the programs of an unpacked engine. docker-init has another name in
// some suites, and no lab needs it.
var enginePrograms = []string{"dockerd", "docker-proxy", "containerd", "containerd-shim-runc-v2", "runc"}

// fetchTools is what unpacking an engine needs.
var fetchTools = []tool{{"patchelf", "patchelf"}, {"dpkg", "dpkg"}, {"apt-cache", "apt"}}

// enginesDir keeps the unpacked engines, for every later lab. lab-down leaves it.
const enginesDir = base + "/waggle-engines"

// programs returns the directory of a release's programs, "" for the machine's own.
// A release that is not on this machine is fetched from Debian.
func (l *Lab) programs(ctx context.Context, r release) (string, error) {
	switch {
	case r.name == systemRelease:
		return "", nil
	case filepath.IsAbs(r.name):
		if err := whole(r.name, []string{"dockerd", "containerd", "containerd-shim-runc-v2", "runc"}); err != nil {
			return "", fmt.Errorf("the lab engine %s: %w", r.name, err)
		}
		if _, err := engineVersion(ctx, r.name); err != nil {
			return "", fmt.Errorf("the lab engine %s: %w", r.name, err)
		}
		return r.name, nil
	}
	if version, err := engineVersion(ctx, ""); err == nil && strings.HasPrefix(version, r.name+".") {
		return "", nil
	}
	l.step("looking for Docker %s in %s", r.name, enginesDir)
	unlock, err := lockDir(ctx, enginesDir)
	if err != nil {
		return "", err
	}
	defer unlock()
	var problems error
	for _, suite := range suitesOf[r.name] {
		dir := filepath.Join(enginesDir, suite)
		version := ""
		files, err := os.ReadFile(filepath.Join(dir, contents))
		if err == nil {
			err = whole(dir, strings.Fields(string(files)))
		}
		if err == nil {
			version, err = engineVersion(ctx, dir)
		}
		if err != nil && ctx.Err() == nil { // not there, or not all of it
			l.step("fetching Docker from Debian's %s", suite)
			if err = fetchEngine(ctx, suite, dir, l.step); err == nil {
				version, err = engineVersion(ctx, dir)
			}
		}
		if err == nil {
			place := ""
			if !strings.HasPrefix(version, r.name+".") { // suites move on
				place = ", in place of " + r.name
			}
			l.step("Docker %s from Debian's %s%s", version, suite, place)
			return dir, nil
		}
		problems = errors.Join(problems, fmt.Errorf("from Debian's %s: %w", suite, err))
	}
	return "", fmt.Errorf("can't get Docker %s: %w", r.name, problems)
}

// contents is the list of an unpacked engine's files.
const contents = "files"

// whole says which of an engine's files is missing: another of the same name on this machine
// would be used in its place.
func whole(dir string, files []string) error {
	for _, f := range files {
		if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
			return err
		}
	}
	return nil
}

// engineVersion runs a release's programs once, and returns which engine it is.
func engineVersion(ctx context.Context, dir string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	version := ""
	for _, name := range []string{"dockerd", "containerd", "runc"} {
		path := filepath.Join(dir, name)
		if dir == "" {
			var err error
			if path, err = lookPath(name); err != nil {
				return "", err
			}
		}
		out, err := run(ctx, "", exec.CommandContext(ctx, path, "--version"))
		if err != nil {
			return "", err
		}
		if name == "dockerd" { // Docker version 28.5.2+dfsg4, build …
			version, _, _ = strings.Cut(strings.TrimPrefix(strings.TrimSpace(out), "Docker version "), ",")
		}
	}
	return version, nil
}

// lockDir makes the directory if need be, and waits until no other process has it.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil || st.Uid != 0 {
		f.Close()
		return nil, fmt.Errorf("%s is not owned by root: remove it", dir) // anybody can write in /var/tmp
	}
	// Longer than a fetch of each suite may take.
	err = poll(ctx, 25*time.Minute, func(context.Context) error {
		return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	})
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// fetchEngine downloads a suite's engine and unpacks its programs into dir, with the
// libraries that they need beside them. No Docker package is installed; patchelf is, if it
// is missing.
func fetchEngine(ctx context.Context, suite, dir string, step func(string, ...any)) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if err := require(ctx, fetchTools, step); err != nil {
		return err
	}
	// What a killed run left: the directory is locked, so nobody else is fetching.
	left, _ := filepath.Glob(filepath.Join(enginesDir, suite+"-*"))
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("fetching an engine: %w", err)
		}
	}
	tmp, err := os.MkdirTemp(enginesDir, suite+"-")
	if err != nil {
		return fmt.Errorf("fetching an engine: %w", err)
	}
	defer os.RemoveAll(tmp)
	apt, err := foreignApt(ctx, tmp, suite)
	if err != nil {
		return err
	}
	if _, err := apt("apt-get", "update"); err != nil {
		return err
	}
	known, err := apt("apt-cache", "pkgnames")
	if err != nil {
		return err
	}
	names := strings.Fields(known)
	if !slices.Contains(names, "docker.io") {
		return errors.New("it has no package docker.io")
	}
	wanted := slices.DeleteFunc(slices.Clone(enginePackages), func(p string) bool { return !slices.Contains(names, p) })
	if _, err := apt("apt-get", append([]string{"download"}, wanted...)...); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil {
		return err
	}
	root := filepath.Join(tmp, "root")
	for _, deb := range debs {
		if _, err := command(ctx, "", "dpkg-deb", "-x", deb, root); err != nil {
			return fmt.Errorf("unpacking an engine: %w", err)
		}
	}
	out := filepath.Join(tmp, "engine")
	if err := layOut(ctx, root, out, dir); err != nil {
		return fmt.Errorf("unpacking an engine: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil { // one that is not whole
		return fmt.Errorf("unpacking an engine: %w", err)
	}
	return os.Rename(out, dir)
}

// foreignApt returns apt's commands for another suite than this machine's, from the
// mirror that this machine's own sources name. All that they write is below tmp.
func foreignApt(ctx context.Context, tmp, suite string) (func(program string, args ...string) (string, error), error) {
	uri, err := debianMirror(ctx)
	if err != nil {
		return nil, err
	}
	source := fmt.Sprintf("Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n", uri, suite)
	const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	if _, err := os.Stat(keyring); err == nil { // else apt's own keys
		source += "Signed-By: " + keyring + "\n"
	}
	for _, d := range []string{"sources", "lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(tmp, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(tmp, "sources", "suite.sources"), []byte(source), 0o644); err != nil {
		return nil, err
	}
	options := []string{"-q"}
	for _, o := range []string{"Dir::Etc::SourceList=/dev/null", "Dir::Etc::SourceParts=" + filepath.Join(tmp, "sources"),
		"Dir::State::Lists=" + filepath.Join(tmp, "lists"), "Dir::State::Status=/dev/null", "Dir::Cache=" + filepath.Join(tmp, "cache"),
		"APT::Sandbox::User=root", "APT::Update::Error-Mode=any"} {
		options = append(options, "-o", o)
	}
	return func(program string, args ...string) (string, error) {
		path, err := lookPath(program)
		if err != nil {
			return "", err
		}
		cmd := exec.Command(path, append(slices.Clone(options), args...)...)
		cmd.Dir = tmp
		cmd.Env = append(os.Environ(), "LC_ALL=C") // its proxy settings are wanted here
		return run(ctx, "", cmd)
	}, nil
}

// debianMirror is the address that this machine's apt has Debian's packages from.
func debianMirror(ctx context.Context) (string, error) {
	for range 2 {
		out, err := command(ctx, "", "apt-get", "indextargets", "--format", "$(ORIGIN)\t$(LABEL)\t$(REPO_URI)", "Created-By: Packages")
		if err != nil {
			return "", fmt.Errorf("reading apt's sources: %w", err)
		}
		for line := range strings.Lines(out) {
			if f := strings.Split(strings.TrimSpace(line), "\t"); len(f) == 3 && f[0] == "Debian" && f[1] == "Debian" {
				return f[2], nil
			}
		}
		// apt knows an archive's origin only after an update.
		if err := updateLists(ctx); err != nil {
			return "", err
		}
	}
	return "", errors.New("apt has no source of Debian's packages")
}

// updateLists has apt read its sources' lists of packages.
func updateLists(ctx context.Context) error {
	unlock, err := lockDir(ctx, installDir)
	if err != nil {
		return err
	}
	defer unlock()
	cmd := exec.Command("apt-get", "-q", "-y", "update")
	cmd.Env = append(os.Environ(), "LC_ALL=C") // its proxy settings are wanted here
	if _, err := run(ctx, "", cmd); err != nil {
		return fmt.Errorf("reading the lists of packages: %w", err)
	}
	return nil
}

// layOut copies programs and libraries of unpacked packages to out, to run after out is
// renamed to home, with their own libc instead of this machine's.
func layOut(ctx context.Context, root, out, home string) error {
	if err := os.Mkdir(out, 0o755); err != nil {
		return err
	}
	found := map[string]string{} // file name to path
	for _, pattern := range []string{"usr/bin/*", "usr/sbin/*", "usr/lib/*-linux-gnu*/*", "lib/*-linux-gnu*/*", "usr/lib64/*", "lib64/*", "usr/lib/ld-*", "lib/ld-*"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, p := range paths {
			if real, err := filepath.EvalSymlinks(p); err == nil && found[filepath.Base(p)] == "" {
				found[filepath.Base(p)] = real
			}
		}
	}
	// Each program, and the libraries that each copied file needs.
	for todo := slices.Clone(enginePrograms); len(todo) > 0; todo = todo[1:] {
		name := todo[0]
		if _, err := os.Stat(filepath.Join(out, name)); err == nil {
			continue
		}
		from := found[name]
		if from == "" {
			return fmt.Errorf("the packages have no %s", name)
		}
		f, err := elf.Open(from)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		needed, err := f.ImportedLibraries()
		interp := interpreter(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		text, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		to := filepath.Join(out, name)
		if err := os.WriteFile(to, text, 0o755); err != nil {
			return err
		}
		if interp != "" {
			loader := filepath.Base(interp)
			needed = append(needed, loader)
			// RPATH also applies to libraries of libraries, RUNPATH does not.
			if _, err := command(ctx, "", "patchelf", "--set-interpreter", filepath.Join(home, loader), "--force-rpath", "--set-rpath", home, to); err != nil {
				return err
			}
		}
		todo = append(todo, needed...)
	}
	entries, err := os.ReadDir(out)
	if err != nil {
		return err
	}
	var files strings.Builder
	for _, e := range entries {
		fmt.Fprintln(&files, e.Name())
	}
	return os.WriteFile(filepath.Join(out, contents), []byte(files.String()), 0o644)
}

// interpreter is the program loader that an ELF file asks for, "" for none.
func interpreter(f *elf.File) string {
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		text := make([]byte, p.Filesz)
		if _, err := p.ReadAt(text, 0); err == nil {
			return string(bytes.TrimRight(text, "\x00"))
		}
	}
	return ""
}

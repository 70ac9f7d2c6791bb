package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
)

// Options say where settings come from.
type Options struct {
	File     string   // path of the settings file; "" for none
	Explicit bool     // somebody named File, so it must exist
	Env      []string // as os.Environ returns it
	// ReadFile reads File and the files of secrets; nil means os.ReadFile.
	ReadFile func(name string) ([]byte, error)
}

// Load reads and checks the settings. Its error is a *Problems with everything
// that is wrong.
func Load(o Options) (Settings, error) {
	if o.ReadFile == nil {
		o.ReadFile = os.ReadFile
	}
	l := loader{Options: o, k: koanf.New("."), origin: map[string]string{}, bad: map[string]bool{}}
	l.defaults()
	l.dockerHost()
	l.file()
	l.env()
	s := l.decode()
	if !l.blind {
		check(&s, l.add, l.bad)
	}
	if len(l.problems.List) > 0 {
		return Settings{}, &l.problems
	}
	return s, nil
}

// loader lays the sources over each other.
type loader struct {
	Options
	k        *koanf.Koanf
	problems Problems
	origin   map[string]string // where a key's value comes from, "" for the default
	bad      map[string]bool   // keys with a problem already; one each is enough
	blind    bool              // a source could not be read: what is missing may be in it
}

// add notes a problem with a key, with the place its value comes from.
func (l *loader) add(key, format string, args ...any) {
	if l.bad[key] {
		return
	}
	l.bad[key] = true
	text := fmt.Sprintf(format, args...)
	field, _, _ := strings.Cut(key, "[")
	if from := l.origin[field]; from != "" {
		text += " (" + from + ")"
	}
	l.problems.add(key, "%s", text)
}

// layer puts values over those of the layers before.
func (l *loader) layer(values map[string]any) {
	if err := l.k.Load(confmap.Provider(values, "."), nil); err != nil {
		l.problems.add("settings", "%v", err) // a map cannot fail to load
	}
}

func (l *loader) defaults() {
	values := map[string]any{}
	for _, f := range schema {
		if f.def != "" {
			values[f.key] = f.def
		}
	}
	l.layer(values)
}

// dockerHost takes the docker CLI's own variable as a default.
func (l *loader) dockerHost() {
	for _, kv := range l.Env {
		if host, ok := strings.CutPrefix(kv, "DOCKER_HOST="); ok && host != "" {
			l.layer(map[string]any{"docker.host": host})
			l.origin["docker.host"] = "DOCKER_HOST"
		}
	}
}

func (l *loader) file() {
	if l.File == "" {
		return
	}
	data, err := l.ReadFile(l.File)
	if errors.Is(err, fs.ErrNotExist) && !l.Explicit {
		return
	}
	if err != nil {
		l.problems.add(l.File, "cannot be read: %s", reason(err))
		l.blind = true
		return
	}
	entries, err := parseFile(data)
	if err != nil {
		l.problems.add(l.File, "%s", err)
		l.blind = true
		return
	}
	values, seen := map[string]any{}, map[string]int{}
	for _, e := range entries {
		from := fmt.Sprintf("%s line %d", l.File, e.line)
		_, known := fieldByKey(e.key)
		instead, once := gone[e.key]
		switch {
		case once:
			l.problems.add(e.key, "%s (%s)", instead, from)
		case !known && isSection(e.key):
			if e.value != nil {
				l.problems.add(e.key, "is a section, write its keys under it (%s)", from)
			}
		case !known:
			l.problems.add(e.key, "unknown key%s (%s)", didYouMean(e.key, keys(), ""), from)
		case seen[e.key] > 0:
			l.problems.add(e.key, "is set twice, on lines %d and %d of %s: keep one", seen[e.key], e.line, l.File)
		case e.hidden != "":
			l.problems.add(e.key, "has no value, only the comment %s: if that is the value, put it in quotes (%s)", show(e.hidden), from)
		case e.value != nil:
			values[e.key] = e.value
			l.origin[e.key] = from
		}
		seen[e.key] = e.line
	}
	l.layer(values)
}

func keys() []string {
	out := make([]string, len(schema))
	for i, f := range schema {
		out[i] = f.key
	}
	return out
}

// env takes the environment: every key by its name, secrets from files too.
func (l *loader) env() {
	byName, files := map[string]field{}, map[string]field{}
	var names []string
	for _, f := range schema {
		byName[f.env] = f
		names = append(names, f.env)
		if f.fileEnv != "" {
			files[f.fileEnv] = f
			names = append(names, f.fileEnv)
		}
	}
	direct, inFiles, unknown := map[string]any{}, map[string]string{}, []string{}
	for _, kv := range l.Env {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || slices.Contains(notSettings, name) {
			continue
		}
		f, isDirect := byName[name]
		inFile, isFile := files[name]
		_, once := goneEnv(name)
		switch {
		case once && value == "": // not set
		case !isDirect && !isFile:
			unknown = append(unknown, name)
		case value == "": // not set
		case isDirect:
			direct[f.key] = value
		default:
			inFiles[inFile.key] = value
		}
	}

	slices.Sort(unknown)
	for _, name := range unknown {
		if instead, once := goneEnv(name); once {
			l.problems.add(name, "%s", instead)
			continue
		}
		l.problems.add(name, "unknown variable%s", didYouMean(name, names, ""))
	}
	for _, f := range schema {
		path, ok := inFiles[f.key]
		if !ok {
			if _, set := direct[f.key]; set {
				l.origin[f.key] = f.env
			}
			continue
		}
		if _, both := direct[f.key]; both {
			delete(direct, f.key)
			l.origin[f.key] = ""
			l.add(f.key, "%s and %s are both set: keep one", f.env, f.fileEnv)
			continue
		}
		l.origin[f.key] = f.fileEnv
		data, err := l.ReadFile(path)
		if err != nil {
			l.add(f.key, "%s cannot be read: %s", show(path), reason(err))
			continue
		}
		if text := strings.TrimRight(string(data), "\r\n"); text != "" {
			direct[f.key] = text
		}
	}
	l.layer(direct)
}

// reason is the cause of a file error, without the operation and path.
func reason(err error) string {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return err.Error()
}

func (l *loader) decode() Settings {
	var s Settings
	for _, f := range schema {
		raw := l.k.Get(f.key)
		if raw == nil || l.bad[f.key] {
			continue
		}
		decode(f, raw, f.value(&s), l.add)
	}
	return s
}

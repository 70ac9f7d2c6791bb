package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"waggle/internal/secret"
)

const envPrefix = "WAGGLE_"

// notSettings are environment variables with Waggle's prefix that are not
// settings.
var notSettings = []string{"WAGGLE_LAB"} // turns the swarm tests on

// toRegistryAdd is what to do instead of the one registry that was a setting.
const toRegistryAdd = "is no setting any more: set secret_key, and add the registry with `/registry add`, which keeps its password sealed in the swarm"

// gone are keys that were settings once, with what to do instead.
var gone = map[string]string{
	"registry.domain": toRegistryAdd, "registry.prefix": toRegistryAdd, "registry.username": toRegistryAdd, "registry.password": toRegistryAdd,
}

// goneEnv returns what to do instead of a variable that set one of those keys.
func goneEnv(name string) (string, bool) {
	for key, instead := range gone {
		if env := envName(key); name == env || name == env+"_FILE" {
			return instead, true
		}
	}
	return "", false
}

// field is one key of the settings.
type field struct {
	key     string // slack.bot_token
	env     string // WAGGLE_SLACK_BOT_TOKEN
	fileEnv string // WAGGLE_SLACK_BOT_TOKEN_FILE, "" unless it holds a secret
	def     string // default, as one would write it
	shown   string // default, as the docs put it
	doc     string
	typ     reflect.Type
	index   []int // where it is in Settings
}

// value returns the field in s, settable.
func (f field) value(s *Settings) reflect.Value {
	return reflect.ValueOf(s).Elem().FieldByIndex(f.index)
}

var (
	textType       = reflect.TypeFor[secret.Text]()
	textsType      = reflect.TypeFor[[]secret.Text]()
	stringsType    = reflect.TypeFor[[]string]()
	durationType   = reflect.TypeFor[time.Duration]()
	credentialType = reflect.TypeFor[GitCredential]()
)

// schema is every key of Settings, in order.
var schema = fieldsOf(reflect.TypeFor[Settings](), "", nil)

func fieldsOf(t reflect.Type, path string, index []int) []field {
	var out []field
	for i := range t.NumField() {
		sf := t.Field(i)
		key := path + sf.Tag.Get("koanf")
		at := append(slices.Clone(index), i)
		if sf.Type.Kind() == reflect.Struct {
			fields := fieldsOf(sf.Type, key+".", at)
			if doc := sf.Tag.Get("doc"); doc != "" {
				for i := range fields {
					fields[i].doc = doc + "; " + fields[i].doc
				}
			}
			out = append(out, fields...)
			continue
		}
		f := field{
			key: key, env: envName(key), typ: sf.Type, index: at,
			def: sf.Tag.Get("default"), doc: sf.Tag.Get("doc"),
		}
		var ok bool
		if f.shown, ok = sf.Tag.Lookup("shown"); !ok && f.def != "" {
			f.shown = "`" + f.def + "`"
		}
		if f.secret() {
			f.fileEnv = f.env + "_FILE"
		}
		out = append(out, f)
	}
	return out
}

// secret says whether the value must not be printed, not even in an error.
func (f field) secret() bool {
	return f.typ == textType || f.typ == textsType || f.typ == reflect.SliceOf(credentialType)
}

func envName(key string) string {
	return envPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(key))
}

func fieldByKey(key string) (field, bool) {
	i := slices.IndexFunc(schema, func(f field) bool { return f.key == key })
	if i < 0 {
		return field{}, false
	}
	return schema[i], true
}

// isSection says whether keys exist under key.
func isSection(key string) bool {
	return slices.ContainsFunc(schema, func(f field) bool { return strings.HasPrefix(f.key, key+".") })
}

// Docs returns the page about settings: docs/settings.md.
func Docs() string {
	var b strings.Builder
	b.WriteString(docsHead)
	for _, f := range schema {
		env := "`" + f.env + "`"
		if f.fileEnv != "" {
			env += " `…_FILE`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.key, env, f.shown, strings.ReplaceAll(f.doc, "|", `\|`))
	}
	b.WriteString(docsTail)
	return b.String()
}

const docsHead = `# Settings

<!-- Made from the Settings struct in config/: go test ./config -run Docs -update -->

Settings come from ` + "`waggle.yaml`" + ` and from the environment; the environment beats the file, and an empty variable counts as not set.
A secret can also come from a file that its ` + "`…_FILE`" + ` variable names (Docker secrets); newlines at its end are dropped.
At start all problems are listed at once, each with its key, and an unknown key or ` + "`WAGGLE_*`" + ` variable is one of them.

| key | environment | default | meaning |
|---|---|---|---|
`

const docsTail = `
Durations are written ` + "`90s`, `20m` or `1h30m`" + `. A list is a YAML list; in the environment its items are separated by commas or spaces, secrets by newlines.

` + "```yaml" + `
listen: 0.0.0.0:8080
slack:
  channel: "#ops"            # in quotes: a bare # begins a comment
redis:
  url: redis://redis:6379/0
webhooks:
  github:
    secret: [new-secret, old-secret]   # both are good while rotating
git:
  known_hosts_file: /etc/waggle/known_hosts   # what ssh-keyscan prints
  credentials:
    - host: github.com
      username: deploy
      token: ghp_…
    - host: git.example.com
      ssh_key_file: /run/secrets/git_ssh_key
roles:
  operators: [U024BE7LH, S0604QSJC]
` + "```" + `
`

package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"waggle/internal/secret"
)

// adder notes a problem with a key.
type adder func(key, format string, args ...any)

// decode sets v to the raw value of a field: a string, or a list as parseFile
// gives it. What it says about a secret never contains it.
func decode(f field, raw any, v reflect.Value, add adder) {
	switch f.typ {
	case reflect.SliceOf(credentialType):
		v.Set(reflect.ValueOf(credentials(f, raw, add)))
		return
	case stringsType:
		list, ok := texts(raw, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\r' || r == '\t' })
		if !ok {
			add(f.key, "must be a list of plain values")
			return
		}
		v.Set(reflect.ValueOf(list))
		return
	case textsType:
		list, ok := texts(raw, func(r rune) bool { return r == '\n' || r == '\r' })
		if !ok {
			add(f.key, "must be one secret or a list of secrets")
			return
		}
		secrets := make([]secret.Text, len(list))
		for i, text := range list {
			secrets[i] = secret.Text(text)
		}
		v.Set(reflect.ValueOf(secrets))
		return
	}

	text, ok := raw.(string)
	if !ok {
		add(f.key, "must be one value, not a list")
		return
	}
	switch {
	case f.typ == textType:
		v.SetString(text)
	case f.typ == durationType:
		d, err := time.ParseDuration(strings.TrimSpace(text))
		if err != nil {
			add(f.key, "%s is not a duration, write one like 90s, 20m or 1h30m", show(text))
			return
		}
		v.SetInt(int64(d))
	case f.typ.Kind() == reflect.Int:
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || strconv.Itoa(n) != strings.TrimSpace(text) {
			add(f.key, "%s is not a whole number", show(text))
			return
		}
		v.SetInt(int64(n))
	case f.typ.Kind() == reflect.Bool:
		switch strings.TrimSpace(text) {
		case "true":
			v.SetBool(true)
		case "false":
			v.SetBool(false)
		default:
			add(f.key, "%s is neither true nor false", show(text))
		}
	case f.typ.Kind() == reflect.String:
		v.SetString(strings.TrimSpace(text))
	default:
		panic("config: " + f.key + " has a type that decode does not know: " + f.typ.String())
	}
}

// texts returns a list's items, or those of one text by its separators; empty
// items are dropped.
func texts(raw any, separator func(rune) bool) ([]string, bool) {
	var out []string
	add := func(text string) {
		for _, item := range strings.FieldsFunc(text, separator) {
			if item = strings.TrimSpace(item); item != "" {
				out = append(out, item)
			}
		}
	}
	switch raw := raw.(type) {
	case string:
		add(raw)
	case []any:
		for _, item := range raw {
			text, ok := item.(string)
			if !ok {
				return nil, false
			}
			add(text)
		}
	}
	return out, true
}

// credentials decodes git.credentials; in the environment it is a YAML or JSON
// text.
func credentials(f field, raw any, add adder) []GitCredential {
	const usage = "must be a list, each with host, and token or ssh_key_file"
	if text, ok := raw.(string); ok {
		node, err := parseYAML([]byte(text))
		if err != nil {
			add(f.key, "%s", err)
			return nil
		}
		if node == nil {
			return nil
		}
		if raw, err = leaf(node); err != nil {
			add(f.key, "%s", err)
			return nil
		}
	}
	list, ok := raw.([]any)
	if !ok {
		add(f.key, usage)
		return nil
	}
	out := make([]GitCredential, len(list))
	for i, item := range list {
		m, ok := item.(map[string]string)
		if !ok {
			add(f.key, usage)
			return nil
		}
		v := reflect.ValueOf(&out[i]).Elem()
		var names []string
		for j := range credentialType.NumField() {
			name := credentialType.Field(j).Tag.Get("koanf")
			names = append(names, name)
			v.Field(j).SetString(strings.TrimSpace(m[name]))
			delete(m, name)
		}
		for _, name := range slices.Sorted(maps.Keys(m)) {
			key := fmt.Sprintf("%s[%d].", f.key, i)
			add(key+name, "unknown key%s", didYouMean(name, names, key))
		}
	}
	return out
}

package bot

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"waggle/internal/nearest"
	"waggle/ops"
)

// Args are the words of a command line after the verb, and its flags.
type Args struct {
	Words   []string
	Flags   map[string]bool   // --force
	Options map[string]string // --user root, --user=root
}

var (
	// What Slack makes of links, people and channels when "escape" is on:
	// <http://x|x>, <@U1|ann>, <#C1|ops>.
	// Source: https://docs.slack.dev/interactivity/implementing-slash-commands#escaping
	escaped = regexp.MustCompile(`<([^<>|]+)(?:\|([^<>]*))?>`)

	// Phones and keyboards put these in place of what was typed.
	typed = strings.NewReplacer(
		"“", `"`, "”", `"`, "„", `"`, "‘", "'", "’", "'",
		"—", "--", "–", "-", "−", "-", "\u00a0", " ")

	entities = strings.NewReplacer("&lt;", "<", "&gt;", ">", "&amp;", "&")
)

// plain undoes what Slack and keyboards do to a typed line.
func plain(text string) string {
	text = escaped.ReplaceAllStringFunc(text, func(s string) string {
		m := escaped.FindStringSubmatch(s)
		if strings.HasPrefix(m[1], "@") || strings.HasPrefix(m[1], "#") {
			return m[1][1:] // the id: names are not unique
		}
		if m[2] != "" {
			return m[2]
		}
		return strings.TrimPrefix(m[1], "mailto:")
	})
	return typed.Replace(entities.Replace(text))
}

// parseArgs sorts words into flags, options and the others.
func parseArgs(words, flags, options []string) (Args, error) {
	args := Args{Flags: map[string]bool{}, Options: map[string]string{}}
	for len(words) > 0 {
		w := words[0]
		words = words[1:]
		name, isFlag := strings.CutPrefix(w, "--")
		if !isFlag || name == "" {
			args.Words = append(args.Words, w)
			continue
		}
		name, value, given := strings.Cut(name, "=")
		switch {
		case slices.Contains(flags, name) && !given:
			args.Flags[name] = true
		case slices.Contains(flags, name):
			return args, ops.Errorf(ops.Invalid, "--%s takes no value", name)
		case !slices.Contains(options, name):
			e := ops.Errorf(ops.Invalid, "Unknown flag --%s", name)
			if near := nearest.Of(name, slices.Concat(flags, options)); near != "" {
				e.Then("Did you mean `--%s`?", near)
			}
			return args, e
		case !given && len(words) == 0:
			return args, ops.Errorf(ops.Invalid, "--%s needs a value", name)
		default:
			if !given {
				value, words = words[0], words[1:]
			}
			args.Options[name] = value
		}
	}
	return args, nil
}

// split cuts a line at its spaces, those in quotes left out. A ' within a word is an
// apostrophe.
func split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	begun := false
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '"', c == '\'' && (!begun || strings.HasSuffix(word.String(), "=")):
			quote, begun = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if begun {
				words = append(words, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(c)
			begun = true
		}
	}
	if quote != 0 {
		return nil, ops.Errorf(ops.Invalid, "A quote (%c) is not closed", quote).Then("Type it again with a second one; nothing was changed.")
	}
	if begun {
		words = append(words, word.String())
	}
	return words, nil
}

// serviceName is what Docker accepts as a service's name.
var serviceName = regexp.MustCompile(`^[a-zA-Z0-9](?:[-_.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?$`)

func parseApp(word string) (string, error) {
	if !serviceName.MatchString(word) {
		return "", ops.Errorf(ops.Invalid, "%q is no app's name: it has letters, digits and - _ . only, at most 63", word)
	}
	return word, nil
}

var (
	wholeNumber = regexp.MustCompile(`^[+-]?[0-9]+$`)
	fraction    = regexp.MustCompile(`^[+-]?[0-9]*[.,][0-9]+$`)
)

// parseCount reads 6, +2 or -1; relative says that it has a sign.
func parseCount(word string) (n int, relative bool, err error) {
	relative = strings.HasPrefix(word, "+") || strings.HasPrefix(word, "-")
	switch {
	case fraction.MatchString(word):
		return 0, false, ops.Errorf(ops.Invalid, "%s is a fraction, and replicas are whole", word)
	case !wholeNumber.MatchString(word):
		return 0, false, ops.Errorf(ops.Invalid, "%q is not a number of replicas", word).
			Then("Give a whole number (`6`), or how many more (`+2`) or fewer (`-1`).")
	}
	n, err = strconv.Atoi(word)
	if err != nil { // digits, so it is too large
		return 0, false, ops.Errorf(ops.Invalid, "%s is too large a number of replicas", cut(word, 20))
	}
	return n, relative, nil
}

// cut shortens text to n characters and says so.
func cut(text string, n int) string {
	r := []rune(text)
	if len(r) <= n {
		return text
	}
	return fmt.Sprintf("%s…", string(r[:n-1]))
}

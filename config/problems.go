package config

import (
	"fmt"
	"strings"

	"waggle/internal/nearest"
)

// Problem is one thing that is wrong with the settings.
type Problem struct {
	Key  string // the setting, variable or file
	Text string // what is wrong and what to do; never a secret
}

func (p Problem) String() string { return p.Key + ": " + p.Text }

// Problems are all things that are wrong with the settings, as an error of one
// line each.
type Problems struct {
	List []Problem
}

func (p *Problems) Error() string {
	lines := make([]string, len(p.List))
	for i, problem := range p.List {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

func (p *Problems) add(key, format string, args ...any) {
	p.List = append(p.List, Problem{Key: printable(key), Text: fmt.Sprintf(format, args...)})
}

// printable keeps a key that somebody else wrote to one line.
func printable(key string) string {
	quoted := fmt.Sprintf("%q", key)
	return quoted[1 : len(quoted)-1]
}

// show quotes a value for a problem's text, unless it may hold a password.
func show(value string) string {
	if strings.Contains(value, "@") {
		return "the value"
	}
	if r := []rune(value); len(r) > 60 {
		value = string(r[:60]) + "…"
	}
	return fmt.Sprintf("%q", value)
}

// didYouMean ends the text about an unknown name.
func didYouMean(word string, candidates []string, prefix string) string {
	if near := nearest.Of(word, candidates); near != "" {
		return ", did you mean " + prefix + near + "?"
	}
	// What is near no other may at least be in the right section.
	section, _, _ := strings.Cut(word, ".")
	var siblings []string
	for _, c := range candidates {
		if strings.HasPrefix(c, section+".") {
			siblings = append(siblings, c)
		}
	}
	if len(siblings) > 0 {
		return ", there are " + strings.Join(siblings, ", ")
	}
	return ", all are listed in docs/settings.md"
}

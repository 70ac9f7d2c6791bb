package config

import (
	"fmt"
	"strings"
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

// nearest returns the candidate with the smallest edit distance to word, the
// first of several.
func nearest(word string, candidates []string) string {
	best, bestDistance := "", -1
	for _, c := range candidates {
		if d := distance(word, c); bestDistance < 0 || d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is the Levenshtein distance of two ASCII words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

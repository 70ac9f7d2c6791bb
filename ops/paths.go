package ops

import (
	"fmt"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// untouched says why a push changes nothing that the app is made of, by the
// label waggle.paths; "" when it does, or may: a forge does not always tell all
// that was changed. The error is about the label, and nothing is left out then.
//
// The label is a list with commas or spaces between patterns for paths from the
// root of the repository, as github.com/bmatcuk/doublestar has them:
//
//	src       the file or directory, and everything below it
//	src/*.go  * is anything within a name, ? one character, [a-z] one of these
//	**/*.md   ** is any directories, also none
//	{a,b}.go  one of these
//	!src/doc  not this: of the patterns that fit a path, the last one counts
//
// A list that begins with a ! means everything but that.
func (s Service) untouched(p Push) (string, error) {
	patterns, err := parsePaths(s.Labels[LabelPaths])
	if err != nil {
		return "", fmt.Errorf("label %s of %s: %w", LabelPaths, s.Name, err)
	}
	if len(patterns) == 0 || len(p.Files) == 0 {
		return "", nil
	}
	for _, file := range p.Files {
		if touches(patterns, file) {
			return "", nil
		}
	}
	what := fmt.Sprintf("%d files, such as %s", len(p.Files), p.Files[0])
	if len(p.Files) == 1 {
		what = p.Files[0]
	}
	return fmt.Sprintf("only paths outside %s of %s were changed: %s", LabelPaths, s.Name, what), nil
}

// parsePaths reads the patterns of a label; a negative one begins with "!".
func parsePaths(label string) ([]string, error) {
	patterns := splitPatterns(label)
	for i, pattern := range patterns {
		path, negative := strings.CutPrefix(pattern, "!")
		path = strings.Trim(strings.TrimPrefix(path, "./"), "/")
		if path == "" || !doublestar.ValidatePattern(path) {
			return nil, fmt.Errorf("%q is no pattern of paths, write one like src or **/*.go", pattern)
		}
		patterns[i] = path
		if negative {
			patterns[i] = "!" + path
		}
	}
	return patterns, nil
}

func checkPaths(label string) error {
	_, err := parsePaths(label)
	return err
}

// touches says whether a path is one of those that the patterns, which are
// valid, mean.
func touches(patterns []string, file string) bool {
	in := strings.HasPrefix(patterns[0], "!")
	for _, pattern := range patterns {
		path, negative := strings.CutPrefix(pattern, "!")
		if doublestar.MatchUnvalidated(path, file) || doublestar.MatchUnvalidated(path+"/**", file) {
			in = !negative
		}
	}
	return in
}

// splitPatterns splits at commas and spaces, but not within {a,b}.
func splitPatterns(label string) []string {
	depth := 0
	return strings.FieldsFunc(label, func(r rune) bool {
		switch r {
		case '{':
			depth++
		case '}':
			depth--
		}
		return r == ' ' || r == '\n' || r == '\t' || r == '\r' || r == ',' && depth <= 0
	})
}

// Package nearest finds what somebody probably meant to type.
package nearest

import (
	"strings"

	"github.com/agnivade/levenshtein"
)

// Of returns the candidate closest to word, or "" when none is close: more than
// a third of the word (and at least two letters) would have to change.
func Of(word string, candidates []string) string {
	best, least := "", max(2, len(word)/3)+1
	for _, c := range candidates {
		if d := levenshtein.ComputeDistance(strings.ToLower(word), strings.ToLower(c)); d < least {
			best, least = c, d
		}
	}
	return best
}

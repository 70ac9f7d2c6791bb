package webhooks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"waggle/internal/secret"
)

// What forges have in common.

// signedBy says whether signature is the hexadecimal HMAC-SHA256 of body under
// one of the secrets. It tries all of them, in constant time each.
func signedBy(signature string, body []byte, secrets []secret.Text) bool {
	got, err := hex.DecodeString(signature)
	if err != nil || len(got) != sha256.Size {
		return false
	}
	good := false
	for _, s := range secrets {
		if s.Empty() {
			continue
		}
		mac := hmac.New(sha256.New, []byte(s.Reveal()))
		mac.Write(body)
		if hmac.Equal(got, mac.Sum(nil)) {
			good = true
		}
	}
	return good
}

var commitHash = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// isZero says whether a hash is all zeros: there is no commit.
func isZero(hash string) bool { return hash != "" && strings.Trim(hash, "0") == "" }

// branchOf returns the branch of a ref. Other refs are ignored; what Git itself
// would not take as a name is an error.
func branchOf(ref string) (string, error) {
	if ref == "" {
		return "", errors.New("the push names no ref")
	}
	if tag, ok := strings.CutPrefix(ref, "refs/tags/"); ok {
		return "", ignored(fmt.Sprintf("%q is a tag, only pushes to a branch deploy", clip(tag)))
	}
	branch, ok := strings.CutPrefix(ref, "refs/heads/")
	if !ok {
		return "", ignored(fmt.Sprintf("%q is not a branch", clip(ref)))
	}
	bad := branch == "" || branch == "@" || branch[0] == '-' || branch[0] == '/' ||
		strings.HasSuffix(branch, "/") || strings.HasSuffix(branch, ".") ||
		strings.Contains(branch, "..") || strings.Contains(branch, "//") || strings.Contains(branch, "@{") ||
		strings.ContainsFunc(branch, func(r rune) bool {
			return r <= ' ' || r == 0x7f || r == '\uFFFD' || strings.ContainsRune(`~^:?*[\`, r)
		})
	for part := range strings.SplitSeq(branch, "/") {
		bad = bad || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock")
	}
	if bad {
		return "", fmt.Errorf("%q is not a name that Git allows for a branch", clip(branch))
	}
	return branch, nil
}

var skipMarks = []string{"[skip ci]", "[ci skip]", "[skip deploy]"}

// skipMark returns the mark in a commit message that asks for no deploy, "" if
// there is none.
func skipMark(message string) string {
	message = strings.ToLower(message)
	i := slices.IndexFunc(skipMarks, func(mark string) bool { return strings.Contains(message, mark) })
	if i < 0 {
		return ""
	}
	return skipMarks[i]
}

// distinct returns the texts that are not empty, each once, in order.
func distinct(texts ...string) []string {
	var out []string
	for _, t := range texts {
		if t != "" && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}

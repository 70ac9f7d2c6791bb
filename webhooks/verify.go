package webhooks

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"

	"waggle/internal/secret"
)

// Ways to vouch for a delivery that several forges share. All secrets are tried,
// in constant time each, so that the time tells nothing about any.

var errSignature = errors.New("bad or missing signature")

// hmacOf is the HMAC-SHA256 of the parts one after the other.
func hmacOf(key []byte, parts ...[]byte) []byte {
	mac := hmac.New(sha256.New, key)
	for _, p := range parts {
		mac.Write(p) // never fails
	}
	return mac.Sum(nil)
}

// signedHex returns nil when signature is the hexadecimal HMAC-SHA256 of body
// under one of the secrets.
func signedHex(signature string, body []byte, secrets []secret.Text) error {
	got, err := hex.DecodeString(signature)
	if err != nil || len(got) != sha256.Size {
		return errSignature
	}
	good := false
	for _, s := range secrets {
		if hmac.Equal(got, hmacOf([]byte(s.Reveal()), body)) {
			good = true
		}
	}
	if !good {
		return errSignature
	}
	return nil
}

// equals says whether text is exactly one of the secrets. What is compared are
// hashes, so that their lengths tell nothing either.
func equals(text string, secrets []secret.Text) bool {
	got := sha256.Sum256([]byte(text))
	good := false
	for _, s := range secrets {
		want := sha256.Sum256([]byte(s.Reveal()))
		if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
			good = true
		}
	}
	return good && text != ""
}

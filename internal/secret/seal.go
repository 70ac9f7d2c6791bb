package secret

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"
)

// KeySize is the length of a key for sealing, in bytes.
const KeySize = chacha20poly1305.KeySize

// sealVersion begins what is sealed: XChaCha20-Poly1305 with a random nonce
// (draft-irtf-cfrg-xchacha-03), as v1.<id of the key>.<nonce and ciphertext>.
const sealVersion = "v1"

var (
	// ErrNoKey says that there is no key to seal or open with.
	ErrNoKey = errors.New("no key is set")
	// ErrDamaged says that something is not what was sealed, or was sealed for
	// another place.
	ErrDamaged = errors.New("it is damaged, or was sealed for another place")
)

// OtherKeyError says that something was sealed with another key.
type OtherKeyError struct {
	Sealed string // id of the key that it was sealed with
	Have   string // id of the key at hand
}

func (e *OtherKeyError) Error() string {
	return fmt.Sprintf("it is sealed with the key %s, and the key at hand is %s", e.Sealed, e.Have)
}

// Key seals secrets, so that they can be kept where others may read. The zero
// value is no key.
type Key struct {
	aead cipher.AEAD
	id   string
}

// NewKey makes a key of KeySize random bytes.
func NewKey(b []byte) (Key, error) {
	aead, err := chacha20poly1305.NewX(b)
	if err != nil {
		return Key{}, err
	}
	mac := hmac.New(sha256.New, b)
	mac.Write([]byte("waggle: id of a sealing key"))
	return Key{aead: aead, id: hex.EncodeToString(mac.Sum(nil)[:4])}, nil
}

// ID names the key by eight hexadecimal digits and tells nothing of it; "" for no
// key.
func (k Key) ID() string { return k.id }

// Seal encrypts the secret for one place: it opens only there. ErrNoKey is the
// only error.
func (k Key) Seal(t Text, place string) (string, error) {
	if k.aead == nil {
		return "", ErrNoKey
	}
	nonce := make([]byte, k.aead.NonceSize(), k.aead.NonceSize()+len(t)+k.aead.Overhead())
	_, _ = rand.Read(nonce) // never fails
	box := k.aead.Seal(nonce, nonce, []byte(t), k.bound(place))
	return strings.Join([]string{sealVersion, k.id, base64.RawURLEncoding.EncodeToString(box)}, "."), nil
}

// Open decrypts what was sealed for that place. Errors are ErrNoKey, an
// *OtherKeyError or ErrDamaged.
func (k Key) Open(sealed, place string) (Text, error) {
	parts := strings.Split(sealed, ".")
	if len(parts) != 3 || parts[0] != sealVersion {
		return "", ErrDamaged
	}
	switch {
	case k.aead == nil:
		return "", ErrNoKey
	case parts[1] != k.id:
		return "", &OtherKeyError{Sealed: parts[1], Have: k.id}
	}
	box, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(box) < k.aead.NonceSize() || strings.ContainsAny(parts[2], "\r\n") { // which are skipped
		return "", ErrDamaged
	}
	text, err := k.aead.Open(nil, box[:k.aead.NonceSize()], box[k.aead.NonceSize():], k.bound(place))
	if err != nil {
		return "", ErrDamaged
	}
	return Text(text), nil
}

// SealedWith returns the id of the key that something was sealed with, "" when
// that cannot be told.
func SealedWith(sealed string) string {
	parts := strings.Split(sealed, ".")
	if len(parts) != 3 || parts[0] != sealVersion {
		return ""
	}
	return parts[1]
}

// bound is what is authenticated beside the secret itself.
func (k Key) bound(place string) []byte {
	return []byte(sealVersion + "." + k.id + "\x00" + place)
}

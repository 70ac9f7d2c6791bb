package secret_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"waggle/internal/secret"
)

func key(t testing.TB, b byte) secret.Key {
	t.Helper()
	k, err := secret.NewKey(bytes.Repeat([]byte{b}, secret.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSeal(t *testing.T) {
	k := key(t, 1)
	for name, text := range map[string]string{
		"word": "canary", "empty": "", "any bytes": "\x00\xff\n:\"'$`\\ \u2028", "long": strings.Repeat("x", 100_000), "umlauts": "Käse🧀",
	} {
		t.Run(name, func(t *testing.T) {
			sealed, err := k.Seal(secret.Text(text), "here")
			if err != nil {
				t.Fatal(err)
			}
			if len(text) > 3 && strings.Contains(sealed, text) {
				t.Errorf("sealed it is %q", sealed)
			}
			if again, _ := k.Seal(secret.Text(text), "here"); again == sealed {
				t.Error("sealed twice it is the same: the nonce is not random")
			}
			if got, err := k.Open(sealed, "here"); err != nil || got.Reveal() != text {
				t.Errorf("opened %q, %v", got.Reveal(), err)
			}
			if got, err := k.Open(sealed, "there"); !errors.Is(err, secret.ErrDamaged) || got != "" {
				t.Errorf("opened for another place: %q, %v", got.Reveal(), err)
			}
			if id := secret.SealedWith(sealed); id != k.ID() || len(id) != 8 {
				t.Errorf("sealed with %q, the key is %q", id, k.ID())
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	k, other := key(t, 1), key(t, 2)
	sealed, err := k.Seal("canary", "here")
	if err != nil {
		t.Fatal(err)
	}
	wrong := new(secret.OtherKeyError)
	if _, err := other.Open(sealed, "here"); !errors.As(err, &wrong) || wrong.Sealed != k.ID() || wrong.Have != other.ID() || k.ID() == other.ID() {
		t.Errorf("another key: %v", err)
	}
	if _, err := (secret.Key{}).Open(sealed, "here"); !errors.Is(err, secret.ErrNoKey) {
		t.Errorf("no key: %v", err)
	}
	if _, err := (secret.Key{}).Seal("canary", "here"); !errors.Is(err, secret.ErrNoKey) {
		t.Errorf("seal without a key: %v", err)
	}
	flipped := []byte(sealed)
	flipped[len(flipped)-9] ^= 1
	for name, s := range map[string]string{
		"nothing": "", "plain": "canary", "a later version": "v2" + sealed[2:], "two parts": "v1." + k.ID(),
		"no base64": "v1." + k.ID() + ".!!", "too short": "v1." + k.ID() + ".AAAA", "flipped": string(flipped), "cut": sealed[:len(sealed)-4], "relabelled": "v1." + k.ID() + "." + strings.Repeat("A", 80),
	} {
		if got, err := k.Open(s, "here"); err == nil || got != "" {
			t.Errorf("%s: opened %q", name, got.Reveal())
		} else if strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v tells the secret", name, err)
		}
	}
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := secret.NewKey(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes was taken", n)
		}
	}
	if text := fmt.Sprintf("%v %+v %s", k, k, k.ID()); strings.Contains(text, "\x01\x01") || strings.Contains(text, "1 1 1 1") {
		t.Errorf("a key prints as %q", text)
	}
}

// kept was sealed by the first version, for "here" with key(1): what is kept in
// a swarm must open with every later one.
const kept = "v1.798649b4.hKyIe_0_rY73L7I6dVTvpq-jwuYTsvw_eYB_6VHn9kABDUG3D6QyEP7uVY3zDQ"

func TestOpenWhatIsKept(t *testing.T) {
	if got, err := key(t, 1).Open(kept, "here"); err != nil || got != "canary" {
		t.Errorf("opened %q, %v", got.Reveal(), err)
	}
}

func FuzzOpen(f *testing.F) {
	k := key(f, 1)
	f.Add(kept, "here")
	f.Add("v1."+k.ID()+".AAAA", "")
	f.Add(kept[:40]+"\r"+kept[40:], "here")
	f.Add(kept+"\n", "here")
	f.Fuzz(func(t *testing.T, s, place string) {
		if got, err := k.Open(s, place); err == nil && (s != kept || place != "here" || got != "canary") {
			t.Errorf("%q opens for %q", s, place)
		}
	})
}

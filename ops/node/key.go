package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"waggle/internal/secret"
	"waggle/ops"
)

// keyName is the file of Waggle's own key, and keyComment says in authorized_keys
// whose it is.
const (
	keyName    = "ssh_key"
	keyComment = "waggle"
)

// keyring is the private key, read from its file when that has changed.
type keyring struct {
	file       string // "" is a key of our own in dir
	passphrase secret.Text
	dir        string // "" is the default
	log        *slog.Logger

	mu   sync.Mutex
	read ssh.Signer
	as   os.FileInfo // the file when it was read
}

// signer returns the key, and makes it if there is none and none is configured.
func (k *keyring) signer(ctx context.Context) (ssh.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, &ops.Error{Code: ops.Canceled, Sentence: "Called off: read the SSH key", Err: err}
	}
	path := k.file
	if path == "" {
		var err error
		if path, err = k.own(); err != nil {
			return nil, err
		}
	}
	if st, err := os.Stat(path); err == nil && k.read != nil && os.SameFile(st, k.as) && st.ModTime().Equal(k.as.ModTime()) && st.Size() == k.as.Size() {
		return k.read, nil
	}
	signer, st, err := k.load(path)
	if err != nil {
		return nil, err
	}
	k.read, k.as = signer, st
	return signer, nil
}

// load reads the private key in a file.
func (k *keyring) load(path string) (ssh.Signer, os.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, unreadable(path, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, nil, unreadable(path, err)
	}
	if st.IsDir() {
		return nil, nil, keyFailed(nil, "The SSH key %s is a directory", path).Then("Set ssh.key_file to the file with the private key")
	}
	text, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return nil, nil, unreadable(path, err)
	}
	// What else the file holds is told before who else may read it: a public key
	// may be read by all.
	signer, err := k.parse(text, path)
	if err != nil {
		return nil, nil, err
	}
	if mode := st.Mode().Perm(); mode&0o077 != 0 && !mayBeReadable(path) {
		return nil, nil, keyFailed(nil, "Others than Waggle may read its SSH key %s: its mode is %#o", path, mode).Then("Run `chmod 600 %s`", path)
	}
	return signer, st, nil
}

// mayBeReadable says whether the file is a Docker secret. Those are mounted for
// all in the container to read unless the service says otherwise, and Waggle is
// alone there.
func mayBeReadable(path string) bool { return filepath.Dir(path) == "/run/secrets" }

func unreadable(path string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return keyFailed(err, "There is no SSH key at %s", path).Then("Make one with `ssh-keygen -t ed25519 -f %s`, or leave ssh.key_file out: then Waggle makes its own", path)
	case errors.Is(err, os.ErrPermission):
		return keyFailed(err, "Waggle may not read its SSH key %s", path).Then("Give the file to the user that Waggle runs as: it is uid %d", os.Geteuid())
	}
	return keyFailed(err, "The SSH key %s cannot be read", path)
}

// parse reads a private key. No error has anything of the file's content or the
// passphrase in it.
func (k *keyring) parse(text []byte, path string) (ssh.Signer, error) {
	signer, err := ssh.ParsePrivateKey(text)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		if k.passphrase.Empty() {
			return nil, keyFailed(nil, "The SSH key %s needs a passphrase", path).Then("Set ssh.passphrase")
		}
		signer, err = ssh.ParsePrivateKeyWithPassphrase(text, []byte(k.passphrase.Reveal()))
		if errors.Is(err, x509.IncorrectPasswordError) {
			return nil, keyFailed(nil, "The SSH key %s has another passphrase than ssh.passphrase", path).Then("Correct ssh.passphrase")
		}
	}
	if err == nil {
		switch signer.PublicKey().Type() {
		case ssh.KeyAlgoED25519, ssh.KeyAlgoRSA, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
			return signer, nil
		}
	}
	const make = "Make one with `ssh-keygen -t ed25519 -f FILE` and set ssh.key_file to it"
	switch _, _, _, _, public := ssh.ParseAuthorizedKey(text); {
	case public == nil, strings.Contains(string(text), "PUBLIC KEY-----"):
		return nil, keyFailed(nil, "%s is a public key, and Waggle needs the private one", path).Then("Set ssh.key_file to the file without .pub")
	case strings.HasPrefix(string(text), "PuTTY-User-Key-File"):
		return nil, keyFailed(nil, "%s is a key in PuTTY's format", path).Then("Convert it with `puttygen %s -O private-openssh -o FILE` and set ssh.key_file to that", path)
	case strings.Contains(string(text), "PRIVATE KEY-----"):
		return nil, keyFailed(nil, "The private key in %s is broken, or of a kind that Waggle does not use: ed25519, RSA and ECDSA it does", path).Then(make)
	}
	return nil, keyFailed(nil, "There is no private key in %s", path).Then(make)
}

func keyFailed(err error, format string, args ...any) *ops.Error {
	return &ops.Error{Code: ops.Failed, Sentence: fmt.Sprintf(format, args...), Err: err}
}

// own returns the file of Waggle's own key, after making it if there is none.
func (k *keyring) own() (string, error) {
	dir := k.dir
	if dir == "" {
		var err error
		if dir, err = stateDir(); err != nil {
			return "", keyFailed(err, "There is no place to keep an SSH key of Waggle's own in").Then("Set ssh.key_file")
		}
	}
	path := filepath.Join(dir, keyName)
	if _, err := os.Lstat(path); err == nil {
		return path, nil
	}
	public, err := k.generate(dir, path)
	if err != nil {
		return "", keyFailed(err, "Waggle cannot make an SSH key of its own at %s", path).Then("Let it write there, or set ssh.key_file")
	}
	if public != nil {
		k.log.Info("made an SSH key of our own", "file", path, "fingerprint", ssh.FingerprintSHA256(public))
	}
	return path, nil
}

// generate makes a key. Of several processes that do so at once one wins, and
// the others get no key and no error.
func (k *keyring) generate(dir, path string) (ssh.PublicKey, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, keyComment)
	if err != nil {
		return nil, err
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, "."+keyName+"-") // with mode 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(pem.EncodeToMemory(block))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	// A link, unlike a rename, replaces nothing.
	if err := os.Link(f.Name(), path); errors.Is(err, os.ErrExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return public, nil
}

// stateDir is where programs of this user keep state, by the Filesystem
// Hierarchy Standard for root and by the XDG Base Directory Specification else.
func stateDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/waggle", nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "waggle"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, ".local", "state", "waggle"), nil
}

// authorizedLine is a public key as a line of authorized_keys, without a newline.
func authorizedLine(key ssh.PublicKey) string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(key)), "\n") + " " + keyComment
}

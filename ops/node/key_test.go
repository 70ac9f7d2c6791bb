package node

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"waggle/internal/secret"
	"waggle/ops"
)

const passphrase = "canary-passphrase"

// keyFile writes a private key in OpenSSH's format.
func keyFile(t *testing.T, kind, passphrase string) (path, public string) {
	t.Helper()
	key := privateKey(t, kind)
	var block *pem.Block
	var err error
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "somebody@somewhere")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "somebody@somewhere", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return writeKeyFile(t, pem.EncodeToMemory(block), 0o600), publicLine(t, key)
}

func publicLine(t *testing.T, key any) string {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))) + " waggle"
}

func writeKeyFile(t *testing.T, text []byte, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, text, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	return path
}

func pemOf(t *testing.T, kind string, der []byte, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestConfiguredKeys(t *testing.T) {
	for _, c := range []struct{ kind, passphrase string }{
		{ssh.KeyAlgoED25519, ""}, {ssh.KeyAlgoRSA, ""}, {ssh.KeyAlgoECDSA256, ""}, {ssh.KeyAlgoECDSA384, ""}, {ssh.KeyAlgoED25519, passphrase},
	} {
		t.Run(c.kind+" "+c.passphrase, func(t *testing.T) {
			path, want := keyFile(t, c.kind, c.passphrase)
			got, err := New(Options{KeyFile: path, Passphrase: secret.Text(c.passphrase)}).PublicKey(t.Context())
			if err != nil || got != want {
				t.Errorf("public key %q, %v, want %q", got, err, want)
			}
		})
	}
	rsaKey := privateKey(t, ssh.KeyAlgoRSA).(*rsa.PrivateKey)
	ecKey := privateKey(t, ssh.KeyAlgoECDSA256).(*ecdsa.PrivateKey)
	ec, ecErr := x509.MarshalECPrivateKey(ecKey)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(ecKey)
	for name, c := range map[string]struct {
		text []byte
		key  any
	}{
		"PKCS #1":             {pemOf(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey), nil), rsaKey},
		"SEC 1":               {pemOf(t, "EC PRIVATE KEY", ec, ecErr), ecKey},
		"PKCS #8":             {pemOf(t, "PRIVATE KEY", pkcs8, err), ecKey},
		"Windows' line ends":  {bytes.ReplaceAll(pemOf(t, "PRIVATE KEY", pkcs8, err), []byte("\n"), []byte("\r\n")), ecKey},
		"passphrase for none": {pemOf(t, "PRIVATE KEY", pkcs8, err), ecKey},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := New(Options{KeyFile: writeKeyFile(t, c.text, 0o400), Passphrase: passphrase}).PublicKey(t.Context())
			if want := publicLine(t, c.key); err != nil || got != want {
				t.Errorf("public key %q, %v, want %q", got, err, want)
			}
		})
	}
}

func TestKeysThatCannotBeUsed(t *testing.T) {
	locked, _ := keyFile(t, ssh.KeyAlgoED25519, passphrase)
	good, public := keyFile(t, ssh.KeyAlgoED25519, "")
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	open := writeKeyFile(t, text, 0o640)
	missing := filepath.Join(t.TempDir(), "nothing")
	dir := t.TempDir()
	rsaKey := privateKey(t, ssh.KeyAlgoRSA).(*rsa.PrivateKey)
	der := x509.MarshalPKCS1PrivateKey(rsaKey)
	//lint:ignore SA1019 people still have such keys
	legacy, err := x509.EncryptPEMBlock(strings.NewReader(strings.Repeat("random", 9)), "RSA PRIVATE KEY", der, []byte(passphrase), x509.PEMCipherAES256)
	if err != nil {
		t.Fatal(err)
	}
	broken := bytes.Replace(text, []byte("AAAA"), []byte("AAAB"), 1)
	for name, c := range map[string]struct {
		file           string
		passphrase     secret.Text
		sentence, next string
	}{
		"missing":               {missing, "", "There is no SSH key at " + missing, "leave ssh.key_file out"},
		"directory":             {dir, "", "is a directory", "Set ssh.key_file to the file"},
		"no passphrase":         {locked, "", "needs a passphrase", "Set ssh.passphrase"},
		"wrong passphrase":      {locked, "canary-wrong", "has another passphrase than ssh.passphrase", "Correct ssh.passphrase"},
		"wrong, in old PEM":     {writeKeyFile(t, pem.EncodeToMemory(legacy), 0o600), "canary-wrong", "has another passphrase", "Correct"},
		"readable for a group":  {open, "", "its mode is 0640", "chmod 600 " + open},
		"public":                {writeKeyFile(t, []byte(public+"\n"), 0o644), "", "is a public key", "without .pub"},
		"public, in PEM":        {writeKeyFile(t, []byte("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), 0o644), "", "is a public key", "without .pub"},
		"PuTTY's":               {writeKeyFile(t, []byte("PuTTY-User-Key-File-3: ssh-ed25519\ncanary\n"), 0o600), "", "in PuTTY's format", "puttygen"},
		"broken":                {writeKeyFile(t, broken, 0o600), "", "is broken, or of a kind", "ssh-keygen -t ed25519"},
		"of another kind":       {writeKeyFile(t, []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"), 0o600), "", "is broken, or of a kind", ""},
		"empty":                 {writeKeyFile(t, nil, 0o600), "", "There is no private key in", "ssh-keygen"},
		"something else":        {writeKeyFile(t, []byte("canary: words\n"), 0o600), "", "There is no private key in", "ssh-keygen"},
		"certificate by name":   {writeKeyFile(t, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), 0o600), "", "There is no private key in", ""},
		"cut off":               {writeKeyFile(t, text[:len(text)/2], 0o600), "", "is broken, or of a kind", ""},
		"open, with passphrase": {open, passphrase, "its mode is 0640", "chmod"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(Options{KeyFile: c.file, Passphrase: c.passphrase}).PublicKey(t.Context())
			e := wantError(t, err, ops.Failed, c.sentence, c.next)
			for _, secret := range []string{"canary", strings.Split(string(text), "\n")[1], rsaKey.D.Text(10)} {
				if strings.Contains(e.Error()+e.Next+e.Log, secret) {
					t.Errorf("it tells the secret: %v", e)
				}
			}
		})
	}
	t.Run("unreadable", func(t *testing.T) {
		// By the error alone: root, who runs some of the tests, may read everything.
		wantError(t, unreadable(good, &os.PathError{Op: "open", Path: good, Err: os.ErrPermission}), ops.Failed, "may not read its SSH key", "uid")
	})
}

// Docker mounts its secrets for everybody in the container to read.
func TestDockerSecretsMayBeReadable(t *testing.T) {
	if !mayBeReadable("/run/secrets/ssh_key") || mayBeReadable("/run/secrets/../x") || mayBeReadable("/run/secretsx") {
		t.Error("only what is in /run/secrets/ may be readable for others")
	}
}

func TestOwnKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "waggle")
	var logged bytes.Buffer
	s := New(Options{StateDir: dir, Log: slog.New(slog.NewTextHandler(&logged, nil))})
	if _, err := os.Stat(dir); err == nil {
		t.Fatal("there is a key before it is needed")
	}
	line, err := s.PublicKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key, comment, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || key.Type() != ssh.KeyAlgoED25519 || comment != "waggle" || len(rest) != 0 || strings.Contains(line, "\n") {
		t.Errorf("public key %q: %v", line, err)
	}
	if !strings.Contains(logged.String(), ssh.FingerprintSHA256(key)) {
		t.Errorf("the log does not tell of it: %s", &logged)
	}
	text, err := os.ReadFile(filepath.Join(dir, "ssh_key"))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(text)) {
		if l = strings.TrimSpace(l); len(l) > 30 && strings.Contains(logged.String(), l) {
			t.Errorf("the log has the key: %s", &logged)
		}
	}
	if files := names(t, dir); !slices.Equal(files, []string{"ssh_key -rw-------"}) {
		t.Errorf("in the directory: %q", files)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v %v", st.Mode(), err)
	}
	for _, again := range []*Servers{s, New(Options{StateDir: dir})} {
		if got, err := again.PublicKey(t.Context()); err != nil || got != line {
			t.Errorf("the second time: %q, %v, want %q", got, err, line)
		}
	}
	// Another key takes its place while Waggle runs.
	other, public := keyFile(t, ssh.KeyAlgoED25519, "")
	if err := os.Rename(other, filepath.Join(dir, "ssh_key")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.PublicKey(t.Context()); err != nil || got != public {
		t.Errorf("after it was replaced: %q, %v, want %q", got, err, public)
	}
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, fmt.Sprintf("%s %s", e.Name(), info.Mode()))
	}
	return names
}

// Several processes that need a key at once come to the same one.
func TestOwnKeyMadeAtOnce(t *testing.T) {
	dir := t.TempDir()
	lines := make([]string, 20)
	var all sync.WaitGroup
	start := make(chan struct{})
	for i := range lines {
		all.Go(func() {
			<-start
			line, err := New(Options{StateDir: dir}).PublicKey(t.Context())
			if err != nil {
				t.Error(err)
			}
			lines[i] = line
		})
	}
	close(start)
	all.Wait()
	if slices.Sort(lines); len(slices.Compact(lines)) != 1 {
		t.Errorf("keys: %q", slices.Compact(lines))
	}
	if files := names(t, dir); len(files) != 1 {
		t.Errorf("in the directory: %q", files)
	}
}

func TestOwnKeyWithoutAPlace(t *testing.T) {
	file := writeKeyFile(t, []byte("x"), 0o600)
	_, err := New(Options{StateDir: filepath.Join(file, "state")}).PublicKey(t.Context())
	wantError(t, err, ops.Failed, "cannot make an SSH key of its own", "set ssh.key_file")
}

func TestStateDir(t *testing.T) {
	if os.Geteuid() == 0 {
		if dir, err := stateDir(); err != nil || dir != "/var/lib/waggle" {
			t.Errorf("for root: %s, %v", dir, err)
		}
		return
	}
	t.Setenv("HOME", "/home/ann")
	for set, want := range map[string]string{"": "/home/ann/.local/state/waggle", "/state": "/state/waggle", "relative": "/home/ann/.local/state/waggle"} {
		t.Setenv("XDG_STATE_HOME", set)
		if dir, err := stateDir(); err != nil || dir != want {
			t.Errorf("with XDG_STATE_HOME=%s: %s, %v, want %s", set, dir, err, want)
		}
	}
}

// FuzzKey: whatever the file holds, the error has none of it.
func FuzzKey(f *testing.F) {
	f.Add([]byte("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"))
	f.Add([]byte("ssh-ed25519 AAAA x"))
	f.Add([]byte("PuTTY-User-Key-File-2: ssh-rsa"))
	f.Fuzz(func(t *testing.T, text []byte) {
		k := &keyring{passphrase: passphrase}
		signer, err := k.parse(append([]byte("canary-text\n"), text...), "/key")
		if err == nil && signer == nil {
			t.Error("neither a key nor an error")
		}
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("the error has a secret: %v", err)
		}
	})
}

package lab

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// writeKey writes a private key in OpenSSH's format and returns its public half.
func writeKey(path, comment string, key any) (ssh.PublicKey, error) {
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return nil, fmt.Errorf("making an SSH key: %w", err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, fmt.Errorf("making an SSH key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, fmt.Errorf("making an SSH key: %w", err)
	}
	return signer.PublicKey(), nil
}

// sshdConfig leaves StrictModes on, as it is on real servers. That works because
// the node sees its files below its own /run: on the way to them nobody but root
// can write, which is not so below /var/tmp.
const sshdConfig = `Port 22
ListenAddress %s
HostKey /run/lab/ssh_host_ed25519_key
HostKey /run/lab/ssh_host_ecdsa_key
AuthorizedKeysFile /run/lab/authorized_keys
PidFile /run/lab/sshd.pid
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PermitUserRC no
PrintMotd no
PrintLastLog no
MaxStartups 100
Subsystem sftp internal-sftp
`

func (n *Node) writeSSH(client ssh.PublicKey) error {
	dir := filepath.Join(n.dir, "run", "lab")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("preparing sshd: %w", err)
	}
	// sshd's own directory for its unprivileged half.
	if err := os.MkdirAll(filepath.Join(n.dir, "run", "sshd"), 0o755); err != nil {
		return fmt.Errorf("preparing sshd: %w", err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("making a host key: %w", err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making a host key: %w", err)
	}
	for name, key := range map[string]any{"ed25519": ed, "ecdsa": ec} {
		pub, err := writeKey(filepath.Join(dir, "ssh_host_"+name+"_key"), n.Name, key)
		if err != nil {
			return err
		}
		n.HostKeys = append(n.HostKeys, pub)
	}
	// ed25519 first, the one clients ask for.
	if n.HostKeys[0].Type() != ssh.KeyAlgoED25519 {
		n.HostKeys[0], n.HostKeys[1] = n.HostKeys[1], n.HostKeys[0]
	}
	if err := n.Authorize(client); err != nil {
		return err
	}
	config := fmt.Sprintf(sshdConfig, n.Addr)
	if err := os.WriteFile(filepath.Join(dir, "sshd_config"), []byte(config), 0o600); err != nil {
		return fmt.Errorf("preparing sshd: %w", err)
	}
	return nil
}

// Authorize lets exactly these keys in as root, from the next connection on.
func (n *Node) Authorize(keys ...ssh.PublicKey) error {
	var lines strings.Builder
	for _, k := range keys {
		lines.Write(ssh.MarshalAuthorizedKey(k))
	}
	file := filepath.Join(n.dir, "run", "lab", "authorized_keys")
	if err := os.WriteFile(file, []byte(lines.String()), 0o600); err != nil {
		return fmt.Errorf("authorizing keys on %s: %w", n.Name, err)
	}
	return nil
}

// StartSSH starts the node's sshd.
func (n *Node) StartSSH(ctx context.Context) error {
	if n.sshd != nil && n.sshd.running() {
		return nil
	}
	sshd, err := lookPath("sshd") // it insists on an absolute path
	if err != nil {
		return err
	}
	p, err := startProc("sshd on "+n.Name, n.box.command(sshd, "-D", "-e", "-f", "/run/lab/sshd_config"),
		filepath.Join(n.dir, "sshd.log"))
	if err != nil {
		return err
	}
	n.sshd = p
	return p.until(ctx, 10*time.Second, func(ctx context.Context) error {
		d := net.Dialer{Timeout: time.Second}
		c, err := d.DialContext(ctx, "tcp", n.SSHAddr())
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// StopSSH stops the node's sshd: connections are refused until StartSSH.
// Sessions that are open stay open, as with a real sshd.
func (n *Node) StopSSH(ctx context.Context) error {
	if n.sshd == nil || !n.sshd.running() {
		return nil
	}
	if _, err := n.Exec(ctx, "sh", "-c", "kill $(cat /run/lab/sshd.pid)"); err != nil {
		return fmt.Errorf("stopping sshd on %s: %w", n.Name, err)
	}
	select {
	case <-n.sshd.done:
	case <-time.After(5 * time.Second):
		return fmt.Errorf("sshd on %s does not stop\n%s", n.Name, logTail(n.sshd.log))
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// SSHCommand is a command line that logs in to the node.
func (n *Node) SSHCommand() string {
	return fmt.Sprintf("ssh -i %s -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no root@%s", n.sshKey, n.Addr)
}

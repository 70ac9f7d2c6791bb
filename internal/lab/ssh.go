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
AuthorizedKeysFile /run/lab/authorized_keys/%%u
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
	// The last is sshd's own, for its unprivileged half.
	for _, dir := range []string{"lab", "lab/authorized_keys", "sshd"} {
		if err := os.MkdirAll(filepath.Join(n.dir, "run", dir), 0o755); err != nil {
			return fmt.Errorf("preparing sshd: %w", err)
		}
	}
	if err := n.writeHostKeys(); err != nil {
		return err
	}
	if err := n.Authorize(client); err != nil {
		return err
	}
	return n.writeSSHConfig()
}

func (n *Node) writeHostKeys() error {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("making a host key: %w", err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making a host key: %w", err)
	}
	n.HostKeys = nil
	// ed25519 first, the one clients ask for.
	for _, key := range []struct {
		name string
		key  any
	}{{"ed25519", ed}, {"ecdsa", ec}} {
		pub, err := writeKey(filepath.Join(n.dir, "run", "lab", "ssh_host_"+key.name+"_key"), n.Name, key.key)
		if err != nil {
			return err
		}
		n.HostKeys = append(n.HostKeys, pub)
	}
	return nil
}

// writeSSHConfig writes sshd's settings. Of a setting given twice sshd takes the
// first.
func (n *Node) writeSSHConfig(first ...string) error {
	text := strings.Join(append(first, fmt.Sprintf(sshdConfig, n.Addr)), "\n")
	if err := os.WriteFile(filepath.Join(n.dir, "run", "lab", "sshd_config"), []byte(text), 0o600); err != nil {
		return fmt.Errorf("preparing sshd: %w", err)
	}
	return nil
}

// ConfigureSSH restarts the node's sshd with these lines of sshd_config before
// the lab's own, so that they beat them; without any, with the lab's own again.
// A Match block would swallow the lab's own. Sessions that are open stay open.
func (n *Node) ConfigureSSH(ctx context.Context, lines ...string) error {
	if err := n.writeSSHConfig(lines...); err != nil {
		return err
	}
	return n.restartSSH(ctx)
}

// NewHostKeys gives the node other host keys, as a new installation would, for
// good. HostKeys tells them.
func (n *Node) NewHostKeys(ctx context.Context) error {
	if err := n.writeHostKeys(); err != nil {
		return err
	}
	return n.restartSSH(ctx)
}

func (n *Node) restartSSH(ctx context.Context) error {
	if err := n.StopSSH(ctx); err != nil {
		return err
	}
	return n.StartSSH(ctx)
}

// FreezeSSH stops the node's sshd where it is, open sessions too: connections are
// accepted, by the kernel, and nothing is answered.
func (n *Node) FreezeSSH(ctx context.Context) error { return n.freeze(ctx, "sshd") }

// ThawSSH lets a frozen sshd go on.
func (n *Node) ThawSSH(ctx context.Context) error { return n.thaw(ctx, "sshd", n.sshd) }

// Authorize lets exactly these keys in as root, from the next connection on.
func (n *Node) Authorize(keys ...ssh.PublicKey) error { return n.authorize("root", keys) }

func (n *Node) authorize(user string, keys []ssh.PublicKey) error {
	var lines strings.Builder
	for _, k := range keys {
		lines.Write(ssh.MarshalAuthorizedKey(k))
	}
	// Readable for the user as whom sshd reads it.
	if err := os.WriteFile(n.authorized(user), []byte(lines.String()), 0o644); err != nil {
		return fmt.Errorf("authorizing keys on %s: %w", n.Name, err)
	}
	return nil
}

func (n *Node) authorized(user string) string {
	return filepath.Join(n.dir, "run", "lab", "authorized_keys", user)
}

// SSHLog is what the node's sshd logged last.
func (n *Node) SSHLog() string { return logTail(filepath.Join(n.dir, "sshd.log")) }

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

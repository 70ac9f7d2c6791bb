package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// user is one that a node has and this machine has not.
type user struct {
	name string
	id   int
	gid  int
}

// rootHome is the home directory of a node's root, on the node.
const rootHome = "/run/lab/home/root"

// firstUser is the id of the first of them.
const firstUser = 5000

// home is a path on the node, which has its directory's /run as its own.
func (u user) home() string { return "/run/lab/home/" + u.name }

// AddUser adds a user to the node that these keys let in, with a home directory
// and /bin/sh. docker says whether it may use the engine's socket.
func (n *Node) AddUser(name string, docker bool, keys ...ssh.PublicKey) error {
	u := user{name: name, id: firstUser}
	for _, other := range n.users {
		if other.name == name {
			return fmt.Errorf("adding a user to %s: there is a %s", n.Name, name)
		}
		u.id = max(u.id, other.id+1)
	}
	u.gid = u.id
	if docker {
		u.gid = 0 // the group of the lab's sockets
	}
	n.users = append(n.users, u)
	if err := n.writeUsers(); err != nil {
		return err
	}
	home := filepath.Join(n.dir, u.home())
	if err := os.MkdirAll(home, 0o755); err != nil {
		return fmt.Errorf("adding a user to %s: %w", n.Name, err)
	}
	if err := os.Chown(home, u.id, u.gid); err != nil {
		return fmt.Errorf("adding a user to %s: %w", n.Name, err)
	}
	return n.authorize(name, keys)
}

// RemoveUser takes back AddUser. Sessions that are open stay open.
func (n *Node) RemoveUser(name string) error {
	n.users = slices.DeleteFunc(n.users, func(u user) bool { return u.name == name })
	if err := n.writeUsers(); err != nil {
		return err
	}
	for _, path := range []string{n.authorized(name), filepath.Join(n.dir, user{name: name}.home())} {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("removing a user of %s: %w", n.Name, err)
		}
	}
	return nil
}

// writeUsers writes this machine's users and groups and the node's own as the
// node sees them. The files stay the same ones, since they are mounted.
func (n *Node) writeUsers() error {
	files := map[string]string{
		// sshd refuses a root whose password is locked with "!", as it is on some images.
		"shadow": "root:*:19000:0:99999:7:::\nsshd:*:19000::::::\n",
	}
	for _, name := range []string{"passwd", "group"} {
		text, err := os.ReadFile("/etc/" + name)
		if err != nil {
			return fmt.Errorf("writing the users of %s: %w", n.Name, err)
		}
		files[name] = strings.TrimRight(string(text), "\n") + "\n"
	}
	// What this machine's root has in its shell's files is not for the nodes, where
	// it would take its time at each login.
	files["passwd"] = strings.Replace(files["passwd"], ":/root:", ":"+rootHome+":", 1)
	if err := os.MkdirAll(filepath.Join(n.dir, rootHome), 0o700); err != nil {
		return fmt.Errorf("writing the users of %s: %w", n.Name, err)
	}
	for _, u := range n.users {
		files["passwd"] += fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", u.name, u.id, u.gid, u.home())
		files["group"] += fmt.Sprintf("%s:x:%d:\n", u.name, u.id)
		files["shadow"] += u.name + ":*:19000::::::\n"
	}
	for name, text := range files {
		mode := os.FileMode(0o644)
		if name == "shadow" {
			mode = 0o600
		}
		if err := os.WriteFile(filepath.Join(n.dir, name), []byte(text), mode); err != nil {
			return fmt.Errorf("writing the users of %s: %w", n.Name, err)
		}
	}
	return nil
}

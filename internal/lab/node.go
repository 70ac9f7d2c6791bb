package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// Node is a server of the lab: a Docker engine and an sshd in namespaces of
// their own.
type Node struct {
	Name     string          // its host name, and its name in the swarm
	Addr     string          // its address, reachable from this machine too
	Socket   string          // its engine's socket as seen from this machine
	HostKeys []ssh.PublicKey // ed25519 first

	EngineVersion string // such as 28.5.2
	ImageStore    string // "classic" or "containerd"

	slot   *slot
	index  int // from 1
	dir    string
	sshKey string
	record func(*proc) error

	release  release // the engine it runs
	programs string  // the directory of the engine's programs, "" for this machine's own

	users []user // besides root

	box    *box
	engine *engine
	docker *proc
	sshd   *proc
}

// Host is what DOCKER_HOST is set to, to use this node's engine.
func (n *Node) Host() string { return "unix://" + n.Socket }

// SSHAddr is where the node's sshd listens.
func (n *Node) SSHAddr() string { return net.JoinHostPort(n.Addr, "22") }

// HostKey is the host key of the node that SSH clients see.
func (n *Node) HostKey() ssh.PublicKey { return n.HostKeys[0] }

func (n *Node) link() string { return n.slot.link("n" + strconv.Itoa(n.index)) }

// up brings the node from nothing to an engine that answers and an sshd.
func (n *Node) up(ctx context.Context, client ssh.PublicKey) error {
	if err := n.prepare(client); err != nil {
		return err
	}
	b, err := startBox(ctx, n.dir, n.Name)
	if err != nil {
		return err
	}
	n.box = b
	if err := n.record(b.init); err != nil {
		return err
	}
	links := fmt.Sprintf("link add %[1]s type veth peer name eth0 netns %[2]d\nlink set %[1]s master %[3]s up\n",
		n.link(), b.init.pid(), n.slot.bridge())
	if _, err := command(ctx, links, "ip", "-batch", "-"); err != nil {
		return fmt.Errorf("connecting %s: %w", n.Name, err)
	}
	if _, err := b.run(ctx, "addr add "+n.Addr+"/24 dev eth0\nlink set eth0 up\n", "ip", "-batch", "-"); err != nil {
		return fmt.Errorf("connecting %s: %w", n.Name, err)
	}
	if err := n.Start(ctx); err != nil {
		return err
	}
	return n.StartSSH(ctx)
}

// prepare writes the files that make the node different from this machine.
func (n *Node) prepare(client ssh.PublicKey) error {
	for _, d := range []string{"", "run/lab/home", "docker", "data", "cli"} {
		if err := os.MkdirAll(filepath.Join(n.dir, d), 0o755); err != nil {
			return fmt.Errorf("preparing %s: %w", n.Name, err)
		}
	}
	if err := n.writeUsers(); err != nil {
		return err
	}
	if err := n.writeEngine(); err != nil {
		return fmt.Errorf("preparing %s: %w", n.Name, err)
	}
	return n.writeSSH(client)
}

// Start starts the node's engine, with what it had before.
func (n *Node) Start(ctx context.Context) error {
	if n.docker != nil && n.docker.running() {
		return nil
	}
	// An engine that was killed leaves its pid behind, and the next one would
	// take any process of that number for it.
	if err := os.Remove(filepath.Join(n.dir, "run", "docker.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("starting the engine of %s: %w", n.Name, err)
	}
	dockerd := "dockerd"
	if n.programs != "" {
		dockerd = filepath.Join(n.programs, dockerd)
	}
	cmd := n.box.command(dockerd,
		"--data-root", filepath.Join(n.dir, "data"),
		"--host", "unix:///run/docker.sock", "--group", "root",
		"--pidfile", "/run/docker.pid", "--exec-root", "/run/docker",
		"--exec-opt", "native.cgroupdriver=cgroupfs",
		"--cgroup-parent", "/"+n.slot.cgroup()+"/"+n.Name,
		"--insecure-registry", n.slot.subnet(),
		// BuildKit in 20.10 reads its own list of hosts as URLs, and no subnets.
		"--insecure-registry", fmt.Sprintf("http://%s:%d", n.slot.ip(1), openPort),
		"--insecure-registry", fmt.Sprintf("http://%s:%d", n.slot.ip(1), privatePort),
		// Addresses that are neither the lab's nor those swarm gives to overlays.
		"--bip", "172.31.255.1/24", "--default-address-pool", "base=172.30.0.0/16,size=24",
		"--live-restore=false", "--shutdown-timeout", "2", "--raw-logs")
	if n.programs != "" { // dockerd looks for containerd there, and containerd for runc
		cmd.Env = append(cmd.Env, "PATH="+n.programs+":"+searchPath)
	}
	p, err := startProc("dockerd on "+n.Name, cmd, n.LogFile())
	if err != nil {
		return err
	}
	n.docker = p
	if err := p.until(ctx, 30*time.Second, n.engine.ping); err != nil {
		return err
	}
	return n.checkEngine(ctx)
}

// checkEngine reads which engine the node runs, and makes sure that it has the image
// store that was requested: an old engine ignores the setting.
func (n *Node) checkEngine(ctx context.Context) error {
	var info struct {
		ServerVersion string
		DriverStatus  [][2]string
	}
	if err := n.engine.call(ctx, http.MethodGet, "/info", nil, &info); err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	n.EngineVersion, n.ImageStore = info.ServerVersion, storeClassic
	if slices.Contains(info.DriverStatus, [2]string{"driver-type", "io.containerd.snapshotter.v1"}) {
		n.ImageStore = storeContainerd
	}
	if n.release.store != "" && n.release.store != n.ImageStore {
		return fmt.Errorf("%s: requested %s, but Docker %s uses the %s image store", n.Name, n.release, n.EngineVersion, n.ImageStore)
	}
	return nil
}

// engineText is the engine's version, with its image store where that is not the
// classic one.
func (n *Node) engineText() string {
	if n.ImageStore == storeContainerd {
		return n.EngineVersion + ", containerd image store"
	}
	return n.EngineVersion
}

// writeEngine writes the settings that choose the engine's image store.
func (n *Node) writeEngine() error {
	if n.release.store == "" {
		return nil
	}
	text := fmt.Sprintf(`{"features": {"containerd-snapshotter": %t}}`, n.release.store == storeContainerd)
	return os.WriteFile(filepath.Join(n.dir, "docker", "daemon.json"), []byte(text+"\n"), 0o644)
}

// LogFile is where the node's engine logs.
func (n *Node) LogFile() string { return filepath.Join(n.dir, "dockerd.log") }

// Stop stops the node's engine in good order, and its containers with it.
func (n *Node) Stop(ctx context.Context) error { return n.end(ctx, "TERM") }

// Kill ends the node's engine at once. Its containers go on running.
func (n *Node) Kill(ctx context.Context) error { return n.end(ctx, "KILL") }

func (n *Node) end(ctx context.Context, sig string) error {
	if n.docker == nil || !n.docker.running() {
		return nil
	}
	if _, err := n.Exec(ctx, "sh", "-c", "kill -"+sig+" $(cat /run/docker.pid)"); err != nil {
		return fmt.Errorf("stopping the engine of %s: %w", n.Name, err)
	}
	select {
	case <-n.docker.done:
	case <-time.After(30 * time.Second):
		return fmt.Errorf("the engine of %s does not stop\n%s", n.Name, logTail(n.LogFile()))
	case <-ctx.Done():
		return ctx.Err()
	}
	n.engine.client.CloseIdleConnections()
	return nil
}

// Freeze stops the node's engine where it is: it takes connections and answers
// nothing. Thaw it before it is stopped or started.
func (n *Node) Freeze(ctx context.Context) error { return n.freeze(ctx, "dockerd") }

// Thaw lets a frozen engine go on.
func (n *Node) Thaw(ctx context.Context) error { return n.thaw(ctx, "dockerd", n.docker) }

func (n *Node) freeze(ctx context.Context, program string) error {
	return n.signal(ctx, program, "STOP")
}

func (n *Node) thaw(ctx context.Context, program string, p *proc) error {
	p.resume()
	return n.signal(ctx, program, "CONT")
}

// signal sends a signal to all processes of a program on the node.
func (n *Node) signal(ctx context.Context, program, sig string) error {
	const script = `for p in /proc/[0-9]*; do
  if [ "$(cat $p/comm 2>/dev/null)" = "$1" ]; then kill -"$2" ${p#/proc/}; fi
done`
	if _, err := n.Exec(ctx, "sh", "-c", script, "sh", program, sig); err != nil {
		return fmt.Errorf("signalling %s on %s: %w", program, n.Name, err)
	}
	return nil
}

// HideDocker makes the node one on which Docker is not installed, for those who
// log in and for this machine: no docker command, no socket. The engine goes on.
func (n *Node) HideDocker(ctx context.Context) error {
	// A whiteout of an overlay, as overlayfs in the kernel's documentation has it.
	const script = `set -e
for dir in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin; do
  [ -e $dir/docker ] || continue
  mkdir -p /run/lab/hidden$dir
  mknod /run/lab/hidden$dir/docker c 0 0
  mount -t overlay overlay -o lowerdir=/run/lab/hidden$dir:$dir $dir
done
mv /run/docker.sock /run/hidden.sock`
	if _, err := n.Exec(ctx, "sh", "-c", script); err != nil {
		return fmt.Errorf("hiding Docker on %s: %w", n.Name, err)
	}
	return nil
}

// ShowDocker takes back HideDocker.
func (n *Node) ShowDocker(ctx context.Context) error {
	// Lazily: this shell itself runs from there.
	const script = `set -e
mv /run/hidden.sock /run/docker.sock
for dir in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin; do
  [ ! -e /run/lab/hidden$dir ] || umount --lazy $dir
done
rm -r /run/lab/hidden`
	if _, err := n.Exec(ctx, "sh", "-c", script); err != nil {
		return fmt.Errorf("showing Docker on %s again: %w", n.Name, err)
	}
	return nil
}

// Exec runs a command on the node and returns its output.
func (n *Node) Exec(ctx context.Context, args ...string) (string, error) {
	return n.box.run(ctx, "", args...)
}

// Docker runs the docker command line client against the node's engine, with
// settings of its own, and returns its output.
func (n *Node) Docker(ctx context.Context, args ...string) (string, error) {
	return n.DockerInput(ctx, "", args...)
}

// DockerInput is Docker with something on stdin.
func (n *Node) DockerInput(ctx context.Context, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	path, err := lookPath("docker")
	if err != nil {
		return "", fmt.Errorf("the docker command line client is missing: apt-get install docker-cli: %w", err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(cleanEnv(), "DOCKER_HOST="+n.Host(), "DOCKER_CONFIG="+filepath.Join(n.dir, "cli"))
	return run(ctx, stdin, cmd)
}

// Block drops what comes to a port of the node, as a firewall would. proto is
// "tcp" or "udp".
func (n *Node) Block(ctx context.Context, proto string, port int) error {
	return n.filter(ctx, "-I", proto, port)
}

// Unblock takes back one Block.
func (n *Node) Unblock(ctx context.Context, proto string, port int) error {
	return n.filter(ctx, "-D", proto, port)
}

func (n *Node) filter(ctx context.Context, op, proto string, port int) error {
	_, err := n.Exec(ctx, "iptables", "-w", op, "INPUT", "-i", "eth0", "-p", proto, "--dport", strconv.Itoa(port), "-j", "DROP")
	return err
}

// Partition pulls the node's cable. Its engine can still be used by Socket.
func (n *Node) Partition(ctx context.Context) error { return n.cable(ctx, "down") }

// Heal plugs the cable in again.
func (n *Node) Heal(ctx context.Context) error { return n.cable(ctx, "up") }

func (n *Node) cable(ctx context.Context, state string) error {
	_, err := command(ctx, "", "ip", "link", "set", n.link(), state)
	return err
}

func (n *Node) down() {
	if n.box == nil {
		return
	}
	for _, p := range []*proc{n.docker, n.sshd} {
		if p != nil {
			p.resume() // what is frozen does not end
		}
	}
	n.box.close()
	// What was entered from outside has lost its namespace and ends by itself.
	for _, p := range []*proc{n.docker, n.sshd} {
		if p != nil {
			p.stop(syscall.SIGKILL, time.Second)
		}
	}
	n.engine.client.CloseIdleConnections()
}

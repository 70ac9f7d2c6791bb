package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// slots is how many labs fit on one machine.
const slots = 16

// base is where labs live. It is fixed, and not TMPDIR: two runs with different
// settings must see each other's slots. It is short, for the sockets in it.
const base = "/var/tmp"

// slot is one of the places for a lab. Everything a lab leaves in the root
// namespaces is named after its slot, so it can be found again without any
// record. The slot is held by a lock on its directory: the kernel drops the
// lock with its owner.
type slot struct {
	n    int
	dir  string
	lock *os.File
}

func slotDir(n int) string           { return fmt.Sprintf("%s/waggle-lab-%d", base, n) }
func (s slot) bridge() string        { return s.link("br") }
func (s slot) link(to string) string { return fmt.Sprintf("wlab%d-%s", s.n, to) } // at most 15 bytes
func (s slot) cgroup() string        { return fmt.Sprintf("waggle-lab-%d", s.n) }
func (s slot) comment() string       { return s.cgroup() }
func (s slot) subnet() string        { return fmt.Sprintf("10.213.%d.0/24", s.n) }
func (s slot) ip(host int) string    { return fmt.Sprintf("10.213.%d.%d", s.n, host) }

// takeSlot takes the first free slot, and cleans up behind every lab whose
// owner is gone.
func takeSlot(ctx context.Context) (*slot, error) {
	if err := Sweep(ctx); err != nil {
		return nil, err
	}
	for n := range slots {
		s, err := lockSlot(n)
		if err != nil {
			return nil, err
		}
		if s == nil {
			continue
		}
		// Somebody may have removed the directory by hand, and nothing else.
		if err = s.sweep(ctx); err == nil && !addressInUse(s.ip(1)) {
			return s, nil
		}
		if err = errors.Join(err, s.release()); err != nil {
			return nil, fmt.Errorf("cleaning up behind an earlier lab: %w", err)
		}
	}
	return nil, fmt.Errorf("all %d lab slots are taken", slots)
}

// lockSlot returns nil without an error if somebody else has the slot.
func lockSlot(n int) (*slot, error) {
	dir := slotDir(n)
	for range 100 {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("making a lab slot: %w", err)
		}
		f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("opening a lab slot: %w", err)
		}
		var have, want syscall.Stat_t
		if err := syscall.Fstat(int(f.Fd()), &have); err != nil || have.Uid != 0 {
			f.Close()
			return nil, fmt.Errorf("%s is not root's: remove it", dir) // anybody can write there
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, nil
			}
			return nil, fmt.Errorf("locking a lab slot: %w", err)
		}
		// The owner before us may have removed the directory while we opened it.
		if err := syscall.Stat(dir, &want); err != nil || want.Ino != have.Ino {
			f.Close()
			continue
		}
		return &slot{n: n, dir: dir, lock: f}, nil
	}
	return nil, fmt.Errorf("%s comes and goes", dir)
}

// release removes the slot's directory and then lets go of the lock.
func (s *slot) release() error {
	err := os.RemoveAll(s.dir)
	return errors.Join(err, s.lock.Close())
}

// sweep removes whatever a lab of this slot left, except the directory itself.
func (s *slot) sweep(ctx context.Context) error {
	st, _ := readState(s.dir)
	for _, p := range st.Processes {
		if err := p.kill(ctx); err != nil {
			return err
		}
	}
	return errors.Join(s.sweepLinks(ctx), s.sweepRules(ctx), s.sweepCgroups(ctx), s.sweepFiles())
}

func (s *slot) sweepLinks(ctx context.Context) error {
	links, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("listing links: %w", err)
	}
	for _, l := range links {
		if !strings.HasPrefix(l.Name, s.link("")) {
			continue
		}
		if _, err := command(ctx, "", "ip", "link", "del", l.Name); err != nil && linkExists(l.Name) {
			return err // a veth may have gone with its node meanwhile
		}
	}
	return nil
}

func linkExists(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
}

// rules let the lab's own traffic pass: with br_netfilter the root namespace
// filters what crosses the bridge, and a dockerd there drops by default.
func (s *slot) rules() [][]string {
	comment := []string{"-m", "comment", "--comment", s.comment(), "-j", "ACCEPT"}
	return [][]string{
		append([]string{"FORWARD", "-i", s.bridge(), "-o", s.bridge()}, comment...),
		append([]string{"INPUT", "-i", s.bridge()}, comment...),
	}
}

func (s *slot) sweepRules(ctx context.Context) error {
	out, err := command(ctx, "", "iptables", "-w", "-S")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		f := strings.Fields(strings.ReplaceAll(line, `"`, ""))
		if i := slices.Index(f, "--comment"); i < 0 || f[0] != "-A" || f[i+1] != s.comment() {
			continue
		}
		if _, err := command(ctx, "", "iptables", append([]string{"-w", "-D"}, f[1:]...)...); err != nil {
			return err
		}
	}
	return nil
}

// sweepCgroups removes what the engines made under --cgroup-parent, in every
// hierarchy of cgroup v1 or in the one of v2.
func (s *slot) sweepCgroups(ctx context.Context) error {
	tops, _ := filepath.Glob("/sys/fs/cgroup/*/" + s.cgroup())
	for _, top := range append(tops, "/sys/fs/cgroup/"+s.cgroup()) {
		// A group stays busy for a moment after its last process.
		err := poll(ctx, 5*time.Second, func(context.Context) error { return removeCgroup(top) })
		if err != nil {
			return fmt.Errorf("removing cgroup %s: %w", top, err)
		}
	}
	return nil
}

func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	// Not os.Remove: it would try to unlink the group as a file first.
	if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (s *slot) sweepFiles() error {
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err == nil && strings.Contains(string(mounts), " "+s.dir+"/") {
		return fmt.Errorf("something is mounted below %s: unmount it first", s.dir)
	}
	entries, err := os.ReadDir(s.dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(s.dir, e.Name())))
	}
	return err
}

func addressInUse(ip string) bool {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.Contains(net.ParseIP(ip)) {
			return true
		}
	}
	return false
}

// State is what a lab writes down for others: for the next lab, should its
// owner be killed, and for whoever wants to use a lab that is kept up.
type State struct {
	Owner     ident   `json:"owner"`
	Processes []ident `json:"processes"`
	Kept      bool    `json:"kept"`
	Ready     bool    `json:"ready"` // everything below is known

	Nodes     []NodeState `json:"nodes"`
	Registry  string      `json:"registry"`
	Private   string      `json:"private"`
	User      string      `json:"user"`
	Password  string      `json:"password"`
	BaseImage string      `json:"base_image"`
	SSHKey    string      `json:"ssh_key"`
}

// NodeState is a node in State.
type NodeState struct {
	Name  string `json:"name"`
	Addr  string `json:"addr"`
	Host  string `json:"docker_host"`
	Role  string `json:"role"`
	SSH   string `json:"ssh"`
	Enter string `json:"enter"`

	Engine string `json:"engine"` // version and image store
}

// States returns the labs that are kept up on this machine.
func States() ([]State, error) {
	dirs, err := filepath.Glob(base + "/waggle-lab-*")
	var kept []State
	for _, dir := range dirs {
		if st, err := readState(dir); err == nil && st.Kept && st.Owner.alive() {
			kept = append(kept, st)
		}
	}
	return kept, err
}

// Down ends the lab of a State: it asks the owner, and waits for it.
func (st State) Down(ctx context.Context) error {
	if !st.Owner.alive() {
		return nil
	}
	if err := syscall.Kill(st.Owner.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("ending the lab's owner: %w", err)
	}
	if err := st.Owner.wait(ctx); err != nil {
		return errors.Join(err, st.Owner.kill(ctx)) // Sweep does the rest
	}
	return nil
}

// Sweep removes what labs left whose owner is gone. Start does so too.
func Sweep(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("the lab needs root: run it with sudo")
	}
	for n := range slots {
		if _, err := os.Lstat(slotDir(n)); err != nil {
			continue
		}
		s, err := lockSlot(n)
		if err != nil {
			return err
		}
		if s == nil {
			continue
		}
		if err := errors.Join(s.sweep(ctx), s.release()); err != nil {
			return fmt.Errorf("cleaning up behind an earlier lab: %w", err)
		}
	}
	return nil
}

func statePath(dir string) string { return filepath.Join(dir, "state.json") }

func readState(dir string) (State, error) {
	var st State
	b, err := os.ReadFile(statePath(dir))
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal(b, &st)
}

func (st State) write(dir string) error {
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	tmp := statePath(dir) + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("writing the lab's state: %w", err)
	}
	return os.Rename(tmp, statePath(dir))
}

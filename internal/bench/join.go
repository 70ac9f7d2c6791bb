package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"time"

	"waggle/internal/lab"
	"waggle/internal/workspace"
)

const (
	grace = "U0GRACE" // approves
	// forgotten is how long the other nodes speak to one that has left: what they get
	// for it counts against the few answers a second that its kernel gives to a look.
	forgotten = 10 * time.Second
)

// joins has a server join by Waggle, by ssh and by one call on its own engine's
// socket, in turns, and leave again.
func (b *bench) joins(ctx context.Context, i int) error {
	ways := []func(context.Context, *lab.Node) error{b.join, b.sshJoin, b.bareJoin}
	n := b.lab.Nodes[3]
	for j := range ways {
		join := ways[(i+j)%len(ways)]
		ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
		err := errors.Join(join(ctx, n), b.part(ctx, n))
		cancel()
		if err != nil {
			return fmt.Errorf("join: %w", err)
		}
	}
	return nil
}

func (b *bench) join(ctx context.Context, n *lab.Node) error {
	began := time.Now()
	ack, err := b.ws.Command(ctx, workspace.CommandInput{User: ada, Channel: channel, Command: "/join-node", Text: n.Addr})
	if err != nil || !ack.OK() {
		return fmt.Errorf("/join-node: %w %s", err, ack.Error)
	}
	m, err := b.ws.Wait(ctx, channel, grace, func(m workspace.Message) bool {
		return strings.Contains(m.Plain(), n.Addr) && strings.Contains(m.Plain(), "[Approve]") && m.At.After(began)
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, b.ws.Screen(channel, grace))
	}
	look := time.Since(began)
	b.note(looked, look)
	clicked := time.Now()
	if _, err := b.ws.Click(ctx, grace, m, "approve"); err != nil {
		return err
	}
	if err := b.ready(ctx, n); err != nil {
		return fmt.Errorf("%w\n%s", err, b.ws.Screen(channel, grace))
	}
	b.note(joined, look+time.Since(clicked))
	_, err = b.ws.Wait(ctx, channel, ada, func(now workspace.Message) bool {
		return now.TS == m.TS && strings.Contains(now.Plain(), n.Name+" is ready")
	})
	return err
}

func (b *bench) sshJoin(ctx context.Context, n *lab.Node) error {
	token, err := b.docker(ctx, "swarm", "join-token", "--quiet", "worker")
	if err != nil {
		return err
	}
	line := append(strings.Fields(n.SSHCommand()), "docker", "swarm", "join", "--token", strings.TrimSpace(token), b.lab.Manager().Addr+":2377")
	began := time.Now()
	if out, err := exec.CommandContext(ctx, line[0], line[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("ssh: %w\n%s", err, out)
	}
	if err := b.ready(ctx, n); err != nil {
		return err
	}
	b.note(sshJoined, time.Since(began))
	return nil
}

// bareJoin is the least that a join can take: its engine is told on the spot.
func (b *bench) bareJoin(ctx context.Context, n *lab.Node) error {
	token, err := b.docker(ctx, "swarm", "join-token", "--quiet", "worker")
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{"ListenAddr": "0.0.0.0:2377", "JoinToken": strings.TrimSpace(token), "RemoteAddrs": []string{b.lab.Manager().Addr + ":2377"}})
	if err != nil {
		return err
	}
	client := on(n)
	defer client.CloseIdleConnections()
	began := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://docker/swarm/join", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("join: %s: %s", resp.Status, why)
	}
	if err := b.ready(ctx, n); err != nil {
		return err
	}
	b.note(bareJoined, time.Since(began))
	return nil
}

// on speaks to a node's engine on its socket.
func on(n *lab.Node) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", n.Socket)
	}}}
}

// part takes the node out of the swarm again.
func (b *bench) part(ctx context.Context, n *lab.Node) error {
	if _, err := n.Docker(ctx, "swarm", "leave", "--force"); err != nil {
		return err
	}
	_, err := b.docker(ctx, "node", "rm", "--force", n.Name)
	return errors.Join(err, sleep(ctx, forgotten))
}

// ready waits until the manager's engine says that a node is Ready, asking it
// every 5 ms.
func (b *bench) ready(ctx context.Context, n *lab.Node) error {
	client := on(b.lab.Manager())
	defer client.CloseIdleConnections()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/nodes", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		var nodes []struct {
			Description struct{ Hostname string }
			Status      struct{ State string }
		}
		err = json.NewDecoder(resp.Body).Decode(&nodes)
		resp.Body.Close()
		if err != nil {
			return err
		}
		for _, m := range nodes {
			if m.Description.Hostname == n.Name && m.Status.State == "ready" {
				return nil
			}
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("%s is not ready: %w", n.Name, err)
		}
	}
}

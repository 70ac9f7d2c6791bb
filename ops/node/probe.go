package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"

	"waggle/ops"
)

// ProbeUDP sees whether datagrams get to a port of a host; see ops.Servers.
func (s *Servers) ProbeUDP(ctx context.Context, host string, port int) error {
	asked := ctx
	ctx, cancel := context.WithTimeout(ctx, s.timeouts.udp)
	defer cancel()
	silent := func(err error) error {
		if asked.Err() != nil {
			return &ops.Error{Code: ops.Canceled, Sentence: fmt.Sprintf("Called off: see whether UDP %d of %s is open", port, host), Err: asked.Err()}
		}
		return (&ops.Error{Code: ops.Unavailable, Sentence: fmt.Sprintf("%s gives no answer on UDP %d: a firewall may drop it", host, port), Err: err}).
			Then("Open UDP %d there to the other nodes", port)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "udp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return silent(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	// Twice: kernels send few of these answers a second, and a datagram may be lost.
	for range 2 {
		if _, err = conn.Write([]byte{0}); err == nil {
			_ = conn.SetReadDeadline(time.Now().Add(s.timeouts.udp / 2))
			_, err = conn.Read(make([]byte, 1))
		}
		if err == nil || errors.Is(err, syscall.ECONNREFUSED) {
			return nil
		}
	}
	return silent(err)
}

package node

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"waggle/ops"
)

func TestHostKeyIsTold(t *testing.T) {
	ed, ec, rsa := hostKey(t, ssh.KeyAlgoED25519), hostKey(t, ssh.KeyAlgoECDSA256), hostKey(t, ssh.KeyAlgoRSA)
	for name, c := range map[string]struct {
		keys []ssh.Signer
		best ssh.Signer
	}{
		"all":           {[]ssh.Signer{rsa, ec, ed}, ed},
		"RSA and ECDSA": {[]ssh.Signer{rsa, ec}, ec},
		"RSA":           {[]ssh.Signer{rsa}, rsa},
	} {
		t.Run(name, func(t *testing.T) {
			noGoroutines(t)
			client := newClient(t)
			server := client.connect(&sshd{T: t, keys: c.keys})
			if got, want := server.HostKey(), identity(c.best); got != want {
				t.Errorf("host key %v, want %v", got, want)
			}
		})
	}
	// Every key of the server is good when it is the expected one.
	client := newClient(t)
	s := &sshd{T: t, keys: []ssh.Signer{ed, ec, rsa}}
	s.start(client.public)
	for _, key := range s.keys {
		server, err := client.Connect(t.Context(), s.addr, identity(key))
		if err != nil {
			t.Fatalf("with its %s key expected: %v", key.PublicKey().Type(), err)
		}
		if server.HostKey() != identity(key) {
			t.Errorf("host key %v, want %v", server.HostKey(), identity(key))
		}
		server.Close()
	}
}

func TestHostKeyChanged(t *testing.T) {
	noGoroutines(t)
	ed, ec, rsa := hostKey(t, ssh.KeyAlgoED25519), hostKey(t, ssh.KeyAlgoECDSA256), hostKey(t, ssh.KeyAlgoRSA)
	other := hostKey(t, ssh.KeyAlgoED25519)
	client := newClient(t)
	for name, c := range map[string]struct {
		keys []ssh.Signer
		want ops.HostKey
		now  ssh.Signer
	}{
		"another of its kind":       {[]ssh.Signer{ed, ec, rsa}, identity(other), ed},
		"none of its kind any more": {[]ssh.Signer{ec, rsa}, identity(ed), ec},
		"another RSA":               {[]ssh.Signer{ed, rsa}, identity(hostKey(t, ssh.KeyAlgoRSA)), rsa},
		"right key, other kind":     {[]ssh.Signer{ed}, ops.HostKey{Algorithm: ssh.KeyAlgoRSA, Fingerprint: identity(ed).Fingerprint}, ed},
		"no algorithm":              {[]ssh.Signer{ed}, ops.HostKey{Fingerprint: identity(other).Fingerprint}, ed},
		"no fingerprint":            {[]ssh.Signer{ed}, ops.HostKey{Algorithm: ssh.KeyAlgoED25519}, ed},
	} {
		t.Run(name, func(t *testing.T) {
			s := &sshd{T: t, keys: c.keys}
			s.start(client.public)
			_, err := client.Connect(t.Context(), s.addr, c.want)
			wantError(t, err, ops.Failed, "The host key of 127.0.0.1 changed: it was "+c.want.Fingerprint+", and now it is "+identity(c.now).Fingerprint, "ssh-keygen -lf")
			if n := s.count("session") + s.count("direct-streamlocal@openssh.com"); n != 0 {
				t.Errorf("%d channels were opened all the same", n)
			}
		})
	}
}

// listen answers TCP connections with a function, one at a time.
func listen(t *testing.T, serve func(net.Conn)) ops.Address {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return ops.Address{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, User: "waggle"}
}

// untilClosed reads until the other side is gone.
func untilClosed(c net.Conn) { io.Copy(io.Discard, c) }

func TestServersThatDoNotLetIn(t *testing.T) {
	noGoroutines(t)
	closed := listen(t, func(net.Conn) {})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Port = l.Addr().(*net.TCPAddr).Port
	l.Close()

	another := newClient(t)
	refuses := &sshd{T: t}
	refuses.start(another.public)
	old := &sshd{T: t, before: func(c net.Conn) net.Conn {
		// A server of long ago: SHA-1 and nothing else.
		config := &ssh.ServerConfig{NoClientAuth: true}
		config.KeyExchanges = []string{ssh.InsecureKeyExchangeDH1SHA1}
		config.AddHostKey(hostKey(t, ssh.KeyAlgoED25519))
		_, _, _, _ = ssh.NewServerConn(c, config)
		return nil
	}}
	old.start(another.public)

	for name, c := range map[string]struct {
		addr           ops.Address
		code           ops.Code
		sentence, next string
	}{
		"nothing listens": {closed, ops.Unavailable, "127.0.0.1 is there, but nothing listens on its port " + strconv.Itoa(closed.Port) + ": the connection was refused", "with `--port`"},
		"refuses the key": {refuses.addr, ops.Forbidden, "127.0.0.1 does not let Waggle's key in as user waggle", "Add the line that `/join-node key` shows to ~/.ssh/authorized_keys of waggle there"},
		"HTTP": {listen(t, func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			c.(*net.TCPConn).CloseWrite()
			untilClosed(c)
		}), ops.Failed, "is not an SSH server", "Name the port of its sshd with `--port`"},
		"MySQL": {listen(t, func(c net.Conn) {
			c.Write(append([]byte("J\x00\x00\x00\x0a8.0.36\x00"), make([]byte, 300)...))
			untilClosed(c)
		}), ops.Failed, "is not an SSH server", ""},
		"closes at once": {listen(t, func(net.Conn) {}), ops.Unavailable, "closed the SSH connection before Waggle could log in", "See its sshd's log"},
		"closes after its version": {listen(t, func(c net.Conn) { io.WriteString(c, "SSH-2.0-x\r\n") }),
			ops.Unavailable, "closed the SSH connection before", ""},
		"hangs at once":           {listen(t, untilClosed), ops.Unavailable, "accepts connections on port", "restart it"},
		"hangs after its version": {listen(t, func(c net.Conn) { io.WriteString(c, "SSH-2.0-x\r\n"); untilClosed(c) }), ops.Unavailable, "and then hangs: SSH got no answer", "restart it"},
		"drips, as a tarpit does": {listen(t, func(c net.Conn) {
			for err := error(nil); err == nil; time.Sleep(10 * time.Millisecond) {
				_, err = io.WriteString(c, "x\r\n")
			}
		}), ops.Unavailable, "and then hangs", ""},
		"too old": {old.addr, ops.Failed, "The SSH server of 127.0.0.1 has no key exchange in common with Waggle", "Upgrade sshd"},
	} {
		t.Run(name, func(t *testing.T) {
			client := newClient(t)
			client.timeouts.handshake = 300 * time.Millisecond
			if name == "refuses the key" || name == "too old" {
				client.timeouts.handshake = 5 * time.Second
			}
			_, err := client.Connect(t.Context(), c.addr, ops.HostKey{})
			wantError(t, err, c.code, c.sentence, c.next)
		})
	}
}

// What the network says, without a network that says it.
func TestUnreachable(t *testing.T) {
	to := target{Address: ops.Address{Host: "ghost", Port: 22, User: "root"}}
	dial := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	for name, c := range map[string]struct {
		err            error
		code           ops.Code
		sentence, next string
	}{
		"unknown name":   {dial(&net.DNSError{Err: "no such host", Name: "ghost", IsNotFound: true}), ops.NotFound, "No server is named ghost", "Check the name"},
		"no name server": {dial(&net.DNSError{Err: "server misbehaving", Name: "ghost", IsTemporary: true}), ops.Unavailable, "name service does not tell the address of ghost", "address instead"},
		"slow names":     {dial(&net.DNSError{Err: "i/o timeout", Name: "ghost", IsTimeout: true}), ops.Unavailable, "name service does not tell", ""},
		"time-out":       {dial(os.ErrDeadlineExceeded), ops.Unavailable, "ghost does not answer on port 22", "no firewall drops"},
		"kernel's time":  {dial(os.NewSyscallError("connect", syscall.ETIMEDOUT)), ops.Unavailable, "ghost does not answer on port 22", ""},
		"no route":       {dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH)), ops.Unavailable, "There is no way from here to ghost", "Check the address"},
		"no network":     {dial(os.NewSyscallError("connect", syscall.ENETUNREACH)), ops.Unavailable, "There is no way from here to ghost", ""},
		"anything else":  {dial(os.NewSyscallError("connect", syscall.EACCES)), ops.Unavailable, "There is no connection to port 22 of ghost", "Check the address"},
	} {
		t.Run(name, func(t *testing.T) {
			wantError(t, unreachable(t.Context(), to, c.err), c.code, c.sentence, c.next)
		})
	}
	_, err := newClient(t).Connect(t.Context(), ops.Address{Host: "ghost.invalid", Port: 22, User: "root"}, ops.HostKey{})
	if code := ops.CodeOf(err); code != ops.NotFound && code != ops.Unavailable {
		t.Errorf("a name that nobody has: %v", err)
	}
}

func TestConnectIsCalledOff(t *testing.T) {
	noGoroutines(t)
	accepted := make(chan struct{}, 1)
	addr := listen(t, func(c net.Conn) { accepted <- struct{}{}; untilClosed(c) })
	client := newClient(t)
	client.timeouts.handshake = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-accepted; cancel() }()
	_, err := client.Connect(ctx, addr, ops.HostKey{})
	wantError(t, err, ops.Canceled, "Called off: connect to 127.0.0.1", "")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the cause is lost: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	go func() { <-accepted }()
	_, err = client.Connect(ctx, addr, ops.HostKey{})
	wantError(t, err, ops.Unavailable, "and then hangs", "")
	// Before anything is tried.
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	_, err = client.Connect(ctx, addr, ops.HostKey{})
	wantError(t, err, ops.Canceled, "Called off", "")
}

func TestProbeUDP(t *testing.T) {
	noGoroutines(t)
	s := New(Options{})
	s.timeouts.udp = 200 * time.Millisecond
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.LocalAddr().(*net.UDPAddr).Port
	err = s.ProbeUDP(t.Context(), "127.0.0.1", port)
	wantError(t, err, ops.Unavailable, "127.0.0.1 gives no answer on UDP "+strconv.Itoa(port), "Open UDP")
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		for range 3 { // two are of the probe above
			if _, from, err := l.ReadFrom(make([]byte, 16)); err == nil {
				l.WriteTo([]byte("yes?"), from)
			}
		}
	}()
	if err := s.ProbeUDP(t.Context(), "127.0.0.1", port); err != nil {
		t.Errorf("a service that answers: %v", err)
	}
	<-answered
	l.Close()
	if err := s.ProbeUDP(t.Context(), "127.0.0.1", port); err != nil {
		t.Errorf("nothing listens, and the machine says so: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.ProbeUDP(ctx, "127.0.0.1", port); ops.CodeOf(err) != ops.Canceled {
		t.Errorf("called off: %v", err)
	}
}

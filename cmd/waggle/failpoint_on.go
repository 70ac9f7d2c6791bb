//go:build failpoint

package main

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// failAt is taken out of the environment: a WAGGLE_ variable that is no setting is refused.
var failAt = func() string {
	defer os.Unsetenv("WAGGLE_FAILPOINT")
	return os.Getenv("WAGGLE_FAILPOINT")
}()

// failpoint sends this process SIGKILL, as a crash, at a step of the mechanism: WAGGLE_FAILPOINT is
// the step's name, or name:n for the nth time it is reached. With name:n:stop the signal is SIGSTOP,
// and the process goes on after a SIGCONT. Only binaries for tests have it.
func failpoint() func(step string) {
	fields := append(strings.Split(failAt, ":"), "", "")
	name := fields[0]
	if name == "" {
		return nil
	}
	n, err := strconv.Atoi(fields[1])
	if err != nil {
		n = 1
	}
	signal := syscall.SIGKILL
	if fields[2] == "stop" {
		signal = syscall.SIGSTOP
	}
	var reached atomic.Int64
	return func(step string) {
		if step != name || reached.Add(1) != int64(n) {
			return
		}
		_ = syscall.Kill(os.Getpid(), signal)
		if signal == syscall.SIGKILL {
			select {} // nothing happens after it
		}
	}
}

//go:build failpoint

package main

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// failpoint kills this process, as `kill -9` does, at a step of the mechanism: WAGGLE_FAILPOINT is
// its name, or name:n for the nth time it is reached. Only binaries for tests have it.
func failpoint() func(step string) {
	name, nth, _ := strings.Cut(os.Getenv("WAGGLE_FAILPOINT"), ":")
	if name == "" {
		return nil
	}
	n, err := strconv.Atoi(nth)
	if err != nil {
		n = 1
	}
	var reached atomic.Int64
	return func(step string) {
		if step == name && reached.Add(1) == int64(n) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // nothing happens after it
		}
	}
}

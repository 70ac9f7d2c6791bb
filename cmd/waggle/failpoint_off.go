//go:build !failpoint

package main

// failpoint is nothing here: see the build tag failpoint.
func failpoint() func(step string) { return nil }

//go:build !linux

package main

import (
	"context"
	"errors"
	"io"
)

func runDemo(context.Context, []string, io.Writer, io.Writer) error {
	return errors.New("the demo makes network namespaces, so it needs Linux")
}

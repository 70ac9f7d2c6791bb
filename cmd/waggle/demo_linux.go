package main

import (
	"context"
	"flag"
	"io"
	"os"

	"waggle/bot"
	"waggle/internal/demo"
)

func runDemo(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	exit := flags.Bool("exit", false, "print the transcript and stop")
	addr := flags.String("addr", demo.Addr, "where the workspace's page is")
	engine := flags.String("engine", "", "comma-separated Docker engines, assigned to the nodes in order, such as 28+containerd (default the one installed here)")
	if err := parse(flags, args, stderr); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	manifest, err := bot.Manifest("")
	if err != nil {
		return err
	}
	return demo.Run(ctx, demo.Options{Binary: self, Exit: *exit, Addr: *addr, Engine: *engine, Manifest: manifest, In: os.Stdin, Out: stdout})
}

package main

import (
	"context"
	"flag"
	"fmt"
	"io"

	"waggle/bot"
)

func manifest(_ context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("manifest", flag.ContinueOnError)
	url := flags.String("url", "", "where Slack reaches Waggle over HTTPS; without it the app uses Socket Mode")
	if err := parse(flags, args, stderr); err != nil {
		return err
	}
	text, err := bot.Manifest(*url)
	if err != nil {
		fmt.Fprintln(stderr, "waggle manifest:", err)
		return errUsage
	}
	_, err = stdout.Write(text)
	return err
}

//go:build man

package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// extraCommands returns the command man, which writes the man pages (make man). The released binary does not have
// this command, because the command needs a converter of Markdown.
func extraCommands() []*cobra.Command {
	return []*cobra.Command{{
		Use: "man DIR", Short: "Write a man page of each command", Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			date, err := pageDate(os.Getenv("SOURCE_DATE_EPOCH"))
			if err != nil {
				return err
			}
			header := &doc.GenManHeader{Title: "WHIRLPOOL", Section: "1", Source: "whirlpool " + version, Date: date,
				Manual: "Whirlpool"}
			top := cmd.Root()
			top.DisableAutoGenTag = true // the tag would contain the date of the build
			return doc.GenManTree(top, header, args[0])
		},
	}}
}

// pageDate converts epoch, a number of seconds since 1970-01-01 00:00 UTC, to the date of the man pages
// (https://reproducible-builds.org/specs/source-date-epoch/).
func pageDate(epoch string) (*time.Time, error) {
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("SOURCE_DATE_EPOCH must be a number of seconds: %w", err)
	}
	date := time.Unix(seconds, 0).UTC()
	return &date, nil
}

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// Exit codes: 0 when all is well, 1 when what was asked for failed or a check
// found something wrong, 2 when the command was not understood or could not
// read what it was given.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a mistake in how a command was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func exitCode(err error) int {
	var u usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &u):
		return exitUsage
	}
	return exitFailed
}

// usageErrors makes usage errors of what cobra complains about: flags,
// arguments and unknown commands.
func usageErrors(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage("%w; see %s --help", err, c.CommandPath())
	})
	check := cmd.Args
	if cmd.HasSubCommands() {
		check = func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%q is not one of its commands", args[0])
			}
			return nil
		}
		cmd.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	cmd.Args = func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usage("%s: %w; see %s --help", c.CommandPath(), err, c.CommandPath())
		}
		return nil
	}
	for _, c := range cmd.Commands() {
		usageErrors(c)
	}
}

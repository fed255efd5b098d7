package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes. 0: success. 1: the requested action failed, or a check found an error. 2: the command line is
// wrong, or its input cannot be read.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is an error in the command line.
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

// usageErrors makes cmd and all its subcommands refuse unknown flags and commands, and a wrong number of
// arguments.
func usageErrors(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage("%w; see %s --help", err, c.CommandPath())
	})
	if cmd.HasSubCommands() {
		cmd.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	names := strings.Fields(cmd.Use)[1:]
	cmd.Args = func(c *cobra.Command, args []string) error {
		where := ""
		if c.HasParent() {
			_, path, _ := strings.Cut(c.CommandPath(), " ")
			where = path + ": "
		}
		switch {
		case len(args) < len(names):
			return usage("%s%s is missing; see %s --help", where, names[len(args)], c.CommandPath())
		case len(args) == len(names):
			return nil
		case c.HasSubCommands():
			return usage("%s%q is not one of its commands; see %s --help", where, args[0], c.CommandPath())
		}
		if c.Annotations[secretArgs] != "" {
			return usage("%stakes no argument; see %s --help", where, c.CommandPath())
		}
		return usage("%s%q is one argument too many; see %s --help", where, args[len(names)], c.CommandPath())
	}
	for _, c := range cmd.Commands() {
		usageErrors(c)
	}
}

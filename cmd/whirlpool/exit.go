package main

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

// The exit codes of the commands. 0: success. 1: the requested action failed, or a check found an error or a
// difference. 2: the command line is wrong, or the input of the command cannot be read.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is an error with the exit code 2: the command line is wrong, or the input of the command cannot be read.
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

// usageErrors makes cmd and all its subcommands refuse unknown flags and commands, and a wrong number of arguments.
// The field Use of a command has its arguments: NAME is required, [NAME] is optional, and NAME... may be repeated.
func usageErrors(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage("%w%s; see %s --help", err, similarFlag(c, err), c.CommandPath())
	})
	if cmd.HasSubCommands() {
		cmd.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	required, most := arguments(cmd.Use)
	cmd.Args = func(c *cobra.Command, args []string) error {
		where := ""
		if c.HasParent() {
			_, path, _ := strings.Cut(c.CommandPath(), " ")
			where = path + ": "
		}
		switch {
		case len(args) < len(required):
			return usage("%s%s is missing; see %s --help", where, required[len(args)], c.CommandPath())
		case len(args) <= most:
			return nil
		case c.HasSubCommands():
			return usage("%s%q is not one of its commands%s; see %s --help", where, args[0],
				similarCommand(c, args[0]), c.CommandPath())
		}
		if c.Annotations[secretArgs] != "" {
			return usage("%stakes no argument; see %s --help", where, c.CommandPath())
		}
		return usage("%s%q is one argument too many; see %s --help", where, args[most], c.CommandPath())
	}
	for _, c := range cmd.Commands() {
		usageErrors(c)
	}
}

// arguments parses the usage line of a command (Use). It returns the names of the required arguments, and the maximum
// number of arguments.
func arguments(use string) (required []string, most int) {
	for _, name := range strings.Fields(use)[1:] {
		most++
		if strings.HasSuffix(strings.TrimSuffix(name, "]"), "...") {
			most = math.MaxInt
		}
		if !strings.HasPrefix(name, "[") {
			required = append(required, strings.TrimSuffix(name, "..."))
		}
	}
	return required, most
}

// similarCommand returns "; did you mean X?" if the subcommand X of c is similar to name. Otherwise it returns "".
func similarCommand(c *cobra.Command, name string) string {
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return strict.DidYouMean(name, names)
}

// similarFlag returns "; did you mean --X?" if err reports an unknown flag that is similar to the flag X of c.
// Otherwise it returns "".
func similarFlag(c *cobra.Command, err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return ""
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if name := strict.Closest(unknown.GetSpecifiedName(), names); name != "" {
		return "; did you mean --" + name + "?"
	}
	return ""
}

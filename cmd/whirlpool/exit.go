package main

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

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

// usageError is an error with the exit code exitUsage.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usageErrorf(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

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

// checkUsage makes cmd and all its subcommands refuse unknown flags and commands, and a wrong number of arguments. The
// field Use of a command names its arguments: NAME is required, [NAME] is optional, and NAME... may be repeated.
func checkUsage(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageErrorf("%s; see %s --help", flagErrorText(c, err), c.CommandPath())
	})
	if cmd.HasSubCommands() {
		cmd.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	required, maxArgs := parseUse(cmd.Use)
	cmd.Args = func(c *cobra.Command, args []string) error {
		prefix := ""
		if c.HasParent() {
			_, path, _ := strings.Cut(c.CommandPath(), " ")
			prefix = path + ": "
		}
		switch {
		case len(args) < len(required):
			return usageErrorf("%s%s is missing; see %s --help", prefix, required[len(args)], c.CommandPath())
		case len(args) <= maxArgs:
			return nil
		case c.HasSubCommands():
			return usageErrorf("%s%q is not one of its commands%s; see %s --help", prefix, args[0],
				similarCommand(c, args[0]), c.CommandPath())
		}
		if c.Annotations[secretArgs] != "" {
			return usageErrorf("%stakes no argument; see %s --help", prefix, c.CommandPath())
		}
		return usageErrorf("%s%q is one argument too many; see %s --help", prefix, args[maxArgs], c.CommandPath())
	}
	for _, c := range cmd.Commands() {
		checkUsage(c)
	}
}

// parseUse returns the names of the required arguments in a usage line (Use), and the maximum number of arguments.
func parseUse(use string) (required []string, maxArgs int) {
	for _, name := range strings.Fields(use)[1:] {
		maxArgs++
		if strings.HasSuffix(strings.TrimSuffix(name, "]"), "...") {
			maxArgs = math.MaxInt
		}
		if !strings.HasPrefix(name, "[") {
			required = append(required, strings.TrimSuffix(name, "..."))
		}
	}
	return required, maxArgs
}

// maxListedCommands is the maximum number of subcommands that similarCommand lists.
const maxListedCommands = 6

// similarCommand returns "; did you mean X?" if the subcommand X of c is similar to name. Otherwise it returns a list
// of the subcommands or, if there are more than maxListedCommands, "".
func similarCommand(c *cobra.Command, name string) string {
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() || sub.Name() == "help" { // cobra lists the command help as not available
			names = append(names, sub.Name())
		}
	}
	similar := strict.DidYouMean(name, names)
	if similar == "" && len(names) <= maxListedCommands {
		return " (" + strings.Join(names, ", ") + ")"
	}
	return similar
}

// flagErrorText converts an error in the flags of c to a text. For a wrong value, the text states the permitted values.
func flagErrorText(c *cobra.Command, err error) string {
	var unknown *pflag.NotExistError
	var wrong *pflag.InvalidValueError
	var missing *pflag.ValueRequiredError
	switch {
	case errors.As(err, &unknown):
		return unknownFlag(c, unknown)
	case errors.As(err, &wrong):
		f := wrong.GetFlag()
		return fmt.Sprintf("--%s %q: %s", f.Name, wrong.GetValue(), permittedValues(f, wrong.GetValue(), wrong))
	case errors.As(err, &missing):
		f := missing.GetFlag()
		placeholder, _ := pflag.UnquoteUsage(f)
		return fmt.Sprintf("--%s needs a value: --%s %s", f.Name, f.Name, placeholder)
	}
	return err.Error()
}

// permittedValues returns a text that states which values the flag f takes. The parameter value is a wrong value.
func permittedValues(f *pflag.Flag, value string, wrong *pflag.InvalidValueError) string {
	switch f.Value.Type() {
	case "int":
		return "must be a whole number, such as 100"
	case "uint64":
		return "must be a whole number of at least 0, such as 100"
	case "float64":
		return "must be a number, such as 0.5"
	case "bool":
		return "must be true or false"
	case "duration":
		if _, err := time.ParseDuration(value + "s"); err == nil {
			return fmt.Sprintf("needs a unit: %ss, %sm or %sh", value, value, value)
		}
		return "must be a time with a unit, such as 30s, 5m or 1h"
	case "stringSlice":
		return "must be words, separated by commas"
	}
	return wrong.Unwrap().Error()
}

// unknownFlag returns the text of an error about a flag that c does not have, such as --confg, or -config with one dash
// only. The text suggests a similar flag of c, if there is one.
func unknownFlag(c *cobra.Command, unknown *pflag.NotExistError) string {
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	name, text := unknown.GetSpecifiedName(), "unknown flag: --"+unknown.GetSpecifiedName()
	if short := unknown.GetSpecifiedShortnames(); short != "" {
		name, _, _ = strings.Cut(short, "=")
		text = "unknown flag: -" + name
	}
	if similar := strict.Closest(name, names); similar != "" && utf8.RuneCountInString(name) > 1 {
		text += "; did you mean --" + similar + "?"
	}
	return text
}

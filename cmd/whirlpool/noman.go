//go:build !man

package main

import "github.com/spf13/cobra"

// extraCommands returns no commands. With the build tag man, it returns the command man (man.go).
func extraCommands() []*cobra.Command { return nil }

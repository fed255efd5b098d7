//go:build !man

package main

import "github.com/spf13/cobra"

// extraCommands returns no commands. In man.go it returns the command man.
func extraCommands() []*cobra.Command { return nil }

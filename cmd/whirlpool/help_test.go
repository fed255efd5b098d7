package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

func TestWrapHelp(t *testing.T) {
	require.Equal(t, `Check the proxies of lists (files, URLs, or - for standard
input): whether each can be reached and whether it serves.
A list:
  one   is the first
  two   is the second, whose description is so long that it
        needs another line

Usage:
  whirlpool check FILE [flags]
https://example.com/a-word-that-is-longer-than-a-line-of-the-screen
`, wrapHelp(`Check the proxies of lists (files, URLs, or - for standard input): whether each
can be reached and whether it serves.
A list:
  one   is the first
  two   is the second, whose description is so long that it needs another line

Usage:
  whirlpool check FILE [flags]
https://example.com/a-word-that-is-longer-than-a-line-of-the-screen
`, 60))
}

// The help of each command fits into 80 columns.
func TestHelpOfEachCommandFits(t *testing.T) {
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		text, _, code := run(append(strings.Fields(c.CommandPath())[1:], "--help")...)
		require.Zero(t, code, c.CommandPath())
		for _, line := range strings.Split(wrapHelp(text, 80), "\n") {
			require.LessOrEqual(t, len([]rune(line)), 80, "%s: %s", c.CommandPath(), line)
		}
		for _, sub := range c.Commands() {
			check(sub)
		}
	}
	check(rootCommand())
}

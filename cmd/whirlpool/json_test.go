package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/access"
)

// Each command that prints a result prints it as JSON with --json.
func TestCommandsWithoutJSON(t *testing.T) {
	var without []string
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if sub.Name() != "completion" && sub.Name() != "help" { // their output is a script, and text
				walk(sub)
			}
		}
		if !c.HasSubCommands() && !c.Hidden && c.Flag("json") == nil {
			without = append(without, c.CommandPath())
		}
	}
	walk(rootCommand())
	require.ElementsMatch(t, []string{"whirlpool serve", "whirlpool ca trust"}, without)
}

func TestJSONOfCommandsThatWriteFiles(t *testing.T) {
	t.Chdir(t.TempDir())
	decode := func(in string, v any, args ...string) {
		t.Helper()
		cmd, out := rootCommand(), &bytes.Buffer{}
		cmd.SetIn(strings.NewReader(in))
		cmd.SetOut(out)
		cmd.SetArgs(append(args, "--json"))
		require.NoError(t, cmd.Execute())
		require.NoError(t, json.Unmarshal(out.Bytes(), v), "%s", out)
	}
	var created, shown authorityView
	decode("", &created, "ca", "create", "--constrain", "example.com")
	require.Equal(t, defaultKeyFile, created.KeyFile)
	require.Equal(t, []string{"example.com"}, created.Constraints)
	require.NotContains(t, created.Certificate, "PRIVATE")
	decode("", &shown, "ca", "show")
	created.KeyFile = ""
	require.Equal(t, created, shown)

	var password struct{ Hash string }
	decode("open sesame\n", &password, "passwd")
	require.NoError(t, access.CheckPassword(password.Hash))

	var plugin struct {
		Dir   string
		Files []string
	}
	decode("", &plugin, "plugin", "new", "mine", "--lang", "go", "--kind", "scorer")
	require.Equal(t, "mine", plugin.Dir)
	require.Contains(t, plugin.Files, "Makefile")
}

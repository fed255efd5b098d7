package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// All syntax errors that do not depend on each other are reported at once, with the wrong keys and values of the other
// statements.
func TestSyntaxErrors(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string // "line: part of the message"
	}{
		"two lines of a table": {"[log]\nlevel = \nformat = text\n[timeouts]\nconnect = \"x\"\n",
			[]string{"2: TOML", "3: TOML", "5: "}},
		"two tables": {"[log\nlevel = 1\n[timeouts]\nconnect == \"1s\"\n[breaker]\nblame = 7\nunknown = 1\n",
			[]string{"1: TOML", "4: TOML", "6: ", "7: "}},
		"an open bracket": {"[pool]\nfiles = [\n\"a\"\n[log]\nlevel = 1\nformat = 2\n", []string{"4: TOML"}},
		"an open text":    {"[log]\nlevel = \"\"\"\n[timeouts]\nconnect = 1\n", []string{"4: TOML"}},
		"lines of an array": {"[pool]\nfiles = [a,\n b,\n]\n[log]\nlevel = \n[api]\nlisten = 1\n",
			[]string{"2: TOML", "6: TOML", "8: "}},
		"a key twice": {"[log]\nlevel = \"info\"\nlevel = \"info\"\n[api]\nlisten = \n", []string{"3: TOML",
			"5: TOML"}},
		"a table twice": {"[log]\n[api]\n[log]\nlevel = \"info\"\n[queue]\nmax_wait = x\n", []string{"3: TOML",
			"6: TOML"}},
		"many": {strings.Repeat("a = \n", 100), []string{}},
	} {
		_, err := load(t, c.text, nil)
		var all *Error
		require.True(t, errors.As(err, &all), name)
		if name == "many" {
			require.Len(t, all.Faults, maxSyntaxFaults)
			continue
		}
		require.Len(t, all.Faults, len(c.want), "%s: %v", name, err)
		for i, want := range c.want {
			line, part, _ := strings.Cut(want, ": ")
			require.Contains(t, all.Faults[i].String(), ":"+line+": ", "%s: %v", name, err)
			require.Contains(t, all.Faults[i].String(), part, "%s: %v", name, err)
		}
	}
}

// A syntax error never shows the text of the document, which can have a password.
func TestSyntaxErrorsShowNoSecret(t *testing.T) {
	_, err := load(t,
		"[[proxies]]\nurl = http://ann:hunter2@a.test:1\nid = \n[[gateway.users]]\npassword = hunter2\n", nil)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
	require.Equal(t, 3, strings.Count(err.Error(), "TOML"), err)
}

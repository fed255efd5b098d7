package config

import (
	"fmt"
	"os"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"github.com/stretchr/testify/require"
)

func TestFormat(t *testing.T) {
	for name, c := range map[string]struct{ in, out string }{
		"empty":       {"", ""},
		"empty lines": {"\n\n\na=1\n\n\n\nb=2\n\n", "a = 1\n\nb = 2\n"},
		"spaces":      {"  a  =   1   \n\tb=\"x = # y\"  # note\n", "a = 1\nb = \"x = # y\" # note\n"},
		"tables":      {"a=1\n[x]\nb=2\n# about y\n[y]\n [[z]]\n", "a = 1\n\n[x]\nb = 2\n# about y\n[y]\n\n[[z]]\n"},
		"a comment":   {"a=1 #one\n#two\n  # three\n", "a = 1 #one\n#two\n# three\n"},
		"columns": {"a = 1     # one\nbcd = 2   # two\ne=3  # three\n",
			"a = 1     # one\nbcd = 2   # two\ne = 3 # three\n"},
		"a list":  {"a=[\n  1, # one\n  2,\n]  # end\n", "a = [\n  1, # one\n  2,\n]  # end\n"},
		"a table": {"a={b=1, c=\"}\"}# x\n", "a = {b=1, c=\"}\"} # x\n"},
		"long strings": {"a=\"\"\"x\n  y # no\n\"\"\"\"# c\nb='''\n '\n'''\n",
			"a = \"\"\"x\n  y # no\n\"\"\"\" # c\nb = '''\n '\n'''\n"},
		"quoted keys":  {"\"a = b\"=1\n'c#'.d=2\n", "\"a = b\" = 1\n'c#'.d = 2\n"},
		"escapes":      {"a=\"\\\"#\"#x\n", "a = \"\\\"#\" #x\n"},
		"CRLF and BOM": {"\ufeffa=1\r\nb=2\r\n", "a = 1\nb = 2\n"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := Format([]byte(c.in))
			require.NoError(t, err)
			require.Equal(t, c.out, string(out))
		})
	}
	_, err := Format([]byte("a = 1\nb = \n"))
	require.ErrorContains(t, err, "line 2: ")
	shipped, err := os.ReadFile("../../../koanf.toml")
	require.NoError(t, err)
	out, err := Format(shipped)
	require.NoError(t, err)
	require.Equal(t, string(shipped), string(out), "the shipped file has the uniform form")
}

// A formatted document has the values of the original, and is formatted.
func FuzzFormat(f *testing.F) {
	for _, doc := range []string{"a=1", "[x]\n a = [1,\n2]# c\n", "a='''\n'''", "\"k\".b = {c=1}",
		"a=\"\"\"\\\"\"\"\""} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		out, err := Format(doc)
		if err != nil {
			return
		}
		var tree map[string]any
		require.NoError(t, toml.Unmarshal(out, &tree))
		again, err := Format(out)
		require.NoError(t, err)
		require.Equal(t, string(out), string(again))
	})
}

func TestDifferences(t *testing.T) {
	list, err := Differences(Document{JSON: []byte(`{"log":{"level":"info"},"gone":1,"warnings":["x"],"files":["a"],
		"proxies":[{"id":"a","url":"u1"},{"id":"b","url":"u2"},{"url":"u3"},{"url":"u3","cost":1}]}`)},
		Document{JSON: []byte(`{"log":{"level":"debug"},"new":[],"files":["a"],
		"proxies":[{"id":"b","url":"u2"},{"id":"a","url":"u4"},{"url":"u3"},{"url":"u3","cost":2}]}`)})
	require.NoError(t, err)
	require.Equal(t, []Difference{
		{"gone", "1", ""}, {"log.level", `"info"`, `"debug"`}, {"new", "", "[]"},
		{"proxies[a].url", `"u1"`, `"u4"`}, {"proxies[u3 #2].cost", "1", "2"},
	}, list)
	_, err = Differences(Document{JSON: []byte("x")}, Document{JSON: []byte("{}")})
	require.ErrorContains(t, err, "the configuration in force")
}

// A file that is named by another path has no differences from itself. An absolute path in the file is compared
// unchanged.
func TestDifferencesOfPaths(t *testing.T) {
	document := func(file, dir, access, module string) Document {
		text := fmt.Sprintf(`{"state":{"dir":%q},"log":{"access_file":%q},"plugins":{"mine":{"path":%q}}}`, dir, access,
			module)
		return Document{JSON: []byte(text), File: file}
	}
	running := document("k.toml", "k.toml.state", "access.log", "m/a.wasm")
	keys := func(file Document) (keys []string) {
		list, err := Differences(running, file)
		require.NoError(t, err)
		for _, d := range list {
			keys = append(keys, d.Key)
		}
		return keys
	}
	require.Empty(t, keys(document("/etc/w/k.toml", "/etc/w/k.toml.state", "/etc/w/access.log", "/etc/w/m/a.wasm")))
	require.Empty(t, keys(document("../w/l.toml", "../w/l.toml.state", "../w/access.log", "../w/m/a.wasm")))
	require.Equal(t, []string{"log.access_file", "plugins.mine.path", "state.dir"},
		keys(document("/etc/w/k.toml", "/var/k.toml.state", "/var/access.log", "/etc/w/n/a.wasm")))
	running.File = "" // an older version reports no file
	require.Len(t, keys(document("/etc/w/k.toml", "/etc/w/k.toml.state", "/etc/w/access.log", "/etc/w/m/a.wasm")), 3)
}

func TestContradictions(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"[timeouts]\nconnect = \"20s\"\n", ":2: timeouts.connect: 20s is longer than timeouts.attempt (10s)"},
		{"[timeouts]\nattempt = \"1s\"\n", ""},
		// the default of connect contradicts nothing
		{"[retry]\ntimeout = 5\n[timeouts]\nattempt = \"6s\"\n",
			":4: timeouts.attempt: 6s is longer than retry.timeout (5s)"},
		{"[retry]\ntimeout = 5\n", ""},
		{"[retry]\ntimeout = 5\n[queue]\nmax_wait = \"6s\"\n", ":4: queue.max_wait: 6s is longer"},
		{"[retry]\nbase_delay = 20\nmax_backoff_delay = 10\n", ":2: retry.base_delay: 20s is longer"},
		{"[retry]\nhedge = \"p95\"\nmax_attempts = 1\n", "retry.max_attempts is 1"},
		{"[retry]\nhedge = \"p95\"\nhedge_budget = 0\n", "retry.hedge_budget is 0"},
		{"[breaker]\ntimeout_duration = \"60s\"\n",
			"breaker.timeout_duration: 1m0s is longer than breaker.max_timeout (45s)"},
		{"[breaker]\ntimeout_duration = \"60s\"\nblame = \"literal\"\n", ""},
		{"[health]\nurl = \"http://x/\"\ntimeout = \"2m\"\n",
			"health.timeout: 2m0s is longer than health.interval (1m0s)"},
		{"[health]\nexpect = { status = 204 }\n", "health.url is empty"},
		{"[gateway]\nmax_connections = 5\nmax_connections_per_client = 6\n",
			"6 is more than gateway.max_connections (5)"},
		{"[log]\naccess_file = \"x\"\n", "log.access is off"},
		{"[egress]\nallow = [\"a\"]\ndeny = [\"a\", \"b\"]\n", `egress.allow: "a" is also in deny`},
		{"[[proxies]]\nurl = \"http://h:1\"\n[[proxies]]\nurl = \"http://H:1\"\n",
			":4: proxies[1].url: is also proxies[0]; "},
		{"[[proxies]]\nurl = \"http://u-{rand8}:x@h:1\"\n[[proxies]]\nurl = \"http://u-{rand8}:x@h:1\"\n", ""},
		{"", ""},
	} {
		text, want := c.text, c.want
		c, err := load(t, text, nil)
		require.NoError(t, err, text)
		if want == "" {
			require.Empty(t, c.Warnings, text)
			continue
		}
		require.Len(t, c.Warnings, 1, text)
		require.Contains(t, c.Warnings[0], want)
	}
	c, err := Load(Source{URLs: []string{"http://h:1", "h:1"}})
	require.NoError(t, err)
	require.Contains(t, c.Warnings[0], ": --proxy[1]: is also --proxy[0]")
}

// The fault of a misspelt key or word names the correct one. All faults are reported at once.
func TestFaultsSuggest(t *testing.T) {
	_, err := load(t, `
[breaker]
blame = "literl"
failure_treshold = 5
[log]
level = "wran"
access = "erors"
[selections]
[[api.keys]]
key = "abcdefghijk"
role = "amdin"
[plugins.x]
builtin = "ban_like"
kind = "jugde"
`, nil)
	for _, word := range []string{"literal", "failure_threshold", "warn", "errors", "selection", "admin", "judge"} {
		require.ErrorContains(t, err, "did you mean "+word+"?")
	}
	require.Len(t, err.(*Error).Faults, 7)
	_, err = load(t, "[breaker]\nblame = \"sometimes\"\n", nil)
	require.NotContains(t, err.Error(), "did you mean")
}

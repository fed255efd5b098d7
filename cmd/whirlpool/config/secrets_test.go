package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

func TestSecretsFromVariables(t *testing.T) {
	environ := func(s *Source) {
		s.Environ = []string{"CRAWLER=old", "CRAWLER=canary-1", "KEY=canary-key", "LOGIN=ann", "PASS=p@:/w",
			"PROXY=http://u:canary-2@h:1"}
	}
	c, err := load(t, `
gateway.users = [{ name = "a", password = "{env:CRAWLER}" }, { name = "b", password = "x{env:CRAWLER}" }]
api.keys = [{ name = "ops", key = "{env:KEY}", role = "read" }]
proxies = [{ url = "{env:PROXY}" }, { url = "http://{env:LOGIN}:{env:PASS}@h:2" }]
`, environ)
	require.NoError(t, err)
	require.Equal(t, "canary-1", c.Engine().Gateway.Users[0].Password)
	require.Equal(t, "x{env:CRAWLER}", c.Engine().Gateway.Users[1].Password, "a password that only looks alike")
	require.Equal(t, "canary-key", c.API.Keys[0].Key.Reveal())
	require.Equal(t, "canary-2", c.specs[0].Address.Password.Reveal())
	require.Equal(t, "ann", c.specs[1].Address.Username)
	require.Equal(t, "p@:/w", c.specs[1].Address.Password.Reveal())
	shown, err := json.Marshal(c)
	require.NoError(t, err)
	require.NotContains(t, string(shown), "canary")

	_, err = load(t, "[[gateway.users]]\nname = \"a\"\npassword = \"{env:NONE}\"\n", environ)
	require.ErrorContains(t, err,
		"koanf.toml:3: gateway.users[0].password: refers to the environment variable NONE, which is not set")
}

func TestUnsetVariableIsOneFault(t *testing.T) {
	_, err := load(t, `
gateway.users = [{ name = "a", password = "{env:NONE}" }]
api.keys = [{ name = "ops", key = "{env:NONE}", role = "read" }]
proxies = [{ url = "{env:NONE}" }, { url = "http://h:{env:NONE}" }]
`, nil)
	var wrong *Error
	require.ErrorAs(t, err, &wrong)
	require.Len(t, wrong.Faults, 4)
	for _, f := range wrong.Faults {
		require.Equal(t, "refers to the environment variable NONE, which is not set", f.Msg)
	}
}

func TestPasswordFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write("pw", "canary-1\r\nmore\n")
	write("blank", "\ncanary\n")
	write("bad", "$2y$canary\n")
	at := func(s *Source) {
		text, err := os.ReadFile(s.File)
		require.NoError(t, err)
		s.File = filepath.Join(dir, "koanf.toml")
		write("koanf.toml", string(text))
	}
	c, err := load(t, `gateway.users = [{ name = "a", password_file = "pw" }]`, at)
	require.NoError(t, err)
	require.Equal(t, "canary-1", c.Engine().Gateway.Users[0].Password)
	require.Equal(t, []string{filepath.Join(dir, "pw")}, c.Files(), "the file is watched")
	for file, want := range map[string]string{
		"none": "no such file", "blank": "empty first line", "bad": "bcrypt",
	} {
		_, err := load(t, `gateway.users = [{ name = "a", password_file = "`+file+`" }]`, at)
		require.ErrorContains(t, err, "gateway.users[0].password_file: ")
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "canary")
	}
	_, err = load(t, `gateway.users = [{ name = "a", password = "b", password_file = "pw" }]`, at)
	require.ErrorContains(t, err, "cannot be set together with password")
	_, err = load(t, `gateway.users = [{ name = "a", password = "$argon2id$canary" }]`, at)
	require.ErrorContains(t, err, "gateway.users[0].password: begins like an argon2id hash")
	require.NotContains(t, err.Error(), "canary")
}

func TestLimitsOfUsers(t *testing.T) {
	c, err := load(t, `
gateway.override = "none"
gateway.users = [{ name = "a", password = "b", override = "any", allow = ["*.example.com:443"], deny = [":25"],
  regions = ["EU"], max_in_flight = 3, requests_per_day = 4, bytes_per_day = "5MiB", priority = "low" }]
`, nil)
	require.NoError(t, err)
	set := c.Engine().Gateway
	require.Equal(t, retry.OverrideNone, set.Override)
	require.Equal(t, access.Limits{
		Priority: core.PriorityLow, Override: retry.OverrideAny,
		Allow: []string{"*.example.com:443"}, Deny: []string{":25"},
		Regions: []string{"EU"}, MaxInFlight: 3, RequestsPerDay: 4, BytesPerDay: 5 << 20,
	}, set.Users[0].Limits)
	for text, want := range map[string]string{
		`override = "some"`:                   "override: must be any, capped or none",
		`allow = ["a", "b c"]`:                "allow[1]: rule \"b c\"",
		`deny = ["10.0.0.1/8"]`:               "deny[0]: rule",
		`regions = [""]`:                      "regions: contains an empty name",
		`max_in_flight = -1`:                  "max_in_flight",
		`requests_per_day = -1`:               "requests_per_day",
		`bytes_per_day = "-1"`:                "bytes_per_day",
		`bytes_per_day = 1, nonsense = "any"`: "nonsense",
	} {
		_, err := load(t, `gateway.users = [{ name = "a", password = "b", `+text+` }]`, nil)
		require.ErrorContains(t, err, "gateway.users[0]."+want)
	}
	_, err = load(t, `gateway.override = "some"`, nil)
	require.ErrorContains(t, err, "gateway.override = \"some\": must be any, capped or none")
}

func TestMisspeltPlaceholdersInURLs(t *testing.T) {
	environ := func(s *Source) { s.Environ = []string{"PASS={sesion}"} }
	_, err := load(t, "[[proxies]]\nurl = \"http://user-{sesion}:secret@h:1\"\n", environ)
	require.ErrorContains(t, err, ":2: proxies[0].url: the user name or password has a misspelt template; did you "+
		"mean {session}?")
	require.NotContains(t, err.Error(), "secret")
	_, err = load(t, "[[proxies]]\nurl = \"http://{evn:LOGIN}:secret@h:1\"\n", environ)
	require.ErrorContains(t, err, "{env:NAME} is replaced in the URLs of [[proxies]] only")
	c, err := load(t, "[[proxies]]\nurl = \"http://user:{env:PASS}@h:1\"\n", environ)
	require.NoError(t, err, "the value of a variable may have braces")
	require.Equal(t, "{sesion}", c.specs[0].Address.Password.Reveal())
}

package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/intercept"
)

func TestIntercept(t *testing.T) {
	dir := certificates(t)
	write := func(name string, data []byte, mode os.FileMode) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, mode))
		require.NoError(t, os.Chmod(filepath.Join(dir, name), mode))
	}
	cert, key, err := intercept.Create(intercept.Options{}, time.Now())
	require.NoError(t, err)
	soon, soonKey, err := intercept.Create(intercept.Options{Validity: 24 * time.Hour, Constraints: []string{"a.test"}},
		time.Now())
	require.NoError(t, err)
	write("a.pem", cert, 0o644)
	write("a.key", key, 0o600)
	write("open.key", key, 0o640)
	write("soon.pem", soon, 0o644)
	write("soon.key", soonKey, 0o400)
	at := func(text string) (*Config, error) {
		write("koanf.toml", []byte(text), 0o600)
		return Load(Source{File: filepath.Join(dir, "koanf.toml")})
	}
	const rule = "\n[[rules]]\nwhen = { host = \"*.example.com\" }\nthen = { intercept = true }\n"
	c, err := at("[intercept]\nca_file = \"a.pem\"\nkey_file = \"a.key\"\nexclude = [\"*.bank.example.com\"]\n" + rule)
	require.NoError(t, err)
	require.Empty(t, c.Warnings)
	require.True(t, c.Engine().Rules[0].Then.Intercept)
	set := c.Engine().Intercept
	require.Equal(t, []string{"*.bank.example.com"}, set.Exclude)
	_, err = set.Authority.Certificate("www.example.com")
	require.NoError(t, err)
	require.Contains(t, c.Files(), filepath.Join(dir, "a.key"), "a change reloads it")
	shown, err := json.Marshal(c)
	require.NoError(t, err)
	require.Contains(t, string(shown),
		`"intercept":{"ca_file":"a.pem","key_file":"a.key","exclude":["*.bank.example.com"]}`)
	require.NotContains(t, string(shown), "BEGIN")

	const limited = "[intercept]\nca_file = \"soon.pem\"\nkey_file = \"soon.key\"\n"
	c, err = at(limited)
	require.NoError(t, err)
	require.Len(t, c.Warnings, 2)
	require.Contains(t, c.Warnings[0], "the authority's certificate ends on")
	require.Contains(t, c.Warnings[1], "intercept.ca_file: has no effect: no rule has intercept = true")
	c, err = at(limited + "[[rules]]\nwhen = { host = [\"a.test\", \"b.test\", \"*\"] }\nthen = { intercept = true }\n")
	require.NoError(t, err)
	require.Len(t, c.Warnings, 2)
	require.Contains(t, c.Warnings[1], "rules[0].when.host: b.test is not intercepted: the authority cannot sign for")
	c, err = at("")
	require.NoError(t, err)
	require.Nil(t, c.Engine().Intercept.Authority)

	for _, x := range [][2]string{
		{"ca_file = \"a.pem\"", ":1: intercept: needs both ca_file and key_file; `whirlpool ca create`"},
		{"ca_file = \"none.pem\"\nkey_file = \"a.key\"", ":2: intercept.ca_file: open"},
		{"ca_file = \"a.pem\"\nkey_file = \"none.key\"", ":3: intercept.key_file: open"},
		{"ca_file = \"a.pem\"\nkey_file = \"open.key\"", ":3: intercept.key_file: has the mode 0640"},
		{"ca_file = \"a.pem\"\nkey_file = \"soon.key\"", ":2: intercept.ca_file: the authority's certificate and"},
		{"ca_file = \"cert.pem\"\nkey_file = \"key.pem\"", ":2: intercept.ca_file: the certificate is not"},
		{"ca_file = \"text.pem\"\nkey_file = \"key.pem\"", ":2: intercept.ca_file: is not a file in PEM form"},
		{"exclude = [\"a\", \"http://b\"]", ":2: intercept.exclude[1] = \"http://b\": must be a host without scheme"},
		{rule, ":5: rules[0].then.intercept: needs ca_file and key_file in [intercept]; `whirlpool ca create`"},
	} {
		_, err := at("[intercept]\n" + x[0])
		require.ErrorContains(t, err, x[1])
		require.NotContains(t, err.Error(), "canary")
	}
}

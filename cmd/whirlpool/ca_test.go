package main

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
	"github.com/whirlpool-proxy/whirlpool/core/intercept"
)

func runCA(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd, out := rootCommand(), &bytes.Buffer{}
	cmd.SetOut(out)
	cmd.SetErr(out)
	cmd.SetArgs(append([]string{"ca"}, args...))
	err := cmd.Execute()
	return out.String(), err
}

func TestCA(t *testing.T) {
	t.Chdir(t.TempDir())
	text, err := runCA(t, "create", "--constrain", "shop.example", "--constrain", "10.0.0.0/8")
	require.NoError(t, err)
	require.Contains(t, text, `host = ["shop.example", "*.shop.example"]`, "a name that the authority can sign")
	from, to := strings.Index(text, "[intercept]"), strings.Index(text, "\nThen make")
	require.NoError(t, os.WriteFile("koanf.toml", []byte(text[from:to]), 0o600))
	_, err = config.Load(config.Source{File: "koanf.toml"})
	require.NoError(t, err, "the configuration that the command suggests is valid")
	for file, mode := range map[string]os.FileMode{defaultCAFile: 0o644, defaultKeyFile: 0o600} {
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), file)
	}
	pair, err := tls.LoadX509KeyPair(defaultCAFile, defaultKeyFile)
	require.NoError(t, err)
	key, err := os.ReadFile(defaultKeyFile)
	require.NoError(t, err)

	shown, err := runCA(t, "show")
	require.NoError(t, err)
	require.Contains(t, shown, intercept.Fingerprint(pair.Leaf))
	require.Contains(t, shown, "shop.example, 10.0.0.0/8")
	block, rest := pem.Decode([]byte(shown))
	require.Equal(t, pair.Leaf.Raw, block.Bytes)
	require.Empty(t, rest)

	trust, err := runCA(t, "trust")
	require.NoError(t, err)
	for _, client := range []string{
		"Debian", "Firefox", "Chromium", "curl", "requests", "NODE_EXTRA_CA_CERTS", "keytool", "httpx",
	} {
		require.Contains(t, trust, client)
	}
	require.NotContains(t, trust, "$FILE")
	secret := string(bytes.Split(key, []byte("\n"))[1])
	for _, out := range []string{text, shown, trust} {
		require.NotContains(t, out, secret)
	}

	// An authority that clients trust is not overwritten by mistake.
	_, err = runCA(t, "create")
	require.ErrorContains(t, err, defaultCAFile+" exists")
	_, err = runCA(t, "create", "--ca-file", "other.pem")
	require.ErrorContains(t, err, defaultKeyFile+" exists")
	require.NoFileExists(t, "other.pem")
	again, err := os.ReadFile(defaultKeyFile)
	require.NoError(t, err)
	require.Equal(t, key, again)

	// If a file has a certificate and a key, only the certificate is printed.
	cert, err := os.ReadFile(defaultCAFile)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile("both.pem", append(cert, key...), 0o600))
	shown, err = runCA(t, "show", "--ca-file", "both.pem")
	require.NoError(t, err)
	require.NotContains(t, shown, secret)

	for want, args := range map[string][]string{
		"not a domain":    {"create", "--ca-file", "x", "--key-file", "y", "--constrain", "http://x"},
		"--days":          {"create", "--ca-file", "x", "--key-file", "y", "--days", "0"},
		"no such file":    {"show", "--ca-file", "absent.pem"},
		"has no certific": {"trust", "--ca-file", defaultKeyFile},
	} {
		_, err := runCA(t, args...)
		require.ErrorContains(t, err, want)
		require.Equal(t, exitUsage, exitCode(err), want)
	}
}

// The certificate is added to the store of the system under a name that no other authority has.
func TestInstallAuthority(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	_, err := runCA(t, "create")
	require.NoError(t, err)
	cert, certPEM, err := readAuthority(defaultCAFile)
	require.NoError(t, err)
	store := authorityStore{filepath.Join(dir, "store"), "true"}
	err = installAuthority(&bytes.Buffer{}, cert, certPEM, store)
	require.ErrorContains(t, err, "is this Debian")
	require.NoError(t, os.Mkdir(store.dir, 0o755))
	out := &bytes.Buffer{}
	require.NoError(t, installAuthority(out, cert, certPEM, store))
	installed, err := os.ReadFile(filepath.Join(store.dir, authorityFileName(cert)))
	require.NoError(t, err)
	require.Equal(t, certPEM, installed)
	require.Contains(t, out.String(), "rm "+filepath.Join(store.dir, authorityFileName(cert)))
	store.update = "false"
	require.ErrorContains(t, installAuthority(out, cert, certPEM, store), "false")
}

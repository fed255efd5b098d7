package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/whirlpool-proxy/whirlpool/core/access"
)

func TestPasswd(t *testing.T) {
	run := func(in string, args ...string) (string, error) {
		cmd, out := rootCommand(), &bytes.Buffer{}
		cmd.SetIn(strings.NewReader(in))
		cmd.SetOut(out)
		cmd.SetErr(out)
		cmd.SetArgs(append([]string{"passwd"}, args...))
		err := cmd.Execute()
		return out.String(), err
	}
	hash, err := run("open sesame\r\nmore\n")
	require.NoError(t, err)
	require.Regexp(t, `^\$argon2id\$v=19\$m=19456,t=2,p=1\$\S+\n$`, hash)
	require.NoError(t, access.CheckPassword(strings.TrimSpace(hash)))
	hash, err = run("open sesame", "--bcrypt")
	require.NoError(t, err)
	require.NoError(t, bcrypt.CompareHashAndPassword([]byte(strings.TrimSpace(hash)), []byte("open sesame")))
	for in, want := range map[string]string{
		"": "empty", "\n": "empty", strings.Repeat("x", 1025): "longer than 1024", strings.Repeat("x", 73): "72 bytes",
	} {
		_, err := run(in, "--bcrypt")
		require.ErrorContains(t, err, want)
	}
	_, err = run("x", "canary-password")
	require.Error(t, err, "a password is not an argument")
	require.NotContains(t, err.Error(), "canary")
}

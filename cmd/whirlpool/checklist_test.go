package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWritePrivate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "good.txt")
	require.NoError(t, os.WriteFile(file, []byte("an older and longer list"), 0o644))
	require.NoError(t, writePrivate(file, "http://u:p@a.test:1\n"))
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "http://u:p@a.test:1\n", string(text))
	require.NoError(t, writePrivate(os.DevNull, "x"))
	require.Error(t, writePrivate(t.TempDir(), "x"))
}

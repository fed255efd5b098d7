package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A file that is too large is refused before it is in memory. The fault names the file, its size and the limit.
func TestFilesHaveASizeLimit(t *testing.T) {
	dir := t.TempDir()
	sparse := func(name string, size int64) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, nil, 0o600))
		require.NoError(t, os.Truncate(path, size))
		return path
	}
	list := sparse("list.txt", maxList+1)
	_, err := Load(Source{Proxies: []string{list}})
	require.ErrorContains(t, err, fmt.Sprintf("%s has %d bytes; at most %d are allowed", list, maxList+1, maxList))
	file := sparse("koanf.toml", maxConfig+1)
	_, err = Load(Source{File: file})
	require.ErrorContains(t, err, fmt.Sprintf("%s has %d bytes; at most %d are allowed", file, maxConfig+1, maxConfig))
	_, err = Load(Source{Proxies: []string{"/dev/zero"}})
	require.ErrorContains(t, err, fmt.Sprintf("/dev/zero has more than %d bytes", maxList))
	_, err = ReadList("standard input", endless{})
	require.ErrorContains(t, err, fmt.Sprintf("standard input has more than %d bytes", maxList))
	data, err := ReadList("standard input", strings.NewReader("h:1\n"))
	require.NoError(t, err)
	require.Equal(t, "h:1\n", string(data))
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestLimitsOfClients(t *testing.T) {
	file := filepath.Join(t.TempDir(), "koanf.toml")
	require.NoError(t, os.WriteFile(file, []byte("[gateway]\nmax_connections_per_client = 7\nmin_body_rate = 9\n"),
		0o600))
	c, err := Load(Source{File: file})
	require.NoError(t, err)
	require.Equal(t, 7, c.Engine().Gateway.MaxPerClient)
	require.EqualValues(t, 9, c.Engine().Gateway.MinBodyRate)
	d := Default()
	require.Equal(t, 17_500, d.Engine().Gateway.MaxPerClient)
	require.EqualValues(t, 100, d.Engine().Gateway.MinBodyRate)
}

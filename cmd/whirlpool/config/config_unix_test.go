//go:build !windows

package config

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A pipe is refused, because a reload would wait for another writer of the pipe, or find the pipe empty.
func TestAPipeIsRefused(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	_, err := Load(Source{File: pipe})
	require.ErrorContains(t, err, "is a pipe")
	_, err = Load(Source{Proxies: []string{pipe}})
	require.ErrorContains(t, err, "is a pipe")
	go os.WriteFile(pipe, []byte("[[proxies]]\nurl = \"http://a:1\"\n"), 0)
	c, err := Load(Source{File: pipe, Once: true})
	require.NoError(t, err)
	require.Equal(t, 1, c.ProxyCount())
}

// processorTime returns the CPU time of this process so far. Other processes do not change it.
func processorTime(t *testing.T) time.Duration {
	var used syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// The time to load a file grows in proportion to its length, not to the square: ten thousand proxies once
// took 20 s.
func TestAFileOfManyProxies(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of a processor; make test runs it")
	}
	took := map[int]time.Duration{1_000: time.Hour, 20_000: time.Hour}
	for range 3 {
		for n := range took {
			begin := processorTime(t)
			c, err := load(t, many(n), nil)
			took[n] = min(took[n], processorTime(t)-begin)
			require.NoError(t, err)
			require.Equal(t, n, c.ProxyCount())
		}
	}
	require.Less(t, took[20_000], 100*took[1_000], "20 times the length; its square would be 400 times")
	c, err := load(t, many(3), func(src *Source) { src.Environ = []string{`WHIRLPOOL_PROXIES=[{url="http://e:1"}]`} })
	require.NoError(t, err)
	require.Equal(t, 1, c.ProxyCount(), "the environment's in their place")
	_, err = load(t, many(3), func(src *Source) { src.Environ = []string{`WHIRLPOOL_PROXIES=[{url="http://e:x"}]`} })
	require.ErrorContains(t, err, "environment variable WHIRLPOOL_PROXIES: proxies[0].url")
	_, err = load(t, many(1000)+"weight = 0\n", nil)
	require.ErrorContains(t, err, ":5001: proxies[999].weight")
}

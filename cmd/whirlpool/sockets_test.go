package main

import (
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// Sockets that were passed to another process are not used. (integration/ passes sockets to the binary.)
func TestSocketsOfAnotherProcess(t *testing.T) {
	mine := strconv.Itoa(os.Getpid())
	for name, vars := range map[string]map[string]string{
		"none":            {},
		"another process": {"LISTEN_FDS": "2", "LISTEN_PID": "1"},
		"no process":      {"LISTEN_FDS": "2"},
		"no number":       {"LISTEN_FDS": "two", "LISTEN_PID": mine},
		"zero":            {"LISTEN_FDS": "0", "LISTEN_PID": mine},
	} {
		environ := func(key string) string { return vars[key] }
		require.False(t, socketsPassed(environ), name)
		s, err := passedSockets(environ)
		require.NoError(t, err)
		require.Equal(t, sockets{}, s, name)
		settings := map[string]any{}
		s.setAddresses(settings)
		require.Empty(t, settings)
	}
}

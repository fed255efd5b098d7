//go:build !windows

package main

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/api"
)

// During a reload, neither a signal nor a request for the configuration waits. The test uses a pipe as the
// file, so that the test controls the duration of the reload.
func TestNoRequestWaitsForAReload(t *testing.T) {
	g, _, _ := running(t, "[gateway]\ndrain_grace = \"7s\"\n")
	file := g.source.File
	g.source.Once = true // otherwise pipes are refused
	require.NoError(t, os.Remove(file))
	require.NoError(t, syscall.Mkfifo(file, 0o600))
	done := make(chan api.ReloadStatus)
	go func() { done <- g.reload() }()
	pipe, err := os.OpenFile(file, os.O_WRONLY, 0) // returns when the reload opens the pipe
	require.NoError(t, err)
	asked := make(chan time.Duration)
	go func() {
		g.runningConfig()
		asked <- g.drainGrace()
	}()
	select {
	case d := <-asked:
		require.Equal(t, 7*time.Second, d)
	case <-time.After(time.Minute):
		t.Error("the reload is waited for")
	}
	_, err = pipe.WriteString("[gateway]\ndrain_grace = \"9s\"\n[state]\ndir = \"\"\n")
	require.NoError(t, err)
	require.NoError(t, pipe.Close())
	require.True(t, (<-done).OK)
	require.Equal(t, 9*time.Second, g.drainGrace())
}

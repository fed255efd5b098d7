package engine_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// While Restore runs, no background work that could count anything has begun.
func TestRestoreComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int64
		cfg := engine.DefaultConfig()
		a, err := upstream.ParseAddress("http://10.0.0.1:1")
		require.NoError(t, err)
		cfg.Proxies = []upstream.Spec{{ID: "p", Address: a}}
		cfg.Health.URL = "http://check.test/"
		restored := false
		e, err := engine.New(cfg, engine.Options{
			Plugins: rotation{},
			Dial: func(context.Context, string, string) (net.Conn, error) {
				dials.Add(1)
				return nil, errors.New("refused")
			},
			Restore: func(e *engine.Engine) {
				time.Sleep(5 * time.Minute)
				require.NotNil(t, e.Metrics())
				require.Zero(t, dials.Load())
				restored = true
			},
		})
		require.NoError(t, err)
		require.True(t, restored)
		time.Sleep(5 * time.Minute)
		require.NotZero(t, dials.Load(), "checks have begun")
		e.Shutdown(t.Context())
	})
}

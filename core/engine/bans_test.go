package engine_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// The bans of an earlier process are in force until their end. They are not reported as new events.
func TestBansSurviveARestart(t *testing.T) {
	noon := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	var passed atomic.Int64
	clock := func() time.Time { return noon.Add(time.Duration(passed.Load())) }
	build := func() (*engine.Engine, *int) {
		events := 0
		cfg := engine.DefaultConfig()
		cfg.Reachability = false
		cfg.Proxies = []upstream.Spec{{ID: "p", Address: upstream.Address{Scheme: upstream.HTTP, Host: "a.test:1"}}}
		e, err := engine.New(cfg, engine.Options{Plugins: rotation{}, Now: clock,
			OnBan: func(ban.Pair) { events++ }})
		require.NoError(t, err)
		t.Cleanup(func() { e.Shutdown(context.Background()) })
		return e, &events
	}
	e, events := build()
	u := e.Pool().Snapshot().Get("p")
	e.Ban(u, "", 10*time.Minute)
	e.Ban(u, "long.test", time.Hour)
	e.Ban(u, "short.test", 59*time.Minute)
	require.Equal(t, 3, *events)
	require.Len(t, e.LastingBans(), 2)
	var saved []engine.SavedBan
	for _, p := range e.LastingBans() {
		saved = append(saved, e.SaveBan(p))
	}
	require.Equal(t, []engine.SavedBan{
		{Proxy: "p", Since: noon, Until: noon.Add(10 * time.Minute)},
		{Proxy: "p", Host: "long.test", Since: noon, Until: noon.Add(time.Hour)},
	}, saved)

	passed.Store(int64(9 * time.Minute))
	e, events = build()
	e.RestoreBans(append(saved, engine.SavedBan{Proxy: "gone", Since: noon, Until: clock()}))
	require.Zero(t, *events)
	u = e.Pool().Snapshot().Get("p")
	until, banned := e.BannedUntil(u)
	require.True(t, banned)
	require.Equal(t, noon.Add(10*time.Minute), e.Pool().TimeAt(until).UTC())
	require.Len(t, e.LastingBans(), 2)
	longer := e.Ban(u, "long.test", 10*time.Minute)
	require.Equal(t, noon, e.Pool().TimeAt(longer.Since).UTC(), "the longer rest is in force")
	require.Equal(t, noon.Add(time.Hour), e.Pool().TimeAt(longer.Until).UTC())
	passed.Store(int64(11 * time.Minute))
	_, banned = e.BannedUntil(u)
	require.False(t, banned)
}

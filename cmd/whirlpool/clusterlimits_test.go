package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/share"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/plugins"
)

func TestHolderStaysInTheStateFolder(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	first := readHolderName(dir, log)
	require.True(t, isHolderName(first), first)
	require.Equal(t, first, readHolderName(dir, log))
	require.NotEqual(t, first, readHolderName("", log))
	require.NoError(t, os.WriteFile(filepath.Join(dir, holderFile), []byte("a b"), 0o600))
	require.True(t, isHolderName(readHolderName(dir, log)), "a damaged file is replaced")
}

// engineWith returns an engine with n proxies that have the given limits.
func engineWith(t testing.TB, n int, spec upstream.Spec) *engine.Engine {
	cfg := engine.DefaultConfig()
	cfg.Reachability = false
	for i := range n {
		s := spec
		s.ID = fmt.Sprint("p", i)
		s.Address = upstream.Address{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", 1000+i%60_000)}
		s.Weight = 1
		cfg.Proxies = append(cfg.Proxies, s)
	}
	log := slog.New(slog.DiscardHandler)
	reg, err := plugins.New(plugins.Options{Log: log})
	require.NoError(t, err)
	t.Cleanup(func() { reg.Close() })
	e, err := engine.New(cfg, engine.Options{Plugins: reg, Log: log})
	require.NoError(t, err)
	t.Cleanup(func() { e.Shutdown(context.Background()) })
	return e
}

func TestLimitsOfProxiesInUse(t *testing.T) {
	e := engineWith(t, 3, upstream.Spec{Extras: &upstream.Extras{MaxInFlight: 16, Rate: 80}})
	l := newClusterLimits(e)
	l.SetInitialShares(share.InitialShares{Nodes: 1, Fraction: 8})
	var keys []string
	each := func() []string {
		keys = nil
		l.EachUsed(false, func(p share.Limit) { keys = append(keys, p.Key()) })
		return keys
	}
	require.Empty(t, each(), "no limit is in use")
	u := e.Pool().Snapshot().Get("p1")
	var leases []upstream.Lease
	for {
		lease, ok := u.Acquire(e.Pool().Epoch())
		if !ok {
			break
		}
		leases = append(leases, lease)
	}
	require.Len(t, leases, 2, "the first part of 16")
	require.Equal(t, []string{"proxy/max_in_flight/" + proxyKey(u), "proxy/rate/" + proxyKey(u)}, each())
	l.EachUsed(false, func(p share.Limit) {
		if use := p.Use(); use.Kind == share.InFlight {
			require.Equal(t, int64(2), use.Used)
			require.Equal(t, int64(2), p.SetShare(1, 2, 0))
		} else {
			require.Equal(t, int64(10*share.RateUnit), use.Share)
			require.Equal(t, int64(40*share.RateUnit), p.SetShare(40*share.RateUnit, 0, 0))
		}
	})
	require.Empty(t, each(), "both have a part")
	leases[0].Release()
	_, ok := u.Acquire(e.Pool().Epoch())
	require.False(t, ok, "one attempt is in flight, which is the part")
	leases[1].Release()
	lease, ok := u.Acquire(e.Pool().Epoch())
	require.True(t, ok)
	lease.Release()
}

func TestDaysBeginByTheStoresClock(t *testing.T) {
	e := engineWith(t, 1, upstream.Spec{Extras: &upstream.Extras{BytesPerDay: 1000}})
	u := e.Pool().Snapshot().Get("p0")
	day := u.ShareUse(limit.Bytes).Day
	now := time.Now()
	e.SetStoreTime(now, now.Add(72*time.Hour))
	require.InDelta(t, day+3, u.ShareUse(limit.Bytes).Day, 1, "1 if a day begins during the test")
	until := e.UntilNextDay(now)
	require.Equal(t, until, e.Accounts().UntilNextDay(now))
	require.InDelta(t, 12*time.Hour, until, float64(12*time.Hour))
}

// BenchmarkLimitsInUse measures the search for the limits in use among 100,000 proxies.
func BenchmarkLimitsInUse(b *testing.B) {
	for _, spec := range []upstream.Spec{{}, {Extras: &upstream.Extras{Rate: 10}}} {
		b.Run(fmt.Sprint(spec.Extra().Rate), func(b *testing.B) {
			l := newClusterLimits(engineWith(b, 100_000, spec))
			l.SetInitialShares(share.InitialShares{Nodes: 1, Fraction: 8})
			b.ReportAllocs()
			for b.Loop() {
				l.EachUsed(false, func(share.Limit) {})
			}
		})
	}
}

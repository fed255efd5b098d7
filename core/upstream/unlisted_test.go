package upstream

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// A proxy that its list omits for at most ten minutes keeps its breaker and its statistics.
func TestAProxyReturnsToItsList(t *testing.T) {
	for name, c := range map[string]struct {
		source, host string
		away         time.Duration
		literal      bool
		keeps        bool
	}{
		"within ten minutes":  {"list.txt", "b:1", 9 * time.Minute, false, true},
		"later":               {"list.txt", "b:1", 11 * time.Minute, false, false},
		"with other address":  {"list.txt", "b:2", time.Minute, false, false},
		"of the config":       {SourceConfig, "b:1", time.Minute, false, false},
		"with literal counts": {"list.txt", "b:1", time.Minute, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(1000, 0)
			cfg := breaker.Default()
			cfg.FailureThreshold, cfg.WindowDuration = 1, time.Hour
			cfg.TimeoutDuration, cfg.MaxTimeout = time.Hour, time.Hour
			pool := NewPool(PoolConfig{Literal: c.literal, Breaker: cfg, Now: func() time.Time { return now }})
			a := Spec{ID: "a", Weight: 1, Address: Address{Scheme: HTTP, Host: "a:1"}, Source: c.source}
			b := Spec{ID: "b", Weight: 1, Address: Address{Scheme: HTTP, Host: "b:1"}, Source: c.source}
			require.NoError(t, pool.Apply([]Spec{a, b}))
			lease, ok := pool.Snapshot().Get("b").Acquire(now)
			require.True(t, ok)
			lease.Settle(&core.Outcome{Verdict: core.Success, Latency: time.Second})
			lease.Release()
			pool.Snapshot().Get("b").CountUnreached(verdict.ProxyUnreachable, 1)
			before := pool.Snapshot().Get("b")
			stats, view := before.Stats(), before.Breaker().Snapshot()
			require.Equal(t, core.Open, view.State)
			require.NoError(t, pool.Apply([]Spec{a}))
			require.Empty(t, pool.NotClosed())
			now = now.Add(c.away)
			b.Address.Host = c.host
			require.NoError(t, pool.Apply([]Spec{a, b}))
			after := pool.Snapshot().Get("b")
			if !c.keeps {
				require.Equal(t, core.Closed, after.State())
				require.Zero(t, after.AttemptCount())
				return
			}
			require.Equal(t, stats, after.Stats())
			require.Equal(t, view, after.Breaker().Snapshot())
			require.Equal(t, []*Upstream{after}, pool.NotClosed())
			require.Equal(t, before.EvidenceReport(), after.EvidenceReport())
			next, found := pool.NextTestTime()
			require.True(t, found)
			require.True(t, next.Equal(view.NextTest))
		})
	}
}

package upstream_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

func newCostPool(t *testing.T, specs ...upstream.Spec) *upstream.Pool {
	now := time.Unix(1_800_000_000, 0)
	p := upstream.NewPool(upstream.PoolConfig{Breaker: breaker.Default(), Now: func() time.Time { return now }})
	require.NoError(t, p.Apply(specs))
	return p
}

func priced(id, vendor string) upstream.Spec {
	return upstream.Spec{ID: id, Address: upstream.Address{Scheme: upstream.HTTP, Host: "a.test:1"},
		Extras: &upstream.Extras{Vendor: vendor, Price: traffic.Price{Request: 0.5, GB: 1000}, BytesPerDay: 1_000_000}}
}

// use makes an attempt that ends with the given cause.
func use(t *testing.T, u *upstream.Upstream, user *traffic.Meter, cause core.Cause) {
	lease, ok := u.Acquire(time.Unix(1_800_000_000, 0))
	require.True(t, ok)
	m := lease.Meters(user)
	m.CountBytes(1000, 9000)
	if verdict.SentToProxy(cause) {
		m.CountAttempt()
	}
	lease.Settle(&core.Outcome{Cause: cause, Verdict: core.Success})
	lease.Release()
}

// The costs of proxies and vendors survive a change of the pool and a restart. They do not count for the bytes of a
// day.
func TestCostsOfProxiesAndVendors(t *testing.T) {
	p := newCostPool(t, priced("a", "acme"), priced("b", "acme"), priced("c", ""))
	var user traffic.Meter
	use(t, p.Snapshot().Get("a"), &user, verdict.Answered)
	use(t, p.Snapshot().Get("b"), nil, verdict.ProxyUnreachable) // costs no request
	idle, ok := p.Snapshot().Get("c").Acquire(time.Unix(1_800_000_000, 0))
	require.True(t, ok)
	idle.Release() // not settled: costs nothing
	one := traffic.Total{Up: 1000, Down: 9000, Attempts: 1, Cost: 0.51}
	unreached := traffic.Total{Up: 1000, Down: 9000, Cost: 0.01}
	want := upstream.Costs{
		Proxies: []upstream.Cost{{Name: "a", Total: one}, {Name: "b", Total: unreached}},
		Vendors: []upstream.Cost{{Name: "acme", Total: one.Add(unreached)}},
	}
	require.Equal(t, want, p.Costs())
	require.Equal(t, one, user.Total())
	require.InDelta(t, 0.52, p.Cost(), 1e-9)

	require.NoError(t, p.Remove("a", false))
	require.Equal(t, want, p.Costs(), "a removed proxy keeps its costs")
	require.InDelta(t, 0.52, p.Cost(), 1e-9)
	_, err := p.Add([]upstream.Spec{priced("a", "acme")})
	require.NoError(t, err)
	require.Equal(t, want, p.Costs(), "the proxy is back")
	err = p.UpdateAll(upstream.Updates{"a": func(s *upstream.Spec) error { s.Address.Host = "b.test:1"; return nil }})
	require.NoError(t, err)
	require.Equal(t, want, p.Costs(), "another address")
	require.Equal(t, map[string]int64{"a": 0, "b": 10_000, "c": 0}, bytesOf(p), "a is another proxy now")

	after := newCostPool(t, priced("a", "acme"))
	after.RestoreCosts(want)
	require.Equal(t, want, after.Costs())
	require.Equal(t, map[string]int64{"a": 0}, bytesOf(after), "this process has transmitted nothing")
	today := limit.SavedUsage{Proxy: "a", Day: 1_800_000_000 / 86400, Bytes: 10_000}
	require.Empty(t, after.UsedBytes(time.Unix(1_800_000_000, 0)))
	after.RestoreUsed([]limit.SavedUsage{today}, time.Unix(1_800_000_000, 0))
	require.Equal(t, []limit.SavedUsage{today}, after.UsedBytes(time.Unix(1_800_000_000, 0)))
}

func TestFieldsOfCosts(t *testing.T) {
	for field, change := range map[string]func(*upstream.Spec){
		"tier":             func(s *upstream.Spec) { s.Tier = 101 },
		"vendor":           func(s *upstream.Spec) { s.Extras.Vendor = "a\nb" },
		"cost_per_request": func(s *upstream.Spec) { s.Extras.Price.Request = -1 },
		"cost_per_gb":      func(s *upstream.Spec) { s.Extras.Price.GB = 1e13 },
		"rate":             func(s *upstream.Spec) { s.Extras.Rate = -1 },
	} {
		spec := priced("a", "x")
		change(&spec)
		var bad *upstream.SpecError
		require.ErrorAs(t, upstream.CheckSpec(&spec), &bad)
		require.Equal(t, field, bad.Field)
	}
}

// The bytes of a day stay with the id of a proxy that is removed and added again, or gets another address. So a list
// that lacks a proxy for a while does not lift its limit.
func TestBytesOfADayStayWithTheID(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	p := newCostPool(t, priced("a", ""), priced("b", ""))
	use(t, p.Snapshot().Get("a"), nil, verdict.Answered)
	want := []limit.SavedUsage{{Proxy: "a", Day: now.Unix() / 86400, Bytes: 10_000}}
	require.Equal(t, want, p.UsedBytes(now))
	require.NoError(t, p.Remove("a", false))
	require.Equal(t, want, p.UsedBytes(now), "removed")
	_, err := p.Add([]upstream.Spec{priced("a", "")})
	require.NoError(t, err)
	require.Equal(t, want, p.UsedBytes(now), "back")
	err = p.UpdateAll(upstream.Updates{"a": func(s *upstream.Spec) error { s.Address.Host = "b.test:1"; return nil }})
	require.NoError(t, err)
	require.Equal(t, want, p.UsedBytes(now), "another address")
	require.NoError(t, p.Remove("a", false))
	require.Empty(t, p.UsedBytes(now.Add(24*time.Hour)), "the next day")
}

func bytesOf(p *upstream.Pool) map[string]int64 {
	out := map[string]int64{}
	p.EachBytes(func(id string, bytes int64) { out[id] = bytes })
	return out
}

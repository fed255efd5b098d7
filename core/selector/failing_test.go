package selector

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// attempt makes an attempt at a target.
func (f *fixture) attempt(t *testing.T, proxy int, target string, v core.Verdict) {
	f.now = f.now.Add(10 * time.Millisecond)
	lease, ok := f.get(proxy).Acquire(f.now)
	require.True(t, ok)
	defer lease.Release()
	lease.Target = upstream.Target(target)
	o := &core.Outcome{Verdict: v, Latency: time.Millisecond}
	if v == core.Failure {
		o.Charge = core.ChargeProxy
	}
	lease.Settle(o)
}

// In a pool whose proxies have just stopped working, a retry goes to a proxy that has not failed, or to a proxy that
// serves again, or the retry is the early probe of a breaker that has been open for 0.2 s.
func TestRetriesInAFailingPool(t *testing.T) {
	f := newFixture(t, 5, 256)
	retry := func(q Query) string {
		q.Attempt, q.Tried = 1, []TriedProxy{{Proxy: f.get(1)}}
		lease, err := f.s.Select(&q, rotation, f.now)
		require.NoError(t, err)
		defer lease.Release()
		return lease.Proxy.ID()
	}
	idempotent := Query{Idempotent: true}
	for i := range 5 {
		f.attempt(t, i, "a.test:80", core.Success)
		f.attempt(t, i, "b.test:80", core.Success)
	}
	f.attempt(t, 0, "a.test:80", core.Failure) // opens its breaker, because breaker.blame is "literal"
	f.pool.SetLiteral(false)
	f.attempt(t, 1, "a.test:80", core.Failure)
	f.attempt(t, 2, "b.test:80", core.Failure)
	require.Equal(t, "p2", retry(idempotent), "the pool does not fail yet")
	f.attempt(t, 1, "a.test:80", core.Failure)
	f.attempt(t, 2, "a.test:80", core.Failure)
	require.Equal(t, "p3", retry(idempotent), "it has not failed")
	f.attempt(t, 3, "b.test:80", core.Failure)
	f.attempt(t, 4, "b.test:80", core.Failure)
	require.Equal(t, "p2", retry(idempotent), "the open breaker has been open for less than 0.2 s")
	f.now = f.now.Add(200 * time.Millisecond)
	require.Equal(t, "p2", retry(Query{}), "only an idempotent request may be a probe")
	f.pool.SetLiteral(true)
	require.NotEqual(t, "p0", retry(idempotent))
	f.pool.SetLiteral(false)
	require.Equal(t, "p0", retry(idempotent))
	require.Equal(t, core.HalfOpen, f.get(0).Breaker().State())
	f.attempt(t, 4, "a.test:80", core.Success)
	require.Equal(t, "p4", retry(idempotent), "it serves again")
	f.now = f.now.Add(3 * time.Second)
	require.Equal(t, "p2", retry(idempotent), "nothing has failed for 2 s")
}

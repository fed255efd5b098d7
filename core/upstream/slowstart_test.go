package upstream

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// preferredFor returns the preferred number of attempts in flight, up to 100.
func preferredFor(t *testing.T, u *Upstream) (n int) {
	t.Helper()
	var leases []Lease
	for u.Preferred(u.pool.Elapsed(u.now())) && n < 100 {
		lease, ok := u.Acquire(u.now())
		require.True(t, ok)
		leases = append(leases, lease)
		n++
	}
	for _, l := range leases {
		l.Release()
	}
	return n
}

func end(t *testing.T, u *Upstream, v core.Verdict, cause core.Cause) {
	t.Helper()
	lease, ok := u.Acquire(u.now())
	require.True(t, ok)
	o := core.Outcome{Verdict: v, Cause: cause}
	if v == core.Failure {
		o.Charge = core.ChargeProxyOrTarget
		if verdict.IsConnectFailure(cause) {
			o.Charge = core.ChargeProxy
		}
	}
	lease.Target = Target("t.example:80")
	lease.Settle(&o)
	lease.Release()
}

func TestNoSlowStart(t *testing.T) {
	now := time.Unix(1000, 0)
	cfg := breaker.Default()
	cfg.FailureThreshold = 5
	pool := NewPool(PoolConfig{Breaker: cfg, Now: func() time.Time { return now }, NoSlowStart: true})
	require.NoError(t, pool.Apply([]Spec{{ID: "a", Weight: 1, Address: Address{Scheme: HTTP, Host: "h:1"}}}))
	u := pool.Snapshot().Get("a")
	require.Equal(t, 100, preferredFor(t, u), "a new proxy")
	for range 5 {
		end(t, u, core.Failure, verdict.ProxyUnreachable)
	}
	require.Equal(t, core.Open, u.Breaker().State())
	now = now.Add(time.Hour)
	end(t, u, core.Success, verdict.Answered)
	require.Equal(t, core.Closed, u.Breaker().State())
	require.Equal(t, 100, preferredFor(t, u), "a proxy whose breaker has closed")
}

func TestAProxyIsPreferredForWhatItHasShown(t *testing.T) {
	now := time.Unix(1000, 0)
	cfg := breaker.Default()
	cfg.FailureThreshold = 20
	pool := NewPool(PoolConfig{Breaker: cfg, Now: func() time.Time { return now }})
	require.NoError(t, pool.Apply([]Spec{
		{ID: "a", Weight: 1, Address: Address{Scheme: HTTP, Host: "h:1"}},
		{ID: "b", Weight: 1, Address: Address{Scheme: HTTP, Host: "h:2"}},
	}))
	u := pool.Snapshot().Get("a")
	served := func() { end(t, u, core.Success, verdict.Answered) }
	failed := func() { end(t, u, core.Failure, verdict.ProxyUnreachable) }

	require.Equal(t, 1, preferredFor(t, u), "unproven")
	u.SetReached(false)
	require.Equal(t, 0, preferredFor(t, u), "cannot be reached")
	require.True(t, u.IsUnreached())
	u.SetReached(true)
	require.Equal(t, 1, preferredFor(t, u))

	timedOut := func(elsewhere bool) {
		if elsewhere { // the target serves another proxy
			end(t, pool.Snapshot().Get("b"), core.Success, verdict.Answered)
		}
		end(t, u, core.Failure, verdict.NoAnswerInTime)
	}
	for range 3 {
		timedOut(false)
		require.Equal(t, 1, preferredFor(t, u), "the target may be dead")
	}
	now = now.Add(time.Second)
	timedOut(true)
	require.Equal(t, 1, preferredFor(t, u), "noise")
	timedOut(true)
	require.Equal(t, 0, preferredFor(t, u), "it lets attempts time out where others are served")
	now = now.Add(1500 * time.Millisecond)
	require.Equal(t, 1, preferredFor(t, u), "after a pause it is tried again")
	timedOut(true)
	now = now.Add(1500 * time.Millisecond)
	require.Equal(t, 0, preferredFor(t, u), "the next pause is twice as long")
	now = now.Add(time.Second)
	require.Equal(t, 1, preferredFor(t, u))

	for _, want := range []int{2, 4, 8, 16, 32, 100, 100} {
		now = now.Add(time.Second)
		served()
		require.Equal(t, want, preferredFor(t, u))
	}
	u.SetReached(false)
	require.Equal(t, 100, preferredFor(t, u), "it has served: a check says less than that")

	now = now.Add(2 * time.Minute) // beyond the breaker's window
	served()
	failed()
	failed()
	require.Equal(t, 100, preferredFor(t, u), "scorers and breaker see the failures")

	for u.Breaker().State() == core.Closed {
		now = now.Add(100 * time.Millisecond)
		failed()
	}
	now = now.Add(31 * time.Second)
	served() // its probe
	require.Equal(t, core.Closed, u.Breaker().State())
	require.LessOrEqual(t, preferredFor(t, u), 2, "slow start")

	pool.SetLiteral(true)
	require.Equal(t, 100, preferredFor(t, u), "the contract to the letter")
}

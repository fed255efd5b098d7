package upstream

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// A failure that the target is likely to have caused, because another proxy has failed there too, is not in the
// statistics. A failure that only the proxy can have caused always is, and so is every one if breakers count literally.
func TestFailuresInTheStatistics(t *testing.T) {
	for _, x := range []struct {
		literal bool
		charge  core.Charge
		other   []core.Verdict // attempts of the other proxy
		counted bool
	}{
		{charge: core.ChargeProxyOrTarget, counted: true},
		{charge: core.ChargeProxyOrTarget, other: []core.Verdict{core.Success}, counted: true},
		{charge: core.ChargeProxyOrTarget, other: []core.Verdict{core.Failure}},
		{charge: core.ChargeProxyOrTarget, other: []core.Verdict{core.Failure, core.Success}, counted: true},
		{charge: core.ChargeProxy, other: []core.Verdict{core.Failure}, counted: true},
		{charge: core.ChargeProxyOrTarget, other: []core.Verdict{core.Failure}, literal: true, counted: true},
	} {
		now := time.Unix(1000, 0)
		pool := NewPool(PoolConfig{Literal: x.literal, Breaker: breaker.Default(), Memory: DefaultMemory,
			Now: func() time.Time { return now }})
		require.NoError(t, pool.Apply([]Spec{
			{ID: "a", Address: Address{Scheme: HTTP, Host: "a.test:1"}},
			{ID: "b", Address: Address{Scheme: HTTP, Host: "b.test:1"}},
		}))
		attempt := func(id string, o core.Outcome) {
			lease, ok := pool.Snapshot().Get(id).Acquire(now)
			require.True(t, ok)
			lease.Target = Target("t.test:80")
			lease.Settle(&o)
			lease.Release()
		}
		for _, v := range x.other {
			attempt("b", core.Outcome{Verdict: v, Charge: core.ChargeProxyOrTarget, Status: 503})
			now = now.Add(10 * time.Millisecond)
		}
		attempt("a", core.Outcome{Verdict: core.Failure, Charge: x.charge, Status: 503})
		samples := 0
		if x.counted {
			samples = 1
		}
		require.Equal(t, samples, pool.Snapshot().Get("a").Stats().Samples, fmt.Sprintf("%+v", x))
	}
}

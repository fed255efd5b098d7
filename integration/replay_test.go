package integration

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// A kept connection that dies under a request: the request is sent once more,
// which is outside the policy's attempts, counts against nobody, and is in the
// totals as what the fakes saw.
func TestI1ReplaysAreCounted(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK)
	require.Equal(t, 200, w.get().status) // leaves a connection behind
	w.all(lab.Behaviour{Fin: true})
	a := w.get(ovr("max_attempts=1")...)
	require.Equal(t, 502, a.status)
	require.Equal(t, "1", a.attempts())
	require.Contains(t, a.header.Get("Proxy-Status"), "error=connection_terminated")
	require.Equal(t, 3, w.arrivals(), "the replay failed too, on a new connection")
	require.Equal(t, 1.0, w.breaker("F1")["failure_count"], "once")
	s := w.json("/metrics/retries")
	require.Equal(t, 1.0, s["replays"])
	require.Equal(t, 3.0, s["total_attempts"], "2 requests, 0 retries, 1 replay")
	require.Equal(t, 0.0, s["total_retries"])
	w.reconcile(0)

	// What is not idempotent is not sent again.
	w.all(lab.OK())
	require.Equal(t, 200, w.get().status)
	w.all(lab.Behaviour{Fin: true})
	before := w.arrivals()
	require.Equal(t, 502, w.do("POST", "x").status)
	require.Equal(t, before+1, w.arrivals())
	require.Equal(t, 1.0, w.breaker("F1")["failure_count"], "a kept connection that ends says nothing of its proxy")
	require.Equal(t, 1.0, w.json("/metrics/retries")["replays"])
	w.reconcile(0)
}

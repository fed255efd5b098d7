package integration

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// If a reused connection ends during a request, the request is replayed. The replay does not count for max_attempts,
// and the proxy is not charged. The totals of the gateway include the replay, as do the arrivals at the fakes.
func TestI1ReplaysAreCounted(t *testing.T) {
	t.Parallel()
	w := start(t, 1, confK)
	require.Equal(t, 200, w.get().status) // leaves an idle connection open
	w.setAll(lab.Behaviour{Fin: true})
	a := w.get(overrideHeader("max_attempts=1")...)
	require.Equal(t, 502, a.status)
	require.Equal(t, "1", a.attempts())
	require.Contains(t, a.header.Get("Proxy-Status"), "error=connection_terminated")
	require.Equal(t, 3, w.arrivals(), "the replay failed too, on a new connection")
	require.Equal(t, 1.0, w.breaker("F1")["failure_count"], "once")
	s := w.getJSON("/metrics/retries")
	require.Equal(t, 1.0, s["replays"])
	require.Equal(t, 3.0, s["total_attempts"], "2 requests, 0 retries, 1 replay")
	require.Equal(t, 0.0, s["total_retries"])
	w.reconcile(0)

	// A request that is not idempotent is not replayed.
	w.setAll(lab.OK())
	require.Equal(t, 200, w.get().status)
	w.setAll(lab.Behaviour{Fin: true})
	before := w.arrivals()
	require.Equal(t, 502, w.do("POST", "x").status)
	require.Equal(t, before+1, w.arrivals())
	require.Equal(t, 1.0, w.breaker("F1")["failure_count"], "a kept connection that ends says nothing of its proxy")
	require.Equal(t, 1.0, w.getJSON("/metrics/retries")["replays"])
	w.reconcile(0)
}

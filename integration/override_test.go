package integration

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// The override of a request changes only its own retries, and not the failures that breakers count. The next
// request does not have it.
func TestS36OverridesAndBreakers(t *testing.T) {
	t.Parallel()
	w := start(t, 2, confK+"[timeouts]\nattempt = \"1s\"\n")
	counts := func() [2]float64 {
		return [2]float64{w.breaker("F1")["failure_count"].(float64), w.breaker("F2")["failure_count"].(float64)}
	}
	for range 6 { // 500 is a failure only for this request
		w.setAll(lab.Status(500))
		a := w.get(overrideHeader("retry_status_codes=(500), max_attempts=2")...)
		require.Equal(t, 500, a.status)
		require.Equal(t, "exhausted", a.outcome())
		require.Equal(t, "2", a.attempts())
	}
	require.Equal(t, [2]float64{}, counts())
	require.Equal(t, "1", w.get().attempts(), "500 is not a failure for the next one")

	// A status that the request does not want to retry still counts for the breaker.
	w.setAll(lab.Status(503))
	for range 4 {
		a := w.get(overrideHeader("retry_status_codes=()")...)
		require.Equal(t, 503, a.status)
		require.Equal(t, "1", a.attempts())
	}
	require.Equal(t, [2]float64{2, 2}, counts())

	// A timeout that the request has shortened does not count for the breaker. The global timeout does.
	w.setAll(lab.Behaviour{NoResponse: true})
	for range 4 {
		a := w.get(overrideHeader("timeout=0.2")...)
		require.Equal(t, 504, a.status)
		requireTook(t, a, 0.2)
	}
	require.Equal(t, [2]float64{2, 2}, counts())
	w.putPolicy(`{"timeout":0.2}`)
	require.Equal(t, 504, w.get(overrideHeader("timeout=0.15")...).status)
	require.Equal(t, [2]float64{2, 2}, counts())
	require.Equal(t, 504, w.get().status)
	require.Equal(t, 504, w.get(overrideHeader("timeout=5, max_attempts=1")...).status,
		"longer: the attempt's own limit")
	require.Equal(t, 3.0+3.0, counts()[0]+counts()[1])
	w.reconcile(0)
}

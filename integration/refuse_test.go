package integration

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// Many requests are refused while every breaker is open. None of them reaches a proxy, and the log has a
// record of each.
func TestEachRefusalIsLogged(t *testing.T) {
	t.Parallel()
	w := start(t, 2, "[retry]\nmax_attempts = 1\n[breaker]\nblame = \"literal\"\nfailure_threshold = 1\n")
	w.setAll(lab.Status(503))
	for range w.fakes {
		require.Equal(t, "exhausted", w.get().outcome())
	}
	before := w.arrivals()
	for range 500 {
		a := w.get()
		require.Equal(t, 503, a.status)
		require.Equal(t, `{"error":"all_breakers_open","message":"no proxy is admissible: every circuit breaker is `+
			`open"}`, a.body)
	}
	require.Equal(t, before, w.arrivals())
	w.stop()
	require.Equal(t, 500, strings.Count(w.log.String(), `msg="no proxy admissible"`))
	require.Equal(t, 2, strings.Count(w.log.String(), `msg="circuit breaker open"`))
}

package breaker_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

func TestRepeatedTripsLengthenTheOpenTime(t *testing.T) {
	const base, longest = 30 * time.Second, 2 * time.Minute
	type trip struct{ closed, open time.Duration }
	for name, trips := range map[string][]trip{
		"failed probes": {{time.Hour, base}, {0, time.Minute}, {0, longest}, {0, longest}},
		"closes only for a moment": {{time.Hour, base}, {5 * time.Second, time.Minute}, {5 * time.Second, longest},
			{5 * time.Second, longest}},
		"well for twice its open time": {{0, base}, {0, time.Minute}, {2 * time.Minute, time.Minute}, {0, longest}},
		"well after a long outage": {{0, base}, {0, time.Minute}, {0, longest}, {0, longest}, {0, longest},
			{0, longest}, {2 * longest, time.Minute}},
		"well for long": {{0, base}, {0, time.Minute}, {0, longest}, {time.Hour, base}},
	} {
		t.Run(name, func(t *testing.T) {
			var b breaker.Trips
			for i, trip := range trips {
				require.Equal(t, trip.open, b.CountTrip(trip.closed, base, longest), "trip %d", i)
			}
		})
	}
}

func TestOpenTimesStayWithinTheirBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "timeout"))
		longest := time.Duration(rapid.Int64Range(0, int64(24*time.Hour)).Draw(t, "max_timeout"))
		var b breaker.Trips
		last := base
		for range rapid.IntRange(1, 40).Draw(t, "trips") {
			closed := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "closed"))
			open := b.CountTrip(closed, base, longest)
			require.GreaterOrEqual(t, open, base)
			require.LessOrEqual(t, open, max(base, longest))
			require.LessOrEqual(t, open, 2*last)
			last = open
		}
		require.Equal(t, base, b.CountTrip(1000*24*time.Hour, base, longest))
	})
}

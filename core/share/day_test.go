package share_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/share"
)

func TestDayClock(t *testing.T) {
	evening := time.Date(2026, 11, 30, 23, 55, 0, 0, time.UTC)
	today := evening.Unix() / 86400
	var own *share.DayClock
	require.Equal(t, today, own.Day(evening))
	require.Equal(t, 5*time.Minute, own.UntilNextDay(evening))

	c := &share.DayClock{}
	require.Equal(t, evening, c.Time(evening))
	c.Set(evening.Add(7*time.Minute), evening)
	require.Equal(t, today, c.Day(evening.Add(11*time.Minute)), "the gateway's clock shows 00:06")
	require.Equal(t, time.Minute, c.UntilNextDay(evening.Add(11*time.Minute)))
	require.Equal(t, today+1, c.Day(evening.Add(12*time.Minute)))
}

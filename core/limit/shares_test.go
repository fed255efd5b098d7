package limit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/share"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
)

func TestShareOfALimit(t *testing.T) {
	bytes := &traffic.Meter{}
	u := limit.NewUsage(limit.Limit{MaxInFlight: 8, Rate: 10, BytesPerDay: 800}, bytes, nil, noon)
	u.SetDivisor(8, noon)
	require.Equal(t, share.Use{Kind: share.InFlight, Limit: 8, Share: 1}, u.ShareUse(limit.InFlight, noon))
	first, ok := limit.Reserve(u, nil, noon)
	require.True(t, ok, "the initial share")
	_, ok = limit.Reserve(u, nil, noon)
	require.False(t, ok, "the initial share of max_in_flight is used")

	require.Equal(t, int64(3), u.SetShare(limit.InFlight, 3, 3, 0, noon))
	s, ok := u.Check(noon)
	require.False(t, ok)
	require.Equal(t, noon.Add(100*time.Millisecond), s.Until, "the part of the rate may grow before it has a token")
	require.True(t, u.ShareUse(limit.Rate, noon).HasNoToken)
	require.Equal(t, int64(5*share.RateUnit), u.SetShare(limit.Rate, 5*share.RateUnit, 0, 0, noon))
	now := noon.Add(time.Second)
	for range 2 {
		_, ok = limit.Reserve(u, nil, now)
		require.True(t, ok)
	}
	require.Equal(t, int64(3), u.SetShare(limit.InFlight, 1, 3, 0, now), "the part is what is in use")
	first.EndAttempt()
	_, ok = u.Check(now)
	require.False(t, ok)

	u.SetShare(limit.InFlight, 8, 3, 0, now)
	bytes.Add(traffic.Total{Up: 100})
	s, ok = u.Check(now)
	require.False(t, ok, "the initial share of the bytes is used")
	require.False(t, s.BytesSpent)
	require.Equal(t, int64(300), u.SetShare(limit.Bytes, 300, 500, 100, now))
	_, ok = u.Check(now)
	require.True(t, ok)
	bytes.Add(traffic.Total{Up: 250})
	require.Equal(t, int64(350), u.SetShare(limit.Bytes, 300, 800, 350, now))
	s, ok = u.Check(now)
	require.False(t, ok)
	require.True(t, s.BytesSpent, "all nodes together have used the limit")
	tomorrow := now.Add(24 * time.Hour)
	_, ok = u.Check(tomorrow)
	require.True(t, ok, "the part was one of yesterday")
	require.Equal(t, int64(100), u.ShareUse(limit.Bytes, tomorrow).Share)

	u.ReleaseShare(limit.Rate, 0, 0, 0, tomorrow)
	require.False(t, u.HasShare(limit.Rate, tomorrow))
	require.Equal(t, int64(1.25*share.RateUnit), u.ShareUse(limit.Rate, tomorrow).Share)
}

// Bytes of today that are restored later do not use up the initial share. An example is the restore of a proxy with a
// new address.
func TestRestoredBytesLeaveTheInitialShare(t *testing.T) {
	u := limit.NewUsage(limit.Limit{BytesPerDay: 800}, &traffic.Meter{}, nil, noon)
	u.SetDivisor(8, noon)
	u.Restore(limit.SavedUsage{Proxy: "p", Day: noon.Unix() / 86_400, Bytes: 400}, noon)
	_, ok := u.Check(noon)
	require.True(t, ok)
	require.Equal(t, int64(450), u.ShareUse(limit.Bytes, noon).Share)
	u.SetShare(limit.Bytes, 500, 700, 400, noon)
	u.Restore(limit.SavedUsage{Proxy: "p", Day: noon.Unix() / 86_400, Bytes: 200}, noon)
	require.Equal(t, int64(500), u.ShareUse(limit.Bytes, noon).Share, "a part stays")
}

func TestAllocOfShareUse(t *testing.T) {
	u := limit.NewUsage(limit.Limit{MaxInFlight: 8, BytesPerDay: 800}, &traffic.Meter{}, nil, noon)
	u.SetDivisor(8, noon)
	u.SetShare(limit.InFlight, 4, 4, 0, noon)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		h, ok := limit.Reserve(u, nil, noon)
		if !ok {
			t.Fatal("the part is used")
		}
		h.EndAttempt()
	}))
}

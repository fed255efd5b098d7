package access_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/parts"
)

func TestPartsOfAUser(t *testing.T) {
	noon := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	u := access.NewUsers([]access.User{{Name: "a", Password: "p", Limits: access.Limits{
		MaxInFlight: 20, RequestsPerDay: 80, BytesPerDay: 1000}}}, nil)
	u.SetShare(parts.Share{Nodes: 4, Fraction: 2}, noon)
	a := u.ByName("a")
	begin := func(now time.Time) access.Denial {
		d, _ := a.BeginRequest("h.test", 80, now)
		return d
	}
	for range 5 {
		require.Equal(t, access.Granted, begin(noon))
	}
	require.Equal(t, access.InFlightPartUsed, begin(noon), "the first part of 20 is 5")
	require.Equal(t, int64(20), a.SetPart(access.InFlight, 20, 2, 0))
	for range 5 {
		require.Equal(t, access.Granted, begin(noon))
	}
	require.Equal(t, access.RequestsPartUsed, begin(noon))
	require.Equal(t, int64(11), a.SetPart(access.Requests, 11, 40, 10))
	require.Equal(t, access.Granted, begin(noon))
	require.Equal(t, access.RequestsPartUsed, begin(noon))
	require.Equal(t, int64(11), a.SetPart(access.Requests, 5, 80, 11), "the part is what is used")
	require.Equal(t, access.RequestsSpent, begin(noon))
	require.True(t, a.HasPart(access.Requests))
	a.Usage.AddBytes(125)
	require.Equal(t, access.BytesPartUsed, begin(noon))
	require.False(t, a.BytesSpent(), "a tunnel stays open while other nodes may have a part left")
	a.Release(access.Bytes, 125, 900, 125)
	a.Usage.AddBytes(100)
	require.Equal(t, access.BytesSpent, begin(noon))
	require.True(t, a.BytesSpent())
	tomorrow := noon.Add(24 * time.Hour)
	require.Equal(t, access.Granted, begin(tomorrow))
	require.Equal(t, int64(10), a.PartUse(access.Requests, tomorrow).Part)

	next := access.NewUsers([]access.User{a.User, {Name: "b", Password: "p", Limits: a.Limits}}, u)
	require.Equal(t, int64(10), next.ByName("b").PartUse(access.Requests, tomorrow).Part, "a new user has a first part")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if begin(tomorrow) == access.Granted {
			a.EndRequest()
		}
	}))
}

// A gateway that knows of no other one uses max_in_flight at once, and says truly that it is reached.
func TestAGatewayAloneUsesMaxInFlight(t *testing.T) {
	u := access.NewUsers([]access.User{{Name: "a", Password: "p", Limits: access.Limits{MaxInFlight: 20}}}, nil)
	noon := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	u.SetShare(parts.Share{Nodes: 1, Fraction: 8}, noon)
	a := u.ByName("a")
	for range 20 {
		d, _ := a.BeginRequest("h.test", 80, noon)
		require.Equal(t, access.Granted, d)
	}
	d, _ := a.BeginRequest("h.test", 80, noon)
	require.Equal(t, access.TooManyInFlight, d)
}

// Without the store, a tunnel ends when the gateway has used its equal share of what was left, or its part.
func TestTunnelsOfAGatewayWithoutTheStore(t *testing.T) {
	u := access.NewUsers([]access.User{{Name: "a", Password: "p", Limits: access.Limits{BytesPerDay: 1000}}}, nil)
	noon := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	together := parts.Share{Nodes: 2, Fraction: 8}
	alone := parts.Share{Nodes: 2, Fraction: 8, Alone: true}
	u.SetShare(together, noon)
	a := u.ByName("a")
	a.Usage.AddBytes(499)
	require.False(t, a.BytesSpent())
	u.SetShare(alone, noon)
	require.False(t, a.BytesSpent())
	a.Usage.AddBytes(1)
	require.True(t, a.BytesSpent(), "half of the limit is used")
	u.SetShare(together, noon)
	require.False(t, a.BytesSpent())
	a.SetPart(access.Bytes, 510, 800, 480)
	u.SetShare(alone, noon)
	require.False(t, a.BytesSpent())
	a.Usage.AddBytes(79)
	require.False(t, a.BytesSpent(), "the share is 480 + (1000 - 800) / 2")
	a.Usage.AddBytes(1)
	require.True(t, a.BytesSpent())
	a.SetPart(access.Bytes, 700, 800, 480)
	require.False(t, a.BytesSpent(), "the part is more")
	a.SetPart(access.Bytes, 700, 900, 480)
	a.Usage.AddBytes(20)
	require.True(t, a.BytesSpent(), "all nodes together have used 1000")
}

package access_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/share"
)

func TestSharesOfAUser(t *testing.T) {
	noon := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	u := access.NewUsers([]access.User{{Name: "a", Password: "p", Limits: access.Limits{
		MaxInFlight: 20, RequestsPerDay: 80, BytesPerDay: 1000}}}, nil)
	u.SetInitialShares(share.InitialShares{Nodes: 4, Fraction: 2}, noon)
	a := u.ByName("a")
	begin := func(now time.Time) access.Denial {
		d, _ := a.BeginRequest("h.test", 80, now)
		return d
	}
	for range 5 {
		require.Equal(t, access.Granted, begin(noon))
	}
	require.Equal(t, access.InFlightShareSpent, begin(noon), "the initial share of 20 is 5")
	require.Equal(t, int64(20), a.SetShare(access.InFlight, 20, 2, 0))
	for range 5 {
		require.Equal(t, access.Granted, begin(noon))
	}
	require.Equal(t, access.RequestsShareSpent, begin(noon))
	require.Equal(t, int64(11), a.SetShare(access.Requests, 11, 40, 10))
	require.Equal(t, access.Granted, begin(noon))
	require.Equal(t, access.RequestsShareSpent, begin(noon))
	require.Equal(t, int64(11), a.SetShare(access.Requests, 5, 80, 11), "the part is what is used")
	require.Equal(t, access.RequestsSpent, begin(noon))
	require.True(t, a.HasShare(access.Requests))
	a.Usage.AddBytes(125)
	require.Equal(t, access.BytesShareSpent, begin(noon))
	require.False(t, a.BytesSpent(), "a tunnel stays open while other nodes may have a part left")
	a.ReleaseShare(access.Bytes, 125, 900, 125)
	a.Usage.AddBytes(100)
	require.Equal(t, access.BytesSpent, begin(noon))
	require.True(t, a.BytesSpent())
	tomorrow := noon.Add(24 * time.Hour)
	require.Equal(t, access.Granted, begin(tomorrow))
	require.Equal(t, int64(10), a.ShareUse(access.Requests, tomorrow).Share)

	next := access.NewUsers([]access.User{a.User, {Name: "b", Password: "p", Limits: a.Limits}}, u)
	require.Equal(t, int64(10), next.ByName("b").ShareUse(access.Requests, tomorrow).Share, "a new user: first share")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if begin(tomorrow) == access.Granted {
			a.EndRequest()
		}
	}))
}

// A gateway that knows of no other gateway may use max_in_flight immediately. If it denies a request, it correctly
// states that max_in_flight is reached.
func TestAGatewayAloneUsesMaxInFlight(t *testing.T) {
	u := access.NewUsers([]access.User{{Name: "a", Password: "p", Limits: access.Limits{MaxInFlight: 20}}}, nil)
	noon := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	u.SetInitialShares(share.InitialShares{Nodes: 1, Fraction: 8}, noon)
	a := u.ByName("a")
	for range 20 {
		d, _ := a.BeginRequest("h.test", 80, noon)
		require.Equal(t, access.Granted, d)
	}
	d, _ := a.BeginRequest("h.test", 80, noon)
	require.Equal(t, access.TooManyInFlight, d)
}

// Without the store, a tunnel ends when the gateway has used its equal share of the rest of the limit, or the share
// that it holds.
func TestTunnelsOfAGatewayWithoutTheStore(t *testing.T) {
	u := access.NewUsers([]access.User{{Name: "a", Password: "p", Limits: access.Limits{BytesPerDay: 1000}}}, nil)
	noon := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	together := share.InitialShares{Nodes: 2, Fraction: 8}
	alone := share.InitialShares{Nodes: 2, Fraction: 8, Alone: true}
	u.SetInitialShares(together, noon)
	a := u.ByName("a")
	a.Usage.AddBytes(499)
	require.False(t, a.BytesSpent())
	u.SetInitialShares(alone, noon)
	require.False(t, a.BytesSpent())
	a.Usage.AddBytes(1)
	require.True(t, a.BytesSpent(), "half of the limit is used")
	u.SetInitialShares(together, noon)
	require.False(t, a.BytesSpent())
	a.SetShare(access.Bytes, 510, 800, 480)
	u.SetInitialShares(alone, noon)
	require.False(t, a.BytesSpent())
	a.Usage.AddBytes(79)
	require.False(t, a.BytesSpent(), "the share is 480 + (1000 - 800) / 2")
	a.Usage.AddBytes(1)
	require.True(t, a.BytesSpent())
	a.SetShare(access.Bytes, 700, 800, 480)
	require.False(t, a.BytesSpent(), "the part is more")
	a.SetShare(access.Bytes, 700, 900, 480)
	a.Usage.AddBytes(20)
	require.True(t, a.BytesSpent(), "all nodes together have used 1000")
}

// A user is active after a request, also a denied one, and after bytes. With requests at any time, the last use of each
// user is seen.
func TestActiveUsers(t *testing.T) {
	list := []access.User{{Name: "a", Limits: access.Limits{RequestsPerDay: 1}}, {Name: "b"}, {Name: "c"}}
	u := access.NewUsers(list, nil)
	noon := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	active := func() (names []string) {
		u.EachActive(func(a *access.Account) { names = append(names, a.Name) })
		return names
	}
	u.ByName("a").BeginRequest("h.test", 80, noon)
	require.Empty(t, active(), "the limits are not shared")
	u.SetInitialShares(share.InitialShares{Nodes: 1, Fraction: 8}, noon)
	require.Empty(t, active())
	for range 2 {
		d, _ := u.ByName("a").BeginRequest("h.test", 80, noon)
		require.Equal(t, access.RequestsSpent, d)
	}
	require.Equal(t, []string{"a"}, active())
	require.Empty(t, active())
	u.ByName("b").Usage.AddBytes(1)
	u = access.NewUsers(list[:2], u)
	require.Equal(t, []string{"b"}, active(), "in the next set, too")

	var users []access.User
	for i := range 20 {
		users = append(users, access.User{Name: fmt.Sprint("u", i)})
	}
	u = access.NewUsers(users, nil)
	u.SetInitialShares(share.InitialShares{Nodes: 1, Fraction: 8}, noon)
	seen := map[string]int64{}
	read := func() {
		u.EachActive(func(a *access.Account) { seen[a.Name] = a.ShareUse(access.Requests, noon).Used })
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 2000 {
				u.ByName(users[i%len(users)].Name).BeginRequest("h.test", 80, noon)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		read()
	}
	for _, user := range users {
		require.Equal(t, int64(400), seen[user.Name])
	}
	a := u.ByName("u0")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		a.BeginRequest("h.test", 80, noon)
		a.Usage.AddBytes(1)
	}))
}

func TestDaysBeginByTheStoresClock(t *testing.T) {
	list := []access.User{{Name: "a", Limits: access.Limits{RequestsPerDay: 1}}}
	u := access.NewUsers(list, nil)
	noon := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	u.SetStoreTime(noon, noon.Add(-7*time.Minute))
	u = access.NewUsers(list, u) // a reload
	begin := func(now time.Time) access.Denial { d, _ := u.ByName("a").BeginRequest("h.test", 80, now); return d }
	midnight := noon.Add(12 * time.Hour)
	require.Equal(t, access.Granted, begin(noon))
	require.Equal(t, access.RequestsSpent, begin(midnight), "the store's clock shows 23:53")
	require.Equal(t, int64(1), u.UsageToday(midnight)[0].Requests)
	require.Equal(t, 7*time.Minute, u.UntilNextDay(midnight))
	require.Equal(t, access.Granted, begin(midnight.Add(7*time.Minute)))
}

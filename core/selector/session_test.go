package selector

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// testSession is a session whose scores depend on its number.
type testSession struct {
	number uint64
	proxy  string
	strict bool
}

func (s *testSession) StartProxy() string { return s.proxy }
func (s *testSession) IsStrict() bool     { return s.strict && s.proxy != "" }

func (s *testSession) Score(proxy uint64, weight float64) float64 {
	return float64((proxy*0x9e3779b97f4a7c15^s.number*0xbf58476d1ce4e5b9)>>32) * weight
}

func ofSession(s *testSession) *Query {
	return &Query{Idempotent: true, Retryable: true, Session: s}
}

// All requests of a session that has no proxy yet choose the same proxy, in a pool of any size. Different
// sessions choose different proxies.
func TestANewSessionHasOneProxy(t *testing.T) {
	for _, n := range []int{3, 1000} {
		f, chosen := newFixture(t, n, 64), map[string]bool{}
		for number := range uint64(20) {
			first, err := f.choose(ofSession(&testSession{number: number}))
			require.NoError(t, err)
			for range 5 {
				again, err := f.choose(ofSession(&testSession{number: number}))
				require.NoError(t, err)
				require.Equal(t, first, again)
			}
			chosen[first] = true
		}
		require.Greater(t, len(chosen), 1)
	}
}

// A session stays at its proxy: it explores nothing, and it waits for a place.
func TestASessionStaysAtItsProxy(t *testing.T) {
	for _, strict := range []bool{false, true} {
		f := newFixture(t, 4, 256)
		f.makeOverdue(t, 1)
		s := &testSession{proxy: "p3", strict: strict}
		for range 50 {
			id, err := f.choose(ofSession(s))
			require.NoError(t, err)
			require.Equal(t, "p3", id)
		}
		err := f.pool.UpdateAll(upstream.Updates{"p3": func(s *upstream.Spec) error {
			s.Extras = &upstream.Extras{MaxInFlight: 1}
			return nil
		}})
		require.NoError(t, err)
		lease, ok := f.get(3).Acquire(f.now)
		require.True(t, ok)
		_, err = f.choose(ofSession(s))
		require.Equal(t, core.ErrAllBusy, err)
		require.NoError(t, f.s.CheckSelect(ofSession(s), f.now))
		lease.Release()
	}
}

// The reasons why the session's proxy p1 is not admissible, and their effects on a strict session
// and on another one.
func TestASessionWhoseProxyIsNotAdmissible(t *testing.T) {
	for name, x := range map[string]struct {
		keepOut func(*fixture, *Query)
		due     time.Duration // Due of the error of a strict session; 0 for none
	}{
		"its breaker is open": {func(f *fixture, _ *Query) { f.settle(f.get(1), core.Failure) }, time.Second},
		"it was removed": {func(f *fixture, _ *Query) {
			require.NoError(t, f.pool.Remove("p1", false))
		}, 0},
		"it rests for the host": {func(f *fixture, q *Query) {
			q.HostHash = core.Hash53("a.test")
			at := f.pool.Elapsed(f.now)
			f.s.HostBans().Begin(f.get(1).Hash(), uint64(q.HostHash), ban.Pair{Since: at, Until: at + time.Minute})
		}, time.Minute},
		"it is of another region": {func(f *fixture, q *Query) {
			f.place(t, map[int]string{0: "us", 2: "us"})
			q.RegionHash, q.RegionMode = core.Hash53("us"), RegionStrict
		}, 0},
		"all breakers are open": {func(f *fixture, _ *Query) {
			for i := range 3 {
				f.settle(f.get(i), core.Failure)
			}
			_, err := f.s.Select(&Query{Idempotent: true}, rotation, f.now)
			require.Equal(t, core.ErrAllBreakersOpen, err)
		}, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 3, 256)
			q := ofSession(&testSession{proxy: "p1", strict: true})
			x.keepOut(f, q)
			_, err := f.s.Select(q, rotation, f.now)
			refused := (*core.SessionError)(nil)
			require.ErrorAs(t, err, &refused)
			require.Equal(t, err, f.s.CheckSelect(q, f.now))
			if x.due == 0 {
				require.Zero(t, refused.Due)
			} else {
				require.Equal(t, f.now.Add(x.due), refused.Due)
			}
			q.Session = &testSession{proxy: "p1"}
			id, err := f.choose(q)
			if name == "all breakers are open" {
				require.Equal(t, core.ErrAllBreakersOpen, err)
				return
			}
			require.NoError(t, err)
			require.NotEqual(t, "p1", id, "a session that is not strict moves")
		})
	}
}

// A retry of a strict session uses the same proxy. A retry of another session uses each proxy before it uses one
// again.
func TestRetriesOfSessions(t *testing.T) {
	f := newFixture(t, 3, 256)
	retry := func(s *testSession) (ids []string) {
		q := ofSession(s)
		for range 4 {
			id, err := f.choose(q)
			require.NoError(t, err)
			ids = append(ids, id)
			q.Tried = append(q.Tried, TriedProxy{Proxy: f.pool.Snapshot().Get(id)})
			q.Attempt++
		}
		require.Equal(t, !s.IsStrict(), f.s.HasUntried(ofSession(s), f.now))
		return ids
	}
	require.Equal(t, []string{"p1", "p1", "p1", "p1"}, retry(&testSession{proxy: "p1", strict: true}))
	soft := retry(&testSession{proxy: "p1"})
	require.Equal(t, "p1", soft[0])
	require.ElementsMatch(t, []string{"p0", "p1", "p2"}, soft[:3])

	q := ofSession(&testSession{proxy: "p1", strict: true})
	q.Attempt, q.Tried = 1, []TriedProxy{{Proxy: f.get(1), Barred: true}}
	_, err := f.choose(q)
	require.Equal(t, ErrBarred, err)
}

// A new session gets a proxy of the preferred region if one is admissible, and of another one otherwise.
func TestRegionsOfSessions(t *testing.T) {
	f := newFixture(t, 6, 256)
	f.place(t, map[int]string{4: "us"})
	for number := range uint64(10) {
		q := ofSession(&testSession{number: number})
		q.RegionHash, q.RegionMode = core.Hash53("us"), RegionPreferred
		id, err := f.choose(q)
		require.NoError(t, err)
		require.Equal(t, "p4", id)
	}
	f.settle(f.get(4), core.Failure)
	q := ofSession(&testSession{})
	q.RegionHash, q.RegionMode = core.Hash53("us"), RegionPreferred
	_, err := f.choose(q)
	require.NoError(t, err)
}

func TestAnOpenBreakerMovesItsSessionsOnly(t *testing.T) {
	f, before := newFixture(t, 5, 256), map[uint64]string{}
	for number := range uint64(100) {
		before[number], _ = f.choose(ofSession(&testSession{number: number}))
	}
	f.settle(f.get(2), core.Failure)
	moved := 0
	for number, proxy := range before {
		after, err := f.choose(ofSession(&testSession{number: number}))
		require.NoError(t, err)
		if proxy == "p2" {
			moved++
			require.NotEqual(t, "p2", after)
		} else {
			require.Equal(t, proxy, after, strconv.Itoa(int(number)))
		}
	}
	require.NotZero(t, moved, fmt.Sprint(before))
}

// A proxy with {region} in its login has exits in all regions: it is used for each wanted region, also with strict.
func TestAProxyOfAllRegions(t *testing.T) {
	f := newFixture(t, 3, 256)
	f.place(t, map[int]string{0: "us", 1: "eu"})
	require.NoError(t, f.pool.Apply(append(specs(f), upstream.Spec{ID: "all", Address: upstream.Address{
		Scheme: upstream.HTTP, Host: "b.test:1", Username: "u-{region}"}})))
	for region, want := range map[string][]string{"us": {"p0", "all"}, "jp": {"all"}} {
		for _, how := range []RegionMode{RegionPreferred, RegionStrict} {
			for _, q := range []*Query{wants(region, how), ofSession(&testSession{number: 1})} {
				q.RegionHash, q.RegionMode, q.PlainRegion = core.RegionHash(region), how, true
				for range 4 {
					id, err := f.choose(q)
					require.NoError(t, err)
					require.Contains(t, want, id)
				}
			}
		}
	}
}

// A proxy with {region} in its login is not used for a wanted region that the user must not use, or that the login
// cannot take.
func TestARegionThatALoginCannotHave(t *testing.T) {
	f := newFixture(t, 1, 256)
	require.NoError(t, f.pool.Apply([]upstream.Spec{{ID: "all", Region: "eu", Address: upstream.Address{
		Scheme: upstream.HTTP, Host: "b.test:1", Username: "u-{region}"}}}))
	europe := core.NewRegions([]string{"eu"})
	for _, c := range []struct {
		wanted  string
		how     RegionMode
		plain   bool
		regions *core.Regions
		chosen  bool
	}{
		{"", RegionScored, false, europe, true},
		{"eu", RegionPreferred, true, europe, true},
		{"us", RegionPreferred, true, europe, false},
		{"us", RegionStrict, true, europe, false},
		{"us", RegionStrict, true, nil, true},
		{"us-west", RegionStrict, false, nil, false},
		{"us-west", RegionPreferred, false, europe, true}, // the login then has the proxy's own region
	} {
		q := wants(c.wanted, c.how)
		q.RegionMode, q.PlainRegion, q.Regions = c.how, c.plain, c.regions
		_, err := f.choose(q)
		require.Equal(t, c.chosen, err == nil, "%+v: %v", c, err)
	}
}

func specs(f *fixture) (all []upstream.Spec) {
	for _, u := range f.pool.Snapshot().All {
		all = append(all, *u.Spec())
	}
	return all
}

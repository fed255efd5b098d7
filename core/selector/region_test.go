package selector

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// place sets the regions of proxies, by their numbers.
func (f *fixture) place(t testing.TB, regions map[int]string) {
	for i, region := range regions {
		err := f.pool.UpdateAll(upstream.Updates{fmt.Sprintf("p%d", i): func(s *upstream.Spec) error {
			s.Region = region
			return nil
		}})
		require.NoError(t, err)
	}
}

func (f *fixture) choose(q *Query) (string, error) {
	lease, err := f.s.Select(q, rotation, f.now)
	if err != nil {
		return "", err
	}
	defer lease.Release()
	return lease.Proxy.ID(), nil
}

// requireAttempts requires that the attempts of one request, which all fail, go through the proxies with the given ids.
func (f *fixture) requireAttempts(t *testing.T, q *Query, ids ...string) {
	for _, want := range ids {
		id, err := f.choose(q)
		require.NoError(t, err)
		require.Equal(t, want, id)
		q.Tried = append(q.Tried, TriedProxy{Proxy: f.pool.Snapshot().Get(id)})
		q.Attempt++
	}
}

func wants(region string, how RegionMode) *Query {
	return &Query{Idempotent: true, Retryable: true, RegionHash: core.RegionHash(region), RegionMode: how}
}

// First attempts use the wanted region's proxies in turn, in a pool of any size, and also if requests for two
// regions alternate.
func TestPreferredRegion(t *testing.T) {
	for _, n := range []int{6, 1000} {
		f := newFixture(t, n, 64)
		f.place(t, map[int]string{1: "us", 2: "eu", 3: "us", 4: "eu"})
		uses := map[string]int{}
		for range 100 {
			for _, region := range []string{"us", "eu"} {
				id, err := f.choose(wants(region, RegionPreferred))
				require.NoError(t, err)
				uses[id]++
			}
		}
		require.Equal(t, map[string]int{"p1": 50, "p2": 50, "p3": 50, "p4": 50}, uses, "%d proxies", n)
	}
}

// Retries, and first attempts without an admissible proxy in the region, use other regions.
func TestOtherRegions(t *testing.T) {
	f := newFixture(t, 3, 256)
	f.place(t, map[int]string{0: "us", 1: "eu", 2: "eu"})
	q := wants("us", RegionPreferred)
	f.requireAttempts(t, q, "p0", "p1", "p2", "p0")
	f.settle(f.get(0), core.Failure)
	id, err := f.choose(wants("us", RegionPreferred))
	require.NoError(t, err)
	require.NotEqual(t, "p0", id, "its breaker is open")
	id, err = f.choose(wants("jp", RegionPreferred))
	require.NoError(t, err)
	require.NotEqual(t, "p0", id, "no proxy is in the region")
	id, err = f.choose(wants("eu", RegionScored))
	require.NoError(t, err)
	require.NotEmpty(t, id)
}

// In every state of the breakers, a request that is limited to a region, by itself or by its user, is
// not sent through a proxy of another region, and fails only if no proxy of the region is admissible.
func TestStrictRegion(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "proxies")
		f := newFixture(outer, n, rapid.IntRange(1, 12).Draw(t, "limit"))
		regions := map[int]string{}
		for i := range n {
			regions[i] = rapid.SampledFrom([]string{"", "us", "eu"}).Draw(t, "region")
		}
		f.place(outer, regions)
		q := wants("us", RegionStrict)
		t.Repeat(map[string]func(*rapid.T){
			"fail": func(t *rapid.T) { f.settle(f.get(rapid.IntRange(0, n-1).Draw(t, "i")), core.Failure) },
			"wait": func(t *rapid.T) {
				f.now = f.now.Add(time.Duration(rapid.IntRange(0, 40_000).Draw(t, "ms")) * time.Millisecond)
				f.pool.Sweep()
			},
			"next request": func(*rapid.T) { q = wants("us", RegionStrict) },
			"next request of a user": func(t *rapid.T) {
				q = wants(rapid.SampledFrom([]string{"us", "eu"}).Draw(t, "wanted"),
					rapid.SampledFrom([]RegionMode{RegionScored, RegionPreferred}).Draw(t, "how"))
				q.Regions = core.NewRegions([]string{"us", "jp"})
			},
			"select": func(t *rapid.T) {
				admissible, none := false, true
				for i := range n {
					if regions[i] == "us" {
						none = false
						admissible = admissible || f.get(i).Breaker().Admissible()
					}
				}
				blocked := f.s.CheckSelect(q, f.now)
				id, err := f.choose(q)
				if (err == nil) != admissible || (blocked == nil) != admissible {
					t.Fatalf("an admissible proxy: %v, error: %v, blocked: %v", admissible, err, blocked)
				}
				if err != nil {
					var e *core.RegionError
					require.ErrorAs(t, err, &e)
					require.Equal(t, none, e.Due.IsZero())
					require.ErrorAs(t, blocked, &e)
					return
				}
				u := f.pool.Snapshot().Get(id)
				require.Equal(t, "us", u.Spec().Region)
				q.Tried = append(q.Tried, TriedProxy{Proxy: u})
				q.Attempt++
			},
		})
	})
}

func TestStrictRegionBusy(t *testing.T) {
	f := newFixture(t, 2, 256)
	f.place(t, map[int]string{0: "us", 1: "eu"})
	err := f.pool.UpdateAll(upstream.Updates{"p0": func(s *upstream.Spec) error {
		s.Extras = &upstream.Extras{MaxInFlight: 1}
		return nil
	}})
	require.NoError(t, err)
	lease, ok := f.get(0).Acquire(f.now)
	require.True(t, ok)
	_, err = f.choose(wants("us", RegionStrict))
	require.ErrorIs(t, err, core.ErrAllBusy)
	id, err := f.choose(wants("us", RegionPreferred))
	require.NoError(t, err)
	require.Equal(t, "p1", id)
	lease.Release()

	f = newFixture(t, 0, 256)
	_, err = f.choose(wants("us", RegionStrict))
	require.True(t, errors.As(err, new(*core.RegionError)))
}

// A request for a region neither probes nor explores a proxy of another region.
func TestProbesAndExplorationsByRegion(t *testing.T) {
	f := newFixture(t, 3, 256)
	f.place(t, map[int]string{0: "us", 1: "eu", 2: "us"})
	f.makeOverdue(t, 1)
	for range 30 {
		id, err := f.choose(wants("us", RegionPreferred))
		require.NoError(t, err)
		require.NotEqual(t, "p1", id)
	}
	id, err := f.choose(wants("jp", RegionPreferred))
	require.NoError(t, err)
	require.Equal(t, "p1", id, "without a proxy in the region, any proxy may be probed")
}

package selector

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/rest"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

const restingHost = 77

func (f *fixture) rest(u *upstream.Upstream, d time.Duration) {
	now := f.pool.Elapsed(f.now)
	f.s.Rests().Begin(u.Hash(), restingHost, rest.Pair{ProxyID: u.ID(), Host: "h", Since: now, Until: now + d})
}

// TestResting: in every state of the breakers and rests, a proxy is not chosen for the host for which it rests, and is
// chosen for other hosts as without rests.
func TestResting(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "proxies")
		f := newFixture(outer, n, rapid.IntRange(1, 8).Draw(t, "limit"))
		region := rapid.SampledFrom([]Region{RegionScored, RegionPreferred, RegionStrict}).Draw(t, "region")
		regions := map[int]string{}
		for i := range n {
			regions[i] = rapid.SampledFrom([]string{"us", "us", "eu"}).Draw(t, "region of a proxy")
		}
		f.place(outer, regions)
		ends := map[int]time.Time{}
		newQuery := func() *Query {
			q := wants("us", region)
			q.HostHash = restingHost
			return q
		}
		q := newQuery()
		t.Repeat(map[string]func(*rapid.T){
			"fail": func(t *rapid.T) { f.settle(f.get(rapid.IntRange(0, n-1).Draw(t, "i")), core.Failure) },
			"rest": func(t *rapid.T) {
				i := rapid.IntRange(0, n-1).Draw(t, "i")
				d := time.Duration(rapid.IntRange(1, 5_000).Draw(t, "ms")) * time.Millisecond
				f.rest(f.get(i), d)
				if end := f.now.Add(d); end.After(ends[i]) {
					ends[i] = end
				}
			},
			"wait": func(t *rapid.T) {
				f.now = f.now.Add(time.Duration(rapid.IntRange(0, 40_000).Draw(t, "ms")) * time.Millisecond)
				f.pool.Sweep()
			},
			"next request": func(*rapid.T) { q = newQuery() },
			"select": func(t *rapid.T) {
				possible, soonest := false, time.Time{}
				for i := range n {
					if region == RegionStrict && regions[i] != "us" || !f.get(i).Breaker().Admissible() {
						continue
					}
					if end := ends[i]; !end.After(f.now) {
						possible = true
					} else if soonest.IsZero() || end.Before(soonest) {
						soonest = end
					}
				}
				blocked := f.s.Blocked(q, f.now)
				id, err := f.choose(q)
				require.Equal(t, possible, err == nil)
				require.Equal(t, possible, blocked == nil)
				if err == nil {
					u := f.pool.Snapshot().Get(id)
					_, rests := f.s.Rests().Of(restingHost).Until(u.Hash(), f.pool.Elapsed(f.now))
					require.False(t, rests, "%s rests", id)
					q.Tried = append(q.Tried, Tried{Proxy: u})
					q.Attempt++
					return
				}
				for _, err := range []error{err, blocked} {
					var resting *core.RestingError
					if soonest.IsZero() {
						require.False(t, asResting(err, &resting))
						continue
					}
					require.True(t, asResting(err, &resting), "%v", err)
					require.Equal(t, soonest.Sub(f.now), resting.Left)
				}
			},
			"select for another host": func(t *rapid.T) {
				other := wants("us", RegionScored)
				other.HostHash = restingHost + 1
				admissible := false
				for i := range n {
					admissible = admissible || f.get(i).Breaker().Admissible()
				}
				_, err := f.choose(other)
				require.Equal(t, admissible, err == nil)
			},
		})
	})
}

func asResting(err error, to **core.RestingError) (ok bool) {
	*to, ok = err.(*core.RestingError)
	return ok
}

// A resting proxy is neither probed nor explored for its host.
func TestProbesAndExplorationsOfRestingProxies(t *testing.T) {
	f := newFixture(t, 2, 256)
	f.makeOverdue(t, 1)
	f.rest(f.get(1), time.Hour)
	query := func(host float64) *Query { return &Query{Idempotent: true, Retryable: true, HostHash: host} }
	for range 30 {
		id, err := f.choose(query(restingHost))
		require.NoError(t, err)
		require.Equal(t, "p0", id)
	}
	id, err := f.choose(query(restingHost + 1))
	require.NoError(t, err)
	require.Equal(t, "p1", id, "the probe is of another host")
}

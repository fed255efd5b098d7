package selector

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

const bannedHost = 77

func (f *fixture) rest(u *upstream.Upstream, d time.Duration) {
	now := f.pool.Elapsed(f.now)
	f.s.HostBans().Begin(u.Hash(), bannedHost, ban.Pair{ProxyID: u.ID(), Host: "h", Since: now, Until: now + d})
}

// In every state of the breakers and bans, a proxy is not chosen for the host for which it is banned, and is chosen for
// other hosts as without bans.
func TestResting(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "proxies")
		f := newFixture(outer, n, rapid.IntRange(1, 8).Draw(t, "limit"))
		region := rapid.SampledFrom([]RegionMode{RegionScored, RegionPreferred, RegionStrict}).Draw(t, "region")
		regions := map[int]string{}
		for i := range n {
			regions[i] = rapid.SampledFrom([]string{"us", "us", "eu"}).Draw(t, "region of a proxy")
		}
		f.place(outer, regions)
		ends := map[int]time.Time{}
		newQuery := func() *Query {
			q := wants("us", region)
			q.HostHash = bannedHost
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
				blocked := f.s.CheckSelect(q, f.now)
				id, err := f.choose(q)
				require.Equal(t, possible, err == nil)
				require.Equal(t, possible, blocked == nil)
				if err == nil {
					u := f.pool.Snapshot().Get(id)
					_, isBanned := f.s.HostBans().BansOf(bannedHost).EndOf(u.Hash(), f.pool.Elapsed(f.now))
					require.False(t, isBanned, "%s isBanned", id)
					q.Tried = append(q.Tried, TriedProxy{Proxy: u})
					q.Attempt++
					return
				}
				for _, err := range []error{err, blocked} {
					var banned *core.BannedError
					if soonest.IsZero() {
						require.False(t, asBanned(err, &banned))
						continue
					}
					require.True(t, asBanned(err, &banned), "%v", err)
					require.Equal(t, soonest.Sub(f.now), banned.TimeLeft)
				}
			},
			"select for another host": func(t *rapid.T) {
				other := wants("us", RegionScored)
				other.HostHash = bannedHost + 1
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

func asBanned(err error, to **core.BannedError) (ok bool) {
	*to, ok = err.(*core.BannedError)
	return ok
}

// A proxy that is banned for a host is neither probed nor explored for this host.
func TestProbesAndExplorationsOfRestingProxies(t *testing.T) {
	f := newFixture(t, 2, 256)
	f.makeOverdue(t, 1)
	f.rest(f.get(1), time.Hour)
	query := func(host float64) *Query { return &Query{Idempotent: true, Retryable: true, HostHash: host} }
	for range 30 {
		id, err := f.choose(query(bannedHost))
		require.NoError(t, err)
		require.Equal(t, "p0", id)
	}
	id, err := f.choose(query(bannedHost + 1))
	require.NoError(t, err)
	require.Equal(t, "p1", id, "the probe is of another host")
}

// avoid begins a minute in which u is avoided for the target whose hash is bannedHost.
func (f *fixture) avoid(u *upstream.Upstream) {
	now := f.pool.Elapsed(f.now)
	f.pool.Avoided().Begin(u.Hash(), bannedHost, ban.Pair{ProxyID: u.ID(), Since: now, Until: now + time.Minute})
}

// A proxy that is avoided for a target is neither probed nor explored for it. Other ports of the host do not matter.
func TestProbesAndExplorationsOfAvoidedProxies(t *testing.T) {
	f := newFixture(t, 2, 256)
	f.makeOverdue(t, 1)
	f.avoid(f.get(1))
	query := func(target uint64) *Query {
		return &Query{Idempotent: true, Retryable: true, HostHash: bannedHost, TargetHash: target}
	}
	for range 30 {
		id, err := f.choose(query(bannedHost))
		require.NoError(t, err)
		require.Equal(t, "p0", id)
	}
	id, err := f.choose(query(bannedHost + 1))
	require.NoError(t, err)
	require.Equal(t, "p1", id, "the probe is of another target")
}

// A proxy that is to be compared with other proxies at a target is chosen for this target only if there is no other
// candidate.
func TestUncompared(t *testing.T) {
	f := newFixture(t, 2, 8)
	for i, want := range []string{"p1", "p0"} {
		u, now := f.get(i), f.pool.Elapsed(f.now)
		f.pool.Uncompared().Begin(u.Hash(), bannedHost,
			ban.Pair{ProxyID: u.ID(), Since: now, Until: now + time.Minute})
		for range 10 {
			q := wants("", RegionScored)
			q.TargetHash = bannedHost
			id, err := f.choose(q)
			require.NoError(t, err)
			require.Equal(t, want, id)
		}
		f.pool.Uncompared().EndHost(bannedHost, now)
	}
}

// If a target fails through the proxies that are not avoided for it, retries use the avoided proxies, too. First
// attempts use them only if the target has just failed through all other proxies.
func TestAvoidedWhileTheOthersFail(t *testing.T) {
	f := newFixture(t, 3, 8)
	f.avoid(f.get(0))
	chosen := func(number int) map[string]int {
		ids := map[string]int{}
		for range 30 {
			q := wants("", RegionScored)
			q.TargetHash, q.Attempt = bannedHost, number
			id, err := f.choose(q)
			require.NoError(t, err)
			ids[id]++
		}
		return ids
	}
	var book evidence.Book
	attempt := func(i int) *evidence.Attempt {
		return &evidence.Attempt{Proxy: f.get(i).Hash(), Book: &book, Target: evidence.Target{Hash: bannedHost},
			Ended: f.pool.Elapsed(f.now), ClosedPeers: 2, PoolSize: 3, Threshold: 5, Window: time.Minute}
	}
	for range 2 {
		f.pool.Ledger().RecordFailure(attempt(2))
		require.Len(t, chosen(0), 2, "too few failures")
	}
	f.pool.Ledger().RecordFailure(attempt(2))
	require.Contains(t, chosen(1), "p0")
	require.Equal(t, map[string]int{"p1": 30}, chosen(0))
	f.pool.Ledger().RecordFailure(attempt(1))
	require.Equal(t, map[string]int{"p0": 30}, chosen(0))
	f.pool.Ledger().RecordFailure(attempt(0))
	require.Equal(t, []string{"p1", "p2"}, slices.Sorted(maps.Keys(chosen(0))), "it fails through all of them")
	f.pool.Ledger().RecordSuccess(attempt(0))
	require.Equal(t, []string{"p1", "p2"}, slices.Sorted(maps.Keys(chosen(0))))
}

// If a target that bans a proxy fails through all proxies with a closed breaker, a retry is the probe of an open
// breaker. A target without bans causes no such probe.
func TestAnOpenBreakerIsProbedWhileTheOthersFail(t *testing.T) {
	f := newFixture(t, 3, 8)
	f.settle(f.get(0), core.Failure) // opens its breaker, because breaker.blame is "literal"
	f.pool.SetLiteral(false)
	retry := func(idempotent bool) string {
		q := wants("", RegionScored)
		q.TargetHash, q.Attempt, q.Idempotent = bannedHost, 1, idempotent
		id, err := f.choose(q)
		require.NoError(t, err)
		return id
	}
	var book evidence.Book
	fail := func(proxies ...int) {
		for _, i := range proxies {
			f.pool.Ledger().RecordFailure(&evidence.Attempt{Proxy: f.get(i).Hash(), Book: &book,
				Target: evidence.Target{Hash: bannedHost}, Ended: f.pool.Elapsed(f.now), ClosedPeers: 2, PoolSize: 3,
				Threshold: 5, Window: time.Minute})
		}
	}
	f.now = f.now.Add(600 * time.Millisecond)
	fail(1, 2, 1)
	require.NotEqual(t, "p0", retry(true), "no proxy is avoided for the target")
	f.avoid(f.get(1))
	require.NotEqual(t, "p0", retry(false), "only an idempotent request may be a probe")
	require.Equal(t, core.Open, f.get(0).Breaker().State())
	require.Equal(t, "p0", retry(true))
	require.Equal(t, core.HalfOpen, f.get(0).Breaker().State())
	fail(0)
	require.NotEqual(t, "p0", retry(true), "the target has just failed through it")
}

// A proxy that is avoided for a target is chosen for other targets, and for the target only if there is no other
// candidate.
func TestAvoided(t *testing.T) {
	f := newFixture(t, 3, 8)
	avoid := func(i int) { f.avoid(f.get(i)) }
	chosen := func(target uint64) map[string]int {
		ids := map[string]int{}
		for range 30 {
			q := wants("", RegionScored)
			q.TargetHash = target
			id, err := f.choose(q)
			require.NoError(t, err)
			ids[id]++
		}
		return ids
	}
	avoid(0)
	require.NotContains(t, chosen(bannedHost), f.get(0).ID())
	require.Len(t, chosen(bannedHost), 2)
	require.Len(t, chosen(bannedHost+1), 3)
	avoid(1)
	require.Equal(t, map[string]int{f.get(2).ID(): 30}, chosen(bannedHost))
	avoid(2)
	require.Len(t, chosen(bannedHost), 3, "a request is not refused because proxies are avoided")
	f.now = f.now.Add(time.Minute)
	avoid(1)
	require.Len(t, chosen(bannedHost), 2, "the time of the first two has passed")
}

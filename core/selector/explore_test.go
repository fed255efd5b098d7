package selector

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// favourite ranks one proxy above all others.
func (f *fixture) favourite(i int) funcScorer {
	return funcScorer{score: func(c *core.Candidate) float64 { return toFloat(c.IDHash == f.get(i).IDHash()) }}
}

// With 10,000 idle proxies and 10 requests per second, one first attempt in 20 is an exploration, and each idle
// proxy is explored once. Retries and requests that are not idempotent do not explore.
func TestExplorationLimit(t *testing.T) {
	f := newFixture(t, 10_000, 16)
	favourite := funcScorer{score: func(c *core.Candidate) float64 { return toFloat(c.Rotation == 0) }} // of the sample
	f.now = f.now.Add(time.Minute)
	explored := map[string]int{}
	idle := func(u string) bool {
		for _, o := range f.pool.DueExplorations() {
			if o.ID() == u {
				return true
			}
		}
		return false
	}
	for i := range 2000 {
		f.now = f.now.Add(100 * time.Millisecond)
		f.pool.Sweep()
		others := []*Query{{Retryable: true}, {Idempotent: true}}
		for _, q := range []*Query{{Attempt: 1, Idempotent: true, Retryable: true}, others[i%2]} {
			before := f.s.nextExploration.Load()
			lease, err := f.s.Select(q, favourite, f.now)
			require.NoError(t, err)
			require.Equal(t, before, f.s.nextExploration.Load(), "only first attempts of idempotent requests explore")
			lease.Release()
		}
		before := f.s.nextExploration.Load()
		lease, err := f.s.Select(&Query{Idempotent: true, Retryable: true}, favourite, f.now)
		require.NoError(t, err)
		if f.s.nextExploration.Load() != before {
			explored[lease.Proxy.ID()]++
			require.True(t, idle(lease.Proxy.ID()), "%d", i)
		}
		lease.Settle(&core.Outcome{Verdict: core.Success, Latency: time.Millisecond})
		lease.Release()
	}
	total := 0
	for id, n := range explored {
		require.Equal(t, 1, n, id)
		total += n
	}
	require.InDelta(t, 2*2000/exploreEvery, total, 2, "all first attempts count, also those that cannot explore")
}

// The proxy that was idle longest is explored first.
func TestExplorationOrder(t *testing.T) {
	f := newFixture(t, 4, 256)
	for i := 1; i < 4; i++ {
		lease, ok := f.get(i).Acquire(f.now)
		require.True(t, ok)
		lease.Settle(&core.Outcome{Verdict: core.Success, Latency: time.Millisecond})
		lease.Release()
		f.now = f.now.Add(time.Second)
	}
	f.now = f.now.Add(time.Minute)
	choose := func() string {
		f.now = f.now.Add(50 * time.Millisecond)
		f.pool.Sweep()
		lease, err := f.s.Select(&Query{Idempotent: true, Retryable: true}, f.favourite(0), f.now)
		require.NoError(t, err)
		id := lease.Proxy.ID()
		lease.Settle(&core.Outcome{Verdict: core.Success, Latency: time.Millisecond})
		lease.Release()
		return id
	}
	lease, err := f.s.Select(&Query{Idempotent: true, Retryable: true}, f.favourite(0), f.now)
	require.NoError(t, err)
	require.Equal(t, "p0", lease.Proxy.ID(), "no sweep has run yet")
	lease.Release()
	at := map[string]int{}
	for i := range 100 {
		if id := choose(); id != "p0" {
			require.NotContains(t, at, id)
			at[id] = i
		}
	}
	require.Equal(t, map[string]int{"p1": 0, "p2": exploreEvery, "p3": 2 * exploreEvery}, at)
}

// Among concurrent requests one explores.
func TestConcurrentExplorations(t *testing.T) {
	for range 50 {
		f := newFixture(t, 2, 256)
		f.now = f.now.Add(time.Minute)
		f.pool.Sweep()
		require.NotEmpty(t, f.pool.DueExplorations())
		var mu sync.Mutex
		var wg sync.WaitGroup
		uses := map[string]int{}
		favourite := f.favourite(0)
		for range exploreEvery - 1 {
			wg.Go(func() {
				lease, err := f.s.Select(&Query{Idempotent: true, Retryable: true}, favourite, f.now)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				uses[lease.Proxy.ID()]++
				mu.Unlock()
			})
		}
		wg.Wait()
		assert.LessOrEqual(t, uses["p1"], 1)
	}
}

// leastInFlight ranks like the built-in least_in_flight.
var leastInFlight = funcScorer{score: func(c *core.Candidate) float64 { return -c.InFlight / c.Weight }}

// If nothing is in flight, least_in_flight chooses in the same order as round_robin, in a pool of any size, and
// also with retries in between.
func TestEqualLoadsFollowTheRotation(t *testing.T) {
	for _, n := range []int{1, 3, 7, 1000} {
		load, turns := newFixture(t, n, 64), newFixture(t, n, 64)
		for i := range 3 * n {
			var ids [2]string
			for k, f := range []*fixture{load, turns} {
				lease, err := f.s.Select(&Query{Idempotent: true, Retryable: true},
					[]funcScorer{leastInFlight, rotation}[k], f.now)
				require.NoError(t, err)
				u := lease.Proxy
				ids[k] = u.ID()
				lease.Release()
				if i%4 == 3 {
					again, err := f.s.Select(&Query{Idempotent: true, Attempt: 1, Tried: []TriedProxy{{Proxy: u}}},
						leastInFlight, f.now)
					require.NoError(t, err)
					again.Release()
				}
			}
			require.Equal(t, ids[1], ids[0], "choice %d of %d proxies", i, n)
			if i == 0 {
				require.Equal(t, "p0", ids[0])
			}
		}
	}
}

// A proxy that does not respond gets no more than its share of 32 concurrent requests.
func TestHangingProxy(t *testing.T) {
	f := newFixture(t, 8, 256)
	held, busy := 0, []func(){}
	for range 1000 {
		if held+len(busy) == 32 { // the requests of the other proxies end in order
			busy[0]()
			busy = busy[1:]
		}
		lease, err := f.s.Select(&Query{Idempotent: true, Retryable: true}, leastInFlight, f.now)
		require.NoError(t, err)
		if lease.Proxy.ID() == "p3" {
			held++
			continue
		}
		busy = append(busy, lease.Release)
	}
	require.LessOrEqual(t, held, 5)
}

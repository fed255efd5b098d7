package selector

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// funcScorer is a scorer that computes a score from a candidate's row.
type funcScorer struct {
	score     func(*core.Candidate) float64
	tolerance float64
}

func (f funcScorer) Score(c core.Candidates, scores []float64) error {
	rows := make([]core.Candidate, c.Len())
	var q core.RankRequest
	c.Fill(&q, rows)
	for i := range rows {
		scores[i] = f.score(&rows[i])
	}
	return nil
}

func (f funcScorer) Tolerance() float64 { return f.tolerance }

var rotation = funcScorer{score: func(c *core.Candidate) float64 { return -c.Rotation }}

type failing struct{}

var errTrap = errors.New("trap")

func (failing) Score(core.Candidates, []float64) error { return errTrap }

type fixture struct {
	now  time.Time
	pool *upstream.Pool
	s    *Selector
}

func newFixture(t testing.TB, n, limit int) *fixture {
	f := &fixture{now: time.Unix(1000, 0)}
	clock := func() time.Time { return f.now }
	f.pool = upstream.NewPool(upstream.PoolConfig{Literal: true,
		Breaker: breaker.Config{FailureThreshold: 1, WindowDuration: time.Minute, TimeoutDuration: time.Second},
		Now:     clock,
	})
	var specs []upstream.Spec
	for i := range n {
		specs = append(specs, upstream.Spec{ID: fmt.Sprintf("p%d", i),
			Address: upstream.Address{Scheme: upstream.HTTP, Host: "a.test:1"}})
	}
	require.NoError(t, f.pool.Apply(specs))
	var seed atomic.Uint64
	f.s = New(f.pool, func() uint64 {
		z := seed.Add(0x9e3779b97f4a7c15) // splitmix64
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		return z ^ z>>31
	}, limit)
	return f
}

func (f *fixture) get(i int) *upstream.Upstream { return f.pool.Snapshot().Get(fmt.Sprintf("p%d", i)) }

// makeOverdue opens the breaker of one proxy and lets it be half-open for so long that its probe is overdue. The other
// proxies are idle for so long that their explorations are due.
func (f *fixture) makeOverdue(t *testing.T, i int) {
	f.settle(f.get(i), core.Failure)
	f.now = f.now.Add(time.Minute)
	f.pool.Sweep()
	f.now = f.now.Add(2 * time.Second)
	f.pool.Sweep()
	require.Len(t, f.pool.OverdueProbes(), 1)
	require.NotEmpty(t, f.pool.DueExplorations())
}

func (f *fixture) settle(u *upstream.Upstream, v core.Verdict) {
	if lease, ok := u.Acquire(f.now); ok {
		lease.Settle(&core.Outcome{Verdict: v, Latency: time.Millisecond})
		lease.Release()
	}
}

func TestErrors(t *testing.T) {
	f := newFixture(t, 0, 256)
	_, err := f.s.Select(&Query{Idempotent: true}, rotation, f.now)
	assert.ErrorIs(t, err, core.ErrPoolEmpty)

	f = newFixture(t, 2, 256)
	f.settle(f.get(0), core.Failure)
	f.settle(f.get(1), core.Failure)
	_, err = f.s.Select(&Query{Idempotent: true}, rotation, f.now)
	assert.ErrorIs(t, err, core.ErrAllBreakersOpen)
	at, ok := f.s.NextTestTime()
	assert.True(t, ok)
	assert.Equal(t, f.now.Add(time.Second), at)
	for check, want := range map[time.Duration]time.Duration{
		250 * time.Millisecond: 250 * time.Millisecond, 2 * time.Second: time.Second,
	} {
		f.pool.SetNextCheck(f.pool.Elapsed(f.now.Add(check)), true)
		at, ok = f.s.NextTestTime()
		assert.True(t, ok)
		assert.Equal(t, f.now.Add(want), at)
	}

	f = newFixture(t, 1, 256)
	f.pool.SetNextCheck(f.pool.Elapsed(f.now), true)
	_, ok = f.s.NextTestTime()
	assert.False(t, ok, "its breaker is closed")
	err = f.pool.UpdateAll(upstream.Updates{"p0": func(s *upstream.Spec) error {
		s.Extras = &upstream.Extras{MaxInFlight: 1}
		return nil
	}})
	require.NoError(t, err)
	lease, err := f.s.Select(&Query{Idempotent: true}, rotation, f.now)
	require.NoError(t, err)
	_, err = f.s.Select(&Query{Idempotent: true}, rotation, f.now)
	assert.ErrorIs(t, err, core.ErrAllBusy)
	lease.Release()

	_, err = f.s.Select(&Query{Idempotent: true, Attempt: 1, Tried: []TriedProxy{{Proxy: f.get(0), Barred: true}}},
		rotation, f.now)
	assert.ErrorIs(t, err, ErrBarred)
}

func TestDraining(t *testing.T) {
	for _, open := range []bool{false, true} {
		f := newFixture(t, 2, 256)
		lease, ok := f.get(0).Acquire(f.now)
		require.True(t, ok)
		require.NoError(t, f.pool.Remove("p0", true))
		want := core.ErrPoolEmpty
		if open {
			f.settle(f.get(1), core.Failure)
			want = core.ErrAllBreakersOpen
		} else {
			require.NoError(t, f.pool.Remove("p1", false))
		}
		_, err := f.s.Select(&Query{Idempotent: true}, rotation, f.now)
		assert.Equal(t, want, err)
		tried := []TriedProxy{{Proxy: lease.Proxy}}
		_, err = f.s.Select(&Query{Idempotent: true, Attempt: 1, Tried: tried}, rotation, f.now)
		assert.Equal(t, want, err)
		lease.Release()
	}
}

func TestRotationIsFair(t *testing.T) {
	for _, n := range []int{1, 3, 8, 1000} { // with 1000 proxies the candidates are a sample
		f := newFixture(t, n, 64)
		uses := map[string]int{}
		for range 3 * n {
			q := Query{Idempotent: true}
			lease, err := f.s.Select(&q, rotation, f.now)
			require.NoError(t, err)
			uses[lease.Proxy.ID()]++
			lease.Release()
		}
		assert.Len(t, uses, n)
		for id, k := range uses {
			assert.Equal(t, 3, k, id)
		}
	}
}

func TestRetriesUseUntriedProxiesFirst(t *testing.T) {
	f := newFixture(t, 3, 256)
	q := Query{Idempotent: true}
	var order []string
	for i := range 6 {
		q.Attempt = i
		lease, err := f.s.Select(&q, rotation, f.now)
		require.NoError(t, err)
		order = append(order, lease.Proxy.ID())
		q.Tried = append(q.Tried, TriedProxy{Proxy: lease.Proxy})
		lease.Release()
	}
	assert.ElementsMatch(t, []string{"p0", "p1", "p2"}, order[:3])
	assert.Equal(t, order[:3], order[3:], "after that the proxy tried longest ago")
	assert.False(t, f.s.HasUntried(&q, f.now))
}

func TestOnlyTheChosenProxyIsProbed(t *testing.T) {
	f := newFixture(t, 3, 256)
	f.settle(f.get(1), core.Failure)
	f.now = f.now.Add(time.Second)
	require.Equal(t, core.HalfOpen, f.get(1).Breaker().State())
	first := funcScorer{score: func(c *core.Candidate) float64 {
		if c.IDHash == f.get(0).IDHash() {
			return 1
		}
		return 0
	}}
	for range 10 {
		q := Query{Idempotent: true}
		lease, err := f.s.Select(&q, first, f.now)
		require.NoError(t, err)
		require.Equal(t, "p0", lease.Proxy.ID())
		lease.Release()
		require.True(t, f.get(1).Breaker().Admissible(), "a candidate that is not chosen is not probed")
	}
	// A request that is not idempotent is not used as a probe while another proxy is admissible.
	q := Query{}
	for range 6 {
		q.Reset()
		lease, err := f.s.Select(&q, rotation, f.now)
		require.NoError(t, err)
		require.NotEqual(t, "p1", lease.Proxy.ID())
		lease.Release()
	}
}

// A retry is a probe only if no breaker is closed. If breaker.blame is "literal", a retry may always be a probe.
func TestRetriesAsProbes(t *testing.T) {
	for _, literal := range []bool{false, true} {
		f := newFixture(t, 4, 256)
		f.settle(f.get(1), core.Failure)
		f.settle(f.get(2), core.Failure)
		f.now = f.now.Add(time.Second)
		f.pool.SetLiteral(literal)
		retry := func(tried ...int) map[string]bool {
			chosen := map[string]bool{}
			for range 8 {
				q := Query{Idempotent: true, Retryable: true, Attempt: len(tried)}
				for _, i := range tried {
					q.Tried = append(q.Tried, TriedProxy{Proxy: f.get(i)})
				}
				lease, err := f.s.Select(&q, rotation, f.now)
				require.NoError(t, err)
				chosen[lease.Proxy.ID()] = true
				lease.Release()
			}
			return chosen
		}
		require.Equal(t, literal, retry(0)["p1"])
		require.Contains(t, retry(0, 3), "p1", "the other breakers are not closed")
	}
}

// Several breakers become half-open, and the scorer always chooses another proxy.
// Each of them must get a probe nevertheless.
func TestEveryBreakerIsProbed(t *testing.T) {
	f := newFixture(t, 5, 256)
	for i := 1; i < 5; i++ {
		f.settle(f.get(i), core.Failure)
	}
	preferFirst := funcScorer{score: func(c *core.Candidate) float64 {
		if c.IDHash == f.get(0).IDHash() {
			return 1
		}
		return 0
	}}
	for range 100 {
		f.now = f.now.Add(200 * time.Millisecond)
		f.pool.Sweep()
		q := Query{Idempotent: true}
		lease, err := f.s.Select(&q, preferFirst, f.now)
		require.NoError(t, err)
		lease.Settle(&core.Outcome{Verdict: core.Success})
		lease.Release()
	}
	for i := range 5 {
		assert.Equal(t, core.Closed, f.get(i).Breaker().State(), "p%d", i)
	}
}

func TestFailingScorer(t *testing.T) {
	f := newFixture(t, 3, 256)
	uses := map[string]int{}
	for range 30 {
		q := Query{Idempotent: true}
		lease, err := f.s.Select(&q, failing{}, f.now)
		require.NoError(t, err)
		uses[lease.Proxy.ID()]++
		lease.Release()
	}
	assert.Equal(t, map[string]int{"p0": 10, "p1": 10, "p2": 10}, uses)
}

func TestOddScores(t *testing.T) {
	for name, v := range map[string]float64{"NaN": math.NaN(), "+Inf": math.Inf(1), "-Inf": math.Inf(-1)} {
		f := newFixture(t, 3, 256)
		q := Query{Idempotent: true}
		lease, err := f.s.Select(&q, funcScorer{score: func(*core.Candidate) float64 { return v }, tolerance: 0.02},
			f.now)
		require.NoError(t, err, name)
		require.NotNil(t, lease.Proxy, name)
		lease.Release()
	}
}

// 200 attempts in flight are divided evenly between two proxies whose scores differ by less
// than the tolerance. With a tolerance that is smaller than the difference, one proxy gets all of them.
func TestTolerance(t *testing.T) {
	share := func(tolerance float64) int {
		f := newFixture(t, 2, 256)
		better := funcScorer{tolerance: tolerance, score: func(c *core.Candidate) float64 {
			if c.IDHash == f.get(0).IDHash() {
				return 0.95
			}
			return 0.94
		}}
		n := 0
		for range 200 {
			q := Query{Idempotent: true, Attempt: 1}
			lease, err := f.s.Select(&q, better, f.now)
			require.NoError(t, err)
			if lease.Proxy.ID() == "p0" {
				n++
			}
		}
		return n
	}
	assert.Equal(t, 100, share(0.02))
	assert.Equal(t, 200, share(0))
}

// The tolerance is a fraction of the absolute value of the best score.
func TestToleranceLimit(t *testing.T) {
	for _, c := range []struct {
		best, other, tolerance float64
		tie                    bool
	}{
		{1, 0.981, 0.02, true}, {1, 0.979, 0.02, false}, {100, 98.1, 0.02, true}, {100, 97.9, 0.02, false},
		{-1, -1.019, 0.02, true}, {-1, -1.021, 0.02, false}, {1, 0.91, 0.1, true}, {1, 0.89, 0.1, false},
		{0, -0.001, 0.02, false}, {1, 1, 0, true}, {1, 0.999, 0, false},
	} {
		f := newFixture(t, 2, 256)
		scorer := funcScorer{tolerance: c.tolerance, score: func(row *core.Candidate) float64 {
			if row.IDHash == f.get(0).IDHash() {
				return c.best
			}
			return c.other
		}}
		first, ok := f.get(0).Acquire(f.now) // so that the other proxy wins a tie
		require.True(t, ok)
		lease, err := f.s.Select(&Query{Idempotent: true, Attempt: 1}, scorer, f.now)
		require.NoError(t, err)
		assert.Equal(t, c.tie, lease.Proxy.ID() == "p1", "%+v", c)
		first.Release()
		lease.Release()
	}
}

// Among equal candidates the first choice is the next one in the pool's order, and each gets the
// same share.
func TestTies(t *testing.T) {
	f := newFixture(t, 4, 256)
	same := funcScorer{score: func(*core.Candidate) float64 { return 1 }}
	uses := map[string]int{}
	for i := range 300 {
		q := Query{Idempotent: true, Attempt: 1, Tried: []TriedProxy{{Proxy: f.get(0)}}}
		lease, err := f.s.Select(&q, same, f.now)
		require.NoError(t, err)
		if i == 0 {
			assert.Equal(t, "p1", lease.Proxy.ID())
		}
		uses[lease.Proxy.ID()]++
		lease.Release()
	}
	assert.Equal(t, map[string]int{"p1": 100, "p2": 100, "p3": 100}, uses)
}

func TestRowsOfCandidates(t *testing.T) {
	f := newFixture(t, 3, 256)
	err := f.pool.UpdateAll(upstream.Updates{"p1": func(s *upstream.Spec) error {
		s.Region, s.Weight, s.Cost = "eu", 2, 3
		return nil
	}})
	require.NoError(t, err)
	f.settle(f.get(1), core.Success)
	c := f.s.newChoice(&Query{Idempotent: true, RegionHash: core.Hash53("eu")}, f.now)
	f.s.gatherCandidates(c, f.pool.Snapshot())
	rows := make([]core.Candidate, c.Len())
	var r core.RankRequest
	c.Fill(&r, rows)
	assert.Equal(t, 3.0, r.Count)
	assert.Equal(t, 1.0, rows[1].RegionMatch)
	assert.Equal(t, 0.0, rows[0].RegionMatch)
	assert.Equal(t, 2.0, rows[1].Weight)
	assert.Equal(t, 3.0, rows[1].Cost)
	assert.Equal(t, 1.0, rows[1].NormalizedLatency, "the slowest proxy")
	assert.Equal(t, 0.5, rows[0].NormalizedLatency, "unknown")
	assert.Equal(t, -1.0, rows[0].SinceUse)
}

// In every state of the breakers, the chosen proxy is admissible, and untried if
// an untried proxy is admissible.
func TestEveryChoiceIsAdmissible(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		f := newFixture(outer, rapid.IntRange(1, 12).Draw(t, "proxies"), rapid.IntRange(1, 12).Draw(t, "limit"))
		n := len(f.pool.Snapshot().All)
		q := Query{Idempotent: true}
		t.Repeat(map[string]func(*rapid.T){
			"fail": func(t *rapid.T) { f.settle(f.get(rapid.IntRange(0, n-1).Draw(t, "i")), core.Failure) },
			"wait": func(t *rapid.T) {
				f.now = f.now.Add(time.Duration(rapid.IntRange(0, 1500).Draw(t, "ms")) * time.Millisecond)
				f.pool.Sweep()
			},
			"next request": func(*rapid.T) { q.Reset(); q.Idempotent, q.Attempt = true, 0 },
			"select": func(t *rapid.T) {
				untried, any := false, false
				for _, u := range f.pool.Snapshot().All {
					if u.Breaker().Admissible() {
						any = true
						untried = untried || !q.hasTried(u)
					}
				}
				lease, err := f.s.Select(&q, rotation, f.now)
				if (err == nil) != any {
					t.Fatalf("an admissible proxy: %v, error: %v", any, err)
				}
				if err != nil {
					return
				}
				if q.hasTried(lease.Proxy) && untried {
					t.Fatal("a tried proxy was chosen although an untried one is admissible")
				}
				q.Tried = append(q.Tried, TriedProxy{Proxy: lease.Proxy})
				q.Attempt++
				lease.Settle(&core.Outcome{Verdict: core.Success})
				lease.Release()
			},
		})
	})
}

func TestConcurrentChoices(t *testing.T) {
	f := newFixture(t, 4, 256)
	f.settle(f.get(2), core.Failure)
	f.now = f.now.Add(time.Second) // p2 is half-open: one probe only
	var mu sync.Mutex
	uses := map[string]int{}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			q := Query{}
			for range 200 {
				q.Reset()
				q.Idempotent = true
				lease, err := f.s.Select(&q, rotation, f.now)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				uses[lease.Proxy.ID()]++
				mu.Unlock()
				if lease.Proxy.ID() != "p2" { // the probe stays in flight
					lease.Release()
				}
			}
		})
	}
	wg.Wait()
	assert.Equal(t, 1, uses["p2"])
	assert.Equal(t, 16*200, uses["p0"]+uses["p1"]+uses["p2"]+uses["p3"])
}

func BenchmarkSelect(b *testing.B) {
	for _, n := range []int{10, 100, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f := newFixture(b, n, DefaultMaxCandidates)
			q := Query{}
			b.ReportAllocs()
			for b.Loop() {
				q.Reset()
				q.Idempotent = true
				lease, err := f.s.Select(&q, failing{}, f.now) // without the cost of a scorer
				if err != nil {
					b.Fatal(err)
				}
				lease.Release()
			}
		})
	}
}

// The selector records that all breakers are open, and discards the record as soon as one of them
// becomes half-open or is reset, or a proxy is added.
func TestAllOpen(t *testing.T) {
	for name, open := range map[string]func(*fixture) string{
		"time": func(f *fixture) string { f.now = f.now.Add(time.Second); return "" },
		"a manual reset": func(f *fixture) string {
			f.get(3).Breaker().Reset()
			return "p3"
		},
		"another proxy": func(f *fixture) string {
			_, err := f.pool.Add([]upstream.Spec{{ID: "new",
				Address: upstream.Address{Scheme: upstream.HTTP, Host: "b.test:1"}}})
			require.NoError(t, err)
			return "new"
		},
	} {
		f := newFixture(t, 10, 256)
		for i := range 10 {
			f.settle(f.get(i), core.Failure)
		}
		for range 3 {
			_, err := f.s.Select(&Query{Idempotent: true}, rotation, f.now)
			require.ErrorIs(t, err, core.ErrAllBreakersOpen, name)
		}
		require.NotNil(t, f.s.allOpen.Load(), name)
		want := open(f)
		lease, err := f.s.Select(&Query{Idempotent: true}, rotation, f.now)
		require.NoError(t, err, name)
		if want != "" {
			require.Equal(t, want, lease.Proxy.ID(), name)
		}
	}
	// While a probe is in flight, nothing is recorded. The probe may end at any time, and causes no transition if it
	// ends without a verdict.
	f := newFixture(t, 1, 256)
	f.settle(f.get(0), core.Failure)
	f.now = f.now.Add(time.Second)
	probe, err := f.s.Select(&Query{Idempotent: true}, rotation, f.now)
	require.NoError(t, err)
	_, err = f.s.Select(&Query{Idempotent: true}, rotation, f.now)
	require.ErrorIs(t, err, core.ErrAllBreakersOpen)
	probe.Release()
	_, err = f.s.Select(&Query{Idempotent: true}, rotation, f.now)
	require.NoError(t, err)
}

// Breakers open and are reset while requests choose. Afterwards a proxy with a closed
// breaker is chosen.
func TestAllOpenConcurrently(t *testing.T) {
	f := newFixture(t, 3, 256)
	for range 200 {
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() { f.settle(f.get(i), core.Failure) })
			wg.Go(func() {
				for range 5 {
					if lease, err := f.s.Select(&Query{Idempotent: true}, rotation, f.now); err == nil {
						lease.Release()
					}
				}
			})
		}
		wg.Go(func() { f.get(1).Breaker().Reset() })
		wg.Wait()
		lease, err := f.s.Select(&Query{Idempotent: true}, rotation, f.now)
		if f.get(1).Breaker().State() != core.Closed {
			require.ErrorIs(t, err, core.ErrAllBreakersOpen)
			f.get(1).Breaker().Reset()
			lease, err = f.s.Select(&Query{Idempotent: true}, rotation, f.now)
		}
		require.NoError(t, err)
		lease.Release()
		for i := range 3 {
			f.get(i).Breaker().Reset()
		}
	}
}

// A sample has at most the maximum number of candidates, no duplicates and only admissible proxies. The first candidate
// is the proxy whose turn it is. The sample is empty only if no proxy is admissible.
func TestSample(outer *testing.T) {
	f := newFixture(outer, 300, 20)
	all := f.pool.Snapshot().All
	rapid.Check(outer, func(t *rapid.T) {
		for _, u := range all {
			u.Breaker().Reset()
		}
		out := rapid.SampledFrom([]float64{0, 0.3, 0.95, 1}).Draw(t, "share of open breakers")
		left := map[*upstream.Upstream]bool{}
		for _, u := range all {
			if rapid.Float64Range(0, 1).Draw(t, "chance") < out {
				f.settle(u, core.Failure)
			} else {
				left[u] = true
			}
		}
		c := f.s.newChoice(&Query{Idempotent: true}, f.now)
		c.turn = rapid.Uint64().Draw(t, "turn")
		f.s.gatherCandidates(c, f.pool.Snapshot())
		require.LessOrEqual(t, c.Len(), 20)
		require.Equal(t, len(left) > 0, c.Len() > 0)
		seen := map[*upstream.Upstream]bool{}
		for _, u := range c.candidates {
			require.True(t, left[u], "admissible")
			require.False(t, seen[u], "once")
			seen[u] = true
		}
		if turn := all[c.turn%300]; left[turn] {
			require.Same(t, turn, c.candidates[0])
		}
	})
}

func TestSampleIsFair(t *testing.T) {
	const n, limit, choices = 1000, 50, 20_000
	f := newFixture(t, n, limit)
	drawn := map[string]int{}
	c := f.s.newChoice(&Query{Idempotent: true}, f.now)
	for i := range uint64(choices) {
		c.turn = i
		f.s.gatherCandidates(c, f.pool.Snapshot())
		for _, u := range c.candidates[1:] { // the first is chosen by the rotation
			drawn[u.ID()]++
		}
	}
	for i := range n { // 49 of 1000 proxies in each of 20,000 samples: mean 980, standard deviation 31
		require.InDelta(t, 980, drawn[fmt.Sprintf("p%d", i)], 160, "p%d", i)
	}
	apart := 0.0 // distance in the pool's order between neighbours of a sample
	place := map[*upstream.Upstream]int{}
	for i, u := range f.pool.Snapshot().All {
		place[u] = i
	}
	for i, u := range c.candidates[1 : len(c.candidates)-1] {
		apart += math.Abs(float64(place[u] - place[c.candidates[i+2]]))
	}
	require.Greater(t, apart/float64(len(c.candidates)-2), 200.0,
		"neighbours of a sample are far apart in the pool; two random ones are a third of the pool apart")
}

// TestRowsModel compares every column of every row with a value computed from the proxy's statistics.
func TestRowsModel(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "proxies")
		f := newFixture(outer, n, 256)
		used := map[string]time.Time{}
		regions := []string{"", "eu", "us"}
		for i := range n {
			err := f.pool.UpdateAll(upstream.Updates{fmt.Sprintf("p%d", i): func(s *upstream.Spec) error {
				s.Region = rapid.SampledFrom(regions).Draw(t, "region")
				s.Weight, s.Cost = rapid.Float64Range(0.1, 9).Draw(t, "weight"), rapid.Float64Range(0, 9).Draw(t,
					"cost")
				return nil
			}})
			require.NoError(t, err)
		}
		for range rapid.IntRange(0, 40).Draw(t, "attempts") {
			f.now = f.now.Add(time.Duration(rapid.IntRange(0, 700).Draw(t, "ms")) * time.Millisecond)
			u := f.get(rapid.IntRange(0, n-1).Draw(t, "i"))
			lease, ok := u.Acquire(f.now)
			if !ok {
				continue
			}
			used[u.ID()] = f.now
			if rapid.IntRange(0, 4).Draw(t, "held") == 0 {
				continue
			}
			v := rapid.SampledFrom([]core.Verdict{core.Success, core.Success, core.Failure, core.Excluded}).Draw(t,
				"verdict")
			lease.Settle(&core.Outcome{Verdict: v,
				Latency: time.Duration(rapid.IntRange(1, 400).Draw(t, "latency")) * time.Millisecond})
			lease.Release()
		}
		region := rapid.SampledFrom(regions).Draw(t, "wanted")
		query := Query{Idempotent: true, HostHash: core.Hash53("example.com")}
		if region != "" {
			query.RegionHash = core.RegionHash(region)
		}
		c := f.s.newChoice(&query, f.now)
		c.turn = rapid.Uint64Range(0, 1000).Draw(t, "turn")
		f.s.gatherCandidates(c, f.pool.Snapshot())
		rows, request := make([]core.Candidate, c.Len()), core.RankRequest{}
		if len(rows) == 0 {
			return
		}
		c.Fill(&request, rows)
		slowest := 0.0
		for _, u := range c.candidates {
			slowest = max(slowest, u.Stats().LatencyMean.Seconds())
		}
		for i, u := range c.candidates {
			spec, stats := u.Spec(), u.Stats()
			want := core.Candidate{
				SuccessRate: stats.SuccessRate, Samples: float64(stats.Samples), InFlight: float64(stats.InFlight),
				Weight: spec.Weight, Cost: spec.Cost,
				RegionMatch: toFloat(region != "" && spec.Region == region), SinceUse: -1, Uses: float64(stats.Uses),
				BreakerState: float64(u.Breaker().State()),
				IDHash:       core.Hash53(u.ID()), AffinityHash: core.Pair53(core.Hash53(u.ID()), query.HostHash),
				Rotation: float64((uint64(i) + uint64(len(rows)) - c.turn%uint64(len(rows))) % uint64(len(rows))),
			}
			if at, ok := used[u.ID()]; ok {
				want.SinceUse = f.now.Sub(at).Seconds()
			}
			normalized := 0.5
			switch mean := stats.LatencyMean.Seconds(); {
			case mean > 0:
				normalized = (mean + 0.010) / (slowest + 0.010)
			case stats.Samples > 0:
				normalized = 1
			}
			got := rows[i]
			require.InDelta(t, stats.LatencyMean.Seconds(), got.LatencyMean, 2e-9)
			require.InDelta(t, stats.LatencyEWMA.Seconds(), got.LatencyEWMA, 2e-9)
			require.InDelta(t, normalized, got.NormalizedLatency, 1e-6)
			require.InDelta(t, want.SinceUse, got.SinceUse,
				2e-9) // 1 ns distinguishes a proxy used just now from one never used
			require.GreaterOrEqual(t, got.ConsecutiveFailures, 0.0)
			want.LatencyMean, want.LatencyEWMA = got.LatencyMean, got.LatencyEWMA
			want.NormalizedLatency = got.NormalizedLatency
			want.SinceUse, want.ConsecutiveFailures = got.SinceUse, got.ConsecutiveFailures
			require.Equal(t, want, got)
		}
	})
}

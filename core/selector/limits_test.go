package selector

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

func (f *fixture) change(t require.TestingT, i int, change func(*upstream.Spec)) {
	err := f.pool.UpdateAll(upstream.Updates{f.get(i).ID(): func(s *upstream.Spec) error { change(s); return nil }})
	require.NoError(t, err)
}

// In every state of breakers and limits, a proxy is chosen exactly if its breaker and its limits admit an attempt. If
// only limits exclude the proxies, the error has the time at which the first of these limits admits an attempt.
func TestLimitedProxiesAreNoCandidates(outer *testing.T) {
	const host = "www.shop.example"
	rapid.Check(outer, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "proxies")
		f := newFixture(outer, n, rapid.IntRange(1, 8).Draw(t, "candidates"))
		interval := map[int]time.Duration{}
		pair := rapid.SampledFrom([]time.Duration{0, 3 * time.Second}).Draw(t, "interval of pairs")
		if pair > 0 {
			f.s.Limits().SetEntries([]limit.Entry{{Host: "*.shop.example", Limit: limit.Limit{MinInterval: pair}}},
				f.now)
		}
		for i := range n {
			interval[i] = rapid.SampledFrom([]time.Duration{0, time.Second, 5 * time.Second}).Draw(t, "interval")
			f.change(t, i, func(s *upstream.Spec) { s.Extras = &upstream.Extras{MinInterval: interval[i]} })
		}
		last, lastOfPair := map[int]time.Time{}, map[int]time.Time{}
		newQuery := func(host string) *Query {
			return &Query{Idempotent: true, Host: host, HostHash: core.Hash53(host)}
		}
		t.Repeat(map[string]func(*rapid.T){
			"fail": func(t *rapid.T) { f.settle(f.get(rapid.IntRange(0, n-1).Draw(t, "i")), core.Failure) },
			"wait": func(t *rapid.T) {
				f.now = f.now.Add(time.Duration(rapid.IntRange(0, 6_000).Draw(t, "ms")) * time.Millisecond)
				f.pool.Sweep()
			},
			"select": func(t *rapid.T) {
				to := rapid.SampledFrom([]string{host, "other.example"}).Draw(t, "host")
				admissible, soonest := false, time.Time{}
				for i := range n {
					if !f.get(i).Breaker().Admissible() {
						continue
					}
					until := time.Time{}
					if at, used := last[i]; used {
						until = at.Add(interval[i])
					}
					if at, used := lastOfPair[i]; used && to == host {
						if end := at.Add(pair); end.After(until) {
							until = end
						}
					}
					if !until.After(f.now) {
						admissible = true
					} else if soonest.IsZero() || until.Before(soonest) {
						soonest = until
					}
				}
				lease, err := f.s.Select(newQuery(to), rotation, f.now)
				require.Equal(t, admissible, err == nil, "%v", err)
				limited, isLimited := err.(*core.LimitedError)
				require.Equal(t, !admissible && !soonest.IsZero(), isLimited, "%v", err)
				if isLimited {
					require.InDelta(t, soonest.Sub(f.now), limited.TimeLeft, float64(10*time.Microsecond))
					require.False(t, limited.WaitsForAttempt)
				}
				if err != nil {
					return
				}
				for i := range n {
					if lease.Proxy == f.get(i) {
						last[i] = f.now
						if to == host {
							lastOfPair[i] = f.now
						}
					}
				}
				lease.Settle(&core.Outcome{Verdict: core.Success})
				lease.Release()
			},
		})
	})
}

// The limit on attempts in flight of a pair ends with the attempt. It does not hold for other hosts.
func TestInFlightOfAPair(t *testing.T) {
	f := newFixture(t, 1, 8)
	f.s.Limits().SetEntries([]limit.Entry{{Host: "a.test", Limit: limit.Limit{MaxInFlight: 1}}}, f.now)
	q := &Query{Idempotent: true, Host: "a.test", HostHash: core.Hash53("a.test")}
	lease, err := f.s.Select(q, rotation, f.now)
	require.NoError(t, err)
	_, err = f.s.Select(q, rotation, f.now)
	require.Equal(t, &core.LimitedError{WaitsForAttempt: true}, err)
	other, err := f.s.Select(&Query{Idempotent: true, Host: "b.test", HostHash: 5}, rotation, f.now)
	require.NoError(t, err)
	other.Release()
	parted := lease.DetachPermit()
	lease, err = f.s.Select(q, rotation, f.now)
	require.NoError(t, err, "the place in flight has been released")
	parted.Release()
	_, err = f.s.Select(q, rotation, f.now)
	require.Error(t, err)
	lease.Release()
	lease.Release()
	_, err = f.s.Select(q, rotation, f.now)
	require.NoError(t, err)
}

// A session waits for its proxy at a limit on the rate. If the bytes of the day are spent, it moves, unless it is
// strict.
func TestSessionsAtLimits(t *testing.T) {
	for _, c := range []struct{ strict, bytes, moves bool }{
		{false, false, false}, {true, false, false}, {false, true, true}, {true, true, false},
	} {
		f := newFixture(t, 2, 8)
		f.change(t, 0, func(s *upstream.Spec) { s.Extras = &upstream.Extras{MinInterval: time.Second} })
		lease, ok := f.get(0).Acquire(f.now)
		require.True(t, ok)
		lease.Release()
		held, ok := limit.Reserve(f.get(0).Usage(), nil, f.now)
		require.True(t, ok)
		held.EndAttempt()
		if c.bytes {
			f.change(t, 0, func(s *upstream.Spec) { s.Extras = &upstream.Extras{BytesPerDay: 10} })
			f.get(0).Meter().Add(traffic.Total{Down: 10})
		}
		lease, err := f.s.Select(&Query{Idempotent: true, Session: stuck{strict: c.strict}}, rotation, f.now)
		if !c.moves {
			limited, ok := err.(*core.LimitedError)
			require.True(t, ok, "%v", err)
			require.Positive(t, limited.TimeLeft)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, "p1", lease.Proxy.ID())
	}
}

// stuck is a session whose proxy is p0.
type stuck struct{ strict bool }

func (stuck) StartProxy() string                { return "p0" }
func (s stuck) IsStrict() bool                  { return s.strict }
func (stuck) Score(p uint64, _ float64) float64 { return float64(p % math.MaxInt32) }

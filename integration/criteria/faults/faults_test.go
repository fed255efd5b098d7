package faults

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func seeded(n uint64) *rand.Rand { return rand.New(rand.NewPCG(n, 1)) }

var (
	good = State{Latency: time.Millisecond}
	bad  = State{Fails: 1, Latency: time.Millisecond}
)

// The share of time in bursts, and the mean lengths of bursts and good periods, are as configured.
func TestGilbertElliottHasItsRates(t *testing.T) {
	const length = 1000 * time.Hour
	for _, g := range []GilbertElliott{
		{Good: 90 * time.Second, Burst: 10 * time.Second},
		{Good: 30 * time.Second, Burst: 20 * time.Second},
		{Good: time.Second, Burst: 3 * time.Second},
	} {
		bursts := g.Bursts(seeded(7), length)
		inBursts, longer := time.Duration(0), 0
		for _, b := range bursts {
			inBursts += min(b.To, length) - b.From
			if b.To-b.From > 2*g.Burst {
				longer++
			}
		}
		n := float64(len(bursts))
		require.InEpsilon(t, g.Stationary(), inBursts.Hours()/1000, 0.05)
		require.InEpsilon(t, g.Burst.Seconds(), inBursts.Seconds()/n, 0.05, "mean length of a burst")
		require.InEpsilon(t, g.Good.Seconds(), (length-inBursts).Seconds()/n, 0.05, "mean length of a good period")
		require.InDelta(t, 0.1353, float64(longer)/n, 0.01, "exp(-2) of the bursts are twice as long as the mean")
	}
}

// The chain begins in its stationary distribution.
func TestGilbertElliottBeginsStationary(t *testing.T) {
	g := GilbertElliott{Good: 3 * time.Second, Burst: time.Second}
	rng, first := seeded(3), 0
	for range 4000 {
		if b := g.Bursts(rng, 10*time.Second); len(b) > 0 && b[0].From == 0 {
			first++
		}
	}
	require.InDelta(t, 0.25, float64(first)/4000, 0.03)
}

func TestBurstsAreInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := GilbertElliott{
			Good:  time.Duration(rapid.Int64Range(1, 1e9).Draw(t, "good")),
			Burst: time.Duration(rapid.Int64Range(1, 1e9).Draw(t, "burst")),
		}
		length := time.Duration(rapid.Int64Range(0, 1e6).Draw(t, "length"))
		at := time.Duration(0)
		for _, b := range g.Bursts(seeded(rapid.Uint64().Draw(t, "seed")), length) {
			require.True(t, b.From >= at && b.From < length && b.To >= b.From)
			at = b.To
		}
	})
}

func TestProxyAt(t *testing.T) {
	p := BurstyProxy(good, bad, []Span{{0, 2}, {5, 7}})
	p.Bans = map[int][]Span{3: {{8, 9}, {11, 12}}}
	for at, loss := range map[time.Duration]float64{0: 1, 1: 1, 2: 0, 4: 0, 5: 1, 6: 1, 7: 0, 8: 0, 100: 0} {
		require.Equal(t, loss, p.At(0, at).Loss(), "at %d", at)
	}
	for at, loss := range map[time.Duration]float64{7: 0, 8: 1, 9: 0, 10: 0, 11: 1, 12: 0} {
		require.Equal(t, loss, p.At(3, at).Loss(), "target 3 at %d", at)
	}
	s := SwitchingProxy(good, State{Hangs: true}, 5)
	require.Zero(t, s.At(0, 4).Loss())
	require.Equal(t, 1.0, s.At(0, 5).Loss())
	require.Equal(t, 1.0, State{Refuses: true}.Loss())
}

// The proxies of one vendor fail together. The proxies of different vendors fail independently.
func TestCorrelated(t *testing.T) {
	g := GilbertElliott{Good: 4 * time.Second, Burst: time.Second}
	pool := g.Correlated(seeded(1), 8, 2, good, bad, time.Hour)
	same, together := 0, 0
	for at := time.Duration(0); at < time.Hour; at += time.Second {
		require.Equal(t, pool[0].At(0, at), pool[6].At(0, at))
		if pool[0].At(0, at).Loss() == 1 {
			together++
			if pool[1].At(0, at).Loss() == 1 {
				same++
			}
		}
	}
	require.InDelta(t, 0.2, float64(same)/float64(together), 0.06, "independent of the other vendor")
}

// A ban applies to one proxy at one target.
func TestBanned(t *testing.T) {
	g := GilbertElliott{Good: 9 * time.Second, Burst: time.Second}
	pool := g.Banned(seeded(1), 3, 4, good, time.Hour)
	banned, both := 0, 0
	for at := time.Duration(0); at < time.Hour; at += 100 * time.Millisecond {
		if pool[1].At(2, at).Loss() == 1 {
			banned++
			if pool[1].At(3, at).Loss() == 1 {
				both++
			}
		}
	}
	require.InDelta(t, 0.1, float64(banned)/36000, 0.03)
	require.InDelta(t, 0.1, float64(both)/float64(banned), 0.06)
}

func TestTheSameSeedGivesTheSameTrace(t *testing.T) {
	g := GilbertElliott{Good: time.Second, Burst: time.Second}
	require.Equal(t, g.Independent(seeded(5), 4, good, bad, time.Minute),
		g.Independent(seeded(5), 4, good, bad, time.Minute))
	require.NotEqual(t, g.Independent(seeded(5), 4, good, bad, time.Minute),
		g.Independent(seeded(6), 4, good, bad, time.Minute))
}

// A ban changes a proxy's state for its target only.
func TestFailing(t *testing.T) {
	bad := SwitchingProxy(State{}, State{Refuses: true}, 5*time.Second)
	banned := SteadyProxy(State{})
	banned.Bans = map[int][]Span{1: {{2 * time.Second, 9 * time.Second}}}
	pool := Pool{bad, banned, SteadyProxy(State{Fails: 0.5})}
	for _, c := range []struct {
		target      int
		at          time.Duration
		n           int
		sinceChange time.Duration
	}{
		{0, 4 * time.Second, 0, 4 * time.Second},
		{0, 6 * time.Second, 1, time.Second},
		{1, 4 * time.Second, 1, 2 * time.Second},
		{1, 6 * time.Second, 2, time.Second},
		{1, 10 * time.Second, 1, time.Second},
	} {
		n, since := pool.CountFailing(c.target, c.at)
		require.Equal(t, c.n, n)
		require.Equal(t, c.sinceChange, since)
	}
}

func TestHabits(t *testing.T) {
	const s = time.Second
	steady := SteadyProxy(State{Fails: 0.3})
	mean, memory := steady.Habits(100 * s)
	require.Equal(t, 0.3, mean)
	require.True(t, math.IsInf(memory, 1))

	spans := []Span{{10 * s, 20 * s}, {50 * s, 60 * s}, {200 * s, 300 * s}}
	bursty := BurstyProxy(State{}, State{Refuses: true}, spans)
	mean, memory = bursty.Habits(100 * s)
	require.InDelta(t, 0.2, mean, 1e-9)
	require.InDelta(t, 8, memory, 1e-9) // 1 / (1/10 + 1/40)

	banned := steady
	banned.Bans = map[int][]Span{0: spans, 1: nil}
	mean, _ = banned.Habits(100 * s)
	require.InDelta(t, 0.1, mean, 1e-9)
}

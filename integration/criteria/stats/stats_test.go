package stats

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestWilson(t *testing.T) {
	for _, c := range []struct {
		k, n      int
		low, high float64
	}{
		{0, 10, 0, 0.27753},
		{10, 10, 0.72247, 1},
		{81, 263, 0.25527, 0.36621}, // Newcombe (1998), table I
		{15, 148, 0.06237, 0.16060},
		{1, 29, 0.00611, 0.17176},
	} {
		i := Wilson(c.k, c.n)
		require.InDelta(t, c.low, i.Low, 2e-4, "%d of %d", c.k, c.n)
		require.InDelta(t, c.high, i.High, 2e-4, "%d of %d", c.k, c.n)
		require.InDelta(t, float64(c.k)/float64(c.n), i.Value, 1e-12)
	}
	none := Wilson(0, 0)
	require.True(t, math.IsNaN(none.Value))
	require.Equal(t, 1.0, none.High)
}

// The interval covers the true share in about 95 % of samples.
func TestWilsonCovers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, p := range []float64{0.02, 0.3, 0.95} {
		covered := 0
		for range 2000 {
			i := Wilson(int(binomial(rng, 200, p)), 200)
			if i.Low <= p && p <= i.High {
				covered++
			}
		}
		require.InDelta(t, 0.95, float64(covered)/2000, 0.03, "p = %v", p)
	}
}

func TestBinomial(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	for _, c := range []struct{ n, p float64 }{{100, 0}, {100, 1}, {1000, 0.01}, {1000, 0.4}, {1000, 0.9}} {
		sum := 0.0
		for range 2000 {
			k := binomial(rng, c.n, c.p)
			require.True(t, k >= 0 && k <= c.n)
			sum += k
		}
		require.InDelta(t, c.n*c.p, sum/2000, 4*math.Sqrt(c.n*c.p*(1-c.p)/2000)+1e-9, "%v", c)
	}
}

func TestQuantile(t *testing.T) {
	var sample []float64
	for i := 1000; i >= 1; i-- {
		sample = append(sample, float64(i))
	}
	i := Quantile(sample, 0.95)
	require.Equal(t, 950.0, i.Value)
	require.InDelta(t, 936, i.Low, 2)
	require.InDelta(t, 965, i.High, 2)
	require.Equal(t, 500.0, Median(sample))
	require.True(t, math.IsNaN(Quantile(nil, 0.5).Value))
	require.Equal(t, Interval{3, 3, 3}, Quantile([]float64{3}, 0.99))
}

func TestQuantileIsWithinItsInterval(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sample := rapid.SliceOfN(rapid.Float64Range(0, 1e6), 1, 200).Draw(t, "sample")
		i := Quantile(sample, rapid.Float64Range(0, 1).Draw(t, "q"))
		require.LessOrEqual(t, i.Low, i.Value)
		require.LessOrEqual(t, i.Value, i.High)
	})
}

func TestGap(t *testing.T) {
	var base, ours, best []bool
	for i := range 1000 {
		base, ours, best = append(base, i < 500), append(ours, i < 890), append(best, i < 900)
	}
	i := Gap(base, ours, best, 1)
	require.InDelta(t, 390.0/400, i.Value, 1e-12)
	require.Less(t, i.Low, i.Value)
	require.Less(t, i.Value, i.High)
	require.InDelta(t, 0.015, i.High-i.Value, 0.01)
	require.Equal(t, i, Gap(base, ours, best, 1), "the same seed gives the same interval")

	require.Equal(t, 1.0, Gap(base, base, base, 1).Value, "there is no gap")
	require.True(t, math.IsNaN(Gap(best, base, best, 1).Value), "ours is below both")
}

func TestRatio(t *testing.T) {
	i := Ratio(50, 200)
	require.Equal(t, 0.25, i.Value)
	require.InDelta(t, 0.1834, i.Low, 1e-3)
	require.InDelta(t, 0.3409, i.High, 1e-3)
	none := Ratio(0, 100)
	require.Zero(t, none.Value)
	require.Positive(t, none.High)
	require.True(t, math.IsNaN(Ratio(1, 0).Value))
}

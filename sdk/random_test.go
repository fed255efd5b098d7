package sdk_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/sdk/random"
)

func TestRandom(t *testing.T) {
	s, same, other := random.From(1, 2), random.From(1, 2), random.From(2, 1)
	const n = 100_000
	var sum, square, cube, uniform float64
	var counts [7]int
	for range n {
		x := s.Normal()
		require.Equal(t, x, same.Normal())
		require.NotEqual(t, x, other.Normal())
		sum, square, cube = sum+x, square+x*x, cube+x*x*x
		u := s.Float64()
		require.True(t, u >= 0 && u < 1)
		uniform += u
		counts[s.Intn(7)]++
		same, other = s, random.Source(other.Uint64())
	}
	require.InDelta(t, 0, sum/n, 0.02)
	require.InDelta(t, 1, square/n, 0.03)
	require.InDelta(t, 0, cube/n, 0.06)
	require.InDelta(t, 0.5, uniform/n, 0.005)
	for _, c := range counts {
		require.InDelta(t, n/7, c, 600)
	}
	// The first numbers of SplitMix64 from 0, as everybody has them.
	zero := random.Source(0)
	require.EqualValues(t, uint64(0xe220a8397b1dcdaf), zero.Uint64())
	require.EqualValues(t, uint64(0x6e789e6aa1b965f4), zero.Uint64())
}

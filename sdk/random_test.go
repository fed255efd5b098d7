package sdk_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/sdk/random"
)

func TestRandom(t *testing.T) {
	s, same, other := random.From(1, 2), random.From(1, 2), random.From(2, 1)
	const n = 100_000
	var sum, square, cube, product, uniform float64
	var counts [7]int
	for range n {
		x, y := s.Normals()
		again, _ := same.Normals()
		require.Equal(t, x, again)
		different, _ := other.Normals()
		require.NotEqual(t, x, different)
		sum, square, cube, product = sum+x+y, square+x*x+y*y, cube+x*x*x+y*y*y, product+x*y
		u := s.Float64()
		require.True(t, u >= 0 && u < 1)
		uniform += u
		counts[s.Intn(7)]++
		same, other = s, random.Source(other.Uint64())
	}
	require.InDelta(t, 0, sum/(2*n), 0.015)
	require.InDelta(t, 1, square/(2*n), 0.02)
	require.InDelta(t, 0, cube/(2*n), 0.04)
	require.InDelta(t, 0, product/n, 0.015)
	require.InDelta(t, 0.5, uniform/n, 0.005)
	for _, c := range counts {
		require.InDelta(t, n/7, c, 600)
	}
	// The first numbers of SplitMix64 with the seed 0, as published.
	zero := random.Source(0)
	require.EqualValues(t, uint64(0xe220a8397b1dcdaf), zero.Uint64())
	require.EqualValues(t, uint64(0x6e789e6aa1b965f4), zero.Uint64())
}

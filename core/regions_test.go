package core

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRegionHash(t *testing.T) {
	require.Zero(t, RegionHash(""))
	for _, name := range []string{"us", "US-East", "Île", "a_1[Z]"} {
		lower := strings.Map(func(r rune) rune {
			if r >= 'A' && r <= 'Z' {
				return r + 'a' - 'A'
			}
			return r
		}, name)
		require.Equal(t, Hash53(lower), RegionHash(name), name)
	}
	require.Equal(t, RegionHash("us"), RegionHash("uS"))
	require.NotEqual(t, RegionHash("us"), RegionHash("uk"))
	require.NotEqual(t, RegionHash("@"), RegionHash("`"), "only letters have two cases")
	require.NotEqual(t, RegionHash("["), RegionHash("{"), "only letters have two cases")
	hash := 0.0
	require.Zero(t, testing.AllocsPerRun(10, func() { hash += RegionHash("US") }))
	require.NotZero(t, hash)
}

func TestRegionsInAnyCase(t *testing.T) {
	r := NewRegions([]string{"EU", "us"})
	require.True(t, r.Has(RegionHash("eu")))
	require.True(t, r.Has(RegionHash("US")))
	require.False(t, r.Has(RegionHash("jp")))
}

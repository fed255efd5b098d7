package memory

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The heap grows by a smaller percentage if there are more proxies, and by an even smaller one while a configuration
// is loaded. Only the garbage of a long list is freed at once.
func TestGrowth(t *testing.T) {
	var got []int
	freed := 0
	g := NewGrowth("", func(percent int) int { got = append(got, percent); return 0 })
	load := func(proxies int) {
		end := g.BeginLoading(func() { freed++ })
		g.SetProxies(proxies)
		end()
	}
	load(10)
	require.Equal(t, []int{50, 99}, got)
	load(10)
	require.Equal(t, []int{50, 99}, got, "nothing changes for a short list")
	require.Zero(t, freed)
	got = nil
	load(100_000)
	require.Equal(t, []int{reloadPercent, 33}, got)
	load(100_000)
	require.Equal(t, []int{reloadPercent, 33, reloadPercent, 33}, got)
	require.Equal(t, 2, freed)
	got = nil
	g.SetProxies(5_000_000)
	require.Equal(t, []int{minPercent}, got)
	got = nil
	for _, cycles := range []uint64{3, rareCycles, 5, manyCycles, 3} {
		g.observeCycles(cycles)
	}
	require.Equal(t, []int{quietPercent, minPercent}, got)
	g.observeCycles(0)
	load(10)
	require.Equal(t, []int{quietPercent, minPercent, quietPercent, reloadPercent, 99}, got)

	NewGrowth("100", func(int) int { panic("GOGC decides") }).SetProxies(100_000)
	(&Growth{}).SetProxies(1)
}

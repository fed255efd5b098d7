//go:build !race

package evidence

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A target fails for a while and serves again, many times. The failures of that time are not
// confirmed by the successes after it.
func TestATargetThatRecoversOpensNothing(t *testing.T) {
	for _, n := range []int{2, 3, 8, 100} {
		for _, targets := range []int{1, 3} {
			p := newPool(n, rates(n)[targets%3], 5)
			p.random = n == 8
			p.target = func() int { return p.rng.IntN(targets) }
			dead := false
			p.fails = func(_, target int) fault {
				if dead && target == 0 {
					return either
				}
				return p.noise(0.01, either)
			}
			for range 100 {
				dead = !dead
				for range 1 + p.rng.IntN(40) {
					p.request()
				}
			}
			require.Zero(t, p.openings, "N=%d, %d targets", n, targets)
			require.Zero(t, p.refused)
		}
	}
}

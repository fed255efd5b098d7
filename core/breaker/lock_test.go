package breaker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// The test hangs if a closed breaker takes its lock for an admission, a success or an excluded result.
func TestTheClosedStateNeedsNoLock(t *testing.T) {
	b := New("p", Default(), time.Now, func(core.Transition) {})
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, v := range []core.Verdict{core.Success, core.Excluded} {
		require.True(t, b.Admissible())
		require.Equal(t, core.Closed, b.State())
		p, ok := b.Acquire()
		require.True(t, ok)
		p.Report(v, AlwaysEnough)
	}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		p, _ := b.Acquire()
		p.Report(core.Success, AlwaysEnough)
	}))
}

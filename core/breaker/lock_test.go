package breaker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// With the lock held by somebody else, a closed breaker still admits and takes
// a success or a result that says nothing: it would hang here otherwise.
func TestTheClosedStateNeedsNoLock(t *testing.T) {
	b := New("p", Default(), time.Now, func(core.Transition) {})
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, v := range []core.Verdict{core.Success, core.Excluded} {
		require.True(t, b.Admissible())
		require.Equal(t, core.Closed, b.State())
		p, ok := b.Acquire()
		require.True(t, ok)
		p.Report(v, Literal)
	}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		p, _ := b.Acquire()
		p.Report(core.Success, Literal)
	}))
}

package metrics

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The costs since the last call count in the minute of the call. They survive a restart.
func TestCountCost(t *testing.T) {
	now := noon
	clock := func() time.Time { return now }
	r := New(Config{Now: clock})
	for _, total := range []float64{5, 5, 5.25, 5.2500001, 6} { // 5 is of earlier processes
		r.CountCost(total)
	}
	now = now.Add(time.Minute)
	r.CountCost(6.5)
	r.CountCost(0.5) // the costs were reset
	r.CountCost(0.75)
	costs := func(r *Recorder) (list []float64) {
		for _, p := range r.Series(1, time.Minute) {
			list = append(list, p.Cost)
		}
		return list
	}
	require.Equal(t, []float64{1, 0.75}, costs(r))
	saved := saveWhole(r, true)
	restored := New(Config{Now: clock})
	restored.Restore(&saved)
	restored.EndRestore()
	require.Equal(t, []float64{1, 0.75}, costs(restored))
}

package upstream

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Attempts through a proxy that never responds are cut short again and again. Its limit does not grow with each of
// them, because its Tail does not become the Tail of the pool.
func TestASilentProxyDoesNotRaiseTheTailOfThePool(t *testing.T) {
	r := newRig(t, 2)
	for range 20 {
		r.try(r.get(0), true, 20*time.Millisecond)
	}
	r.pass(time.Second)
	silent, served := r.get(1), r.get(0).Tail()
	require.Equal(t, served, silent.Tail())
	const least = 500 * time.Millisecond
	for range 5 {
		silent.RaiseTail(TailFactor*silent.Tail(), least)
		r.pass(time.Second)
	}
	require.LessOrEqual(t, silent.Tail(), least)
	require.Greater(t, silent.Tail(), served)

	silent.AllowLatency(2 * time.Second) // a target has responded through another proxy after 2 s
	require.Equal(t, 2*time.Second, silent.Tail())
}

package evidence

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A report of other gateways makes a target suspect, unless the target serves this gateway. A success ends this state.
func TestSuspectElsewhere(t *testing.T) {
	l := NewLedger(Config{})
	served, dead := Target{Hash: 1, Name: "a:1"}, Target{Hash: 2 << 10, Name: "b:1"}
	var b Book
	l.RecordSuccess(&Attempt{Proxy: 7, Book: &b, Target: served, Ended: time.Minute})
	require.True(t, l.Succeeds(served, time.Minute+time.Second))
	require.False(t, l.Succeeds(dead, time.Minute+time.Second))
	require.True(t, l.SucceedsAnywhere(time.Minute+time.Second))
	require.False(t, l.SucceedsAnywhere(time.Minute+11*time.Second))
	require.False(t, NewLedger(Config{}).SucceedsAnywhere(time.Second))
	l.RecordClusterSuspect(served, time.Minute+time.Second)
	require.False(t, l.IsSuspect(served))
	l.RecordClusterSuspect(dead, time.Minute+time.Second)
	require.True(t, l.IsSuspect(dead))
	require.Empty(t, l.OwnSuspects(10), "not by own attempts")
	require.False(t, l.AdmitRetries(dead, false, time.Minute+time.Second))
	require.True(t, l.AdmitRetries(dead, false, time.Minute+3*time.Second))
	l.RecordSuccess(&Attempt{Proxy: 7, Book: &b, Target: dead, Ended: 2 * time.Minute})
	require.False(t, l.IsSuspect(dead))
	l.RecordClusterSuspect(served, 2*time.Minute)
	require.True(t, l.IsSuspect(served), "the success was long ago")
}

func TestOwnSuspects(t *testing.T) {
	l := NewLedger(Config{})
	at := Target{Hash: 5, Name: "c:1"}
	for i := range suspectFailures {
		l.RecordFailure(&Attempt{
			Proxy: uint64(i % 3), Book: &Book{}, Target: at, Ended: time.Duration(i) * time.Second,
			ClosedPeers: 2, PoolSize: 3,
		})
	}
	require.Equal(t, []string{"c:1"}, l.OwnSuspects(10))
	require.Empty(t, l.OwnSuspects(0))
}

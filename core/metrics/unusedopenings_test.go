package metrics

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// The openings of a breaker are counted, saved and restored, whether or not the proxy has attempts.
func TestOpeningsWithAndWithoutAttempts(t *testing.T) {
	now := noon
	clock := func() time.Time { return now }
	r := New(Config{Now: clock})
	open := func(id string) {
		r.Transition(core.Transition{ProxyID: id, To: core.Open, At: now, Reason: "threshold", Why: "why"})
	}
	opens := func(r *Recorder, id string) int { return int(r.ByProxy(24)[id].BreakerOpens) }
	open("dead")
	open("dead")
	require.Nil(t, r.findProxy("dead"))
	require.Equal(t, 2, opens(r, "dead"))
	first := saveWhole(r, false)
	require.Len(t, first.Hours["dead"], 1)
	saved := saveWhole(r, false)
	require.Empty(t, saved.Hours)

	restored := New(Config{Now: clock})
	restored.Restore(&first)
	require.Equal(t, 2, opens(restored, "dead"))
	require.Equal(t, first.Transitions, saveWhole(restored, true).Transitions)

	r.Attempt(&core.AttemptEvent{ProxyID: "dead", Started: now, Ended: now,
		Outcome: core.Outcome{Result: core.ResultSuccess}})
	require.NotNil(t, r.findProxy("dead"))
	require.Equal(t, 2, opens(r, "dead"))
	open("dead")
	second := saveWhole(r, false)
	restored = New(Config{Now: clock})
	restored.Restore(&first)
	restored.Restore(&second)
	require.Equal(t, ProxyStats{Successes: 1, BreakerOpens: 3}, restored.ByProxy(24)["dead"])

	open("flaps")
	now = now.Add(time.Hour)
	open("flaps")
	require.Equal(t, 2, opens(r, "flaps"))
	all := saveWhole(r, true)
	restored = New(Config{Now: clock})
	restored.Restore(&all)
	require.Equal(t, r.ByProxy(24), restored.ByProxy(24))

	open("gone")
	now = now.Add(23 * time.Hour)
	r.Prune(func(string) bool { return false })
	require.Equal(t, 1, opens(r, "gone"))
	now = now.Add(2 * time.Hour)
	r.Prune(func(id string) bool { return id != "gone" })
	require.NotContains(t, r.unusedOpenings.byID, "gone")
}

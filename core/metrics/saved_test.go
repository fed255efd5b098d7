package metrics

import (
	"encoding/json"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// The counters that one recorder saves, in parts or all at once, are restored in another recorder, which
// then gives the same results for every query.
func TestSavedCountersGiveTheSameResults(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := noon
		clock := func() time.Time { return now }
		r := New(Config{Now: clock, RetentionHours: 3})
		var parts []Saved
		for range rapid.IntRange(0, 40).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 1500).Draw(t, "s")) * time.Second)
			id := fmt.Sprintf("p%d", rapid.IntRange(0, 2).Draw(t, "proxy"))
			switch rapid.IntRange(0, 4).Draw(t, "event") {
			case 0:
				r.Transition(core.Transition{ProxyID: id, From: core.Closed, To: core.Open, At: now,
					Reason: "threshold", FailureCount: 5, Why: "worse"})
				r.Transition(core.Transition{ProxyID: id, From: core.Open, To: core.Closed, At: now})
			case 1:
				r.Request(&core.RequestEvent{Ended: now, Delivered: true, Attempts: 2, Status: 403, PolicyHash: "x"})
			case 2:
				parts = append(parts, saveWhole(r, false))
			case 3:
				parts = []Saved{saveWhole(r, true)}
			default:
				results := []core.Result{
					core.ResultSuccess, core.ResultFailure, core.ResultCancelled, core.ResultReplay,
				}
				result := rapid.SampledFrom(results).Draw(t, "result")
				r.Attempt(&core.AttemptEvent{ProxyID: id, Attempt: rapid.IntRange(0, 2).Draw(t, "attempt"),
					Started: now.Add(-time.Second), Ended: now, Delay: time.Second,
					Outcome: core.Outcome{Result: result}})
			}
		}
		parts = append(parts, saveWhole(r, false))
		require.True(t, func() bool { s := saveWhole(r, false); return s.Empty() }(), "nothing has changed since")

		restored := New(Config{Now: clock, RetentionHours: 3})
		for _, part := range parts {
			text, err := json.Marshal(part)
			require.NoError(t, err)
			var s Saved
			require.NoError(t, json.Unmarshal(text, &s))
			restored.Restore(&s)
		}
		restored.EndRestore()
		want, got := r.Summary(), restored.Summary()
		require.Equal(t, r.Reasons().SumAll(3*time.Hour).Counts, restored.Reasons().SumAll(3*time.Hour).Counts)
		require.Equal(t, r.Reasons().SumProxy("p1", time.Hour).Counts, restored.Reasons().SumProxy("p1",
			time.Hour).Counts)
		want.ByPolicy = map[string]PolicyCounts{} // counts since the start
		require.Equal(t, want, got)
		require.Equal(t, r.Series(3, time.Hour), restored.Series(3, time.Hour))
		require.Equal(t, r.ByProxy(3), restored.ByProxy(3))
		before, _ := r.Transitions(3)
		after, _ := restored.Transitions(3)
		require.Len(t, after, len(before))
		for i := range before {
			require.True(t, before[i].At.Equal(after[i].At))
			before[i].At, after[i].At = noon, noon
			require.Equal(t, before[i], after[i])
		}
		again := saveWhole(restored, false)
		require.Empty(t, again.Hours, "they are saved already")
		require.Empty(t, again.Transitions)
	})
}

// saveWhole returns the parts of Save as one Saved.
func saveWhole(r *Recorder, all bool) Saved {
	whole := Saved{Hours: map[string][][]int64{}}
	for part := range r.Save(all) {
		whole.Minutes = append(whole.Minutes, part.Minutes...)
		maps.Copy(whole.Hours, part.Hours)
		whole.Transitions = append(whole.Transitions, part.Transitions...)
		if part.Reasons != nil {
			whole.Reasons = part.Reasons
		}
	}
	return whole
}

// The counters of a long list of dead proxies are saved in small parts, and no part is empty.
func TestManyCountersAreSavedInParts(t *testing.T) {
	const proxies = 4321
	clock := func() time.Time { return noon }
	r, restored := New(Config{Now: clock}), New(Config{Now: clock})
	for i := range proxies {
		id := fmt.Sprintf("p%d", i)
		r.Transition(core.Transition{ProxyID: id, From: core.Closed, To: core.Open, At: noon, Reason: "threshold"})
		if i%2 == 0 {
			r.Attempt(&core.AttemptEvent{ProxyID: id, Started: noon, Ended: noon})
		}
	}
	for _, all := range []bool{false, true} {
		parts := 0
		for part := range r.Save(all) {
			parts++
			require.False(t, part.Empty())
			require.LessOrEqual(t, len(part.Hours), partLength)
			require.LessOrEqual(t, len(part.Transitions), partLength)
			if all {
				restored.Restore(part)
			}
		}
		require.Equal(t, 4+5, parts, "the transitions begin in the part with the last hours")
	}
	for range r.Save(false) {
		t.Fatal("nothing has changed since")
	}
	require.Equal(t, r.ByProxy(24), restored.ByProxy(24))
	before, _ := r.Transitions(24)
	after, _ := restored.Transitions(24)
	require.Equal(t, before, after)
}

func TestARestoredBreakerStartsClosed(t *testing.T) {
	now := noon
	clock := func() time.Time { return now }
	r := New(Config{Now: clock})
	r.Transition(core.Transition{ProxyID: "a", From: core.Closed, To: core.Open, At: now, Reason: "threshold"})
	saved := saveWhole(r, true)
	now = now.Add(time.Minute)
	r = New(Config{Now: clock})
	r.Restore(&saved)
	r.EndRestore()
	list, _ := r.Transitions(1)
	require.Len(t, list, 2)
	want := core.Transition{ProxyID: "a", From: core.Open, To: core.Closed, At: now, Reason: "restart"}
	require.Equal(t, want, list[1])
	require.EqualValues(t, 2, r.Summary().Transitions)
}

func TestInvalidRowsAreSkipped(t *testing.T) {
	r := New(Config{Now: func() time.Time { return noon }})
	hour := noon.Unix() / 3600
	r.Restore(&Saved{
		Minutes:     [][]int64{{}, {1}, {noon.Unix() / 60, 1}, {noon.Unix() * 60}, {-1}},
		Hours:       map[string][][]int64{"a": {{}, {hour}, {-5, 1, 1, 1, 1, 1, 1}, {hour + 1, 1, 1, 1, 1, 1, 1}}},
		Transitions: []SavedTransition{{At: noon.Add(time.Hour)}, {At: noon.Add(-time.Minute), To: 9}},
	})
	r.EndRestore()
	require.Empty(t, r.ByProxy(24))
	require.Empty(t, r.Series(24, time.Hour))
	list, _ := r.Transitions(24)
	require.Empty(t, list)
}

package access

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A day's usage that was saved and restored counts for the limits of that day, and not for those of the next
// day.
func TestUsageIsRestored(t *testing.T) {
	noon := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	list := []User{{Name: "ann", Limits: Limits{RequestsPerDay: 2}}, {Name: "bob", Limits: Limits{BytesPerDay: 10}},
		{Name: "eve"}}
	begin := func(u *Users, i int, now time.Time) Denial {
		d, _ := u.all[i].BeginRequest("a.test", 80, now)
		return d
	}
	before := NewUsers(list, nil)
	require.Empty(t, before.SavedUsages())
	require.Equal(t, Granted, begin(before, 0, noon))
	require.Equal(t, Granted, begin(before, 0, noon))
	require.Equal(t, Granted, begin(before, 1, noon))
	before.all[1].Usage.AddBytes(10)
	text, err := json.Marshal(before.SavedUsages())
	require.NoError(t, err)

	var used []SavedUsage
	require.NoError(t, json.Unmarshal(text, &used))
	day := noon.Unix() / 86_400
	require.Equal(t, []SavedUsage{{"ann", day, 2, 0}, {"bob", day, 1, 10}}, used)
	after := NewUsers(list, nil)
	after.Restore(append(used,
		SavedUsage{"nobody", day, 1, 1}, SavedUsage{"eve", day, -1, 1}, SavedUsage{"eve", 0, 1, 1}))
	require.Equal(t, used, after.SavedUsages())
	require.Equal(t, RequestsSpent, begin(after, 0, noon.Add(time.Hour)))
	require.Equal(t, BytesSpent, begin(after, 1, noon))
	require.Equal(t, Granted, begin(after, 2, noon))
	require.Zero(t, after.UsageToday(noon)[0].InFlight, "requests in flight have ended with the process")
	require.Equal(t, Granted, begin(after, 0, noon.Add(12*time.Hour)))
	require.Equal(t, Granted, begin(after, 1, noon.Add(12*time.Hour)))
}

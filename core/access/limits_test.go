package access

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func account(l Limits) *Account {
	return NewUsers([]User{{Name: "ann", Limits: l}}, nil).all[0]
}

func TestTargets(t *testing.T) {
	a := account(Limits{Allow: []string{"*.example.com:443", "10.0.0.0/8"}, Deny: []string{"bad.example.com", ":25"}})
	for _, x := range []struct {
		host string
		port uint16
		want Denial
		rule string
	}{
		{"www.example.com", 443, Granted, ""}, {"www.example.com", 80, TargetNotAllowed, ""},
		{"bad.example.com", 443, TargetDenied, "bad.example.com"}, {"10.1.2.3", 80, Granted, ""},
		{"10.1.2.3", 25, TargetDenied, ":25"}, {"0x0a010203", 80, Granted, ""}, {"11.1.2.3", 80, TargetNotAllowed, ""},
	} {
		denial, rule := a.BeginRequest(x.host, x.port, time.Now())
		require.Equal(t, x.want, denial, x)
		require.Equal(t, x.rule, rule, x)
	}
	require.Error(t, CheckRules([]string{"a b"}))
}

func TestADayEnds(t *testing.T) {
	a := account(Limits{RequestsPerDay: 2, BytesPerDay: 100})
	begin := func(now time.Time) Denial { d, _ := a.BeginRequest("a.test", 80, now); return d }
	late := time.Date(2026, 11, 28, 23, 59, 59, 0, time.UTC)
	require.Equal(t, time.Second, a.Usage.UntilNextDay(late))
	require.Equal(t, Granted, begin(late))
	require.Equal(t, Granted, begin(late))
	require.Equal(t, RequestsSpent, begin(late))
	late = late.Add(time.Second)
	require.Equal(t, 24*time.Hour, a.Usage.UntilNextDay(late))
	require.Equal(t, Granted, begin(late))
	a.Usage.AddBytes(99)
	require.False(t, a.BytesSpent())
	a.Usage.AddBytes(1)
	require.True(t, a.BytesSpent())
	require.Equal(t, BytesSpent, begin(late))
	require.Equal(t, Granted, begin(late.Add(24*time.Hour)))
}

func TestUsageOutlivesAReload(t *testing.T) {
	before := NewUsers([]User{{Name: "ann"}, {Name: "bob"}}, nil)
	now := time.Now()
	before.all[0].BeginRequest("a.test", 80, now)
	before.all[0].Usage.AddBytes(7)
	after := NewUsers([]User{{Name: "eve"}, {Name: "ann", Limits: Limits{MaxInFlight: 1}}}, before)
	require.Equal(t, []DailyUsage{
		{Name: "eve"}, {Name: "ann", Limits: Limits{MaxInFlight: 1}, InFlight: 1, Requests: 1, Bytes: 7},
	}, after.UsageToday(now))
	before.all[0].EndRequest()
	require.Zero(t, after.UsageToday(now)[1].InFlight)
	require.Zero(t, after.UsageToday(now.Add(24 * time.Hour))[1].Requests)
}

// For any order of requests, no limit is exceeded. The number of requests in flight is the number of granted requests
// that have not ended.
func TestLimitsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := Limits{
			MaxInFlight:    rapid.IntRange(0, 3).Draw(t, "in flight"),
			RequestsPerDay: rapid.Int64Range(0, 5).Draw(t, "requests"),
		}
		a := account(limits)
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		inFlight, today := int64(0), int64(0)
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				require.Equal(t, inFlight, a.Usage.inFlight.Load())
				require.True(t, limits.MaxInFlight == 0 || inFlight <= int64(limits.MaxInFlight))
				require.True(t, limits.RequestsPerDay == 0 || today <= limits.RequestsPerDay)
			},
			"begin": func(t *rapid.T) {
				if d, _ := a.BeginRequest("a.test", 80, now); d == Granted {
					inFlight++
					today++
				}
			},
			"end": func(t *rapid.T) {
				if inFlight > 0 {
					a.EndRequest()
					inFlight--
				}
			},
			"next day": func(t *rapid.T) { now, today = now.Add(24*time.Hour), 0 },
		})
	})
}

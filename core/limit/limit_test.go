package limit_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// In any sequence of attempts, ends, bytes and waits, a usage admits the same attempts as a simple model.
func TestUsageAdmitsAsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := limit.Limit{
			MaxInFlight: rapid.IntRange(0, 3).Draw(t, "max_in_flight"),
			Rate:        rapid.SampledFrom([]float64{0, 0.2, 1, 2, 7}).Draw(t, "rate"),
			MinInterval: rapid.SampledFrom([]time.Duration{0, 300 * time.Millisecond, 2 * time.Second}).Draw(t, "min"),
			BytesPerDay: rapid.SampledFrom([]int64{0, 1000}).Draw(t, "bytes"),
		}
		meter, now := &traffic.Meter{}, noon
		u := limit.NewUsage(l, meter, nil, now)
		m := model{limit: l, tokens: math.Max(1, math.Floor(l.Rate)), refilled: now, day: now.Day()}
		var held []limit.Reservation
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			m.advance(now)
			steps := []string{"attempt", "attempt", "end", "bytes", "wait", "until", "night"}
			switch rapid.SampledFrom(steps).Draw(t, "step") {
			case "attempt":
				_, admits := u.Check(now)
				require.Equal(t, m.admits(now), admits, "Check at %v: %+v", now, m)
				h, ok := limit.Reserve(u, nil, now)
				require.Equal(t, admits, ok, "Take and Check differ")
				if !ok {
					break
				}
				if rapid.Bool().Draw(t, "cancel") {
					h.Cancel(now)
					break
				}
				held = append(held, h)
				m.begin(now)
			case "end":
				if n := len(held); n > 0 {
					i := rapid.IntRange(0, n-1).Draw(t, "which")
					held[i].EndAttempt()
					held[i].EndAttempt() // has no effect
					held = slices.Delete(held, i, i+1)
					m.inFlight--
				}
			case "bytes":
				n := rapid.Int64Range(0, 600).Draw(t, "n")
				meter.Add(traffic.Total{Up: n / 3, Down: n - n/3})
				m.bytes += n
			case "wait":
				now = now.Add(time.Duration(rapid.Int64Range(0, 3000).Draw(t, "ms")) * time.Millisecond)
			case "until": // the attempt is admitted at State.Until, unless an attempt in flight must end
				s, admits := u.Check(now)
				if admits || s.Until.IsZero() || l.MaxInFlight > 0 && m.inFlight >= l.MaxInFlight {
					break
				}
				require.Equal(t, l.BytesPerDay > 0 && m.bytes >= l.BytesPerDay, s.BytesSpent)
				require.False(t, m.admitsAfter(s.Until.Add(-time.Millisecond)), "Until is too late")
				now = s.Until
				_, admits = u.Check(now)
				require.True(t, admits, "not admitted at Until")
			case "night":
				now = time.Date(now.Year(), now.Month(), now.Day()+1, 0, 0, 0, 0, time.UTC)
				u.BytesToday(now)
			}
		}
		m.advance(now)
		require.Equal(t, m.bytes, u.BytesToday(now))
	})
}

// model is a Usage that is easy to check.
type model struct {
	limit    limit.Limit
	tokens   float64
	refilled time.Time
	last     time.Time // beginning of the last attempt; zero if there was none
	inFlight int
	bytes    int64
	day      int
}

func (m *model) advance(now time.Time) {
	m.tokens = math.Min(m.tokens+m.limit.Rate*now.Sub(m.refilled).Seconds(), math.Max(1, math.Floor(m.limit.Rate)))
	m.refilled = now
	if now.Day() != m.day {
		m.day, m.bytes = now.Day(), 0
	}
}

func (m *model) admits(now time.Time) bool {
	return (m.limit.MaxInFlight == 0 || m.inFlight < m.limit.MaxInFlight) &&
		(m.limit.Rate == 0 || m.tokens >= 1-1e-9) &&
		(m.last.IsZero() || now.Sub(m.last) >= m.limit.MinInterval) &&
		(m.limit.BytesPerDay == 0 || m.bytes < m.limit.BytesPerDay)
}

// admitsAfter is like admits, at a later time.
func (m model) admitsAfter(now time.Time) bool {
	m.advance(now)
	return m.admits(now)
}

func (m *model) begin(now time.Time) {
	m.tokens--
	m.last = now
	m.inFlight++
}

func TestInvalidLimits(t *testing.T) {
	for field, l := range map[string]limit.Limit{
		"max_in_flight": {MaxInFlight: -1},
		"rate":          {Rate: math.NaN()},
		"min_interval":  {MinInterval: 25 * time.Hour},
		"bytes_per_day": {BytesPerDay: -1},
	} {
		l.Check(func(found, msg string) {
			require.Equal(t, field, found)
			require.Contains(t, msg, field)
			field = ""
		})
		require.Empty(t, field, "there was an error")
	}
	fields := func(l limit.Limit) (list []string) {
		l.Check(func(field, _ string) { list = append(list, field) })
		return list
	}
	require.Equal(t, []string{"rate"}, fields(limit.Limit{Rate: 1e-9}))
	require.Empty(t, fields(limit.Limit{MaxInFlight: 1, Rate: 0.5, MinInterval: time.Second, BytesPerDay: 1}))
	require.Equal(t, []string{"max_in_flight", "rate", "min_interval", "bytes_per_day"},
		fields(limit.Limit{MaxInFlight: -1, Rate: -1, MinInterval: -1, BytesPerDay: -1}))
}

func TestAChangedLimitKeepsTheUsage(t *testing.T) {
	u := limit.NewUsage(limit.Limit{MinInterval: time.Second}, &traffic.Meter{}, nil, noon)
	_, ok := limit.Reserve(u, nil, noon)
	require.True(t, ok)
	u.SetLimit(limit.Limit{MinInterval: 10 * time.Second}, noon)
	s, ok := u.Check(noon.Add(time.Second))
	require.False(t, ok)
	require.WithinDuration(t, noon.Add(10*time.Second), s.Until, 10*time.Millisecond)
	u.SetLimit(limit.Limit{}, noon)
	_, ok = u.Check(noon)
	require.True(t, ok, "no limit")
}

// Only the pair is limited; other hosts and other proxies are not.
func TestPairs(t *testing.T) {
	table := limit.NewTable(2)
	require.False(t, table.HasLimit("a.shop.example"))
	table.SetEntries([]limit.Entry{
		{Limit: limit.Limit{Rate: 5}}, // of each proxy: not a matter of pairs
		{Host: "*.shop.example", Limit: limit.Limit{MinInterval: time.Minute}},
		{Host: "*", Limit: limit.Limit{MaxInFlight: 9}},
	}, noon)
	require.True(t, table.HasLimit("A.shop.example."))
	take := func(proxy uint64, host string) bool {
		p := table.PairsOf(host, hash(host))
		_, ok := limit.Reserve(nil, p.BeginAttempt(proxy, "p", noon), noon)
		return ok
	}
	require.True(t, take(1, "a.shop.example"))
	require.False(t, take(1, "a.shop.example"))
	require.True(t, take(2, "a.shop.example"))
	require.True(t, take(1, "b.shop.example"), "each host has a limit of its own")
	require.True(t, take(1, "a.shop.example"), "the table holds two pairs; this one was forgotten")

	table.SetEntries(nil, noon)
	pairs := table.PairsOf("a.shop.example", hash("a.shop.example"))
	require.False(t, pairs.HaveLimit())
	require.Nil(t, pairs.BeginAttempt(1, "p", noon))
}

func TestBytesOfPairsBeginByTheStoresClock(t *testing.T) {
	table := limit.NewTable(10)
	table.SetEntries([]limit.Entry{{Host: "shop.example", Limit: limit.Limit{BytesPerDay: 100}}}, noon)
	p := table.PairsOf("shop.example", hash("shop.example"))
	h, _ := limit.Reserve(nil, p.BeginAttempt(1, "p", noon), noon)
	h.Meter().Add(traffic.Total{Down: 100})
	u := p.Usage(1)
	table.SetStoreTime(noon, noon.Add(-7*time.Minute))
	midnight := noon.Add(12 * time.Hour)
	state, ok := u.Check(midnight)
	require.False(t, ok, "the store's clock shows 23:53")
	require.Equal(t, limit.State{Until: midnight.Add(7 * time.Minute), BytesSpent: true}, state)
	require.Len(t, table.SavedUsages(midnight), 1)
	_, ok = u.Check(midnight.Add(7 * time.Minute))
	require.True(t, ok)
}

func TestBytesOfPairsSurviveARestart(t *testing.T) {
	entries := []limit.Entry{{Host: "shop.example", Limit: limit.Limit{BytesPerDay: 100}}}
	before := limit.NewTable(10)
	before.SetEntries(entries, noon)
	p := before.PairsOf("shop.example", hash("shop.example"))
	h, ok := limit.Reserve(nil, p.BeginAttempt(1, "p", noon), noon)
	require.True(t, ok)
	h.Meter().Add(traffic.Total{Down: 99})
	used := before.SavedUsages(noon)
	require.Equal(t, []limit.SavedUsage{{Proxy: "p", Host: "shop.example", Day: noon.Unix() / 86400, Bytes: 99}}, used)

	after := limit.NewTable(10)
	after.SetEntries(entries, noon)
	after.Restore(append(used, limit.SavedUsage{Proxy: "q", Host: "shop.example", Day: 1, Bytes: 5}), noon)
	require.Equal(t, used, after.SavedUsages(noon), "saved again although the pair had no attempt")
	p = after.PairsOf("shop.example", hash("shop.example"))
	u := p.BeginAttempt(1, "p", noon)
	require.EqualValues(t, 99, u.BytesToday(noon))
	require.Equal(t, used, after.SavedUsages(noon))
	require.Zero(t, u.BytesToday(noon.Add(12*time.Hour)), "a new day")
}

func TestEntriesAreChecked(t *testing.T) {
	for _, c := range []struct {
		entry limit.Entry
		field string
	}{
		{limit.Entry{}, ""},
		{limit.Entry{Host: "http://x", Limit: limit.Limit{Rate: 1}}, "host"},
		{limit.Entry{Host: "x", Limit: limit.Limit{Rate: -1}}, "rate"},
	} {
		wrong := limit.CheckEntries([]limit.Entry{{Limit: limit.Limit{Rate: 1}}, c.entry})
		require.Len(t, wrong, 1)
		require.Equal(t, 1, wrong[0].Index)
		require.Equal(t, c.field, wrong[0].Field)
	}
	require.Empty(t, limit.CheckEntries([]limit.Entry{{Host: "*.x", Limit: limit.Limit{Rate: 1}}}))
	require.Len(t, limit.CheckEntries([]limit.Entry{{}, {Host: "http://x", Limit: limit.Limit{Rate: -1}}}), 3)
	require.Len(t, limit.CheckEntries(make([]limit.Entry, limit.MaxEntries+1)), 1)
}

func TestDefaultTakesTheFirstOfEachKind(t *testing.T) {
	require.Equal(t, limit.Limit{Rate: 2, BytesPerDay: 7, MaxInFlight: 3}, limit.DefaultLimit([]limit.Entry{
		{Host: "x", Limit: limit.Limit{MaxInFlight: 1}},
		{Limit: limit.Limit{Rate: 2}},
		{Limit: limit.Limit{Rate: 9, BytesPerDay: 7, MaxInFlight: 3}},
	}))
}

func hash(s string) uint64 { return uint64(core.Hash53(s)) }

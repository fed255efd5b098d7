package minutes

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// clock is a time that tests set.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func newStore(hours int) (*Store, *clock) {
	c := &clock{noon}
	return NewStore(time.Duration(hours)*time.Hour, c.Now), c
}

// attempt returns an attempt that ended at a time.
func attempt(at time.Time, proxy, host string, k Key, latency time.Duration) *core.AttemptEvent {
	return &core.AttemptEvent{ProxyID: proxy, Host: host, Started: at.Add(-latency), Ended: at,
		Outcome: core.Outcome{Cause: k.Cause(), Status: k.Status(), Latency: latency}}
}

var (
	served  = KeyOf(1, 200)
	refused = KeyOf(1, 403)
	broken  = KeyOf(9, 0)
)

func counts(s Sum) map[Key]uint64 {
	out := map[Key]uint64{}
	for k, t := range s.Counts {
		out[k] = t.N
	}
	return out
}

func TestCountsByProxyTargetAndInAll(t *testing.T) {
	s, c := newStore(24)
	at := func(d time.Duration) time.Time { c.now = noon.Add(d); return c.now }
	s.CountAttempt(attempt(at(0), "a", "x.test", served, 20*time.Millisecond), &SeriesRef{})
	s.CountAttempt(attempt(at(time.Minute), "a", "x.test", refused, 20*time.Millisecond), &SeriesRef{})
	s.CountAttempt(attempt(at(5*time.Minute), "b", "x.test", served, 20*time.Millisecond), &SeriesRef{})
	s.CountAttempt(attempt(at(5*time.Minute), "b", "y.test", broken, time.Second), &SeriesRef{})
	s.CountBytes("b", 5000)
	s.CountTargetBytes("y.test", 5000, c.now)
	for name, x := range map[string]struct {
		sum  Sum
		want map[Key]uint64
	}{
		"all":             {s.SumAll(time.Hour), map[Key]uint64{served: 2, refused: 1, broken: 1}},
		"the last minute": {s.SumAll(time.Minute), map[Key]uint64{served: 1, broken: 1}},
		"a":               {s.SumProxy("a", time.Hour), map[Key]uint64{served: 1, refused: 1}},
		"x.test":          {s.SumTarget("x.test", time.Hour), map[Key]uint64{served: 2, refused: 1}},
		"unknown":         {s.SumProxy("c", time.Hour), map[Key]uint64{}},
	} {
		require.Equal(t, x.want, counts(x.sum), name)
	}
	require.Equal(t, noon.Add(time.Minute), s.SumProxy("a", time.Hour).Counts[refused].LastMinute)
	require.EqualValues(t, 5000, s.SumTarget("y.test", time.Hour).Bytes)
	var steps []string
	for _, p := range s.History(time.Hour, 5*time.Minute) {
		steps = append(steps, fmt.Sprintf("%s %d", p.Start.Format("15:04"), p.Attempts))
	}
	require.Equal(t, []string{"12:00 2", "12:05 2"}, steps)
	at(25 * time.Hour)
	require.Empty(t, s.SumAll(25*time.Hour).Counts, "the retention has passed")
	s.Prune(func(id string) bool { return id == "a" })
	require.NotNil(t, s.proxies.find("a"))
	require.Nil(t, s.proxies.find("b"))
	require.Nil(t, s.targets.find("x.test"))
}

func TestARefFollowsItsProxyAfterItsSeriesWasDropped(t *testing.T) {
	s, c := newStore(1)
	proxy := &SeriesRef{}
	count := func() { s.CountAttempt(attempt(c.now, "a", "", served, time.Millisecond), proxy) }
	count()
	count()
	require.Equal(t, map[Key]uint64{served: 2}, counts(s.SumProxy("a", time.Hour)))
	c.now = noon.Add(3 * time.Hour)
	s.Prune(func(string) bool { return false })
	require.Nil(t, s.proxies.find("a"))
	count()
	require.Equal(t, map[Key]uint64{served: 1}, counts(s.SumProxy("a", time.Hour)))
}

func TestLatencies(t *testing.T) {
	for _, d := range []time.Duration{
		0, time.Millisecond, 7 * time.Millisecond, 99 * time.Millisecond, time.Second, 29 * time.Second,
	} {
		got := latencyOf(bucketOf(d))
		if d >= 1<<firstPower {
			require.InEpsilon(t, d.Seconds(), got.Seconds(), 0.13, d)
		}
	}
	require.Equal(t, numBuckets-1, bucketOf(time.Hour))
	random := rand.New(rand.NewPCG(1, 2))
	s, c := newStore(24)
	var all []float64
	for range 60 {
		c.now = c.now.Add(time.Minute)
		for range 500 {
			latency := math.Exp(random.NormFloat64()*0.6) * 0.2 // log-normal, as latencies usually are
			all = append(all, latency)
			s.CountAttempt(attempt(c.now, "a", "", served, time.Duration(latency*1e9)), &SeriesRef{})
		}
	}
	slices.Sort(all)
	l := s.SumProxy("a", 2*time.Hour).Latencies
	require.InEpsilon(t, all[len(all)/2], l.Quantile(0.5).Seconds(), 0.2)
	require.InEpsilon(t, all[len(all)*95/100], l.Quantile(0.95).Seconds(), 0.2)
	require.Zero(t, (&Latencies{}).Quantile(0.5))
}

// model of one series: the counts of each minute.
type model map[int64]map[Key]uint64

func (m model) within(first, last int64) map[Key]uint64 {
	out := map[Key]uint64{}
	for at, row := range m {
		if at >= first && at <= last {
			for k, n := range row {
				out[k] += n
			}
		}
	}
	return out
}

// The counts equal the counts of a simple model in any sequence of attempts, also with restarts.
func TestCountsAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, c := newStore(24)
		want, journal, bytes := model{}, []Saved{}, uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"attempt": func(t *rapid.T) {
				k := KeyOf(core.Cause(rapid.IntRange(0, 6).Draw(t, "cause")), rapid.SampledFrom([]int{0, 200, 404,
					503}).Draw(t, "status"))
				n := rapid.IntRange(1, 300).Draw(t, "n")
				late := time.Duration(rapid.IntRange(0, 1).Draw(t, "late")) * time.Second
				for range n {
					s.CountAttempt(attempt(c.now.Add(-late), "a", "x.test", k, time.Duration(n)*time.Millisecond),
						&SeriesRef{})
				}
				at := s.proxies.find("a").minute.Load() // a late attempt may count in the current minute
				if want[at] == nil {
					want[at] = map[Key]uint64{}
				}
				want[at][k] += uint64(n)
			},
			"bytes": func(t *rapid.T) {
				n := rapid.Uint64Range(0, 1<<30).Draw(t, "bytes")
				s.CountBytes("a", n)
				s.CountTargetBytes("x.test", n, c.now)
				bytes += n
			},
			"wait": func(t *rapid.T) {
				c.now = c.now.Add(time.Duration(rapid.IntRange(1, 400).Draw(t, "s")) * time.Second)
			},
			"save":    func(t *rapid.T) { journal = append(journal, s.Save(false)) },
			"compact": func(t *rapid.T) { journal = []Saved{s.Save(true)} },
			"restart": func(t *rapid.T) {
				journal = append(journal, s.Save(false))
				s = NewStore(24*time.Hour, c.Now)
				for _, saved := range journal {
					s.Restore(saved)
				}
				s.EndRestore()
			},
			"": func(t *rapid.T) {
				last := s.minuteOf(c.now)
				for _, window := range []time.Duration{0, 5 * time.Minute, 24 * time.Hour} {
					sum := s.SumProxy("a", window)
					require.Equal(t, want.within(s.minuteOf(c.now.Add(-window)), last), counts(sum), window)
					require.Equal(t, counts(sum), counts(s.SumAll(window)))
					require.Equal(t, counts(sum), counts(s.SumTarget("x.test", window)))
					causes := map[Key]uint64{}
					for _, count := range s.ProxyCounts("a", c.now.Add(-window)) {
						causes[count.Key] = count.N
					}
					require.Equal(t, counts(sum), causes)
				}
				if c.now.Sub(noon) < 24*time.Hour {
					require.InDelta(t, bytes, s.SumProxy("a", 24*time.Hour).Bytes, 1<<15,
						"to 1 KiB for each restart and block")
				}
			},
		})
	})
}

func TestAttemptsAtTheSameTime(t *testing.T) {
	s, c := newStore(24)
	const each = 2000
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range each {
				at := noon.Add(time.Duration(n) * time.Second) // all workers begin a new minute at the same time
				s.CountAttempt(attempt(at, "a", "x.test", KeyOf(core.Cause(i), 200+n%30), time.Millisecond),
					&SeriesRef{})
			}
		})
	}
	all.Wait()
	c.now = noon.Add(time.Hour)
	for _, sum := range []Sum{s.SumAll(2 * time.Hour), s.SumProxy("a", 2*time.Hour), s.SumTarget("x.test",
		2*time.Hour)} {
		require.EqualValues(t, 8*each, sum.Attempts)
	}
}

// Of many keys in one minute, the most frequent keep their status, and all keep their cause.
func TestManyKeysInAMinute(t *testing.T) {
	s, c := newStore(24)
	for cause := range 44 {
		for status := 400; status < 420; status++ {
			s.CountAttempt(attempt(c.now, "a", "", KeyOf(core.Cause(cause), status), time.Millisecond), &SeriesRef{})
		}
	}
	for range 5 {
		s.CountAttempt(attempt(c.now, "a", "", refused, time.Millisecond), &SeriesRef{})
	}
	c.now = c.now.Add(time.Minute)
	s.CountAttempt(attempt(c.now, "a", "", served, time.Millisecond), &SeriesRef{})
	got := counts(s.SumProxy("a", time.Hour))
	byCause := map[core.Cause]uint64{}
	for k, n := range got {
		byCause[k.Cause()] += n
	}
	for cause := range 44 {
		want := uint64(20)
		if cause == 1 {
			want += 5 + 1
		}
		require.Equal(t, want, byCause[core.Cause(cause)], cause)
	}
	require.EqualValues(t, 6, got[refused])
}

func TestManyTargets(t *testing.T) {
	s, c := newStore(24)
	for i := range 2 * MaxTargets {
		s.CountAttempt(attempt(c.now, "a", fmt.Sprintf("h%d.test", i), served, 0), &SeriesRef{})
	}
	require.EqualValues(t, 1, s.SumTarget("h0.test", time.Hour).Attempts)
	require.EqualValues(t, MaxTargets, s.SumOtherTargets(time.Hour).Attempts)
	c.now = c.now.Add(2 * time.Hour)
	s.CountAttempt(attempt(c.now, "a", "h0.test", served, 0), &SeriesRef{})
	s.Prune(func(string) bool { return true })
	require.EqualValues(t, 2, s.SumTarget("h0.test", 3*time.Hour).Attempts, "it is in use")
	s.CountAttempt(attempt(c.now, "a", "new.test", served, 0), &SeriesRef{})
	require.EqualValues(t, 1, s.SumTarget("new.test", time.Hour).Attempts, "idle targets have made room")
}

func TestAClockThatIsSetBack(t *testing.T) {
	s, c := newStore(24)
	c.now = noon.Add(time.Hour)
	s.CountAttempt(attempt(c.now, "a", "", served, 0), &SeriesRef{})
	s.CountAttempt(attempt(noon, "a", "", refused, 0), &SeriesRef{}) // an hour earlier
	require.Equal(t, map[Key]uint64{served: 1, refused: 1}, counts(s.SumProxy("a", 2*time.Hour)))
	require.Equal(t, noon, s.SumProxy("a", 2*time.Hour).Counts[refused].LastMinute)
	require.Len(t, s.ProxyHistory("a", 2*time.Hour, time.Minute), 2)
	require.True(t, s.ProxyHistory("a", 2*time.Hour, time.Minute)[0].Start.Equal(noon))
}

// Bytes that are counted much later than their request ended do not move the current minute back.
func TestLateBytes(t *testing.T) {
	s, c := newStore(24)
	c.now = noon.Add(10 * time.Minute)
	s.CountAttempt(attempt(c.now, "a", "h.test", served, 0), &SeriesRef{})
	s.CountTargetBytes("h.test", 7, noon)
	s.CountAttempt(attempt(c.now, "a", "h.test", served, 0), &SeriesRef{})
	rows := s.TargetHistory("h.test", time.Hour, time.Minute)
	require.Len(t, rows, 1)
	require.EqualValues(t, 7, rows[0].Bytes)
	require.EqualValues(t, 2, s.SumTarget("h.test", time.Hour).Attempts)
}

// A damaged file loses rows and does no other harm.
func FuzzDecode(f *testing.F) {
	b := block{start: 5, last: 5}
	b.add(&Row{Minute: 5, Counts: []Count{{served, 3}, {broken, 400}}, P50: 10, P95: 60, Bytes: 1 << 20})
	b.add(&Row{Minute: 9, Counts: []Count{{served, 1}}, P50: 11, P95: 12})
	f.Add(b.encode())
	f.Fuzz(func(t *testing.T, text string) {
		s, c := newStore(24)
		c.now = time.Unix(60*100, 0)
		s.Restore(Saved{"proxy/a": {text}, "nope": {text}})
		s.EndRestore()
		for _, row := range s.ProxyHistory("a", time.Hour, time.Minute) {
			require.False(t, row.Start.After(c.now))
		}
		s.Save(true)
	})
}

func TestAllocations(t *testing.T) {
	s, _ := newStore(24)
	e := attempt(noon, "a", "x.test", served, time.Millisecond)
	proxy := &SeriesRef{}
	s.CountAttempt(e, proxy)
	require.Zero(t, testing.AllocsPerRun(1000, func() { s.CountAttempt(e, proxy) }))
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		s.CountBytes("a", 100)
		s.CountTargetBytes("x.test", 100,
			noon)
	}))
}

// heap returns the size of all objects in use.
func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// more counts n attempts of the current minute, as add does. The key k has a slot.
func (s *Series) more(k Key, bucket, n int) {
	for i := range s.keys {
		if s.keys[i].Load() == uint32(k)+1 {
			s.counts[i].Add(uint32(n))
		}
	}
	s.latencies[bucket].Add(uint32(n))
}

// 100 busy proxies take at most 1.5 MB for 24 hours, and a proxy without attempts for a day at most 2.5 KB. Each proxy
// has 60 attempts a minute: 80 % are served, the others are refused or fail in three ways.
func TestMemory(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	s, c := newStore(24)
	ids := make([]string, 100)
	for i := range ids {
		ids[i] = fmt.Sprintf("proxy-%d.example.net:3128", i)
	}
	before := heap()
	for range 24*60 + 30 {
		c.now = c.now.Add(time.Minute)
		for _, id := range ids {
			series, left := s.proxies.get(id), 60
			for _, x := range []struct {
				k    Key
				most int
			}{{broken, 4}, {KeyOf(2, 503), 5}, {KeyOf(2, 502), 3}, {refused, 10}, {served, 0}} {
				n := random.IntN(x.most + 1)
				if x.most == 0 {
					n = left
				}
				left -= n
				for i := 0; i < n; i += 5 { // one call for five attempts, because the race detector makes them slow
					latency := time.Duration(math.Exp(random.NormFloat64()*0.5) * 3e8)
					series.add(s.minuteOf(c.now), s.keepMinutes, x.k, bucketOf(latency))
					series.more(x.k, bucketOf(latency), min(n-i, 5)-1)
				}
			}
			s.proxies.get(id).AddBytes(s.minuteOf(c.now), s.keepMinutes, uint64(60*random.IntN(40_000)))
		}
	}
	busy := heap() - before
	t.Logf("100 busy proxies: %d bytes", busy)
	require.Less(t, busy, 1_500_000)
	require.InDelta(t, 100*60*1440, float64(sumOf(s, ids)), 100*60*20)
	c.now = c.now.Add(25 * time.Hour)
	s.Prune(func(string) bool { return true })
	rest := (heap() - before) / len(ids)
	t.Logf("a proxy at rest: %d bytes", rest)
	require.Less(t, rest, 2500)
	runtime.KeepAlive(s)
}

func sumOf(s *Store, ids []string) (n uint64) {
	for _, id := range ids {
		n += s.SumProxy(id, 24*time.Hour).Attempts
	}
	return n
}

// FailingTargets has the targets with failures in the window, also those of the time before a restart.
func TestFailingTargets(t *testing.T) {
	before, c := newStore(24)
	count := func(s *Store, at time.Duration, host string, k Key) {
		c.now = noon.Add(at)
		s.CountAttempt(attempt(c.now, "a", host, k, time.Second), &SeriesRef{})
	}
	judge := func(k Key) core.Verdict {
		return map[Key]core.Verdict{served: core.Success, refused: core.Excluded, broken: core.Failure}[k]
	}
	for i, k := range []Key{broken, served, refused, broken, served} {
		count(before, time.Duration(i)*time.Minute, "x.test", k)
	}
	count(before, 5*time.Minute, "fine.test", served)
	count(before, 5*time.Minute, "refuses.test", refused)

	s := NewStore(24*time.Hour, c.Now)
	s.Restore(before.Save(true))
	s.EndRestore()
	count(s, time.Hour, "y.test", broken)
	c.now = noon.Add(61 * time.Minute)
	at := func(m int) time.Time { return noon.Add(time.Duration(m) * time.Minute) }
	x := TargetCounts{Host: "x.test", Attempts: 5, Failures: 2, LastFailure: at(3), LastSuccess: at(4)}
	y := TargetCounts{Host: "y.test", Attempts: 1, Failures: 1, LastFailure: at(60)}
	require.ElementsMatch(t, []TargetCounts{x, y}, s.FailingTargets(2*time.Hour, judge))
	x.Attempts, x.Failures = 4, 1 // without the first minute
	require.ElementsMatch(t, []TargetCounts{x, y}, s.FailingTargets(time.Hour, judge))
	require.Equal(t, []TargetCounts{y}, s.FailingTargets(10*time.Minute, judge))
	require.Empty(t, s.FailingTargets(time.Hour, func(Key) core.Verdict { return core.Excluded }))
}

func BenchmarkAttempt(b *testing.B) {
	s, _ := newStore(24)
	e := attempt(noon, "a", "x.test", served, 20*time.Millisecond)
	b.ReportAllocs()
	for b.Loop() {
		s.CountAttempt(e, &SeriesRef{})
	}
}

func BenchmarkDay(b *testing.B) {
	s, c := newStore(24)
	for range 24 * 60 {
		c.now = c.now.Add(time.Minute)
		s.CountAttempt(attempt(c.now, "a", "x.test", served, 20*time.Millisecond), &SeriesRef{})
	}
	b.Run("reasons", func(b *testing.B) {
		for b.Loop() {
			s.SumProxy("a", 24*time.Hour)
		}
	})
	b.Run("causes", func(b *testing.B) {
		for b.Loop() {
			s.ProxyCounts("a", c.now.Add(-24*time.Hour))
		}
	})
}

package evidence

import (
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestSizeOfARecord(t *testing.T) {
	require.LessOrEqual(t, unsafe.Sizeof(record{}), uintptr(64))
}

// try returns an attempt through a proxy.
func try(b *Book, proxy uint64, target int, at time.Duration) Attempt {
	return Attempt{Proxy: proxy, Book: b, Target: site(target), Ended: at, Threshold: threshold, Window: window,
		ClosedPeers: 3}
}

func TestAPoolOfOneCountsEveryFailure(t *testing.T) {
	l, b := NewLedger(Config{}), &Book{}
	a := try(b, 1, 0, time.Second)
	a.ClosedPeers = 0
	for range 3 {
		l.RecordSuccess(&a)
		require.True(t, l.RecordFailure(&a).ShouldOpen)
	}
}

func TestAFailureCountsOnceTheTargetHasServedAnother(t *testing.T) {
	l, b, other := NewLedger(Config{}), &Book{}, &Book{}
	a, o := try(b, 1, 0, time.Second), try(other, 2, 0, time.Second)
	for range 9 {
		require.False(t, l.RecordFailure(&a).ShouldOpen, "there is nothing to compare with")
	}
	require.Zero(t, b.Report(l).Evidence)
	o.Ended = a.Ended + 2*time.Microsecond
	o.Began = a.Ended - time.Microsecond
	l.RecordSuccess(&o)
	require.False(t, l.RecordFailure(&a).ShouldOpen, "the success had begun before")
	o.Began = a.Ended + time.Microsecond
	l.RecordSuccess(&o)
	a.Ended += 3 * time.Microsecond
	f := l.RecordFailure(&a)
	require.True(t, f.ShouldOpen)
	require.True(t, f.OtherJustSucceeded)
	require.False(t, f.TargetFails)
	w := b.Report(l)
	require.Equal(t, 11, w.Failures)
	require.Equal(t, 10, w.Targets[0].Confirmed)
	require.Equal(t, []CauseCount{{0, 11}}, w.Targets[0].Causes)
	require.Equal(t, 2, w.Targets[0].OtherAttempts)
	require.Equal(t, "t0.example:443", w.Targets[0].Name)
}

func TestAnOlderGenerationIsIgnored(t *testing.T) {
	l, b := NewLedger(Config{}), &Book{}
	a := try(b, 1, 0, time.Second)
	a.OwnFailure, a.BreakerGen = true, 2
	l.RecordFailure(&a)
	late := a
	late.BreakerGen = 1
	for range 20 {
		require.False(t, l.RecordFailure(&late).ShouldOpen)
	}
	require.Equal(t, 1, b.Report(l).Failures)
	a.BreakerGen = 3
	l.RecordFailure(&a)
	require.Equal(t, 1, b.Report(l).Failures, "a new generation begins anew")
}

func TestAnOldFailureEndsTheEpisode(t *testing.T) {
	l, b := NewLedger(Config{}), &Book{}
	a := try(b, 1, 0, time.Second)
	a.OwnFailure = true
	l.RecordFailure(&a)
	a.Ended += window
	l.RecordFailure(&a)
	require.Equal(t, 2, b.Report(l).Failures)
	a.Ended += window + 1
	l.RecordFailure(&a)
	require.Equal(t, 1, b.Report(l).Failures)
}

func TestSuspect(t *testing.T) {
	for name, c := range map[string]struct {
		proxies, peers, failures int
		want                     bool
	}{
		"one proxy":             {1, 7, 20, false},
		"two of eight":          {2, 7, 20, false},
		"three of eight":        {3, 7, 9, true},
		"eight failures":        {3, 7, 8, false},
		"two of two":            {2, 1, 9, true},
		"the other one is open": {2, 0, 9, true},
		"a pool of one":         {1, 0, 20, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := NewLedger(Config{})
			books := make([]Book, c.proxies)
			at := time.Second
			for i := range c.failures {
				a := try(&books[i%c.proxies], uint64(i%c.proxies)+1, 0, at)
				a.ClosedPeers = c.peers
				l.RecordFailure(&a)
			}
			require.Equal(t, c.want, l.IsSuspect(site(0)))
			require.False(t, l.IsSuspect(site(1)))
			if !c.want {
				return
			}
			require.False(t, l.AdmitRetries(site(0), false, at+suspectRetryInterval-1))
			require.True(t, l.AdmitRetries(site(0), false, at+suspectRetryInterval))
			require.False(t, l.AdmitRetries(site(0), false, at+suspectRetryInterval))
			l.RecordRetriesFailed(site(0), at+suspectRetryInterval, at+3*suspectRetryInterval)
			require.False(t, l.AdmitRetries(site(0), false, at+4*suspectRetryInterval-1))
			l.RecordRetriesFailed(site(0), at+suspectRetryInterval, at+9*suspectRetryInterval) // an older request
			require.False(t, l.AdmitRetries(site(0), true, at+8*suspectRetryInterval-1), "once in 5 s")
			require.True(t, l.AdmitRetries(site(0), true, at+8*suspectRetryInterval))
			require.Equal(t, c.proxies, l.Targets()[0].Proxies)
			a := try(&books[0], 1, 0, at)
			l.RecordSuccess(&a)
			require.False(t, l.IsSuspect(site(0)))
		})
	}
}

// Refused attempts make a target suspect, but count against no proxy.
func TestSuspectAfterRefusals(t *testing.T) {
	l := NewLedger(Config{})
	for i := range suspectFailures {
		require.False(t, l.IsSuspect(site(0)), i)
		a := try(nil, uint64(i%2)+1, 0, time.Second)
		a.ClosedPeers = 1
		l.RecordUnserved(&a)
	}
	require.True(t, l.IsSuspect(site(0)))
	var b Book
	a := try(&b, 1, 0, time.Second)
	l.RecordSuccess(&a)
	require.False(t, l.IsSuspect(site(0)))
	require.Zero(t, b.Report(l).Failures)
}

// A target that bans proxies may serve other proxies that have not been tried. Therefore it becomes suspect later.
func TestSuspectDespiteBans(t *testing.T) {
	l := NewLedger(Config{})
	books := make([]Book, 3)
	for i := range ringSize {
		require.False(t, l.IsSuspect(site(0)), i)
		a := try(&books[i%3], uint64(i%3)+1, 0, time.Second)
		a.ClosedPeers, a.TargetBans = 7, true
		l.RecordFailure(&a)
	}
	require.True(t, l.IsSuspect(site(0)))
}

// In a pool whose proxies fail half of their attempts at random, nine failures in a row are not a sign of a dead
// target. A target that is dead in such a pool is suspect after 17 failures.
func TestSuspectDespiteNoise(t *testing.T) {
	p := newPool(8, 50, 1)
	var dead bool
	p.target = func() int { return p.requests % 6 }
	p.fails = func(_, target int) fault {
		if dead && target == 0 {
			return either
		}
		return p.noise(0.5, either)
	}
	suspect := 0
	for range 20_000 {
		p.request()
		if p.requests > 1000 && p.ledger.IsSuspect(site(0)) {
			suspect++
		}
	}
	require.LessOrEqual(t, suspect, 10)
	dead = true
	for range 6 * 12 {
		p.request()
	}
	require.True(t, p.ledger.IsSuspect(site(0)))
	require.Zero(t, p.openings)
}

func TestFailing(t *testing.T) {
	l := NewLedger(Config{})
	books := make([]Book, 3)
	at := time.Minute
	attempt := func(proxy int) *Attempt {
		a := try(&books[proxy], uint64(proxy)+1, 0, at)
		a.ClosedPeers = 2
		return &a
	}
	through := func() (proxies []int) {
		s := l.TargetState(site(0).Hash, at)
		for i := range books {
			if s.FailedThrough(uint64(i) + 1) {
				proxies = append(proxies, i)
			}
		}
		require.False(t, l.TargetState(site(1).Hash, at).Fails())
		return proxies
	}
	require.Empty(t, through())
	l.RecordSuccess(attempt(2))
	l.RecordFailure(attempt(2))
	l.RecordSuccess(attempt(2))
	l.RecordFailure(attempt(0))
	l.RecordFailure(attempt(0))
	require.Empty(t, through(), "two failures")
	at += justFailed
	l.RecordFailure(attempt(1))
	require.Equal(t, []int{0, 1}, through(), "not 2, which it has served since")
	at += time.Microsecond
	require.Equal(t, []int{1}, through())
	require.True(t, l.TargetState(site(0).Hash, at+time.Hour).Fails())
	l.RecordSuccess(attempt(1))
	require.Empty(t, through())
}

func TestTheLedgerIsBounded(t *testing.T) {
	l, b := NewLedger(Config{MaxTargets: 64}), &Book{}
	for i := range 1000 {
		a := try(b, 1, i, time.Duration(i)*time.Millisecond)
		l.RecordFailure(&a)
	}
	n := len(l.Targets())
	require.LessOrEqual(t, n, 64)
	require.EqualValues(t, n, l.size.Load())
	require.NotNil(t, l.find(site(999)), "the newest is there")
	records := 0
	for r := b.records.Load(); r != nil; r = r.next.Load() {
		records++
	}
	require.Equal(t, maxRecords, records)
	l.Sweep(time.Minute)
	require.Len(t, l.Targets(), n)
	l.Sweep(3*time.Minute + time.Second)
	require.Empty(t, l.Targets())
	require.Zero(t, l.size.Load())
}

func TestInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := NewLedger(Config{MaxTargets: 8})
		books := make([]Book, 4)
		gens := make([]uint64, 4)
		failed := make([]int, 4)
		now := time.Duration(0)
		one := func(t *rapid.T) (int, Attempt) {
			i := rapid.IntRange(0, 3).Draw(t, "proxy")
			a := try(&books[i], uint64(i), rapid.IntRange(0, 40).Draw(t, "target"), now)
			a.BreakerGen = gens[i]
			a.ClosedPeers = rapid.IntRange(1, 3).Draw(t, "peers")
			return i, a
		}
		t.Repeat(map[string]func(*rapid.T){
			"serve": func(t *rapid.T) { _, a := one(t); l.RecordSuccess(&a) },
			"fail": func(t *rapid.T) {
				i, a := one(t)
				a.OwnFailure, a.Cause = rapid.Bool().Draw(t, "own"), uint8(rapid.IntRange(0, 31).Draw(t, "cause"))
				failed[i]++
				if f := l.RecordFailure(&a); f.ShouldOpen {
					require.Greater(t, failed[i], 1, "one failure is never enough")
				}
			},
			"late": func(t *rapid.T) {
				i, a := one(t)
				if books[i].breakerGen > 0 {
					before := books[i].Report(l)
					a.BreakerGen = books[i].breakerGen - 1
					require.False(t, l.RecordFailure(&a).ShouldOpen)
					require.Equal(t, before.Failures, books[i].Report(l).Failures)
				}
			},
			"open": func(t *rapid.T) { i, _ := one(t); gens[i] += 2; failed[i] = 0 },
			"recover": func(t *rapid.T) {
				i, a := one(t)
				for range 200 {
					l.RecordSuccess(&a)
				}
				l.RecordFailure(&a)
				require.LessOrEqual(t, books[i].Report(l).Failures, 1, "successes end an episode")
				failed[i]++
			},
			"wait": func(t *rapid.T) {
				now += time.Duration(rapid.IntRange(0, 90_000).Draw(t, "ms")) * time.Millisecond
				l.Sweep(now)
			},
			"": func(t *rapid.T) {
				require.Len(t, l.Targets(), int(l.size.Load()))
				for i := range books {
					w := books[i].Report(l)
					all := w.OwnFailures
					for _, v := range w.Targets {
						require.True(t, v.Failures > 0 && v.Failures <= v.Attempts && v.Confirmed <= v.Failures, "%+v",
							v)
						require.True(t, v.OtherFailures >= 0 && v.OtherFailures <= v.OtherAttempts, "%+v", v)
						require.True(t, v.Noise >= minNoise && v.Noise <= BadProxyFailureRate, "%+v", v)
						all += v.Failures
					}
					require.LessOrEqual(t, all, w.Failures)
					require.GreaterOrEqual(t, w.Successes, 0)
				}
			},
		})
	})
}

func TestManyAtOnce(t *testing.T) {
	l := NewLedger(Config{MaxTargets: 16})
	books := make([]Book, 4)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 3000 {
				a := try(&books[(g+i)%4], uint64((g+i)%4), i%40, time.Duration(i)*time.Millisecond)
				switch {
				case i%7 == g%7:
					a.OwnFailure = i%2 == 0
					l.RecordFailure(&a)
				case i%500 == 0:
					l.Sweep(a.Ended)
					_ = l.Targets()
					_ = a.Book.Report(l)
				default:
					l.RecordSuccess(&a)
					l.IsSuspect(a.Target)
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, l.Targets(), int(l.size.Load()))
}

// scenes are the cases of BenchmarkServed.
var scenes = []struct {
	name              string
	failures, records int
}{{"no target", 0, 0}, {"a target without a record", 1, 0}, {"a target and 16 records", 1, 16}}

// scene returns a ledger with some failures, and a success to record.
func scene(failures, records int) (*Ledger, *Attempt) {
	l, b := NewLedger(Config{}), &Book{}
	a := try(b, 1, 0, time.Minute)
	for i := range records {
		f := try(b, 1, i, time.Minute)
		l.RecordFailure(&f)
	}
	for range failures {
		f := try(new(Book), 2, 0, time.Minute)
		l.RecordFailure(&f)
	}
	return l, &a
}

func TestAllocServed(t *testing.T) {
	for _, s := range scenes {
		l, a := scene(s.failures, s.records)
		require.Zero(t, testing.AllocsPerRun(1000, func() {
			l.RecordSuccess(a)
			l.IsSuspect(a.Target)
		}), s.name)
	}
}

func BenchmarkServed(b *testing.B) {
	for _, s := range scenes {
		b.Run(s.name, func(b *testing.B) {
			l, a := scene(s.failures, s.records)
			b.ReportAllocs()
			for b.Loop() {
				l.RecordSuccess(a)
			}
		})
		b.Run(s.name+", parallel", func(b *testing.B) {
			l, a := scene(s.failures, s.records)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					l.RecordSuccess(a)
				}
			})
		})
	}
}

func BenchmarkFailed(b *testing.B) {
	l, a := scene(1, 16)
	for b.Loop() {
		l.RecordFailure(a)
	}
}

func TestAFailedCheckIsNotWithdrawn(t *testing.T) {
	for _, check := range []bool{false, true} {
		l := NewLedger(Config{})
		var a, b Book
		first := try(&a, 1, 1, time.Second)
		first.NotInStats = check
		l.RecordFailure(&first)
		for i := range 5 {
			next := try(&b, 2, 1, 2*time.Second+time.Duration(i)*time.Millisecond)
			l.RecordFailure(&next)
		}
		last := try(&a, 1, 1, 3*time.Second)
		require.True(t, l.RecordFailure(&last).TargetFails)
		want := 1
		if check {
			want = 0
		}
		require.Equal(t, want, a.TakeWithdrawn())
	}
}

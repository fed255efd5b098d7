package minutes

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Sum has the counts of a period.
type Sum struct {
	Start     time.Time // UTC
	Counts    map[Key]Tally
	Attempts  uint64
	Bytes     uint64 // rounded down to KiB, except the bytes of the current minute
	Latencies Latencies
}

// Tally is the number of attempts with a key.
type Tally struct {
	N          uint64
	LastMinute time.Time // beginning of the latest minute with an attempt with this key, UTC
}

func (s *Sum) add(r *Row, l *Latencies) {
	if s.Counts == nil {
		s.Counts = map[Key]Tally{}
	}
	minute, attempts := time.Unix(r.Minute*60, 0).UTC(), r.attempts()
	for _, c := range r.Counts {
		t := s.Counts[c.Key]
		t.N += c.N
		if t.LastMinute.Before(minute) {
			t.LastMinute = minute
		}
		s.Counts[c.Key] = t
	}
	s.Attempts += attempts
	s.Bytes += r.Bytes
	switch {
	case l != nil:
		s.Latencies.merge(l)
	case attempts > 0:
		s.Latencies.add(float64(attempts), r.P50, r.P95)
	}
}

// SumAll returns the counts of all attempts in the time window before now.
func (s *Store) SumAll(window time.Duration) Sum { return s.sumOf(&s.allAttempts, window) }

// SumOtherTargets returns the counts of the targets that do not have their own series (see MaxTargets), in the time
// window before now.
func (s *Store) SumOtherTargets(window time.Duration) Sum { return s.sumOf(&s.otherTargets, window) }

// SumProxy returns the counts of a proxy in the time window before now.
func (s *Store) SumProxy(id string, window time.Duration) Sum {
	return s.sumOf(s.proxies.find(id), window)
}

// ProxyCounts returns the attempts of a proxy by key, from the minute that contains the given time on. It is faster
// than SumProxy.
func (s *Store) ProxyCounts(id string, since time.Time) []Count {
	var sum Row
	s.eachMinuteSince(s.proxies.find(id), s.minuteOf(since), func(r *Row, _ *Latencies) {
		for _, c := range r.Counts {
			sum.addAttempts(c.Key, c.N)
		}
	})
	return sum.Counts
}

// OnlyHosts returns the host of the attempts by key, from the minute that contains the given time on. The host is "" if
// there were several hosts, or if one of them does not have its own series.
func (s *Store) OnlyHosts(since time.Time) map[Key]string {
	hosts, first := map[Key]string{}, s.minuteOf(since)
	add := func(host string, series *Series) {
		s.eachMinuteSince(series, first, func(r *Row, _ *Latencies) {
			for _, c := range r.Counts {
				if known, ok := hosts[c.Key]; ok && known != host {
					hosts[c.Key] = ""
				} else {
					hosts[c.Key] = host
				}
			}
		})
	}
	add("", &s.otherTargets)
	for host, series := range s.targets.all() {
		add(host, series)
	}
	return hosts
}

// SumTarget returns the counts of the target with the given host in the time window before now.
func (s *Store) SumTarget(host string, window time.Duration) Sum {
	return s.sumOf(s.targets.find(host), window)
}

// TargetCounts has the attempts at one target in a period.
type TargetCounts struct {
	Host        string
	Attempts    uint64
	Failures    uint64
	Refused     uint64    // successes with status 403 or 429
	LastFailure time.Time // beginning of the latest minute with a failure or a refusal
	LastSuccess time.Time // beginning of the latest minute with a success; zero if there is none
}

// FailingTargets returns the targets that failed or refused attempts in the time window before now, in any order. The
// function judge decides whether an attempt with a given key is a success or a failure of its target, or neither.
func (s *Store) FailingTargets(window time.Duration, judge func(Key) core.Verdict) []TargetCounts {
	var list []TargetCounts
	failed := func(k Key) bool { return k.IsRefusal() || judge(k) == core.Failure }
	first := s.minuteOf(s.now().Add(-window))
	for host, series := range s.targets.all() {
		if !series.mayHave(first, failed) {
			continue
		}
		t := TargetCounts{Host: host}
		s.eachMinute(series, window, func(r *Row, _ *Latencies) { t.add(r, judge) })
		if t.Failures+t.Refused > 0 {
			list = append(list, t)
		}
	}
	return list
}

func (t *TargetCounts) add(r *Row, judge func(Key) core.Verdict) {
	minute := time.Unix(r.Minute*60, 0).UTC()
	for _, c := range r.Counts {
		t.Attempts += c.N
		switch judge(c.Key) {
		case core.Failure:
			t.Failures += c.N
			if minute.After(t.LastFailure) {
				t.LastFailure = minute
			}
		case core.Success:
			if c.Key.IsRefusal() {
				t.Refused += c.N
				if minute.After(t.LastFailure) {
					t.LastFailure = minute
				}
				continue
			}
			if minute.After(t.LastSuccess) {
				t.LastSuccess = minute
			}
		}
	}
}

// History returns the counts of all attempts in the time window before now: a Sum for each step with counts, the oldest
// first. A step is a number of whole minutes.
func (s *Store) History(window, step time.Duration) []Sum {
	return s.stepsOf(&s.allAttempts, window, step)
}

// ProxyHistory is like History, but returns the counts of one proxy.
func (s *Store) ProxyHistory(id string, window, step time.Duration) []Sum {
	return s.stepsOf(s.proxies.find(id), window, step)
}

// TargetHistory is like History, but returns the counts of the target with the given host.
func (s *Store) TargetHistory(host string, window, step time.Duration) []Sum {
	return s.stepsOf(s.targets.find(host), window, step)
}

func (s *Store) sumOf(series *Series, window time.Duration) (sum Sum) {
	s.eachMinute(series, window, sum.add)
	return sum
}

func (s *Store) stepsOf(series *Series, window, step time.Duration) []Sum {
	list, last := []Sum{}, -1
	s.eachMinute(series, window, func(r *Row, l *Latencies) {
		start := time.Unix(r.Minute*60, 0).UTC().Truncate(step)
		if last < 0 || !list[last].Start.Equal(start) {
			// If the clock was set back, the step may be in the list already.
			for last = len(list) - 1; last >= 0 && list[last].Start.After(start); last-- {
			}
			if last < 0 || !list[last].Start.Equal(start) {
				last++
				list = append(list[:last], append([]Sum{{Start: start}}, list[last:]...)...)
			}
		}
		list[last].add(r, l)
	})
	return list
}

// eachMinute calls f for each minute of a series in the time window before now.
func (s *Store) eachMinute(series *Series, window time.Duration, f func(*Row, *Latencies)) {
	// The current minute is incomplete, so the rows cover one minute more than the window.
	s.eachMinuteSince(series, s.minuteOf(s.now().Add(-window)), f)
}

// eachMinuteSince calls f for each minute of a series since the minute first. It leaves out the minutes whose counts
// the store need not keep any more.
func (s *Store) eachMinuteSince(series *Series, first int64, f func(*Row, *Latencies)) {
	if series == nil {
		return
	}
	last := s.minuteOf(s.now())
	series.mu.Lock()
	defer series.mu.Unlock()
	series.eachRow(max(first, last-s.keepMinutes), last, f)
}

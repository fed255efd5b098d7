package minutes

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// MaxTargets is the maximum number of targets that have their own series. The attempts at all other targets are counted
// together, in one series.
const MaxTargets = 1000

// targetIdle is the time without an attempt after which a target is removed, if there are many targets (see Prune).
const targetIdle = time.Hour

// Store holds the series of all proxies and targets, and the series of all attempts. It is safe for concurrent use.
type Store struct {
	now          func() time.Time
	keepMinutes  int64
	allAttempts  Series
	otherTargets Series // of the targets without a series of their own
	proxies      seriesTable
	targets      targetTable
}

// NewStore returns an empty store. The parameter keep is the time for which it keeps counts, a multiple of a minute.
func NewStore(keep time.Duration, now func() time.Time) *Store {
	s := &Store{now: now, keepMinutes: int64(keep / time.Minute)}
	s.targets.byHost.Store(&map[string]*Series{})
	return s
}

// seriesTable holds series by name.
type seriesTable struct{ series sync.Map } // string -> *Series

// get returns the series with the given name, and adds it if there is none.
func (t *seriesTable) get(name string) *Series {
	if s := t.find(name); s != nil {
		return s
	}
	s, _ := t.series.LoadOrStore(strings.Clone(name), &Series{})
	return s.(*Series)
}

// find returns nil if there is no series with the name.
func (t *seriesTable) find(name string) *Series {
	if s, ok := t.series.Load(name); ok {
		return s.(*Series)
	}
	return nil
}

func (t *seriesTable) each(f func(name string, s *Series)) {
	t.series.Range(func(name, s any) bool {
		f(name.(string), s.(*Series))
		return true
	})
}

func (t *seriesTable) drop(name string) {
	if series, loaded := t.series.LoadAndDelete(name); loaded {
		series.(*Series).isDropped.Store(true)
	}
}

// targetTable holds the series of up to MaxTargets targets. A look-up in its map is faster than in a sync.Map.
type targetTable struct {
	mu     sync.Mutex                         // held while byHost is replaced
	byHost atomic.Pointer[map[string]*Series] // a map never changes after it is stored here
}

// find returns nil if the host has no series.
func (t *targetTable) find(host string) *Series { return t.all()[host] }

func (t *targetTable) all() map[string]*Series { return *t.byHost.Load() }

// findOrAdd returns the series of a host, and creates it if there is none. It returns nil if there already are
// MaxTargets series.
func (t *targetTable) findOrAdd(host string) *Series {
	if len(t.all()) >= MaxTargets { // without a lock, because each attempt at a host without a series calls this method
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.all()
	s := all[host]
	if s == nil && len(all) < MaxTargets {
		s = &Series{}
		all = maps.Clone(all)
		all[strings.Clone(host)] = s
		t.byHost.Store(&all)
	}
	return s
}

// dropIdle drops the series that have no counts of the given minute or later.
func (t *targetTable) dropIdle(oldest int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := maps.Clone(t.all())
	maps.DeleteFunc(all, func(_ string, s *Series) bool { return s.hasNothingSince(oldest) })
	t.byHost.Store(&all)
}

// seriesOfTarget returns the series that counts the attempts at a host.
func (s *Store) seriesOfTarget(host string) *Series {
	series := s.targets.find(host)
	if series == nil {
		series = s.targets.findOrAdd(host)
	}
	if series == nil {
		series = &s.otherTargets
	}
	return series
}

// seriesByName returns the series with a name of Saved, such as "proxy/ID"; nil if the name is not valid.
func (s *Store) seriesByName(name string) *Series {
	if id, ok := strings.CutPrefix(name, proxyName); ok {
		return s.proxies.get(id)
	}
	if host, ok := strings.CutPrefix(name, targetName); ok {
		return s.seriesOfTarget(host)
	}
	switch name {
	case nameAll:
		return &s.allAttempts
	case nameOtherTargets:
		return &s.otherTargets
	}
	return nil
}

func (s *Store) minuteOf(t time.Time) int64 { return t.Unix() / 60 }

// SeriesRef holds the series of one proxy, so that CountAttempt need not look it up by the proxy's id. The zero value
// is ready for use.
type SeriesRef struct{ series atomic.Pointer[Series] }

// get returns the series of the proxy to which r belongs. id is the id of the proxy.
func (r *SeriesRef) get(s *Store, id string) *Series {
	series := r.series.Load()
	if series == nil || series.isDropped.Load() {
		series = s.proxies.get(id)
		r.series.Store(series)
	}
	return series
}

// CountAttempt counts a finished attempt through the given proxy.
func (s *Store) CountAttempt(e *core.AttemptEvent, proxy *SeriesRef) {
	minute, k := s.minuteOf(e.Ended), KeyOf(e.Outcome.Cause, e.Outcome.Status)
	latency := e.Outcome.Latency
	if latency <= 0 {
		latency = e.Ended.Sub(e.Started)
	}
	bucket := bucketOf(latency)
	s.allAttempts.add(minute, s.keepMinutes, k, bucket)
	proxy.get(s, e.ProxyID).add(minute, s.keepMinutes, k, bucket)
	if e.Host != "" {
		s.seriesOfTarget(e.Host).add(minute, s.keepMinutes, k, bucket)
	}
}

// CountBytes counts bytes on the connections to a proxy.
func (s *Store) CountBytes(proxyID string, n uint64) {
	minute := s.minuteOf(s.now())
	s.allAttempts.AddBytes(minute, s.keepMinutes, n)
	s.proxies.get(proxyID).AddBytes(minute, s.keepMinutes, n)
}

// CountTargetBytes counts the n bytes of a request for a host. The request ended at the given time. The series of all
// attempts does not include these bytes, because it counts the bytes on connections to proxies.
func (s *Store) CountTargetBytes(host string, n uint64, at time.Time) {
	s.seriesOfTarget(host).AddBytes(s.minuteOf(at), s.keepMinutes, n)
}

// Prune drops old counts. It then drops the series of targets without counts, and of proxies that have no counts and
// are not in the pool. If there are more than three quarters of MaxTargets targets, it also drops the series of targets
// that have had no counts for targetIdle. It must be called a few times a minute.
func (s *Store) Prune(inPool func(id string) bool) {
	now := s.now()
	oldest := s.minuteOf(now) - s.keepMinutes
	s.proxies.each(func(id string, series *Series) {
		series.dropOldBlocks(oldest)
		if series.hasNothingSince(oldest) && !inPool(id) {
			s.proxies.drop(id)
		}
	})
	if len(s.targets.all()) > MaxTargets*3/4 {
		oldest = max(oldest, s.minuteOf(now.Add(-targetIdle)))
	}
	s.targets.dropIdle(oldest)
}

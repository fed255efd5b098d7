package minutes

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// MaxTargets is the maximum number of targets with a series of their own. The attempts at all other targets are
// counted together, in one series.
const MaxTargets = 1000

// targetIdle is the time without an attempt after which a target is removed, if there are many targets (see Prune).
const targetIdle = time.Hour

// Store holds the series of all proxies and targets, and the series of all attempts. It is safe for concurrent use.
type Store struct {
	now     func() time.Time
	keep    int64 // minutes
	all     Series
	others  Series // of the targets without a series of their own
	proxies table
	targets targets
}

// NewStore returns an empty store. The parameter keep is the time for which it keeps counts, a multiple of a minute.
func NewStore(keep time.Duration, now func() time.Time) *Store {
	s := &Store{now: now, keep: int64(keep / time.Minute)}
	s.targets.byHost.Store(&map[string]*Series{})
	return s
}

// table holds series by name.
type table struct{ series sync.Map } // string -> *Series

// get returns the series with the given name. If there is none, get adds one.
func (t *table) get(name string) *Series {
	if s := t.find(name); s != nil {
		return s
	}
	s, _ := t.series.LoadOrStore(strings.Clone(name), &Series{})
	return s.(*Series)
}

// find returns the series with the given name; nil if there is none.
func (t *table) find(name string) *Series {
	if s, ok := t.series.Load(name); ok {
		return s.(*Series)
	}
	return nil
}

func (t *table) each(f func(name string, s *Series)) {
	t.series.Range(func(name, s any) bool {
		f(name.(string), s.(*Series))
		return true
	})
}

func (t *table) drop(name string) {
	if series, loaded := t.series.LoadAndDelete(name); loaded {
		series.(*Series).dropped.Store(true)
	}
}

// targets holds the series of up to MaxTargets targets. A look-up in its map takes less time than one in a sync.Map.
type targets struct {
	mu     sync.Mutex                         // held while byHost is replaced
	byHost atomic.Pointer[map[string]*Series] // a map never changes after it is stored here
}

// find returns the series of a host; nil if there is none.
func (t *targets) find(host string) *Series { return t.all()[host] }

func (t *targets) all() map[string]*Series { return *t.byHost.Load() }

// add adds a series for a host and returns it. If there are MaxTargets series, add returns nil. If the host already has
// a series, because another goroutine has just added it, add returns this series.
func (t *targets) add(host string) *Series {
	if len(t.all()) >= MaxTargets { // without the mutex, because add is called again for each attempt at the host
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

// dropIdle drops the series without counts since the minute oldest.
func (t *targets) dropIdle(oldest int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := maps.Clone(t.all())
	maps.DeleteFunc(all, func(_ string, s *Series) bool { return s.idle(oldest) })
	t.byHost.Store(&all)
}

// target returns the series that counts the attempts at a host.
func (s *Store) target(host string) *Series {
	series := s.targets.find(host)
	if series == nil {
		series = s.targets.add(host)
	}
	if series == nil {
		series = &s.others
	}
	return series
}

// named returns the series that has the given name in Saved (such as "proxy/ID"); nil if the name is not
// valid.
func (s *Store) named(name string) *Series {
	if id, ok := strings.CutPrefix(name, proxyName); ok {
		return s.proxies.get(id)
	}
	if host, ok := strings.CutPrefix(name, targetName); ok {
		return s.target(host)
	}
	switch name {
	case nameAll:
		return &s.all
	case nameOthers:
		return &s.others
	}
	return nil
}

func (s *Store) minute(t time.Time) int64 { return t.Unix() / 60 }

// Ref holds the series of one proxy, so that Store.Attempt need not look up the series by the proxy's id each time. The
// zero value is ready for use.
type Ref struct{ series atomic.Pointer[Series] }

// get returns the series of the proxy with the given id, to which r belongs.
func (r *Ref) get(s *Store, id string) *Series {
	series := r.series.Load()
	if series == nil || series.dropped.Load() {
		series = s.proxies.get(id)
		r.series.Store(series)
	}
	return series
}

// Attempt counts a finished attempt. The parameter proxy is the Ref of the attempt's proxy.
func (s *Store) Attempt(e *core.AttemptEvent, proxy *Ref) {
	at, k := s.minute(e.Ended), KeyOf(e.Outcome.Cause, e.Outcome.Status)
	latency := e.Outcome.Latency
	if latency <= 0 {
		latency = e.Ended.Sub(e.Started)
	}
	bucket := bucketOf(latency)
	s.all.add(at, s.keep, k, bucket)
	proxy.get(s, e.ProxyID).add(at, s.keep, k, bucket)
	if e.Host != "" {
		s.target(e.Host).add(at, s.keep, k, bucket)
	}
}

// Bytes counts bytes on the connections to a proxy.
func (s *Store) Bytes(proxyID string, n uint64) {
	at := s.minute(s.now())
	s.all.AddBytes(at, s.keep, n)
	s.proxies.get(proxyID).AddBytes(at, s.keep, n)
}

// TargetBytes counts n bytes of a request for a host. The parameter at is the end of the request. The bytes are not
// added to the series of all attempts, because that series counts the bytes on connections to proxies.
func (s *Store) TargetBytes(host string, n uint64, at time.Time) {
	s.target(host).AddBytes(s.minute(at), s.keep, n)
}

// Prune drops proxies that are not in the pool and have no counts any more, and targets without counts. If there are
// more than three quarters of MaxTargets targets, it also drops targets without counts in the last targetIdle. The
// caller calls it a few times a minute.
func (s *Store) Prune(inPool func(id string) bool) {
	now := s.now()
	oldest := s.minute(now) - s.keep
	s.proxies.each(func(id string, series *Series) {
		series.expire(oldest)
		if series.idle(oldest) && !inPool(id) {
			s.proxies.drop(id)
		}
	})
	if len(s.targets.all()) > MaxTargets*3/4 {
		oldest = max(oldest, s.minute(now.Add(-targetIdle)))
	}
	s.targets.dropIdle(oldest)
}

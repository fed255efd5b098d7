package minutes

import (
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
	targets table
}

// NewStore returns an empty store. It keeps counts for the time keep, a multiple of a minute.
func NewStore(keep time.Duration, now func() time.Time) *Store {
	return &Store{now: now, keep: int64(keep / time.Minute)}
}

// table holds series by name.
type table struct {
	series sync.Map // string -> *Series
	size   atomic.Int64
}

// get returns the series with the given name. If there is none and the table has fewer series than limit, get adds
// one; otherwise it returns nil.
func (t *table) get(name string, limit int64) *Series {
	if s, ok := t.series.Load(name); ok {
		return s.(*Series)
	}
	if t.size.Load() >= limit {
		return nil
	}
	s, loaded := t.series.LoadOrStore(strings.Clone(name), &Series{})
	if !loaded {
		t.size.Add(1)
	}
	return s.(*Series)
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
		t.size.Add(-1)
	}
}

const noLimit = 1 << 40

// target returns the series that counts the attempts at a host.
func (s *Store) target(host string) *Series {
	if series := s.targets.get(host, MaxTargets); series != nil {
		return series
	}
	return &s.others
}

// named returns the series that has the given name in Saved (such as "proxy/ID"); nil if the name is not valid.
func (s *Store) named(name string) *Series {
	if id, ok := strings.CutPrefix(name, proxyName); ok {
		return s.proxies.get(id, noLimit)
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

// Ref holds the series of one proxy, so that Attempt need not look it up by the proxy's id for each attempt. The zero
// value is ready for use.
type Ref struct{ series atomic.Pointer[Series] }

// get returns the series of the proxy with the given id, to which r belongs.
func (r *Ref) get(s *Store, id string) *Series {
	series := r.series.Load()
	if series == nil || series.dropped.Load() {
		series = s.proxies.get(id, noLimit)
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
	s.proxies.get(proxyID, noLimit).AddBytes(at, s.keep, n)
}

// TargetBytes counts n bytes of a request for a host. The request ended at the time at. The bytes are not added to
// the series of all attempts, because that series counts the bytes on connections to proxies.
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
	if s.targets.size.Load() > MaxTargets*3/4 {
		oldest = max(oldest, s.minute(now.Add(-targetIdle)))
	}
	s.targets.each(func(host string, series *Series) {
		if series.idle(oldest) {
			s.targets.drop(host)
		}
	})
}

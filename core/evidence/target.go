package evidence

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	ringSize = 32
	never    = int64(-1) << 62
)

// target is a target with a recent failure.
type target struct {
	hash uint64
	name string

	seq        atomic.Uint32 // attempts
	failed     atomic.Uint32 // of these
	confirmed  atomic.Uint32 // failures after which the target served the same proxy again
	suspect    atomic.Bool
	lastServed atomic.Int64 // ns since the epoch
	ring       [ringSize]atomic.Uint64

	lastFailure atomic.Int64
	usual       atomic.Int64 // when a suspect target's request was last tried as usual

	mu sync.Mutex
	// Successes and confirmed failures before the counters stood at the bases;
	// of at most siteMemory attempts.
	oldServed, oldConfirmed   float64
	baseServed, baseConfirmed uint32
}

// mark is an attempt in the ring: 39 bits of time in µs, of a failure's end or
// the beginning of an attempt that succeeded, 24 of the proxy's hash, one for a
// failure. The zero mark is none. Times compare within half their range, three days.
type mark uint64

const (
	proxyBits = 24
	proxyMask = 1<<proxyBits - 1
	timeShift = proxyBits + 1
)

func newMark(at time.Duration, proxy uint64, failed bool) mark {
	m := mark(at/time.Microsecond+1)<<timeShift | mark(proxy&proxyMask)<<1
	if failed {
		m |= 1
	}
	return m
}

func (m mark) failed() bool     { return m&1 != 0 }
func (m mark) proxy() uint64    { return uint64(m >> 1 & proxyMask) }
func (m mark) micros() uint32   { return uint32(m>>timeShift) - 1 }
func (m mark) of(p uint64) bool { return m.proxy() == p&proxyMask }

// since reports whether the mark's time is a moment of the last three days or later.
func (m mark) since(at time.Duration) bool {
	return int64(m-mark(at/time.Microsecond+1)<<timeShift)>>timeShift >= 0
}

// micros is a moment in µs. Two of them compare within half an hour.
func micros(at time.Duration) uint32 { return uint32(at / time.Microsecond) }

// servedAfter reports whether, of the latest attempts of the other proxies, one that
// began at the moment or later was served.
func (t *target) servedAfter(proxy uint64, at uint32) bool {
	for i := range ringSize {
		m := t.nth(i)
		if m != 0 && !m.failed() && !m.of(proxy) && int32(m.micros()-at) >= 0 {
			return true
		}
	}
	return false
}

func (t *target) served() uint32 { return t.seq.Load() - t.failed.Load() }
func (t *target) push(m mark)    { t.ring[(t.seq.Add(1)-1)%ringSize].Store(uint64(m)) }
func (t *target) nth(i int) mark { return mark(t.ring[(t.seq.Load()-1-uint32(i))%ringSize].Load()) }

// serve records a success.
func (t *target) serve(a *Attempt) {
	t.push(newMark(a.began(), a.Proxy, false))
	t.lastServed.Store(int64(a.At))
	if t.suspect.Load() {
		t.suspect.Store(false)
	}
}

// fail records a failure that may be the target's.
func (t *target) fail(a *Attempt) {
	t.push(newMark(a.At, a.Proxy, true)) // before it is counted, so that served() is never below 0
	t.failed.Add(1)
	t.lastFailure.Store(int64(a.At))
	if !t.suspect.Load() && t.failsForAll(a.Peers) {
		t.usual.Store(int64(a.At))
		t.suspect.Store(true)
	}
}

// failsForAll reports whether the latest attempts all failed, and through several proxies.
func (t *target) failsForAll(peers int) bool {
	want := min(suspectBy, max(peers+1, 2))
	var seen [suspectBy]uint64
	n := 0
	for i := range suspectRow {
		m := t.nth(i)
		if m == 0 || !m.failed() {
			return false
		}
		known := false
		for _, p := range seen[:n] {
			known = known || p == m.proxy()
		}
		if !known && n < len(seen) {
			seen[n] = m.proxy()
			n++
		}
	}
	return n >= want
}

// rest counts the latest attempts of the other proxies, those of the last minute, and
// tells whether one that began at since or later was served.
func (t *target) rest(proxy uint64, now, since time.Duration) (attempts, failures int, servedSince bool) {
	for i := 0; i < ringSize && attempts < recent; i++ {
		m := t.nth(i)
		if m == 0 || m.of(proxy) || !m.since(now-time.Minute) {
			continue
		}
		attempts++
		if m.failed() {
			failures++
		} else if m.since(since) {
			servedSince = true
		}
	}
	return attempts, failures, servedSince
}

// only reports whether the latest attempts, up to 32, were all the proxy's.
func (t *target) only(proxy uint64) bool {
	for i := range ringSize {
		if m := t.nth(i); m != 0 && !m.of(proxy) {
			return false
		}
	}
	return true
}

// finding says what the others had at the target. Nothing is known of a nil target.
func (t *target) finding(a *Attempt) Finding {
	if t == nil {
		return Finding{}
	}
	attempts, failures, served := t.rest(a.Proxy, a.At, a.At-justServed)
	return Finding{TargetFails: failures >= 4 && failures == attempts, JustServed: served}
}

// likelyNoise reports whether a failure may be noise: the others are served,
// or have not tried.
func (t *target) likelyNoise(a *Attempt) bool {
	attempts, failures, _ := t.rest(a.Proxy, a.At, a.At)
	return attempts == 0 || failures < attempts
}

// noise is the share of failures among the attempts of the others, if served and
// confirmed are the proxy's own. pool is the pool's share.
func (t *target) noise(pool float64, ownServed, ownConfirmed uint32) float64 {
	t.mu.Lock()
	served := t.served()
	confirmed := t.confirmed.Load()
	s := t.oldServed + float64(max(int32(served-t.baseServed), 0)) // a failure may be counted late
	f := t.oldConfirmed + float64(max(int32(confirmed-t.baseConfirmed), 0))
	if n := s + f; n > 2*siteMemory {
		k := siteMemory / n
		s, f = s*k, f*k
		t.oldServed, t.oldConfirmed, t.baseServed, t.baseConfirmed = s, f, served, confirmed
	}
	t.mu.Unlock()
	s = max(s-float64(ownServed), 0)
	f = max(f-float64(ownConfirmed), 0)
	return clamp((f+mixWeight*pool)/(s+f+mixWeight), P1)
}

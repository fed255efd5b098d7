package evidence

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	ringSize  = 32              // attempts that a target keeps
	neverTime = int64(-1) << 62 // a time before all other times, in ns
)

// target holds the attempts of all proxies at a target with a recent failure.
type target struct {
	hash uint64
	name string

	servedBefore bool // an attempt had succeeded at the target before this entry was added

	attempts    atomic.Uint32
	failures    atomic.Uint32
	transients  atomic.Uint32 // failures after which the same proxy succeeded again
	suspect     atomic.Bool
	lastSuccess atomic.Int64            // ns after the epoch
	ring        [ringSize]atomic.Uint64 // the latest attempts, as marks

	lastFailure     atomic.Int64 // ns after the epoch
	retriesAdmitted atomic.Int64 // time of the last AdmitRetries that returned true

	mu sync.Mutex // guards the fields down to challenge
	// In the noise, old attempts have a reduced weight: the first baseSuccesses successes of the target and its first
	// baseTransients transient failures count with the weights oldSuccesses and oldTransients.
	oldSuccesses, oldTransients   float64
	baseSuccesses, baseTransients uint32
	provisional                   []provisionalFailures
	challenge                     challenge

	hasProvisional atomic.Bool
}

// mark is one entry of a target's list of latest attempts. 0 stands for an empty entry.
//
//	bits 25-63  time in µs: when the attempt ended, if it failed; when it began, if it succeeded
//	bits  1-24  hash of the proxy
//	bit   0     1 for a failure
//
// The times wrap around after six days. A comparison of two times is correct if they differ by at most three
// days.
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

func (m mark) failed() bool            { return m&1 != 0 }
func (m mark) proxy() uint64           { return uint64(m >> 1 & proxyMask) }
func (m mark) micros() uint32          { return uint32(m>>timeShift) - 1 }
func (m mark) isThrough(p uint64) bool { return m.proxy() == p&proxyMask }

func (m mark) notBefore(at time.Duration) bool {
	return int64(m-mark(at/time.Microsecond+1)<<timeShift)>>timeShift >= 0
}

// maxMicros is the largest difference between two times whose micros can be compared.
const maxMicros = 35 * time.Minute

// micros returns a time in µs, modulo 2^32.
func micros(at time.Duration) uint32 { return uint32(at / time.Microsecond) }

// hasSuccessThroughOtherSince reports whether the latest attempts include a success of another proxy that began at the
// given time (a result of micros) or later.
func (t *target) hasSuccessThroughOtherSince(proxy uint64, began uint32) bool {
	for i := range ringSize {
		m := t.nthLatest(i)
		if m != 0 && !m.failed() && !m.isThrough(proxy) && int32(m.micros()-began) >= 0 {
			return true
		}
	}
	return false
}

func (t *target) successes() uint32 { return t.attempts.Load() - t.failures.Load() }
func (t *target) push(m mark)       { t.ring[(t.attempts.Add(1)-1)%ringSize].Store(uint64(m)) }

// nthLatest returns the n-th latest attempt; 0 is the latest.
func (t *target) nthLatest(n int) mark {
	return mark(t.ring[(t.attempts.Load()-1-uint32(n))%ringSize].Load())
}

// isUnknown reports whether no attempt has succeeded at the target, and there were less than unknownAttempts attempts.
// The name of such a target may not exist.
func (t *target) isUnknown() bool {
	return !t.servedBefore && t.lastSuccess.Load() == neverTime && t.attempts.Load() < unknownAttempts
}

func (t *target) addSuccess(a *Attempt) {
	t.push(newMark(a.beginTime(), a.Proxy, false))
	t.lastSuccess.Store(int64(a.Ended))
	if t.suspect.Load() {
		t.suspect.Store(false)
	}
	t.finalizeProvisional()
}

// addFailure records a failure that the target may have caused.
func (t *target) addFailure(a *Attempt) {
	t.push(newMark(a.Ended, a.Proxy, true)) // pushed before it is counted, so that successes() never falls below 0
	t.failures.Add(1)
	t.lastFailure.Store(int64(a.Ended))
}

// failsForAll reports whether the latest attempts at the target have all failed, through at least suspectProxies
// different proxies. Two proxies are enough if fewer than suspectProxies breakers are closed. The attempt a is the
// latest one. The parameter failures is the number of attempts that must have failed.
func (t *target) failsForAll(a *Attempt, failures int) bool {
	want := a.wantedProxies()
	var proxies [suspectProxies]uint64
	n := 0
	for i := range failures {
		m := t.nthLatest(i)
		if m == 0 || !m.failed() {
			return false
		}
		if n < len(proxies) && !slices.Contains(proxies[:n], m.proxy()) {
			proxies[n] = m.proxy()
			n++
		}
	}
	return n >= want
}

// noneServes reports whether at least the given number of attempts have failed since the latest success at the target,
// through enough proxies (wantedProxies). Only those of the last maxRecentSuccessAge count. The attempt a is one of
// them. It is not in the ring yet.
func (t *target) noneServes(a *Attempt, failures int) bool {
	want := a.wantedProxies()
	proxies := [suspectProxies]uint64{a.Proxy & proxyMask}
	n := 1
	for i := range ringSize {
		m := t.nthLatest(i)
		if m == 0 || !m.failed() || !m.notBefore(a.Ended-maxRecentSuccessAge) {
			return false
		}
		if n < want && !slices.Contains(proxies[:n], m.proxy()) {
			proxies[n] = m.proxy()
			n++
		}
		if n == want && i+2 >= failures {
			return true
		}
	}
	return false
}

// otherAttempts counts the latest attempts of the other proxies at the target, and their failures. It counts at most
// comparedAttempts attempts of the last minute. It also reports whether one of them has succeeded and did not begin
// before the given time.
func (t *target) otherAttempts(proxy uint64, now, since time.Duration) (attempts, failures int, servedSince bool) {
	for i := 0; i < ringSize && attempts < comparedAttempts; i++ {
		m := t.nthLatest(i)
		if m == 0 || m.isThrough(proxy) || !m.notBefore(now-time.Minute) {
			continue
		}
		attempts++
		if m.failed() {
			failures++
		} else if m.notBefore(since) {
			servedSince = true
		}
	}
	return attempts, failures, servedSince
}

// onlyUsedBy reports whether all attempts in the ring went through the given proxy.
func (t *target) onlyUsedBy(proxy uint64) bool {
	for i := range ringSize {
		if m := t.nthLatest(i); m != 0 && !m.isThrough(proxy) {
			return false
		}
	}
	return true
}

// finding returns the conclusion from the other proxies' attempts at the target. The target t may be nil.
func (t *target) finding(a *Attempt) Finding {
	if t == nil {
		return Finding{}
	}
	attempts, failures, served := t.otherAttempts(a.Proxy, a.Ended, a.Ended-maxRecentSuccessAge)
	return Finding{
		TargetFails: failures >= 4 && failures == attempts, OthersFail: failures > 0 && failures == attempts,
		OtherJustSucceeded: served,
	}
}

// noise returns the share of transient failures among the target's attempts, without the proxy's own attempts.
func (t *target) noise(poolNoise float64, ownSuccesses, ownTransients uint32) float64 {
	t.mu.Lock()
	successes := t.successes()
	transients := t.transients.Load()
	// successes() counts a failed attempt as a success for a moment (see addFailure), so the difference may be below 0.
	s := t.oldSuccesses + float64(max(int32(successes-t.baseSuccesses), 0))
	f := t.oldTransients + float64(max(int32(transients-t.baseTransients), 0))
	if n := s + f; n > 2*targetMemory {
		k := targetMemory / n
		s, f = s*k, f*k
		t.oldSuccesses, t.oldTransients, t.baseSuccesses, t.baseTransients = s, f, successes, transients
	}
	t.mu.Unlock()
	s = max(s-float64(ownSuccesses), 0)
	f = max(f-float64(ownTransients), 0)
	return clamp((f+poolWeight*poolNoise)/(s+f+poolWeight), BadProxyFailureRate)
}

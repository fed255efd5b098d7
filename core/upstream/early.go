package upstream

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
)

// An early probe is the probe of a breaker whose open time has not passed yet. There are early probes if no breaker
// of the pool is closed, or only few (docs/decisions/all-open.md).
const (
	// If no breaker is closed, a breaker gets an early probe when it has been open long enough: for a sixteenth of the
	// time since a breaker was last closed, but for at least earlyMin and at most earlyMax.
	earlyMin, earlyMax = 200 * time.Millisecond, 300 * time.Millisecond
	// earlyInterval is the mean time between two early probes of the pool.
	earlyInterval = 50 * time.Millisecond
	// An early probe may be made because a target fails. The breaker has then been open for at least targetProbeMin.
	targetProbeMin = 500 * time.Millisecond
	// After a request has found that no early probe is due, no request checks this again within lookInterval.
	lookInterval = 20 * time.Millisecond
	// If few breakers are closed, a breaker gets an early probe when it has been open for at least fewMin. Between two
	// such early probes, at least fewUses attempts of the pool begin, and at least fewInterval passes.
	fewMin, fewInterval, fewUses = 4 * time.Second, time.Second, 50
)

// closedShare states roughly how many breakers of a pool are closed.
type closedShare uint8

const (
	enoughClosed closedShare = iota // or early probes are off
	fewClosed                       // at most a quarter
	noneClosed
)

// The method closedShare returns roughly how many breakers are closed. Its argument lists the proxies whose breaker is
// not closed. It returns enoughClosed if early probes are off: if breaker.blame is "literal", or if fewer than two
// breakers are not closed.
func (p *Pool) closedShare(notClosed []*Upstream) closedShare {
	size := len(p.Snapshot().All)
	switch closed := size - len(notClosed); {
	case p.literal.Load() || len(notClosed) < 2:
		return enoughClosed
	case closed <= 0:
		return noneClosed
	case closed <= size/4:
		return fewClosed
	}
	return enoughClosed
}

// ProbeEarly is called if a request has found no closed breaker. If an early probe is due, it makes a breaker half-open
// and returns true. The request can then be the probe. Otherwise it returns false.
func (p *Pool) ProbeEarly() bool {
	at := p.Elapsed(p.now())
	if time.Duration(p.nextEarly.Load()) > at+earlyInterval || at < time.Duration(p.nextLook.Load()) {
		return false
	}
	notClosed := p.NotClosed()
	if len(notClosed) > breakersPerSweep { // reading them would take too long; Sweep begins the early probes
		return false
	}
	begun := p.closedShare(notClosed) == noneClosed &&
		p.probeEarly(notClosed, p.earlyAfter(), breaker.ReasonNoneClosed, anyProxy)
	if !begun {
		p.nextLook.Store(int64(at + lookInterval))
	}
	return begun
}

// ProbeInRetry is called for a retry if all proxies that it may use have just failed. Without a probe, the retry would
// go through one of these proxies. ProbeInRetry makes one breaker half-open: the breaker that has been open longest, if
// it has been open for at least earlyMin. It ignores the proxies for which mayUse returns false, and the time since the
// last early probe. If a breaker already waits for its probe, it does nothing. The result is false if there is
// certainly no probe for the retry.
func (p *Pool) ProbeInRetry(mayUse func(*Upstream) bool) bool {
	return p.probeInRetry(earlyMin, breaker.ReasonPoolFails, mayUse)
}

// ProbeAtTarget is like ProbeInRetry. It is called if the proxies have just failed at the retry's target. Because only
// this target may have banned them, the breaker must have been open for at least targetProbeMin.
func (p *Pool) ProbeAtTarget(mayUse func(*Upstream) bool) bool {
	return p.probeInRetry(targetProbeMin, breaker.ReasonTargetFails, mayUse)
}

func (p *Pool) probeInRetry(after time.Duration, reason string, mayUse func(*Upstream) bool) bool {
	if p.literal.Load() {
		return false
	}
	notClosed := p.NotClosed()
	if len(notClosed) == 0 || len(notClosed) > breakersPerSweep {
		return false
	}
	p.probeEarly(notClosed, after, reason, mayUse)
	return true
}

// earlyAfter returns how long a breaker must have been open for an early probe if no breaker is closed.
func (p *Pool) earlyAfter() time.Duration {
	since := p.Elapsed(p.now()) - time.Duration(p.lastClosed.Load())
	return min(max(since/16, earlyMin), earlyMax)
}

// sweepEarly begins an early probe if one is due, without waiting for a request. If few breakers are closed, their
// proxies may be the next ones to fail, while proxies with open breakers may work again.
func (p *Pool) sweepEarly(notClosed []*Upstream) {
	share, at := p.closedShare(notClosed), p.Elapsed(p.now())
	if share != noneClosed {
		p.lastClosed.Store(int64(at))
	}
	switch {
	case share == noneClosed:
		p.probeEarly(notClosed, p.earlyAfter(), breaker.ReasonNoneClosed, anyProxy)
	case share == fewClosed && at-p.lastFew >= fewInterval:
		p.lastFew = at
		uses := uint64(0)
		for _, u := range p.Snapshot().All {
			uses += u.AttemptCount()
		}
		if uses < p.lastUses { // a proxy was removed
			p.lastUses = uses
		}
		if uses-p.lastUses >= fewUses &&
			p.probeEarly(notClosed, fewMin, breaker.ReasonFewClosed, (*Upstream).HasServed) {
			p.lastUses = uses
		}
	}
}

// probeEarly makes one breaker half-open, and returns true: the breaker that has been open longest. It ignores the
// proxies for which mayUse returns false. It does nothing and returns false in three cases: no breaker has been open
// for the given time; a half-open breaker waits for its probe; or the last early probe has just begun, and probeEarly
// is not called for a retry.
func (p *Pool) probeEarly(notClosed []*Upstream, after time.Duration, reason string, mayUse func(*Upstream) bool,
) bool {
	at, longest := p.Elapsed(p.now()), (*Upstream)(nil)
	oldest := at - after
	for _, u := range notClosed {
		if !mayUse(u) {
			continue
		}
		switch state := u.State(); {
		case state == core.HalfOpen && u.breaker.AwaitsProbe():
			return false
		case state == core.Open && !u.IsUnreached() && !u.Draining():
			if v := u.breaker.Snapshot(); v.State == core.Open && v.LastChangeOffset <= oldest {
				longest, oldest = u, v.LastChangeOffset
			}
		}
	}
	inRetry := reason == breaker.ReasonPoolFails || reason == breaker.ReasonTargetFails
	if longest == nil || !inRetry && !p.takeEarly(at) {
		return false
	}
	longest.breaker.MakeHalfOpen(reason)
	return true
}

// takeEarly reports whether an early probe may begin now. If it returns true, it has moved the time of the next early
// probe (nextEarly), so the caller must begin a probe. Two early probes may begin at the same time.
func (p *Pool) takeEarly(at time.Duration) bool {
	next := p.nextEarly.Load()
	return time.Duration(next) <= at+earlyInterval &&
		p.nextEarly.CompareAndSwap(next, max(next, int64(at))+int64(earlyInterval))
}

func anyProxy(*Upstream) bool { return true }

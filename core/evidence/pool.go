package evidence

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// poolTest detects that the share of failures in the pool is much higher than usual, because several of the proxies in
// use have stopped working at once. Retries then prefer the proxies that have not failed since this began. The test is
// Page's CUSUM test: a failure adds evidence to a sum, and a success takes some away, down to 0.
type poolTest struct {
	sum    atomic.Int64  // nats, times poolScale; 0 if nothing has failed lately
	fails  atomic.Bool   // the sum has reached poolNeeded, and has not been 0 since
	failed atomic.Uint64 // bits of the proxies that have failed since the sum was 0 (proxyBit)
	served atomic.Uint64 // bits of the proxies in failed whose latest attempt succeeded
	last   atomic.Int64  // the latest failure, ns after the epoch

	mu             sync.Mutex // held by writers of the fields above; guards the fields below
	firstTarget    uint64     // the target of the first failure since the sum was 0
	severalTargets bool
}

// The constants of poolTest.
const (
	poolP1    = 0.5 // the probability with which an attempt fails if several proxies have stopped working
	poolScale = 1024
	// At this sum, the pool counts as failing. Noise alone reaches it about once in 100,000 attempts: 11.5 is
	// log(100,000).
	poolNeeded    = 11.5 * poolScale
	maxPoolSum    = 2 * poolNeeded  // limit of the sum, so that it is soon 0 after the failures have ended
	poolResetTime = 2 * time.Second // time without a failure after which the sum becomes 0
	maxNoise      = 0.4             // so a failure adds at least 0.2 nats
	// poolSuccess is the amount by which a success reduces the sum, at the lowest noise. A higher noise would require a
	// smaller amount.
	poolSuccess = poolScale * 69 / 100
)

// proxyBit returns the bit that stands for a proxy. In a large pool, several proxies have the same bit.
func proxyBit(proxy uint64) uint64 { return 1 << (proxy & 63) }

// addFailure adds a failure. The parameter noise is the share of the pool's attempts that usually fail.
func (t *poolTest) addFailure(a *Attempt, noise float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sum.Load() == 0 || a.Ended-time.Duration(t.last.Load()) > poolResetTime {
		t.sum.Store(0)
		t.fails.Store(false)
		t.failed.Store(0)
		t.served.Store(0)
		t.firstTarget, t.severalTargets = a.Target.Hash, false
	}
	t.severalTargets = t.severalTargets || a.Target.Hash != t.firstTarget
	t.failed.Or(proxyBit(a.Proxy))
	t.served.And(^proxyBit(a.Proxy))
	t.last.Store(int64(a.Ended))
	sum := min(t.sum.Load()+int64(math.Log(poolP1/min(noise, maxNoise))*poolScale), maxPoolSum)
	t.sum.Store(sum)
	if sum >= poolNeeded && t.severalTargets {
		t.fails.Store(true)
	}
}

func (t *poolTest) addSuccess(proxy uint64) {
	if t.sum.Load() == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.served.Or(t.failed.Load() & proxyBit(proxy))
	sum := max(t.sum.Load()-poolSuccess, 0)
	t.sum.Store(sum)
	if sum == 0 {
		t.fails.Store(false)
	}
}

// addToPool adds a failure to the test of the pool. It leaves out failures that the target has probably caused, such as
// those at unknown targets, whose names may not exist.
func (l *Ledger) addToPool(a *Attempt, f *Finding) {
	if a.ServedByOther || a.NotInStats || !a.OwnFailure && (f.TargetFails || l.findOrAdd(a.Target).isUnknown()) {
		return
	}
	noise, own := l.poolNoise()
	l.pool.addFailure(a, noise+own-minNoise) // both include minNoise
}

// FailingProxies is a set of proxies. The zero value is the empty set.
type FailingProxies struct{ failed, served uint64 }

// FailingProxies returns the proxies that have failed lately. The set is empty unless a much larger share of the pool's
// attempts than usual fails, at several targets.
func (l *Ledger) FailingProxies(now time.Duration) FailingProxies {
	if t := &l.pool; t.fails.Load() && now-time.Duration(t.last.Load()) <= poolResetTime {
		return FailingProxies{t.failed.Load(), t.served.Load()}
	}
	return FailingProxies{}
}

// Empty reports whether the set is empty.
func (f FailingProxies) Empty() bool { return f.failed == 0 }

// Failed reports whether the proxy is in the set. In a large pool, the result may be true for other proxies.
func (f FailingProxies) Failed(proxy uint64) bool { return f.failed&proxyBit(proxy) != 0 }

// Serves reports whether the proxy is in the set, and its latest attempt has succeeded.
func (f FailingProxies) Serves(proxy uint64) bool { return f.served&proxyBit(proxy) != 0 }

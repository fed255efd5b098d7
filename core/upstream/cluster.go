package upstream

import (
	"math"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
)

// Observed holds the results of this gateway's attempts through a proxy, in the form in which the nodes of a cluster
// share them.
type Observed struct {
	Failures  int           // in the breaker's window
	Threshold int           // failures that open the breaker
	Evidence  float64       // against the proxy, in nats
	Needed    float64       // evidence that opens the breaker, in nats
	Failing   time.Duration // time since the first of these failures; 0 if the proxy does not fail now
	Served    time.Duration // time since the last success; negative if there was none
	Open      bool          // the breaker is not closed, and the cluster did not open it
	OpenFor   time.Duration // see breaker.Breaker.OpenTime

	InARow     int           // failures since the last success, also those that a target may have caused
	Streak     int           // those of them that are in the statistics
	LastFailed time.Duration // time since the last of them, if InARow is not 0
}

// Observed returns the results of the attempts through the proxy.
func (u *Upstream) Observed() Observed {
	now := u.now()
	at := u.Elapsed(now)
	view := u.breaker.Snapshot()
	o := Observed{
		Failures: view.FailureCount, Threshold: view.Config.FailureThreshold,
		Needed: evidence.NeededEvidence, Served: -1,
		Open: view.State != core.Closed && !u.flags.has(openedByCluster), OpenFor: u.breaker.OpenTime(),
	}
	streak, last := u.window.ownStreak()
	o.Streak = min(streak, int(u.uses.Load())) // Seed adds failures of other gateways
	o.InARow = o.Streak
	if x := u.attemptFields.Load(); x != nil {
		n, lastInARow := x.book.FailuresInARow()
		o.InARow, last = max(o.InARow, n), max(last, lastInARow)
	}
	if o.InARow > 0 {
		o.LastFailed = max(at-last, 0)
	}
	if u.HasServed() {
		o.Served = at - time.Duration(u.window.lastSuccess.Load())
	}
	if u.pool.literal.Load() {
		u.observeLiteral(&o, now)
	} else if w := u.EvidenceReport(); w.Failures > 0 && (o.Open || at-w.LastFailure <= view.Config.WindowDuration) {
		o.Evidence, o.Failing = w.Evidence, at-w.Since
	}
	if o.Open {
		o.Failures, o.Evidence = o.Threshold, o.Needed
		if o.Failing == 0 || o.Failing > at-u.added {
			o.Failing = at - view.LastChangeOffset
		}
	}
	if o.Evidence <= 0 && !o.Open {
		o.Failing = 0
	}
	if o.Failing > 0 || o.Open {
		o.Failing = max(o.Failing, time.Millisecond)
	}
	return o
}

// WhyText returns the evidence against the proxy in words.
func (u *Upstream) WhyText() string {
	why := u.EvidenceReport()
	return why.Text(causeWord)
}

// observeLiteral sets the evidence in o if breaker.blame is "literal". The breakers of the pool then only count
// failures. If the proxy's last attempt has failed, o gets as much evidence as a breaker needs to open.
func (u *Upstream) observeLiteral(o *Observed, now time.Time) {
	first, found := u.breaker.FirstFailure()
	if !found || o.Streak == 0 {
		return
	}
	o.Evidence, o.Failing = o.Needed, now.Sub(first)
	if o.Served >= 0 {
		o.Failing = min(o.Failing, o.Served)
	}
}

// UsedSince returns the number of proxies through which an attempt began at the given time (Pool.Elapsed) or later.
func (p *Pool) UsedSince(at time.Duration) (n int) {
	for _, u := range p.Snapshot().All {
		if last := u.lastAcquire.Load(); last > 0 && last >= int64(at) {
			n++
		}
	}
	return n
}

// Learn records the latest failures of the proxy on other gateways: their number, and the end of the last one
// (Pool.Elapsed). Until an attempt through the proxy succeeds here, a selection takes them for failures of this
// gateway. They are no part of the statistics that Stats returns. They replace those of the last call. If avoid is set,
// the proxy is not preferred for learntPause. With breaker.blame "literal" they have no effect.
func (u *Upstream) Learn(failures int, last time.Duration, avoid bool) {
	if u.pool.literal.Load() {
		failures, avoid = 0, false
	}
	avoid = avoid && !u.ServedSince(last)
	if failures > 0 || avoid {
		u.ensureAttemptFields().learntAt.Store(int64(last))
	}
	u.flags.set(hasLearnt, u.window.learn(&u.stats, failures, last))
	if avoid {
		u.slowStart.pause()
	} else {
		u.slowStart.resume()
	}
}

// forgetLearnt ends the effect of failures that are older than learntFor, because the store may be lost.
func (u *Upstream) forgetLearnt(at time.Duration) {
	if u.flags.has(hasLearnt) && at-time.Duration(u.ensureAttemptFields().learntAt.Load()) > learntFor {
		u.Learn(0, 0, false)
	}
}

// The times of failures on other gateways.
const (
	learntFor   = time.Minute            // time for which they count, without a success
	learntPause = 400 * time.Millisecond // the time in which a breaker that may open for the cluster opens
)

// seedSamples is the maximum number of attempts that Seed takes from the statistics of another gateway.
const seedSamples = 10

// Seed fills the statistics of a proxy without attempts with the statistics of another gateway: its share of
// successes, its number of attempts, and its mean latency. If the proxy has statistics of its own, Seed does nothing.
func (u *Upstream) Seed(successRate float64, samples int, latency time.Duration) {
	if u.Stats().Samples > 0 || samples <= 0 {
		return
	}
	n := min(samples, seedSamples)
	good := int(math.Round(successRate * float64(n)))
	at, memory := u.Elapsed(u.now()), time.Duration(u.pool.memory.Load())
	served := u.window.lastSuccess.Load()
	for i := range n {
		v := core.Failure
		if i >= n-good { // the successes come last, so that the statistics do not end with failures
			v = core.Success
		}
		u.window.addAttempt(&u.stats, v, attemptResult{latency: latency, at: at}, memory, u.pool.literal.Load())
	}
	u.window.lastSuccess.Store(served) // no attempt of this gateway has succeeded
}

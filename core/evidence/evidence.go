package evidence

import (
	"math"
	"time"
)

// The constants of the test.
const (
	// P1 is the probability with which an attempt through a bad proxy fails. A proxy
	// that fails 80 % of its attempts has to be found too, so P1 is not near 1.
	P1 = 0.85
	// Needed is the evidence, in nats, at which a proxy is worse than the others:
	// log(730,000). Four failures reach it if the noise is 1 %, and three do not.
	Needed = 13.5
)

// The constants of the noise. More attempts make an estimate change more slowly.
const (
	minNoise    = 0.01 // lowest estimate: a failure adds at most 4.4 nats
	maxOwnNoise = 0.5  // highest estimate for own failures: an own failure adds at least 0.53 nats

	priorWeight  = 4.0 // the pool's noise begins as if it had this many attempts at minNoise
	poolMemory   = 500 // the pool's noise is the mean of about this many attempts
	poolWeight   = 8.0 // a target's noise begins as if it had this many attempts at the pool's noise
	targetMemory = 300 // a target's noise is the mean of about this many attempts
)

// The constants of pending failures and special cases.
const (
	discardAfter = 8             // failures of other proxies at the target that discard a pending failure
	banLimit     = 0.45 * Needed // nats from one target that may have banned the proxy: two are not enough

	// maxUncompared is the largest number of pending failures that is required where no other proxy tries the
	// target. The required number is twice the breaker's failure_threshold: 10 by default.
	maxUncompared = 12

	// unknownFailure is the evidence, in nats, of a failure at an unknown target (target.unknown): log(1 / 0.82).
	// So it is assumed that 82 % of such targets are dead.
	unknownFailure = 0.2
	// unknownAttempts is the number of first attempts for which a target without a success is unknown. It is
	// enough for two requests with three attempts each, and for a part of a third request.
	unknownAttempts = 8

	minOutage = time.Second / 10 // shortest outage, in a pool that has served (docs/decisions/bursts.md)
	// minEpisode is the time that the failures must span if half of the breakers are not closed (same page).
	minEpisode = time.Second / 4
)

// The constants of a target's state.
const (
	comparedAttempts = 8               // latest attempts of the other proxies that a Finding is made from
	justServed       = 2 * time.Second // age of a success up to which Finding.JustServed is set

	// A target is suspect after suspectFailures failures without a success between
	// them, through suspectProxies proxies. Three requests with three attempts each make nine.
	suspectFailures = 9
	suspectProxies  = 3
	usualEvery      = time.Second // shortest time between two requests for a suspect target that get all their attempts
)

// Target is a host and port.
type Target struct {
	Hash uint64 // of Name
	Name string // host:port
}

// Attempt is a finished attempt.
type Attempt struct {
	Proxy  uint64 // hash of the proxy's id
	Book   *Book  // of the proxy
	Gen    uint64 // generation of the proxy's breaker that admitted the attempt
	Target Target
	At     time.Duration // end, counted from the ledger's epoch on a monotonic clock
	Began  time.Duration // beginning, counted in the same way; 0 stands for At

	// The following fields are only read for failures.

	Own           bool          // only the proxy can have caused the failure
	Uncounted     bool          // the attempt is not in the proxy's statistics, because it was a check
	ServedByOther bool          // another proxy has served the same request afterwards, so this is no outage
	Cause         uint8         // counted for Why, but not interpreted
	Threshold     int           // failure_threshold of the proxy's breaker
	Window        time.Duration // window_duration of the proxy's breaker
	Peers         int           // other proxies of the pool whose breaker is closed
	Pool          int           // proxies of the pool
}

func (a *Attempt) began() time.Duration {
	if a.Began == 0 {
		return a.At
	}
	return a.Began
}

// enoughPeers reports whether the breakers of more than half of the pool are closed, including the breaker of
// the attempt's own proxy.
func (a *Attempt) enoughPeers() bool { return 2*(a.Peers+1) > a.Pool }

// Finding is the conclusion from a failure.
type Finding struct {
	// Worse means that the proxy is worse than the others, or that it cannot be compared with others. Its breaker
	// may open if its threshold is met.
	Worse bool
	// TargetFails means that the latest attempts of the other proxies at the target have all failed too (4 to 8
	// attempts of the last minute). The failure does not count against the proxy.
	TargetFails bool
	// OthersFail means that there were attempts of other proxies at the target lately, and that all of them
	// failed.
	OthersFail bool
	// JustServed means that one of the latest attempts of the other proxies at the target was a success, and
	// began within the last 2 s. So the proxy is the likely cause.
	JustServed bool
}

// NotByProxy reports whether the target is the likely cause of the failure.
func (f *Finding) NotByProxy() bool { return f.TargetFails || f.OthersFail && !f.JustServed }

// llr returns the log-likelihood ratios of a failure and of a success, in nats,
// if the noise is q.
func llr(q float64) (failure, success float64) {
	return math.Log(P1 / q), math.Log((1 - P1) / (1 - q))
}

// rate is a share of failures among attempts, in which old attempts lose their weight. It is minNoise before
// the first attempt.
type rate struct{ failures, attempts float64 }

func (r *rate) add(failures, attempts float64) {
	r.failures += failures
	r.attempts += attempts
	if r.attempts > poolMemory {
		r.failures *= poolMemory / r.attempts
		r.attempts = poolMemory
	}
}

// estimate returns the share, between minNoise and limit.
func (r *rate) estimate(limit float64) float64 {
	return clamp((r.failures+priorWeight*minNoise)/(r.attempts+priorWeight), limit)
}

func clamp(q, limit float64) float64 { return min(max(q, minNoise), limit) }

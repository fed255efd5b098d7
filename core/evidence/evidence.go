package evidence

import (
	"math"
	"time"
)

// The constants of the test.
const (
	// BadProxyFailureRate is the probability with which an attempt through a bad proxy fails. The rate is well below 1,
	// because a proxy that fails 80 % of its attempts has to be detected, too.
	BadProxyFailureRate = 0.85
	// NeededEvidence is the evidence, in nats, from which a proxy counts as worse than the other proxies: log(730,000).
	// If the noise is 1 %, four failures reach this evidence, and three do not.
	NeededEvidence = 13.5
)

// The constants of the noise. The more attempts an estimate uses, the more slowly it changes.
const (
	minNoise    = 0.01 // lowest estimate, so a failure adds at most 4.4 nats
	maxOwnNoise = 0.5  // highest estimate for own failures, so an own failure adds at least 0.53 nats

	priorWeight  = 4.0 // the pool's noise begins as if it had this many attempts at minNoise
	poolMemory   = 500 // the pool's noise is the mean of about this many attempts
	poolWeight   = 8.0 // a target's noise begins as if it had this many attempts at the pool's noise
	targetMemory = 300 // a target's noise is the mean of about this many attempts
)

// The constants of pending failures and special cases.
const (
	discardAfter = 8                     // failures of other proxies at the target that discard a pending failure
	banLimit     = 0.45 * NeededEvidence // limit of the evidence from a target that may ban the proxy

	aliveFailures = 2 // a proxy with more failures since its last success may be dead, and not banned

	// The counts of failures and attempts at other targets begin with these values. Two failures at one target and
	// three successes at other targets then show a ban.
	elsewhereFailures, elsewhereAttempts = 0.2, 2.0

	// A proxy may have pending failures at targets for which no other proxy has been used. These failures count if
	// their number is at least 2 x failure_threshold or at least maxUncompared.
	maxUncompared = 12

	// unknownFailure is the evidence, in nats, of a failure at an unknown target. It is log(1 / 0.82): 82 % of such
	// targets are assumed to be dead.
	unknownFailure = 0.2
	// A target without a success is unknown until it has had unknownAttempts attempts. Two requests with three
	// attempts each stay below this number, and a third request exceeds it.
	unknownAttempts = 8

	// The minimum durations of an outage: minOutage if the pool has served requests, otherwise minFirstOutage
	// (docs/decisions/bursts.md).
	minOutage      = time.Second / 10
	minFirstOutage = time.Second / 40
	// minEpisode is the minimum time that the failures must span if at least half of the breakers are not closed
	// (docs/decisions/bursts.md).
	minEpisode = time.Second / 4
)

// The constants of a target's state.
const (
	comparedAttempts    = 8               // number of the other proxies' latest attempts that a Finding uses
	maxRecentSuccessAge = 2 * time.Second // maximum age of a success for Finding.OtherJustSucceeded

	// A target becomes suspect if its last suspectFailures attempts failed, through at least suspectProxies proxies.
	// Nine failures are three requests with three attempts each. If the pool's noise makes nine failures in a row
	// likelier than suspectChance, more failures are needed, but at most ringSize. If the target bans proxies, ringSize
	// failures are needed, because attempts through proxies that have not been used there may succeed.
	suspectFailures = 9
	suspectProxies  = 3
	suspectChance   = 1e-5
	// A request for a suspect target gets all its attempts only if the last such request was at least this long ago. If
	// the target hangs, hangingRetryInterval is used instead of suspectRetryInterval.
	suspectRetryInterval, hangingRetryInterval = time.Second, 5 * time.Second

	// A target that has just served others serves none now if at least noneServesFailures attempts have failed since,
	// and chance would cause them with at most noneServesChance.
	noneServesFailures = 3
	noneServesChance   = 1e-4

	failingAttempts = 3               // number of failures in a row from which a target fails (TargetState.Fails)
	justFailed      = 2 * time.Second // maximum age of a failure for TargetState.FailedThrough
)

// Target is a host and port.
type Target struct {
	Hash uint64 // of Name
	Name string // host:port
}

// Attempt is a finished attempt.
type Attempt struct {
	Proxy      uint64 // hash of the proxy's id
	Book       *Book  // of the proxy
	BreakerGen uint64 // breaker.Permit.Generation
	Target     Target
	Ended      time.Duration // after the ledger's epoch, on a monotonic clock
	Began      time.Duration // beginning, on the clock of Ended; 0 stands for Ended

	// The following fields are for failures.

	OwnFailure      bool          // only the proxy can have caused the failure
	ReportedByProxy bool          // the proxy reports that it cannot reach the target
	TargetBans      bool          // the target has probably banned a proxy of the pool (upstream.Pool.Avoided)
	NotInStats      bool          // the attempt is a health check, which is not in the statistics
	ServedByOther   bool          // another proxy has served the same request afterwards, so there is no outage
	Cause           uint8         // counted for Report
	Threshold       int           // failure_threshold of the proxy's breaker
	Window          time.Duration // window_duration of the proxy's breaker
	ClosedPeers     int           // other proxies of the pool whose breaker is closed
	PoolSize        int           // proxies of the pool
}

func (a *Attempt) beginTime() time.Duration {
	if a.Began == 0 {
		return a.Ended
	}
	return a.Began
}

// mostBreakersClosed reports whether more than half of the pool's breakers are closed. The breaker of the attempt's
// proxy counts as closed.
func (a *Attempt) mostBreakersClosed() bool { return 2*(a.ClosedPeers+1) > a.PoolSize }

// wantedProxies returns through how many proxies attempts must fail, so that the target is the likely cause:
// suspectProxies or, if fewer proxies have a closed breaker, all of them, but at least two.
func (a *Attempt) wantedProxies() int { return min(suspectProxies, max(a.ClosedPeers+1, 2)) }

// Finding is the conclusion from a failure.
type Finding struct {
	// ShouldOpen means that the evidence is enough to open the proxy's breaker: the proxy is worse than the other
	// proxies, or cannot be compared with them.
	ShouldOpen bool
	// TargetFails means that the latest attempts of the other proxies at the target all failed. It uses the last 8
	// attempts of the last minute, and there must be at least 4. The failure does not count against the proxy.
	TargetFails bool
	// OthersFail means that the latest attempts of the other proxies at the target all failed. Unlike TargetFails,
	// OthersFail needs only one attempt.
	OthersFail bool
	// OtherJustSucceeded means that another proxy has succeeded at the target within the last 2 s. The proxy is then
	// the likely cause.
	OtherJustSucceeded bool
	// NoneServesNow means that OtherJustSucceeded is set, but since the latest success at the target, attempts have
	// failed through at least three proxies, this one included, or through all of a smaller pool. There are too many
	// of them for chance. It is not set if the target bans proxies, or if much more of the pool's attempts fail than
	// usual.
	NoneServesNow bool
	// Banned means that the target probably refuses this proxy, which may still be good for other targets: other
	// proxies succeed at the target, several targets have successes, and the proxy seldom fails elsewhere.
	Banned bool
	// Uncompared means that only this proxy has been used for the target, and has failed there at least twice.
	Uncompared bool
}

// BlamesTarget reports whether the target is the likely cause of the failure.
func (f *Finding) BlamesTarget() bool { return f.TargetFails || f.OthersFail && !f.OtherJustSucceeded }

// ServesOthersNow reports whether the target probably serves other proxies at this moment.
func (f *Finding) ServesOthersNow() bool { return f.OtherJustSucceeded && !f.NoneServesNow }

// logLikelihoods returns the log-likelihood ratios of a failure and of a success at the noise q, in nats.
func logLikelihoods(q float64) (failure, success float64) {
	return math.Log(BadProxyFailureRate / q), math.Log((1 - BadProxyFailureRate) / (1 - q))
}

// rate holds the numbers from which the share of failed attempts is estimated. If there are more than poolMemory
// attempts, the weight of the old attempts is reduced.
type rate struct{ failures, attempts float64 }

func (r *rate) add(failures, attempts float64) {
	r.failures += failures
	r.attempts += attempts
	if r.attempts > poolMemory {
		r.failures *= poolMemory / r.attempts
		r.attempts = poolMemory
	}
}

// estimate returns an estimate of the share of failed attempts. The result is at least minNoise, and at most limit.
func (r *rate) estimate(limit float64) float64 {
	return clamp((r.failures+priorWeight*minNoise)/(r.attempts+priorWeight), limit)
}

func clamp(q, limit float64) float64 { return min(max(q, minNoise), limit) }

// Package evidence decides whether the failures of a proxy show that the proxy is
// bad, by comparing it with the other proxies of its pool at the same targets.
//
// # The question
//
// A failed attempt has one of three explanations:
//
//   - The target fails, whichever proxy is used.
//   - Noise: some attempts fail for no lasting reason.
//   - The proxy is bad.
//
// Only a bad proxy's circuit breaker may open.
//
// # The test
//
// The rule is a sequential probability ratio test (SPRT), repeated as a CUSUM
// chart. It compares two hypotheses about the proxy:
//
//   - The proxy is as good as the other proxies: its attempts at a target fail with probability q, the noise of
//     that target.
//   - The proxy is bad: its attempts fail with probability p = 0.85 ([BadProxyFailureRate]).
//
// Each attempt adds its log-likelihood ratio to the proxy's evidence. The result of the attempt has one probability if
// the proxy is bad, and another one if the proxy is good. The log-likelihood ratio is the logarithm of the first
// probability divided by the second one.
//
//	failure: log(p / q)           above 0; +4.4 if q is 1 %
//	success: log((1-p) / (1-q))   below 0; -1.9 if q is 1 %
//
// The unit is the nat: an evidence of x nats means that all results together are
// e^x times likelier for a bad proxy than for a good one. (Wald, "Sequential tests
// of statistical hypotheses", Annals of Mathematical Statistics 16, 1945.)
//
// An episode begins with a failure, at evidence 0. It ends when the evidence is back at 0 or below. After that, the
// attempts of the episode no longer count. (Page, "Continuous inspection schemes", Biometrika 41, 1954.) The proxy is
// worse than the other proxies if the evidence reaches [NeededEvidence] = 13.5 nats within an episode. If the proxy is
// good, this is a false alarm. By Wald's inequality, a false alarm happens in at most one of e^13.5 = 730,000 episodes
// of a good proxy.
//
// Example: q is 1 % and a proxy dies. Its evidence is 4.4, 8.9, 13.3 and 17.8 after
// the first four failures: the fourth exceeds 13.5. docs/verdicts.md has a
// longer example and a picture.
//
// # Which failures count
//
// A failure that only the proxy can cause (connection refused, TLS, SOCKS greeting, credentials) is an own failure.
// It counts without a comparison.
//
// Any other failure may be caused by the target. It is pending until other proxies have had attempts at the same
// target:
//
//   - It is confirmed, and counts, as soon as another proxy succeeds at the target, in an attempt that began after the
//     failure. A success of an attempt that began before the failure proves nothing: the target may have died
//     since.
//   - It is discarded if eight attempts of other proxies fail there instead. So the failures at a dead target never
//     count.
//
// Failures may be confirmed after the proxy's latest attempt. The pool therefore calls [Ledger.Reconsider] ten times a
// second for each proxy with pending failures.
//
// # Noise
//
// The noise q of a target is the share of failures among the attempts of the other proxies there. It includes only
// transient failures: failures after which the same proxy succeeded at the target again. Otherwise the failures of dead
// proxies would count as noise, and in a pool that is half dead no breaker would open.
//
// For a target with few attempts, the noise of the pool is used: the share of transient confirmed failures among the
// attempts at all targets. Failures at a name that does not exist are never confirmed, so they do not count as noise.
// Own failures are compared with the pool's transient own failures.
//
// # Special cases
//
// Ban. If all attempts of a proxy at a target fail, but the attempts of other proxies succeed there, the target has
// probably banned the proxy. The proxy is still good for other targets. If attempts succeed at several targets, the
// evidence from a target without a success in the episode is therefore limited (docs/decisions/ban-limit.md). The pool
// avoids the proxy for the target (Finding.Banned) if the proxy seldom fails at other targets, and the other proxies
// seldom fail at this one.
//
// No comparison. In a pool that never had a second proxy every failure counts, and the breaker's failure_threshold
// alone decides. If the other proxies have no attempts at the target, or their breakers are not closed, pending
// failures are compared with the noise that was measured before these failures. If no other proxy has an attempt at the
// target, this comparison requires several sequential failures. Failures are sequential if each attempt began after the
// previous one had failed: attempts that fail at the same time count as only one observation.
//
// Outage. In an outage, all proxies fail at several targets, or by own failures, and there is no success that could
// confirm a failure. The failures since the pool's last success are then compared with the pool's noise. These failures
// must also span 0.1 s, or 25 ms if no attempt of the pool has ever succeeded.
//
// Unknown target. A target without a success and with less than eight attempts may be a name that does not exist.
// Clients may request many such names, each once. In an outage, or if no other breaker is closed, no success can
// confirm a failure. A failure at an unknown target then adds only 0.2 nats if an attempt of the pool has succeeded
// before. Otherwise the limit of 0.2 nats applies only to failures that the proxy reports as "cannot reach the target".
//
// Half of the pool. If at least half of the breakers are not closed, the failures of an episode must span 0.25 s. A
// short disturbance then does not open the remaining breakers.
//
// # Data structures
//
// A [Ledger] belongs to a pool and holds the targets with a recent failure. A [Book] belongs to a proxy and holds its
// failures at up to 16 of these targets, in one record per target. A success takes no lock and allocates nothing. At
// a target without a recent failure, a success costs a few atomic loads and one addition. A target takes about 400
// bytes, a record 64.
package evidence

// The least loaded of the good proxies. A proxy that is worse gets an attempt only if the
// good ones have much more in flight.
//
//   cost = (1 + in flight / weight) * penalty; the score is -cost
//
// The penalty is 1, so that equal proxies take turns, with these exceptions.
//
// Failures that chance does not explain: with f failures in n attempts and the failure
// rate q of the good proxies, f - 1/2 > e + 1.5 sqrt(e (1 - q)), e = n q. (The control chart
// for proportions, Shewhart 1931, with a correction for continuity.) The penalty is
// 16, under load (at least as many attempts in flight as candidates) 1 + 30 (f/n - q) and at
// most 16: a proxy with too much load fails as well, and to avoid it altogether would overload
// the next one. Up to 9 failures in a row are not counted if the attempts before them were good:
// about a proxy that has stopped working it is the breaker that decides.
//
// Little knowledge under load: the penalty is 16 for a proxy whose attempts have had no
// success yet, and for one with less than 20 attempts and a failure rate that exceeds q by more
// than 5 % (both shrunk by two attempts that fail at the rate q). Many attempts would go to it
// before the results of the first. Without load such a proxy takes its turn, and so is
// explored (optimism under uncertainty, as in UCB1: Auer and others, Machine Learning 47, 2002).
//
// Latency: if its exponentially weighted mean, plus 10 ms, is more than 5 times that of the
// fastest good proxy, the penalty is multiplied by the ratio. Load times latency is the
// cost of "peak EWMA" (Finagle); load first and latency second is the rule of Prequal
// (Wydrowski and others, "Load is not what you should balance", NSDI 2024).
import { Candidate, RankRequest, ROW } from "./abi";
export { reserve, whirlpool_abi_v1 } from "./abi";

/** Standard deviations by which failures must exceed the expected number. */
const DEVIATIONS: f64 = 1.5;
/** Penalty for an excess failure rate of 1. */
const SLOPE: f64 = 30;
/** The largest penalty for failures, and that for little knowledge under load. */
const LIMIT: f64 = 16;
/** Failures in a row up to which the breaker decides, if the attempts before them were good. */
const STREAK: f64 = 10;
/** Attempts below which little is known of a proxy. */
const FEW: f64 = 20;
/** Excess failure rate of a proxy with few attempts that makes it doubtful. */
const MARGIN: f64 = 0.05;
/** Latencies up to this many times the lowest count as equal. */
const SLOWER: f64 = 5;
/** Added to latencies before they are compared, s. */
const OFFSET: f64 = 0.01;
/** Failures that are added to those of the good proxies, with one attempt. */
const PRIOR: f64 = 0.5;
/** How often the failure rate of the good proxies is computed anew at most. */
const ROUNDS = 3;

export function score(request: RankRequest, rows: usize, scores: usize, count: i32): i32 {
  const end = rows + <usize>count * ROW;
  let q = 1.0;
  let failed = 0.0;
  let inFlight = 0.0;
  let fastest = Infinity;
  let slowest = 0.0;
  let out = scores;
  for (let row = rows; row < end; row += ROW, out += 8) {
    const c = changetype<Candidate>(row);
    store<f64>(out, -(1 + c.inFlight / max(c.weight, 1e-9)));
    inFlight += c.inFlight;
    const f = failures(c);
    failed += f;
    if (c.samples > 0) q = min(q, (f + PRIOR) / (c.samples + 1));
    const latency = c.latencyEWMA;
    if (latency > 0) fastest = min(fastest, latency);
    // infinite without a success
    slowest = max(slowest, latency > 0 || c.uses == 0 ? latency : Infinity);
  }
  if (failed < 0.5 && slowest + OFFSET <= SLOWER * (fastest + OFFSET)) return 0;

  for (let n = 0; n < ROUNDS; n++) { // from the best proxy's rate to that of all that are not worse
    let attempts = 1.0;
    let f = PRIOR;
    fastest = Infinity;
    for (let row = rows; row < end; row += ROW) {
      const c = changetype<Candidate>(row);
      if (worse(c, q)) continue;
      attempts += c.samples;
      f += failures(c);
      const latency = c.latencyEWMA;
      if (latency > 0) fastest = min(fastest, latency);
    }
    const next = max(q, f / attempts);
    if (next == q) break;
    q = next;
  }
  const busy = inFlight >= <f64>count;
  for (let row = rows; row < end; row += ROW, scores += 8) {
    const c = changetype<Candidate>(row);
    if (c.breakerState != 0) continue; // the breaker admits a probe
    let penalty = 1.0;
    if (worse(c, q)) penalty = busy ? min(1 + SLOPE * max(1 - c.successRate - q, 0), LIMIT) : LIMIT;
    if (busy && doubtful(c, q)) penalty = LIMIT;
    const ratio = (c.latencyEWMA + OFFSET) / (fastest + OFFSET);
    if (ratio > SLOWER) penalty *= ratio;
    store<f64>(scores, load<f64>(scores) * penalty);
  }
  return 0;
}

/** The failed ones of the attempts in the proxy's statistics. */
// @ts-ignore: decorator
@inline
function failures(c: Candidate): f64 {
  return c.samples * (1 - c.successRate);
}

/** Whether chance does not explain the failures, and the breaker does not decide about them. */
// @ts-ignore: decorator
@inline
function worse(c: Candidate, q: f64): bool {
  const f = failures(c);
  if (!unlikely(f, c.samples, q)) return false;
  const streak = c.consecutiveFailures;
  return streak == 0 || streak >= STREAK || unlikely(f - streak, c.samples - streak, q);
}

/** Whether f failures in n attempts are more than chance explains. */
// @ts-ignore: decorator
@inline
function unlikely(f: f64, n: f64, q: f64): bool {
  const expected = n * q;
  const excess = f - 0.5 - expected;
  return excess > 0 && excess * excess > DEVIATIONS * DEVIATIONS * expected * (1 - q);
}

/** Whether little is known of a proxy, and nothing that speaks for it. */
// @ts-ignore: decorator
@inline
function doubtful(c: Candidate, q: f64): bool {
  if (c.latencyEWMA == 0) return c.uses > 0;
  return c.samples < FEW && (failures(c) - c.samples * q) / (c.samples + 2) > MARGIN;
}

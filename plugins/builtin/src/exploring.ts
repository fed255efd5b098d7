// A scorer that chooses the least loaded of the good proxies. It chooses a worse proxy only if the
// good ones have many more attempts in flight.
//
// The score is -cost, where cost = (1 + in flight / weight) * penalty.
//
// The penalty is usually 1, so that equal proxies take turns. There are three exceptions.
//
// 1. More failures than chance explains. Let f be the failures in n attempts, q the failure rate of
// the good proxies, e = n q the expected failures, and s = sqrt(e (1 - q)) their standard deviation.
// The proxy is worse if f > e + 1/2 + 1.5 s or f > e + 1 + s: control charts for proportions
// (Shewhart 1931) with corrections for continuity. Its penalty is 16. Under load (at least as many
// attempts in flight as candidates) only the first limit counts, and the penalty is 1 + 30 (f/n -
// q), at most 16, because a proxy also fails if it is overloaded, and to avoid it completely would
// overload the next proxy. Under heavy load (2.5 times as many) it is 1 + 80 (f/n - q)^2, at most 16: overload is
// then the likely reason of a small excess. Up to 9 failures in a row do not count if the attempts before them
// were good: the breaker decides about a proxy that has stopped working. But if the proxy is used less often
// than every 12 s, its breaker would not get five failures within 60 s, and only one failure does not count. The
// same holds for a proxy that has only failed for as long as the statistics go back.
//
// 2. Too little knowledge under load. The penalty is 16 for a proxy without a success, and for a
// proxy with less than 20 attempts whose failure rate exceeds q by more than 5 % (with two attempts
// added that fail at the rate q). Otherwise many attempts could go to a bad proxy before the first
// of them ends. A streak of failures after at least 5 successes and no failure is left to the breaker
// here too. Without load such a proxy takes its turn: so it is explored (optimism under
// uncertainty, as in UCB1: Auer and others, Machine Learning 47, 2002).
//
// 3. Latency. The exponentially weighted mean latency plus 10 ms is compared with that of the
// fastest good proxy. If it is more than 5 times as long, the penalty is multiplied by the ratio.
// Load times latency is the cost of "peak EWMA" (Finagle). Prequal too considers load first and
// latency second (Wydrowski and others, "Load is not what you should balance", NSDI 2024).
import { Candidate, RankRequest, ROW } from "./abi";
export { reserve, whirlpool_abi_v1 } from "./abi";

/** Failures and standard deviations by which failures must exceed the expected number. */
const FAILURES: f64 = 0.5;
const DEVIATIONS: f64 = 1.5;
/** Without load these are enough, which are less if the standard deviation exceeds 1. */
const FAILURES_IDLE: f64 = 1;
const DEVIATIONS_IDLE: f64 = 1;
/** Penalty for an excess failure rate of 1 under load, and under heavy load. */
const SLOPE: f64 = 30;
const SQUARE: f64 = 80;
/** The load is heavy if the attempts in flight exceed this multiple of the candidates. */
const HEAVY: f64 = 2.5;
/** The largest penalty for failures, and the penalty for too little knowledge under load. */
const LIMIT: f64 = 16;
/** From this number of failures in a row on they count, even if the attempts before them were good. */
const STREAK: f64 = 10;
/**
 * The same for a proxy that was not used for SELDOM seconds, so that its breaker would hardly open, and for a proxy of
 * which only failures are remembered, while more than FORGOTTEN attempts are forgotten.
 */
const STREAK_KNOWN: f64 = 2;
const SELDOM: f64 = 12;
const FORGOTTEN: f64 = 5;
/** With fewer attempts, too little is known of a proxy. */
const FEW: f64 = 20;
/** Number of successes, and no failure, after which a streak of failures is left to the breaker. */
const GOOD: f64 = 5;
/**
 * A proxy with few attempts is doubtful if its failure rate exceeds that of the good proxies by more than
 * this.
 */
const MARGIN: f64 = 0.05;
/** Latencies up to this multiple of the lowest one count as equal. */
const SLOWER: f64 = 5;
/** Added to latencies before they are compared, s. */
const OFFSET: f64 = 0.01;
/** Number of failures added to those of the good proxies, together with one attempt. */
const PRIOR: f64 = 0.5;
/** Maximum number of times that the failure rate of the good proxies is computed. */
const ROUNDS = 3;

export function score(request: RankRequest, rows: usize, scores: usize, count: i32): i32 {
  const end = rows + <usize>count * ROW;
  let failed = 0.0;
  let inFlight = 0.0;
  let fastest = Infinity;
  let slowest = 0.0;
  let out = scores;
  for (let row = rows; row < end; row += ROW, out += 8) {
    const c = changetype<Candidate>(row);
    store<f64>(out, -(1 + c.inFlight / max(c.weight, 1e-9)));
    inFlight += c.inFlight;
    failed += failures(c);
    const latency = c.latencyEWMA;
    if (latency > 0) fastest = min(fastest, latency);
    // a proxy whose attempts had no success counts as infinitely slow
    slowest = max(slowest, latency > 0 || c.uses == 0 ? latency : Infinity);
  }
  if (failed < 0.5 && slowest + OFFSET <= SLOWER * (fastest + OFFSET)) return 0;

  const busy = inFlight >= <f64>count;
  const heavy = inFlight >= HEAVY * <f64>count;
  let q = 1.0;
  for (let row = rows; row < end; row += ROW) {
    const c = changetype<Candidate>(row);
    if (c.samples > 0) q = min(q, (failures(c) + PRIOR) / (c.samples + 1));
  }
  // q begins as the failure rate of the best proxy. Each round sets it to that of all proxies that are not worse.
  for (let n = 0; n < ROUNDS; n++) {
    let attempts = 1.0;
    let f = PRIOR;
    fastest = Infinity;
    for (let row = rows; row < end; row += ROW) {
      const c = changetype<Candidate>(row);
      if (worse(c, q, busy)) continue;
      attempts += c.samples;
      f += failures(c);
      const latency = c.latencyEWMA;
      if (latency > 0) fastest = min(fastest, latency);
    }
    const next = max(q, f / attempts);
    if (next == q) break;
    q = next;
  }
  for (let row = rows; row < end; row += ROW, scores += 8) {
    const c = changetype<Candidate>(row);
    if (c.breakerState != 0) continue; // the breaker of the proxy admits a probe
    let penalty = 1.0;
    if (worse(c, q, busy)) {
      const excess = max(1 - c.successRate - q, 0);
      penalty = busy ? min(1 + excess * (heavy ? SQUARE * excess : SLOPE), LIMIT) : LIMIT;
    }
    if (busy && doubtful(c, q)) penalty = LIMIT;
    const ratio = (c.latencyEWMA + OFFSET) / (fastest + OFFSET);
    if (ratio > SLOWER) penalty *= ratio;
    store<f64>(scores, load<f64>(scores) * penalty);
  }
  return 0;
}

/** Returns the number of failed attempts in the proxy's statistics. */
// @ts-ignore: decorator
@inline
function failures(c: Candidate): f64 {
  return c.samples * (1 - c.successRate);
}

/**
 * Reports whether a proxy has more failures than chance explains, other than a streak that the breaker
 * decides about.
 */
// @ts-ignore: decorator
@inline
function worse(c: Candidate, q: f64, busy: bool): bool {
  const f = failures(c);
  if (!unlikely(f, c.samples, q, busy)) return false;
  const streak = c.consecutiveFailures;
  const forgotten = streak >= c.samples && c.uses - c.inFlight > c.samples + FORGOTTEN;
  const most = c.sinceUse > SELDOM || forgotten ? STREAK_KNOWN : STREAK;
  return streak == 0 || streak >= most || unlikely(f - streak, c.samples - streak, q, busy);
}

/** Reports whether f failures in n attempts are more than chance explains. */
// @ts-ignore: decorator
@inline
function unlikely(f: f64, n: f64, q: f64, busy: bool): bool {
  const expected = n * q;
  const deviation = sqrt(expected * (1 - q));
  const limit = FAILURES + DEVIATIONS * deviation;
  return f - expected > (busy ? limit : min(limit, FAILURES_IDLE + DEVIATIONS_IDLE * deviation));
}

/** Reports whether too little is known of a proxy, or its few attempts failed too often. */
// @ts-ignore: decorator
@inline
function doubtful(c: Candidate, q: f64): bool {
  if (c.latencyEWMA == 0) return c.uses > 0;
  const streak = c.consecutiveFailures;
  if (streak < STREAK && c.samples - streak >= GOOD && failures(c) - streak < 0.5) return false;
  return c.samples < FEW && (failures(c) - c.samples * q) / (c.samples + 2) > MARGIN;
}

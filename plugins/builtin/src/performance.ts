// A scorer with the score 0.7 * success rate + 0.3 * (1 - normalized latency). In the wanted region
// the score is a tenth higher. Scores within 2 % of the best count as equal.
//
// A proxy that is up to a quarter slower than the best one has the latency of the best one, 10 ms included: 11 and
// 13 ms count as equal, and so do 1 and 3 ms. No client notices such differences. They are mostly chance, and
// without this rule the proxy that was luckiest once gets all requests. The mean of few latencies differs more by chance.
// So the quarter is for 100 attempts, and with n attempts it is 2.5 : sqrt(n): 1.25 for a proxy that has just recovered,
// of which the last four attempts count.
import { Candidate, RankRequest, ROW } from "./abi";
export { reserve, whirlpool_abi_v1 } from "./abi";

/**
 * A normalized latency counts as equal to that of the best proxy if it is at most this share longer, divided by the
 * square root of the number of attempts.
 */
const NEAR: f64 = 2.5;
/** The factor of the latency in the score. */
const LATENCY: f64 = 0.3;

export function tolerance(): f64 {
  return 0.02;
}

export function score(request: RankRequest, rows: usize, scores: usize, count: i32): i32 {
  const end = rows + <usize>count * ROW;
  let best = -1.0;
  let latency = 0.0;
  let slowest = 0.0;
  for (let row = rows, out = scores; row < end; row += ROW, out += 8) {
    const c = changetype<Candidate>(row);
    const s = (0.7 * c.successRate + LATENCY * (1 - c.normalizedLatency)) * region(c);
    store<f64>(out, s);
    slowest = max(slowest, c.normalizedLatency);
    if (s <= best) continue;
    best = s;
    latency = c.normalizedLatency;
  }
  if (slowest <= latency) return 0;
  for (let row = rows, out = scores; row < end; row += ROW, out += 8) {
    const c = changetype<Candidate>(row);
    const more = c.normalizedLatency - latency;
    if (more <= 0 || more > latency * NEAR / sqrt(max(c.samples, 1))) continue;
    store<f64>(out, load<f64>(out) + LATENCY * more * region(c));
  }
  return 0;
}

/** Returns the factor of the proxy's region. */
// @ts-ignore: decorator
@inline
function region(c: Candidate): f64 {
  return select<f64>(1.1, 1, c.regionMatch != 0);
}

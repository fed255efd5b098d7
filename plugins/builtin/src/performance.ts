// A scorer with the score 0.7 * success rate + 0.3 * (1 - normalized latency). In the wanted region
// the score is a tenth higher. Scores within 2 % of the best count as equal.
import { Candidate, RankRequest, ROW } from "./abi";
export { reserve, whirlpool_abi_v1 } from "./abi";

export function tolerance(): f64 {
  return 0.02;
}

export function score(request: RankRequest, rows: usize, scores: usize, count: i32): i32 {
  for (let i = 0; i < count; i++) {
    const c = changetype<Candidate>(rows);
    const s = 0.7 * c.successRate + 0.3 * (1 - c.normalizedLatency);
    store<f64>(scores, s * select<f64>(1.1, 1, c.regionMatch != 0));
    rows += ROW;
    scores += 8;
  }
  return 0;
}

// A scorer that prefers the cheapest proxy that works. A proxy works if it has had fewer than three
// failures in a row, and its success rate is at least 0.85 or computed from fewer than ten attempts.
// Proxies that work have the score 1 + 1/(1 + cost): cheaper proxies score higher. The score of any
// other proxy is its success rate, which is lower.
import { Candidate, RankRequest, ROW } from "./abi";
export { reserve, whirlpool_abi_v1 } from "./abi";

export function score(request: RankRequest, rows: usize, scores: usize, count: i32): i32 {
  for (let i = 0; i < count; i++) {
    const c = changetype<Candidate>(rows);
    const works = c.consecutiveFailures < 3 && (c.successRate >= 0.85 || c.samples < 10);
    store<f64>(scores, works ? 1 + 1 / (1 + c.cost) : min(c.successRate, 1));
    rows += ROW;
    scores += 8;
  }
  return 0;
}

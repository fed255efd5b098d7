// The cheapest that works. A candidate works while it has fewer than three
// failures in a row and either succeeds four times out of five or has fewer
// than ten attempts to judge it by. Those that work score 1 + 1/(1 + cost),
// cheapest first and each above every other; those that do not score their
// success rate.
import { Candidate, RankRequest, ROW } from "./abi";
export { reserve, whirlpool_abi_v1 } from "./abi";

export function score(request: RankRequest, rows: usize, scores: usize, count: i32): i32 {
  for (let i = 0; i < count; i++) {
    const c = changetype<Candidate>(rows);
    const works = c.consecutiveFailures < 3 && (c.successRate >= 0.8 || c.samples < 10);
    store<f64>(scores, works ? 1 + 1 / (1 + c.cost) : min(c.successRate, 1));
    rows += ROW;
    scores += 8;
  }
  return 0;
}

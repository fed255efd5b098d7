// A scorer that prefers the proxy with the fewest attempts in flight in relation to its weight.
import { Candidate, RankRequest, ROW } from "./abi";
export { reserve, whirlpool_abi_v1 } from "./abi";

export function score(request: RankRequest, rows: usize, scores: usize, count: i32): i32 {
  for (let i = 0; i < count; i++) {
    const c = changetype<Candidate>(rows);
    store<f64>(scores, -(c.inFlight / max(c.weight, 1e-9)));
    rows += ROW;
    scores += 8;
  }
  return 0;
}

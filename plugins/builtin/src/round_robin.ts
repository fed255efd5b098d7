// Whose turn it is: the host counts, so that instances need not agree.
import { Candidate, RankRequest, ROW } from "./abi";
export { reserve, whirlpool_abi_v1 } from "./abi";

export function score(request: RankRequest, rows: usize, scores: usize, count: i32): i32 {
  for (let i = 0; i < count; i++) {
    store<f64>(scores, -changetype<Candidate>(rows).rotation);
    rows += ROW;
    scores += 8;
  }
  return 0;
}

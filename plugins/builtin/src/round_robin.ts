// A scorer that follows the rotation of the proxies. The host counts the turns, so all instances
// have the same rotation.
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

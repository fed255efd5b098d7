// A scorer that chooses each candidate with the same probability.
import { RankRequest } from "./abi";
import { uniform } from "../../../sdk/assemblyscript/hash";
export { reserve, whirlpool_abi_v1 } from "./abi";

export function score(request: RankRequest, rows: usize, scores: usize, count: i32): i32 {
  const seed = request.seed;
  for (let i = 0; i < count; i++) {
    store<f64>(scores, uniform(seed, i));
    scores += 8;
  }
  return 0;
}

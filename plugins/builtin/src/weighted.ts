// Each candidate as often as its weight says: the largest u^(1/w) wins with
// probability w / sum(w) (Efraimidis and Spirakis, "Weighted random sampling
// with a reservoir", 2006). The logarithm keeps the order: ln(u) / w.
import { Candidate, RankRequest, ROW } from "./abi";
import { uniform } from "../../../sdk/assemblyscript/hash";
export { reserve, whirlpool_abi_v1 } from "./abi";

export function score(request: RankRequest, rows: usize, scores: usize, count: i32): i32 {
  const seed = request.seed;
  for (let i = 0; i < count; i++) {
    store<f64>(scores, ln(uniform(seed, i)) / max(changetype<Candidate>(rows).weight, 1e-9));
    rows += ROW;
    scores += 8;
  }
  return 0;
}

/**
 * Natural logarithm of a normal x > 0. x = m * 2^e with m in [sqrt(1/2),
 * sqrt(2)); ln m = 2 atanh(s), s = (m-1)/(m+1), |s| < 0.172, whose series is
 * within one unit in the last place after ten terms.
 */
function ln(x: f64): f64 {
  const bits = reinterpret<u64>(x) + 0x00095f619980c437; // 1 - sqrt(1/2), as bits of the fraction
  const e = <i32>(bits >> 52) - 1023;
  const m = reinterpret<f64>((bits & 0x000fffffffffffff) + 0x3fe6a09e667f3bc9);
  const s = (m - 1) / (m + 1);
  const q = s * s;
  let sum = 0.0;
  for (let k = 19.0; k >= 1; k -= 2) sum = sum * q + 1 / k;
  return 2 * s * sum + <f64>e * 0.6931471805599453;
}

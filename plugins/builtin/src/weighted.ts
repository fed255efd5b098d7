// A scorer that chooses each candidate with a probability in proportion to its weight w: with u
// uniform in (0, 1], the largest u^(1/w) belongs to a candidate with the probability w / sum(w)
// (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006). The score is the
// logarithm, ln(u) / w, which has the same order.
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
 * Returns the natural logarithm of a normal x > 0. Let x = m * 2^e with m in [sqrt(1/2), sqrt(2)), and s =
 * (m-1)/(m+1). Then ln m = 2 atanh(s) and |s| < 0.172. Ten terms of the series of atanh are exact within
 * one unit in the last place.
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

import { BackoffRequest } from "./abi";
import { finish } from "./jitter";

/** base_delay * multiplier^(retry-1), at most the cap, with the policy's jitter. */
export function exponential(r: BackoffRequest): f64 {
  return finish(r, r.baseDelay * power(r.multiplier, r.retry - 1));
}

/** x to the n by squaring: at most 31 steps whatever n is. */
function power(x: f64, n: f64): f64 {
  let result = 1.0;
  for (let i = <i32>min(max(n, 0), <f64>i32.MAX_VALUE); i > 0; i >>= 1) {
    if (i & 1) result *= x;
    x *= x;
  }
  return result;
}

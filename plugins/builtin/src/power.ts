import { BackoffRequest } from "./abi";
import { finish } from "./jitter";

/** Returns base_delay * multiplier^(retry-1), at most the cap, with the policy's jitter. */
export function exponential(r: BackoffRequest): f64 {
  return finish(r, r.baseDelay * power(r.multiplier, r.retry - 1));
}

/** Returns x to the power n by squaring, in at most 31 steps. */
function power(x: f64, n: f64): f64 {
  let result = 1.0;
  for (let i = <i32>min(max(n, 0), <f64>i32.MAX_VALUE); i > 0; i >>= 1) {
    if (i & 1) result *= x;
    x *= x;
  }
  return result;
}

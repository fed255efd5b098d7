// The backoff min(cap, uniform(base, 3 * previous)): "decorrelated jitter" by Marc Brooker,
// "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. It is always random, even if the
// policy has no jitter.
import { BackoffRequest } from "./abi";
export { reserve, whirlpool_abi_v1 } from "./abi";

export function backoff(r: BackoffRequest): f64 {
  const base = r.baseDelay;
  const high = max(base, 3 * max(base, r.previousDelay));
  return min(r.cap, base + (high - base) * r.random);
}

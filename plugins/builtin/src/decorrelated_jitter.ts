// min(cap, uniform(base, 3 * previous)): "decorrelated jitter" of Marc Brooker,
// "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. It is random
// whatever the policy's jitter says.
import { BackoffRequest } from "./abi";
export { reserve, whirlpool_abi_v1 } from "./abi";

export function backoff(r: BackoffRequest): f64 {
  const base = r.baseDelay;
  const high = max(base, 3 * max(base, r.previousDelay));
  return min(r.cap, base + (high - base) * r.random);
}

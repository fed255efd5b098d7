import { BackoffRequest } from "./abi";

/**
 * Returns the delay d, limited to the cap. With the policy's jitter, the result is uniform in [0.5 d,
 * min(1.5 d, cap)]. So no delay exceeds the cap, and delays are not all equal to the cap (REQUIREMENTS D2).
 */
// @ts-ignore: decorator
@inline
export function finish(r: BackoffRequest, delay: f64): f64 {
  const cap = r.cap;
  const d = delay < cap ? delay : cap;
  if (r.jitter == 0) return d;
  const low = 0.5 * d;
  const high = 1.5 * d < cap ? 1.5 * d : cap;
  return low + (high - low) * r.random;
}

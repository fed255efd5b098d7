import { BackoffRequest } from "./abi";

/**
 * delay, capped; with the policy's jitter uniform on [0.5 d, min(1.5 d, cap)],
 * so that no wait passes the cap and none piles up on it (REQUIREMENTS D2).
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

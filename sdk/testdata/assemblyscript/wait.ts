// A backoff that uses every field, as everything.ts does.
import { BackoffRequest } from "../../assemblyscript";
export { reserve, whirlpool_abi_v1 } from "../../assemblyscript";

export function backoff(r: BackoffRequest): f64 {
  return r.retry + 2 * r.baseDelay + 3 * r.multiplier + 4 * r.cap + 5 * r.jitter + 6 * r.random +
    7 * r.previousDelay + 8 * r.retryAfter + 9 * r.lastStatus + 10 * r.elapsed + 11 * r.remaining +
    12 * r.maxAttempts + 13 * r.hostHash + 14 * r.idHash + 15 * r.now;
}

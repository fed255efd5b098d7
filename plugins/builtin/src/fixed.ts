// The backoff base_delay, at most the cap, with the policy's jitter.
import { BackoffRequest } from "./abi";
import { finish } from "./jitter";
export { reserve, whirlpool_abi_v1 } from "./abi";

export function backoff(r: BackoffRequest): f64 {
  return finish(r, r.baseDelay);
}

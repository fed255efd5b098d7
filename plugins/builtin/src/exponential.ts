// The backoff base_delay * multiplier^(retry-1), at most the cap, with the policy's jitter.
import { BackoffRequest } from "./abi";
import { exponential } from "./power";
export { reserve, whirlpool_abi_v1 } from "./abi";

export function backoff(r: BackoffRequest): f64 {
  return exponential(r);
}

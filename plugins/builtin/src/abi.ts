// What every built-in shares: the records of sdk/ABI.md and reserve.

@unmanaged
export class RankRequest {
  count: f64;
  now: f64;
  attempt: f64;
  turn: f64;
  seed: f64;
  hostHash: f64;
  regionHash: f64;
  poolSize: f64;
  idempotent: f64;
  connect: f64;
}

@unmanaged
export class Candidate {
  successRate: f64;
  samples: f64;
  latencyMean: f64;
  latencyEWMA: f64;
  normalizedLatency: f64;
  inFlight: f64;
  weight: f64;
  cost: f64;
  regionMatch: f64;
  consecutiveFailures: f64;
  sinceUse: f64;
  uses: f64;
  breakerState: f64;
  idHash: f64;
  affinityHash: f64;
  rotation: f64;
}

@unmanaged
export class BackoffRequest {
  retry: f64;
  baseDelay: f64;
  multiplier: f64;
  cap: f64;
  jitter: f64;
  random: f64;
  previousDelay: f64;
  retryAfter: f64;
  lastStatus: f64;
  elapsed: f64;
  remaining: f64;
  maxAttempts: f64;
  hostHash: f64;
  idHash: f64;
  now: f64;
}

/** Size of a Candidate in bytes. */
export const ROW: usize = 128;

export function whirlpool_abi_v1(): void {}

/** Room for bytes behind the module's own data; 0 if memory does not reach. */
export function reserve(bytes: i32): usize {
  const start = (__heap_base + 7) & ~7;
  const missing = <i32>((start + bytes + 0xffff) >>> 16) - memory.size();
  if (missing > 0 && memory.grow(missing) < 0) return 0;
  return start;
}

// The records of version 1 of the contract in sdk/ABI.md. Times are seconds,
// rates 0 to 1, flags 0 or 1. Hashes are 53 bits, so that an f64 holds them
// exactly. Numbers that count are whole.
//
// They lie in memory as the host has laid them out, and are the host's: keep
// none past the call. (None is made with new.)

/** What a scorer is asked to choose for. */
@unmanaged
export class RankRequest {
  /** Candidates that follow, 1 or more. */
  count: f64;
  /** Seconds since the Unix epoch. */
  now: f64;
  /** 0 for a request's first attempt. */
  attempt: f64;
  /** Goes up by one with each first attempt. */
  turn: f64;
  /** 53 random bits, fresh for each call; see uniform. */
  seed: f64;
  /** Of the target's host; see hash53. */
  hostHash: f64;
  /** Of the wanted region; 0 when none is wanted. */
  regionHash: f64;
  /** Proxies in the pool, candidates or not. */
  poolSize: f64;
  /** 1 if the request may be repeated. */
  idempotent: f64;
  /** 1 if the request is a CONNECT. */
  connect: f64;
}

/** What a scorer is told of one proxy. */
@unmanaged
export class Candidate {
  /** 0 to 1 over the last 100 attempts; 0.5 without any. */
  successRate: f64;
  /** Attempts behind successRate, 0 to 100. */
  samples: f64;
  /** Seconds, over the last 100 attempts. */
  latencyMean: f64;
  /** Seconds, exponentially weighted (alpha 0.1). */
  latencyEWMA: f64;
  /**
   * (latencyMean + 10 ms) / (the largest among the candidates + 10 ms); without a
   * latency 0.5 if it has no attempts, 1 if none succeeded, else 0.
   */
  normalizedLatency: f64;
  /** Attempts running through it now. */
  inFlight: f64;
  /** Configured, above 0, 1 by default. */
  weight: f64;
  /** Configured, 0 or more, 0 by default. */
  cost: f64;
  /** 1 if in the wanted region, else 0. */
  regionMatch: f64;
  /** Since its last success. */
  consecutiveFailures: f64;
  /** Seconds since it was last chosen; -1 if never. */
  sinceUse: f64;
  /** Times chosen. */
  uses: f64;
  /** 0 closed, 1 open, 2 half open. */
  breakerState: f64;
  /** Of its id, stable across restarts. */
  idHash: f64;
  /** Of its id and the target's host together. */
  affinityHash: f64;
  /** Places from the rotation's turn: 0 is next. */
  rotation: f64;
}

/** What a backoff is told before a retry. */
@unmanaged
export class BackoffRequest {
  /** 1 before the first retry. */
  retry: f64;
  /** Seconds: policy.base_delay. */
  baseDelay: f64;
  /** policy.multiplier. */
  multiplier: f64;
  /** Seconds: policy.max_backoff_delay. */
  cap: f64;
  /** 1 if policy.jitter. */
  jitter: f64;
  /** Uniform in [0, 1), fresh for each call. */
  random: f64;
  /** Seconds waited before the previous retry; 0 before the first. */
  previousDelay: f64;
  /** Seconds the last answer asked for; 0 when it did not. */
  retryAfter: f64;
  /** Of the last answer; 0 when none arrived. */
  lastStatus: f64;
  /** Seconds since the request began. */
  elapsed: f64;
  /** Seconds until its total timeout; -1 when it has none. */
  remaining: f64;
  /** policy.max_attempts. */
  maxAttempts: f64;
  /** As RankRequest.hostHash. */
  hostHash: f64;
  /** Of the proxy that failed last. */
  idHash: f64;
  /** Seconds since the Unix epoch. */
  now: f64;
}

/** One finished attempt, for a plugin that learns. */
@unmanaged
export class Observation {
  /** Seconds since the Unix epoch. */
  now: f64;
  /** As Candidate.idHash. */
  idHash: f64;
  /** As RankRequest.hostHash. */
  hostHash: f64;
  /** 0 for the first. */
  attempt: f64;
  /** 1 or 0. */
  success: f64;
  /** Seconds. */
  latency: f64;
  /** 0 when no answer arrived. */
  status: f64;
  /** Seconds waited before this attempt. */
  delay: f64;
}

/** A response that a judge rules on. Its fields and its body are read with responseFields and bodyHas. */
@unmanaged
export class JudgeRequest {
  /** Seconds since the Unix epoch. */
  now: f64;
  /** 0 for the first. */
  attempt: f64;
  /** Attempts that may follow this one; 0 if the request may not be repeated. */
  attemptsLeft: f64;
  status: f64;
  /** Seconds until the response's head. */
  latency: f64;
  /** As RankRequest.hostHash. */
  hostHash: f64;
  /** Of the proxy, as Candidate.idHash. */
  idHash: f64;
  /** Of the body, as announced; -1 if that is unknown. */
  contentLength: f64;
  /** 1 if the body has a content coding other than gzip, and is not decoded. */
  encoded: f64;
  /** 1 if the body's beginning is the whole body. */
  whole: f64;
  /** Of the first pair: the header fields that judge_wants names. */
  fields: usize;
  fieldCount: i32;
  /** Of the body's beginning. */
  body: usize;
  bodyLength: i32;
}

/** The kinds of rulings. */
export namespace Kind {
  /** The policy decides as it does without a judge. */
  export const FINE: f64 = 0;
  /** Retry, as after a status in retry_status_codes. */
  export const RETRY: f64 = 1;
  /** Retry at once, through another proxy. */
  export const OTHER_PROXY: f64 = 2;
  /** The same, and the proxy rests for the target's host. */
  export const BANNED: f64 = 3;
  /** The response is final, and the target is charged with it. */
  export const TARGET_FAULT: f64 = 4;
}

/** What a judge says about a response. It is FINE at the beginning of a call. */
@unmanaged
export class Ruling {
  /** One of Kind. */
  kind: f64;
  /** Seconds that the proxy rests for the target's host, 0 for 600; with BANNED only. */
  rest: f64;
}

/**
 * A key and its value: one setting of [plugins.NAME.config], or one entry of a
 * proxy's metadata. The bytes are UTF-8; Settings reads them.
 */
@unmanaged
export class Pair {
  key: usize;
  keyLength: u32;
  value: usize;
  valueLength: u32;
  /** The value as a number (true is 1, false 0); NaN if it is none. */
  number: f64;
}

/** One proxy of the pool. */
@unmanaged
export class Proxy {
  /** As Candidate.idHash. */
  idHash: f64;
  /** As RankRequest.regionHash; 0 without a region. */
  regionHash: f64;
  weight: f64;
  cost: f64;
  id: usize;
  idLength: u32;
  region: usize;
  regionLength: u32;
  /** Of the first pair, sorted by key. */
  metadata: usize;
  metadataCount: u32;
}

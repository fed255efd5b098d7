// The records of version 1 of the contract in sdk/ABI.md. Times are seconds,
// rates 0 to 1, flags 0 or 1. Hashes are 53 bits, so that an f64 holds them
// exactly. Counts are whole numbers.
//
// The host writes the records to the memory and owns them: keep no record
// after the call, and make none with new.

/** The request for which a scorer ranks the candidates. */
@unmanaged
export class RankRequest {
  /** Number of candidates, at least 1. */
  count: f64;
  /** Seconds since the Unix epoch. */
  now: f64;
  /** 0 for a request's first attempt. */
  attempt: f64;
  /** A number that increases by one with each first attempt. */
  turn: f64;
  /** 53 random bits, new in each call; see uniform. */
  seed: f64;
  /** Hash of the target's host; see hash53. */
  hostHash: f64;
  /** Hash of the wanted region. If there is none: of the region of the failed proxy in a retry, otherwise 0. */
  regionHash: f64;
  /** Number of proxies in the pool, including those that are not candidates. */
  poolSize: f64;
  /** 1 if the request may be repeated. */
  idempotent: f64;
  /** 1 if the request is a CONNECT. */
  connect: f64;
}

/** One proxy that a scorer may choose. */
@unmanaged
export class Candidate {
  /** Success rate of the last 100 attempts, 0 to 1; 0.5 without attempts. */
  successRate: f64;
  /** Number of attempts that successRate is computed from, 0 to 100. */
  samples: f64;
  /** Mean latency of the last 100 attempts in seconds. */
  latencyMean: f64;
  /** Exponentially weighted mean latency in seconds (alpha 0.1). */
  latencyEWMA: f64;
  /**
   * (latencyMean + 10 ms) / (the largest latencyMean of all candidates + 10 ms). If latencyMean
   * is 0: 0.5 without attempts, 1 if none of the attempts succeeded, otherwise 0.
   */
  normalizedLatency: f64;
  /** Number of attempts in flight through the proxy. */
  inFlight: f64;
  /** Configured weight: above 0, default 1. */
  weight: f64;
  /** Configured cost: at least 0, default 0. */
  cost: f64;
  /** 1 if the proxy is in the wanted region, otherwise 0. */
  regionMatch: f64;
  /** Number of failures since the proxy's last success. */
  consecutiveFailures: f64;
  /** Seconds since the proxy was chosen last; -1 if never. */
  sinceUse: f64;
  /** How often the proxy was chosen. */
  uses: f64;
  /** State of the breaker: 0 closed, 1 open, 2 half-open. */
  breakerState: f64;
  /** Hash of the proxy's id. It is the same after a restart. */
  idHash: f64;
  /** Hash of the proxy's id and the target's host together. */
  affinityHash: f64;
  /** Number of proxies before this one in the rotation; 0 if it is this proxy's turn. */
  rotation: f64;
}

/** The input of a backoff before a retry. */
@unmanaged
export class BackoffRequest {
  /** 1 before the first retry. */
  retry: f64;
  /** policy.base_delay in seconds. */
  baseDelay: f64;
  /** policy.multiplier. */
  multiplier: f64;
  /** policy.max_backoff_delay in seconds. */
  cap: f64;
  /** 1 if policy.jitter. */
  jitter: f64;
  /** Random number, uniform in [0, 1), new in each call. */
  random: f64;
  /** The wait before the previous retry in seconds; 0 before the first retry. */
  previousDelay: f64;
  /** Retry-After of the last response in seconds; 0 without one. */
  retryAfter: f64;
  /** Status of the last response; 0 without a response. */
  lastStatus: f64;
  /** Seconds since the request began. */
  elapsed: f64;
  /** Seconds until the request's total timeout; -1 without one. */
  remaining: f64;
  /** policy.max_attempts. */
  maxAttempts: f64;
  /** As RankRequest.hostHash. */
  hostHash: f64;
  /** Hash of the id of the proxy that failed last. */
  idHash: f64;
  /** Seconds since the Unix epoch. */
  now: f64;
}

/** A finished attempt, for a plugin that learns. */
@unmanaged
export class Observation {
  /** Seconds since the Unix epoch. */
  now: f64;
  /** As Candidate.idHash. */
  idHash: f64;
  /** As RankRequest.hostHash. */
  hostHash: f64;
  /** 0 for a request's first attempt. */
  attempt: f64;
  /** 1 if the attempt was a success, otherwise 0. */
  success: f64;
  /** The attempt's latency in seconds. */
  latency: f64;
  /** Status of the response; 0 without a response. */
  status: f64;
  /** The wait before this attempt in seconds. */
  delay: f64;
}

/** A response that a judge rules on. Its fields and its body are read with responseFields and bodyHas. */
@unmanaged
export class JudgeRequest {
  /** Seconds since the Unix epoch. */
  now: f64;
  /** 0 for a request's first attempt. */
  attempt: f64;
  /** Attempts that may follow this one; 0 if the request may not be repeated. */
  attemptsLeft: f64;
  status: f64;
  /** Seconds until the response's head. */
  latency: f64;
  /** As RankRequest.hostHash. */
  hostHash: f64;
  /** Hash of the proxy's id, as Candidate.idHash. */
  idHash: f64;
  /** Length of the body that the head states; -1 if it is unknown. */
  contentLength: f64;
  /** 1 if the body has a content coding other than gzip, and is not decoded. */
  encoded: f64;
  /** 1 if the body's beginning is the whole body. */
  whole: f64;
  /** Address of the first pair; the pairs are the header fields that judge_wants names. */
  fields: usize;
  fieldCount: i32;
  /** Address of the body's beginning. */
  body: usize;
  bodyLength: i32;
}

/** The kinds of rulings. */
export namespace Kind {
  /** The policy decides as without a judge. */
  export const FINE: f64 = 0;
  /** Retry, as after a status in retry_status_codes. */
  export const RETRY: f64 = 1;
  /** Retry at once, through another proxy. */
  export const OTHER_PROXY: f64 = 2;
  /** Like OTHER_PROXY, and the proxy is banned for the target's host. */
  export const BANNED: f64 = 3;
  /** The response is final, and the target is charged with it. */
  export const TARGET_FAULT: f64 = 4;
}

/** A judge's ruling on a response. At the beginning of a call it is FINE. */
@unmanaged
export class Ruling {
  /** One of Kind. */
  kind: f64;
  /** Seconds that the proxy is banned for the target's host; 0 stands for 600. Only with BANNED. */
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
  /** The value as a number (true is 1, false 0); NaN if it is not a number. */
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
  /** Address of the first pair of the metadata, which is sorted by key. */
  metadata: usize;
  metadataCount: u32;
}

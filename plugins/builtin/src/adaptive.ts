// A backoff that waits until the outage has probably ended. It estimates the end from earlier
// outages of the same target. If fewer than two of those are known, it uses the outages of the
// proxy that failed.
//
// An outage begins with a failure and ends with the next success. If it was there after l
// seconds and gone after h, it counts as l^(1/4) h^(3/4) seconds. The last 16 outages give the
// distribution of their lengths: a mixture of log-logistic distributions, one around each of them
// (a kernel estimate of the logarithms; the width is the standard deviation times n^(-1/5), Silverman,
// "Density Estimation for Statistics and Data Analysis", 1986). From it follows how much of
// the present outage is left.
//
// The wait is the first of the sequence that minimizes the expected time until a
// success, with the number of retries that the policy still allows (dynamic programming, Bellman
// 1957). A request that fails counts as max_backoff_delay. If the target or proxy has succeeded
// since, the wait is 0.1 s. Without two earlier outages, or if this one is much longer than all, it is
// that of exponential.
import { BackoffRequest, Observation } from "../../../sdk/assemblyscript/records";
import { exponential } from "./power";
export { whirlpool_abi_v1 } from "./abi";

/** The number of outages that are kept of each target and proxy. */
const KEPT = 16;
/** The number of outages that must be known before they are used. */
const ENOUGH = 2;
/** The shortest wait, s. */
const SHORTEST: f64 = 0.1;
/** The shortest length of an outage, s. */
const BRIEFEST: f64 = 0.05;
/** The smallest width of the distribution around an outage, in the logarithm of its length. */
const NARROWEST: f64 = 0.05;
/** The logistic distribution with this slope has nearly the spread of the normal distribution. */
const SLOPE: f64 = 1.7;
/** If an outage as long as the present one is less likely than this, it is unlike all earlier ones. */
const UNLIKELY: f64 = 1e-6;
/** Number of waits between which the best sequence chooses, from SHORTEST to the cap in equal ratios. */
const WAITS = 48;
/** The most waits of a sequence. */
const LONGEST = 16;
/** Time without an attempt after which the end of an outage is unknown, s. */
const QUIET: f64 = 60;

/** A target or a proxy. */
@unmanaged
class Party {
  hash: f64;
  /** Time of the last observation; 0 for a free place in the table. */
  seen: f64;
  /** 1 if the last attempt failed. */
  failing: f64;
  /** Times of the first and the last failure of the outage. */
  began: f64;
  last: f64;
  /** Number of outages, including those that are not kept. */
  outages: f64;
}

/** Size of a Party and the lengths of its outages, in bytes. */
const PARTY: usize = 6 * 8 + KEPT * 8;
/**
 * Number of parties in a set. Parties whose hashes have the same remainder share a set. A new party
 * replaces the party whose last observation is the oldest.
 */
const WAYS = 4;
const SETS = 256;
/** Size of a table in bytes: 1,024 parties. */
const TABLE: usize = PARTY * WAYS * SETS;

/** Address of the two tables: of targets, and of proxies. The host's records follow them. */
// @ts-ignore: decorator
@inline
function tables(): usize {
  return (__heap_base + 7) & ~7;
}

/**
 * Returns the address of a region of that many bytes after the tables; 0 if the memory cannot grow enough.
 */
export function reserve(bytes: i32): usize {
  const start = tables() + 2 * TABLE;
  const missing = <i32>((start + bytes + 0xffff) >>> 16) - memory.size();
  if (missing > 0 && memory.grow(missing) < 0) return 0;
  return start;
}

/** Returns the address of a party in a table; 0 if the party is not there. */
function find(table: usize, hash: f64): usize {
  const set = table + <usize>(<u64>hash % SETS) * WAYS * PARTY;
  for (let i = 0; i < WAYS; i++) {
    const p = set + <usize>i * PARTY;
    if (changetype<Party>(p).seen > 0 && changetype<Party>(p).hash == hash) return p;
  }
  return 0;
}

/** Returns the address of a party in a table, and adds the party if it is not there. */
function put(table: usize, hash: f64): usize {
  const known = find(table, hash);
  if (known) return known;
  const set = table + <usize>(<u64>hash % SETS) * WAYS * PARTY;
  let oldest = set;
  for (let i = 1; i < WAYS; i++) {
    const p = set + <usize>i * PARTY;
    if (changetype<Party>(p).seen < changetype<Party>(oldest).seen) oldest = p;
  }
  memory.fill(oldest, 0, PARTY);
  changetype<Party>(oldest).hash = hash;
  return oldest;
}

export function observe(o: Observation): void {
  update(put(tables(), o.hostHash), o);
  update(put(tables() + TABLE, o.idHash), o);
}

/** Updates a party with an attempt. */
function update(at: usize, o: Observation): void {
  const p = changetype<Party>(at);
  const now = o.now;
  p.seen = max(now, 1);
  if (p.failing != 0 && now - p.last > QUIET) p.failing = 0;
  if (o.success == 0) {
    if (p.failing == 0) {
      p.failing = 1;
      p.began = now;
    }
    p.last = now;
  } else if (p.failing != 0) {
    p.failing = 0;
    const low = max(p.last - p.began, BRIEFEST);
    const high = max(now - p.began, BRIEFEST);
    store<f64>(at + 48 + (<usize>p.outages % KEPT) * 8, sqrt(high * sqrt(high * low)));
    p.outages += 1;
  }
}

/** The waits in order, after an element 0. */
const waits: usize = memory.data(8 * (WAITS + 1));
/** The probability that the outage lasts longer than each of waits, times a constant. */
const lasting: usize = memory.data(8 * (WAITS + 1));
/** The expected time until a success after a wait for each of waits. */
const rest: usize = memory.data(8 * (WAITS + 1));
/** (geometric mean / length)^slope of each kept outage. */
const factors: usize = memory.data(8 * KEPT);

// @ts-ignore: decorator
@inline
function get(list: usize, i: i32): f64 {
  return load<f64>(list + (<usize>i << 3));
}

// @ts-ignore: decorator
@inline
function set(list: usize, i: i32, v: f64): void {
  store<f64>(list + (<usize>i << 3), v);
}

export function backoff(r: BackoffRequest): f64 {
  const unknown = exponential(r);
  let at = find(tables(), r.hostHash);
  if (!at || changetype<Party>(at).outages < ENOUGH) at = find(tables() + TABLE, r.idHash);
  if (!at || changetype<Party>(at).outages < ENOUGH) return unknown;
  const p = changetype<Party>(at);
  let wait = SHORTEST;
  if (p.failing != 0 && r.cap > SHORTEST) {
    if (!predict(at, max(r.now - p.began, 0), r.cap)) return unknown;
    wait = best(<i32>min(max(r.maxAttempts - r.retry, 1), LONGEST), r.cap);
  }
  if (r.jitter != 0) wait *= 1 + 0.25 * r.random;
  return min(max(wait, SHORTEST), r.cap);
}

/** Fills waits and lasting for an outage that has lasted for a time; false if it is unlike all earlier ones. */
function predict(at: usize, lasted: f64, cap: f64): bool {
  const n = min(<i32>changetype<Party>(at).outages, KEPT);
  let sum = 0.0;
  let squares = 0.0;
  for (let k = 0; k < n; k++) {
    const x = Math.log(get(at + 48, k));
    sum += x;
    squares += x * x;
  }
  const mean = sum / n;
  const deviation = sqrt(max(squares - sum * mean, 0) / (n - 1));
  const slope = SLOPE / max(deviation * Math.pow(n, -0.2), NARROWEST);
  const scale = Math.exp(mean);
  for (let k = 0; k < n; k++) set(factors, k, Math.pow(scale / get(at + 48, k), slope));
  const ratio = Math.pow(cap / SHORTEST, 1 / <f64>(WAITS - 1));
  let wait = 0.0;
  for (let i = 0; i <= WAITS; i++) {
    set(waits, i, wait);
    const t = Math.pow((lasted + wait) / scale, slope);
    let s = 0.0;
    for (let k = 0; k < n; k++) s += 1 / (1 + t * get(factors, k));
    set(lasting, i, s);
    wait = i == 0 ? SHORTEST : wait * ratio;
  }
  return get(lasting, 0) > UNLIKELY;
}

/**
 * The first wait of the best sequence of at most so many. The expected time with m
 * waits after element i, v(m, i), is the minimum over j > i of
 *   waits[j] - waits[i] + lasting[j] / lasting[i] * v(m - 1, j), with v(0, i) = failed.
 * The last element is the cap, after which nothing follows.
 */
function best(most: i32, failed: f64): f64 {
  for (let i = 0; i <= WAITS; i++) set(rest, i, failed);
  let first = 1;
  for (let m = 0; m < most; m++) {
    for (let i = 0; i < WAITS; i++) { // rest of later elements is still that of m
      const from = get(waits, i);
      const reached = get(lasting, i);
      if (reached <= 0) break; // the outage has ended
      let least = Infinity;
      for (let j = i + 1; j <= WAITS; j++) {
        const v = get(waits, j) - from + get(lasting, j) / reached * get(rest, j);
        if (v < least) {
          least = v;
          if (i == 0) first = j;
        }
      }
      set(rest, i, least);
    }
  }
  return get(waits, first);
}

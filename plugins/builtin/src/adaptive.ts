// A backoff that waits until the outage has probably ended. It estimates the end from earlier
// outages of the same target. If fewer than two of those are known, it uses the outages of the
// proxy that failed.
//
// An outage begins with a failure and ends before the next success. Let l be the time from its
// first to its last failure, and h the time from its first failure to the next success. Its length
// is estimated as l^(1/4) h^(3/4). The last 16 outages are kept. Those that were longer than the
// present outage has lasted give the distribution of its remaining time (the conditional
// distribution of Kaplan and Meier, "Nonparametric estimation from incomplete observations", JASA
// 53, 1958, without censoring).
//
// The backoff plans a sequence of waits, as many as the policy has retries left. It chooses the
// sequence with the shortest expected time until a success, and returns its first wait (dynamic
// programming, Bellman 1957). A request that fails in the end counts as max_backoff_delay. If the
// target or proxy has had a success since its last failure, the wait is 0.1 s. If fewer than two
// outages are known, or the present outage is longer than all known ones, the wait is that of the
// backoff exponential.
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
/** Factor for the lengths of the kept outages, since the present outage may last a little longer. */
const MARGIN: f64 = 1.1;
/**
 * With the probability of one kept outage, the present outage is longer than all of them. Its length is
 * then LONGER times the longest.
 */
const LONGER: f64 = 1.5;
/** If there was no attempt for this time, the end of an outage is unknown, s. */
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

/**
 * The remaining times of the kept outages that were longer than the present one has lasted, in ascending
 * order. Element 0 is 0.
 */
const left: usize = memory.data(8 * (KEPT + 2));
/** By element of left: the expected time until a success, after a wait until that time. */
const rest: usize = memory.data(8 * (KEPT + 2));

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
  if (p.failing != 0) {
    const n = remaining(at, r.now - p.began);
    if (n == 0) return unknown;
    wait = best(n, <i32>min(max(r.maxAttempts - r.retry, 1), KEPT), r.cap);
  }
  if (r.jitter != 0) wait *= 1 + 0.25 * r.random;
  return min(max(wait, SHORTEST), r.cap);
}

/** Fills left for an outage that has lasted for a time. Returns the number of elements after element 0. */
function remaining(at: usize, lasted: f64): i32 {
  let n = 0;
  const known = min(<i32>changetype<Party>(at).outages, KEPT);
  set(left, 0, 0);
  let longest = 0.0;
  for (let k = 0; k < known; k++) {
    const length = load<f64>(at + 48 + (<usize>k << 3)) * MARGIN;
    longest = max(longest, length);
    const l = length - lasted;
    if (l <= 0) continue;
    let i = ++n;
    for (; i > 1 && get(left, i - 1) > l; i--) set(left, i, get(left, i - 1));
    set(left, i, l);
  }
  const l = longest * LONGER - lasted;
  if (l > 0) set(left, ++n, l);
  return n;
}

/**
 * Returns the first wait of the best sequence of at most that many waits. Let v(m, i) be the expected time
 * with m more waits after element i. It is the minimum over j > i of left[j] - left[i] + (n - j) / (n - i)
 * * v(m - 1, j), and v(0, i) = failed.
 */
function best(n: i32, waits: i32, failed: f64): f64 {
  for (let i = 0; i < n; i++) set(rest, i, failed);
  set(rest, n, 0);
  let first = 1;
  for (let m = 0; m < waits; m++) {
    for (let i = 0; i < n; i++) { // for elements after i, rest still has v(m, j)
      let least = Infinity;
      for (let j = i + 1; j <= n; j++) {
        const v = get(left, j) - get(left, i) + <f64>(n - j) / <f64>(n - i) * get(rest, j);
        if (v < least) {
          least = v;
          if (i == 0) first = j;
        }
      }
      set(rest, i, least);
    }
  }
  return get(left, first);
}

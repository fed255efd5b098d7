// Waits until the outage is likely over, as judged by earlier ones of the same target or,
// if fewer than two of those are known, of the proxy that failed.
//
// An outage begins with a failure and ends with the next success. If it was there after l
// seconds and gone after h, it counts as l^(1/4) h^(3/4) seconds. Of the last 16 outages, those
// that lasted longer than the present one has lasted tell how much of it is left: the
// conditional distribution of Kaplan and Meier, "Nonparametric estimation from incomplete
// observations", JASA 53 (1958), without censoring.
//
// The wait is the first of the sequence that minimizes the expected time until a
// success, with the number of retries that the policy still allows (dynamic programming, Bellman
// 1957). A request that fails counts as max_backoff_delay. If the target or proxy has succeeded
// since, the wait is 0.1 s. Without two earlier outages, or if this one is the longest, it is that
// of exponential.
import { BackoffRequest, Observation } from "../../../sdk/assemblyscript/records";
import { exponential } from "./power";
export { whirlpool_abi_v1 } from "./abi";

/** Outages kept of each target and proxy. */
const KEPT = 16;
/** Outages that must be known. */
const ENOUGH = 2;
/** The shortest wait, s. */
const SHORTEST: f64 = 0.1;
/** The shortest length of an outage, s. */
const BRIEFEST: f64 = 0.05;
/** An outage may last this much longer than the one before. */
const MARGIN: f64 = 1.1;
/** With the probability of one of the kept outages, the present one is longer than all: so many times the longest. */
const LONGER: f64 = 1.5;
/** Time without an attempt after which the end of an outage is unknown, s. */
const QUIET: f64 = 60;

/** A target or a proxy. */
@unmanaged
class Party {
  hash: f64;
  /** When it was observed last; 0 for a free place. */
  seen: f64;
  /** 1 if the last attempt failed. */
  failing: f64;
  /** Times of the first and the last failure of the outage. */
  began: f64;
  last: f64;
  /** Number of outages, including those that are not kept. */
  outages: f64;
}

/** Size of a Party with the lengths of its outages, in bytes. */
const PARTY: usize = 6 * 8 + KEPT * 8;
/** Parties whose hashes have the same remainder share a set; the one observed longest ago is replaced. */
const WAYS = 4;
const SETS = 256;
/** Size of a table in bytes: 1,024 parties. */
const TABLE: usize = PARTY * WAYS * SETS;

/** The tables, of targets and of proxies, begin here; the host's records follow them. */
// @ts-ignore: decorator
@inline
function tables(): usize {
  return (__heap_base + 7) & ~7;
}

/** Room for bytes behind the tables; 0 if memory does not reach. */
export function reserve(bytes: i32): usize {
  const start = tables() + 2 * TABLE;
  const missing = <i32>((start + bytes + 0xffff) >>> 16) - memory.size();
  if (missing > 0 && memory.grow(missing) < 0) return 0;
  return start;
}

/** The party in the table; 0 if it is not there. */
function find(table: usize, hash: f64): usize {
  const set = table + <usize>(<u64>hash % SETS) * WAYS * PARTY;
  for (let i = 0; i < WAYS; i++) {
    const p = set + <usize>i * PARTY;
    if (changetype<Party>(p).seen > 0 && changetype<Party>(p).hash == hash) return p;
  }
  return 0;
}

/** The party in the table, or a new one. */
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

/** Takes an attempt into account. */
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

/** What outages as long as this one had left, in order, after an element 0. */
const left: usize = memory.data(8 * (KEPT + 2));
/** The expected time until a success after a wait for each element of left. */
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

/** Fills left for an outage that has lasted for a time, and returns its length without the element 0. */
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
 * The first wait of the best sequence of at most so many. The expected time with m
 * waits after element i, v(m, i), is the minimum over j > i of
 *   left[j] - left[i] + (n - j) / (n - i) * v(m - 1, j), with v(0, i) = failed.
 */
function best(n: i32, waits: i32, failed: f64): f64 {
  for (let i = 0; i < n; i++) set(rest, i, failed);
  set(rest, n, 0);
  let first = 1;
  for (let m = 0; m < waits; m++) {
    for (let i = 0; i < n; i++) { // rest of later elements is still that of m
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

// A backoff that waits until the outage has probably ended. It learns how long outages of the same
// target last. If it has seen none, it uses those of the proxy that failed.
//
// An outage begins after the last success before its first failure, and ends between its last failure
// and the next success. So only an interval is known for its length. The lengths are assumed to follow a
// distribution with one of SHAPES shapes (log-normal with one of four widths, or exponential) and one of
// SCALES medians or means. Each pair of a shape and a scale has a weight: the probability that this pair is right. All
// weights are equal at first. Later they follow from the intervals by Bayes' rule. After each outage, every pair gets
// the share SHARE / (number of pairs) again, so that the weights soon follow a change of the lengths (fixed share:
// Herbster and Warmuth, "Tracking the best expert", 1998).
//
// Let S be the probability that an outage lasts longer than a time, and G(x) the integral of S from 0 to x. Suppose
// that an outage began at an unknown time, at most g before its first failure. It then still lasts at the time x after
// that failure with the probability (G(x + g) - G(x)) / G(g).
//
// The policy still allows a number of retries. Dynamic programming (Bellman 1957) finds the waits before them with the
// shortest expected time until a success. The first of these waits is used. A request that fails counts as
// max_backoff_delay. If the target or proxy has succeeded since, the wait is 0.1 s. Without an earlier outage, the wait
// is that of exponential.
import { BackoffRequest, Observation } from "../../../sdk/assemblyscript/records";
import { exponential } from "./power";
export { whirlpool_abi_v1 } from "./abi";

/** The shortest wait, s. */
const SHORTEST: f64 = 0.1;
/** Number of waits between which the best sequence chooses, from SHORTEST to the cap in equal ratios. */
const WAITS = 72;
/** The most waits of a sequence. */
const LONGEST = 16;
/** Time without an attempt after which the end of an outage is unknown, s. */
const QUIET: f64 = 60;
/** The shortest and the longest time in which an outage may have begun before its first failure, s. */
const SOONEST: f64 = 0.001;
const EARLIEST: f64 = 60;

/** The number of shapes. The last one is exponential, with the mean 1. */
const SHAPES = 5;
/** The standard deviation of the logarithm of the length in the first shape, and the factor to the next shape. */
const NARROWEST: f64 = 0.14;
const WIDER: f64 = 1.4142;
/** The number of scales, the logarithm of the smallest, and the step of the logarithm: from 18 ms to 400 s. */
const SCALES = 67;
const SMALLEST: f64 = -4;
const STEP: f64 = 0.15;
const LARGEST: f64 = SMALLEST + STEP * SCALES;
/** The share of the weights that is distributed equally after each outage. */
const SHARE: f64 = 0.0001;
/** The smallest probability of an outage for a pair, so that no weight becomes 0. */
const LEAST: f64 = 1e-12;
/** Weights below this many times the equal share are not used for a prediction. */
const UNUSED: f64 = 3;

/** The table of G of each shape for the scale 1: from e^FROM on, with PER values for each factor e. */
const FROM: f64 = -10;
const PER: f64 = 20;
const VALUES = 404;
/** Number of values of a table between two scales: STEP * PER. */
const BETWEEN = 3;
/** Index of the value for the smallest length and scale, and the number of values up to the largest length. */
const SAME = 200;
const LENGTHS = 202;

/** A target or a proxy. */
@unmanaged
class Party {
  hash: f64;
  /** Time of the last observation; 0 for a free place in the table. */
  seen: f64;
  /** 1 if the last attempt failed. */
  failing: f64;
  /** Time of the last success; 0 if there was none. */
  served: f64;
  /** Times of the first and the last failure of the outage. */
  began: f64;
  last: f64;
  /** Time in which the outage may have begun before its first failure. */
  before: f64;
  /** Number of outages whose end is known. */
  outages: f64;
}

/** Size of the fields of a Party, and of a Party with its weights (f32), in bytes. */
const FIELDS: usize = 8 * 8;
const PARTY: usize = FIELDS + 4 * ((SHAPES * SCALES + 1) & ~1);
/**
 * Number of parties in a set. Parties whose hashes have the same remainder share a set. A new party
 * replaces the party whose last observation is the oldest. Only parties that have failed are kept.
 */
const WAYS = 4;
const SETS = 128;
/** Size of a table in bytes: 512 parties. */
const TABLE: usize = PARTY * WAYS * SETS;

/** Address of the two tables, of targets and of proxies. The tables of G and the host's records follow them. */
// @ts-ignore: decorator
@inline
function tables(): usize {
  return (__heap_base + 7) & ~7;
}

/** Address of the table of G of a shape. */
// @ts-ignore: decorator
@inline
function integral(shape: i32): usize {
  return tables() + 2 * TABLE + <usize>shape * VALUES * 8;
}

/**
 * Returns the address of a region of that many bytes after the tables; 0 if the memory cannot grow enough.
 */
export function reserve(bytes: i32): usize {
  const start = integral(SHAPES);
  const missing = <i32>((start + bytes + 0xffff) >>> 16) - memory.size();
  if (missing > 0 && memory.grow(missing) < 0) return 0;
  if (get(integral(0), VALUES - 1) == 0) tabulate();
  return start;
}

/** Fills the tables of G, by the trapezoidal rule. */
function tabulate(): void {
  let width = NARROWEST;
  for (let shape = 0; shape < SHAPES; shape++, width *= WIDER) {
    const table = integral(shape);
    let x = Math.exp(FROM);
    let longer = 1.0;
    let sum = x;
    for (let i = 0; i < VALUES; i++) {
      const u = FROM + <f64>i / PER;
      const next = Math.exp(u);
      const s = shape == SHAPES - 1 ? Math.exp(-next) : beyond(u / width);
      sum += (next - x) * (longer + s) / 2;
      set(table, i, sum);
      x = next;
      longer = s;
    }
  }
}

/**
 * The probability that a normal variable exceeds z (Abramowitz and Stegun, "Handbook of Mathematical Functions",
 * 1964, 26.2.17), with an error below 1e-7.
 */
function beyond(z: f64): f64 {
  const t = 1 / (1 + 0.2316419 * abs(z));
  const p = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  const tail = p * Math.exp(-z * z / 2) * 0.3989422804014327;
  return z < 0 ? 1 - tail : tail;
}

/** G(x) for a shape, given by its table, and a scale. log is the logarithm of x : scale. */
// @ts-ignore: decorator
@inline
function area(table: usize, x: f64, log: f64, scale: f64): f64 {
  const u = (log - FROM) * PER;
  if (u <= 0) return x; // S is 1 there
  if (u >= VALUES - 1) return scale * get(table, VALUES - 1);
  const i = <i32>u;
  const low = get(table, i);
  return scale * (low + (u - <f64>i) * (get(table, i + 1) - low));
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

/** Replaces a party of a table by a new one, and returns its address. */
function replace(table: usize, hash: f64): usize {
  const set = table + <usize>(<u64>hash % SETS) * WAYS * PARTY;
  let oldest = set;
  for (let i = 1; i < WAYS; i++) {
    const p = set + <usize>i * PARTY;
    if (changetype<Party>(p).seen < changetype<Party>(oldest).seen) oldest = p;
  }
  memory.fill(oldest, 0, FIELDS);
  changetype<Party>(oldest).hash = hash;
  for (let i = 0; i < SHAPES * SCALES; i++) setWeight(oldest, i, <f32>(1 / <f64>(SHAPES * SCALES)));
  return oldest;
}

// @ts-ignore: decorator
@inline
function weight(party: usize, i: i32): f32 {
  return load<f32>(party + FIELDS + (<usize>i << 2));
}

// @ts-ignore: decorator
@inline
function setWeight(party: usize, i: i32, w: f32): void {
  store<f32>(party + FIELDS + (<usize>i << 2), w);
}

export function observe(o: Observation): void {
  update(tables(), o.hostHash, o);
  update(tables() + TABLE, o.idHash, o);
}

/** Updates a party of a table with an attempt. */
function update(table: usize, hash: f64, o: Observation): void {
  let at = find(table, hash);
  if (!at) {
    if (o.success != 0) return;
    at = replace(table, hash);
  }
  const p = changetype<Party>(at);
  const now = max(o.now, 1);
  p.seen = now;
  if (p.failing != 0 && now - p.last > QUIET) p.failing = 0;
  if (o.success == 0) {
    if (p.failing == 0) {
      p.failing = 1;
      p.began = now;
      p.before = p.served == 0 ? SOONEST : min(max(now - p.served, SOONEST), EARLIEST);
    }
    p.last = now;
    return;
  }
  p.served = now;
  if (p.failing != 0) {
    p.failing = 0;
    p.outages += 1;
    learn(at, p.before, max(p.last - p.began, 0), max(now - p.began, 0));
  }
}

/**
 * Updates the weights of a party with an outage that began within the time before its first failure, and ended
 * between low and high after that failure.
 */
function learn(party: usize, before: f64, low: f64, high: f64): void {
  const logBefore = Math.log(before);
  const logLow = Math.log(max(low, 1e-9));
  const logHigh = Math.log(max(high, 1e-9));
  const logLowB = Math.log(low + before);
  const logHighB = Math.log(high + before);
  let sum = 0.0;
  for (let shape = 0, i = 0; shape < SHAPES; shape++) {
    const table = integral(shape);
    for (let n = 0; n < SCALES; n++, i++) {
      const log = SMALLEST + STEP * <f64>n;
      const scale = Math.exp(log);
      const then = area(table, low + before, logLowB - log, scale) - area(table, low, logLow - log, scale);
      const later = area(table, high + before, logHighB - log, scale) - area(table, high, logHigh - log, scale);
      const w = <f64>weight(party, i) * max((then - later) / area(table, before, logBefore - log, scale), LEAST);
      setWeight(party, i, <f32>w);
      sum += w;
    }
  }
  const equal = SHARE / <f64>(SHAPES * SCALES);
  for (let i = 0; i < SHAPES * SCALES; i++) {
    setWeight(party, i, <f32>((1 - SHARE) * <f64>weight(party, i) / sum + equal));
  }
}

/** The waits in order, after an element 0. */
const waits: usize = memory.data(8 * (WAITS + 1));
/** The probability that the outage lasts longer than each of waits, times a constant. */
const lasting: usize = memory.data(8 * (WAITS + 1));
/** The expected time until a success after a wait for each of waits. */
const rest: usize = memory.data(8 * (WAITS + 1));
/** The sum of G of all pairs by their weights, from e^SMALLEST to e^LARGEST. */
const sums: usize = memory.data(8 * LENGTHS);
/** The party and the beginning of the outage that sums is for, and the number of values in it. */
let sumsParty: usize = 0;
let sumsHash: f64 = 0;
let sumsBegan: f64 = 0;
let sumsCount: i32 = 0;

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
  if (!at || changetype<Party>(at).outages == 0) at = find(tables() + TABLE, r.idHash);
  if (!at || changetype<Party>(at).outages == 0) return unknown;
  const p = changetype<Party>(at);
  let wait = SHORTEST;
  if (p.failing != 0 && r.cap > SHORTEST) {
    if (!predict(at, max(r.now - p.began, 0), r.cap)) return unknown;
    wait = best(<i32>min(max(r.maxAttempts - r.retry, 1), LONGEST), r.cap);
  }
  if (r.jitter != 0) wait *= 1 + 0.25 * r.random;
  return min(max(wait, SHORTEST), r.cap);
}

/**
 * Fills waits and lasting for an outage that has lasted for a time since its first failure. Returns false if it has
 * lasted for longer than LARGEST.
 */
function predict(party: usize, lasted: f64, cap: f64): bool {
  const before = changetype<Party>(party).before;
  const ratio = Math.pow(cap / SHORTEST, 1 / <f64>(WAITS - 1));
  fill(party, lasted + cap + before);
  let wait = 0.0;
  for (let i = 0; i <= WAITS; i++) {
    const t = lasted + wait;
    // The pairs with the equal share have lengths that are nearly uniform in the logarithm.
    const equal = SHARE * max(LARGEST - Math.log(max(t, SHORTEST)), 0) / (STEP * SCALES);
    set(waits, i, wait);
    set(lasting, i, sumAt(t + before) - sumAt(t) + equal);
    wait = i == 0 ? SHORTEST : wait * ratio;
  }
  return get(lasting, 0) > 0;
}

/**
 * Fills sums up to the length most, for the present outage of a party. It does nothing if sums is for this outage
 * already: the weights do not change before its end.
 */
function fill(party: usize, most: f64): void {
  const count = <i32>min(max((Math.log(most) - SMALLEST) * PER + 2, 2), LENGTHS);
  const p = changetype<Party>(party);
  const before = p.before;
  if (party == sumsParty && p.hash == sumsHash && p.began == sumsBegan && count <= sumsCount) return;
  sumsParty = party;
  sumsHash = p.hash;
  sumsBegan = p.began;
  sumsCount = count;
  memory.fill(sums, 0, 8 * LENGTHS);
  const log = Math.log(before);
  for (let shape = 0, i = 0; shape < SHAPES; shape++) {
    const table = integral(shape);
    for (let n = 0; n < SCALES; n++, i++) {
      let w = <f64>weight(party, i);
      if (w < UNUSED * SHARE / <f64>(SHAPES * SCALES)) continue;
      const scale = Math.exp(SMALLEST + STEP * <f64>n);
      w *= scale / area(table, before, log - SMALLEST - STEP * <f64>n, scale);
      const from = table + ((SAME - BETWEEN * n) << 3);
      for (let k = 0; k < count; k++) set(sums, k, get(sums, k) + w * get(from, k));
    }
  }
  for (let k = count; k < LENGTHS; k++) set(sums, k, get(sums, count - 1));
}

/** The sum of G(x) of all pairs by their weights. */
function sumAt(x: f64): f64 {
  const u = (Math.log(max(x, 1e-9)) - SMALLEST) * PER;
  if (u <= 0) return get(sums, 0) * x * Math.exp(-SMALLEST); // S is 1 there
  if (u >= LENGTHS - 1) return get(sums, LENGTHS - 1);
  const i = <i32>u;
  return get(sums, i) + (u - <f64>i) * (get(sums, i + 1) - get(sums, i));
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
  for (let m = 1; m <= most; m++) {
    const last = m == most ? 1 : WAITS; // of the whole sequence, only the first wait is used
    for (let i = 0; i < last; i++) { // rest of later elements is still that of m - 1
      const from = get(waits, i);
      const reached = get(lasting, i);
      if (reached <= 0) break; // the outage has ended
      let least = Infinity;
      for (let j = i + 1; j <= WAITS; j++) {
        const v = get(waits, j) - from + get(lasting, j) / reached * get(rest, j);
        if (v < least) {
          least = v;
          first = j;
        }
      }
      set(rest, i, least);
    }
  }
  return get(waits, first);
}

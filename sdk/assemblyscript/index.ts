// SDK for plugins of the Whirlpool proxy gateway, for version 1 of the contract in sdk/ABI.md.
// A plugin is a file that exports score, backoff or judge, and the two functions that every
// module must export. In the imports, "whirlpool" stands for the folder of this file; in a
// plugin made by `whirlpool plugin new` it is "./whirlpool".
//
//   import { Candidates, RankRequest, Scores } from "whirlpool";
//   export { reserve, whirlpool_abi_v1 } from "whirlpool";
//
//   export function score(request: RankRequest, candidates: Candidates, scores: Scores, count: i32): i32 {
//     for (let i = 0; i < count; i++) scores[i] = -candidates[i].cost;
//     return 0;
//   }
//
// In place of score, a plugin may export one of these:
//
//   backoff(request: BackoffRequest): f64              returns the wait in seconds, at least 0
//   judge(request: JudgeRequest, ruling: Ruling): i32  sets ruling.kind, and returns 0
//
// These exports are optional:
//
//   describe(): usize                                  declares the settings; returns describeSettings(text)
//   configure(settings: Settings, count: i32): i32     returns 0, or settings.refuse(...) to refuse a setting
//   pool_changed(proxies: Proxies, count: i32): void   is called before the first call, and after a change
//   observe(observation: Observation): void            receives attempts; the plugin then has one instance
//   tolerance(): f64                                   scores within this fraction of the best count as equal
//   judge_wants(): usize                               parts of a response for the judge; returns judgeWants(text)

import { Candidate, JudgeRequest, Pair, Proxy } from "./records";
export {
  BackoffRequest, Candidate, JudgeRequest, Kind, Observation, Pair, Proxy, RankRequest, Ruling,
} from "./records";
export { hash53, pair53, uniform } from "./hash";

/** Declares the version of the contract that the module was built for. */
export function whirlpool_abi_v1(): void {}

let region: usize = 0;
let room: usize = 0;

/** Returns the address of a region for the host's records on the module's heap. */
export function reserve(bytes: usize): usize {
  if (bytes > room) {
    if (region) heap.free(region);
    room = max(bytes, 2 * room); // a runtime that never frees memory wastes at most as much as the last region has
    region = heap.alloc(room);
  }
  return region;
}

/** The candidates of a call: candidates[i], 0 <= i < count. */
@unmanaged
export class Candidates {
  // @ts-ignore: decorator
  @inline @operator("[]")
  private at(i: i32): Candidate {
    return changetype<Candidate>(changetype<usize>(this) + <usize>i * offsetof<Candidate>());
  }
}

/** The scores of a call: scores[i] = s. A score is finite; a higher score is better. */
@unmanaged
export class Scores {
  // @ts-ignore: decorator
  @inline @operator("[]")
  private at(i: i32): f64 {
    return load<f64>(changetype<usize>(this) + (<usize>i << 3));
  }

  // @ts-ignore: decorator
  @inline @operator("[]=")
  private set(i: i32, score: f64): void {
    store<f64>(changetype<usize>(this) + (<usize>i << 3), score);
  }
}

/** The proxies of the pool: proxies[i], 0 <= i < count. */
@unmanaged
export class Proxies {
  // @ts-ignore: decorator
  @inline @operator("[]")
  private at(i: i32): Proxy {
    return changetype<Proxy>(changetype<usize>(this) + <usize>i * offsetof<Proxy>());
  }
}

/** Pairs sorted by key, as configure receives them: settings[i], 0 <= i < count. */
@unmanaged
export class Settings {
  // @ts-ignore: decorator
  @inline @operator("[]")
  private at(i: i32): Pair {
    return changetype<Pair>(changetype<usize>(this) + <usize>i * offsetof<Pair>());
  }

  /** Returns the key at index i. A setting in a nested table has the key TABLE.KEY. */
  key(i: i32): string {
    return text(this[i].key, this[i].keyLength);
  }

  /** Returns the value at index i as text. */
  value(i: i32): string {
    return text(this[i].value, this[i].valueLength);
  }

  /** Returns the index of a key in count settings, or -1. It allocates no strings. */
  find(count: i32, key: string): i32 {
    for (let i = 0; i < count; i++) if (equal(this[i].key, this[i].keyLength, key)) return i;
    return -1;
  }

  /**
   * Returns the value of a setting as a number: fallback if the key is not set, and NaN if the value is no
   * number. Write a check of the range as !(x >= 0), which is also true for NaN.
   */
  number(count: i32, key: string, fallback: f64): f64 {
    const i = this.find(count, key);
    return i < 0 ? fallback : this[i].number;
  }

  /**
   * Refuses the setting at index i. The text why completes the error, for example "it must be 0 to 1". The
   * function configure must return the result.
   */
  refuse(i: i32, why: string): i32 {
    say("the setting " + this.key(i) + ' is "' + this.value(i) + '"; ' + why);
    return 1;
  }
}

// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "fd_write")
declare function fd_write(file: i32, pieces: usize, count: i32, written: usize): i32;

const shortText = 1024; // UTF-16 units
const utf8Buffer = memory.data(3 * 1024);
let utf8Length: usize; // bytes

/**
 * Converts a text to UTF-8. Returns its address, which is valid until the next call, and sets utf8Length. A
 * short text is not allocated, because the runtime "minimal" does not free what a call allocates.
 */
function utf8(text: string): usize {
  if (text.length <= shortText) {
    utf8Length = String.UTF8.encodeUnsafe(changetype<usize>(text), text.length, utf8Buffer);
    return utf8Buffer;
  }
  const bytes = String.UTF8.encode(text);
  utf8Length = bytes.byteLength;
  return changetype<usize>(bytes);
}

const piece = memory.data(12); // an address, a length, and the number of bytes written

/**
 * Writes a text to the standard error. If the call fails, its error contains the first line written there.
 */
export function say(text: string): void {
  store<usize>(piece, utf8(text));
  store<u32>(piece, <u32>utf8Length, 4);
  fd_write(2, piece, 1, piece + 8);
}

// @ts-ignore: decorator
@external("whirlpool", "log")
declare function host_log(level: i32, text: usize, length: usize): void;

// @ts-ignore: decorator
@external("whirlpool", "metric")
declare function host_metric(kind: i32, name: usize, length: usize, value: f64): void;

/** The levels of log lines. */
export enum Level { DEBUG, INFO, WARN, ERROR }

/**
 * Writes a log line. The host keeps the last 100 lines of a plugin, and at most 20 lines a second. If the
 * call fails, its error contains the last line of level ERROR. If it fails by a throw or an assertion, the
 * error contains the message of the throw or assertion instead, with file and line.
 */
export function log(level: Level, text: string): void {
  const at = utf8(text);
  host_log(level, at, utf8Length);
}

/**
 * Adds a value to a counter of the plugin. The value must be finite and not negative. /metrics shows the
 * counter as whirlpool_plugin_metric{plugin,name}. A name has 1 to 64 letters, digits and underscores. A
 * plugin has at most 20 metrics.
 */
export function count(name: string, value: f64): void {
  const at = utf8(name);
  host_metric(0, at, utf8Length, value);
}

/** Sets a gauge of the plugin to a finite value. count describes the names. */
export function gauge(name: string, value: f64): void {
  const at = utf8(name);
  host_metric(1, at, utf8Length, value);
}

/**
 * Returns the result of describe: the declarations of the settings, so that the host can check and show
 * them. The text has a line for each setting. A line consists of name, type (number, integer, boolean or
 * text), range ("0..1", "0..", or for a text "fast|slow"), default and description, separated by tabs. The
 * last ones may be missing.
 */
export function describeSettings(text: string): usize {
  const bytes = String.UTF8.encode(text, true);
  return changetype<usize>(bytes);
}

/**
 * Returns the result of judge_wants: the parts of a response that the judge gets. The text has a line for
 * each part: "body 8192" (number of bytes of the body's beginning, at most 8192) or "field server" (a
 * header field, at most 32). With "status 403" or "status 500-599" the judge rules only on responses with
 * these statuses.
 */
export function judgeWants(text: string): usize {
  return describeSettings(text);
}

/**
 * Returns those header fields of a response that judge_wants names: request.fieldCount pairs. Names are in
 * lower case.
 */
export function responseFields(request: JudgeRequest): Settings {
  return changetype<Settings>(request.fields);
}

/**
 * Reports whether the beginning of a response's body contains the text lower, which must be in lower case.
 * It ignores the case of the body's letters.
 */
export function bodyHas(request: JudgeRequest, lower: string): bool {
  const wanted = String.UTF8.encode(lower);
  return has(request.body, request.bodyLength, changetype<usize>(wanted), wanted.byteLength);
}

/**
 * Reports whether the length bytes at an address contain a text of size bytes, which is in lower case. It
 * ignores the case of the letters A to Z in them.
 */
export function has(at: usize, length: i32, lower: usize, size: i32): bool {
  for (let i = 0; i + size <= length; i++) {
    let n = 0;
    while (n < size && lowerByte(load<u8>(at + i + n)) == load<u8>(lower + n)) n++;
    if (n == size) return true;
  }
  return false;
}

// @ts-ignore: decorator
@inline
function lowerByte(c: u8): u8 {
  return c - 0x41 < 26 ? c | 0x20 : c;
}

/** Returns the id of a proxy. */
export function proxyID(p: Proxy): string {
  return text(p.id, p.idLength);
}

/** Returns the region of a proxy; empty without one. */
export function proxyRegion(p: Proxy): string {
  return text(p.region, p.regionLength);
}

/** Returns the metadata of a proxy: p.metadataCount pairs. */
export function proxyMetadata(p: Proxy): Settings {
  return changetype<Settings>(p.metadata);
}

function text(at: usize, length: u32): string {
  return String.UTF8.decodeUnsafe(at, length);
}

function equal(at: usize, length: u32, s: string): bool {
  for (let i = 0; i < s.length; i++) {
    const c = s.charCodeAt(i);
    if (c > 0x7f) return text(at, length) == s;
    if (<u32>i >= length || load<u8>(at + i) != c) return false;
  }
  return s.length == length;
}

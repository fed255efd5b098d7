// SDK for plugins of the Whirlpool proxy gateway, version 1 of the contract in
// sdk/ABI.md. A plugin is a file that exports score, backoff or judge, and what every
// module must export ("whirlpool" stands for the folder of this file: where
// `whirlpool plugin new` has put it, that is "./whirlpool"):
//
//   import { Candidates, RankRequest, Scores } from "whirlpool";
//   export { reserve, whirlpool_abi_v1 } from "whirlpool";
//
//   export function score(request: RankRequest, candidates: Candidates, scores: Scores, count: i32): i32 {
//     for (let i = 0; i < count; i++) scores[i] = -candidates[i].cost;
//     return 0;
//   }
//
// The optional exports, by the same rule:
//
//   configure(settings: Settings, count: i32): i32     0; to refuse one, what settings.refuse returns
//   pool_changed(proxies: Proxies, count: i32): void   the pool, before the first call that follows a change
//   observe(observation: Observation): void            learns from an attempt; makes the plugin one instance
//   tolerance(): f64                                   scores within this fraction of the best count as equal
//   describe(): usize                                  states the settings: describeSettings(text)
//   backoff(request: BackoffRequest): f64              in score's place: the seconds to wait, 0 or more
//   judge(request: JudgeRequest, ruling: Ruling): i32  in score's place: sets ruling.kind, and returns 0
//   judge_wants(): usize                               the parts of a response that a judge gets: judgeWants(text)

import { Candidate, JudgeRequest, Pair, Proxy } from "./records";
export {
  BackoffRequest, Candidate, JudgeRequest, Kind, Observation, Pair, Proxy, RankRequest, Ruling,
} from "./records";
export { hash53, pair53, uniform } from "./hash";

/** Says what version of the contract the module was built for. */
export function whirlpool_abi_v1(): void {}

let region: usize = 0;
let room: usize = 0;

/** Room for the host's records, on the module's heap. */
export function reserve(bytes: usize): usize {
  if (bytes > room) {
    if (region) heap.free(region);
    room = max(bytes, 2 * room); // so that a runtime that never frees wastes no more than this
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

/** The scores of a call: scores[i] = s, finite, higher is better. */
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

/** Pairs sorted by key, as configure is given them: settings[i], 0 <= i < count. */
@unmanaged
export class Settings {
  // @ts-ignore: decorator
  @inline @operator("[]")
  private at(i: i32): Pair {
    return changetype<Pair>(changetype<usize>(this) + <usize>i * offsetof<Pair>());
  }

  /** The key at place i. Keys of tables inside the settings are called TABLE.KEY. */
  key(i: i32): string {
    return text(this[i].key, this[i].keyLength);
  }

  /** The value at place i, as text. */
  value(i: i32): string {
    return text(this[i].value, this[i].valueLength);
  }

  /** The place of a key among count settings; -1 without it. (It makes no strings.) */
  find(count: i32, key: string): i32 {
    for (let i = 0; i < count; i++) if (equal(this[i].key, this[i].keyLength, key)) return i;
    return -1;
  }

  /**
   * The number set for key; fallback when there is none, NaN when it is no
   * number (NaN is in no range, so a check such as !(x >= 0) refuses it).
   */
  number(count: i32, key: string, fallback: f64): f64 {
    const i = this.find(count, key);
    return i < 0 ? fallback : this[i].number;
  }

  /**
   * Refuses the setting at place i and says why, in words such as "it must be 0
   * to 1". It returns what configure is to return.
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
 * The address of a text in UTF-8, of utf8Length bytes, until the next call. A short one is not allocated: with the
 * runtime "minimal" nothing frees what a call allocates.
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

const piece = memory.data(12); // an address, a length, and how much was written

/** Says why: the first line said in a call that fails is in its error. */
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
 * Writes a log line, of which the host keeps the last 100, and at most 20 a second.
 * The last one of level ERROR in a call that fails is in its error, unless the call
 * panics (a throw, or an assertion): then the message, file and line are.
 */
export function log(level: Level, text: string): void {
  const at = utf8(text);
  host_log(level, at, utf8Length);
}

/**
 * Adds a finite value that is not negative to a counter of the plugin, on /metrics as
 * whirlpool_plugin_metric{plugin,name}. A name has 1 to 64 letters, digits and _; a
 * plugin has at most 20.
 */
export function count(name: string, value: f64): void {
  const at = utf8(name);
  host_metric(0, at, utf8Length, value);
}

/** Sets a gauge of the plugin to a finite value; for its name see count. */
export function gauge(name: string, value: f64): void {
  const at = utf8(name);
  host_metric(1, at, utf8Length, value);
}

/**
 * What describe returns: the settings, so that the host checks and shows them. A text
 * with a line for each: name, type (number, integer, boolean or text), range ("0..1",
 * "0..", or of a text "fast|slow"), default and one line about it, with tabs between
 * them. Those at the end may be left out.
 */
export function describeSettings(text: string): usize {
  const bytes = String.UTF8.encode(text, true);
  return changetype<usize>(bytes);
}

/**
 * The result of judge_wants. A text with a line for each part of a response: "body 8192" (bytes
 * of the body's beginning, at most 8192), "field server" (at most 32 names of header fields) and,
 * for a judge that rules on these statuses only, "status 403" or "status 500-599".
 */
export function judgeWants(text: string): usize {
  return describeSettings(text);
}

/** The header fields of a response that judge_wants names, request.fieldCount pairs. Names are in lower case. */
export function responseFields(request: JudgeRequest): Settings {
  return changetype<Settings>(request.fields);
}

/** Reports whether the beginning of a response's body has a text, which is in lower case; the body in any case. */
export function bodyHas(request: JudgeRequest, lower: string): bool {
  const wanted = String.UTF8.encode(lower);
  return has(request.body, request.bodyLength, changetype<usize>(wanted), wanted.byteLength);
}

/** Reports whether length bytes at an address have those of a text in lower case. Only A to Z are compared in any case. */
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

/** The id of a proxy. */
export function proxyID(p: Proxy): string {
  return text(p.id, p.idLength);
}

/** The region of a proxy; empty without one. */
export function proxyRegion(p: Proxy): string {
  return text(p.region, p.regionLength);
}

/** The metadata of a proxy, p.metadataCount pairs. */
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

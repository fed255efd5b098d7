// A judge that recognizes bans. If a response looks like a ban, its proxy rests for the target's
// host. A response looks like a ban if its status is in the setting statuses, if the beginning of
// its body contains a text of the setting body, or if it has a header field of the setting fields.
// The proxy rests for the time of the setting rest, or after a 429 with Retry-After for the time of
// that field.
import { has, JudgeRequest, Kind, responseFields, Ruling, Settings } from "../../../sdk/assemblyscript";
export { reserve, whirlpool_abi_v1 } from "../../../sdk/assemblyscript";

/** The maximum number of items of a list. */
const MOST = 31;

/** A list of texts in memory, by their addresses and sizes. */
class Texts {
  at: StaticArray<usize> = new StaticArray<usize>(MOST);
  size: StaticArray<i32> = new StaticArray<i32>(MOST);
  count: i32 = 0;

  /** Adds a text without the spaces around it. Returns false if the list is full. */
  add(from: usize, to: usize): bool {
    while (from < to && load<u8>(from) == SPACE) from++;
    while (from < to && load<u8>(to - 1) == SPACE) to--;
    if (from == to) return true;
    if (this.count == MOST) return false;
    this.at[this.count] = from;
    this.size[this.count++] = <i32>(to - from);
    return true;
  }
}

const SPACE: u8 = 0x20;
const COMMA: u8 = 0x2c;
const COLON: u8 = 0x3a;

let statuses = new StaticArray<i32>(MOST);
let statusCount = 2;
statuses[0] = 403;
statuses[1] = 429;
const names = new Texts(); // the names in the setting fields; each of them has a value
const values = new Texts();
let rest: f64 = 600;

/**
 * A finite automaton that finds the texts of the setting body, so that each byte of a body takes the same
 * fuel. It has the next state for each state and byte (Aho and Corasick, "Efficient string matching",
 * 1975). State 0 is the first one.
 */
let states = 0;
let next: usize = 0; // address of the automaton: 256 u16 for each state; FOUND is set if a text ends at the next state

const FOUND: u16 = 0x8000;

/** The maximum number of bytes of all texts together. */
const MOST_BYTES = 2000;

const settings = String.UTF8.encode(
  "statuses\ttext\t\t403,429\tstatuses of a ban; a list of at most 31\n" +
  "body\ttext\t\t\ttexts in the first 8 KiB of a body, in any case; a list of at most 31, of 2000 bytes together\n" +
  "fields\ttext\t\t\theader fields, NAME: TEXT for a value with that text; a list of at most 31\n" +
  "rest\tnumber\t1..86400\t600\tseconds that the proxy rests for the target's host\n", true);

export function describe(): usize {
  return changetype<usize>(settings);
}

export function configure(settings: Settings, count: i32): i32 {
  for (let i = 0; i < count; i++) {
    const p = settings[i];
    const first = load<u8>(p.key);
    if (first == 0x72) { // rest
      rest = p.number;
      continue;
    }
    const list = new Texts();
    if (!split(list, p.value, p.valueLength)) return settings.refuse(i, "it must have at most 31 items");
    if (first == 0x73) { // statuses
      for (let n = 0; n < list.count; n++) {
        statuses[n] = status(list.at[n], list.size[n]);
        if (statuses[n] < 100) return settings.refuse(i, "it must be statuses from 100 to 999");
      }
      statusCount = list.count;
    } else if (first == 0x62) { // body
      let bytes = 0;
      for (let n = 0; n < list.count; n++) bytes += list.size[n];
      if (bytes > MOST_BYTES) return settings.refuse(i, "it must have at most 2000 bytes");
      if (bytes > 0) build(list, bytes);
    } else {
      for (let n = 0; n < list.count; n++) {
        const end = list.at[n] + list.size[n];
        let colon = list.at[n];
        while (colon < end && load<u8>(colon) != COLON) colon++;
        names.add(list.at[n], colon);
        if (names.count != n + 1 || colon == end) return settings.refuse(i, "it must be NAME: TEXT");
        values.at[n] = colon + 1;
        values.size[n] = 0;
        values.count = n;
        values.add(colon + 1, end); // for an empty text nothing is added; every value contains it
        values.count = n + 1;
      }
    }
  }
  return 0;
}

/** Builds the automaton of texts that have that many bytes together. */
function build(texts: Texts, bytes: i32): void {
  next = heap.alloc((bytes + 1) << 9);
  memory.fill(next, 0, (bytes + 1) << 9);
  const found = new StaticArray<bool>(bytes + 1); // by state: true if a text ends there
  states = 1;
  for (let n = 0; n < texts.count; n++) {
    let state = 0;
    for (let i = 0; i < texts.size[n]; i++) {
      const at = entry(state, load<u8>(texts.at[n] + i));
      if (load<u16>(at) == 0) {
        store<u16>(at, <u16>states);
        states++;
      }
      state = load<u16>(at);
    }
    found[state] = true;
  }
  // Each state gets its missing entries from the state of its longest proper suffix, in the order
  // of their depth.
  const queue = new StaticArray<i32>(states);
  const suffix = new StaticArray<i32>(states);
  let end = 0;
  for (let c = 0; c < 256; c++) {
    const child = load<u16>(entry(0, <u8>c));
    if (child != 0) queue[end++] = child;
  }
  for (let begin = 0; begin < end; begin++) {
    const state = queue[begin];
    for (let c = 0; c < 256; c++) {
      const at = entry(state, <u8>c);
      const other = load<u16>(entry(suffix[state], <u8>c));
      const child = load<u16>(at);
      if (child == 0) {
        store<u16>(at, other);
        continue;
      }
      suffix[child] = other;
      found[child] = found[child] || found[other];
      queue[end++] = child;
    }
  }
  for (let state = 0; state < states; state++) {
    for (let c = 0; c < 256; c++) {
      const at = entry(state, <u8>c);
      if (found[load<u16>(at)]) store<u16>(at, load<u16>(at) | FOUND);
    }
    // Upper case letters lead to the same states as lower case letters.
    memory.copy(entry(state, 0x41), entry(state, 0x61), 2 * 26);
  }
}

// @ts-ignore: decorator
@inline
function entry(state: i32, byte: u8): usize {
  return next + (<usize>state << 9) + (<usize>byte << 1);
}

/**
 * Copies a list in lower case and splits the copy at the commas. Returns false if there are too many items.
 */
function split(to: Texts, at: usize, length: i32): bool {
  const copy = heap.alloc(length + 1);
  let from = copy;
  for (let i = 0; i < length; i++) {
    const c = load<u8>(at + i);
    store<u8>(copy + i, c - 0x41 < 26 ? c | 0x20 : c);
    if (c != COMMA) continue;
    if (!to.add(from, copy + i)) return false;
    from = copy + i + 1;
  }
  return to.add(from, copy + length);
}

/** Returns the number that three digits stand for, or 0 if the text is not three digits. */
function status(at: usize, size: i32): i32 {
  let n = 0;
  for (let i = 0; i < size; i++) {
    const digit = load<u8>(at + i) - 0x30;
    if (digit > 9) return 0;
    n = 10 * n + digit;
  }
  return size == 3 ? n : 0;
}

let wants: usize = 0;
let end: usize = 0;

function write(text: ArrayBuffer): void {
  memory.copy(end, changetype<usize>(text), text.byteLength);
  end += text.byteLength;
}

export function judge_wants(): usize {
  wants = end = heap.alloc(8192);
  write(String.UTF8.encode("field retry-after\n"));
  for (let i = 0; i < names.count; i++) {
    write(String.UTF8.encode("field "));
    memory.copy(end, names.at[i], min(names.size[i], 100)); // the host refuses longer names
    end += min(names.size[i], 100);
    write(String.UTF8.encode("\n"));
  }
  if (states > 0) write(String.UTF8.encode("body 8192\n"));
  for (let i = 0; states + names.count == 0 && i < statusCount; i++) {
    write(String.UTF8.encode("status "));
    for (let unit = 100; unit > 0; unit /= 10) store<u8>(end++, <u8>(0x30 + (statuses[i] / unit) % 10));
    write(String.UTF8.encode("\n"));
  }
  store<u8>(end, 0);
  return wants;
}

export function judge(request: JudgeRequest, ruling: Ruling): i32 {
  let banned = false;
  for (let i = 0; i < statusCount; i++) banned = banned || statuses[i] == <i32>request.status;
  if (!banned && !marked(request)) return 0;
  ruling.kind = Kind.BANNED;
  ruling.rest = rest;
  const asked = responseFields(request).number(request.fieldCount, "retry-after", 0);
  if (request.status == 429 && asked >= 1) ruling.rest = asked;
  return 0;
}

/** Reports whether a response has one of the configured texts or fields. */
function marked(request: JudgeRequest): bool {
  const pairs = responseFields(request);
  for (let i = 0; i < request.fieldCount; i++) {
    const p = pairs[i];
    for (let n = 0; n < names.count; n++) {
      if (<i32>p.keyLength == names.size[n] && memory.compare(p.key, names.at[n], p.keyLength) == 0 &&
        has(p.value, p.valueLength, values.at[n], values.size[n])) return true;
    }
  }
  if (states == 0) return false;
  const end = request.body + request.bodyLength;
  let state: usize = next;
  for (let at = request.body; at < end; at++) {
    const to = load<u16>(state + (<usize>load<u8>(at) << 1));
    if (to & FOUND) return true;
    state = next + (<usize>to << 9);
  }
  return false;
}

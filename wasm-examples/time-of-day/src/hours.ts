/**
 * Reads the hours of a text such as "8-20" or "6-9, 20-2", and returns one bit for each hour; 0 if the text
 * is invalid. A range includes its first hour, but not its second. If the second hour is smaller, the range
 * continues after midnight. "0-24" is the whole day. The function reads the bytes in the host's records. In
 * a large pool, a string for each proxy would cost more fuel than a call has.
 */
export function parseHours(text: usize, length: u32): u32 {
  at = text;
  end = text + length;
  let bits: u32 = 0;
  do {
    const from = hour();
    if (!take(0x2d)) return 0; // -
    const to = hour();
    if (from < 0 || from > 23 || to < 0 || from == to) return 0;
    let h = from;
    do {
      bits |= 1 << h;
      h = (h + 1) % 24;
    } while (h != to % 24);
  } while (take(0x2c)); // ,
  return at == end ? bits : 0;
}

let at: usize = 0;
let end: usize = 0;

/** Reads a number from 0 to 24 with spaces around it. Returns -1 if there is none. */
function hour(): i32 {
  while (take(0x20)) {}
  let n = -1;
  while (at < end && load<u8>(at) - 0x30 < 10) {
    n = 10 * max(n, 0) + load<u8>(at++) - 0x30;
    if (n > 24) return -1;
  }
  while (take(0x20)) {}
  return n;
}

/** Reads the character c if it is the next one, and reports whether it was. */
function take(c: u8): bool {
  if (at == end || load<u8>(at) != c) return false;
  at++;
  return true;
}

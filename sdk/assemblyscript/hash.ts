/** The hashes of the contract, and random numbers. */

/**
 * Returns the 53-bit hash of a text: idHash is the hash of a proxy's id, hostHash of a host (in lower
 * case, without the port), regionHash of a region (in lower case). The hash is FNV-1a with
 * the finalizer of MurmurHash3.
 */
export function hash53(text: string): f64 {
  const bytes = Uint8Array.wrap(String.UTF8.encode(text));
  let h: u64 = 0xcbf29ce484222325;
  for (let i = 0; i < bytes.length; i++) h = (h ^ bytes[i]) * 0x100000001b3;
  return mix53(h);
}

/** Combines two hashes into one: affinityHash is pair53(idHash, hostHash). */
export function pair53(a: f64, b: f64): f64 {
  return mix53(<u64>a * 0x9e3779b97f4a7c15 + <u64>b);
}

function mix53(h: u64): f64 {
  h = (h ^ (h >> 33)) * 0xff51afd7ed558ccd;
  h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53;
  return <f64>((h ^ (h >> 33)) >> 11);
}

/**
 * Returns a random number in (0, 1], uniformly distributed, for one row of a call with a seed: SplitMix64
 * (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
 */
// @ts-ignore: decorator
@inline
export function uniform(seed: f64, row: i32): f64 {
  let z = reinterpret<u64>(seed) + <u64>(row + 1) * 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  z ^= z >> 31;
  return <f64>((z >> 11) + 1) * (1.0 / 9007199254740992.0);
}

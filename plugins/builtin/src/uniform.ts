/**
 * Uniform in (0, 1] for one row, from the call's seed: SplitMix64, Steele, Lea
 * and Flood, "Fast Splittable Pseudorandom Number Generators" (2014).
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

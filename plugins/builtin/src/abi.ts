// What every built-in shares: the records of the SDK, and a reserve for modules
// that have no heap.
export { BackoffRequest, Candidate, RankRequest } from "../../../sdk/assemblyscript/records";

/** Size of a Candidate in bytes. */
export const ROW: usize = 128;

export function whirlpool_abi_v1(): void {}

/** Room for bytes behind the module's own data; 0 if memory does not reach. */
export function reserve(bytes: i32): usize {
  const start = (__heap_base + 7) & ~7;
  const missing = <i32>((start + bytes + 0xffff) >>> 16) - memory.size();
  if (missing > 0 && memory.grow(missing) < 0) return 0;
  return start;
}

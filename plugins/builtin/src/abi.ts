// The declarations that all built-ins need: the records of the SDK, and a function reserve for
// modules without a heap.
export { BackoffRequest, Candidate, RankRequest } from "../../../sdk/assemblyscript/records";

/** Size of a Candidate in bytes. */
export const ROW: usize = 128;

export function whirlpool_abi_v1(): void {}

/**
 * Returns the address of a region of that many bytes after the module's own data; 0 if the memory cannot
 * grow enough.
 */
export function reserve(bytes: i32): usize {
  const start = (__heap_base + 7) & ~7;
  const missing = <i32>((start + bytes + 0xffff) >>> 16) - memory.size();
  if (missing > 0 && memory.grow(missing) < 0) return 0;
  return start;
}

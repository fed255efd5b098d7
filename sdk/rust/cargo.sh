#!/usr/bin/env bash
# Runs cargo from a Rust toolchain that can build plugins: that of $RUSTC, that in the
# PATH (such as rustup's), or Debian's. It uses the first of these that has the library
# of wasm32-unknown-unknown.
set -euo pipefail
for rustc in "${RUSTC:-rustc}" /usr/bin/rustc; do
  rustc=$(command -v "$rustc") || continue
  if [ -d "$("$rustc" --print target-libdir --target wasm32-unknown-unknown 2>/dev/null)" ]; then
    # with the rustdoc beside it
    PATH=$(dirname "$rustc"):$PATH RUSTC=$rustc exec "$(dirname "$rustc")/cargo" "$@"
  fi
done
echo "no Rust toolchain here has wasm32-unknown-unknown; either
  apt-get install cargo libstd-rust-dev-wasm32 lld
  rustup target add wasm32-unknown-unknown" >&2
exit 1

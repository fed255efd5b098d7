#!/usr/bin/env bash
# build.sh DIR writes empty-pages.wasm into DIR. $CLANG names another clang.
set -euo pipefail
out=$(cd "${1:?the directory to write to}" && pwd)
cd "$(dirname "$0")"

clang=${CLANG:-clang}
if ! "$clang" --print-targets 2>/dev/null | grep -q wasm32 || ! command -v "$("$clang" --print-prog-name=wasm-ld)" >/dev/null; then
  echo "this needs clang and its linker for WebAssembly: apt-get install clang lld" >&2
  exit 1
fi
"$clang" --target=wasm32 -ffreestanding -nostdlib -O2 -mbulk-memory -Wall -Wextra -Werror \
  -Wl,--no-entry -Wl,-z,stack-size=16384 -Wl,--strip-all \
  -I ../../sdk/c -o "$out/empty-pages.wasm" src/empty-pages.c

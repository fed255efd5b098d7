#!/usr/bin/env bash
# build.sh DIR writes near-and-idle.wasm into DIR. It needs zig 0.17.1, or python3 with venv, which fetches it.
set -euo pipefail
out=$(cd "${1:?the directory to write to}" && pwd)
cd "$(dirname "$0")"

cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT
../../sdk/zig/zig.sh build-exe -target wasm32-freestanding -O ReleaseSafe -fno-entry -rdynamic -fstrip --stack 16384 \
  --cache-dir "$cache" --dep whirlpool.zig -Mroot=src/near-and-idle.zig -Mwhirlpool.zig=../../sdk/zig/whirlpool.zig \
  -femit-bin="$out/near-and-idle.wasm"

#!/usr/bin/env bash
# build.sh DIR writes from-the-page.wasm into DIR.
set -euo pipefail
out=$(cd "${1:?the directory to write to}" && pwd)
cd "$(dirname "$0")"

command -v wat2wasm >/dev/null || { echo "this needs wat2wasm: apt-get install wabt" >&2; exit 1; }
wat2wasm src/from-the-page.wat -o "$out/from-the-page.wasm"

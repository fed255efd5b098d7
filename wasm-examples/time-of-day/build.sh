#!/usr/bin/env bash
# build.sh DIR writes time-of-day.wasm into DIR.
set -euo pipefail
out=$(cd "${1:?the directory to write to}" && pwd)
cd "$(dirname "$0")"

../../sdk/assemblyscript/asc.sh src/time-of-day.ts --outFile "$out/time-of-day.wasm" -O3 --runtime minimal

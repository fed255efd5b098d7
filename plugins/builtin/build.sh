#!/usr/bin/env bash
# Builds the built-in plugins with the compiler that the SDK pins.
#   build.sh          writes the .wasm files beside this script
#   build.sh --check  fails if what is committed is not what the source gives
set -euo pipefail
cd "$(dirname "$0")"

out=.
if [ "${1-}" = --check ]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi

for name in exponential linear fixed decorrelated_jitter \
            performance round_robin random weighted least_in_flight cost_aware; do
  ../../sdk/assemblyscript/asc.sh "src/$name.ts" --outFile "$out/$name.wasm" \
    -O3 --converge --noAssert --runtime stub --use abort= --noColors
  if [ "$out" != . ]; then
    cmp "$name.wasm" "$out/$name.wasm" ||
      { echo "$name.wasm is not what src/$name.ts gives; run: make builtins" >&2; exit 1; }
  fi
done

#!/usr/bin/env bash
# Builds the built-in plugins. The compiler is the one package-lock.json names,
# so everyone gets the same bytes.
#   build.sh          writes the .wasm files beside this script
#   build.sh --check  fails if what is committed is not what the source gives
set -euo pipefail
cd "$(dirname "$0")"

out=.
if [ "${1-}" = --check ]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi

pinned=$(node -p 'require("./package-lock.json").packages["node_modules/assemblyscript"].version')
installed=$(node -p 'require("./node_modules/assemblyscript/package.json").version' 2>/dev/null || true)
[ "$installed" = "$pinned" ] || npm ci --no-audit --no-fund --silent

for name in exponential linear fixed decorrelated_jitter \
            performance round_robin random weighted least_in_flight cost_aware; do
  node node_modules/assemblyscript/bin/asc.js "src/$name.ts" --outFile "$out/$name.wasm" \
    -O3 --converge --noAssert --runtime stub --use abort= --noColors
  if [ "$out" != . ]; then
    cmp "$name.wasm" "$out/$name.wasm" ||
      { echo "$name.wasm is not what src/$name.ts gives; run: make builtins" >&2; exit 1; }
  fi
done

#!/usr/bin/env bash
# Runs the AssemblyScript compiler that package-lock.json names, so that everyone
# gets the same bytes. If it is missing, the script installs it in its own folder.
set -euo pipefail
sdk=$(cd "$(dirname "$0")" && pwd)
command -v npm >/dev/null || { echo "this needs node 20 or later, and npm" >&2; exit 1; }

version() { (cd "$sdk" && node -p "$1" 2>/dev/null) || true; }
( # one at a time: tests build side by side
  flock 9
  pinned=$(version 'require("./package-lock.json").packages["node_modules/assemblyscript"].version')
  installed=$(version 'require("./node_modules/assemblyscript/package.json").version')
  [ "$installed" = "$pinned" ] || (cd "$sdk" && npm ci --no-audit --no-fund --loglevel=error >/dev/null)
) 9<"$sdk/package-lock.json"
exec node "$sdk/node_modules/assemblyscript/bin/asc.js" "$@"

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

modules=(exponential linear fixed decorrelated_jitter adaptive
         performance round_robin random weighted least_in_flight cost_aware exploring none ban_like)

../../sdk/assemblyscript/asc.sh --version >/dev/null # installs it
# All in one process: the compiler takes longer to start than to compile.
node --input-type=module - "$out" "${modules[@]}" <<'END'
import { main } from "./../../sdk/assemblyscript/node_modules/assemblyscript/dist/asc.js";
const [out, ...modules] = process.argv.slice(2);
for (const name of modules) {
  const { error, stderr } = await main([`src/${name}.ts`, "--outFile", `${out}/${name}.wasm`,
    "-O3", "--converge", "--noAssert", "--runtime", "stub", "--use", "abort=", "--noColors"]);
  if (error) {
    console.error(`${error.message}\n${stderr}`);
    process.exit(1);
  }
}
END

[ "$out" = . ] || for name in "${modules[@]}"; do
  cmp "$name.wasm" "$out/$name.wasm" ||
    { echo "$name.wasm is not what src/$name.ts gives; run: make builtins" >&2; exit 1; }
done

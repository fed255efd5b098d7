#!/usr/bin/env bash
# build.sh DIR writes cheapest-that-works.wasm into DIR.
set -euo pipefail
out=$(cd "${1:?the directory to write to}" && pwd)
cd "$(dirname "$0")"

export CARGO_TARGET_DIR=$(mktemp -d)
trap 'rm -rf "$CARGO_TARGET_DIR"' EXIT
../../sdk/rust/cargo.sh build --quiet --offline --locked --release --target wasm32-unknown-unknown
cp "$CARGO_TARGET_DIR/wasm32-unknown-unknown/release/cheapest_that_works.wasm" "$out/cheapest-that-works.wasm"

#!/bin/sh
# build.sh DIR writes patient-bans.wasm into DIR.
set -eu
out=$(cd "${1:?the directory to write to}" && pwd)
cd "$(dirname "$0")"
GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -trimpath -ldflags='-s -w' -o "$out/patient-bans.wasm" .

#!/bin/sh
# Runs zig: the one in the PATH, or else that of PyPI's package ziglang, which is installed the first time.
set -e
version=0.17.1
command -v zig >/dev/null && [ "$(zig version)" = "$version" ] && exec zig "$@"
venv="${ZIG_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/whirlpool/ziglang-$version}"
if [ ! -e "$venv/ready" ]; then
  echo "fetching zig $version (PyPI's ziglang) into $venv" >&2
  python3 -m venv "$venv" >&2
  "$venv/bin/pip" install --quiet --disable-pip-version-check "ziglang==$version" >&2
  : >"$venv/ready"
fi
exec "$venv/bin/python" -m ziglang "$@"

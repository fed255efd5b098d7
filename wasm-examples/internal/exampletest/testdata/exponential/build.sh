#!/bin/sh
# Stands in for an example: the built-in of that name.
exec cp ../../../../../plugins/builtin/exponential.wasm "$1"
